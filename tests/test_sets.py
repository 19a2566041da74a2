"""Data sets in their published formats, from small files that the tests write."""

import gzip
import hashlib
import pickle
import re
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image
from small_sets import (
    noise,
    png,
    write_cars,
    write_cifar10,
    write_fashion_mnist,
    write_parquet,
    write_svhn,
    write_tar,
)
from torchvision import datasets

from dcgan_inpaint.data.cache import cache_key, load_split
from dcgan_inpaint.data.decoding import UnreadableImage
from dcgan_inpaint.data.image_files import Cars, TarShards
from dcgan_inpaint.data.library_sets import HuggingFace, TorchvisionSet
from dcgan_inpaint.data.sources import check_description, describe, source_from_description
from dcgan_inpaint.models.checkpoint import load_model

PUBLISHED = {"train": "train", "test": "test"}


def md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.fixture
def svhn(tmp_path, monkeypatch):
    """An SVHN of 60 and 10 images whose checksums torchvision accepts."""
    levels = noise(70, 32, 32, 3)
    images = {"train": levels[:60], "test": levels[60:]}
    write_svhn(tmp_path, **images)
    files = {part: tmp_path / f"{part}_32x32.mat" for part in images}
    known = {part: ["", path.name, md5(path)] for part, path in files.items()}
    monkeypatch.setattr(datasets.SVHN, "split_list", known)
    return tmp_path, images


def test_svhn_keeps_every_pixel_and_is_enlarged_smoothly(svhn, tmp_path):
    root, images = svhn
    source = TorchvisionSet("SVHN", str(root), 32, **PUBLISHED)
    test = np.stack(source.decode(source.items("test")))
    np.testing.assert_array_equal(test, images["test"].transpose(0, 3, 1, 2))
    assert source.items("test") == [f"test/{i:07d}" for i in range(10)]
    gray = TorchvisionSet("SVHN", str(root), 32, channels=1, **PUBLISHED)
    luma = images["test"][0] @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(gray.decode(["test/0000000"])[0][0], luma, atol=1)
    large = TorchvisionSet("SVHN", str(root), 64, **PUBLISHED).decode(["test/0000003"])[0]
    means = large.reshape(3, 32, 2, 32, 2).mean((2, 4))
    assert large.shape == (3, 64, 64)
    assert np.corrcoef(means.ravel(), test[3].ravel())[0, 1] > 0.98
    mapped, names = load_split(source, "test", str(tmp_path / "cache"))
    assert isinstance(mapped, np.memmap)
    assert names == source.items("test")
    np.testing.assert_array_equal(mapped, test)


def test_validation_split_is_held_out_from_training(svhn):
    root, images = svhn
    source = TorchvisionSet("SVHN", str(root), 32, **PUBLISHED)
    train, val = source.items("train"), source.items("val")
    assert val == [f"train/{i:07d}" for i in (6, 26, 46)]
    assert sorted(train + val) == [f"train/{i:07d}" for i in range(60)]
    np.testing.assert_array_equal(
        source.decode(val[1:2])[0], images["train"][26].transpose(2, 0, 1)
    )
    cut = TorchvisionSet("SVHN", str(root), 32, train="train")
    splits = [set(cut.items(split)) for split in ("train", "val", "test")]
    assert [len(items) for items in splits] == [54, 3, 3]
    assert len(set.union(*splits)) == 60
    own = TorchvisionSet("SVHN", str(root), 32, train="train", val="test", test="test")
    assert len(own.items("train")) == 60
    assert own.items("val") == own.items("test") == [f"test/{i:07d}" for i in range(10)]


def test_each_part_is_opened_once(svhn, tmp_path_factory, monkeypatch):
    """Opened once to count and once to decode, not for each image or thread."""
    opened, folder = [], str(tmp_path_factory.mktemp("cache"))  # not below the set's own root
    open_part = TorchvisionSet._open
    monkeypatch.setattr(
        TorchvisionSet, "_open", lambda self, part: opened.append(part) or open_part(self, part)
    )
    for expected in (["train", "test", "train"], ["train", "test"]):
        source = TorchvisionSet("SVHN", str(svhn[0]), 16, **PUBLISHED)
        for split in ("train", "val", "test"):
            source.items(split)
        for split in ("train", "val"):
            load_split(source, split, folder)
        assert opened == expected
        opened.clear()


