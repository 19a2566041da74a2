"""Records (runs/records.py), and the files that are derived from them (runs/report.py)."""

import csv
import json
import os
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from training import small_dcgan

from dcgan_inpaint.blending import paste
from dcgan_inpaint.data.batches import ImageDataset
from dcgan_inpaint.inpainting.module import InpaintingModule, Objective
from dcgan_inpaint.inpainting.search import SearchSettings
from dcgan_inpaint.inpainting.solvers import Adam
from dcgan_inpaint.masks.masks import center
from dcgan_inpaint.runs import records
from dcgan_inpaint.runs.records import CompletionWriter, Record
from dcgan_inpaint.runs.report import write_report
from dcgan_inpaint.runs.trainer import complete, make_trainer

COUNT = 5
QUIET = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False}


def same_record(one, other):
    """Whether two records are bitwise equal."""
    if one.tensors.keys() != other.tensors.keys():
        return False
    equal = [torch.equal(values, other.tensors[name]) for name, values in one.tensors.items()]
    return all(equal) and replace(one, tensors={}) == replace(other, tensors={})


def test_damaged_record_is_not_read(tmp_path):
    path = tmp_path / "records" / "a.safetensors"
    tensors = {"x": torch.arange(6.0).view(2, 3), "y": torch.zeros(0)}
    record = Record("a", "1a2b", "abc", {"psnr_hole": 0.1, "lpips": float("inf")}, tensors)
    assert records.read_record(path) is None
    records.write_record(path, record)
    assert same_record(records.read_record(path), record)
    data = path.read_bytes()
    for i in range(len(data)):
        path.write_bytes(data[:i])
        assert records.read_record(path) is None, f"cut at {i}"
    for i in range(len(data)):
        flipped = bytearray(data)
        flipped[i] ^= 1 << i % 8
        path.write_bytes(flipped)
        read = records.read_record(path)
        # JSON can spell the same header in several ways, such as 1 and 1e0.
        assert read is None or same_record(read, record), i


@pytest.fixture(scope="module")
def images():
    levels = np.random.default_rng(0).integers(0, 255, (COUNT, 3, 16, 16), np.uint8)
    return ImageDataset(levels, [f"{i}.png" for i in range(COUNT)])


@pytest.fixture(scope="module")
def evaluate(images):
    """Completes the images that have no record in a directory, two per batch."""
    module = InpaintingModule(
        small_dcgan(3),
        partial(center, scale=0.25),
        Objective(),
        Adam(3),
        paste,
        settings=SearchSettings(candidates=2, out_interval=1),
    )

    def evaluate(run_dir, images=images, settings=""):
        writer = CompletionWriter(run_dir, images, settings=settings)
        complete(make_trainer(QUIET, [], [writer]), writer, module, 2)

    return evaluate


@pytest.fixture(scope="module")
def expected(evaluate, tmp_path_factory):
    """Contents of a run that was never interrupted."""
    run_dir = tmp_path_factory.mktemp("uninterrupted")
    evaluate(run_dir)
    return contents(run_dir)


def contents(run_dir):
    """Return what each file holds, without run times."""
    files = {p.relative_to(run_dir).as_posix(): p for p in run_dir.rglob("*") if p.is_file()}
    result = {name: path.read_bytes() for name, path in files.items()}
    assert b"</html>" in result.pop("index.html")  # the page shows the run time
    for name in [name for name in result if name.startswith("records")]:
        record = records.read_record(files[name])
        assert record.metrics.pop("seconds") > 0
        tensors = {name: values.tolist() for name, values in record.tensors.items()}
        result[name] = (tensors, record.name, record.image, json.dumps(record.metrics))
    for name in ("metrics.csv", "summary.csv"):
        with files[name].open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if row.get("metric") != "seconds"]
        result[name] = [{k: v for k, v in row.items() if k != "seconds"} for row in rows]
    return result


def test_run_writes_these_files(expected):
    names = {f"0000{i}_{i}" for i in range(COUNT)}
    files = {f"records/0000{i}.safetensors" for i in range(COUNT)}
    files |= {f"{folder}/{name}.png" for folder in ("completed", "candidates") for name in names}
    files |= {f"frames/0000{t}.png" for t in range(4)} | {"search.gif"}
    files |= {"metrics.csv", "summary.csv", "trace.csv", "z.npy", "z_frames.npy", "rows.png"}
    files |= {f"{name}.png" for name in ("before", "masked", "generated", "completed")}
    assert expected.keys() == files | {"mean.png", "spread.png"}


def delete(path):
    path.unlink()


