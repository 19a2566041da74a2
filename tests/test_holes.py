"""Photos with several faces: which hole is completed by which, and that all are, in one image."""

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import label
from training import small_dcgan

from dcgan_inpaint import Completer
from dcgan_inpaint.masks.mask_image import MaskImage
from dcgan_inpaint.metrics.completions import psnr
from dcgan_inpaint.models.checkpoint import save_weights
from dcgan_inpaint.photos import regions
from dcgan_inpaint.photos.crops import Region
from dcgan_inpaint.photos.detector import Face
from dcgan_inpaint.photos.holes import connected, share_out
from dcgan_inpaint.photos.photos import Photos

SIZE = 16
# of a photo of 120 x 60: two squares that overlap in x from 50 to 60
LEFT, RIGHT = Region(10 + 5j, 50 + 0j), Region(50 + 5j, 50 + 0j)
BOXES = (slice(20, 30), slice(20, 34)), (slice(25, 40), slice(70, 84))  # a hole on each
SHORT = ("solver.iterations=2", "stages=none", "trainer.accelerator=cpu")


def photo():
    return np.random.default_rng(0).integers(0, 256, (60, 120, 3), np.uint8)


def hole_of(*boxes):
    hole = np.zeros((60, 120), bool)
    for box in boxes:
        hole[box] = True
    return hole


def masked(hole):
    return MaskImage(Image.fromarray(~hole), 0.5, "white", "mask.png")


def photos_of(hole, *found):
    image = Image.fromarray(photo())
    return Photos(["a.png"], lambda _: image, [masked(hole)], lambda *_: list(found), (3, 16, 16))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.6, 1])
def test_connected_as_scipy_has_it(share):
    hole = np.random.default_rng(1).random((40, 57)) < share
    expected = label(hole)[0][hole]
    pairs = set(zip(connected(hole).tolist(), expected.tolist(), strict=True))
    assert len(pairs) == expected.max() == connected(hole).max() + 1


def test_a_spiral_is_one_hole():
    spiral = np.zeros((9, 9), bool)
    spiral[0], spiral[:, 8], spiral[8], spiral[2:, 0], spiral[2, :7], spiral[2:7, 6] = [True] * 6
    spiral[6, 2:7] = True
    spiral[4, 4] = True
    assert connected(spiral).max() == 1


def test_each_hole_goes_to_the_face_that_contains_it():
    on_both = slice(50, 55), slice(51, 54)  # nearer to the left one's middle than to the right's?
    hole = torch.from_numpy(hole_of(*BOXES, on_both))
    owner = share_out(hole, [LEFT, RIGHT], "mask.png")
    assert (owner[~hole.numpy()] == -1).all()
    assert [set(owner[box].ravel()) for box in BOXES] == [{0}, {1}]
    # in the overlap, x = 52.5: 17.5 px from the left middle at 35, 22.5 from the right one at 75
    assert set(owner[on_both].ravel()) == {0}
    # one that the left square does not contain is the right one's, although most of it is nearer
    across = slice(20, 22), slice(52, 64)
    owner = share_out(torch.from_numpy(hole_of(across)), [LEFT, RIGHT], "mask.png")
    assert set(owner[across].ravel()) == {1}


def test_a_hole_on_no_face_is_named():
    hole = torch.from_numpy(hole_of(*BOXES, (slice(20, 22), slice(105, 112))))
    with pytest.raises(ValueError, match=r"mask.png in \[105,20,7,2\] is on none of the 2 faces"):
        share_out(hole, [LEFT, RIGHT], "mask.png")
    with pytest.raises(ValueError, match="mask.png leaves no hole"):
        share_out(torch.zeros(60, 120, dtype=torch.bool), [LEFT, RIGHT], "mask.png")


def test_all_holes_are_completed_each_by_its_own():
    """A third face has no hole, and so no crop; nothing else of the photo changes."""
    hole = hole_of(*BOXES)
    photos = photos_of(hole, LEFT, Region(0j, 15 + 0j), RIGHT)
    assert photos.regions == [LEFT, RIGHT]
    assert photos.images.names == ["a.png", "a.png"]
    fakes = [torch.full((3, SIZE, SIZE), value) for value in (-1.0, 1.0)]
    for i, box in enumerate(BOXES):
        changed = (np.asarray(photos.completed(i, fakes[i])) != photo()).any(2)
        assert not changed[~hole_of(box)].any() and changed[box].mean() > 0.9
    out = np.asarray(photos.completed(1, fakes[1], {0: fakes[0]}))
    assert np.array_equal(out[~hole], photo()[~hole])
    assert ((out != photo()).any(2))[hole].mean() > 0.9


