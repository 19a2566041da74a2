"""Photos with several faces: each hole is assigned to a face, and one photo shows all of them."""

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
from dcgan_inpaint.photos import photos as photos_module
from dcgan_inpaint.photos.crops import EYES, Crop
from dcgan_inpaint.photos.detector import Face
from dcgan_inpaint.photos.holes import assign_holes, label_components
from dcgan_inpaint.photos.photos import Photos

SIZE = 16
# in a photo of 120 x 60 px: two crops that overlap in x from 50 to 60
LEFT, RIGHT = Crop(10 + 5j, 50 + 0j), Crop(50 + 5j, 50 + 0j)
BOXES = (slice(20, 30), slice(20, 34)), (slice(25, 40), slice(70, 84))  # a hole in each crop
FAST = ("solver.iterations=2", "stages=none", "trainer.accelerator=cpu")


def photo():
    return np.random.default_rng(0).integers(0, 256, (60, 120, 3), np.uint8)


def hole_of(*boxes):
    hole = np.zeros((60, 120), bool)
    for box in boxes:
        hole[box] = True
    return hole


def photos_of(hole, *crops):
    image = Image.fromarray(photo())
    mask = MaskImage(Image.fromarray(~hole), 0.5, "white", "mask.png")
    return Photos(["a.png"], lambda _: image, [mask], lambda *_: list(crops), (3, SIZE, SIZE))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.6, 1])
def test_components_are_equal_to_those_of_scipy(share):
    hole = np.random.default_rng(1).random((40, 57)) < share
    expected = label(hole)[0][hole]
    labels = label_components(hole)
    pairs = set(zip(labels.tolist(), expected.tolist(), strict=True))
    assert len(pairs) == expected.max() == labels.max() + 1


def test_a_spiral_is_one_component():
    spiral = np.zeros((9, 9), bool)
    spiral[0], spiral[:, 8], spiral[8], spiral[2:, 0], spiral[2, :7], spiral[2:7, 6] = [True] * 6
    spiral[6, 2:7] = True
    spiral[4, 4] = True
    assert label_components(spiral).max() == 1


def test_each_hole_is_assigned_to_the_face_that_contains_it():
    in_both = slice(50, 55), slice(51, 54)
    hole = hole_of(*BOXES, in_both)
    left, right = (each.numpy() for each in assign_holes(torch.from_numpy(hole), [LEFT, RIGHT], ""))
    assert np.array_equal(left | right, hole) and not (left & right).any()
    assert left[BOXES[0]].all() and right[BOXES[1]].all()
    # x = 52.5 is 17.5 px from the center of the left crop and 22.5 px from that of the right crop
    assert left[in_both].all()


def test_a_hole_is_assigned_to_the_only_crop_that_contains_it():
    """Most of this hole is nearer to the left crop, which does not contain all of it."""
    across = hole_of((slice(20, 22), slice(52, 64)))
    left, right = assign_holes(torch.from_numpy(across), [LEFT, RIGHT], "mask.png")
    assert not left.any() and np.array_equal(right, across)


def test_a_hole_outside_all_faces_is_an_error():
    hole = torch.from_numpy(hole_of(*BOXES, (slice(20, 22), slice(105, 112))))
    with pytest.raises(ValueError, match=r"mask.png: none of the 2 .* the hole \[105,20,7,2\]"):
        assign_holes(hole, [LEFT, RIGHT], "mask.png")
    with pytest.raises(ValueError, match="mask.png: the mask has no hole"):
        assign_holes(torch.zeros(60, 120, dtype=torch.bool), [LEFT, RIGHT], "mask.png")


def test_each_crop_fills_its_own_hole():
    """A third face has no hole and no crop. Known pixels do not change."""
    hole = hole_of(*BOXES)
    photos = photos_of(hole, LEFT, Crop(0j, 15 + 0j), RIGHT)
    assert photos.crops == [LEFT, RIGHT]
    assert photos.images.names == ["a.png", "a.png"]
    fakes = {0: torch.full((3, SIZE, SIZE), -1.0), 1: torch.full((3, SIZE, SIZE), 1.0)}
    for i, box in enumerate(BOXES):
        changed = (np.asarray(photos.complete({i: fakes[i]})) != photo()).any(2)
        assert not changed[~hole_of(box)].any() and changed[box].mean() > 0.9
    completed = np.asarray(photos.complete(fakes))
    assert np.array_equal(completed[~hole], photo()[~hole])
    assert ((completed != photo()).any(2))[hole].mean() > 0.9


