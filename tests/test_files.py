"""A fault while last.ckpt is written: a whole one is there at every moment."""

import os
import tempfile

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from training import quiet_trainer

from dcgan_inpaint.files import WholeCheckpoints, remove_parts, save_image, write_csv
from dcgan_inpaint.models.dcgan import DCGAN
from dcgan_inpaint.runs import saving


def saved(value):
    return {"state_dict": {"x": torch.full((1000,), float(value))}}


def held(path):
    return torch.load(path)["state_dict"]["x"][0].item()


def test_the_one_before_is_kept(tmp_path):
    path, files = tmp_path / "run" / "last.ckpt", WholeCheckpoints()
    for value in (1, 2, 3):
        files.save_checkpoint(saved(value), path)
    assert held(path) == 3
    assert held(path.with_name("last-1.ckpt")) == 2
    assert sorted(p.name for p in path.parent.iterdir()) == ["last-1.ckpt", "last.ckpt"]


def test_a_damaged_one_does_not_take_the_place_of_the_one_before(tmp_path):
    path, files = tmp_path / "last.ckpt", WholeCheckpoints()
    for value in (1, 2):
        files.save_checkpoint(saved(value), path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    files.save_checkpoint(saved(3), path)
    assert (held(path), held(tmp_path / "last-1.ckpt")) == (3, 1)


def cut(error):
    """torch.save, cut off in the midst."""

    def save(checkpoint, file):
        file.write(b"PK half of a checkpoint")
        raise error

    return save


@pytest.mark.parametrize(
    "error",
    [OSError(28, "No space left on device"), RuntimeError("unexpected pos"), KeyboardInterrupt()],
    ids=["disk full", "as torch says it", "stopped"],
)
def test_cut_off(tmp_path, monkeypatch, error):
    path, files = tmp_path / "last.ckpt", WholeCheckpoints()
    files.save_checkpoint(saved(1), path)
    before = path.read_bytes()
    monkeypatch.setattr(torch, "save", cut(error))
    wanted = KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else OSError
    with pytest.raises(wanted):
        files.save_checkpoint(saved(2), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]


def test_killed_between_the_two_moves(tmp_path, monkeypatch):
    """The old one is there under its name, and under the other."""
    path, files = tmp_path / "last.ckpt", WholeCheckpoints()
    files.save_checkpoint(saved(1), path)

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        files.save_checkpoint(saved(2), path)
    assert held(path) == held(tmp_path / "last-1.ckpt") == 1


def test_a_disk_that_lies_is_found_out(tmp_path, monkeypatch):
    path, files = tmp_path / "last.ckpt", WholeCheckpoints()
    files.save_checkpoint(saved(1), path)

    def flipped(descriptor):
        part = next(tmp_path.glob("*.part"))
        data = bytearray(part.read_bytes())
        data[len(data) // 2] ^= 1
        part.write_bytes(data)

    monkeypatch.setattr(saving.os, "fsync", flipped)
    with pytest.raises(OSError, match="does not give back"):
        files.save_checkpoint(saved(2), path)
    assert held(path) == 1


def test_a_training_writes_no_temporary_file_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))  # writing there would fail
    trainer = quiet_trainer(plugins=[WholeCheckpoints()], max_epochs=1)
    model = DCGAN(image_size=16, gf_dim=1, df_dim=1, z_dim=3)
    trainer.fit(model, DataLoader([{"image": torch.zeros(2, 3, 16, 16)}], batch_size=None))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    assert torch.load(tmp_path / "last.ckpt")["iteration"] == 1


def test_a_file_is_whole_or_as_it_was(tmp_path):
    path = tmp_path / "room" / "a.csv"
    write_csv(path, [["x", "y"], [1, "ü"]])
    before = path.read_bytes()
    assert before.decode() == "x,y\r\n1,ü\r\n"

    def broken():
        yield ["z"]
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write_csv(path, broken())
    assert path.read_bytes() == before
    assert list(tmp_path.rglob("*.*")) == [path]


def test_a_image_is_whole_or_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "room" / "a.png"
    save_image(path, Image.new("L", (9, 9)))
    before = path.read_bytes()
    assert before.startswith(b"\x89PNG")
    broken = Image.new("L", (9, 9), 255)

    def cut_off(file, kind):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(broken, "save", cut_off)
    with pytest.raises(OSError, match="No space left"):
        save_image(path, broken)
    assert path.read_bytes() == before
    assert list(tmp_path.rglob("*.*")) == [path]


def test_what_killed_runs_left_is_removed(tmp_path):
    for name in ("last.part", "records/00000.part", "records/00000.safetensors"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    remove_parts(tmp_path)
    assert [path.name for path in tmp_path.rglob("*.*")] == ["00000.safetensors"]
