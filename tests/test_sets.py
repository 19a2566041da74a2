"""Sets of others in their own formats, from small files that are written here."""

import hashlib
import pickle
import sys

import numpy as np
import pytest
import scipy.io
from PIL import Image
from small_sets import noise, write_cars, write_cifar10, write_fashion_mnist, write_svhn
from torchvision import datasets

from dcgan_inpaint.data.cache import cache_key, load_split
from dcgan_inpaint.data.cars import Cars
from dcgan_inpaint.data.images import UnreadableImage
from dcgan_inpaint.data.sources import check_description, describe, from_description
from dcgan_inpaint.data.torchvision_sets import TorchvisionSet

PUBLISHED = {"train": "train", "test": "test"}


def md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.fixture
def svhn(tmp_path, monkeypatch):
    """60 and 10 pictures, with the checksums that torchvision holds them to."""
    levels = noise(70, 32, 32, 3)
    pictures = {"train": levels[:60], "test": levels[60:]}
    write_svhn(tmp_path, **pictures)
    files = {part: tmp_path / f"{part}_32x32.mat" for part in pictures}
    known = {part: ["", path.name, md5(path)] for part, path in files.items()}
    monkeypatch.setattr(datasets.SVHN, "split_list", known)
    return tmp_path, pictures


def test_svhn(svhn, tmp_path):
    """Every pixel of a part, as it is at 32 px; grey; enlarged as the paper does."""
    root, pictures = svhn
    source = TorchvisionSet("SVHN", str(root), 32, **PUBLISHED)
    test = np.stack(source.decode(source.items("test")))
    np.testing.assert_array_equal(test, pictures["test"].transpose(0, 3, 1, 2))
    assert source.items("test") == [f"test/{i:07d}" for i in range(10)]
    grey = TorchvisionSet("SVHN", str(root), 32, channels=1, **PUBLISHED)
    luma = pictures["test"][0] @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(grey.decode(["test/0000000"])[0][0], luma, atol=1)
    large = TorchvisionSet("SVHN", str(root), 64, **PUBLISHED).decode(["test/0000003"])[0]
    means = large.reshape(3, 32, 2, 32, 2).mean((2, 4))
    assert large.shape == (3, 64, 64)
    assert np.corrcoef(means.ravel(), test[3].ravel())[0, 1] > 0.98
    mapped, names = load_split(source, "test", str(tmp_path / "cache"))
    assert isinstance(mapped, np.memmap)
    assert names == source.items("test")
    np.testing.assert_array_equal(mapped, test)


def test_validation_is_cut_from_training(svhn):
    root, pictures = svhn
    source = TorchvisionSet("SVHN", str(root), 32, **PUBLISHED)
    train, val = source.items("train"), source.items("val")
    assert val == [f"train/{i:07d}" for i in (6, 26, 46)]
    assert sorted(train + val) == [f"train/{i:07d}" for i in range(60)]
    np.testing.assert_array_equal(
        source.decode(val[1:2])[0], pictures["train"][26].transpose(2, 0, 1)
    )
    cut = TorchvisionSet("SVHN", str(root), 32, train="train")
    splits = [set(cut.items(split)) for split in ("train", "val", "test")]
    assert [len(items) for items in splits] == [54, 3, 3]
    assert len(set.union(*splits)) == 60
    own = TorchvisionSet("SVHN", str(root), 32, train="train", val="test", test="test")
    assert len(own.items("train")) == 60
    assert own.items("val") == own.items("test") == [f"test/{i:07d}" for i in range(10)]


def test_another_file_is_another_cache(svhn):
    root, _ = svhn
    source = TorchvisionSet("SVHN", str(root), 32, **PUBLISHED)
    items = source.items("test")
    key = cache_key(source, items)
    assert key == cache_key(TorchvisionSet("SVHN", str(root), 32, **PUBLISHED), items)
    (root / "train_32x32.mat").touch()
    assert cache_key(source, items) != key