def test_changed_file_changes_the_cache_key(svhn):
    root, _ = svhn
    source = TorchvisionSet("SVHN", str(root), 32, **PUBLISHED)
    items = source.items("test")
    key = cache_key(source, items)
    assert key == cache_key(TorchvisionSet("SVHN", str(root), 32, **PUBLISHED), items)
    (root / "train_32x32.mat").touch()
    assert cache_key(source, items) == key  # computed once per source
    assert cache_key(TorchvisionSet("SVHN", str(root), 32, **PUBLISHED), items) != key


def test_fashion_mnist_decodes_to_gray_or_equal_channels(tmp_path):
    levels = noise(46, 28, 28)
    write_fashion_mnist(tmp_path, levels[:40], levels[40:])
    gray = TorchvisionSet("FashionMNIST", str(tmp_path), 28, channels=1, **PUBLISHED)
    np.testing.assert_array_equal(np.stack(gray.decode(gray.items("test")))[:, 0], levels[40:])
    assert len(gray.items("train")) == 38
    color = TorchvisionSet("FashionMNIST", str(tmp_path), 28, **PUBLISHED)
    (image,) = color.decode(["train/0000006"])
    np.testing.assert_array_equal(image, levels[6][None].repeat(3, 0))


class Harmful:
    def __reduce__(self):
        return (sys.modules[__name__].harm, ())


def harm():
    raise AssertionError("a pickle was executed")


@pytest.fixture
def cifar(tmp_path, monkeypatch):
    """A CIFAR10 with one file per part, whose checksums torchvision accepts."""
    levels = noise(34, 3, 32, 32)
    folder = write_cifar10(tmp_path, data_batch_1=levels[:30], test_batch=levels[30:])
    known = {path.name: md5(path) for path in folder.iterdir()}
    for name, file in (("train_list", "data_batch_1"), ("test_list", "test_batch")):
        monkeypatch.setattr(datasets.CIFAR10, name, [[file, known[file]]])
    meta = {"filename": "batches.meta", "key": "label_names", "md5": known["batches.meta"]}
    monkeypatch.setattr(datasets.CIFAR10, "meta", meta)
    return tmp_path, levels[30:]


def test_cifar10_keeps_every_pixel(cifar):
    root, test_levels = cifar
    source = TorchvisionSet("CIFAR10", str(root), 32, **PUBLISHED)
    test = np.stack(source.decode(source.items("test")))
    np.testing.assert_array_equal(test, test_levels)


@pytest.mark.parametrize("name", ["data_batch_1", "test_batch", "batches.meta"])
def test_modified_pickle_is_not_opened(cifar, name):
    root, _ = cifar
    (root / "cifar-10-batches-py" / name).write_bytes(pickle.dumps(Harmful()))
    source = TorchvisionSet("CIFAR10", str(root), 32, **PUBLISHED)
    with pytest.raises(ValueError, match=r"data.name=CIFAR10 data.test=test .*corrupted"):
        source.items("test")


def test_sets_that_unpickle_without_a_checksum_are_refused(tmp_path):
    with pytest.raises(ValueError, match="data.name=LSUN: choose one of CIFAR10, "):
        TorchvisionSet("LSUN", str(tmp_path))


