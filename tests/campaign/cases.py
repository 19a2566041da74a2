"""Cases of the fault-injection campaign, and the script processes that they start."""

import functools
import os
import random
import runpy
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import torch

PROJECT = Path(__file__).resolve().parents[2]


class CheckFailed(Exception):
    """A check of a case fails; the message says which."""


class CaseSkipped(Exception):
    """A case cannot run on this machine; the message says why."""


def require(condition: object, message: str) -> None:
    """Raise CheckFailed with the message unless the condition is true."""
    if not condition:
        raise CheckFailed(message)


class ScriptResult(NamedTuple):
    """Exit code of a script, or minus the number of the signal that killed it, and its output."""

    command: str
    code: int
    out: str
    err: str

    def require(self, condition: object, message: str) -> None:
        """Raise CheckFailed with the message and the end of stderr unless the condition is true."""
        if not condition:
            details = f"exit code {self.code} of {self.command}\n{self.err[-1500:]}"
            raise CheckFailed(f"{message}; {details}")

    def check_success(self) -> None:
        self.require(self.code == 0 and "Traceback" not in self.err, "the script failed")

    def check_one_line(self, *names: str, code: int = 1) -> None:
        """Require that the script ends in one line that contains all names, without a traceback."""
        lines = self.err.splitlines() or [""]
        self.require(self.code == code, f"expected exit code {code}")
        self.require("Traceback" not in self.out + self.err, "there is a traceback")
        if code == 1:
            errors = [line for line in lines if line.startswith("error: ")]
            self.require(len(errors) == 1 and lines[-1] == errors[0], "expected one error line")
        for name in names:
            self.require(name in lines[-1], f"the last line does not contain {name}")


class RunningScript:
    """A script that runs in a process of its own."""

    def __init__(self, pid: int, command: str, out: Path, err: Path):
        self.pid, self.command, self.out, self.err = pid, command, out, err
        self.status: int | None = None

    def is_running(self) -> bool:
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.status = status if pid else None
        return self.status is None

    def send(self, number: int) -> None:
        """Send a signal if the script still runs."""
        if self.is_running():
            os.kill(self.pid, number)

    def wait_for(self, condition: Callable[[], object]) -> None:
        """Wait until the condition is true or the script has ended."""
        while self.is_running() and not condition():
            time.sleep(0.0003)

    def wait(self) -> ScriptResult:
        if self.status is None:
            self.status = os.waitpid(self.pid, 0)[1]
        code = os.waitstatus_to_exitcode(self.status)
        # File names and other inputs in the output need not be valid UTF-8.
        out, err = (path.read_bytes().decode(errors="replace") for path in (self.out, self.err))
        return ScriptResult(self.command, code, out, err)


class Case:
    """One case: its random numbers, its directories, and the scripts that it runs.

    Args:
        family: name of the family.
        number: number of the case in its family.
        seed: seed of the campaign; (seed, family, number) determines all random numbers.
        directory: new directory of the case.
        shared: directory of the reference runs (reference_runs.py).
    """

    def __init__(self, family: str, number: int, seed: int, directory: Path, shared: Path):
        self.number, self.directory, self.shared = number, directory, shared
        self.rng = random.Random(f"{seed} {family} {number}")
        self.cwd, self.inputs = directory / "cwd", directory / "inputs"
        self.descriptions: list[str] = []
        self.script_count = 0
        for path in (self.cwd, self.inputs):
            path.mkdir(parents=True)

    def describe(self, description: object) -> None:
        """Add to the description of the case, which a failure shows."""
        self.descriptions.append(str(description))

    def start(self, *command: object, before: Callable[[], None] | None = None) -> RunningScript:
        """Start a script with its arguments; its process calls `before` first."""
        words = [str(word) for word in command]
        self.script_count += 1
        out, err = (self.directory / f"{self.script_count}.{name}" for name in ("out", "err"))
        sys.stdout.flush()
        sys.stderr.flush()
        if not (pid := os.fork()):
            _run_script(words, self.cwd, (out, err), before)
        return RunningScript(pid, " ".join(words), out, err)

    def run(self, *command: object, before: Callable[[], None] | None = None) -> ScriptResult:
        """Run a script with its arguments to its end."""
        return self.start(*command, before=before).wait()

    def check_refused(self, result: ScriptResult, *names: str) -> None:
        """Require one error line that contains all names, and that no file was written."""
        result.check_one_line(*names)
        written = [str(path.relative_to(self.cwd)) for path in self.cwd.rglob("*")]
        result.require(not written, f"{written} was written")


def _run_script(
    words: list[str], cwd: Path, streams: Sequence[Path], before: Callable[[], None] | None
) -> NoReturn:
    """Turn this process into `python <words>`, started in the directory `cwd`."""
    code: Any = 1
    try:
        os.chdir(cwd)
        for number, path in enumerate(streams, 1):
            os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND), number)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.argv = words
        if before is not None:
            before()
        runpy.run_path(str(PROJECT / words[0]), run_name="__main__")
        code = 0
    except SystemExit as stop:  # handled as the interpreter does
        code = stop.code or 0
        if not isinstance(code, int):
            print(code, file=sys.stderr)
            code = 1
    except BaseException:
        traceback.print_exc()
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):  # the script has ended: ignore late signals
            signal.signal(number, signal.SIG_IGN)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def use_threads(count: int) -> Callable[[], None]:
    """Return a function for `before=` that sets the number of torch's threads."""
    return functools.partial(torch.set_num_threads, count)


# Audit events of the interpreter that change files.
FILE_CHANGES = {
    *("open", "os.rename", "os.remove", "os.link", "os.mkdir", "os.rmdir", "os.truncate"),
}


def count_changes(root: Path, count_file: Path, kill_at: int = 0) -> Callable[[], None]:
    """Return a function for `before=` that counts the changes to files below a directory.

    Args:
        root: the directory.
        count_file: file for the count.
        kill_at: kill the process with SIGKILL just before this change, counted from 1; 0: never.
    """

    def install() -> None:
        file, count = os.open(count_file, os.O_CREAT | os.O_WRONLY), 0
        prefix = os.fsencode(root)

        def hook(event: str, arguments: tuple) -> None:
            nonlocal count
            if event not in FILE_CHANGES or isinstance(arguments[0], int):
                return
            if event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR):
                return
            if os.fsencode(arguments[0]).startswith(prefix):
                count += 1
                if count == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)
                os.pwrite(file, b"%8d" % count, 0)

        sys.addaudithook(hook)

    return install
