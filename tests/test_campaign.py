"""Fault-injection campaign (tests/campaign/faults.py): a part passes, and its checks can fail."""

import subprocess
import sys
import time
from pathlib import Path

import faults
import pytest
from faults import Campaign, Done, Family, Fault, Skipped, Trial, report
from PIL import Image

PROJECT = Path(__file__).parents[1]


def test_a_part_of_it_holds():
    """A few cases of each family, in processes of their own."""
    command = [sys.executable, "tests/campaign/faults.py", "--quick"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    for name, family in faults.FAMILIES.items():
        assert f"| {name} | {family.quick} |" in done.stdout


def test_there_are_enough():
    assert sum(family.cases for family in faults.FAMILIES.values()) > 1000
    assert all(0 < family.quick <= family.cases for family in faults.FAMILIES.values())


def ended(code, err):
    return Done("inpaint.py", code, "", err)


def test_one_line():
    ended(1, "a warning\nerror: ckpt=a: no\n").line("ckpt=a")
    ended(143, "SIGTERM: output=a goes on\n").line("goes on", code=143)
    for bad in (
        ended(0, "error: ckpt=a: no\n"),
        ended(-9, "error: ckpt=a: no\n"),
        ended(1, ""),
        ended(1, "error: ckpt=b: no\n"),
        ended(1, "error: ckpt=a: no\nerror: ckpt=a: no\n"),
        ended(1, "error: ckpt=a: no\nand more\n"),
        ended(1, "Traceback (most recent call last):\nerror: ckpt=a: no\n"),
    ):
        with pytest.raises(Fault):
            bad.line("ckpt=a")
    ended(0, "a warning").succeeds()
    for bad in (ended(1, ""), ended(0, "Traceback (most recent call last):")):
        with pytest.raises(Fault):
            bad.succeeds()


@pytest.fixture
def trial(tmp_path):
    return Trial("kills", 3, 0, tmp_path / "room", tmp_path / "shared")


def test_nothing_is_written(trial):
    done = ended(1, "error: a\n")
    trial.refused(done)
    (trial.here / "a").touch()
    with pytest.raises(Fault, match=r"\['a'\] was written"):
        trial.refused(done)


def test_one_seed_gives_the_same(trial, tmp_path):
    again = Trial("kills", 3, 0, tmp_path / "again", tmp_path)
    others = [
        Trial(*which, tmp_path / str(i), tmp_path)
        for i, which in enumerate([("kills", 4, 0), ("kills", 3, 1), ("signals", 3, 0)])
    ]
    drawn = trial.rng.random()
    assert again.rng.random() == drawn
    assert all(other.rng.random() != drawn for other in others)


def test_half_of_a_file_is_seen(tmp_path):
    Image.new("L", (30, 30)).save(tmp_path / "a.png")
    (tmp_path / "a.csv").write_text("1")
    whole = faults.contents(tmp_path)
    faults.same(faults.contents(tmp_path), whole, "it")
    faults.whole_images(tmp_path)
    faults.no_parts(tmp_path)
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(data[:-20])
    with pytest.raises(Fault, match="half of an image: a.png"):
        faults.whole_images(tmp_path)
    with pytest.raises(Fault, match=r"it: .* a\.png"):
        faults.same(faults.contents(tmp_path), whole, "it")
    (tmp_path / "a.part").touch()
    with pytest.raises(Fault, match="a.part"):
        faults.no_parts(tmp_path)


def fails(trial):
    trial.says("with this")
    raise Fault("does not hold")


def skips(trial):
    raise Skipped("no disk here")


def test_the_table(tmp_path, monkeypatch, capsys):
    """Cases that hold, fail, are skipped, hang, and have a bug of their own."""
    checks = {
        "holds": lambda trial: None,
        "fails": fails,
        "skips": skips,
        "hangs": lambda trial: time.sleep(60),
        "bug": lambda trial: 1 / 0,
    }
    families = {name: Family(check, 1, 1) for name, check in checks.items()}
    monkeypatch.setattr(faults, "FAMILIES", families)
    monkeypatch.setattr(faults, "SECONDS", 0.5)
    monkeypatch.setattr(faults, "prepare", lambda trial: None)
    (tmp_path / "shared").mkdir()
    campaign = Campaign(tmp_path, 7, 2)
    assert report(campaign, [(name, 0) for name in ("holds", "skips")], False, 0) == 0
    assert report(campaign, [(name, 0) for name in families], False, 0) == 1
    said = capsys.readouterr().out
    for name, counts in {
        "holds": "1 | 1 | 0",
        "fails": "1 | 0 | 0",
        "skips": "1 | 0 | 1",
        "hangs": "1 | 0 | 0",
        "bug": "1 | 0 | 0",
        "all": "5 | 1 | 1",
    }.items():
        assert f"| {name} | {counts} |" in said
    assert (
        "python tests/campaign/faults.py --case 'fails/0' --seed 7\n  with this: does not" in said
    )
    assert "not done in 0.5 s" in said
    assert "ZeroDivisionError" in said
    assert "skipped: no disk here" in said
    assert [path.name for path in tmp_path.iterdir()] == ["shared"]  # nothing is left