def test_set_with_a_single_part_is_split_by_holdout(tmp_path):
    folder = tmp_path / "eurosat" / "2750" / "Forest"
    folder.mkdir(parents=True)
    for i in range(40):
        Image.new("RGB", (64, 64), (i, 0, 0)).save(folder / f"Forest_{i:03d}.png")
    source = TorchvisionSet("EuroSAT", str(tmp_path), 16)
    reds = {s: [int(p[0, 0, 0]) for p in source.decode(source.items(s))] for s in ("val", "test")}
    assert reds == {"val": [6, 26], "test": [16, 36]}
    assert len(source.items("train")) == 36
    with pytest.raises(
        ValueError,
        match="data.train=train: the data set has a single part. Use data.train=null",
    ):
        TorchvisionSet("EuroSAT", str(tmp_path), 16, train="train").items("train")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "SHVN"}, "data.name=SHVN: choose one of .*SVHN"),
        ({"name": "os"}, "data.name=os: choose one of"),
        ({"name": "EMNIST", "train": "letters", "download": True}, "cannot download EMNIST"),
        ({"root": "gone"}, "data.root=gone: not a directory. Give the directory of SVHN"),
        ({"train": "dev"}, r"data.train=dev data.root=.*Valid values are \{'train'"),
        (
            {"train": None},
            "data.train=null: the data set has several parts. Set data.train=",
        ),
        (
            {"name": "CIFAR10", "train": "dev"},
            "data.train=dev: the data set has two parts. Use train or test",
        ),
        ({}, "data.name=SVHN data.train=train data.root=.*not found or corrupted"),
        ({"name": "MovingMNIST"}, "the samples begin with a Tensor, not with an image"),
    ],
)
def test_torchvision_sets_refuse_bad_arguments(tmp_path, settings, message):
    (tmp_path / "MovingMNIST").mkdir()
    np.save(tmp_path / "MovingMNIST" / "mnist_test_seq.npy", noise(20, 2, 64, 64))
    values = {"name": "SVHN", "root": str(tmp_path), "train": "train"} | settings
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        TorchvisionSet(**values).items("train")


