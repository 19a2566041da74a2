"""Signals and failures end a run with one line (errors.py); its files stay complete."""

import os
import pwd
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from dcgan_inpaint.cli import entry_point
from dcgan_inpaint.errors import exit_on_failure, format_count, one_line_errors

PROJECT = Path(__file__).parents[1]


def test_number_and_noun_agree():
    assert [format_count(n, "image") for n in (0, 1, 2)] == ["0 images", "1 image", "2 images"]


def test_closed_pipe_does_not_end_a_program():
    """As in `python train.py | head -c 0`; the path printed is not UTF-8."""
    code = (
        "import sys; from dcgan_inpaint.errors import tolerate_closed_pipes as tolerate\n"
        "tolerate(); print('a\\udcff', flush=True); sys.stdin.read()\n"
        "print('x' * 10**6, flush=True); print('more'); print('done', file=sys.stderr)"
    )
    command = [sys.executable, "-c", code]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, cwd=PROJECT) as process:
        assert process.stdout.readline() == b"a\xff\n"
        process.stdout.close()
        process.stdin.close()
        assert process.stderr.read() == b"done\n"
    assert process.returncode == 0


def test_path_in_the_home_of_a_user_without_one_is_one_error_line(monkeypatch):
    def unknown(uid):
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    expected = "error: ~: this user has no home directory"
    with pytest.raises(SystemExit, match=expected), one_line_errors():
        Path("~/photo.jpg").expanduser()
    with pytest.raises(RuntimeError, match="a bug"), one_line_errors():
        raise RuntimeError("a bug")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_the_run_with_one_line(number, capsys):
    handler = signal.getsignal(number)
    with pytest.raises(SystemExit) as stop, exit_on_failure(lambda: "how to continue"):
        os.kill(os.getpid(), number)
        time.sleep(5)
    assert stop.value.code == 128 + number
    assert capsys.readouterr().err == f"{number.name}: how to continue\n"
    assert signal.getsignal(number) == handler


def test_signal_that_a_library_converts_to_an_error_ends_the_run_with_one_line(capsys):
    """pydantic does so while it builds a schema."""
    with pytest.raises(SystemExit) as stop, exit_on_failure(lambda: "how to continue"):
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        except BaseException as error:
            raise RuntimeError("no schema") from error
    assert stop.value.code == 130
    assert capsys.readouterr().err == "SIGINT: how to continue\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_before_the_run_starts_says_to_repeat_the_command(number, capsys, monkeypatch):
    """Only the script's own line is compared, not what Hydra prints about errors."""

    def interrupted(*_):
        os.kill(os.getpid(), number)
        time.sleep(5)

    monkeypatch.setattr(entry_point, "run_config", interrupted)
    monkeypatch.setattr(sys, "argv", ["sample.py"])
    with pytest.raises(SystemExit) as stop:
        entry_point.sample()
    assert stop.value.code == 128 + number
    expected = f"{number.name}: nothing was written. Run the same command again\n"
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), FloatingPointError("not finite")]
)
def test_failure_ends_the_run_with_one_line(error):
    with pytest.raises(SystemExit) as stop, exit_on_failure(lambda: "how to continue"):
        raise error
    assert stop.value.code == f"error: {error}; how to continue"


def test_bug_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError), exit_on_failure(lambda: "how to continue"):
        1 / 0  # noqa: B018


@pytest.mark.slow
def test_stopped_training_leaves_a_checkpoint_and_says_how_to_resume(tmp_path):
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
    _, stderr = training.communicate(timeout=60)
    assert training.returncode == 143
    assert "Traceback" not in stderr
    assert stderr.count("GPU available") == 1  # one line about the devices, no advertisement
    assert not any(word in stderr for word in ("TPU", "Tip", "litlogger"))
    assert stderr.splitlines()[-1] == f"SIGTERM: resume={run / 'last.ckpt'} continues"
    assert torch.load(run / "last.ckpt")["iteration"] > 0
