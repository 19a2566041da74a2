"""Photos with several samples: inpaint.py writes all of them, and pick= shows another one."""

import shutil

import numpy as np
import pytest
from PIL import Image
from training import small_dcgan

from dcgan_inpaint import Completer
from dcgan_inpaint.models.checkpoint import save_weights

CROP = [10, 5, 40, 40]
HOLE = np.zeros((50, 80), bool)
HOLE[20:30, 22:41] = True
FAST = ("solver.iterations=2", "stages=none", "trainer.accelerator=cpu")
STEMS = ("00000_a", "00001_b")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """The overrides that complete two photos with a small model."""
    root = tmp_path_factory.mktemp("inputs")
    save_weights(small_dcgan(z_dim=8), root / "weights.safetensors")
    (root / "photos").mkdir()
    for seed, name in enumerate(("a.jpg", "b.png")):
        levels = np.random.default_rng(seed).integers(0, 256, (50, 80, 3), np.uint8)
        Image.fromarray(levels).save(root / "photos" / name)
    Image.fromarray(~HOLE).save(root / "hole.png")
    return [
        f"ckpt={root / 'weights.safetensors'}",
        f"images={root / 'photos'}",
        "mask=file",
        f"mask.path={root / 'hole.png'}",
        f"crop={str(CROP).replace(' ', '')}",
        *FAST,
    ]


@pytest.fixture(scope="module")
def original(run, inputs, tmp_path_factory):
    """A finished run with three samples per photo, and what it printed."""
    run_dir = tmp_path_factory.mktemp("original") / "out"
    lines = run("inpaint.py", *inputs, "candidates=3", f"output={run_dir}").stdout
    return run_dir, lines.splitlines()


@pytest.fixture
def finished(original, tmp_path):
    """Return a copy of the finished run, which a test may change."""
    return shutil.copytree(original[0], tmp_path / "out")


def levels(path):
    with Image.open(path) as image:
        return np.asarray(image)


def photos_and_samples(run_dir):
    """Return the photo and the three samples of both photos."""
    return [
        (
            levels(run_dir / "photos" / f"{stem}.png"),
            [levels(run_dir / "samples" / f"{stem}_{k}.png") for k in (1, 2, 3)],
        )
        for stem in STEMS
    ]


def test_every_sample_is_written_at_full_size(original, inputs, run):
    """They are the candidates of Completer, the best first, and are rebuilt from the records."""
    run_dir, lines = original
    assert len(list((run_dir / "samples").iterdir())) == 6
    weights, folder = inputs[0].partition("=")[2], inputs[1].partition("=")[2]
    paths = [f"{folder}/a.jpg", f"{folder}/b.png"]
    results = Completer.load(weights, *FAST)(paths, ~HOLE, CROP, candidates=3)
    for (photo, samples), result in zip(photos_and_samples(run_dir), results, strict=True):
        assert np.array_equal(photo, samples[0])
        assert not np.array_equal(samples[0], samples[1])
        assert all(map(np.array_equal, samples, map(np.asarray, result.candidates)))
    assert lines[-3:-1] == [
        f"{run_dir}/samples has 3 samples of each photo. {run_dir}/photos has the one with the "
        "lowest objective (select=best)",
        f"output={run_dir} pick=2 puts the second there",
    ]
    before = photos_and_samples(run_dir)
    (run_dir / "samples" / "00001_b_2.png").unlink()
    (run_dir / "samples" / "00000_a_3.png").write_bytes(b"")
    run("inpaint.py", *inputs, "candidates=3", f"output={run_dir}")
    for old, new in zip(before, photos_and_samples(run_dir), strict=True):
        assert np.array_equal(old[0], new[0]) and np.array_equal(old[1], new[1])


@pytest.mark.parametrize(
    ("select", "what"),
    [("mean", "the mean of them"), ("sample", "the first of them, which are in no order")],
)
def test_the_choice_of_the_photo_is_explained(run, inputs, tmp_path, select, what):
    options = ["candidates=3", f"select={select}", f"output={tmp_path}"]
    lines = run("inpaint.py", *inputs, *options).stdout.splitlines()
    assert lines[-3].endswith(f"/photos has {what} (select={select})")
    for photo, samples in photos_and_samples(tmp_path):
        shown = [np.array_equal(photo, sample) for sample in samples]
        assert shown == ([False] * 3 if select == "mean" else [True, False, False])