def test_pixels_in_the_hole_of_another_crop_are_unknown():
    """The right crop overlaps a hole that the left crop fills."""
    near = slice(20, 30), slice(51, 57)
    photos = photos_of(hole_of(near, BOXES[1]), LEFT, RIGHT)
    assert photos.hole(0, (120, 60))[near].all() and not photos.hole(1, (120, 60))[near].any()
    known = photos.mask(torch.tensor([1]), SIZE)[0, 0]  # 3.125 px each
    assert known[6, 1] == 0 and known[10, 9] == 0 and known[0, 15] == 1


def test_completing_a_photo_does_not_change_it():
    photos = photos_of(hole_of(*BOXES), LEFT, RIGHT)
    assert photos.crops_with(0) == photos.crops_with(1) == [0, 1]
    fakes = dict(enumerate(torch.rand(2, 3, SIZE, SIZE)))
    first, *others = (np.asarray(photos.complete(fakes)) for _ in range(3))
    reverse = np.asarray(photos.complete({i: fakes[i] for i in (1, 0)}))
    assert all(np.array_equal(first, other) for other in (*others, reverse))


# the same through Completer and inpaint.py


@pytest.fixture
def two_faces(monkeypatch):
    """Let the detector find two faces, whose crops are LEFT and RIGHT.

    The list has the number of faces that each detection asks for.
    """
    u_left, u_right, v = EYES
    faces = []
    for crop in (LEFT, RIGHT):
        left, right = (crop.origin + crop.side * complex(u, v) for u in (u_left, u_right))
        faces.append(Face(left, right, (left + right) / 2, abs(crop.side), 2.0))
    counts = []

    def find(photo, count):
        counts.append(count)
        return faces[:count]

    monkeypatch.setattr(photos_module, "find_faces", find)
    return counts


@pytest.mark.parametrize("batch", [1, 2])
def test_completer_fills_the_holes_of_all_faces(two_faces, batch):
    completer = Completer.load(small_dcgan(z_dim=8), *FAST, f"batch_size={batch}")
    hole = hole_of(*BOXES)
    result = completer(photo(), ~hole, face="all", candidates=2)
    completed = np.asarray(result.image)
    assert np.array_equal(completed[~hole], photo()[~hole])
    assert all((completed[box] != photo()[box]).mean() > 0.9 for box in BOXES)
    first = np.asarray(result.previous.image)
    assert np.array_equal(first[BOXES[0]], completed[BOXES[0]])
    assert np.array_equal(first[BOXES[1]], photo()[BOXES[1]])
    first, second = (np.asarray(image) for image in result.candidates)
    assert all((first[box] != second[box]).mean() > 0.9 for box in BOXES)  # of each face
    levels = [torch.from_numpy(x / 127.5 - 1).permute(2, 0, 1)[None] for x in (completed, photo())]
    expected = psnr(*levels, torch.from_numpy(hole)[None, None].double())
    assert result.metrics(photo())["psnr_hole"] == pytest.approx(expected.item(), abs=0.01)


@pytest.fixture(scope="module")
def completer():
    return Completer.load(small_dcgan(z_dim=8), *FAST)


def changes(result):
    return (np.asarray(result.image) != photo()).any(2)


def test_by_default_each_hole_of_a_mask_image_is_completed_by_its_face(two_faces, completer):
    hole = hole_of(*BOXES)
    expected = np.asarray(completer(photo(), ~hole, face="all").image)
    assert np.array_equal(np.asarray(completer(photo(), ~hole).image), expected)
    second = changes(completer(photo(), ~hole_of(BOXES[1])))
    assert second[BOXES[1]].mean() > 0.9 and not second[~hole_of(BOXES[1])].any()
    with pytest.raises(ValueError, match="the hole reaches outside the crop"):
        completer(photo(), ~hole, face=1)


def test_by_default_a_drawn_mask_is_that_of_the_first_face(two_faces, completer):
    """Also a mask image of another shape, which covers the crop and not the photo."""
    square = np.ones((16, 16))
    square[4:12, 4:12] = 0
    for mask in ("center", square):
        result = completer(photo(), mask)
        assert result.previous is None
        assert changes(result)[:, :60].any() and not changes(result)[:, 60:].any()
    assert two_faces == [1, 1]


