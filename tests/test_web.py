"""HTTP tests of the web page's server: responses, refused requests, and no traces on disk."""

import os
import re
import shutil
import signal
import subprocess
import sys
import zlib
from types import SimpleNamespace

import httpx
import jsonschema
import numpy as np
import pytest
import torch
from PIL import Image
from serving import (
    OPENAPI,
    STATIC,
    check_documented,
    decode,
    encode_image,
    read_events,
    run_server,
)
from training import small_dcgan

from dcgan_inpaint import Completer
from dcgan_inpaint import api as api_module
from dcgan_inpaint.composition import choices_of
from dcgan_inpaint.files import SHIPPED
from dcgan_inpaint.images import to_pil
from dcgan_inpaint.models.checkpoint import load_model
from dcgan_inpaint.models.latent_encoder import LatentEncoder
from dcgan_inpaint.models.one_pass import OnePass
from dcgan_inpaint.photos.crops import Crop
from dcgan_inpaint.web import __main__ as command
from dcgan_inpaint.web import server as server_module
from dcgan_inpaint.web.completions import StoredCompletion, heat_map
from dcgan_inpaint.web.queue import JobCancelled
from dcgan_inpaint.web.security import Limits
from dcgan_inpaint.web.server import Server

OVERRIDES = ("stages=none", "trainer.accelerator=cpu", "detector=null")
CROP = [10, 5, 40, 40]
HOLE = np.zeros((50, 80), bool)
HOLE[20:30, 22:41] = True
LIMITS = Limits(
    max_bytes=200_000,
    max_pixels=100 * 100,
    max_candidates=3,
    max_waiting=2,
    max_stored_pixels=3 * 50 * 80,
)
FIELDS = {"crop": "10,5,40,40", "candidates": "2"}


def make_photo(seed=0):
    return np.random.default_rng(seed).integers(0, 256, (50, 80, 3), np.uint8)


PHOTO, MASK = encode_image(Image.fromarray(make_photo())), encode_image(Image.fromarray(~HOLE))


@pytest.fixture(scope="module")
def dcgan():
    model = small_dcgan(z_dim=8)
    model.data = {"source": "celeba"}  # for which the page offers examples
    return model


@pytest.fixture(scope="module")
def completer(dcgan):
    return Completer.load(dcgan, *OVERRIDES, "solver.iterations=4")


@pytest.fixture(scope="module")
def server(completer):
    return Server([completer], LIMITS)


