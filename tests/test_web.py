"""The page's server, asked over HTTP: what it answers, refuses, and leaves behind."""

import base64
import json
import os
import re
import signal
import subprocess
import sys
import zlib
from io import BytesIO
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
import torch
from PIL import Image
from serving import file_of, served
from training import small_dcgan

from dcgan_inpaint import Completer
from dcgan_inpaint.configs import choices_of
from dcgan_inpaint.models.latent_encoder import LatentEncoder
from dcgan_inpaint.photos.crops import Region
from dcgan_inpaint.web import __main__ as command
from dcgan_inpaint.web import completing
from dcgan_inpaint.web.completing import Completed, heat
from dcgan_inpaint.web.queue import Stopped
from dcgan_inpaint.web.server import Server
from dcgan_inpaint.web.uploads import Limits

WORDS = ("stages=none", "trainer.accelerator=cpu", "detector=null")
SQUARE = [10, 5, 40, 40]
HOLE = np.zeros((50, 80), bool)
HOLE[20:30, 22:41] = True
LIMITS = Limits(size=200_000, pixels=100 * 100, candidates=3, waiting=2, kept=3 * 50 * 80)
GIVEN = {"square": "10,5,40,40", "candidates": "2"}


def photo(seed=0):
    return np.random.default_rng(seed).integers(0, 256, (50, 80, 3), np.uint8)


PHOTO, MASK = file_of(Image.fromarray(photo())), file_of(Image.fromarray(~HOLE))


@pytest.fixture(scope="module")
def dcgan():
    return small_dcgan(z_dim=8)


@pytest.fixture(scope="module")
def completer(dcgan):
    return Completer.load(dcgan, *WORDS, "solver.iterations=4")


@pytest.fixture(scope="module")
def server(completer):
    return Server(completer, LIMITS)


@pytest.fixture(scope="module")
def client(server):
    with served(server) as address, httpx.Client(base_url=address, timeout=60) as client:
        yield client


@pytest.fixture
def endless(dcgan):
    """Whose searches end only when their page is closed."""
    server = Server(Completer.load(dcgan, *WORDS, "solver.iterations=1000000"), LIMITS)
    with served(server) as server.address:
        yield server


def image_of(source):
    """Of a response, or of a data URL."""
    data = base64.b64decode(source.partition(",")[2]) if isinstance(source, str) else source.content
    with Image.open(BytesIO(data)) as image:
        return np.asarray(image)


def wanted(photo=PHOTO, mask=MASK, **given):
    files = {"photo": ("photo.png", photo), "mask": ("mask.png", mask)}
    return {"files": files, "data": GIVEN | given}


def events_of(response):
    """(name, data) of each server-sent event, as they come."""
    lines = response.iter_lines()
    for line in lines:
        name = line.removeprefix("event: ")
        yield name, json.loads(next(lines).removeprefix("data: "))
        assert next(lines) == ""


def complete(client, **changed):
    with client.stream("POST", "/complete", **wanted(**changed)) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        return list(events_of(response))


# ---- what is completed


