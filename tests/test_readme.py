"""Every command and the Python example of README.md run, with placeholders filled from a table."""

import re
import shlex

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
# Appended to commands that would take minutes or hours; the others run as printed.
SHORT = ["debug=true", "trainer.accelerator=cpu", "output={run}"]
SHORT_DCGAN = [*SHORT, "model.gf_dim=2", "model.df_dim=2"]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A working directory with a photo, a small CelebA and the run that the commands name."""
    root = tmp_path_factory.mktemp("readme")
    generator = np.random.default_rng(0)
    (root / "celeba" / "img_align_celeba").mkdir(parents=True)
    lines = []
    for i in range(112):
        name = f"{i:06d}.jpg"
        levels = generator.integers(0, 256, (218, 178, 3), np.uint8)
        Image.fromarray(levels).save(root / "celeba" / "img_align_celeba" / name)
        lines.append(f"{name} {0 if i < 100 else 1 + i % 2}")
    (root / "celeba" / "list_eval_partition.txt").write_text("\n".join(lines) + "\n")
    skimage_data = pytest.importorskip("skimage.data")
    Image.fromarray(skimage_data.astronaut()).save(root / "photo.jpg", quality=95)
    return root


def test_readme_has_commands_and_one_python_example():
    assert COMMANDS[:3] == [
        "pip install -e .",
        "python inpaint.py",
        "python inpaint.py images=photo.jpg mask=center candidates=4",
    ]
    assert len(BLOCKS["python"]) == 1


def test_commands_run_as_printed(run, directory, monkeypatch):
    """In the order of README.md, since later commands use the run of the first training."""
    monkeypatch.chdir(directory)
    trained = directory / "run"
    placeholders = {"path/to/celeba": directory / "celeba", "runs/train/<run>": trained}
    for command in COMMANDS:
        for name, path in placeholders.items():
            command = command.replace(name, str(path))
        program, *arguments = shlex.split(command)
        if program == "pip":  # .ci/run installs
            continue
        assert program == "python", command
        if arguments[0] == "-m":  # test_web.py starts the page
            assert arguments == ["-m", "dcgan_inpaint.web"]
            continue
        if arguments[0] == "train.py":
            short = SHORT_DCGAN if "model=dcgan" in arguments else SHORT
            folder = trained if "model=dcgan" in arguments else directory / "encoder"
            arguments += [option.format(run=folder) for option in short]
        if "metrics=true" in arguments:
            arguments.append("metrics_count=64")
        run(*arguments)
    assert (directory / "encoder" / "weights.safetensors").is_file()
    assert (directory / "runs" / "eval" / "summary.csv").is_file()
    photos = list((directory / "runs" / "inpaint").glob("*/photos/00000_photo.png"))
    assert len(photos) == 1


def test_python_example_completes_the_hole_of_the_photo(directory, monkeypatch):
    monkeypatch.chdir(directory)
    (code,) = BLOCKS["python"]
    names: dict = {}
    exec(code, names)
    with Image.open("completed.png") as completed, Image.open("photo.jpg") as photo:
        pixels, known = np.asarray(completed), np.asarray(photo)
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
    written = read_levels(second / "candidates" / "00000_photo.png")
    assert np.abs(printed - written).mean() < 6
