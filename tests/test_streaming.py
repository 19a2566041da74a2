"""Streaming of training images above data.cache_limit, from small tar files."""

import warnings
from collections import Counter

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small_sets import noise, png, write_parquet, write_tar

from dcgan_inpaint.data import streaming
from dcgan_inpaint.data.batches import ImageDataset
from dcgan_inpaint.data.cache import load_split
from dcgan_inpaint.data.image_files import TarShards
from dcgan_inpaint.data.library_sets import HuggingFace
from dcgan_inpaint.data.loader import ImageDataModule
from dcgan_inpaint.data.sources import describe, source_from_description
from dcgan_inpaint.data.streaming import StreamedBatches, shuffle_buffer

SHARDS, EACH, SIDE = 8, 40, 8
TRAIN = SHARDS * EACH * 18 // 20  # two in 20 are held out
BUFFER = 16  # images
LIMIT = BUFFER * 3 * SIDE**2 / 1e9  # GB


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Tar files with images of noise."""
    root = tmp_path_factory.mktemp("shards")
    levels = noise(SHARDS * EACH, SIDE, SIDE, 3)
    for shard in range(SHARDS):
        own = range(shard * EACH, (shard + 1) * EACH)
        write_tar(root / f"{shard}.tar", {f"{i:04d}.png": png(levels[i]) for i in own})
    return root


def source_of(root, limit=LIMIT):
    return TarShards(f"{root}/*.tar", SIDE, cache_limit=limit)


def test_limit_streams_images_at_equal_distances_or_none(shards, tmp_path):
    """A limited split that fits into the cache is not streamed."""
    source = source_of(shards)
    streamed = ImageDataModule(source, str(tmp_path), batch_size=8, limit=2 * BUFFER)
    batches = streamed.train_dataloader()
    assert isinstance(batches, StreamedBatches)
    assert batches.names == source.items("train")[:: TRAIN // (2 * BUFFER)]
    mapped = ImageDataModule(source, str(tmp_path), batch_size=8, limit=BUFFER)
    assert len(mapped.train_dataloader()) == 2


def order(streamed, epoch=0):
    streamed.set_epoch(epoch)
    return torch.cat([batch["index"] for batch in streamed]).tolist()


def test_stream_equals_the_memory_map(shards, tmp_path):
    """Each epoch has every image once, bitwise equal, in batches of the same layout."""
    mapped = ImageDataset(*load_split(source_of(shards), "train", str(tmp_path)), flip=True, seed=3)
    streamed = StreamedBatches(source_of(shards), 8, flip=True, seed=3)
    for epoch in (0, 1):
        mapped.epoch = epoch
        streamed.set_epoch(epoch)
        batches = list(streamed)
        assert len(batches) == len(streamed) == TRAIN // 8
        for batch in batches:
            expected = mapped.__getitems__(batch["index"].tolist())
            assert torch.equal(batch["image"], expected["image"])
            assert torch.equal(batch["index"], expected["index"])
            assert batch["image"].stride() == expected["image"].stride()
        assert sorted(torch.cat([b["index"] for b in batches]).tolist()) == list(range(TRAIN))


def test_order_depends_on_seed_and_epoch_only(shards):
    orders = {
        (seed, epoch): tuple(order(StreamedBatches(source_of(shards), 8, seed=seed), epoch))
        for seed in (0, 1)
        for epoch in (0, 1)
    }
    assert len(set(orders.values())) == 4
    one = StreamedBatches(source_of(shards), 12)
    assert [tuple(order(one, epoch)) for epoch in (0, 1, 0)] == [
        orders[0, epoch] for epoch in (0, 1, 0)
    ]
    assert next(iter(one))["index"].tolist() == list(orders[0, 0][:12])  # an interrupted epoch
    assert tuple(order(one)) == orders[0, 0]


def test_shards_are_shuffled_and_their_images_mixed(shards):
    """Images move farther than the buffer; those of a shard stay close, but not in order."""
    found = np.array(order(StreamedBatches(source_of(shards), 8)))
    ahead = found - np.arange(TRAIN)
    assert ahead.max() > 100  # the buffer alone would give 16
    first = found[: TRAIN // SHARDS] // (TRAIN // SHARDS)
    assert 2 <= len(set(first)) <= 3
    assert (np.diff(found) == 1).mean() < 0.2
    assert abs(np.corrcoef(found, np.arange(TRAIN))[0, 1]) < 0.9


def test_large_shard_is_read_in_pieces(shards, monkeypatch):
    monkeypatch.setattr(streaming, "PIECE_IMAGES", 10)
    streamed = StreamedBatches(source_of(shards), 8)
    assert max(map(len, streamed.pieces)) == 10
    assert sorted(order(streamed)) == list(range(TRAIN))


@pytest.mark.parametrize("size", [1, 2, 16, 2000])
def test_shuffle_buffer_yields_each_item_once(size):
    """No item comes more than `size` positions early; the order depends on the seed."""
    found = list(shuffle_buffer(iter(range(1000)), size, "a", 0))
    assert sorted(found) == list(range(1000))
    assert max(item - place for place, item in enumerate(found)) <= size
    assert found == list(shuffle_buffer(iter(range(1000)), size, "a", 0))
    if size > 1:
        assert found != list(shuffle_buffer(iter(range(1000)), size, "a", 1))
        late = np.array([place - item for place, item in enumerate(found)])
        assert late.max() > min(size, 1000) / 2


@pytest.mark.parametrize("shares", [2, 3, 5])
def test_processes_read_disjoint_images(shards, shares):
    """Every process has equally many batches, of other images in each epoch."""
    ranks = [
        StreamedBatches(source_of(shards), 8, rank=rank, world_size=shares)
        for rank in range(shares)
    ]
    parts = [[order(rank, epoch) for rank in ranks] for epoch in (0, 1)]
    assert {len(rank) for rank in ranks} == {TRAIN // shares // 8}
    for epoch in parts:
        assert {len(part) for part in epoch} == {len(ranks[0]) * 8}
        assert max(Counter(sum(epoch, start=[])).values()) == 1
    assert set(parts[0][0]) != set(parts[1][0])


def break_images(root, count):
    """Make the first images of the first tar unreadable."""
    levels = noise(EACH, SIDE, SIDE, 3)
    members = {f"{i:04d}.png": png(levels[i]) for i in range(EACH)}
    members |= {f"{i:04d}.png": b"no image" for i in range(count)}
    write_tar(root / "0.tar", members)


@pytest.fixture
def damaged(shards, tmp_path):
    for tar in shards.glob("*.tar"):
        (tmp_path / tar.name).write_bytes(tar.read_bytes())
    return tmp_path


def test_unreadable_image_is_replaced(damaged):
    """A warning names it, and another image repeats to keep the number of batches."""
    break_images(damaged, 1)
    for shares in (1, 2):
        ranks = [
            StreamedBatches(source_of(damaged), 8, rank=r, world_size=shares) for r in range(shares)
        ]
        with pytest.warns(UserWarning, match="skipped .*0.tar/0000.png: cannot be read"):
            found = Counter(sum((order(rank) for rank in ranks), start=[]))
        assert sum(found.values()) == TRAIN
        assert 0 not in found
        assert sorted(found.values()) == [1] * (TRAIN - 2) + [2]


def test_many_unreadable_images_are_an_error(damaged):
    """3 of 288 images are more than 1%."""
    break_images(damaged, 3)
    with warnings.catch_warnings(), pytest.raises(OSError, match="3 of 288 images in the train"):
        warnings.simplefilter("ignore")
        order(StreamedBatches(source_of(damaged), 8))


def test_limit_selects_map_or_stream(shards, tmp_path):
    """A split of exactly the limit is mapped; with one byte less it is streamed."""
    whole = TRAIN * 3 * SIDE**2
    for size, kind in ((whole, torch.utils.data.DataLoader), (whole - 1, StreamedBatches)):
        data = ImageDataModule(source_of(shards, size / 1e9), str(tmp_path / kind.__name__), 8)
        data.prepare_data()
        assert type(data.train_dataloader()) is kind
    assert not (tmp_path / "StreamedBatches").exists()
    assert len(data.split("val")) == 16
    with pytest.raises(ValueError, match="the train split of 288 images is 5.53e-05 GB decoded"):
        data.split("train")


@pytest.mark.parametrize(
    ("limit", "batch_size", "message"),
    [
        (LIMIT, BUFFER + 1, "cache_limit=3.072e-06: a batch of 17 images"),
        (0.0, 8, "cache_limit=0.0: should be greater than 0"),
        (-1.0, 8, "cache_limit=-1.0: should be greater than 0"),
        (float("nan"), 8, "cache_limit=nan: should be a finite number"),
    ],
)
def test_invalid_limits_are_refused(shards, tmp_path, limit, batch_size, message):
    with pytest.raises(ValueError, match=message):
        ImageDataModule(source_of(shards, limit), str(tmp_path), batch_size).prepare_data()


def test_validation_split_above_the_limit_is_an_error(shards, tmp_path):
    """The error comes before any image is decoded."""
    data = ImageDataModule(source_of(shards, 15 * 192 / 1e9), str(tmp_path / "cache"), 8)
    data.prepare_data()
    with pytest.raises(ValueError, match="cache_limit=2.88e-06: the val split of 16 images"):
        data.split("val")
    assert not (tmp_path / "cache").exists()


def test_description_does_not_contain_the_limit(shards):
    description = describe(source_of(shards))
    assert description == describe(source_of(shards, None))
    assert source_from_description(description).cache_limit is None


def test_hugging_face_stream_equals_the_memory_map(tmp_path, monkeypatch):
    pytest.importorskip("datasets", reason="needs the extra [huggingface]")
    levels = noise(80, SIDE, SIDE, 3)
    write_parquet(tmp_path / "set" / "train.parquet", [png(each) for each in levels])
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "hf"))
    source = HuggingFace(str(tmp_path / "set"), SIDE, cache_limit=LIMIT)
    mapped = ImageDataset(*load_split(source, "train", str(tmp_path / "cache")))
    batches = list(StreamedBatches(source, 8))
    assert sorted(torch.cat([b["index"] for b in batches]).tolist()) == list(range(72))
    for batch in batches:
        expected = mapped.__getitems__(batch["index"].tolist())["image"]
        assert torch.equal(batch["image"], expected)


# training

WORDS = [
    *("data=webdataset", "data.image_size=16", "trainer.accelerator=cpu", "batch_size=8"),
    *("trainer.enable_progress_bar=false", "model.gf_dim=2", "model.df_dim=2", "model.z_dim=5"),
    *("sample_every=4", "preview=2", "validate=3", "sample_metrics=8", "logger=null"),
]


@pytest.mark.slow
def test_streamed_training_resumes_exactly(run, shards, tmp_path):
    """There is no memory map of the training split, and 2 + 1 epochs equal 3."""
    cache = tmp_path / "cache"
    words = [*WORDS, f"data.urls={shards}/*.tar", "data.cache_limit=2e-5", f"cache_dir={cache}"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run("train.py", *words, "trainer.max_epochs=3", f"output={whole}")
    maps = [len((each / "images.bin").read_bytes()) // 768 for each in cache.glob("*/")]
    assert sorted(maps) == [16, 16]  # for validation and testing
    run("train.py", *words, "trainer.max_epochs=2", f"output={parts}")
    run("train.py", "trainer.max_epochs=3", f"resume={parts / 'last.ckpt'}")
    weights, others = (load_file(each / "weights.safetensors") for each in (whole, parts))
    assert all(value.isfinite().all() for value in weights.values())
    assert all(torch.equal(value, others[name]) for name, value in weights.items())
    other = ["data=webdataset", "data.cache_limit=null", f"resume={parts / 'last.ckpt'}"]
    said = run("train.py", *other, fails=True).stderr
    assert "was started with data.cache_limit=2e-05, not null" in said


def test_training_ends_with_one_line_for_unreadable_images(run, damaged):
    break_images(damaged, 5)
    words = [*WORDS, f"data.urls={damaged}/*.tar", "data.cache_limit=2e-5", "preview=0"]
    words += ["validate=0", "sample_metrics=0", f"output={damaged / 'run'}"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        said = run("train.py", *words, fails=True).stderr
    last = said.splitlines()[-1]
    assert last.startswith("error: 3 of 288 images in the train split cannot be read")
    assert f"output={damaged / 'run'} starts again" in last


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        ("0", "data.cache_limit=0: should be greater than 0"),
        ("1e-9", "data.cache_limit=1e-09: a batch of 8 images is 6.14e-06 GB"),
        ("7e-6", "data.cache_limit=7e-06: the val split of 16 images is 1.23e-05 GB"),
    ],
)
def test_bad_limit_is_a_one_line_error_before_training(run, shards, tmp_path, limit, message):
    words = [f"data.urls={shards}/*.tar", f"data.cache_limit={limit}", f"output={tmp_path / 'a'}"]
    words += [f"cache_dir={tmp_path / 'cache'}"]
    said = run("train.py", *WORDS, *words, fails=True).stderr
    assert f"error: {message}" in said
    assert not list(tmp_path.iterdir())
