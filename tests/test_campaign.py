"""Tests of the fault-injection campaign (campaign/faults.py): its quick cases pass, and its checks
detect faults."""

import subprocess
import sys
import time
from pathlib import Path

import faults
import interruption_cases
import pytest
import reference_runs
from cases import Case, CaseSkipped, CheckFailed, ScriptResult
from faults import Campaign, Family, run_and_report
from PIL import Image

PROJECT = Path(__file__).parents[1]


@pytest.mark.slow
def test_quick_cases_of_every_family_pass():
    command = [sys.executable, "tests/campaign/faults.py", "--quick"]
    result = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    for name, family in faults.FAMILIES.items():
        assert f"| {name} | {family.quick} |" in result.stdout


def test_campaign_has_more_than_1000_cases():
    assert sum(family.cases for family in faults.FAMILIES.values()) > 1000
    assert all(0 < family.quick <= family.cases for family in faults.FAMILIES.values())


def ended(code, err):
    return ScriptResult("inpaint.py", code, "", err)


def test_check_one_line_accepts_one_error_line_or_the_line_of_a_signal():
    ended(1, "a warning\nerror: ckpt=a: no\n").check_one_line("ckpt=a")
    ended(143, "SIGTERM: output=a continues\n").check_one_line("continues", code=143)


@pytest.mark.parametrize(
    ("code", "err"),
    [
        (0, "error: ckpt=a: no\n"),
        (-9, "error: ckpt=a: no\n"),
        (1, ""),
        (1, "error: ckpt=b: no\n"),
        (1, "error: ckpt=a: no\nerror: ckpt=a: no\n"),
        (1, "error: ckpt=a: no\nand more\n"),
        (1, "Traceback (most recent call last):\nerror: ckpt=a: no\n"),
    ],
)
def test_check_one_line_rejects_anything_else(code, err):
    with pytest.raises(CheckFailed):
        ended(code, err).check_one_line("ckpt=a")


def test_check_success_rejects_an_exit_code_and_a_traceback():
    ended(0, "a warning").check_success()
    for failed in (ended(1, ""), ended(0, "Traceback (most recent call last):")):
        with pytest.raises(CheckFailed):
            failed.check_success()


@pytest.fixture
def case(tmp_path):
    return Case("kills", 3, 0, tmp_path / "case", tmp_path / "shared")


def test_check_refused_rejects_a_written_file(case):
    result = ended(1, "error: a\n")
    case.check_refused(result)
    (case.cwd / "a").touch()
    with pytest.raises(CheckFailed, match=r"\['a'\] was written"):
        case.check_refused(result)


def test_random_numbers_depend_on_family_number_and_seed_only(case, tmp_path):
    same = Case("kills", 3, 0, tmp_path / "same", tmp_path)
    others = [
        Case(*key, tmp_path / str(i), tmp_path)
        for i, key in enumerate([("kills", 4, 0), ("kills", 3, 1), ("signals", 3, 0)])
    ]
    number = case.rng.random()
    assert same.rng.random() == number
    assert all(other.rng.random() != number for other in others)


def test_a_truncated_image_and_a_temporary_file_are_detected(tmp_path):
    Image.new("L", (30, 30)).save(tmp_path / "a.png")
    (tmp_path / "a.csv").write_text("1")
    expected = reference_runs.read_completion(tmp_path)
    reference_runs.check_equal(reference_runs.read_completion(tmp_path), expected, "the run")
    interruption_cases.check_complete_images(tmp_path)
    reference_runs.check_no_partial_files(tmp_path)
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(data[:-20])
    with pytest.raises(CheckFailed, match="incomplete image: a.png"):
        interruption_cases.check_complete_images(tmp_path)
    with pytest.raises(CheckFailed, match=r"the run differs .*'a\.png'"):
        reference_runs.check_equal(reference_runs.read_completion(tmp_path), expected, "the run")
    (tmp_path / "a.part").touch()
    with pytest.raises(CheckFailed, match="a.part"):
        reference_runs.check_no_partial_files(tmp_path)


def fail(case):
    case.describe("with this")
    raise CheckFailed("wrong result")


def skip(case):
    raise CaseSkipped("no disk here")


def test_report_counts_passed_failed_skipped_hanging_and_broken_cases(
    tmp_path, monkeypatch, capsys
):
    functions = {
        "passes": lambda case: None,
        "fails": fail,
        "skips": skip,
        "hangs": lambda case: time.sleep(60),
        "broken": lambda case: 1 / 0,
    }
    families = {name: Family(run, 1, 1) for name, run in functions.items()}
    monkeypatch.setattr(faults, "FAMILIES", families)
    monkeypatch.setattr(faults, "MAX_SECONDS", 0.5)
    monkeypatch.setattr(faults, "prepare", lambda case: None)
    (tmp_path / "shared").mkdir()
    campaign = Campaign(tmp_path, 7, 2)
    assert run_and_report(campaign, [(name, 0) for name in ("passes", "skips")], False, 0) == 0
    assert run_and_report(campaign, [(name, 0) for name in families], False, 0) == 1
    output = capsys.readouterr().out
    for name, counts in {
        "passes": "1 | 1 | 0",
        "fails": "1 | 0 | 0",
        "skips": "1 | 0 | 1",
        "hangs": "1 | 0 | 0",
        "broken": "1 | 0 | 0",
        "all": "5 | 1 | 1",
    }.items():
        assert f"| {name} | {counts} |" in output
    command = "python tests/campaign/faults.py --case 'fails/0' --seed 7"
    assert f"{command}\n  with this: wrong result" in output
    assert "not finished after 0.5 s" in output
    assert "ZeroDivisionError" in output
    assert "skipped: no disk here" in output
    assert [path.name for path in tmp_path.iterdir()] == ["shared"]  # cases are removed