def test_a_photo_is_completed(client, completer, monkeypatch):
    """Each candidate, the mean and the mask at full size, as Completer has them."""
    monkeypatch.setattr(completing, "PAUSE", 0)
    told = complete(client)
    names = [name for name, _ in told]
    assert names == ["place", *["frame"] * 5, "done"]
    assert told[0][1] == {"ahead": 0}
    frames = [data for name, data in told if name == "frame"]
    assert [frame["iteration"] for frame in frames] == list(range(5))
    assert {frame["iterations"] for frame in frames} == {4}
    assert image_of(frames[0]["image"]).shape == (16, 16, 3)

    expected = completer(photo(), ~HOLE, SQUARE, candidates=2)
    done = told[-1][1]
    assert [len(frame["totals"]) for frame in frames] == [1] * 5
    assert frames[-1]["totals"] == done["totals"][-1:]
    assert done["totals"] == pytest.approx(expected.trace[:, 2].tolist(), rel=1e-5)
    for k in range(2):
        completed = image_of(client.get(f"/completed/{done['name']}/{k}"))
        assert np.array_equal(completed, np.asarray(expected.candidates[k]))
        assert np.array_equal(completed[~HOLE], photo()[~HOLE])
        assert (completed[HOLE] != photo()[HOLE]).mean() > 0.9
    assert not np.array_equal(*(image_of(each) for each in done["candidates"]))
    mean = completer(photo(), ~HOLE, SQUARE, candidates=2, select="mean").image
    assert np.array_equal(image_of(client.get(f"/completed/{done['name']}/mean")), mean)
    assert np.array_equal(image_of(client.get(f"/completed/{done['name']}/mask")) == 0, HOLE)
    assert done["widest"] == pytest.approx(expected.spread.max().item() * 127.5)
    assert np.array_equal(image_of(done["spread"]), np.asarray(heat(expected.spread)))
    assert "error" not in done  # of several searches it was not measured


def test_how_wrong_the_mean_of_draws_may_be(dcgan):
    encoder = LatentEncoder(dcgan, image_size=16, noise_dim=4, code_dim=8, df_dim=4)
    encoder.doubt[:] = torch.tensor([0.0, 0.1])
    result = Completer.load(encoder, *WORDS)(photo(), ~HOLE, SQUARE, candidates=2)
    assert Completed(result).shown()["error"] == pytest.approx(0.1 * 127.5)


def test_of_one_candidate_there_is_no_spread(client):
    done = complete(client, candidates="1")[-1][1]
    assert len(done["candidates"]) == 1
    assert not {"mean", "spread"} & set(done)
    assert client.get(f"/completed/{done['name']}/1").status_code == 404


def test_heat_goes_from_black_by_red_and_yellow_to_white():
    shown = np.asarray(heat(torch.tensor([[0.0, 1.0, 2.0, 3.0]])))
    assert shown.tolist() == [[[0, 0, 0], [255, 0, 0], [255, 255, 0], [255, 255, 255]]]
    assert not np.asarray(heat(torch.zeros(2, 2))).any()


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "I;16"])
def test_any_mode_is_seen_and_completed(client, mode):
    """The view of a small photo is what its completion is outside the hole."""
    if mode == "I;16":
        given = Image.fromarray(photo()[..., 0].astype(np.uint16) * 257)
    else:
        given = Image.fromarray(photo()).convert(mode)
    if mode == "RGBA":
        given.putalpha(Image.fromarray(photo(1)[..., 0]))
    file = file_of(given)
    seen = image_of(client.post("/photo", content=file).json()["view"])
    done = complete(client, photo=file)[-1][1]
    completed = image_of(client.get(f"/completed/{done['name']}/0"))
    assert completed.shape == seen.shape
    assert np.array_equal(completed[~HOLE], seen[~HOLE])


def test_a_photo_is_turned_upright(client):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees, clockwise
    file = file_of(Image.fromarray(photo()), exif=exif)
    seen = client.post("/photo", content=file).json()
    upright = np.rot90(photo(), -1)
    assert (seen["width"], seen["height"]) == (50, 80)
    assert np.array_equal(image_of(seen["view"]), upright)
    hole = np.rot90(HOLE, -1)
    done = complete(client, photo=file, mask=file_of(Image.fromarray(~hole)), square="5,10,40,40")[
        -1
    ][1]
    completed = image_of(client.get(f"/completed/{done['name']}/1"))
    assert np.array_equal(completed[~hole], upright[~hole])


def test_the_square_is_that_of_the_completer(dcgan, client, server):
    assert client.post("/photo", content=PHOTO).json()["square"] == [15, 0, 50, 50]
    region = server.completer.crop_of(photo())
    assert (region.origin, region.side) == (15, 50)
    other = Server(Completer.load(dcgan, *WORDS, "crop=[3,4,20,20]"))
    assert other._looked_at(PHOTO)["square"] == [3, 4, 20, 20]


