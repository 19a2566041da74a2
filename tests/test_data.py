import functools
import json
import os
import re
import shutil
import sys
import threading
import warnings
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image
from small_sets import png, write_tar

from dcgan_inpaint.data import cache
from dcgan_inpaint.data.batches import EpochSampler, ImageDataset, make_dataloader
from dcgan_inpaint.data.cache import load_split
from dcgan_inpaint.data.decoding import central_square, to_array
from dcgan_inpaint.data.directories import find_images
from dcgan_inpaint.data.faces.source import Faces
from dcgan_inpaint.data.image_files import Cars, CelebA, Folder, TarShards
from dcgan_inpaint.data.library_sets import HuggingFace, TorchvisionSet
from dcgan_inpaint.data.loader import ImageDataModule
from dcgan_inpaint.data.sources import (
    OLD_SOURCE_TARGETS,
    check_description,
    describe,
    source_from_description,
)
from dcgan_inpaint.data.tar_files import find_tars
from dcgan_inpaint.data.utkface import UTKFace
from dcgan_inpaint.masks.mask_image import mask_file
from dcgan_inpaint.photos.reading import open_photo

REAL_CELEBA = Path(__file__).parents[2] / "shared" / "celeba"


def gradient(width, height):
    """Return an image whose red grows with the column and green with the row."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack(
        [columns * 255 // (width - 1), rows * 255 // (height - 1), rows * 0], -1
    ).astype(np.uint8)


def save(path, array=None, mode="RGB", **settings):
    image = Image.fromarray(gradient(40, 30) if array is None else array)
    image.convert(mode).save(path, **settings)
    return path


def decode(path, size, channels, crop):
    with Image.open(path) as image:
        return to_array(image, size, channels, crop)


# decoding


def test_central_square_is_the_crop_of_the_papers():
    image = Image.new("RGB", (178, 218))
    assert central_square(image, 108 / 178) == (35, 55, 143, 163)
    assert central_square(image, 0.60674157) == (
        35,
        55,
        143,
        163,
    )  # conf/data/celeba.yaml
    assert central_square(image, 1.0) == (0, 20, 178, 198)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "LA", "1", "CMYK", "I;16", "I", "F"])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_mode_decodes_to_the_same_image(tmp_path, mode, channels):
    gray = np.linspace(0, 255, 32)[None].repeat(24, 0).round()  # a left-to-right ramp
    path = tmp_path / "image.tif"
    if mode == "I;16":
        Image.fromarray((gray * 257).astype(np.uint16)).save(path)
    elif mode == "I":
        Image.fromarray((gray * 257).astype(np.int32)).save(path)
    elif mode == "F":
        Image.fromarray((gray / 255).astype(np.float32)).save(path)
    elif mode == "P":
        path = path.with_suffix(".png")
        Image.fromarray(gray.astype(np.uint8)).convert("P").save(path)
    else:
        Image.fromarray(gray.astype(np.uint8)).convert(mode).save(path)
    array = decode(path, 8, channels, crop=1.0)
    assert array.dtype == np.uint8
    assert array.shape == (channels, 8, 8)
    ramp = array.mean((0, 1))
    if mode == "1":  # dithered: only the trend remains
        assert ramp[:4].mean() + 60 < ramp[4:].mean()
    else:
        expected = np.linspace(0, 255, 32)[4:28].reshape(8, 3).mean(1)
        np.testing.assert_allclose(ramp, expected, atol=6)


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I", "F"])
def test_intensities_depend_on_the_mode_and_not_on_the_values(mode):
    """A dark image of 16 bits stays dark, and so does a float image."""
    kind, white = {"I;16": ("<u2", 65535), "I;16B": (">u2", 65535), "I": ("<i4", 65535)}.get(
        mode, ("<f4", 1)
    )
    for highest in (0, 200 / 65535, 0.5, 1):
        values = np.linspace(0, highest * white, 8, dtype=kind)[None].repeat(8, 0)
        image = Image.fromarray(values)
        assert image.mode == mode
        expected = (values[0].astype(float) * 255 / white).round()
        np.testing.assert_array_equal(to_array(image, 8, 1, 1.0)[0, 0], expected)


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        (255, np.float32, "values range from 0 to 255. Use values from 0 to 1 in mode F"),
        (-0.5, np.float32, "values range from -0.5 to 0"),
        (np.nan, np.float32, "values range from nan to nan"),
        (np.inf, np.float32, "values range from 0 to inf"),
        (65536, np.int32, "values range from 0 to 65536. Use values from 0 to 65535 in mode I"),
        (-1, np.int32, "values range from -1 to 0"),
    ],
)
def test_values_outside_of_the_range_of_the_mode_are_named(tmp_path, value, kind, message):
    """In training images, photos and masks alike."""
    values = np.zeros((8, 8), kind)
    values[2, 3] = value
    path = tmp_path / "image.tif"
    Image.fromarray(values).save(path)
    (unreadable,) = Folder(str(tmp_path), 8).decode([str(path)])
    assert f"image.tif: cannot be read as an image ({message}" in str(unreadable)
    for read in (open_photo, lambda path: mask_file(str(path), 0.5, "white")):
        with pytest.raises(
            ValueError, match=re.escape(f"image.tif: cannot be read as an image ({message}")
        ):
            read(path)


def test_crop_is_central_and_resize_is_antialiased(tmp_path):
    path = save(tmp_path / "wide.png", gradient(101, 51))
    red, green, _ = decode(path, 51, 3, crop=1.0).astype(int)
    columns = np.arange(25, 76) * 255 // 100
    assert abs(red - columns).max() <= 1
    checkers = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    small = decode(save(tmp_path / "checkers.png", checkers, "L"), 8, 1, crop=1.0)
    assert abs(small.astype(int) - 127.5).max() < 20  # averaged
    half = decode(path, 10, 3, crop=0.5)
    assert half[1].min() > 60  # the rows near the top and the bottom are cut away
    assert half[1].max() < 195


def test_transparent_pixels_become_white(tmp_path):
    rgba = np.zeros((8, 8, 4), np.uint8)
    assert (decode(save(tmp_path / "clear.png", rgba, "RGBA"), 4, 3, 1.0) == 255).all()


def test_exif_rotation_is_applied(tmp_path):
    image = Image.fromarray(gradient(30, 30))
    exif = Image.Exif()
    exif[0x0112] = 6  # show the image rotated clockwise by 90 degrees
    image.save(tmp_path / "turned.png", exif=exif)
    turned = decode(tmp_path / "turned.png", 30, 3, 1.0)
    upright = np.rot90(gradient(30, 30), -1).transpose(2, 0, 1)
    np.testing.assert_array_equal(turned, upright)


# folders and file lists


@pytest.fixture
def tree(tmp_path):
    """120 small images of various sizes in two folders."""
    generator = np.random.default_rng(0)
    for i in range(120):
        folder = tmp_path / "tree" / f"{i % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        save(folder / f"{i:03d}.png", generator.integers(0, 255, (9 + i % 5, 12, 3), np.uint8))
    (tmp_path / "tree" / "notes.txt").write_text("no image")
    return tmp_path / "tree"


def test_folder_splits_by_content(tree):
    source = Folder(str(tree))
    splits = {name: source.items(name) for name in ("train", "val", "test")}
    assert sum(len(items) for items in splits.values()) == 120
    assert len(splits["train"]) > 90
    assert splits["val"]
    assert splits["test"]
    image = Path(splits["test"][0])
    moved = image.rename(tree / "renamed.png")
    copy = tree / "copy.png"
    copy.write_bytes(moved.read_bytes())
    assert {str(moved), str(copy)} <= set(Folder(str(tree)).items("test"))


def test_missing_folder_is_an_error():
    with pytest.raises(FileNotFoundError, match="data.root=nowhere: not a directory"):
        Folder("nowhere")


def test_find_images_accepts_files_folders_globs_and_lists(tree):
    assert len(find_images(str(tree))) == 120
    assert len(find_images(str(tree / "0" / "*.png"))) == 60
    assert [p.name for p in find_images(str(tree / "0" / "000.png"))] == ["000.png"]
    both = [str(tree / "1" / "001.png"), str(tree / "0" / "000.png")]
    assert [str(p) for p in find_images(both)] == both
    for nothing in (str(tree / "*.jpg"), str(tree / "gone.png")):
        with pytest.raises(ValueError, match="no image found"):
            find_images(nothing)


def test_files_that_are_not_images_are_ignored(tree, tmp_path, capsys):
    """In a training, among photos and among masks; they do not count as broken images."""
    count = len(Folder(str(tree)).items("train"))
    files = ("._000.png", ".ipynb_checkpoints/000.png", ".git/a/b.jpg", "__MACOSX/._000.png")
    files += ("Thumbs.db", "desktop.ini", "faces.h5", "clip.mpg", "clip.mp4", "plot.eps", "0/x.wmf")
    for name in files:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(b"not an image")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pictures, _ = load_split(Folder(str(tree), 8), "train", str(tmp_path / "cache"))
    assert len(pictures) == count
    for images in (str(tree), str(tree / "**"), f"{tree}/*/*"):
        assert len(find_images(images)) == 120
    assert len(mask_file(str(tree), 0.5, "white")) == 120
    (tree / "scan.dat").write_bytes((tree / "0" / "000.png").read_bytes())
    assert find_images(str(tree / "scan.dat")) == [tree / "scan.dat"]  # named explicitly


def test_symbolic_links_are_followed_without_endless_loops(tree, tmp_path):
    outside = tmp_path / "outside"
    (outside / "deep").mkdir(parents=True)
    save(outside / "a.png")
    save(outside / "deep" / "b.png")
    (tree / "link").symlink_to(outside)
    (tree / "c.png").symlink_to(outside / "a.png")
    (tree / "loop").symlink_to(tree)
    (tree / "0" / "up").symlink_to("..")
    (outside / "deep" / "back").symlink_to(tree)
    (outside / "self").symlink_to("self")
    (tree / "a link to a folder that is read already").symlink_to(tree / "1")
    names = {str(path.relative_to(tree)) for path in find_images(str(tree))}
    assert len(names) == 123
    assert {"link/a.png", "link/deep/b.png", "c.png", "0/000.png", "1/001.png"} <= names
    items = Folder(str(tree), 8).items
    assert sum(len(items(split)) for split in ("train", "val", "test")) == 123
    pattern = find_images(f"{tree}/**/*.png")
    assert {path.relative_to(tree).as_posix() for path in pattern} == names


def test_images_that_cannot_be_opened_are_reported_as_unreadable(tree):
    """A link to a missing file is no reason to stop, and not ignored either."""
    (tree / "gone.png").symlink_to(tree / "missing.png")
    source = Folder(str(tree), 8)
    items = [item for split in ("train", "val", "test") for item in source.items(split)]
    assert len(items) == 121
    (unreadable,) = source.decode([str(tree / "gone.png")])
    assert "gone.png: cannot be read as an image" in str(unreadable)


def test_a_folder_without_permission_is_an_error(tree, monkeypatch):
    """Its images are not left out silently.  The tests may run as root, who may read everything."""
    scan = os.scandir

    def scandir(path):
        if Path(path).name == "1":
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(ValueError, match=r"tree/1: cannot be read \(Permission denied\)"):
        find_images(str(tree))


def test_brackets_and_stars_in_names_stand_for_themselves(tmp_path):
    folder = tmp_path / "trip [2024]*"
    folder.mkdir()
    (tmp_path / "trip 2").mkdir()
    for name in ("a[1].png", "a1.png", "b?.png", "[x].png"):
        save(folder / name)
        save(tmp_path / "trip 2" / name)

    def names(pattern):
        return [str(path.relative_to(folder)) for path in find_images(str(folder / pattern))]

    assert names("") == ["[x].png", "a1.png", "a[1].png", "b?.png"]
    assert names("*.png") == names("")
    assert names("a[1].png") == ["a[1].png"]  # the file of this name
    assert names("a[0-9].png") == ["a1.png"]
    assert names("*[x].png") == ["[x].png"]  # nothing ends with x.png
    assert names("?1.png") == ["a1.png"]
    assert len(Folder(str(folder), 8)._percentiles) == 4


def test_shards_may_have_brackets_braces_and_stars_in_their_names(tmp_path):
    folder = tmp_path / "shards [a]"
    folder.mkdir()
    for name in ("x-{0..1}.tar", "x-0.tar", "y[1]-0.tar"):
        write_tar(folder / name, {f"{i}.png": png(gradient(8, 8)) for i in range(20)})
    for urls, expected in (
        ("x-{0..1}.tar", ["x-{0..1}.tar"]),
        ("x-{0..0}.tar", ["x-0.tar"]),
        ("x-*.tar", ["x-0.tar", "x-{0..1}.tar"]),
        ("y[1]-*.tar", ["y[1]-0.tar"]),
    ):
        assert [tar.name for tar in find_tars(str(folder / urls), "data.urls")] == expected


def test_hidden_members_of_a_tar_file_are_ignored(tmp_path):
    data = png(gradient(8, 8))
    write_tar(
        tmp_path / "a.tar",
        {f"./{i:02d}.png": data for i in range(20)}
        | {
            "__MACOSX/._00.png": b"",
            "./.cache/1.png": b"",
            "./._1.png": b"",
            "faces.h5": b"",
        },
    )
    source = TarShards(str(tmp_path / "a.tar"), 8)
    assert len(source.names(source.urls)) == 20


# CelebA


@pytest.fixture
def celeba(tmp_path):
    """A CelebA of 12 images, 4 per split."""
    folder = tmp_path / "celeba" / "img_align_celeba"
    folder.mkdir(parents=True)
    names = [f"{i:06d}.jpg" for i in range(1, 13)]
    for i, name in enumerate(names):
        save(folder / name, np.full((218, 178, 3), 20 * i, np.uint8), quality=95)
    lines = [f"{name} {i // 4}" for i, name in enumerate(names)]
    (tmp_path / "celeba" / "list_eval_partition.txt").write_text("\n".join(lines) + "\n")
    return tmp_path / "celeba"


def test_celeba_reads_folder_and_zip_alike(celeba):
    source = CelebA(str(celeba), image_size=8)
    assert source.items("val") == ["000005.jpg", "000006.jpg", "000007.jpg", "000008.jpg"]
    from_folder = source.decode(source.items("test"))
    assert [round(float(p.mean())) for p in from_folder] == [160, 180, 200, 220]
    with zipfile.ZipFile(celeba / "img_align_celeba.zip", "w") as archive:
        for path in sorted((celeba / "img_align_celeba").iterdir()):
            archive.write(path, f"img_align_celeba/{path.name}")
            path.unlink()
    (celeba / "img_align_celeba").rmdir()
    from_zip = CelebA(str(celeba), image_size=8).decode(source.items("test"))
    np.testing.assert_array_equal(from_folder, from_zip)


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_celeba_as_the_archive_of_kaggle_unpacks_it(celeba, kind):
    """A folder in a folder, and the splits as CSV."""
    expected = CelebA(str(celeba), 8).decode(["000009.jpg"])
    folder, nested = celeba / "img_align_celeba", celeba / "nested"
    folder.rename(nested)
    folder.mkdir()
    nested.rename(folder / "img_align_celeba")
    partition = celeba / "list_eval_partition.txt"
    csv = "image_id,partition\n" + partition.read_text().replace(" ", ",")
    partition.with_suffix(".csv").write_text(csv)
    partition.unlink()
    if kind == "zip":
        with zipfile.ZipFile(celeba / "img_align_celeba.zip", "w") as archive:
            for path in sorted(folder.rglob("*.jpg")):
                archive.write(path, f"img_align_celeba/img_align_celeba/{path.name}")
        shutil.rmtree(folder)
    source = CelebA(str(celeba), 8)
    assert source.items("test") == [f"{i:06d}.jpg" for i in range(9, 13)]
    np.testing.assert_array_equal(source.decode(["000009.jpg"]), expected)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<!DOCTYPE html><html>Quota exceeded</html>", "is not a complete zip file"),
        (b"", "is not a complete zip file"),
        ("cut", "is not a complete zip file"),
        ("other", "has no folder img_align_celeba/"),
    ],
)
def test_a_zip_file_that_is_not_celeba_is_a_one_line_error(celeba, content, message):
    """A web page instead of the file, or an incomplete download."""
    shutil.rmtree(celeba / "img_align_celeba")
    file = celeba / "img_align_celeba.zip"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("photos/1.jpg" if content == "other" else "img_align_celeba/1.jpg", b"1")
    if content == "cut":
        content = file.read_bytes()[:-30]
    if content != "other":
        file.write_bytes(content)
    with pytest.raises(ValueError, match=f"data.root=.*img_align_celeba.zip {message}") as error:
        CelebA(str(celeba), 8)
    assert "\n" not in str(error.value)


def test_a_failed_download_of_celeba_is_a_one_line_error(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gdown", SimpleNamespace())

    def download(*_, **__):
        raise RuntimeError("File not found or corrupted.")

    monkeypatch.setattr("torchvision.datasets.CelebA", download)
    with pytest.raises(ValueError, match=r"data.download=true: .*corrupted.*data.root="):
        CelebA(str(tmp_path / "celeba"), download=True)


@pytest.mark.parametrize("line", ["../x.jpg 0", "/etc/passwd 0", "a/../x.jpg 0", "000001.jpg"])
def test_celeba_partition_with_a_path_is_refused(celeba, line):
    """The list may come from anybody and must not lead to other directories."""
    with (celeba / "list_eval_partition.txt").open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(ValueError, match="list_eval_partition.txt: invalid line"):
        CelebA(str(celeba), 8)


def test_file_names_need_not_be_utf8(tmp_path):
    """Such files are decoded, and their cache is found again."""
    name, root = os.fsdecode(b"caf\xe9.png"), tmp_path / os.fsdecode(b"\xe9t\xe9")
    root.mkdir()
    for i in range(30):
        save(root / f"{i}{name}", np.full((8, 8, 3), i, np.uint8))
    folder = str(tmp_path / "cache")
    _, names = load_split(Folder(str(root), 8), "train", folder)
    assert names == load_split(Folder(str(root), 8), "train", folder)[1]
    assert all(path.endswith(name) for path in names)
    assert len(find_images(str(root))) == len(mask_file(str(root), 0.5, "white")) == 30


def test_names_of_celeba_need_not_be_utf8(celeba):
    name = os.fsdecode(b"caf\xe9 [1].jpg".replace(b" ", b"_"))
    (celeba / "img_align_celeba" / "000001.jpg").rename(celeba / "img_align_celeba" / name)
    partition = celeba / "list_eval_partition.txt"
    partition.write_bytes(os.fsencode(name) + b" 0\n")
    source = CelebA(str(celeba), 8)
    assert source.items("train") == [name]
    assert source.decode([name])[0].shape == (3, 8, 8)


def test_pipes_and_devices_are_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for images in (str(tmp_path / "pipe.png"), str(tmp_path / "*.png"), "/dev/zero"):
        with pytest.raises(ValueError, match=r"(pipe.png|/dev/zero) is not a regular file"):
            find_images(images)
    with pytest.raises(ValueError, match="pipe.png is not a regular file"):
        mask_file(str(tmp_path / "pipe.png"), 0.5, "white")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"root": None}, "root=null: should be a valid string"),
        ({"root": ""}, "root=: "),
        ({"root": "x", "image_size": 0}, "image_size=0: should be greater"),
        ({"root": "x", "channels": 4}, "channels=4: should be 1 or 3"),
        ({"root": "x", "crop": 1.5}, "crop=1.5: should be less"),
    ],
)
@pytest.mark.parametrize("source", [CelebA, Folder])
def test_sources_refuse_bad_arguments(source, settings, message):
    with pytest.raises(ValueError, match=message):
        source(**settings)


def test_error_for_a_missing_celeba_names_the_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"img_align_celeba.zip.*data.download=true"):
        CelebA(str(tmp_path))
    with pytest.raises(ValueError, match="folder named celeba"):
        CelebA(str(tmp_path / "faces"), download=True)


@pytest.mark.skipif(not REAL_CELEBA.is_dir(), reason="the real CelebA is not beside the project")
def test_real_celeba_has_official_splits_and_centered_faces():
    source = CelebA(str(REAL_CELEBA))
    assert [len(source.items(split)) for split in ("train", "val", "test")] == [20000, 1500, 1500]
    pictures = np.stack(source.decode(source.items("val")[:32]))
    assert pictures.shape == (32, 3, 64, 64)
    red, _, blue = pictures[:, :, 20:44, 20:44].mean((0, 2, 3))
    assert red > blue + 20  # skin in the middle


# the cache


class Counting(Folder):
    """A folder that counts the images it decodes."""

    decoded = 0

    def decode(self, items):
        self.decoded += len(items)
        return super().decode(items)


def test_cache_is_built_once_and_rebuilt_for_edited_files(tree, tmp_path):
    source = Counting(str(tree), image_size=8)
    pictures, names = load_split(source, "train", str(tmp_path / "cache"))
    assert isinstance(pictures, np.memmap)
    assert pictures.shape == (len(names), 3, 8, 8)
    np.testing.assert_array_equal(pictures[5], decode(Path(names[5]), 8, 3, 1.0))
    count = source.decoded
    again, _ = load_split(source, "train", str(tmp_path / "cache"))
    np.testing.assert_array_equal(pictures, again)
    assert source.decoded == count
    gray = Counting(str(tree), image_size=8, channels=1)
    assert load_split(gray, "train", str(tmp_path / "cache"))[0].shape[1] == 1
    save(Path(names[0]), np.zeros((11, 13, 3), np.uint8))  # an edited file is a new cache
    source.decoded = 0
    load_split(source, "train", str(tmp_path / "cache"))
    assert source.decoded > 0


class Nested:
    """A custom source with its images in a folder below `root`."""

    image_size, channels, crop = 8, 3, 1.0

    def settings(self):
        return {"root": "images"}

    def items(self, split):
        return ["1.png"]


REPLACED = {
    "celeba": (lambda: CelebA("celeba"), "celeba/img_align_celeba/1.jpg"),
    "celeba_zip": (lambda: CelebA("zip"), "zip/img_align_celeba.zip"),
    "folder": (lambda: Folder("images"), "images/deep/1.png"),
    "utkface": (lambda: UTKFace("images"), "images/deep/1.png"),
    "cars": (lambda: Cars("cars", cut=True), "cars/cars_train/1.jpg"),
    "webdataset": (lambda: TarShards("1.tar"), "1.tar"),
    "torchvision": (lambda: TorchvisionSet("SVHN", "svhn", train="train"), "svhn/1.mat"),
    "huggingface": (lambda: HuggingFace("parquet"), "parquet/1.parquet"),
    "custom": (Nested, "images/deep/1.png"),
}


@pytest.mark.parametrize("name", REPLACED)
def test_a_replaced_file_leads_to_a_new_cache(tmp_path, monkeypatch, name):
    """Also if `root` is relative, or the files lie in a folder below it."""
    if name == "huggingface":
        pytest.importorskip("datasets", reason="needs the extra [huggingface]")
    monkeypatch.chdir(tmp_path)
    for _, file in REPLACED.values():
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).write_bytes(b"first")
    with zipfile.ZipFile("zip/img_align_celeba.zip", "w") as archive:
        archive.writestr("img_align_celeba/1.jpg", b"first")
    for root in ("celeba", "zip"):
        Path(root, "list_eval_partition.txt").write_text("1.jpg 0\n")
    build, file = REPLACED[name]
    items = {"folder": ["images/deep/1.png"], "utkface": ["images/deep/1.png"]}.get(name, ["1.jpg"])
    items = ["cars_train/1.jpg"] if name == "cars" else items
    key = cache.cache_key(build(), items)
    assert cache.cache_key(build(), items) == key
    Path(file).write_bytes(Path(file).read_bytes() + b"replaced")
    assert cache.cache_key(build(), items) != key


def test_replaced_celeba_images_are_decoded_again(celeba, tmp_path):
    """The images lie in a folder below `root`."""
    load = functools.partial(load_split, split="train", cache_dir=str(tmp_path / "cache"))
    assert load(CelebA(str(celeba), image_size=8))[0].mean((1, 2, 3)).tolist() == [0, 20, 40, 60]
    for i, path in enumerate(sorted((celeba / "img_align_celeba").iterdir())):
        save(path, np.full((218, 178, 3), 10 * i, np.uint8), quality=96)
    assert load(CelebA(str(celeba), image_size=8))[0].mean((1, 2, 3)).tolist() == [0, 10, 20, 30]


def test_killed_build_leaves_no_cache(tree, tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "CHUNK_IMAGES", 16)

    class Killed(Counting):
        def decode(self, items):
            if self.decoded >= 32:
                raise KeyboardInterrupt
            return super().decode(items)

    with pytest.raises(KeyboardInterrupt):
        load_split(Killed(str(tree), image_size=8), "train", str(tmp_path / "cache"))
    assert not caches(tmp_path / "cache")
    pictures, _ = load_split(Folder(str(tree), image_size=8), "train", str(tmp_path / "cache"))
    assert len(pictures) > 90


def caches(folder):
    """Return the contents of a cache directory except the lock files."""
    return [path for path in folder.iterdir() if path.suffix != ".lock"]


def test_second_build_waits_for_the_first(tree, tmp_path, capsys):
    """The second one decodes nothing."""
    started, folder = threading.Event(), str(tmp_path / "cache")

    class Slow(Counting):
        def decode(self, items):
            started.set()
            while "waiting for another run" not in "".join(errors):
                errors.append(capsys.readouterr().err)
            return super().decode(items)

    errors: list[str] = []
    first, second = Slow(str(tree), image_size=8), Counting(str(tree), image_size=8)
    with ThreadPoolExecutor() as pool:
        slow = pool.submit(load_split, first, "train", folder)
        assert started.wait(60)
        pictures, names = load_split(second, "train", folder)
        np.testing.assert_array_equal(slow.result()[0], pictures)
    assert first.decoded > 90
    assert second.decoded == 0
    assert len(caches(tmp_path / "cache")) == 1


DAMAGE = {
    "cut": ("images.bin", lambda data: data[:-1]),
    "empty": ("images.bin", lambda data: b""),
    "longer": ("images.bin", lambda data: data + b"0"),
    "a bit": ("images.bin", lambda data: data[:3000] + bytes([data[3000] ^ 1]) + data[3001:]),
    "names changed": ("names.json", lambda data: data.replace(b"7", b"8")),
    "names cut": ("names.json", lambda data: data[:50]),
    "no JSON": ("checksums.json", lambda data: data[:50]),
    "other checksums": ("checksums.json", lambda data: b'{"names": 1, "chunks": []}'),
    "names gone": ("names.json", None),
    "images gone": ("images.bin", None),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_cache_is_rebuilt(tree, tmp_path, monkeypatch, capsys, case):
    monkeypatch.setattr(cache, "CHUNK_IMAGES", 16)
    load = functools.partial(load_split, Folder(str(tree), 8), "train", str(tmp_path / "cache"))
    pictures, names = load()
    pictures = np.array(pictures)
    name, damage = DAMAGE[case]
    (folder,) = caches(tmp_path / "cache")
    data = (folder / name).read_bytes()
    (folder / name).unlink()
    if damage:
        (folder / name).write_bytes(damage(data))
    capsys.readouterr()
    again, named = load()
    np.testing.assert_array_equal(again, pictures)
    assert named == names
    said = capsys.readouterr().err
    assert said.count(f"{folder}: damaged, decoding the images again\n") == 1
    assert (folder / name).read_bytes() == data
    load()
    assert "damaged" not in capsys.readouterr().err


def test_cache_without_checksums_gets_them(tree, tmp_path):
    source = Counting(str(tree), image_size=8)
    load_split(source, "train", str(tmp_path / "cache"))
    (folder,) = caches(tmp_path / "cache")
    checksums = (folder / "checksums.json").read_bytes()
    (folder / "checksums.json").unlink()
    source.decoded = 0
    load_split(source, "train", str(tmp_path / "cache"))
    assert source.decoded == 0
    assert (folder / "checksums.json").read_bytes() == checksums


def test_leftovers_of_killed_builds_are_removed(tree, tmp_path):
    folder, source = tmp_path / "cache", Folder(str(tree), image_size=8)
    key = cache.cache_key(source, source.items("train"))
    for name in (f".{key}.building123", ".other8_0.building123", ".busy8_0.building123"):
        (folder / name).mkdir(parents=True)
        (folder / name / "images.bin").write_bytes(b"half")
    with FileLock(folder / ".busy8_0.lock"):
        load_split(source, "train", str(folder))
    left = {path.name for path in caches(folder)}
    assert left == {key, ".busy8_0.building123"}


def test_unwritable_cache_is_an_error(tree, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="cache_dir=.*file/cache: cannot be written"):
        load_split(Folder(str(tree), 8), "train", str(tmp_path / "file" / "cache"))

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache.json, "dumps", full)
    monkeypatch.setattr(cache, "cache_key", lambda *_: "key")
    with pytest.raises(ValueError, match=r"cannot be written \(No space left on device\)"):
        load_split(Folder(str(tree), 8), "train", str(tmp_path / "cache"))
    assert not caches(tmp_path / "cache")


def test_full_disk_is_an_error_before_decoding(tree, tmp_path, monkeypatch):
    """With exactly enough space, 3 x 8 x 8 bytes per image, the cache is built."""
    source = Counting(str(tree), 8)
    count = len(source.items("train"))
    for free in (count * 192 - 1, count * 192):
        usage = SimpleNamespace(free=free)
        monkeypatch.setattr(cache.shutil, "disk_usage", lambda _, usage=usage: usage)
        if free < count * 192:
            said = rf"cache_dir=.*: the train split of {count} images needs 0.02 GB"
            with pytest.raises(ValueError, match=said.replace("0.02", "0.00")):
                load_split(source, "train", str(tmp_path / "cache"))
            assert source.decoded == 0
    assert len(load_split(source, "train", str(tmp_path / "cache"))[0]) == count


def test_unreadable_images_are_named_skipped_and_counted(tree, tmp_path):
    for i in range(400):  # enough images for one unreadable image to be below 1%
        save(tree / f"more{i}.png", np.full((8, 8, 3), i % 256, np.uint8) + np.uint8(i // 256))
    good = len(Folder(str(tree)).items("train"))
    bad = 0
    while len(Folder(str(tree)).items("train")) == good:  # until it is in train
        bad += 1
        (tree / "bad.png").write_text(f"broken {bad}")
    with pytest.warns(UserWarning) as caught:
        pictures, names = load_split(Folder(str(tree), 8), "train", str(tmp_path / "cache"))
    (message,) = [str(w.message) for w in caught]  # one line, whatever the number of images
    assert f"skipped 1 of {good + 1} images in the train split, for example " in message
    assert "bad.png: cannot be read as an image" in message
    assert len(pictures) == len(names) == good


def test_many_unreadable_images_or_no_images_are_errors(tree, tmp_path):
    for i in range(40):
        (tree / f"bad{i}.png").write_text(f"broken {i}")
    with (
        warnings.catch_warnings(),
        pytest.raises(
            ValueError,
            match=r"\d+ of \d+ images in the train split cannot be read.*1%.* example .*bad",
        ),
    ):
        warnings.simplefilter("error")
        load_split(Folder(str(tree), 8), "train", str(tmp_path / "cache"))
    assert not caches(tmp_path / "cache")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no images in the train split"):
        load_split(Folder(str(tmp_path / "empty")), "train", str(tmp_path / "cache"))


# batches and order


def images_of(n, **settings):
    values = np.arange(n, dtype=np.uint8)[:, None, None, None]
    ramp = np.arange(4, dtype=np.uint8)[None, None, None]
    return ImageDataset(values + 50 * ramp + np.zeros((1, 3, 4, 1), np.uint8), [], **settings)


def test_batches_have_range_index_and_order():
    loader = make_dataloader(images_of(10), 4)
    got = list(loader)
    assert [len(batch["image"]) for batch in got] == [4, 4, 2]
    assert torch.cat([batch["index"] for batch in got]).tolist() == list(range(10))
    extremes = ImageDataset(np.array([0, 255], np.uint8).reshape(2, 1, 1, 1), [])
    assert extremes.__getitems__([0, 1])["image"].flatten().tolist() == [-1, 1]


def test_flip_depends_on_seed_epoch_and_image():
    pictures = images_of(64, flip=True)
    plain = images_of(64).__getitems__(list(range(64)))["image"]

    def flipped(indices):
        images = pictures.__getitems__(indices)["image"]
        same = (images == plain[indices]).flatten(1).all(1)
        mirrored = (images == plain[indices].flip(3)).flatten(1).all(1)
        assert (same ^ mirrored).all()
        return mirrored

    first = flipped(list(range(64)))
    assert 16 < first.sum() < 48
    assert torch.equal(flipped([7, 3]), first[[7, 3]])  # whatever the batch
    pictures.epoch = 1
    assert not torch.equal(flipped(list(range(64))), first)


def test_labels_are_valid_file_names(tmp_path):
    names = ["a/face.png", f"{'x' * 250}.jpg", os.fsdecode(b"caf\xe9.png"), f"{'ä' * 120}.png"]
    labels = ImageDataset(np.zeros((4, 1, 2, 2), np.uint8), names).labels
    assert labels[:3] == ["00000_face", f"00001_{'x' * 200}", "00002_caf\N{REPLACEMENT CHARACTER}"]
    assert labels[3] == f"00003_{'ä' * 100}"
    for label in labels:
        (tmp_path / f"{label}.png").touch()
        assert label.encode().decode() == label


def test_split_smaller_than_required_is_an_error(tree, tmp_path):
    data = ImageDataModule(Faces(16, test_size=1), str(tmp_path))
    assert len(data.split("test")) == 1
    with pytest.raises(ValueError, match="the test split has 1 image, and at least 2 are needed"):
        data.split("test", least=2)


def test_limit_decodes_images_at_equal_distances_into_a_cache_of_their_own(tmp_path):
    source = Faces(16, train_size=10, val_size=3)
    limited = ImageDataModule(source, str(tmp_path), batch_size=2, limit=4)
    complete = ImageDataModule(source, str(tmp_path), batch_size=2)
    few, every = limited.split("train"), complete.split("train")
    assert few.names == [every.names[i] for i in (0, 2, 5, 7)]
    assert np.array_equal(few.images, every.images[[0, 2, 5, 7]])
    assert len(limited.split("val")) == 3  # has fewer
    assert [len(complete.split(split)) for split in ("train", "val")] == [10, 3]


def test_limit_is_at_least_a_batch_of_each_process(tmp_path):
    data = ImageDataModule(Faces(16, train_size=40), str(tmp_path), batch_size=8, limit=4)
    assert len(data.split("train")) == 8
    data.trainer = SimpleNamespace(global_rank=1, world_size=3)
    assert len(data.split("train")) == 24
    assert len(list(data.train_dataloader())) == 1


def test_order_is_a_permutation_determined_by_seed_and_epoch():
    def order(seed, epoch):
        sampler = EpochSampler(images_of(100), seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert sorted(order(0, 0)) == list(range(100))
    assert order(0, 3) == order(0, 3)
    assert len({tuple(order(s, e)) for s in (0, 1) for e in (0, 1)}) == 4


def test_training_batches_are_full_and_have_distinct_images(tree, tmp_path):
    data = ImageDataModule(Folder(str(tree), 8), str(tmp_path / "cache"), batch_size=32)
    data.prepare_data()
    got = list(data.train_dataloader())
    assert {len(batch["image"]) for batch in got} == {32}
    assert len({i for batch in got for i in batch["index"].tolist()}) == 32 * len(got)
    with pytest.raises(ValueError, match="exceeds the .* training image"):
        ImageDataModule(
            Folder(str(tree), 8), str(tmp_path / "cache"), batch_size=500
        ).prepare_data()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"source": "faces"}, "source=faces: should be an instance of Source"),
        ({"cache_dir": ""}, "cache_dir=: "),
        ({"batch_size": 0}, "batch_size=0: should be greater"),
        ({"flip": 1}, "flip=1: should be a valid boolean"),
        ({"seed": 0.5}, "seed=0.5: should be a valid integer"),
    ],
)
def test_data_module_refuses_bad_arguments(settings, message):
    with pytest.raises(ValueError, match=message):
        ImageDataModule(**{"source": Faces(), "cache_dir": "cache"} | settings)


# descriptions in checkpoints


def test_a_description_rebuilds_the_source(tree, celeba):
    sources = [
        Faces(image_size=16, channels=1, seed=3, train_size=5, val_size=6, test_size=7),
        Folder(str(tree), image_size=8, channels=1, crop=0.5),
        CelebA(str(celeba), image_size=8, crop=0.5),
    ]
    for source in sources:
        rebuilt = source_from_description(json.loads(json.dumps(describe(source))))
        assert type(rebuilt) is type(source)
        assert rebuilt.settings() == source.settings()
        for split in ("train", "val", "test"):
            assert rebuilt.items(split) == source.items(split)
    assert describe(sources[1]) == {
        "source": "folder",
        "root": str(tree),
        "image_size": 8,
        "channels": 1,
        "crop": 0.5,
    }
    with pytest.raises(ValueError, match="seed=-1: should be greater"):
        source_from_description({"source": "faces", "seed": -1})
    with pytest.raises(FileNotFoundError, match="data.root=gone: not a directory"):
        source_from_description({"source": "folder", "root": "gone"})


@pytest.mark.parametrize("target", OLD_SOURCE_TARGETS)
def test_targets_of_old_checkpoints_are_looked_up(target):
    """Old checkpoints name a class instead of a source; the class is not imported."""
    name = target.rpartition(".")[2].lower()
    names = {"torchvisionset": "torchvision", "tars": "webdataset"}
    description = check_description({"_target_": target, "image_size": 16, "download": False})
    assert description == {"source": names.get(name, name), "image_size": 16}


@pytest.mark.parametrize("target", ["dcgan_inpaint.data.batches.ImageDataset", "os.system", 5, []])
def test_other_targets_are_refused(target):
    with pytest.raises(ValueError, match="choose one of celeba, faces"):
        check_description({"_target_": target, "source": "faces"})


def test_names_are_stored_as_json(tree, tmp_path):
    load_split(Folder(str(tree), 8), "val", str(tmp_path / "cache"))
    (folder,) = caches(tmp_path / "cache")
    names = json.loads((folder / "names.json").read_text())
    assert (folder / "images.bin").stat().st_size == len(names) * 3 * 8 * 8


# Keys of version 0.3: with another key, users would decode their images again.
CACHE_KEYS = {
    "faces": "faces16_0469723d03e32b75",
    "folder": "folder16_82e7f1cf39abcd78",
    "celeba": "celeba64_d85c4136effe47a0",
    "cars": "cars16_2574ed16a55b390e",
    "torchvision": "torchvision32_068b402484fd6827",
    "huggingface": "huggingface16_97a80efba17f0197",
    "webdataset": "webdataset16_bc036b9ad198910d",
    "custom": "Own8_2113e27a69cadd0f",
}
FILES = (
    *("images/1.png", "celeba/img_align_celeba/1.jpg", "celeba/list_eval_partition.txt"),
    *("cars/cars_train/1.jpg", "cars/devkit/cars_train_annos.mat", "svhn/train_32x32.mat"),
    *("parquet/train.parquet", "1.tar"),
)


class Own:
    image_size, channels, crop = 8, 3, 1.0

    def settings(self):
        return {"root": "images"}


def source_of(name):
    if name == "huggingface":
        pytest.importorskip("datasets", reason="needs the extra [huggingface]")
    return {
        "faces": lambda: Faces(image_size=16, seed=3),
        "folder": lambda: Folder("images", 16),
        "celeba": lambda: CelebA("celeba"),
        "cars": lambda: Cars("cars", 16, cut=True),
        "torchvision": lambda: TorchvisionSet("SVHN", "svhn", 32, train="train", test="test"),
        "huggingface": lambda: HuggingFace("parquet", 16, column="image", test="test"),
        "webdataset": lambda: TarShards("1.tar", 16, 1, 0.5),
        "custom": Own,
    }[name]()


@pytest.mark.parametrize("name", CACHE_KEYS)
def test_cache_keys_do_not_change(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    for file in map(Path, FILES):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("1.jpg 0\n" if file.name.endswith(".txt") else "0 1\n")
        os.utime(file, ns=(0, 1_700_000_000_000_000_000))
    with monkeypatch.context() as patch:  # relative paths, for keys that do not depend on tmp_path
        patch.setattr(Path, "resolve", lambda self, strict=False: self)
        assert cache.cache_key(source_of(name), ["1.png", "a"]) == CACHE_KEYS[name]
