"""A run that is stopped, or whose numbers are none, ends in one line; what was written is whole."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader
from training import quiet_trainer

from dcgan_inpaint.cli.entry_point import door
from dcgan_inpaint.models.dcgan import DCGAN
from dcgan_inpaint.runs.faults import Finite, NotFinite, ends_in_one_line


def test_a_signal_that_a_library_makes_an_error_of(capsys):
    """As pydantic does while it builds a schema."""
    with pytest.raises(SystemExit) as stop, ends_in_one_line(lambda: "resume=here goes on"):
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        except BaseException as error:
            raise RuntimeError("no schema") from error
    assert stop.value.code == 130
    assert capsys.readouterr().err == "SIGINT: resume=here goes on\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal(number, capsys):
    handler = signal.getsignal(number)
    with pytest.raises(SystemExit) as stop, ends_in_one_line(lambda: "resume=here goes on"):
        os.kill(os.getpid(), number)
        time.sleep(5)
    assert stop.value.code == 128 + number
    assert capsys.readouterr().err == f"{number.name}: resume=here goes on\n"
    assert signal.getsignal(number) == handler


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_before_the_run_begins(number, capsys, monkeypatch):
    """Or after it has ended; what Hydra says of its errors is not about this."""

    @door("sample")
    def main(cfg):
        os.kill(os.getpid(), number)
        time.sleep(5)

    monkeypatch.setattr(sys, "argv", ["sample.py"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 128 + number
    assert capsys.readouterr().err == (
        f"{number.name}: nothing was cut off: give the same command again\n"
    )


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), NotFinite("G is not")])
def test_a_fault(error):
    with pytest.raises(SystemExit, match="go on") as stop, ends_in_one_line(lambda: "go on"):
        raise error
    assert str(stop.value.code).startswith("error: ")


def test_a_bug_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError), ends_in_one_line(lambda: "go on"):
        1 / 0  # noqa: B018


@pytest.mark.parametrize("where", ["generator", "discriminator"])
def test_not_finite(tmp_path, where):
    """Found at the next log, and no checkpoint of it is written."""
    model = DCGAN(image_size=16, gf_dim=1, df_dim=1, z_dim=3)
    data = DataLoader([{"image": torch.zeros(4, 3, 16, 16)}] * 4, batch_size=None)
    trainer = quiet_trainer(max_epochs=1, callbacks=[Finite()], log_every_n_steps=2)
    step, count = model.training_step, iter(range(100))

    def broken(*args):
        step(*args)
        if next(count) == 2:
            next(getattr(model, where).parameters()).data.fill_(float("nan"))

    model.training_step = broken
    with pytest.raises(
        NotFinite, match=f"iteration 4 there is no finite .*{where}.*lower model.lr"
    ):
        trainer.fit(model, data)
    with pytest.raises(NotFinite):
        trainer.save_checkpoint(tmp_path / "last.ckpt")
    assert not (tmp_path / "last.ckpt").exists()


def test_a_stopped_training_says_how_to_go_on(tmp_path):
    small = ["data.image_size=16", "data.train_size=64", "data.val_size=4", "data.test_size=4"]
    small += ["model.gf_dim=1", "model.df_dim=1", "batch_size=4", "trainer.max_epochs=10000"]
    small += ["trainer.accelerator=cpu", "preview=0", "validate=0", "sample_metrics=0"]
    run = tmp_path / "run"
    command = [sys.executable, "train.py", *small, f"cache_dir={tmp_path}", f"output={run}"]
    training = subprocess.Popen(
        command,
        cwd=Path(__file__).parents[1],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    while not (run / "last.ckpt").exists():
        assert training.poll() is None
        time.sleep(0.1)
    training.terminate()
    _, said = training.communicate(timeout=60)
    assert training.returncode == 143
    assert "Traceback" not in said
    assert said.count("GPU available") == 1  # one line of the device, and no advertisement
    assert not any(word in said for word in ("TPU", "Tip", "litlogger"))
    assert said.splitlines()[-1] == f"SIGTERM: resume={run / 'last.ckpt'} goes on"
    assert torch.load(run / "last.ckpt")["iteration"] > 0