def test_a_square_that_is_rolled_or_reaches_outside_is_set_upright_inside(completer):
    """Around the same middle, as long as it is inside."""
    server = Server(completer)
    side = 30 + 10j  # its length is 31.6, and half of its diagonal 10 + 20j
    for origin, square in ((30 + 0j, [24, 4, 32, 32]), (-10 + 5j, [0, 9, 32, 32])):
        server.completer = SimpleNamespace(region=lambda photo, at=origin: Region(at, side))
        assert server._looked_at(PHOTO)["square"] == square


def test_a_large_photo_is_seen_smaller(completer):
    seen = Server(completer)._looked_at(file_of(Image.new("RGB", (3000, 1500), "red")))
    assert (seen["width"], seen["height"]) == (3000, 1500)
    assert image_of(seen["view"]).shape == (640, 1280, 3)


# ---- what it offers


def test_masks_and_examples(client, completer):
    """Every mask of pixels that needs nothing else, as it is drawn for the first image."""
    about = client.get("/about").json()
    others = {"file", "full", "lowres", "grayscale", "noisy", "quantized", "mixture", "every"}
    assert set(about["masks"]) == set(choices_of("mask")) - others
    for name in about["masks"]:
        done = completer(photo()[:16, :16], name).done
        assert np.array_equal(image_of(client.get(f"/masks/{name}")) > 127, done.mask[0, 0] > 0.5)
    assert "face-1" in about["examples"]
    faces = [image_of(client.get(f"/examples/{name}")) for name in about["examples"]]
    assert len({face.tobytes() for face in faces}) == len(faces)
    assert client.get("/masks/file").status_code == client.get("/examples/x").status_code == 404


def test_the_page_is_our_own_and_has_no_inline_script(client):
    html, script, style = (client.get(f"/{name}").text for name in ("", "page.js", "page.css"))
    assert not re.search(r"https?:|//\w+\.", html + style + re.sub(r"(?m)//.*$", "", script))
    assert re.findall(r"<script[^>]*>[^<]*", html) == ['<script type="module" src="page.js">']
    assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:", html)


# ---- what it refuses


@pytest.mark.parametrize(
    "path", ["/", "/page.js", "/about", "/photo", "/nowhere", "/completed/a/0"]
)
def test_every_answer_has_the_headers(client, path):
    for response in (client.get(path), client.get(path, headers={"Host": "evil.example"})):
        policy = response.headers["content-security-policy"]
        assert "script-src 'self';" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["cache-control"] == "no-store"
        assert response.headers["cross-origin-resource-policy"] == "same-origin"
        assert "access-control-allow-origin" not in response.headers


HOSTS = [
    ("127.0.0.1:1", 200), ("localhost:8000", 200), ("LOCALHOST", 200), ("[::1]:8000", 200),
    ("192.168.0.7", 200), ("evil.example", 403), ("evil.example:8000", 403), ("a@127.0.0.1", 403),
    ("127.0.0.1.evil.example", 403), ("localhost.", 403), ("[::1", 403), ("", 403),
]  # fmt: skip


@pytest.mark.parametrize(("host", "status"), HOSTS)
def test_hosts(client, host, status):
    assert client.get("/about", headers={"Host": host}).status_code == status


def test_a_server_is_known_by_its_own_name(server):
    guard = server.app("studio.local")
    assert guard._is_ours("studio.local:8000")
    assert not guard._is_ours("other.local:8000")


@pytest.mark.parametrize("path", ["/photo", "/complete"])
@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://127.0.0.1", "http://localhost:1", ""]
)
def test_other_origins_are_refused(client, server, path, origin):
    response = client.post(path, headers={"Origin": origin}, **wanted())
    assert response.status_code == 403
    assert response.text == "refused: a request from another origin"
    assert server.line.jobs == []