@pytest.fixture(scope="module")
def client(server):
    with run_server(server) as url, httpx.Client(base_url=url, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def endless_completer(dcgan):
    """A completer whose searches end only when they are cancelled."""
    return Completer.load(dcgan, *OVERRIDES, "solver.iterations=1000000")


@pytest.fixture
def endless_server(endless_completer):
    server = Server([endless_completer], LIMITS)
    with run_server(server) as server.url:
        yield server


def request_arguments(photo=PHOTO, mask=MASK, **fields):
    """Return the arguments of a request. A field that is None is left out."""
    files = {"photo": ("photo.png", photo), "mask": ("mask.png", mask)}
    data = {name: value for name, value in (FIELDS | fields).items() if value is not None}
    return {"files": files, "data": data}


def complete(client, **changes):
    """Complete a photo and return all events."""
    with client.stream("POST", "/complete", **request_arguments(**changes)) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        return list(read_events(response))


# ---- completions


def test_candidates_mean_and_mask_equal_those_of_the_completer(client, completer, monkeypatch):
    monkeypatch.setattr(server_module, "FRAME_INTERVAL", 0)
    events = complete(client)
    assert [name for name, _ in events] == ["position", *["frame"] * 5, "done"]
    assert events[0][1] == {"ahead": 0}
    frames = [data for name, data in events if name == "frame"]
    assert [frame["iteration"] for frame in frames] == list(range(5))
    assert {frame["iterations"] for frame in frames} == {4}
    assert decode(frames[0]["image"]).shape == (16, 16, 3)

    expected = completer(make_photo(), ~HOLE, CROP, candidates=2)
    done = events[-1][1]
    assert [len(frame["totals"]) for frame in frames] == [1] * 5
    assert frames[-1]["totals"] == done["totals"][-1:]
    assert done["totals"] == pytest.approx(expected.trace[:, 2].tolist(), rel=1e-5)
    for k in range(2):
        completed = decode(client.get(f"/completions/{done['id']}/{k}"))
        assert np.array_equal(completed, np.asarray(expected.candidates[k]))
        assert np.array_equal(completed[~HOLE], make_photo()[~HOLE])
        assert (completed[HOLE] != make_photo()[HOLE]).mean() > 0.9
    assert not np.array_equal(*(decode(candidate) for candidate in done["candidates"]))
    mean = completer(make_photo(), ~HOLE, CROP, candidates=2, select="mean").image
    assert np.array_equal(decode(client.get(f"/completions/{done['id']}/mean")), mean)
    assert np.array_equal(decode(client.get(f"/completions/{done['id']}/mask")) == 0, HOLE)
    assert done["max_spread"] == pytest.approx(expected.spread.max().item() * 127.5)
    assert np.array_equal(decode(done["spread"]), np.asarray(heat_map(expected.spread)))
    assert "predicted_error" not in done  # not measured for several searches


def test_predicted_error_of_a_sampler_is_in_the_summary(dcgan):
    encoder = LatentEncoder(dcgan, image_size=16, noise_dim=4, code_dim=8, df_dim=4)
    encoder.error_calibration[:] = torch.tensor([0.0, 0.1])
    result = Completer.load(encoder, *OVERRIDES)(make_photo(), ~HOLE, CROP, candidates=2)
    summary = StoredCompletion(result).summary()
    assert summary["predicted_error"] == pytest.approx(0.1 * 127.5)


def test_one_candidate_has_neither_mean_nor_spread(client):
    done = complete(client, candidates="1")[-1][1]
    assert len(done["candidates"]) == 1
    assert not {"mean", "spread"} & set(done)
    response = client.get(f"/completions/{done['id']}/1")
    assert (response.status_code, response.text) == (404, "unknown image")


def test_heat_map_ranges_from_black_to_white():
    colors = np.asarray(heat_map(torch.tensor([[0.0, 1.0, 2.0, 3.0]])))
    assert colors.tolist() == [[[0, 0, 0], [255, 0, 0], [255, 255, 0], [255, 255, 255]]]
    assert not np.asarray(heat_map(torch.zeros(2, 2))).any()


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "I;16"])
def test_completion_equals_view_outside_the_hole_in_every_image_mode(client, mode):
    if mode == "I;16":
        photo = Image.fromarray(make_photo()[..., 0].astype(np.uint16) * 257)
    else:
        photo = Image.fromarray(make_photo()).convert(mode)
    if mode == "RGBA":
        photo.putalpha(Image.fromarray(make_photo(1)[..., 0]))
    file = encode_image(photo)
    view = decode(client.post("/photo", content=file).json()["view"])
    done = complete(client, photo=file)[-1][1]
    completed = decode(client.get(f"/completions/{done['id']}/0"))
    assert completed.shape == view.shape
    assert np.array_equal(completed[~HOLE], view[~HOLE])


def test_exif_orientation_is_applied(client):
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees clockwise
    file = encode_image(Image.fromarray(make_photo()), exif=exif)
    response = client.post("/photo", content=file).json()
    upright = np.rot90(make_photo(), -1)
    assert (response["width"], response["height"]) == (50, 80)
    assert np.array_equal(decode(response["view"]), upright)
    hole = np.rot90(HOLE, -1)
    mask = encode_image(Image.fromarray(~hole))
    done = complete(client, photo=file, mask=mask, crop="5,10,40,40")[-1][1]
    completed = decode(client.get(f"/completions/{done['id']}/1"))
    assert np.array_equal(completed[~hole], upright[~hole])


def test_mask_with_an_alpha_channel_is_read_like_a_mask_file(client):
    """Opaque alpha is ignored; alpha that varies is the mask, whatever the colors are."""
    opaque = Image.fromarray(~HOLE).convert("RGBA")
    varying = Image.new("RGBA", (80, 50), "white")
    varying.putalpha(Image.fromarray(~HOLE).convert("L"))
    translucent = opaque.copy()
    translucent.putalpha(128)
    for mask in (opaque, varying, translucent):
        done = complete(client, mask=encode_image(mask))[-1][1]
        stored = decode(client.get(f"/completions/{done['id']}/mask"))
        assert np.array_equal(stored == 0, HOLE)


