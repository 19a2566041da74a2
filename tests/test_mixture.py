"""Mixtures of sources, UTKFace in CelebA's frame, and batches with unknown pixels."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dcgan_inpaint.cli.train import build_model
from dcgan_inpaint.composition import compose_config
from dcgan_inpaint.configs import check_config
from dcgan_inpaint.data.batches import ImageDataset, MixtureDataset, MixtureSampler
from dcgan_inpaint.data.decoding import UnreadableImage
from dcgan_inpaint.data.faces.source import Faces
from dcgan_inpaint.data.image_files import Folder, TarShards
from dcgan_inpaint.data.loader import ImageDataModule
from dcgan_inpaint.data.mixture import Mixture, mixed_order
from dcgan_inpaint.data.skin_tone import DARK_ITA, skin_tone
from dcgan_inpaint.data.sources import (
    build_source,
    check_complete,
    describe,
    source_from_description,
)
from dcgan_inpaint.data.utkface import UNKNOWN, UTKFace
from dcgan_inpaint.models.dcgan import DCGAN
from dcgan_inpaint.runs.resuming import FREE_IN_TRAINING, check_same_settings
from dcgan_inpaint.schemas import TrainConfig

REAL_UTKFACE = Path(__file__).parents[2] / "shared" / "utkface"
DARK, LIGHT = (60, 40, 30), (255, 219, 172)  # ITA -71 and 55 degrees


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """A UTKFace of 80 faces, half of them dark, with names as in the public release."""
    root = tmp_path_factory.mktemp("utkface")
    for i in range(80):
        color = np.array(DARK if i % 2 else LIGHT, np.uint8)
        array = np.tile(color, (200, 200, 1))
        array[0, 0] = i  # other contents, so that the split differs
        image = Image.fromarray(array)
        image.save(root / f"{20 + i}_{i % 2}_1_20170116{i:09d}.jpg.chip.jpg", quality=95)
    return root


# UTKFace in CelebA's frame


@pytest.mark.parametrize(
    ("size", "crop", "square", "box"),
    [
        (128, 142 / 178, (19, 40, 92), (19, 40, 111, 128)),  # the lowest 4 rows are outside
        (64, 108 / 178, (2, 16, 60), (2, 16, 62, 64)),  # the lowest 12 rows are outside
        # without a crop: 102 of 178 px, at x = 39 and y = 82 - 20, below the 20 rows cut away
        (178, 1.0, (39, 62, 102), (39, 62, 141, 164)),
        (64, 0.3, (-28, 0, 123), (0, 0, 64, 64)),  # 53 px at (62, 82), inside the face
    ],
)
def test_face_is_placed_where_celeba_shows_it(faces, size, crop, square, box):
    source = UTKFace(str(faces), size, 3, crop)
    assert source._face_square == square
    assert source.valid_box == box
    (array,) = source.decode(source.items("train")[:1])
    known = np.zeros((size, size), bool)
    known[box[1] : box[3], box[0] : box[2]] = True
    assert (array[:, ~known] == UNKNOWN).all()
    assert (array[:, known].std(1) < 3).all()  # one color, nothing leaks in


def test_rows_below_the_frame_are_cut_and_not_squeezed(tmp_path):
    """The face's rows count up from 0 to 199; 88 of 92 rows are visible at 128 px."""
    rows = np.tile(np.arange(200, dtype=np.uint8)[:, None], (1, 200))
    Image.fromarray(rows).save(tmp_path / "ramp.png")
    source = UTKFace(str(tmp_path), 128, 1, 142 / 178)
    (array,) = source.decode([str(tmp_path / "ramp.png")])
    expected = (np.arange(88) + 0.5) * 200 / 92 - 0.5
    np.testing.assert_allclose(array[0, 40:128, 60], expected, atol=1)


def test_faces_without_a_frame_are_complete(faces):
    source = UTKFace(str(faces), 32, crop=1.0, frame="none")
    assert source.valid_box is None
    check_complete(source)
    (array,) = source.decode(source.items("train")[:1])
    assert (array.std((1, 2)) < 3).all()
    assert source.settings() != UTKFace(str(faces), 32, crop=1.0).settings()


def test_utkface_splits_by_content(faces):
    source = UTKFace(str(faces))
    assert source.items("train") == Folder(str(faces)).items("train")
    assert sum(len(source.items(split)) for split in ("train", "val", "test")) == 80


