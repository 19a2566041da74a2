"""What a completion run keeps (runs/records.py), and what it makes of it (runs/shown.py)."""

import csv
import os
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from training import small_dcgan

from dcgan_inpaint.blending import paste
from dcgan_inpaint.data.loader import Images
from dcgan_inpaint.inpainting.module import InpaintingModule, Objective
from dcgan_inpaint.inpainting.search import SearchSettings
from dcgan_inpaint.inpainting.solvers import Adam
from dcgan_inpaint.masks.masks import center
from dcgan_inpaint.runs import records
from dcgan_inpaint.runs.trainer import complete, make_trainer
from dcgan_inpaint.runs.writer import CompletionWriter, Networks

NUMBER = 5
QUIET = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False}


def test_a_record_is_whole_or_nothing(tmp_path):
    path = tmp_path / "records" / "a.safetensors"
    kept, about = {"x": torch.arange(6.0).view(2, 3), "y": torch.zeros(0)}, {"name": "a"}
    assert records.read_record(path) is None
    records.write_record(path, kept, about)
    found, whose = records.read_record(path)
    assert whose == about
    assert found.keys() == kept.keys()
    assert all(torch.equal(found[name], kept[name]) for name in kept)
    data = path.read_bytes()
    for i in range(len(data)):
        path.write_bytes(data[:i])
        assert records.read_record(path) is None, f"cut at {i}"
    for i in range(len(data)):
        flipped = bytearray(data)
        flipped[i] ^= 1 << i % 8
        path.write_bytes(flipped)
        read = records.read_record(path)
        # JSON has several words for one thing, such as 1 and 1e0
        assert read is None or (read[1] == about and torch.equal(read[0]["x"], kept["x"])), i


@pytest.fixture(scope="module")
def images():
    levels = np.random.default_rng(0).integers(0, 255, (NUMBER, 3, 16, 16), np.uint8)
    return Images(levels, [f"{i}.png" for i in range(NUMBER)])


@pytest.fixture(scope="module")
def evaluate(images):
    """Completes the images, two in a batch, into a folder, or what is missing there."""
    module = InpaintingModule(
        small_dcgan(3),
        partial(center, scale=0.25),
        Objective(),
        Adam(3),
        paste,
        settings=SearchSettings(candidates=2, out_interval=1),
    )

    def evaluate(folder, images=images, settings=""):
        writer = CompletionWriter(folder, images, settings=settings)
        trainer = make_trainer(QUIET, [], [writer])
        complete(trainer, writer, module, 2)
        return writer

    return evaluate