def test_mask_of_16_bits_and_of_another_orientation_is_read_like_a_mask_file(client):
    levels = Image.fromarray((~HOLE).astype(np.uint16) * 65535)
    exif = Image.Exif()
    exif[0x0112] = 3  # rotate by 180 degrees
    turned = encode_image(Image.fromarray(np.rot90(~HOLE, 2)), exif=exif)
    for mask in (encode_image(levels), turned):
        done = complete(client, mask=mask)[-1][1]
        stored = decode(client.get(f"/completions/{done['id']}/mask"))
        assert np.array_equal(stored == 0, HOLE)


def test_default_crop_is_that_of_the_completer(dcgan, client, server):
    assert client.post("/photo", content=PHOTO).json()["crop"] == [15, 0, 50, 50]
    crop = server.completers["DCGAN"].crop_of(make_photo())
    assert (crop.origin, crop.side) == (15, 50)
    other = Completer.load(dcgan, *OVERRIDES, "crop=[3,4,20,20]")
    assert server._inspect(PHOTO, other)["crop"] == [3, 4, 20, 20]


@pytest.mark.parametrize("detector", ["auto", "null"])
def test_photo_in_which_no_face_was_found_is_in_its_center(dcgan, server, detector):
    """Without the detector, nobody looked for a face."""
    completer = Completer.load(dcgan, "trainer.accelerator=cpu", f"detector={detector}")
    photo = server._inspect(PHOTO, completer)
    assert (photo["crop"], photo["without_face"]) == ([15, 0, 50, 50], detector == "auto")


@pytest.mark.parametrize(
    ("origin", "crop"), [(30 + 0j, [24, 4, 32, 32]), (-10 + 5j, [0, 9, 32, 32])]
)
def test_default_crop_is_upright_and_inside_the_photo(server, origin, crop):
    """The crop keeps its center unless it would exceed the photo."""
    side = 30 + 10j  # length 31.6, half of the diagonal 10 + 20j
    completer = SimpleNamespace(crop_of=lambda photo: Crop(origin, side))
    assert server._inspect(PHOTO, completer)["crop"] == crop


def test_view_of_a_large_photo_is_downscaled(completer):
    response = Server([completer])._inspect(
        encode_image(Image.new("RGB", (3000, 1500), "red")), completer
    )
    assert (response["width"], response["height"]) == (3000, 1500)
    assert decode(response["view"]).shape == (640, 1280, 3)


# ---- masks and examples


def test_all_masks_without_further_inputs_are_offered(client, completer):
    about = client.get("/about").json()
    others = {"file", "full", "lowres", "grayscale", "noisy", "quantized", "mixture", "every"}
    assert set(about["masks"]) == set(choices_of("mask")) - others
    for name in about["masks"]:
        batch = completer(make_photo()[:16, :16], name).batch
        assert np.array_equal(decode(client.get(f"/masks/{name}")) > 127, batch.mask[0, 0] > 0.5)
    assert client.get("/masks/file").status_code == 404


def test_completion_without_a_search_is_the_only_candidate(dcgan):
    result = Completer.load(dcgan, "method=mean", *OVERRIDES[1:])(make_photo(), "center")
    stored = StoredCompletion(result)
    summary = stored.summary()
    assert (len(summary["candidates"]), summary["totals"]) == (1, [])
    assert np.array_equal(np.asarray(stored.image("0")), np.asarray(result.image))


def test_examples_are_the_shipped_portraits(client):
    names = client.get("/about").json()["models"][0]["examples"]
    assert names == [f"portrait_{i:02d}" for i in range(1, 25)]
    for name in names[::8]:
        response = client.get(f"/examples/{name}")
        assert response.headers["content-type"] == "image/webp"
        assert decode(response).shape == (448, 448, 3)
    assert client.get("/examples/unknown").status_code == 404


def test_page_has_no_external_resources_and_no_inline_script(client):
    html, script, style = (client.get(f"/{name}").text for name in ("", "page.js", "page.css"))
    assert not re.search(r"https?:|//\w+\.", html + style + re.sub(r"(?m)//.*$", "", script))
    assert re.findall(r"<script[^>]*>[^<]*", html) == ['<script type="module" src="page.js">']
    assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:", html)