def test_the_own_origin_is_not(client):
    host = client.base_url.netloc.decode()
    for origin in (f"http://{host}", f"https://{host}"):
        response = client.post("/photo", content=PHOTO, headers={"Origin": origin})
        assert response.status_code == 200


LARGE = file_of(Image.new("1", (101, 100)))
NO_PICTURES = [
    (b"just a text", "cannot be read as an image: use JPEG, PNG, "),
    (b"", "cannot be read as an image: use JPEG, PNG, "),
    (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "cannot be read as an image: use"),
    (LARGE, "has 101 x 100 pixels: at most 0.01 million"),
]  # fmt: skip


@pytest.mark.parametrize(("file", "line"), NO_PICTURES)
def test_what_is_no_image_is_refused(client, server, file, line):
    """One line, and it waits for nobody."""
    seen = client.post("/photo", content=file)
    for response in (
        seen,
        client.post("/complete", **wanted(photo=file)),
        client.post("/complete", **wanted(mask=file)),
    ):
        assert response.status_code == 400
        assert response.text.startswith(line)
        assert "\n" not in response.text
        assert " object at 0x" not in response.text


def test_a_damaged_image_is_refused(client):
    cut = PHOTO[: len(PHOTO) // 2]
    response = client.post("/photo", content=cut)
    assert (response.status_code, response.text) == (400, "is a damaged PNG file")
    assert complete(client, photo=cut)[-1] == ("fault", {"line": "photo: is a damaged PNG file"})


def test_a_image_of_billions_of_pixels_is_refused(client):
    """By its header: it would decode to 10 GB."""
    bomb = bytearray(file_of(Image.new("L", (1, 1))))
    bomb[16:24] = (100_000).to_bytes(4, "big") * 2
    bomb[29:33] = zlib.crc32(bomb[12:29]).to_bytes(4, "big")
    response = client.post("/photo", content=bytes(bomb))
    assert response.status_code == 400
    assert response.text.endswith("pixels: at most 0.01 million")


@pytest.mark.parametrize("declared", [True, False])
def test_too_many_bytes_are_refused(client, server, declared):
    """Whether or not it is said beforehand how many there are."""
    many = os.urandom(LIMITS.size + 1)
    content = many if declared else iter([many[:1000], many[1000:]])
    response = client.post("/photo", content=content)
    assert (response.status_code, response.text) == (413, "too large: at most 0.191 MB")
    response = client.post("/complete", **wanted(photo=many))
    assert response.status_code == 413
    assert server.line.jobs == []


FORMS = [
    ({"square": "1,2,3"}, "square=1,2,3: should be 4 whole numbers"),
    ({"square": "a,b,c,d"}, "square=a,b,c,d: should be 4 whole numbers"),
    ({"candidates": "4"}, "candidates=4: at most 3"),
    ({"candidates": "0"}, "candidates=0: at most 3"),
    ({"candidates": "many"}, "candidates=many: should be 1 whole numbers"),
    ({"square": "1" * 201}, "not a form: "),
    ({"more": "1"}, "not a form: Too many fields"),
]


@pytest.mark.parametrize(("changed", "line"), FORMS)
def test_forms_that_do_not_fit(client, server, changed, line):
    response = client.post("/complete", **wanted(**changed))
    assert response.status_code == 400
    assert response.text.startswith(line)
    assert server.line.jobs == []


def test_forms_that_are_none(client):
    sent = wanted()
    for changed in (
        {"content": PHOTO},
        {"content": PHOTO, "headers": {"Content-Type": "multipart/form-data"}},
        {"content": PHOTO, "headers": {"Content-Type": "multipart/form-data; boundary=a"}},
        {"data": sent["data"]},
        {"data": sent["data"], "files": {"photo": sent["files"]["photo"]}},
        {"data": sent["data"] | {"mask": "a.png"}, "files": {"photo": sent["files"]["photo"]}},
    ):
        response = client.post("/complete", **changed)
        assert response.status_code == 400, response.text
        assert "\n" not in response.text


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"square": "0,0,20,20"}, "the hole of mask reaches outside the region"),
        ({"square": "60,20,40,40"}, "reaches outside the photo"),
        ({"square": f"{10**50},0,40,40"}, "reaches outside the photo"),
        ({"square": "0,0,0,0"}, "is not square"),
        ({"mask": file_of(Image.new("L", (80, 50), "white"))}, "leaves no hole"),
    ],
)
def test_what_the_completer_refuses_is_said_in_one_line(client, changed, line):
    (name, data) = complete(client, **changed)[-1]
    assert name == "fault"
    assert line in data["line"]
    assert "\n" not in data["line"]