def test_missing_scipy_is_named(svhn, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(
        ModuleNotFoundError, match="data.name=SVHN .*: needs scipy: pip install scipy"
    ):
        TorchvisionSet("SVHN", str(svhn[0]), **PUBLISHED).items("train")
    with pytest.raises(
        ModuleNotFoundError, match=r"data=cars needs SciPy. Install it: pip install -e .*mat"
    ):
        Cars(str(tmp_path))


# Cars


@pytest.fixture
def cars(tmp_path):
    write_cars(tmp_path, train=21, test=2)
    return tmp_path


def test_cars_are_cropped_to_their_boxes(cars):
    source = Cars(str(cars), image_size=16)
    assert source.items("test") == ["cars_test/00001.png", "cars_test/00002.png"]
    assert source.items("val") == ["cars_train/00007.png"]
    assert len(source.items("train")) == 20
    (image,) = source.decode(["cars_train/00007.png"])
    assert image.shape == (3, 16, 16)
    np.testing.assert_array_equal(image[:, :, :5].max((1, 2)), [100, 50, 0])
    np.testing.assert_array_equal(image[:, :, 11:].min((1, 2)), [200, 150, 6])
    assert Cars(str(cars), channels=1).decode(source.items("test"))[0].shape == (1, 64, 64)


def test_box_outside_its_image_is_unreadable(cars):
    Image.new("RGB", (20, 20)).save(cars / "cars_test" / "00001.png")
    found = Cars(str(cars)).decode(["cars_test/00001.png"])[0]
    assert isinstance(found, UnreadableImage)


@pytest.mark.parametrize("name", ["../hole.png", "/etc/passwd", "a/b.png"])
def test_annotations_with_a_path_are_refused(cars, name):
    file = cars / "devkit" / "cars_test_annos.mat"
    rows = scipy.io.loadmat(file)["annotations"]
    rows["fname"][0, 0] = name
    scipy.io.savemat(file, {"annotations": rows})
    with pytest.raises(ValueError, match="cars_test_annos.mat: .*expected a file name and a box"):
        Cars(str(cars))


def test_cropped_cars_need_no_annotations(cars):
    """Images are stretched to squares; without cars_test/, 1 in 20 is held out."""
    whole = Cars(str(cars), 16, cut=True)
    (image,) = whole.decode(["cars_train/00007.png"])
    corners = image[:, [0, 0, -1, -1], [0, -1, 0, -1]]
    np.testing.assert_array_equal(corners.T, [[0, 128, 0]] * 4)
    # the box is rows 5 to 15 of 40, and brown from column 10 to 30 of 60
    assert abs(image[:, 4, 4].astype(int) - [100, 50, 0]).max() < 30
    assert len(whole.items("test")) == 2
    shutil.rmtree(cars / "devkit")
    shutil.rmtree(cars / "cars_test")
    cut = Cars(str(cars), 16, cut=True)
    assert (cut.items("val"), cut.items("test")) == (
        ["cars_train/00007.png"],
        ["cars_train/00017.png"],
    )
    assert len(cut.items("train")) == 19
    assert source_from_description(describe(cut)).settings() == cut.settings()
    with pytest.raises(FileNotFoundError, match="data.root=gone: .* Put cars_train/ there"):
        Cars("gone", cut=True)


def test_cars_in_a_folder_in_a_folder_are_found(cars):
    """The archive of Kaggle has this layout."""
    expected = {cut: Cars(str(cars), 16, cut=cut) for cut in (False, True)}
    images = {cut: source.decode(source.items("test")) for cut, source in expected.items()}
    for name in ("cars_train", "cars_test"):
        (cars / name).rename(cars / "nested")
        (cars / name).mkdir()
        (cars / "nested").rename(cars / name / name)
    for cut, source in expected.items():
        nested = Cars(str(cars), 16, cut=cut)
        assert nested.items("train") == source.items("train")
        np.testing.assert_array_equal(nested.decode(nested.items("test")), images[cut])


def test_cropped_cars_in_folders_keep_their_paths(cars):
    (cars / "cars_train" / "audi").mkdir()
    (cars / "cars_train" / "00001.png").rename(cars / "cars_train" / "audi" / "00001.png")
    source = Cars(str(cars), 16, cut=True)
    assert "cars_train/audi/00001.png" in source.items("train")
    assert source.decode(["cars_train/audi/00001.png"])[0].shape == (3, 16, 16)


def test_missing_cars_are_an_error(cars):
    (cars / "devkit" / "cars_test_annos.mat").write_bytes(b"text")
    with pytest.raises(ValueError, match="cars_test_annos.mat: expected a list of cars"):
        Cars(str(cars))
    (cars / "devkit" / "cars_train_annos.mat").unlink()
    with pytest.raises(FileNotFoundError, match="Put cars_train/ and devkit/cars_train_annos.mat"):
        Cars(str(cars))


# tar files as WebDataset writes them


@pytest.fixture
def tars(tmp_path):
    """Three tar files of 20 images, each with a label and a pickle; returns the images too."""
    levels = noise(60, 8, 8, 3)
    for shard in range(3):
        members = {}
        for i in range(20 * shard, 20 * shard + 20):
            members[f"{i:04d}.png"] = png(levels[i])
            members[f"{i:04d}.cls"] = b"3"
            members[f"{i:04d}.pyd"] = pickle.dumps(Harmful())
        write_tar(tmp_path / f"shards-{shard + 8:03d}.tar", members)
    return tmp_path, levels.transpose(0, 3, 1, 2)


def test_tars_yield_every_image_in_order(tars, tmp_path):
    """Other members are not opened."""
    root, levels = tars
    source = TarShards(f"{root}/shards-{{008..010}}.tar", 8)
    train, val, test = (source.items(split) for split in ("train", "val", "test"))
    assert (len(train), len(val), len(test)) == (54, 3, 3)
    assert val[1] == f"{root}/shards-009.tar/0026.png"
    np.testing.assert_array_equal(np.stack(source.decode(val)), levels[[6, 26, 46]])
    np.testing.assert_array_equal(np.stack(source.decode(test)), levels[[16, 36, 56]])
    mapped, names = load_split(source, "train", str(tmp_path / "cache"))
    assert names == train
    kept = [i for i in range(60) if i % 20 not in (6, 16)]
    np.testing.assert_array_equal(mapped, levels[kept])
    assert TarShards(f"{root}/shards-0*.tar", 8).items("train") == train
    parts = TarShards(f"{root}/shards-{{008..009}}.tar", 8, test_urls=f"{root}/shards-010.tar")
    assert [len(parts.items(split)) for split in ("train", "val", "test")] == [38, 2, 20]


def test_changed_tar_changes_the_cache_key(tars):
    root, levels = tars
    source = TarShards(f"{root}/shards-008.tar", 8)
    key = cache_key(source, source.items("val"))
    write_tar(root / "shards-008.tar", {f"{i:04d}.png": png(levels[0, 0]) for i in range(20)})
    again = TarShards(f"{root}/shards-008.tar", 8)
    assert again.items("val") == source.items("val")
    assert cache_key(again, again.items("val")) != key


@pytest.mark.parametrize(
    ("urls", "error", "message"),
    [
        ("pipe:touch {root}/run", ValueError, "data.urls=pipe:.*expected a path"),
        ("https://a.example/b.tar", ValueError, "data.urls=https:.*expected a path"),
        ("{root}/shards-{{008..011}}.tar", FileNotFoundError, "shards-011.tar does not exist"),
        (
            "{root}/shards-{{000..999999999}}.tar",
            FileNotFoundError,
            "shards-000.tar does not exist",
        ),
        ("{root}/*.tgz", FileNotFoundError, r"data.urls=.*\*.tgz does not exist"),
    ],
)
def test_urls_without_tar_files_are_errors(tars, urls, error, message):
    root, _ = tars
    with pytest.raises(error, match=message):
        TarShards(urls.format(root=root), 8)
    assert not (root / "run").exists()


def test_compressed_tar_is_refused(tars):
    root, _ = tars
    whole = (root / "shards-008.tar").read_bytes()
    for content in (gzip.compress(whole), b"text" * 300):
        (root / "shards-008.tar").write_bytes(content)
        with pytest.raises(ValueError, match="shards-008.tar: not an uncompressed tar file"):
            TarShards(f"{root}/shards-008.tar", 8).items("train")


def test_truncated_tar_has_unreadable_images(tars):
    root, levels = tars
    source = TarShards(f"{root}/shards-008.tar", 8)
    items = source.items("train")
    file = root / "shards-008.tar"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    decoded = source.decode(items)
    np.testing.assert_array_equal(decoded[0], levels[0])
    assert isinstance(decoded[-1], UnreadableImage)


# parquet files as Hugging Face writes them


@pytest.fixture
def parquet(tmp_path, monkeypatch):
    """A folder in the layout of the Hub: 40 training images and 4 test images."""
    pytest.importorskip("datasets", reason="needs the extra [huggingface]")
    levels = noise(44, 8, 8, 3)
    files = [png(each) for each in levels]
    folder = tmp_path / "set" / "data"
    write_parquet(folder / "train-00000-of-00002.parquet", files[:20])
    write_parquet(folder / "train-00001-of-00002.parquet", files[20:40])
    write_parquet(folder / "test-00000-of-00001.parquet", files[40:])
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "hf"))
    return tmp_path / "set", levels.transpose(0, 3, 1, 2)