def cut_in_two(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def change_a_byte(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def append(path):
    path.write_bytes(path.read_bytes() + b"more")


@pytest.mark.parametrize("damage", [delete, cut_in_two, change_a_byte, append])
def test_damaged_files_are_written_again(evaluate, expected, tmp_path, damage):
    evaluate(tmp_path)
    for name in expected:
        if not name.startswith("records"):
            damage(tmp_path / name)
    evaluate(tmp_path)
    assert contents(tmp_path) == expected
    damage(tmp_path / "records" / "00003.safetensors")
    evaluate(tmp_path)
    assert contents(tmp_path) == expected


@pytest.mark.slow
def test_run_killed_at_any_write_is_completed_by_the_next(
    evaluate, expected, tmp_path, monkeypatch
):
    move = os.replace
    for moment in range(100):
        run_dir, writes = tmp_path / str(moment), iter(range(moment))

        def killed(source, target, writes=writes):
            if next(writes, None) is None:
                raise KeyboardInterrupt
            move(source, target)

        monkeypatch.setattr(os, "replace", killed)
        try:
            evaluate(run_dir)
            break
        except (KeyboardInterrupt, SystemExit):
            pass
        monkeypatch.setattr(os, "replace", move)
        evaluate(run_dir)
        assert contents(run_dir) == expected, moment
    assert moment == len(expected) + 1  # one write for each file, and one for the page


def test_full_disk_is_an_os_error(evaluate, expected, tmp_path, monkeypatch):
    def disk_full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", disk_full)
        with pytest.raises(OSError, match="No space left"):
            evaluate(tmp_path)
    evaluate(tmp_path)
    assert contents(tmp_path) == expected


def test_changed_image_of_the_same_name_is_completed_again(evaluate, expected, images, tmp_path):
    evaluate(tmp_path)
    other = images.images.copy()
    other[3] = 255 - other[3]
    evaluate(tmp_path, ImageDataset(other, images.names))
    now = contents(tmp_path)
    changed = {name for name in expected if now[name] != expected[name]}
    assert {name for name in changed if "/" in name and "frames" not in name} == {
        "records/00003.safetensors",
        "completed/00003_3.png",
        "candidates/00003_3.png",
    }


def test_read_records_skips_damaged_records(evaluate, tmp_path):
    assert list(records.read_records(tmp_path)) == []
    evaluate(tmp_path, settings="abc")
    (tmp_path / "records" / "00000.safetensors").write_bytes(b"")
    assert next(records.read_records(tmp_path)).settings == "abc"
    assert next(records.read_records(tmp_path)).name == "00001_1"


def test_records_beyond_the_grids_hold_fewer_tensors(evaluate, tmp_path, monkeypatch):
    monkeypatch.setattr(records, "GRID_IMAGES", 2)
    evaluate(tmp_path)
    paths = sorted((tmp_path / "records").iterdir())
    names = [records.read_record(path).tensors.keys() for path in paths]
    grids = {"before", "masked", "generated", "mean", "spread", "frames", "frame_iterations"}
    assert [grids <= each for each in names] == [True, True, False, False, False]
    assert all(not grids & each for each in names[2:])
    assert len(list((tmp_path / "completed").iterdir())) == COUNT


def test_photos_are_rebuilt_from_the_records(images, tmp_path):
    first = ImageDataset(images.images[:4], images.names[:4])
    photos = SimpleNamespace(
        images=first,
        has_mask_image=False,
        known=torch.ones(COUNT, 1, 16, 16),
        crops_with=lambda i: [0, 1, 2] if i < 3 else [i],
        complete=lambda fakes: Image.fromarray(
            np.uint8([[fakes[i].mean() * 100 + 100 for i in fakes]])
        ),
    )
    writer = CompletionWriter(tmp_path, first, photos=photos)
    for batch in ([0, 1], [2, 3]):
        fake = torch.stack([torch.full((3, 16, 16), i / 10) for i in batch])
        result = SimpleNamespace(
            index=torch.tensor(batch), images=fake, observed=fake, fake=fake, completion=fake
        )
        result.mask = torch.zeros(2, 1, 16, 16)
        writer.on_predict_batch_start()
        writer.write_on_batch_end(None, None, result)
    levels = {"00002_2.png": [100, 110, 120], "00003_3.png": [130]}
    for name in levels:
        (tmp_path / "photos" / name).unlink()
    again = CompletionWriter(tmp_path, first, photos=photos)
    write_report(tmp_path, again.records(), photos)
    assert {path.name for path in (tmp_path / "photos").iterdir()} == levels.keys()
    for name, expected in levels.items():
        with Image.open(tmp_path / "photos" / name) as photo:
            assert np.asarray(photo).tolist() == [expected]


def test_network_metrics_need_a_true_image(tmp_path, images):
    photos = SimpleNamespace(has_mask_image=True, known=torch.ones(COUNT, 1, 16, 16))
    with pytest.raises(ValueError, match="there is no ground truth"):
        CompletionWriter(tmp_path, images, 1, photos, lpips_network=torch.nn.Identity())
    assert not CompletionWriter(tmp_path, images, 1, photos).has_truth
    photos.has_mask_image = False
    assert CompletionWriter(tmp_path, images, 1, photos).has_truth
