"""experiments/portraits.py: groups, eyes, and sheets with their tally."""

import json
import sys

import numpy as np
import portraits
import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import to_pil_image

from dcgan_inpaint.photos.detector import find_faces
from dcgan_inpaint.photos.photos import PORTRAITS


def test_thirds_of_100_values_have_33_34_and_33():
    values = np.random.default_rng(0).permutation(100)
    third = portraits.thirds(values)
    assert [*np.bincount(third)] == [33, 34, 33]
    assert values[third == 0].max() == 32 and values[third == 2].min() == 67


def test_groups_contain_each_person_once_per_criterion():
    people = [{"sex": "male", "age": "35"}, {"sex": "female", "age": "36"}]
    groups = portraits.group_rows(people, [portraits.TONES[0], portraits.TONES[2]])
    assert groups == {
        "all": [0, 1],
        "skin tone: darkest third": [0],
        "skin tone: lightest third": [1],
        "female": [1],
        "male": [0],
        "18 to 35 years": [0],
        "36 to 55 years": [1],
    }


def test_crops_are_aligned_by_the_eyes():
    """In the central 142 of 178 px of CelebA; the second face is small and rotated."""
    paths = [PORTRAITS / f"portrait_{number}.webp" for number in ("02", "20")]
    for crop in portraits.aligned_crops(paths):
        face = find_faces(to_pil_image(torch.from_numpy(crop)))[0]
        assert abs(face.left_eye - 128 * (0.364 + 0.526j)) < 2  # px
        assert abs(face.right_eye - 128 * (0.636 + 0.526j)) < 2


def test_eyes_are_in_place_unless_they_are_missing_or_moved():
    truth = torch.from_numpy(portraits.aligned_crops([PORTRAITS / "portrait_03.webp"])[0])
    gray = torch.full_like(truth, 128)
    assert portraits.eyes_in_place(truth, truth) == 1
    assert portraits.eyes_in_place(truth.roll(8, 2), truth) == 0  # 8 px, above 3% of the face
    assert portraits.eyes_in_place(gray, truth) == 0
    assert np.isnan(portraits.eyes_in_place(truth, gray))


def test_sheets_hide_the_method_and_the_tally_reveals_it(tmp_path, monkeypatch, capsys):
    """Completions of method "a" are dark and those of "b" light; 24 fill a sheet and a fifth."""
    completions = {
        name: torch.full((12, 3, 8, 8), level, dtype=torch.uint8)
        for name, level in (("a", 20), ("b", 200))
    }
    names = [f"{i}.webp" for i in range(12)]
    tones = [portraits.TONES[i % 3] for i in range(12)]
    portraits.write_sheets(tmp_path / "sheets", completions, names, tones)
    sheets = sorted((tmp_path / "sheets").iterdir())
    assert [path.name for path in sheets] == ["sheet_01.png", "sheet_02.png"]
    key_file = tmp_path / "sheets_key.json"
    key = json.loads(key_file.read_text())
    assert len({(entry["method"], entry["portrait"]) for entry in key.values()}) == 24
    with Image.open(sheets[0]) as sheet:
        assert sheet.size == (5 * 256, 4 * 272)
        for number in (1, 7, 20):
            row, column = divmod(number - 1, 5)
            level = sheet.getpixel((column * 256 + 128, row * 272 + 140))[0]
            assert level == {"a": 20, "b": 200}[key[str(number)]["method"]]

    lines = [
        f"{number} {'right' if entry['method'] == 'a' else 'wrong one eye'}"
        for number, entry in key.items()
    ]
    (tmp_path / "judgments.txt").write_text("\n".join(lines))
    script = ["portraits.py", "--tally", str(key_file), str(tmp_path / "judgments.txt")]
    monkeypatch.setattr(sys, "argv", script)
    portraits.main()
    out = capsys.readouterr().out.splitlines()
    assert "| a | 12 of 12 | 4 of 4 | 4 of 4 | 4 of 4 |" in out
    assert "| b | 0 of 12 | 0 of 4 | 0 of 4 | 0 of 4 |" in out
    assert out[-2:] == ["24 of 24 completions judged", "12 wrong: one eye"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 good", "expected a line of: number right|wrong"),
        ("2 right", "unknown number"),
        ("1 right\n1 wrong", "judged twice"),
    ],
)
def test_invalid_judgment_is_an_error(text, message):
    key = {"1": {"method": "a", "portrait": "x", "tone": portraits.TONES[0]}}
    with pytest.raises(ValueError) as error:
        portraits.tally(key, text)
    assert message in str(error.value)


@pytest.mark.slow
def test_script_prints_a_table_per_method(monkeypatch, capsys, tmp_path):
    script = ["portraits.py", "--root", str(PORTRAITS), "--limit", "3"]
    script += ["--sheets", str(tmp_path / "sheets"), "--method", "mean", "method=mean"]
    monkeypatch.setattr(sys, "argv", script)
    portraits.main()
    out = capsys.readouterr().out.splitlines()
    assert "**mean**" in out
    (row,) = [line for line in out if line.startswith("| all |")]
    cells = [cell.strip() for cell in row.split("|")[1:-1]]
    assert cells[1] == "3" and 5 < float(cells[2].split()[0]) < 30
    assert (tmp_path / "sheets" / "sheet_01.png").is_file()