def test_images_of_several_faces_show_all_of_them(dcgan, monkeypatch):
    crops = [Crop(0 + 5j, 40), Crop(40 + 5j, 40)]
    monkeypatch.setattr(api_module, "crop_finder", lambda *_: lambda *_: crops)
    hole = HOLE | np.roll(HOLE, 30, 1)
    hole[:, 38:42] = False  # the hole of each crop
    result = Completer.load(dcgan, *OVERRIDES, "solver.iterations=1")(
        make_photo(), ~hole, face=None, candidates=2
    )
    assert result.previous is not None
    stored = StoredCompletion(result)
    assert np.array_equal(np.asarray(stored.image("mask")) == 0, hole)
    for k in range(2):
        image = np.asarray(stored.image(str(k)))
        assert np.array_equal(image, np.asarray(result.candidates[k]))
        assert np.array_equal(image[~hole], make_photo()[~hole])
    summary = stored.summary()
    for k in range(2):
        small = [to_pil(result.batch.candidates[face, k]) for face in range(2)]
        assert np.array_equal(decode(summary["candidates"][k]), np.hstack(small))
    for name in ("mean", "spread"):
        assert decode(summary[name]).shape == (16, 32, 3)
    assert summary["totals"] == result.batch.trace[:, 0, 2].tolist()


# ---- models


@pytest.fixture(scope="module")
def two_models(completer):
    """A client of a server with a second model, loaded from a path and for drawn faces."""
    other = small_dcgan(z_dim=8)
    other.data = {"source": "faces"}
    path = "/home/somebody/run/weights.safetensors"
    server = Server([completer, Completer(other, path, [*OVERRIDES, "crop=[3,4,20,20]"])], LIMITS)
    with run_server(server) as url, httpx.Client(base_url=url, timeout=60) as client:
        yield client


def test_models_are_offered_with_a_sentence_and_suitable_examples(two_models):
    """Portraits suit a model of face photos. The path of a model is not published."""
    first, second = two_models.get("/about").json()["models"]
    assert (first["name"], second["name"]) == ("DCGAN", "run/weights.safetensors")
    assert len(first["examples"]) == 24
    assert second["examples"] == []
    assert second["description"] == "Your own model, for images of 16 pixels."


def test_default_models_are_for_face_photos_and_the_best_is_first(monkeypatch):
    """The best one is that of Completer.load, with the best metrics of the model cards."""
    names = command.FACE_MODELS
    assert names[0] == Completer.load.__func__.__defaults__[0]
    for name in names:
        assert server_module.is_for_face_photos(SimpleNamespace(model=load_model(name)))
    assert {*names, "faces64"} == server_module.DESCRIPTIONS.keys() == SHIPPED.keys()


def one_pass_model():
    return OnePass(
        network="context_encoder", hole_l2=1.0, image_size=16, gf_dim=1, df_dim=1, code_dim=3
    )


@pytest.mark.parametrize(
    "method", ["null", *(choice for choice in choices_of("method") if choice != "own")]
)
@pytest.mark.parametrize("model", ["dcgan", "one_pass"])
def test_a_method_is_served_if_it_completes_an_image(dcgan, method, model):
    """A refusal at start-up has the message of the completer."""
    several = model == "dcgan" and method in ("null", "search")
    fast = ("stages=none", "solver.iterations=1") if several else ()
    model = dcgan if model == "dcgan" else one_pass_model()
    completer = Completer.load(model, f"method={method}", *OVERRIDES[1:], *fast)
    try:
        expected = completer(make_photo(), ~HOLE, CROP)
    except ValueError as error:
        with pytest.raises(ValueError, match=f"^{re.escape(str(error))}$"):
            Server([completer], LIMITS)
        assert method in ("nearest", "network", "search")  # no data, no network, no z
        return
    server = Server([completer], LIMITS)
    assert [*server.max_candidates.values()] == [3 if several else 1]
    with run_server(server) as url, httpx.Client(base_url=url, timeout=60) as client:
        assert client.get("/about").json()["models"][0]["max_candidates"] == (3 if several else 1)
        done = complete(client, candidates="1")[-1][1]
        assert np.array_equal(decode(client.get(f"/completions/{done['id']}/0")), expected.image)
        if not several:
            response = client.post("/complete", **request_arguments(candidates="2"))
            message = "candidates=2: the method makes a single completion. Use 1"
            assert (response.status_code, response.text) == (400, message)