# ---- who waits, and who has left


def begin(server):
    """A page that wants a completion: its events, and how to close it."""
    client = httpx.Client(base_url=server.address, timeout=60)
    stream = client.stream("POST", "/complete", **wanted())
    response = stream.__enter__()

    def close():
        stream.__exit__(None, None, None)
        client.close()

    return response, events_of(response) if response.status_code == 200 else None, close


def idle(server, seconds):
    """Whether the worker has nothing to do within so many seconds."""
    server.line.thread.submit(lambda: None).result(timeout=seconds)
    return True


def test_a_closed_page_stops_its_search_within_a_second(endless):
    _, events, close = begin(endless)
    assert [next(events)[0] for _ in range(5)] == ["place", *["frame"] * 4]
    close()
    assert idle(endless, seconds=1)
    assert endless.line.jobs == []
    assert not endless.kept.all


def test_people_wait_in_turn(endless):
    """They are told their place; who is too many is told so; who leaves makes room."""
    pages = [begin(endless) for _ in range(3)]
    firsts = [next(events) for _, events, _ in pages]
    assert firsts == [("place", {"ahead": ahead}) for ahead in range(3)]
    refused, _, close = begin(endless)
    assert refused.status_code == 503
    assert refused.read() == b"2 people wait already: try again in a minute"
    close()

    pages[1][2]()  # one who waits leaves: the next moves up
    assert next(pages[2][1]) == ("place", {"ahead": 1})
    pages[0][2]()  # the one whose turn it is leaves
    assert next(pages[2][1]) == ("place", {"ahead": 0})
    assert next(pages[2][1])[0] == "frame"
    pages[2][2]()
    assert idle(endless, seconds=1)


def test_a_stopped_server_stops_its_searches(dcgan):
    server = Server(Completer.load(dcgan, *WORDS, "solver.iterations=1000000"), LIMITS)
    with served(server) as server.address:
        _, events, close = begin(server)
        assert next(events)[0] == "place"
    assert idle(server, seconds=1)
    close()


def test_a_fault_of_the_server_is_logged_and_the_next_is_served(client, server, caplog):
    class Broken:
        def __call__(self, *given, **named):
            raise ZeroDivisionError("a secret")

    server.completer, whole = Broken(), server.completer
    try:
        assert complete(client)[-1] == (
            "fault",
            {"line": "the server failed: its log says why"},
        )
    finally:
        server.completer = whole
    assert "a secret" in caplog.text
    assert complete(client)[-1][0] == "done"


# ---- what is left


def test_what_was_completed_is_forgotten(client, server):
    name = complete(client)[-1][1]["name"]
    assert client.delete(f"/completed/{name}").status_code == 204
    response = client.get(f"/completed/{name}/0")
    assert response.status_code == 410
    assert response.text == "this completion is no longer kept: complete the photo again"
    names = [complete(client)[-1][1]["name"] for _ in range(4)]  # three photos are kept
    kept = [client.get(f"/completed/{name}/0").status_code for name in names]
    assert kept == [410, 200, 200, 200]
    assert len(set(names)) == 4