def test_hugging_face_keeps_every_pixel(parquet, tmp_path):
    root, levels = parquet
    source = HuggingFace(str(root), 8, test="test")
    assert source.items("val") == ["train/0000006", "train/0000026"]
    assert len(source.items("train")) == 38
    mapped, names = load_split(source, "test", str(tmp_path / "cache"))
    assert names == [f"test/{i:07d}" for i in range(4)]
    np.testing.assert_array_equal(mapped, levels[40:])
    np.testing.assert_array_equal(np.stack(source.decode(["train/0000026"])), levels[26:27])
    again = source_from_description(describe(source))
    assert again.settings() == source.settings()


def test_brackets_in_the_path_of_a_hugging_face_set_are_a_one_line_error(parquet):
    root, _ = parquet
    root.rename(root.with_name("set [1]"))
    with pytest.raises(ValueError, match=r"data.path=.*set \[1\]: .*Rename the folder"):
        HuggingFace(str(root.with_name("set [1]")), 8)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"split": "dev"}, 'data.path=.* data.split=dev: Unknown split "dev"'),
        ({"column": "photo"}, "data.column=photo: .* has only the columns image, label"),
        ({"column": "label"}, "data.column=label: .* has Value"),
    ],
)
def test_hugging_face_refuses_bad_arguments(parquet, settings, message):
    with pytest.raises(ValueError, match=message):
        HuggingFace(**{"path": str(parquet[0]), "image_size": 8} | settings).items("train")