def test_image_that_is_not_an_aligned_face_is_refused(tmp_path):
    Image.new("RGB", (200, 150)).save(tmp_path / "1_0_0_2017.jpg")
    (result,) = UTKFace(str(tmp_path)).decode([str(tmp_path / "1_0_0_2017.jpg")])
    assert isinstance(result, UnreadableImage)
    assert "not square. Use the aligned and cropped faces" in str(result)


def test_images_known_in_part_do_not_evaluate(faces):
    node = {"_target_": "dcgan_inpaint.data.utkface.UTKFace", "root": str(faces)}
    with pytest.raises(ValueError, match=r"data: .* in the box \(2, 16, 62, 64\) only"):
        build_source(node)
    with pytest.raises(ValueError, match="Use them in data=balanced"):
        source_from_description({"source": "utkface", "root": str(faces)})
    described = json.loads(json.dumps(describe(build_source(node | {"frame": "none"}))))
    assert source_from_description(described).settings() == UTKFace(
        str(faces), frame="none"
    ).settings()  # fmt: skip


@pytest.mark.skipif(not REAL_UTKFACE.is_dir(), reason="UTKFace is not beside the project")
def test_real_utkface_has_faces_in_the_box():
    source = UTKFace(str(REAL_UTKFACE), 128, crop=142 / 178)
    items = source.items("train")
    assert 5000 < len(items) < 5900
    images = np.stack(source.decode(items[:64]))
    left, top, right, bottom = source.valid_box
    red, _, blue = images[:, :, top:bottom, left:right].mean((0, 2, 3))
    assert red > blue + 20  # skin


# batches with unknown pixels


def test_flips_mirror_images_and_known_pixels_together():
    """A ramp marks each column, and the known columns 1 to 3 of 8 are not symmetric."""
    ramp = np.broadcast_to(np.arange(200, 208, dtype=np.uint8), (32, 3, 8, 8))
    valid = torch.zeros(1, 8, 8)
    valid[:, :, 1:4] = 1
    images = ImageDataset(ramp, [], flip=True, valid=valid)
    batch = images.__getitems__(list(range(32)))
    assert batch["valid"].shape == (32, 1, 8, 8)
    expected = torch.from_numpy(ramp[0].copy()).float() / 127.5 - 1
    mirrored = 0
    for image, known in zip(batch["image"], batch["valid"], strict=True):
        flip = bool(known[0, 0, 4])
        mirrored += flip
        assert torch.equal(known, valid.flip(2) if flip else valid)
        torch.testing.assert_close(image, (expected * valid).flip(2) if flip else expected * valid)
    assert 8 < mirrored < 24


def test_batches_of_complete_images_have_no_key_for_known_pixels(tmp_path):
    data = ImageDataModule(Faces(16, train_size=8, val_size=1, test_size=1), str(tmp_path), 4)
    assert next(iter(data.train_dataloader())).keys() == {"image", "index"}


# the order of a mixture


GROUPS = [  # light and dark of one source, dark and light of another
    (torch.arange(0, 70), 0.55),
    (torch.arange(70, 80), 0.2),
    (torch.arange(80, 95), 0.1),
    (torch.arange(95, 100), 0.15),
]


@pytest.mark.parametrize("batch_size", [7, 64])
def test_every_batch_has_the_share_of_each_source_and_of_dark_skin(batch_size):
    order = mixed_order(GROUPS, 50, batch_size, seed=0, epoch=0)
    assert order.shape == (50, batch_size)
    sets = {0.55: order < 70, 0.2: (order >= 70) & (order < 80), 0.1: (order >= 80) & (order < 95)}
    sets |= {0.75: order < 80, 0.3: (order >= 70) & (order < 95), 0.25: order >= 80}
    for share, members in sets.items():
        assert (members.sum(1) - share * batch_size).abs().max() < 1
        assert members.sum() / order.numel() == pytest.approx(share, abs=0.02)


def test_an_epoch_repeats_the_images_of_a_group_equally_often():
    order = mixed_order(GROUPS, 50, 64, seed=0, epoch=0)
    counts = order.flatten().bincount(minlength=100)
    for index, _ in GROUPS:
        assert counts[index].max() - counts[index].min() <= 1
        assert counts[index].min() > 0


