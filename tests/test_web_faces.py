"""Photos of several faces through the HTTP API of the web page."""

import httpx
import numpy as np
import pytest
from PIL import Image
from serving import check_documented, decode, encode_image, group_photo, read_events, run_server
from training import small_dcgan

from dcgan_inpaint import Completer
from dcgan_inpaint.web.server import Server

IMAGE = group_photo().resize((448, 224))
PHOTO, FILE = np.asarray(IMAGE), encode_image(IMAGE)
FAST = ("stages=none", "trainer.accelerator=cpu", "solver.iterations=2")


@pytest.fixture(scope="module")
def completer():
    model = small_dcgan(z_dim=8)
    model.data = {"source": "celeba"}
    return Completer.load(model, *FAST)


@pytest.fixture(scope="module")
def client(completer):
    server = Server([completer])
    with run_server(server) as url, httpx.Client(base_url=url, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def squares(client):
    """The corners (2, 4, 2) of the squares around the two faces."""
    response = client.post("/faces", content=FILE).json()
    check_documented(response, "Faces")
    return np.array(response["squares"])


@pytest.fixture(scope="module")
def holes(squares):
    """A hole (H, W) in each face, from the left: 30 x 15 px below the centers of the squares."""
    holes = np.zeros((2, *PHOTO.shape[:2]), bool)
    for hole, (x, y) in zip(
        holes, sorted(squares.mean(1).round().astype(int).tolist()), strict=True
    ):
        hole[y : y + 15, x - 15 : x + 15] = True
    return holes


def complete(client, hole, **fields):
    mask = encode_image(Image.fromarray(~hole))
    files = {"photo": ("photo.png", FILE), "mask": ("mask.png", mask)}
    with client.stream("POST", "/complete", files=files, data=fields) as response:
        return list(read_events(response))[-1]


def test_squares_are_around_the_faces_from_their_top_left_corners(client, squares):
    assert squares.shape == (2, 4, 2)
    for square, left in zip(sorted(squares.tolist()), (0, 224), strict=True):
        (x, y), (right, _), _, _ = square
        assert left - 50 < x < left + 75 < right < left + 274
        assert y < 75
    side = np.linalg.norm(squares[0, 1] - squares[0, 0])
    crop = client.post("/photo", content=FILE).json()["crop"]  # first face, inside the photo
    assert crop[2] == pytest.approx(side, rel=0.02)
    assert crop[0] + crop[2] / 2 == pytest.approx(squares[0, :, 0].mean(), abs=2)


@pytest.mark.parametrize("override", ["detector=null", "crop=[3,4,20,20]", "face=2"])
def test_other_squares_are_not_offered_if_only_one_is_completed(completer, override):
    other = Completer.load(completer.model, *FAST, override)
    assert other.crops_of(PHOTO) == [other.crop_of(PHOTO)]


def test_each_hole_is_completed_by_its_face(client, holes):
    hole = holes.any(0)
    name, done = complete(client, hole, candidates=2)
    assert name == "done"
    check_documented(done, "Completion")
    images = [decode(client.get(f"/completions/{done['id']}/{each}")) for each in (0, 1, "mean")]
    for image in images:
        assert np.array_equal(image[~hole], PHOTO[~hole])
        for each in holes:
            assert (image[each] != PHOTO[each]).any(1).mean() > 0.9
    for each in holes:  # a candidate is another one of every face
        assert (images[0][each] != images[1][each]).any(1).mean() > 0.9
    assert np.array_equal(decode(client.get(f"/completions/{done['id']}/mask")) == 0, hole)


def test_crop_completes_one_square_only(client, holes):
    crop = "0,0,224,224"
    name, done = complete(client, holes[0], crop=crop)
    image = decode(client.get(f"/completions/{done['id']}/0"))
    assert name == "done" and (image[holes[0]] != PHOTO[holes[0]]).any(1).mean() > 0.9
    name, error = complete(client, holes.any(0), crop=crop)
    assert name == "error" and "the hole reaches outside the crop" in error["message"]


def test_hole_across_two_faces_is_an_error(client, holes):
    across = holes.any(0)
    rows, columns = across.nonzero()
    across[rows.min() : rows.max(), columns.min() : columns.max()] = True
    name, error = complete(client, across)
    assert name == "error" and "none of the 2 detected faces contains the hole" in error["message"]