def test_fashion_mnist(tmp_path):
    """Grey pictures are grey levels, or three equal channels."""
    levels = noise(46, 28, 28)
    write_fashion_mnist(tmp_path, levels[:40], levels[40:])
    grey = TorchvisionSet("FashionMNIST", str(tmp_path), 28, channels=1, **PUBLISHED)
    np.testing.assert_array_equal(np.stack(grey.decode(grey.items("test")))[:, 0], levels[40:])
    assert len(grey.items("train")) == 38
    colour = TorchvisionSet("FashionMNIST", str(tmp_path), 28, **PUBLISHED)
    (picture,) = colour.decode(["train/0000006"])
    np.testing.assert_array_equal(picture, levels[6][None].repeat(3, 0))


class Harmful:
    def __reduce__(self):
        return (sys.modules[__name__].harm, ())


def harm():
    raise AssertionError("a pickle was run")


@pytest.fixture
def cifar(tmp_path, monkeypatch):
    """CIFAR10 of one file a part, whose checksums are those that torchvision knows."""
    levels = noise(34, 3, 32, 32)
    folder = write_cifar10(tmp_path, data_batch_1=levels[:30], test_batch=levels[30:])
    known = {path.name: md5(path) for path in folder.iterdir()}
    for name, file in (("train_list", "data_batch_1"), ("test_list", "test_batch")):
        monkeypatch.setattr(datasets.CIFAR10, name, [[file, known[file]]])
    meta = {"filename": "batches.meta", "key": "label_names", "md5": known["batches.meta"]}
    monkeypatch.setattr(datasets.CIFAR10, "meta", meta)
    return tmp_path, levels[30:]


def test_cifar10(cifar):
    root, test_levels = cifar
    source = TorchvisionSet("CIFAR10", str(root), 32, **PUBLISHED)
    test = np.stack(source.decode(source.items("test")))
    np.testing.assert_array_equal(test, test_levels)


@pytest.mark.parametrize("name", ["data_batch_1", "test_batch", "batches.meta"])
def test_a_pickle_that_is_not_the_published_one_is_not_opened(cifar, name):
    root, _ = cifar
    (root / "cifar-10-batches-py" / name).write_bytes(pickle.dumps(Harmful()))
    source = TorchvisionSet("CIFAR10", str(root), 32, **PUBLISHED)
    with pytest.raises(ValueError, match=r"data.name=CIFAR10 data.test=test .*corrupted"):
        source.items("test")


def test_what_unpickles_without_a_checksum_is_not_taken(tmp_path):
    with pytest.raises(ValueError, match="data.name=LSUN: choose one of CIFAR10, "):
        TorchvisionSet("LSUN", str(tmp_path))


def test_a_set_in_one_part(tmp_path):
    folder = tmp_path / "eurosat" / "2750" / "Forest"
    folder.mkdir(parents=True)
    for i in range(40):
        Image.new("RGB", (64, 64), (i, 0, 0)).save(folder / f"Forest_{i:03d}.png")
    source = TorchvisionSet("EuroSAT", str(tmp_path), 16)
    reds = {s: [int(p[0, 0, 0]) for p in source.decode(source.items(s))] for s in ("val", "test")}
    assert reds == {"val": [6, 26], "test": [16, 36]}
    assert len(source.items("train")) == 36
    with pytest.raises(
        ValueError, match="EuroSAT data.train=train: it is in one part: use data.train=null"
    ):
        TorchvisionSet("EuroSAT", str(tmp_path), 16, train="train").items("train")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "SHVN"}, "data.name=SHVN: choose one of .*SVHN"),
        ({"name": "os"}, "data.name=os: choose one of"),
        ({"name": "EMNIST", "train": "letters", "download": True}, "cannot fetch EMNIST"),
        ({"root": "gone"}, "data.root=gone is not a folder: give that of SVHN"),
        ({"train": "dev"}, r"data.train=dev data.root=.*Valid values are \{'train'"),
        ({"train": None}, "data.name=SVHN data.train=null: it is in parts: give data.train= the"),
        (
            {"name": "CIFAR10", "train": "dev"},
            "data.train=dev: it has the parts train and test alone",
        ),
        ({}, "data.name=SVHN data.train=train data.root=.*not found or corrupted"),
        ({"name": "MovingMNIST"}, "its samples begin with a Tensor, not with a picture"),
    ],
)
def test_errors_of_torchvision_sets(tmp_path, settings, message):
    (tmp_path / "MovingMNIST").mkdir()
    np.save(tmp_path / "MovingMNIST" / "mnist_test_seq.npy", noise(20, 2, 64, 64))
    values = {"name": "SVHN", "root": str(tmp_path), "train": "train"} | settings
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        TorchvisionSet(**values).items("train")