def test_other_faces_are_detected_only_for_holes_beside_the_first(two_faces, completer):
    """The middle half of the first crop is x from 22.5 to 47.5 and y from 17.5 to 42.5."""
    completer(photo(), ~hole_of((slice(20, 30), slice(24, 40))))
    assert two_faces == [1]
    completer(photo(), ~hole_of((slice(20, 30), slice(24, 50))))
    assert two_faces == [1, 1, None]


def test_completer_uses_the_second_face(two_faces):
    completer = Completer.load(small_dcgan(z_dim=8), *FAST)
    result = completer(photo(), ~hole_of(BOXES[1]), face=2)
    changed = (np.asarray(result.image) != photo()).any(2)
    assert changed[BOXES[1]].mean() > 0.9 and not changed[~hole_of(BOXES[1])].any()


def test_results_of_different_images_are_not_linked(two_faces):
    completer = Completer.load(small_dcgan(z_dim=8), *FAST)
    results = completer([photo(), photo()], ~hole_of(*BOXES), face="all")
    assert [result.previous.previous for result in results] == [None, None]


@pytest.fixture
def overrides(two_faces, tmp_path):
    """The overrides of inpaint.py that complete a photo of two faces with a mask image."""
    save_weights(small_dcgan(z_dim=8), tmp_path / "weights.safetensors")
    Image.fromarray(photo()).save(tmp_path / "a.png")
    Image.fromarray(~hole_of(*BOXES)).save(tmp_path / "hole.png")
    return [
        f"ckpt={tmp_path / 'weights.safetensors'}",
        f"images={tmp_path / 'a.png'}",
        "mask=file",
        f"mask.path={tmp_path / 'hole.png'}",
        "face=all",
        "limit=1",
        "batch_size=1",
        *FAST,
        f"output={tmp_path / 'out'}",
    ]


def test_inpaint_py_writes_one_photo_with_all_faces(run, overrides, tmp_path):
    """Also with limit= below the number of faces, and after resuming between the faces."""
    hole = hole_of(*BOXES)
    run("inpaint.py", *overrides)
    (written,) = (tmp_path / "out" / "photos").iterdir()
    completed = np.asarray(Image.open(written))
    assert np.array_equal(completed[~hole], photo()[~hole])
    assert (completed != photo()).any(2)[hole].mean() > 0.9
    # a run that was killed after either of its faces
    for record in ("00001", "00000"):
        written.unlink()
        (tmp_path / "out" / "records" / f"{record}.safetensors").unlink()
        run("inpaint.py", *overrides)
        assert np.array_equal(np.asarray(Image.open(written)), completed)


def test_inpaint_py_completes_each_hole_by_its_face_by_default(run, overrides, tmp_path):
    run("inpaint.py", *overrides)
    run("inpaint.py", *(o for o in overrides if o != "face=all"), f"output={tmp_path / 'null'}")
    expected, completed = (
        np.asarray(Image.open(tmp_path / name / "photos" / "00001_a.png"))
        for name in ("out", "null")
    )
    assert np.array_equal(completed, expected)


def test_a_sample_of_a_photo_has_the_sample_of_each_face(run, overrides, tmp_path):
    run("inpaint.py", *overrides, "candidates=2")
    folder = tmp_path / "out"
    samples = [np.asarray(Image.open(folder / "samples" / f"00001_a_{k}.png")) for k in (1, 2)]
    assert len(list((folder / "samples").iterdir())) == 2
    with Image.open(folder / "photos" / "00001_a.png") as written:
        assert np.array_equal(written, samples[0])
    differ = (samples[0] != samples[1]).any(2)
    assert all(differ[box].mean() > 0.9 for box in BOXES) and not differ[~hole_of(*BOXES)].any()


def test_photo_is_written_again_when_the_hole_of_one_face_changes(run, overrides, tmp_path):
    run("inpaint.py", *overrides, "candidates=2")
    other = hole_of((slice(20, 30), slice(24, 30)), BOXES[1])
    Image.fromarray(~other).save(tmp_path / "hole.png")
    run("inpaint.py", *overrides, "candidates=2")
    run("inpaint.py", *overrides, "candidates=2", f"output={tmp_path / 'new'}")
    for name in ("photos/00001_a.png", "samples/00001_a_2.png"):
        with Image.open(tmp_path / "out" / name) as one, Image.open(tmp_path / "new" / name) as new:
            assert np.array_equal(one, new)
