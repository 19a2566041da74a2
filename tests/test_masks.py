import numpy as np
import pytest
import torch
from PIL import Image

from dcgan_inpaint.observation import masks

INDEX = torch.tensor([5, 0, 2, 77])
DRAWN = {
    "random": lambda i, s: masks.random(i, s, seed=0, missing=0.2),
    "random80": lambda i, s: masks.random(i, s, seed=0, missing=0.8),
    "half": lambda i, s: masks.half(i, s, seed=0),
    "pattern": lambda i, s: masks.pattern(i, s, seed=0, missing=0.25),
    "freeform": lambda i, s: masks.freeform(i, s, seed=0, strokes=4, width=0.1),
}
FIXED = {
    "center": lambda i, s: masks.center(i, s, scale=0.25),
    "left": masks.left,
    "grid": lambda i, s: masks.grid(i, s, step=4),
    "full": masks.full,
    "nothing": masks.nothing,
}
PARTS = {name: DRAWN[name] for name in ("random80", "half")} | {"left": masks.left}
ALL = DRAWN | FIXED | {"mixture": lambda i, s: masks.mixture(i, s, seed=0, masks=PARTS)}


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("size", [8, 64])
def test_a_mask_is_zeros_and_ones(name, size):
    mask = ALL[name](INDEX, size)
    assert mask.shape == (4, 1, size, size)
    assert mask.dtype == torch.float32
    assert ((mask == 0) | (mask == 1)).all()


@pytest.mark.parametrize("name", ALL)
def test_a_mask_does_not_depend_on_its_batch(name):
    together = ALL[name](INDEX, 32)
    alone = torch.cat([ALL[name](i[None], 32) for i in INDEX])
    assert torch.equal(together, alone)


@pytest.mark.parametrize("name", DRAWN)
def test_drawn_masks_differ_between_images(name):
    many = DRAWN[name](torch.arange(64), 32)
    assert len({mask.numpy().tobytes() for mask in many}) >= (4 if name == "half" else 64)


def test_drawn_masks_differ_between_seeds():
    assert not torch.equal(masks.random(INDEX, 16, 0, 0.5), masks.random(INDEX, 16, 1, 0.5))


def test_center_by_hand():
    mask = masks.center(INDEX[:1], 64, scale=0.25)[0, 0]
    expected = torch.ones(64, 64)
    expected[16:48, 16:48] = 0
    assert torch.equal(mask, expected)


def test_left_and_grid_by_hand():
    assert torch.equal(masks.left(INDEX[:1], 4)[0, 0, 0], torch.tensor([0.0, 0, 1, 1]))
    grid = masks.grid(INDEX[:1], 8, step=4)[0, 0]
    assert grid.nonzero().tolist() == [[0, 0], [0, 4], [4, 0], [4, 4]]


def test_half_draws_all_four_sides():
    drawn = masks.half(torch.arange(400), 8, seed=0)[:, 0]  # (400, 8, 8)
    halves = [drawn[:, :, :4], drawn[:, :, 4:], drawn[:, :4], drawn[:, 4:]]
    counts = torch.tensor([(part == 0).all((1, 2)).sum() for part in halves])
    assert (drawn.mean((1, 2)) == 0.5).all()
    assert counts.sum() == 400
    assert counts.min() > 70


@pytest.mark.parametrize(
    ("name", "missing", "tolerance"),
    [("random", 0.2, 0.01), ("random80", 0.8, 0.01), ("pattern", 0.25, 0.01)],
)
def test_missing_fraction(name, missing, tolerance):
    mask = DRAWN[name](torch.arange(64), 64)
    assert 1 - mask.mean().item() == pytest.approx(missing, abs=tolerance)


def test_pattern_is_blobs_and_not_noise():
    mask = DRAWN["pattern"](torch.arange(16), 64)
    neighbours_agree = (mask[..., 1:] == mask[..., :-1]).float().mean()
    assert neighbours_agree > 0.93  # independent pixels would agree 62% of the time


def test_freeform_strokes_cover_a_part():
    missing = 1 - DRAWN["freeform"](torch.arange(64), 64).mean((1, 2, 3))
    assert 0.05 < missing.mean() < 0.6
    assert missing.max() < 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: masks.random(INDEX, 8, 0, missing=1.5), "mask.missing=1.5"),
        (lambda: masks.pattern(INDEX, 8, 0, missing=0), "mask.missing=0"),
        (lambda: masks.center(INDEX, 8, scale=0.5), "mask.scale=0.5"),
        (lambda: masks.grid(INDEX, 8, step=0), "mask.step=0"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.fixture
def half_white():
    array = np.zeros((30, 50), np.uint8)
    array[:, 25:] = 255
    return array


@pytest.mark.parametrize("kind", ["L", "1", "P", "RGB", "RGBA", "I;16"])
def test_file_mask_in_any_mode_and_size(tmp_path, half_white, kind):
    path = tmp_path / "mask.png"
    if kind == "I;16":
        Image.fromarray(half_white.astype(np.uint16) * 257).save(path)
    elif kind == "RGBA":  # alpha speaks: the right half is opaque
        rgba = np.stack([half_white * 0] * 3 + [half_white], -1)
        Image.fromarray(rgba).save(path)
    else:
        Image.fromarray(half_white).convert(kind).save(path)
    mask = masks.from_file(INDEX, 16, str(path), threshold=0.5, known="white")
    assert mask.shape == (4, 1, 16, 16)
    assert torch.equal(mask, masks.left(INDEX, 16))
    flipped = masks.from_file(INDEX, 16, str(path), threshold=0.5, known="black")
    assert torch.equal(flipped, 1 - mask)


def test_file_mask_threshold(tmp_path, half_white):
    path = tmp_path / "mask.png"
    Image.fromarray((half_white // 255) * 100 + 20).save(path)  # 20 and 120 of 255
    mask = masks.from_file(INDEX[:1], 8, str(path), threshold=0.3, known="white")
    assert torch.equal(mask, masks.left(INDEX[:1], 8))
    with pytest.raises(ValueError, match="no known pixel"):
        masks.from_file(INDEX[:1], 8, str(path), threshold=0.6, known="white")


def test_file_mask_errors(tmp_path, half_white):
    def read(path, known="white"):
        return masks.from_file(INDEX, 16, str(path), threshold=0.5, known=known)

    with pytest.raises(FileNotFoundError, match=r"mask.path=.*gone.png: no such file"):
        read(tmp_path / "gone.png")
    (tmp_path / "text.png").write_text("not a picture")
    with pytest.raises(ValueError, match=r"mask.path=.*text.png: cannot be read"):
        read(tmp_path / "text.png")
    for value, what in ((255, "no hole"), (0, "no known pixel")):
        Image.fromarray(half_white * 0 + value).save(tmp_path / "flat.png")
        with pytest.raises(ValueError, match=what):
            read(tmp_path / "flat.png")
    with pytest.raises(ValueError, match="mask.known='grey'"):
        read(tmp_path / "flat.png", known="grey")


def test_mixture_draws_each_of_its_masks():
    index = torch.arange(600)
    mask = masks.mixture(index, 8, seed=0, masks=PARTS)
    other = masks.mixture(index, 8, seed=1, masks=PARTS)
    for draw in PARTS.values():
        same = (mask == draw(index, 8)).flatten(1).all(1)
        # half is left for a quarter of the pictures
        assert 0.28 < same.float().mean() < 0.45
    assert not torch.equal(mask, other)