def test_what_is_in_the_hole_of_a_neighbour_is_not_known():
    """Square 1 reaches over a hole that square 0 completes."""
    near = slice(20, 30), slice(51, 57)
    photos = photos_of(hole_of(near, BOXES[1]), LEFT, RIGHT)
    assert photos.hole(0, (120, 60))[near].all() and not photos.hole(1, (120, 60))[near].any()
    known = photos.mask(torch.tensor([1]), SIZE)[0, 0]  # 3.125 px each
    assert known[6, 1] == 0 and known[10, 9] == 0 and known[0, 15] == 1


def test_a_photo_waits_for_all_of_its_faces():
    photos = photos_of(hole_of(*BOXES), LEFT, RIGHT)
    fakes = torch.rand(2, 3, SIZE, SIZE)
    for order in ((0, 1), (1, 0, 1)):  # a run that is continued may have the second one first
        *before, last = [photos.together(i, fakes[i]) for i in order]
        assert before == [{}] * len(before)
        assert sorted(last) == [0, 1]
        assert all(torch.equal(last[i], fakes[i]) for i in last)


# the same through the doors


@pytest.fixture
def two_faces(monkeypatch):
    """What the detector finds; their squares are LEFT and RIGHT."""
    (u, v, height), found = regions.EYES, []
    for region in (LEFT, RIGHT):
        left, right = (region.origin + region.side * (x + 1j * height) for x in (u, v))
        found.append(Face(left, right, (left + right) / 2, abs(region.side), 2.0))
    monkeypatch.setattr(regions, "find_faces", lambda photo, wanted: found[:wanted])


@pytest.mark.parametrize("batch", [1, 2])
def test_completer_completes_all_faces(two_faces, batch):
    completer = Completer.load(small_dcgan(z_dim=8), *SHORT, f"batch_size={batch}")
    hole = hole_of(*BOXES)
    result = completer(photo(), ~hole, face="all", candidates=2)
    completed = np.asarray(result.image)
    assert np.array_equal(completed[~hole], photo()[~hole])
    assert all((completed[box] != photo()[box]).mean() > 0.9 for box in BOXES)
    first = np.asarray(result.before.image)
    assert np.array_equal(first[BOXES[0]], completed[BOXES[0]])
    assert np.array_equal(first[BOXES[1]], photo()[BOXES[1]])
    assert len(result.candidates) == 2
    levels = [torch.from_numpy(x / 127.5 - 1).permute(2, 0, 1)[None] for x in (completed, photo())]
    expected = psnr(*levels, torch.from_numpy(hole)[None, None].double())
    assert result.metrics(photo())["psnr_hole"] == pytest.approx(expected.item(), abs=0.01)


def test_completer_takes_the_second_face(two_faces):
    completer = Completer.load(small_dcgan(z_dim=8), *SHORT)
    result = completer(photo(), ~hole_of(BOXES[1]), face=2)
    changed = (np.asarray(result.image) != photo()).any(2)
    assert changed[BOXES[1]].mean() > 0.9 and not changed[~hole_of(BOXES[1])].any()
    lists = completer([photo(), photo()], ~hole_of(*BOXES), face="all")
    assert [each.before.before for each in lists] == [None, None]


def test_inpaint_py_writes_one_photo_of_all_faces(run, two_faces, tmp_path):
    """Also when limit= is less than the faces, and when the run is continued after the first."""
    save_weights(small_dcgan(z_dim=8), tmp_path / "weights.safetensors")
    Image.fromarray(photo()).save(tmp_path / "a.png")
    hole = hole_of(*BOXES)
    Image.fromarray(~hole).save(tmp_path / "hole.png")
    words = [
        f"ckpt={tmp_path / 'weights.safetensors'}",
        f"images={tmp_path / 'a.png'}",
        "mask=file",
        f"mask.path={tmp_path / 'hole.png'}",
        "face=all",
        "limit=1",
        "batch_size=1",
        *SHORT,
        f"output={tmp_path / 'out'}",
    ]
    run("inpaint.py", *words)
    (written,) = (tmp_path / "out" / "photos").iterdir()
    before = np.asarray(Image.open(written))
    assert np.array_equal(before[~hole], photo()[~hole])
    assert (before != photo()).any(2)[hole].mean() > 0.9
    # what a run leaves that is killed before its second face is done
    written.unlink()
    (tmp_path / "out" / "records" / "00001.safetensors").unlink()
    run("inpaint.py", *words)
    assert np.array_equal(np.asarray(Image.open(written)), before)