@pytest.fixture(scope="module")
def finished(evaluate, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    evaluate(folder)
    return contents(folder)


def contents(folder):
    """All that is in it, without the seconds that it took, which the page shows as well."""
    held = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert b"</html>" in held.pop("index.html")
    for name in [name for name in held if name.startswith("records")]:
        kept, about = records.read_record(folder / name)
        kept["measured"] = kept["measured"][:-1]
        held[name] = {k: v.tolist() for k, v in kept.items()} | about
    for name in ("metrics.csv", "summary.csv"):
        with (folder / name).open(newline="") as file:
            rows = list(csv.DictReader(file))
        held[name] = [
            {k: v for k, v in row.items() if k != "seconds"}
            for row in rows
            if row.get("metric") != "seconds"
        ]
    return held


def test_what_it_leaves(finished):
    names = {f"0000{i}_{i}" for i in range(NUMBER)}
    expected = {f"records/0000{i}.safetensors" for i in range(NUMBER)}
    expected |= {f"{room}/{name}.png" for room in ("completed", "candidates") for name in names}
    expected |= {f"frames/0000{t}.png" for t in range(4)} | {"search.gif"}
    expected |= {"metrics.csv", "summary.csv", "trace.csv", "z.npy", "z_frames.npy", "rows.png"}
    expected |= {f"{n}.png" for n in ("before", "masked", "generated", "completed")}
    assert finished.keys() == expected | {"mean.png", "spread.png"}


def test_whatever_is_damaged_is_made_again(evaluate, finished, tmp_path):
    """Each file in turn: deleted, cut in two, with one byte changed, and with more behind it."""
    evaluate(tmp_path)
    for name in finished:
        path = tmp_path / name
        data = path.read_bytes()
        half = len(data) // 2
        changed = bytes([data[half] ^ 1])
        for damaged in (
            None,
            data[:half],
            data[:half] + changed + data[half + 1 :],
            data + b"more",
        ):
            path.unlink()
            if damaged is not None:
                path.write_bytes(damaged)
            evaluate(tmp_path)
            assert contents(tmp_path) == finished, name


def test_killed_at_any_write(evaluate, finished, tmp_path, monkeypatch):
    """The next run ends as if nothing had been."""
    replace = os.replace
    for moment in range(100):
        folder, count = tmp_path / str(moment), iter(range(moment))

        def killed(source, target, count=count):
            if next(count, None) is None:
                raise KeyboardInterrupt
            replace(source, target)

        monkeypatch.setattr(os, "replace", killed)
        try:
            evaluate(folder)
            break
        except (KeyboardInterrupt, SystemExit):
            pass
        monkeypatch.setattr(os, "replace", replace)
        evaluate(folder)
        assert contents(folder) == finished, moment
    assert moment == len(finished) + 1  # one for each file, and the page


def test_a_full_disk_is_an_error_of_the_system(evaluate, finished, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            evaluate(tmp_path)
    evaluate(tmp_path)
    assert contents(tmp_path) == finished


def test_another_image_of_the_same_name_is_completed(evaluate, finished, images, tmp_path):
    evaluate(tmp_path)
    other = images.images.copy()
    other[3] = 255 - other[3]
    evaluate(tmp_path, Images(other, images.names))
    now = contents(tmp_path)
    changed = {name for name in finished if now[name] != finished[name]}
    assert {n for n in changed if "/" in n and "frames" not in n} == {
        "records/00003.safetensors",
        "completed/00003_3.png",
        "candidates/00003_3.png",
    }


def test_who_began(evaluate, tmp_path):
    assert records.begun_with(tmp_path) is None
    evaluate(tmp_path, settings="abc")
    (tmp_path / "records" / "00000.safetensors").write_bytes(b"")
    assert records.begun_with(tmp_path) == "abc"


def test_beyond_the_grids_less_is_kept(evaluate, tmp_path, monkeypatch):
    monkeypatch.setattr(records, "SHOWN", 2)
    evaluate(tmp_path)
    kept = [records.read_record(p)[0] for p in sorted((tmp_path / "records").iterdir())]
    grids = {"before", "masked", "generated", "mean", "spread", "frames", "frame_iterations"}
    assert [grids <= each.keys() for each in kept] == [True, True, False, False, False]
    assert all(not grids & each.keys() for each in kept[2:])
    assert len(list((tmp_path / "completed").iterdir())) == NUMBER


def test_photos_are_made_again_from_what_filled_their_holes(evaluate, images, tmp_path):
    photos = SimpleNamespace(
        own_holes=False,
        known=torch.ones(NUMBER, 1, 16, 16),
        together=lambda i, fake: {i: fake},
        completed=lambda i, fake, _: Image.new("L", (9, 9), int(fake.mean() * 100 + 100)),
    )
    two = Images(images.images[:2], images.names[:2])
    writer = CompletionWriter(tmp_path, two, photos=photos)
    fake = torch.stack([torch.full((3, 16, 16), value) for value in (-0.5, 0.5)])
    done = SimpleNamespace(
        index=torch.arange(2), images=fake, observed=fake, fake=fake, completion=fake
    )
    done.mask = torch.zeros(2, 1, 16, 16)
    writer.on_predict_batch_start()
    writer.write_on_batch_end(None, None, done)
    (tmp_path / "photos" / "00001_1.png").unlink()
    CompletionWriter(tmp_path, two, photos=photos).write_report()
    with Image.open(tmp_path / "photos" / "00001_1.png") as photo:
        assert photo.getpixel((0, 0)) == 150


def test_without_a_true_image_nothing_compares(tmp_path, images):
    photos = SimpleNamespace(own_holes=True, known=torch.ones(NUMBER, 1, 16, 16))
    with pytest.raises(ValueError, match="nothing to compare with"):
        CompletionWriter(tmp_path, images, 1, photos, Networks(lpips=torch.nn.Identity()))
    assert not CompletionWriter(tmp_path, images, 1, photos).truth
    photos.own_holes = False
    assert CompletionWriter(tmp_path, images, 1, photos).truth