def test_mixed_order_depends_on_seed_and_epoch():
    first = mixed_order(GROUPS, 5, 16, seed=0, epoch=3)
    assert torch.equal(first, mixed_order(GROUPS, 5, 16, seed=0, epoch=3))
    assert not torch.equal(first, mixed_order(GROUPS, 5, 16, seed=1, epoch=3))
    assert not torch.equal(first, mixed_order(GROUPS, 5, 16, seed=0, epoch=4))


def test_processes_share_the_batches_of_an_epoch():
    images = MixtureDataset([ImageDataset(np.zeros((100, 1, 2, 2), np.uint8), [])])
    single = MixtureSampler(images, GROUPS, 8, seed=0)
    ranks = [MixtureSampler(images, GROUPS, 8, 0, rank, 3) for rank in range(3)]
    assert len(single) == 96
    assert [len(sampler) for sampler in ranks] == [32, 32, 32]
    for epoch in (0, 1):
        single.set_epoch(epoch)
        batches = torch.tensor(list(single)).view(12, 8)
        for rank, sampler in enumerate(ranks):
            assert torch.equal(torch.tensor(list(sampler)).view(4, 8), batches[rank::3])


# mixtures


def mixture(faces, **options):
    sources = {"first": Faces(16, train_size=40, val_size=3, test_size=2)}
    sources |= {"utkface": UTKFace(str(faces), 16)}
    weights = {"first": 3, "utkface": 1}
    return Mixture(**{"sources": sources, "weights": weights, "image_size": 16} | options)


def test_mixed_batches_have_fixed_shares_and_known_pixels(faces, tmp_path):
    source = mixture(faces, dark_share={"utkface": 0.75})
    data = ImageDataModule(source, str(tmp_path), batch_size=16, flip=True)
    data.prepare_data()
    loader = data.train_dataloader()
    left, top, right, bottom = source.sources["utkface"].valid_box
    assert len(loader) == (40 + len(source.sources["utkface"].items("train"))) // 16
    assert {path.name.split("_")[0] for path in tmp_path.iterdir() if path.is_dir()} == {
        "faces16", "utkface16"
    }  # fmt: skip
    for batch in loader:
        is_utkface = batch["index"] >= 40
        assert is_utkface.sum() == 4
        known = batch["valid"].sum((1, 2, 3))
        assert (known[~is_utkface] == 256).all()
        assert (known[is_utkface] == (right - left) * (bottom - top)).all()
        assert (batch["image"] * (1 - batch["valid"]) == 0).all()
        levels = ((batch["image"] + 1) * 127.5).round().to(torch.uint8).numpy()
        dark = skin_tone(levels, source.sources["utkface"].crop) < DARK_ITA
        assert dark[is_utkface].sum() == 3
    assert [batch["index"].tolist() for batch in loader] == [
        batch["index"].tolist() for batch in data.train_dataloader()
    ]


def test_mixed_images_are_those_of_their_sources(faces, tmp_path):
    data = ImageDataModule(mixture(faces), str(tmp_path), batch_size=8, flip=False)
    parts = [ImageDataModule(each, str(tmp_path)).split("train").images
             for each in data.mixture.sources.values()]  # fmt: skip
    for batch in data.train_dataloader():
        for index, image, valid in zip(
            *(batch[k] for k in ("index", "image", "valid")), strict=True
        ):
            expected = parts[0][index] if index < 40 else parts[1][index - 40]
            torch.testing.assert_close(image, (torch.tensor(expected) / 127.5 - 1) * valid)


def test_first_source_defines_the_evaluation(faces, tmp_path):
    source = mixture(faces)
    assert describe(source) == describe(source.first)
    data = ImageDataModule(source, str(tmp_path))
    assert [len(data.split(split)) for split in ("train", "val", "test")] == [40, 3, 2]
    assert data.split("val").valid is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"image_size": 32},
            "data.sources.first.image_size=16: the mixture has data.image_size=32",
        ),
        ({"channels": 1}, "data.sources.first.channels=3: the mixture has data.channels=1"),
        ({"weights": {"first": 1}}, "expected one weight for each of first, utkface"),
        ({"weights": {"first": 0, "utkface": 0}}, "data.weights={.*}: .* and not only 0"),
        ({"weights": {"first": 1, "utkface": -1}}, "weights.utkface=-1: should be greater"),
        ({"dark_share": {"first": 1.0}}, "dark_share.first=1.0: should be less than 1"),
        ({"dark_share": {"gone": 0.5}}, "data.dark_share.gone=0.5: .* one of first, utkface"),
        ({"sources": {}}, "sources={}: "),
        ({"sources": {"a": "faces"}}, "sources.a=faces: should be an instance of Source"),
    ],
)
def test_mixture_refuses_sources_that_do_not_fit(faces, options, message):
    with pytest.raises(ValueError, match=message):
        mixture(faces, **options)