def test_model_of_a_request_is_used(two_models):
    assert two_models.post("/photo", content=PHOTO).json()["crop"] == [15, 0, 50, 50]
    query = {"model": "run/weights.safetensors"}
    response = two_models.post("/photo", content=PHOTO, params=query)
    assert response.json()["crop"] == [3, 4, 20, 20]
    response = two_models.post("/photo", content=PHOTO, params={"model": "gone"})
    message = "model=gone: unknown model. Use DCGAN or run/weights.safetensors"
    assert (response.status_code, response.text) == (400, message)
    hole_outside = complete(two_models, crop=None, **query)[-1]
    assert hole_outside[0] == "error"
    assert "the hole reaches outside the crop [3,4,20,20]" in hole_outside[1]["message"]
    assert complete(two_models, crop=None)[-1][0] == "done"


# ---- documented API

EVENTS = {"position": "Position", "frame": "Frame", "done": "Completion", "error": "Error"}


def test_document_lists_the_routes_of_the_server(client, server):
    response = client.get("/openapi.json")
    assert response.headers["content-type"] == "application/json"
    assert response.json() == OPENAPI
    assert OPENAPI["openapi"].startswith("3.1.")
    documented = {
        (path, method.upper()) for path, item in OPENAPI["paths"].items() for method in item
    }
    routes = server.app().app.routes
    assert documented == {
        (route.path, method)
        for route in routes
        for method in getattr(route, "methods", ())
        if method != "HEAD"
    }


def test_responses_match_the_document(client, monkeypatch):
    check_documented(client.get("/about").json(), "About")
    check_documented(client.post("/photo", content=PHOTO).json(), "Photo")
    monkeypatch.setattr(server_module, "FRAME_INTERVAL", 0)
    events = [*complete(client), *complete(client, crop="0,0,20,20")]
    assert {name for name, _ in events} == EVENTS.keys()
    for name, data in events:
        check_documented(data, EVENTS[name])
    with pytest.raises(jsonschema.ValidationError):
        check_documented({"message": "wrong", "additional": 1}, "Error")


def test_form_matches_the_document(client):
    form = OPENAPI["components"]["schemas"]["CompletionRequest"]
    assert {*server_module.FILES} == {*form["required"]}
    message = client.post("/complete", **request_arguments(additional="1")).text
    optional = {*re.split(", | or ", message.removeprefix("additional: unknown field. Use "))}
    assert optional == form["properties"].keys() - form["required"]
    done = complete(client, crop=None, candidates=None)[-1][1]
    assert len(done["candidates"]) == 1


def readme_block(language):
    """Return the last block of code in a language of the README of the web package."""
    text = (STATIC.parent / "README.md").read_text()
    return re.findall(rf"```{language}\n(.*?)```", text, re.S)[-1]


@pytest.mark.parametrize("language", ["python", "bash"])
def test_client_of_the_readme_completes_a_photo(client, language, tmp_path, monkeypatch):
    code = readme_block(language).replace("http://127.0.0.1:8000", str(client.base_url).rstrip("/"))
    Image.fromarray(make_photo()).save(tmp_path / "photo.jpg", quality=95)
    (tmp_path / "mask.png").write_bytes(MASK)
    code = code.replace("candidates=4", "candidates=3").replace(
        '"candidates": 4', '"candidates": 3'
    )
    if language == "python":
        assert len([line for line in code.splitlines() if line]) <= 10
        monkeypatch.chdir(tmp_path)
        exec(code, {})
    elif not shutil.which("curl"):
        pytest.skip("curl not found")
    else:
        subprocess.run(["bash", "-ec", code], cwd=tmp_path, check=True, capture_output=True)
    with Image.open(tmp_path / "photo.jpg") as image:
        photo = np.asarray(image)
    with Image.open(tmp_path / "completed.png") as image:
        completed = np.asarray(image)
    assert np.array_equal(completed[~HOLE], photo[~HOLE])
    assert (completed[HOLE] != photo[HOLE]).mean() > 0.9


# ---- rejected requests


@pytest.mark.parametrize(
    "path", ["/", "/page.js", "/about", "/photo", "/unknown", "/completions/a/0"]
)
def test_every_response_has_the_security_headers(client, path):
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
def test_host_is_localhost_or_an_ip_address(client, host, status):
    assert client.get("/about", headers={"Host": host}).status_code == status