def test_what_nobody_is_told_of_is_not_kept(completer):
    kept = completing.Kept(LIMITS.kept)

    def say(name, data):
        if name == "done":  # the page was closed as the search ended
            raise Stopped

    wanted = completing.Wanted(PHOTO, MASK, SQUARE, 1)
    with pytest.raises(Stopped):
        completing.complete(completer, wanted, LIMITS.pixels, kept, say)
    assert not kept.all


OPENED = None  # (path, flags) of what is opened, while somebody asks


def _hear(event, given):
    if event == "open" and OPENED is not None:
        OPENED.append((str(given[0]), given[2] or 0))


sys.addaudithook(_hear)


def test_nothing_is_written_and_no_name_is_opened(completer, tmp_path):
    """Nor are large files of a form spooled to the disk, which Starlette does from 1 MB on."""
    global OPENED
    server = Server(completer)
    large = np.random.default_rng(0).integers(0, 256, (800, 800, 3), np.uint8)
    mask = np.full((800, 800), 255, np.uint8)
    mask[300:400, 300:400] = 0
    file = file_of(Image.fromarray(large))
    assert len(file) > 1.5 * 2**20
    files = {
        "photo": ("../../evil.png", file),
        "mask": ("/etc/evil.png", file_of(Image.fromarray(mask))),
    }
    with served(server) as address, httpx.Client(base_url=address, timeout=60) as client:
        OPENED = []
        client.post("/photo", content=file, headers={"X-Name": "evil"})
        data = {"square": "100,100,600,600", "candidates": "1"}
        response = client.post("/complete", files=files, data=data)
        (name,) = re.findall(r'"name": "([\w-]+)"', response.text)
        assert client.get(f"/completed/{name}/0").status_code == 200
        for path in ("/..%2f..%2fevil", "/masks/..%2fevil", "/examples/evil.png", "/static/evil"):
            assert client.get(path).status_code == 404
        (tmp_path / "ours").write_text("which is heard")
        heard, OPENED = OPENED, None
    writes = os.O_WRONLY | os.O_RDWR | os.O_CREAT
    assert [path for path, flags in heard if flags & writes or "evil" in path] == [
        str(tmp_path / "ours")
    ]


# ---- the command


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--ckpt", "gone"], "ckpt=gone: no such file"),
        (["solver.lr=-1"], "solver.lr=-1: should be greater than 0"),
        (["method=tv"], "candidates=1: is for method=search"),
        (["--host", "256.0.0.1"], "--host 256.0.0.1 --port 0: cannot listen there: "),
        (["--port", "70000"], "--host 127.0.0.1 --port 70000: cannot listen there: "),
    ],
)
def test_a_command_that_does_not_fit(monkeypatch, words, line):
    monkeypatch.setattr(sys, "argv", ["dcgan-web", "--port", "0", *words])
    with pytest.raises(SystemExit) as stop:
        command.main()
    assert str(stop.value).startswith(f"error: {line}")
    assert "\n" not in str(stop.value)


def test_a_port_that_is_taken():
    with command.listen("127.0.0.1", 0) as listening:
        port = listening.getsockname()[1]
        with pytest.raises(ValueError, match=f"^--host 127.0.0.1 --port {port}: cannot listen"):
            command.listen("127.0.0.1", port)


def test_the_command_serves_until_it_is_stopped():
    words = ["--port", "0", "trainer.accelerator=cpu"]
    started = [sys.executable, "-m", "dcgan_inpaint.web", *words]
    with subprocess.Popen(started, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as it:
        address = it.stdout.readline().strip()
        assert httpx.get(f"{address}/about", timeout=60).json()["candidates"] == Limits().candidates
        assert "server" not in httpx.get(address).headers
        it.send_signal(signal.SIGINT)
        assert it.wait(20) == 0
        assert (it.stdout.read(), it.stderr.read()) == ("", "")