def test_stored_paths_are_not_followed(parquet, tmp_path):
    root, _ = parquet
    Image.new("RGB", (8, 8)).save(tmp_path / "secret.png")
    import pyarrow
    from pyarrow import parquet as files

    stored = [{"bytes": None, "path": str(tmp_path / "secret.png")}] * 30
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    table = pyarrow.table({"image": pyarrow.array(stored, kind)})
    files.write_table(table, root / "data" / "test-00000-of-00001.parquet")
    (found,) = HuggingFace(str(root), 8, test="test").decode(["test/0000000"])
    assert isinstance(found, UnreadableImage)
    assert "the data set stores only the path of the image: use data=folder" in str(found)


def test_nothing_is_downloaded_without_download(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(
        FileNotFoundError, match="data.path=a/b: not a directory. Set data.download=true"
    ):
        HuggingFace("a/b")
    with pytest.raises(
        ModuleNotFoundError, match=r"data=huggingface needs datasets. Install it: pip install -e"
    ):
        HuggingFace(str(tmp_path))
    with pytest.raises(ValueError, match="data.download: unknown option of data=huggingface"):
        check_description({"source": "huggingface", "path": "a/b", "download": True})


def test_descriptions_rebuild_the_sources(svhn, cars, tars):
    sources = [
        TorchvisionSet("SVHN", str(svhn[0]), 32, channels=1, **PUBLISHED),
        Cars(str(cars), image_size=16),
        TarShards(f"{tars[0]}/shards-*.tar", 16, test_urls=f"{tars[0]}/shards-010.tar"),
    ]
    for source in sources:
        again = source_from_description(describe(source))
        assert type(again) is type(source)
        assert again.settings() == source.settings()
    described = describe(sources[0])
    assert described["name"] == "SVHN"
    assert "val" not in described  # held out from training
    with pytest.raises(ValueError, match="data.download: unknown option of data=torchvision"):
        check_description(described | {"download": True})


# commands in the documentation

README = (Path(__file__).parents[1] / "dcgan_inpaint" / "data" / "README.md").read_text()
LINES = re.findall(r"`(python train.py data=(?!celeba|balanced)\w+ [^`]*path/to[^`]*)`", README)
FAST = [
    *("data.image_size=16", "model.gf_dim=1", "model.df_dim=1", "trainer.max_epochs=1"),
    *("batch_size=4", "preview=0", "validate=0", "sample_metrics=0", "trainer.accelerator=cpu"),
    "trainer.enable_progress_bar=false",
]


def test_every_source_of_files_has_a_command():
    said = {re.search(r"data=(\w+)", line)[1] for line in LINES}
    assert said == {"folder", "torchvision", "svhn", "cars", "huggingface", "webdataset"}


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.split()[2])
def test_command_of_the_documentation_trains(run, svhn, tmp_path, monkeypatch, line):
    """Overrides make it small; the checkpoint leads to the images again."""
    if "huggingface" in line:
        pytest.importorskip("datasets", reason="needs the extra [huggingface]")
        monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "hf"))
        write_parquet(tmp_path / "path/to/parquet/train.parquet", [png(noise(20, 24, 3))] * 40)
    (tmp_path / "path/to/images").mkdir(parents=True)
    for i in range(40):
        Image.new("RGB", (20, 24), (i, 0, 0)).save(tmp_path / f"path/to/images/{i}.png")
    write_fashion_mnist(tmp_path / "path/to/set", *np.split(noise(50, 28, 28), [40]))
    (tmp_path / "path/to/svhn").symlink_to(svhn[0])
    (tmp_path / "path/to/cars").mkdir()
    write_cars(tmp_path / "path/to/cars", train=20, test=2)
    write_tar(
        tmp_path / "path/to/shards-000.tar", {f"{i}.png": png(noise(9, 9)) for i in range(40)}
    )
    monkeypatch.chdir(tmp_path)
    run("train.py", *shlex.split(line)[2:], *FAST, "output=run")
    model = load_model("run/weights.safetensors")
    assert model.trained_iterations > 0
    source = source_from_description(model.data)
    assert source.decode(source.items("train"))[0].shape == (source.channels, 16, 16)
