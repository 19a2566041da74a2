"""What ends a run in its midst, in one line that says what is safe and how to go on."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from pytorch_lightning import Callback, Trainer

from dcgan_inpaint.models.base import Model

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class NotFinite(Exception):
    """A network of a training holds what is no number."""


class Stopped(BaseException):
    """The process was told to end.  Like KeyboardInterrupt nothing catches it on its way."""


@contextmanager
def stops_in_one_line(how_to_go_on: Callable[[], str]) -> Iterator[None]:
    """End the program when it is told to: exit code 128 + the signal's number.

    `how_to_go_on` says so by what is there at the end.
    """

    told: list[int] = []

    def stop(number: int, _: FrameType | None) -> None:
        told.append(number)
        raise Stopped

    before = {number: signal.signal(number, stop) for number in SIGNALS}
    try:
        yield
    except BaseException:
        if not told:
            raise
        # Stopped, or what a library made of it on its way, as pydantic does
        print(f"{signal.Signals(told[0]).name}: {how_to_go_on()}", file=sys.stderr)
        sys.exit(128 + told[0])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def ends_in_one_line(how_to_go_on: Callable[[], str]) -> Iterator[None]:
    """End the program for a fault that is no bug, with exit code 1, and when it is told to.

    For what a run does once it has begun.
    """
    try:
        with stops_in_one_line(how_to_go_on):
            yield
    except (NotFinite, OSError) as error:  # the latter of a disk that is full or gone
        sys.exit(f"error: {error}; {how_to_go_on()}")


class Finite(Callback):
    """Ends a training whose weights are no longer finite, at the next log and before a checkpoint
    of them is written: last.ckpt stays that of the epoch before."""

    def on_train_batch_end(self, trainer: Trainer, module: Model, *_: object) -> None:
        if module.logs_now:
            self._check(module)

    def on_save_checkpoint(self, trainer: Trainer, module: Model, *_: object) -> None:
        self._check(module)

    def _check(self, module: Model) -> None:
        state = module.state_dict(keep_vars=True).items()
        broken = [name for name, values in state if not values.isfinite().all()]
        if broken:
            networks = ", ".join(dict.fromkeys(name.split(".")[0] for name in broken))
            raise NotFinite(
                f"after iteration {module.iteration} there is no finite {networks}: lower model.lr"
            )