def test_pick_replaces_photos_without_computing(run, finished):
    """Neither the photos nor the checkpoint are read, and the records stay as they are."""
    (finished / "config.yaml").unlink()  # which names them
    before = {path: path.read_bytes() for path in (finished / "records").iterdir()}
    result = run("inpaint.py", f"output={finished}", "pick=2")
    assert result.stdout.splitlines() == ["2 photos replaced", f"{finished}/photos"]
    (first, of_first), (second, of_second) = photos_and_samples(finished)
    assert np.array_equal(first, of_first[1]) and np.array_equal(second, of_second[1])
    result = run("inpaint.py", f"output={finished}", "pick={a.jpg: 3}")
    assert result.stdout.splitlines()[-1] == f"{finished}/photos/00000_a.png"
    (first, of_first), (second, of_second) = photos_and_samples(finished)
    assert np.array_equal(first, of_first[2]) and np.array_equal(second, of_second[1])
    run("inpaint.py", f"output={finished}", "pick={a.jpg: 1, 00001_b: 3}")
    (first, of_first), (second, of_second) = photos_and_samples(finished)
    assert np.array_equal(first, of_first[0]) and np.array_equal(second, of_second[2])
    assert before == {path: path.read_bytes() for path in (finished / "records").iterdir()}


def test_pick_finds_photos_of_any_name(run, inputs, tmp_path):
    """Hydra cannot parse keys with these characters."""
    name = "Zoë (1), été.jpg"
    Image.new("RGB", (50, 50), "gray").save(tmp_path / name)
    output = f"output={tmp_path / 'out'}"
    options = [option for option in inputs if "mask" not in option]
    run("inpaint.py", *options, f"images={tmp_path / name}", "candidates=2", output)
    run("inpaint.py", output, f"pick={{'{name}': 2}}")
    stem = f"00000_{name[:-4]}"
    picked = levels(tmp_path / "out" / "photos" / f"{stem}.png")
    assert np.array_equal(picked, levels(tmp_path / "out" / "samples" / f"{stem}_2.png"))


REFUSED = {  # case: overrides besides output=, error
    "number": (["pick=4"], "pick=4: output={output} has 3 samples of each photo. Use 1 to 3"),
    "number of one": (["pick={b.png: 4}"], "pick={{'b.png': 4}}: output={output} has 3 samples"),
    "zero": (["pick=0"], "pick=0: should be greater than or equal to 1"),
    "name": (
        ["pick={a.jpg: 2, gone.jpg: 1}"],
        "pick={{'a.jpg': 2, 'gone.jpg': 1}}: gone.jpg: no such photo in the run. Use 00000_a or",
    ),
    "other options": (
        ["mask=half", "pick=2", "limit=3"],
        "mask=half limit=3: pick= copies samples of a finished run only. Remove mask=half limit=3",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_wrong_pick_is_refused_and_changes_nothing(run, finished, case):
    overrides, message = REFUSED[case]
    before = {path: path.read_bytes() for path in (finished / "photos").iterdir()}
    result = run("inpaint.py", f"output={finished}", *overrides, fails=True)
    assert result.stderr.splitlines()[-1].startswith(f"error: {message.format(output=finished)}")
    assert before == {path: path.read_bytes() for path in (finished / "photos").iterdir()}


def test_photos_of_the_same_name_are_picked_by_their_number(run, inputs, tmp_path):
    for folder in ("one", "two"):
        (tmp_path / "photos" / folder).mkdir(parents=True)
        Image.new("RGB", (50, 50), "gray").save(tmp_path / "photos" / folder / "a.png")
    output = f"output={tmp_path / 'out'}"
    options = [option for option in inputs if "mask" not in option]
    run("inpaint.py", *options, f"images={tmp_path / 'photos'}", "candidates=2", output)
    result = run("inpaint.py", output, "pick={a.png: 2}", fails=True)
    assert "a.png: several photos have this name. Use 00000_a or 00001_a" in result.stderr
    result = run("inpaint.py", output, "pick={00001_a: 2}")
    assert result.stdout.splitlines()[-1].endswith("/photos/00001_a.png")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["candidates=1"], "has no samples: it has one completion of each photo. Complete the"),
        (["method=mean"], "has no samples: it has one completion of each photo. Complete the"),
        (None, "is not a finished completion run. Set output= to one"),
    ],
)
def test_run_without_samples_is_refused_with_the_reason(run, inputs, tmp_path, overrides, message):
    output = f"output={tmp_path / 'out'}"
    if overrides is not None:
        method = [o for o in inputs if not o.startswith(("solver", "stages"))]
        run("inpaint.py", *method, *overrides, output)
    result = run("inpaint.py", output, "pick=2", fails=True)
    assert result.stderr.splitlines()[-1].startswith(
        f"error: pick=2: output={tmp_path / 'out'} {message}"
    )


def test_pick_needs_the_directory_of_a_run(run):
    result = run("inpaint.py", "pick=2", fails=True)
    assert result.stderr.splitlines()[-1] == (
        "error: pick=2: selects samples of a finished run. Set output= to its directory"
    )


def test_run_of_deleted_samples_or_of_a_data_set_is_refused(run, finished, tmp_path):
    shutil.rmtree(finished / "samples")
    result = run("inpaint.py", f"output={finished}", "pick=2", fails=True)
    assert "has no samples: they were deleted, or it is of an earlier version" in result.stderr
    shutil.rmtree(finished / "photos")
    result = run("inpaint.py", f"output={finished}", "pick=2", fails=True)
    assert "has no photos: it completed images of a data set" in result.stderr
