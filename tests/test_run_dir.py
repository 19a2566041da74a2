"""Directories of runs: unique, and not left behind by a run that does not start."""

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import datetime

import pytest

from dcgan_inpaint.runs import run_dir
from dcgan_inpaint.runs.run_dir import OUTPUT_VARIABLE, choose_run_dir


@pytest.fixture(autouse=True)
def one_second(tmp_path, monkeypatch):
    """Work in `tmp_path`, where time stands still."""

    class Clock(datetime):
        @classmethod
        def now(cls):
            return datetime(2026, 1, 2, 3, 4, 5)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_dir, "datetime", Clock)
    monkeypatch.setenv(OUTPUT_VARIABLE, "")  # restored after the test


def test_runs_that_start_in_the_same_second_have_directories_of_their_own():
    with ExitStack() as stack, ThreadPoolExecutor(9) as pool:
        folders = list(
            pool.map(lambda _: stack.enter_context(choose_run_dir("train", None, "a")), range(9))
        )
        names = {"2026-01-02_03-04-05_a", *(f"2026-01-02_03-04-05_a_{i}" for i in range(1, 9))}
        assert {folder.name for folder in folders} == names
        assert all(folder.is_dir() for folder in folders)


def test_run_that_does_not_start_leaves_no_directory(tmp_path):
    with pytest.raises(ValueError, match="bad option"), choose_run_dir("train", None):
        raise ValueError("bad option")
    assert not list(tmp_path.iterdir())
    (tmp_path / "runs" / "train" / "other").mkdir(parents=True)
    with pytest.raises(KeyboardInterrupt), choose_run_dir("train", None):
        raise KeyboardInterrupt
    assert os.listdir("runs/train") == ["other"]


def test_failed_run_keeps_its_results(tmp_path):
    with pytest.raises(ValueError), choose_run_dir("train", None) as folder:
        (folder / "config.yaml").touch()
        raise ValueError
    assert (folder / "config.yaml").is_file()


def test_directory_that_the_user_names_is_not_created(tmp_path):
    with choose_run_dir("sample", "mine") as folder:
        pass
    assert not folder.exists()