def test_mixture_refuses_gray_images_and_an_incomplete_first_source(faces):
    gray = {"sources": {"a": Faces(16, channels=1)}, "weights": {"a": 1}, "image_size": 16}
    with pytest.raises(ValueError, match=r"data.dark_share.a=0.3: .*dark_share.a=null"):
        Mixture(**gray, channels=1, dark_share={"a": 0.3})
    with pytest.raises(ValueError, match=r"data.sources.a: .* Put another source first"):
        Mixture({"a": UTKFace(str(faces), 16)}, {"a": 1}, 16)


def test_locations_of_a_mixtures_sources_may_change_on_resume():
    old = {"data.sources.celeba.root": "a", "data.sources.celeba.crop": 0.5}
    check_same_settings("run", old, old | {"data.sources.celeba.root": "b"}, old, FREE_IN_TRAINING)
    with pytest.raises(ValueError, match=r"with data.sources.celeba.crop=0.5, not 0.6"):
        new = old | {"data.sources.celeba.crop": 0.6}
        check_same_settings("run", old, new, old, FREE_IN_TRAINING)


def test_share_of_dark_skin_needs_light_and_dark_images(faces):
    source = mixture(faces, dark_share={"first": 0.3})
    images = {"first": np.zeros((3, 3, 16, 16), np.uint8), "utkface": np.zeros(0)}
    with pytest.raises(
        ValueError, match=r"data.dark_share.first=0.3: dark skin in 3 of its 3 images"
    ):
        source.groups(images)


def test_source_with_the_weight_0_is_left_out(faces, tmp_path):
    source = mixture(faces, weights={"first": 1, "utkface": 0})
    batch = next(iter(ImageDataModule(source, str(tmp_path), 8).train_dataloader()))
    assert batch.keys() == {"image", "index"}
    assert {path.name[:5] for path in tmp_path.iterdir() if path.is_dir()} == {"faces"}


def test_mixture_does_not_stream(tmp_path):
    (tmp_path / "a.tar").touch()
    tars = TarShards(str(tmp_path / "a.tar"), 16, cache_limit=1e-9)
    tars.names = lambda part: [f"{i}.png" for i in range(40)]
    source = Mixture({"faces": Faces(16, train_size=4), "tars": tars}, {"faces": 1, "tars": 1}, 16)
    with pytest.raises(ValueError, match=r"data.sources.tars.cache_limit=1e-09: .* or null"):
        ImageDataModule(source, str(tmp_path)).prepare_data()


def test_balanced_data_is_composed_of_celeba_and_utkface(faces, tmp_path):
    (tmp_path / "img_align_celeba").mkdir()
    (tmp_path / "list_eval_partition.txt").write_text("000001.jpg 0\n")
    roots = [f"data.sources.celeba.root={tmp_path}", f"data.sources.utkface.root={faces}"]
    cfg = compose_config("train", ["data=balanced", "model.gf_dim=2", "model.df_dim=2", *roots])
    config = check_config(cfg, TrainConfig)
    source = build_source(config.data)
    assert list(source.sources) == ["celeba", "utkface"]
    assert source.weights == {"celeba": 0.7, "utkface": 0.3}
    assert source.dark_share == {"celeba": 0.4, "utkface": 0.85}
    assert source.sources["utkface"].valid_box == (19, 40, 111, 128)
    assert source.crop == pytest.approx(142 / 178)
    with pytest.raises(ValueError, match=r"data.sources.utkface: .* a DCGAN would learn them"):
        build_model(config, source)
    config.data["sources"]["utkface"]["root"] = "gone"
    with pytest.raises(ValueError, match=r"^data.sources.utkface.root=gone: not a directory"):
        build_source(config.data)
    more = ["+data@data.sources.more=faces", "+data.weights.more=1", "data.weights.utkface=0"]
    more += ["data.sources.more.image_size=128", "data.dark_share.utkface=null"]
    cfg = compose_config("train", ["data=balanced", *roots, *more])
    source = build_source(check_config(cfg, TrainConfig).data)
    assert list(source.sources) == ["celeba", "more"]
    assert isinstance(build_model(config, source), DCGAN)