def test_without_scipy(svhn, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(
        ModuleNotFoundError, match="data.name=SVHN .* needs scipy: pip install scipy"
    ):
        TorchvisionSet("SVHN", str(svhn[0]), **PUBLISHED).items("train")
    with pytest.raises(ModuleNotFoundError, match=r"data=cars needs SciPy: pip install -e .*mat"):
        Cars(str(tmp_path))


# Cars


@pytest.fixture
def cars(tmp_path):
    write_cars(tmp_path, train=21, test=2)
    return tmp_path


def test_cars_are_cut_to_their_boxes(cars):
    source = Cars(str(cars), image_size=16)
    assert source.items("test") == ["cars_test/00001.png", "cars_test/00002.png"]
    assert source.items("val") == ["cars_train/00007.png"]
    assert len(source.items("train")) == 20
    (picture,) = source.decode(["cars_train/00007.png"])
    assert picture.shape == (3, 16, 16)
    np.testing.assert_array_equal(picture[:, :, :5].max((1, 2)), [100, 50, 0])
    np.testing.assert_array_equal(picture[:, :, 11:].min((1, 2)), [200, 150, 6])
    assert Cars(str(cars), channels=1).decode(source.items("test"))[0].shape == (1, 64, 64)


def test_a_box_outside_its_picture_is_no_picture(cars):
    Image.new("RGB", (20, 20)).save(cars / "cars_test" / "00001.png")
    found = Cars(str(cars)).decode(["cars_test/00001.png"])[0]
    assert isinstance(found, UnreadableImage)


@pytest.mark.parametrize("name", ["../hole.png", "/etc/passwd", "a/b.png"])
def test_a_list_of_cars_names_files_beside_each_other(cars, name):
    file = cars / "devkit" / "cars_test_annos.mat"
    rows = scipy.io.loadmat(file)["annotations"]
    rows["fname"][0, 0] = name
    scipy.io.savemat(file, {"annotations": rows})
    with pytest.raises(ValueError, match="cars_test_annos.mat: .*no picture and its box"):
        Cars(str(cars))


def test_cars_that_are_not_there(cars):
    (cars / "devkit" / "cars_test_annos.mat").write_bytes(b"text")
    with pytest.raises(ValueError, match="cars_test_annos.mat: no list of cars"):
        Cars(str(cars))
    (cars / "devkit" / "cars_train_annos.mat").unlink()
    with pytest.raises(FileNotFoundError, match="put cars_train/ and devkit/cars_train_annos.mat"):
        Cars(str(cars))


def test_descriptions(svhn, cars):
    sources = [
        TorchvisionSet("SVHN", str(svhn[0]), 32, channels=1, **PUBLISHED),
        Cars(str(cars), image_size=16),
    ]
    for source in sources:
        again = from_description(describe(source))
        assert type(again) is type(source)
        assert again.settings() == source.settings()
    described = describe(sources[0])
    assert described["name"] == "SVHN"
    assert "val" not in described  # cut from train
    with pytest.raises(ValueError, match="torchvision pictures have no 'download'"):
        check_description(described | {"download": True})
