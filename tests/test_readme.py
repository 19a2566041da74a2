"""Every command and the Python example of README.md run as they are typed in a clone."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from conftest import PROJECT
from PIL import Image

README = (PROJECT / "README.md").read_text()
BLOCKS = {
    language: re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    for language in ("bash", "python")
}
COMMANDS = [
    command.strip()
    for block in BLOCKS["bash"]
    for line in block.splitlines()
    for command in line.split("&&")
]
PHOTO = PROJECT / "dcgan_inpaint" / "portraits" / "portrait_07.webp"
DATE_TIME = re.compile(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d")
SHORT = {  # appended to commands that take minutes, by a part of the command
    "model=dcgan": ["model.gf_dim=2", "model.df_dim=2"],
    "limit=200": ["limit=4"],
    "metrics=true": ["metrics_count=64"],
}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A working directory with the files of a clone, and no others."""
    root = tmp_path_factory.mktemp("readme")
    for name in ("dcgan_inpaint", "experiments"):
        (root / name).symlink_to(PROJECT / name)
    return root


def test_readme_has_commands_and_one_python_example():
    assert COMMANDS[:3] == [
        "pip install -e .",
        "python inpaint.py",
        "python inpaint.py images=dcgan_inpaint/portraits/portrait_07.webp candidates=4",
    ]
    assert len(BLOCKS["python"]) == 1


def test_commands_run_as_typed_and_print_the_paths_in_the_text(run, directory, monkeypatch):
    """In the order of README.md, since later commands use the run of the first training."""
    monkeypatch.chdir(directory)
    printed: set[str] = set()
    for command in COMMANDS:
        program, *arguments = shlex.split(command)
        if program == "pip":  # .ci/run installs
            continue
        assert program == "python", command
        if arguments[0] == "-m":  # test_web.py starts the page
            assert arguments == ["-m", "dcgan_inpaint.web"]
            continue
        for part in SHORT.keys() & set(arguments):
            arguments += SHORT[part]
        paths = [Path(path) for path in re.findall(r"runs/\S+", run(*arguments).stdout)]
        assert paths and all(path.exists() for path in paths), command
        printed |= {DATE_TIME.sub("<date_time>", str(path)) for path in paths}
    named = set(re.findall(r"`(runs/[^\s`]+)`", README))
    assert named & printed >= {path for path in named if "<date_time>/" in path}
    written = {path for path in named if path.startswith(("runs/gan", "runs/eval"))}
    assert len(written) == 3 and all(Path(path).is_file() for path in written)


def test_python_example_completes_the_hole_of_the_photo(directory, monkeypatch):
    monkeypatch.chdir(directory)
    (code,) = BLOCKS["python"]
    names: dict = {}
    exec(code, names)
    with Image.open("completed.png") as completed, Image.open(PHOTO) as photo:
        pixels, known = np.asarray(completed), np.asarray(photo.convert("RGB"))
    assert np.array_equal(pixels, np.asarray(names["result"].candidates[0]))
    assert not np.array_equal(pixels, known)
    assert np.array_equal(pixels[:10], known[:10])  # above the hole
    comment = code.splitlines()[-1].partition("#")[2]
    for name in re.findall(r"\.(\w+)\b", comment):  # attributes of the result
        assert hasattr(names["result"], name)


def read_levels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"), np.int64)


def test_figures_are_the_outputs_of_the_first_two_commands(directory):
    """Holes may differ: processors round differently, and a search amplifies the difference."""
    assert re.findall(r"!\[.*?\]\((.*?)\)", README) == ["experiments/figures/portraits.png"]
    assert "(experiments/figures/portrait_candidates.png)" in README
    first, second = sorted((directory / "runs" / "inpaint").iterdir())[:2]  # named by the time
    figures = PROJECT / "experiments" / "figures"
    printed, written = read_levels(figures / "portraits.png"), read_levels(first / "rows.png")
    row = 130  # images of 128 px with borders of 2 px
    for top in range(0, len(written), 3 * row + 2 + 12):  # bands of three rows
        originals = slice(top, top + 2 * row)  # and the masked images
        differ = np.abs(printed[originals] - written[originals]) > 1
        assert differ.mean() < 1e-3  # a processor may round the eyes, and the crop, differently
    assert np.abs(printed - written).mean() < 6  # of 255 levels
    printed = read_levels(figures / "portrait_candidates.png")
    written = read_levels(second / "candidates" / "00000_portrait_07.png")
    assert np.abs(printed - written).mean() < 6
