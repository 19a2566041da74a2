"""Atomic writes (dcgan_inpaint/files.py)."""

import os

import pytest
from PIL import Image

from dcgan_inpaint.files import atomic_write, remove_parts, save_image, write_csv

DISK_FULL = OSError(28, "No space left on device")


def test_write_csv_keeps_the_previous_file_after_an_error(tmp_path):
    path = tmp_path / "folder" / "a.csv"
    write_csv(path, [["x", "y"], [1, "ü"]])
    before = path.read_bytes()
    assert before.decode() == "x,y\r\n1,ü\r\n"

    def failing_rows():
        yield ["z"]
        raise DISK_FULL

    with pytest.raises(OSError, match="No space left"):
        write_csv(path, failing_rows())
    assert path.read_bytes() == before
    assert list(tmp_path.rglob("*.*")) == [path]


def test_save_image_keeps_the_previous_file_after_an_error(tmp_path, monkeypatch):
    path = tmp_path / "folder" / "a.png"
    save_image(path, Image.new("L", (9, 9)))
    before = path.read_bytes()
    assert before.startswith(b"\x89PNG")
    white = Image.new("L", (9, 9), 255)

    def failing_save(file, kind, **options):
        file.write(b"half")
        raise DISK_FULL

    monkeypatch.setattr(white, "save", failing_save)
    with pytest.raises(OSError, match="No space left"):
        save_image(path, white)
    assert path.read_bytes() == before
    assert list(tmp_path.rglob("*.*")) == [path]


def test_durable_write_reaches_the_disk_before_it_replaces_the_file(tmp_path, monkeypatch):
    calls, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda *args: [calls.append("fsync"), fsync(*args)])
    monkeypatch.setattr(os, "replace", lambda *args: [calls.append("replace"), replace(*args)])
    for durable in (False, True):
        with atomic_write(tmp_path / "a", durable) as file:
            file.write(b"data")
    assert calls == ["replace", "fsync", "replace"]


def test_two_processes_may_write_the_same_file(tmp_path):
    path = tmp_path / "config.yaml"
    with atomic_write(path) as first:
        with atomic_write(path) as second:
            second.write(b"second")
        assert path.read_bytes() == b"second"
        first.write(b"first")
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]


def test_remove_parts_removes_only_unfinished_files(tmp_path):
    for name in ("last.part", "records/00000.part", "records/00000.safetensors"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    remove_parts(tmp_path)
    assert [path.name for path in tmp_path.rglob("*.*")] == ["00000.safetensors"]
