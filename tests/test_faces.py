"""Procedural faces."""

import json

import numpy as np
import pytest
import torch

from dcgan_inpaint.data.faces import painter
from dcgan_inpaint.data.faces.painter import render
from dcgan_inpaint.data.faces.source import Faces, draw_factors

INDEX = torch.arange(256)


def test_face_does_not_depend_on_its_batch():
    batch = render(draw_factors(0, torch.tensor([5, 900, 7, 2_000_000_001, 7])), 64)
    alone = render(draw_factors(0, torch.tensor([7])), 64)
    torch.testing.assert_close(batch[2], alone[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(batch[4], alone[0], atol=1e-5, rtol=0)
    many = render(draw_factors(0, INDEX[:70]), 64)  # more than one chunk
    torch.testing.assert_close(many[7], alone[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(many[69:], render(draw_factors(0, INDEX[69:70]), 64))


def test_index_and_seed_change_the_face():
    one = render(draw_factors(0, torch.tensor([1])), 32)
    assert (one - render(draw_factors(0, torch.tensor([2])), 32)).abs().mean() > 0.05
    assert (one - render(draw_factors(1, torch.tensor([1])), 32)).abs().mean() > 0.05


@pytest.mark.parametrize("size", [1, 8, 16, 33, 64])
@pytest.mark.parametrize("channels", [1, 3])
def test_shape_and_range(size: int, channels: int):
    images = render(draw_factors(3, INDEX[:40]), size, channels)
    assert images.shape == (40, channels, size, size)
    assert images.dtype == torch.float32
    assert images.isfinite().all()
    assert images.min() >= -1 and images.max() <= 1


def test_one_channel_is_the_luminance():
    factors = draw_factors(0, INDEX[:8])
    red, green, blue = render(factors, 32, 3).unbind(1)
    gray = render(factors, 32, 1)[:, 0]
    torch.testing.assert_close(gray, 0.299 * red + 0.587 * green + 0.114 * blue)


@pytest.mark.parametrize("size", [16, 64])
def test_face_looks_the_same_at_every_size(size: int):
    factors = draw_factors(0, INDEX[:32])
    small, large = render(factors, size), render(factors, 2 * size)
    difference = (torch.nn.functional.avg_pool2d(large, 2) - small).abs()
    assert difference.mean() < 0.6 / size  # only edges differ


def test_painting_in_bands_changes_nothing(monkeypatch: pytest.MonkeyPatch):
    factors = draw_factors(0, INDEX)
    banded = render(factors, 32)
    monkeypatch.setattr(painter.Scene, "band", lambda scene, top, bottom: scene)
    torch.testing.assert_close(banded, render(factors, 32), atol=1e-5, rtol=0)


# A lit face without hat and glasses shows most factors; the others need what they belong to.
PLAIN = {
    **{"hat": 0, "glasses": 0, "beard": 0, "moustache": 0, "hair_bun": -1, "hair_curl": 0},
    **{"hair_volume": 0.1, "hair_length": 0.6, "hairline": -0.5, "mouth_open": 0.05},
    **{"light_x": 0.5, "yaw": 0.0, "eye_open": 0.6, "contrast": 0.5},
}
NEEDS = {
    **dict.fromkeys(["lens_dark", "lens_round", "frame"], {"glasses": 1}),
    **dict.fromkeys(["hat_brim", "hat_color"], {"hat": 1}),
    "beard_width": {"beard": 0.9},
    "hair_part": {"hair_peak": 0.7},
}


@pytest.mark.parametrize("name", draw_factors(0, INDEX[:1]))
def test_every_factor_changes_the_image(name: str):
    drawn = draw_factors(0, INDEX)
    pair = {k: t[:1].repeat(2, *[1] * (t.ndim - 1)) for k, t in drawn.items()}
    for k, value in {**PLAIN, **NEEDS.get(name, {})}.items():
        pair[k] = torch.full((2,), float(value))
    order = drawn[name].reshape(len(INDEX), -1).sum(1).argsort()
    far = 128 if name == "backdrop_angle" else -1  # half a turn; for other factors, the extremes
    pair[name] = drawn[name][order[[0, far]]]
    low, high = render(pair, 64)
    assert ((low - high).abs() > 0.04).sum() >= 12  # visible in a few pixels


def test_faces_vary_at_every_pixel():
    images = render(draw_factors(0, INDEX), 32)
    assert images.std(0).mean() > 0.3
    assert images.std(0).min() > 0.1  # at every pixel


def test_decode_matches_render():
    source = Faces(image_size=16, channels=3, seed=4, train_size=5)
    names = source.items("train")
    images = source.decode(names[3:])
    assert [(p.shape, p.dtype) for p in images] == [((3, 16, 16), np.uint8)] * 2
    expected = (render(draw_factors(4, torch.tensor([3, 4])), 16) + 1) * 127.5
    assert np.abs(np.stack(images) - expected.numpy()).max() <= 0.51
    assert source.decode([]) == []


def test_splits_are_disjoint_and_named():
    source = Faces(train_size=30, val_size=20, test_size=10)
    splits = {split: source.items(split) for split in ("train", "val", "test")}
    assert [len(names) for names in splits.values()] == [30, 20, 10]
    assert len(set().union(*splits.values())) == 60
    assert splits["train"][0] == "face_00000000"
    assert splits["val"][0] == "face_1000000000"
    assert splits["test"][0] == "face_2000000000"


def test_settings_contain_what_determines_the_pixels():
    settings = Faces(image_size=32, channels=1, seed=9).settings()
    assert json.loads(json.dumps(settings)) == settings
    assert settings == {
        "source": "faces",
        "version": 1,
        "image_size": 32,
        "channels": 1,
        "seed": 9,
    }
    assert Faces.crop == 1.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_size": 0}, "image_size=0: should be greater"),
        ({"image_size": 10**9}, "image_size=1000000000: should be less"),
        ({"channels": 2}, "channels=2: should be 1 or 3"),
        ({"seed": -1}, "seed=-1: should be greater"),
        ({"test_size": 0}, "test_size=0: should be greater"),
        ({"train_size": "9"}, "train_size=9: should be a valid integer"),
    ],
)
def test_faces_refuse_bad_arguments(settings: dict, message: str):
    with pytest.raises(ValueError, match=message):
        Faces(**settings)
