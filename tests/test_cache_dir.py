"""The directory of decoded images where a user has no home directory."""

import pwd
import tempfile

import pytest

from dcgan_inpaint.composition import compose_config
from dcgan_inpaint.data import cache
from dcgan_inpaint.data.cache import DEFAULT_CACHE_DIR, load_split
from dcgan_inpaint.data.faces.source import Faces

SOURCE = Faces(image_size=16, train_size=1, val_size=1, test_size=1)


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    """An own directory for temporary files; `cache` has not chosen one yet."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    cache._temporary_root.cache_clear()
    yield
    cache._temporary_root.cache_clear()


@pytest.fixture(params=["no home", "home is no directory"])
def without_home(request, tmp_path, monkeypatch):
    def unknown(uid):
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    if request.param == "home is no directory":
        (tmp_path / "file").touch()
        monkeypatch.setenv("HOME", str(tmp_path / "file"))


def test_default_is_that_of_the_configuration(monkeypatch):
    monkeypatch.delenv("DCGAN_INPAINT_CACHE", raising=False)
    for command in ("train", "inpaint", "sample"):
        assert compose_config(command).cache_dir == DEFAULT_CACHE_DIR


def test_user_without_a_home_gets_a_private_directory(without_home, tmp_path, capsys):
    for split in ("train", "val"):
        assert len(load_split(SOURCE, split, DEFAULT_CACHE_DIR)[0]) == 1
    (root,) = tmp_path.glob("dcgan_inpaint-*")
    assert root.stat().st_mode & 0o777 == 0o700
    assert len(list(root.glob("faces16_*"))) == 2
    assert capsys.readouterr().err.count(f"using cache_dir={root}, because ") == 1


def test_directory_that_others_can_write_is_refused(without_home, tmp_path):
    """They could provide other images."""
    load_split(SOURCE, "train", DEFAULT_CACHE_DIR)
    (root,) = tmp_path.glob("dcgan_inpaint-*")
    root.chmod(0o777)
    cache._temporary_root.cache_clear()
    with pytest.raises(ValueError, match=f"cache_dir={root}: others can write it"):
        load_split(SOURCE, "train", DEFAULT_CACHE_DIR)


def test_directory_that_the_user_names_is_not_replaced(without_home, tmp_path):
    with pytest.raises(ValueError, match="^cache_dir=~/maps: "):
        load_split(SOURCE, "train", "~/maps")
    (tmp_path / "occupied").touch()
    with pytest.raises(ValueError, match="occupied: cannot be written"):
        load_split(SOURCE, "train", str(tmp_path / "occupied"))