def test_host_name_of_the_server_is_allowed(server):
    guard = server.app("Studio.local")
    assert guard.is_allowed("studio.local:8000")
    assert not guard.is_allowed("other.local:8000")


@pytest.mark.parametrize("path", ["/photo", "/complete"])
@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://127.0.0.1", "http://localhost:1", ""]
)
def test_cross_origin_request_is_rejected(client, server, path, origin):
    response = client.post(path, headers={"Origin": origin}, **request_arguments())
    assert response.status_code == 403
    assert response.text == "cross-origin requests are not allowed"
    assert server.queue.jobs == []


def test_same_origin_request_is_accepted(client):
    host = client.base_url.netloc.decode()
    for origin in (f"http://{host}", f"https://{host}"):
        response = client.post("/photo", content=PHOTO, headers={"Origin": origin})
        assert response.status_code == 200


INVALID_IMAGES = [
    (b"just a text", "not a readable image. Use JPEG, PNG, "),
    (b"", "not a readable image. Use JPEG, PNG, "),
    (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a readable image. Use"),
    (
        encode_image(Image.new("1", (101, 100))),
        "image has more than 0.01 million pixels. Use a smaller image",
    ),
]


@pytest.mark.parametrize(("file", "message"), INVALID_IMAGES)
def test_invalid_image_is_rejected_before_it_is_queued(client, server, file, message):
    for name, response in (
        ("photo", client.post("/photo", content=file)),
        ("photo", client.post("/complete", **request_arguments(photo=file))),
        ("mask", client.post("/complete", **request_arguments(mask=file))),
    ):
        assert response.status_code == 400
        assert response.text.startswith(f"{name}: {message}")
        assert "\n" not in response.text
        assert " object at 0x" not in response.text
    assert server.queue.jobs == []


def test_damaged_image_is_rejected(client):
    truncated = PHOTO[: len(PHOTO) // 2]
    message = "photo: damaged PNG file. Use another file"
    response = client.post("/photo", content=truncated)
    assert (response.status_code, response.text) == (400, message)
    assert complete(client, photo=truncated)[-1] == ("error", {"message": message})
    message = "mask: damaged PNG file. Use another file"
    assert complete(client, mask=MASK[: len(MASK) // 2])[-1] == ("error", {"message": message})


def test_decompression_bomb_is_rejected_by_its_header(client):
    """The image would take 10 GB when decoded."""
    bomb = bytearray(encode_image(Image.new("L", (1, 1))))
    bomb[16:24] = (100_000).to_bytes(4, "big") * 2
    bomb[29:33] = zlib.crc32(bomb[12:29]).to_bytes(4, "big")
    response = client.post("/photo", content=bytes(bomb))
    assert response.status_code == 400
    assert response.text.startswith("photo: image has more than 0.01 million pixels.")


@pytest.mark.parametrize("has_content_length", [True, False])
def test_request_body_above_the_limit_is_rejected(client, server, has_content_length):
    body = os.urandom(LIMITS.max_bytes + 1)
    content = body if has_content_length else iter([body[:1000], body[1000:]])
    assert client.post("/photo", content=content).status_code == 413
    assert client.post("/complete", **request_arguments(photo=body)).status_code == 413
    assert server.queue.jobs == []


INVALID_FIELDS = [
    ({"crop": "1,2,3"}, "crop=1,2,3: expected four integers x,y,width,height"),
    ({"crop": "a,b,c,d"}, "crop=a,b,c,d: expected four integers x,y,width,height"),
    ({"candidates": "4"}, "candidates=4: expected 1 to 3"),
    ({"candidates": "0"}, "candidates=0: expected 1 to 3"),
    ({"candidates": "many"}, "candidates=many: expected 1 to 3"),
    ({"crop": "1" * 1001}, "Part exceeded maximum size"),
    ({"additional": "1"}, "additional: unknown field. Use model, crop or candidates"),
    ({"additional": "1", "model": "DCGAN"}, "Too many fields"),
    ({"model": "other"}, "model=other: unknown model. Use DCGAN"),
]


@pytest.mark.parametrize(("changes", "message"), INVALID_FIELDS)
def test_invalid_field_is_rejected(client, server, changes, message):
    response = client.post("/complete", **request_arguments(**changes))
    assert response.status_code == 400
    assert response.text.startswith(message)
    assert server.queue.jobs == []


MULTIPART = "multipart/form-data"
UPLOADS = request_arguments()["files"]
INVALID_FORMS = {
    "no content type": {"content": PHOTO},
    "no boundary": {"content": PHOTO, "headers": {"Content-Type": MULTIPART}},
    "not multipart": {"content": PHOTO, "headers": {"Content-Type": f"{MULTIPART}; boundary=a"}},
    "no files": {"data": FIELDS},
    "no mask": {"data": FIELDS, "files": {"photo": UPLOADS["photo"]}},
    "mask is text": {"data": FIELDS | {"mask": "a.png"}, "files": {"photo": UPLOADS["photo"]}},
}


@pytest.mark.parametrize("name", INVALID_FORMS)
def test_invalid_form_is_rejected(client, name):
    response = client.post("/complete", **INVALID_FORMS[name])
    assert response.status_code == 400, response.text
    assert "\n" not in response.text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crop": "0,0,20,20"}, "mask: the hole reaches outside the crop"),
        ({"crop": "60,20,40,40"}, "the crop reaches outside the upright photo"),
        ({"crop": f"{10**50},0,40,40"}, "the crop reaches outside the upright photo"),
        ({"crop": "0,0,0,0"}, "the crop is not square"),
        ({"mask": encode_image(Image.new("L", (80, 50), "white"))}, "mask: the mask has no hole"),
    ],
)
def test_error_of_the_completer_is_reported_in_one_line(client, changes, message):
    (name, data) = complete(client, **changes)[-1]
    assert name == "error"
    assert message in data["message"]
    assert "\n" not in data["message"]


# ---- queue


def open_page(server):
    """Start a completion; return the response, its events and a function that disconnects."""
    client = httpx.Client(base_url=server.url, timeout=60)
    stream = client.stream("POST", "/complete", **request_arguments())
    response = stream.__enter__()

    def close():
        stream.__exit__(None, None, None)
        client.close()

    return response, read_events(response) if response.status_code == 200 else None, close


def wait_until_idle(server, seconds):
    """Raise TimeoutError unless the worker becomes idle in time."""
    server.queue.thread.submit(lambda: None).result(timeout=seconds)


def test_disconnect_stops_the_search_within_a_second(endless_server):
    _, events, close = open_page(endless_server)
    assert [next(events)[0] for _ in range(5)] == ["position", *["frame"] * 4]
    close()
    wait_until_idle(endless_server, seconds=1)
    assert endless_server.queue.jobs == []
    assert not endless_server.store


def test_clients_wait_in_order_and_learn_their_position(endless_server):
    pages = [open_page(endless_server) for _ in range(3)]
    first_events = [next(events) for _, events, _ in pages]
    assert first_events == [("position", {"ahead": ahead}) for ahead in range(3)]
    rejected, _, close = open_page(endless_server)
    assert rejected.status_code == 503
    assert rejected.read() == b"too many photos are waiting. Try again later"
    close()

    pages[1][2]()  # a waiting client disconnects
    assert next(pages[2][1]) == ("position", {"ahead": 1})
    pages[0][2]()  # the client with the running search disconnects
    assert next(pages[2][1]) == ("position", {"ahead": 0})
    assert next(pages[2][1])[0] == "frame"
    pages[2][2]()
    wait_until_idle(endless_server, seconds=1)


def test_shutdown_stops_running_searches(endless_completer):
    server = Server([endless_completer], LIMITS)
    with run_server(server) as server.url:
        _, events, close = open_page(server)
        assert next(events)[0] == "position"
    wait_until_idle(server, seconds=1)
    close()


def test_internal_error_is_logged_and_does_not_stop_the_worker(client, server, caplog, monkeypatch):
    def raise_error(*args, **kwargs):
        raise ZeroDivisionError("a secret")

    with monkeypatch.context() as patch:
        patch.setitem(server.completers, "DCGAN", raise_error)
        message = "internal server error. See the server's log"
        assert complete(client)[-1] == ("error", {"message": message})
    assert "a secret" in caplog.text
    assert complete(client)[-1][0] == "done"


# ---- storage


def test_completion_is_removed_on_request_and_when_storage_is_full(client):
    identifier = complete(client)[-1][1]["id"]
    assert client.delete(f"/completions/{identifier}").status_code == 204
    response = client.get(f"/completions/{identifier}/0")
    assert response.status_code == 410
    assert response.text == "completion no longer stored. Complete the photo again"
    identifiers = [complete(client)[-1][1]["id"] for _ in range(4)]  # the storage holds three
    statuses = [client.get(f"/completions/{each}/0").status_code for each in identifiers]
    assert statuses == [410, 200, 200, 200]
    assert len(set(identifiers)) == 4


def test_completion_without_client_is_not_stored(completer):
    server = Server([completer], LIMITS)

    def emit(name, data):
        if name == "done":  # the client disconnected when the search had ended
            raise JobCancelled

    with pytest.raises(JobCancelled):
        server._complete(completer, PHOTO, MASK, CROP, 1, emit)
    assert not server.store


OPENED_FILES = None  # (path, flags) of each opened file while it is a list


def record_opened_files(event, args):
    if event == "open" and OPENED_FILES is not None:
        OPENED_FILES.append((str(args[0]), args[2] or 0))


sys.addaudithook(record_opened_files)


def test_requests_neither_write_files_nor_open_files_by_name(completer, tmp_path):
    """By default, Starlette writes uploads of more than 1 MB to disk."""
    global OPENED_FILES
    server = Server([completer])
    photo = np.random.default_rng(0).integers(0, 256, (800, 800, 3), np.uint8)
    mask = np.full((800, 800), 255, np.uint8)
    mask[300:400, 300:400] = 0
    file = encode_image(Image.fromarray(photo))
    assert len(file) > 1.5 * 2**20
    files = {
        "photo": ("../../evil.png", file),
        "mask": ("/etc/evil.png", encode_image(Image.fromarray(mask))),
    }
    with run_server(server) as url, httpx.Client(base_url=url, timeout=60) as client:
        OPENED_FILES = []
        client.post("/photo", content=file, headers={"X-Name": "evil"})
        data = {"crop": "100,100,600,600", "candidates": "1"}
        response = client.post("/complete", files=files, data=data)
        (identifier,) = re.findall(r'"id": "([\w-]+)"', response.text)
        assert client.get(f"/completions/{identifier}/0").status_code == 200
        for path in ("/..%2f..%2fevil", "/masks/..%2fevil", "/examples/evil.png", "/static/evil"):
            assert client.get(path).status_code == 404
        (tmp_path / "control").write_text("this write is recorded")
        opened_files, OPENED_FILES = OPENED_FILES, None
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT
    assert [path for path, flags in opened_files if flags & writing or "evil" in path] == [
        str(tmp_path / "control")
    ]


# ---- command line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ckpt", "gone"], "ckpt=gone: "),
        (["solver.lr=-1"], "solver.lr=-1: "),
        (["method=tv", "candidates=2"], "candidates=2: applies to method=search only"),
        (["--host", "256.0.0.1"], "--host 256.0.0.1 --port 0: cannot listen: "),
        (["--port", "70000"], "--host 127.0.0.1 --port 70000: cannot listen: "),
    ],
)
def test_invalid_argument_is_reported_in_one_line(monkeypatch, arguments, message):
    monkeypatch.setattr(sys, "argv", ["dcgan-web", "--port", "0", *arguments])
    with pytest.raises(SystemExit) as exit_info:
        command.main()
    assert str(exit_info.value).startswith(f"error: {message}")
    assert "\n" not in str(exit_info.value)


def test_port_in_use_is_reported():
    with command.open_socket("127.0.0.1", 0) as server_socket:
        port = server_socket.getsockname()[1]
        with pytest.raises(ValueError, match=f"^--host 127.0.0.1 --port {port}: cannot listen"):
            command.open_socket("127.0.0.1", port)


@pytest.mark.slow
def test_command_serves_until_interrupted():
    arguments = [sys.executable, "-m", "dcgan_inpaint.web", "--port", "0"]
    with subprocess.Popen(
        [*arguments, "trainer.accelerator=cpu"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        url = process.stdout.readline().strip()
        about = httpx.get(f"{url}/about", timeout=60).json()
        assert about["max_candidates"] == Limits().max_candidates
        assert "server" not in httpx.get(url).headers
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        assert (process.stdout.read(), process.stderr.read()) == ("", "")
