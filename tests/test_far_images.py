"""Images that are far from the faces that a model was trained on (photos/far_images.py)."""

import warnings
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hostile import lightning_checkpoint, write_checkpoint
from PIL import Image, ImageDraw

from dcgan_inpaint import Completer
from dcgan_inpaint.data.batches import ImageDataset
from dcgan_inpaint.inpainting.module import Completion
from dcgan_inpaint.masks import masks
from dcgan_inpaint.models.checkpoint import load_model
from dcgan_inpaint.models.dcgan import DCGAN
from dcgan_inpaint.models.one_pass import OnePass
from dcgan_inpaint.photos import far_images
from dcgan_inpaint.photos.detector import face_scores, load_blazeface
from dcgan_inpaint.photos.far_images import FAR_IMAGE, find_far_images, measure_faces
from dcgan_inpaint.photos.photos import PORTRAITS
from dcgan_inpaint.runs.callbacks import Calibration
from dcgan_inpaint.web.completions import StoredCompletion

SHIPPED = ("celeba64", "celeba128")
SIZE = 192  # px of the drawn images
ONE_PASS = SimpleNamespace(completes_in_one_pass=True)


def draw_house():
    image = Image.new("RGB", (SIZE, SIZE), "skyblue")
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 140, SIZE, SIZE), "green")
    draw.rectangle((40, 70, 150, 160), "brown", "black", 3)
    draw.polygon([(30, 70), (95, 20), (160, 70)], "red", "black")
    draw.ellipse((150, 10, 180, 40), "yellow")
    return image


DRAWN = {
    "house": draw_house(),
    "flat": Image.new("RGB", (SIZE, SIZE), (40, 160, 90)),
    "noise": Image.fromarray(
        np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    ),
}


@pytest.fixture(scope="module", params=SHIPPED)
def completer(request):
    return Completer.load(request.param, "trainer.accelerator=cpu")


def model_with(*statistics):
    return SimpleNamespace(face_scores=torch.tensor(statistics))


def completed(images, index=None):
    index = torch.arange(len(images)) if index is None else index
    return Completion(index, images, torch.ones(len(images), 1, 8, 8), images, images, images)


def preset_scores(monkeypatch, *scores):
    monkeypatch.setattr(far_images, "face_scores", lambda images: torch.tensor(scores))


def test_face_score_is_that_of_a_view_with_a_gray_border():
    images = torch.rand(2, 3, 64, 64) * 2 - 1
    views = torch.zeros(2, 3, 128, 128)
    views[:, :, 32:96, 32:96] = images
    expected = load_blazeface()(views)[0].max(1).values
    torch.testing.assert_close(face_scores(images), expected)


def test_face_score_of_gray_images_is_that_of_equal_channels():
    gray = torch.rand(2, 1, 32, 32) * 2 - 1
    assert torch.equal(face_scores(gray), face_scores(gray.repeat(1, 3, 1, 1)))


def test_image_is_far_below_the_threshold_of_its_model(monkeypatch):
    """The threshold is 2 - 2.25 * 0.4 = 1.1."""
    preset_scores(monkeypatch, 1.0, 1.2, -3.0)
    batch = completed(torch.zeros(3, 3, 8, 8), torch.tensor([7, 8, 5]))
    assert find_far_images(model_with(2.0, 0.4), ONE_PASS, batch) == [7, 5]


@pytest.mark.parametrize(
    ("model", "module"),
    [
        (SimpleNamespace(), ONE_PASS),  # a model without statistics
        (model_with(0.0, 0.0), ONE_PASS),  # of a file of an earlier version
        (model_with(-4.0, 0.5), ONE_PASS),  # of digits, say: its completions show no faces
        (model_with(2.0, 0.4), SimpleNamespace()),  # a baseline
        (model_with(2.0, 0.4), SimpleNamespace(completes_in_one_pass=False)),  # a search
    ],
)
def test_no_image_is_far_where_completions_were_not_measured(monkeypatch, model, module):
    preset_scores(monkeypatch, -9.0)
    assert find_far_images(model, module, completed(torch.zeros(1, 3, 8, 8))) == []


def test_statistics_are_those_of_completions_with_training_masks(monkeypatch):
    """The network fills the hole with 0.5, so an image of -1 has 0.5 where the mask is 0."""
    model = model_with(0.0, 0.0)
    model.device = torch.device("cpu")
    indices = []

    def training_masks(index):
        indices.extend(index.tolist())
        mask = torch.ones(len(index), 1, 8, 8)
        mask[:, :, 2:6, 2:6] = 0
        return mask

    model.training_masks = training_masks
    model.fill = lambda: lambda known, mask: torch.full_like(known, 0.5)
    seen = []

    def scores(images):
        seen.append(images)
        return images[:, 0, 0, 0]

    monkeypatch.setattr(far_images, "face_scores", scores)
    values = torch.tensor([-1.0, 0.0, 1.0])
    measure_faces(model, values.view(3, 1, 1, 1).repeat(1, 3, 8, 8), batch_size=2)
    assert indices == [-1, -2, -3] and [len(images) for images in seen] == [2, 1]
    torch.testing.assert_close(model.face_scores, torch.tensor([0.0, 1.0]))
    # Poisson blending of a constant: the color around the hole continues in it.
    torch.testing.assert_close(torch.cat(seen)[:, 0, 4, 4], values, atol=1e-2, rtol=0)


def test_a_model_without_statistics_is_not_measured():
    model = SimpleNamespace(fill=lambda: None)
    measure_faces(model, torch.zeros(2, 3, 8, 8))
    assert not hasattr(model, "face_scores")


def small_model():
    gan = DCGAN(image_size=16, gf_dim=1, df_dim=1, z_dim=3)
    mask = partial(masks.center, scale=0.25)
    model = OnePass(gan, mask, image_size=16, code_dim=3, df_dim=2, known=1.0)
    model.face_scores.copy_(torch.tensor([2.0, 0.4]))
    return model


@pytest.mark.parametrize("name", ["weights.ckpt", "weights.safetensors"])
def test_file_without_statistics_loads_and_finds_no_image_far(name, tmp_path):
    """As files of earlier versions; a file with statistics keeps them."""
    whole = load_model(write_checkpoint(tmp_path / f"whole_{name}", small_model()))
    assert torch.equal(whole.face_scores, torch.tensor([2.0, 0.4]))
    old = write_checkpoint(tmp_path / f"old_{name}", small_model(), tensors={"face_scores": None})
    assert torch.equal(load_model(old).face_scores, torch.zeros(2))


def test_training_of_an_earlier_version_is_resumed():
    model, saved = small_model(), lightning_checkpoint(small_model())
    del saved["state_dict"]["face_scores"]
    model.on_load_checkpoint(saved)
    model.load_state_dict(saved["state_dict"])
    assert torch.equal(model.face_scores, torch.tensor([2.0, 0.4]))


def test_statistics_are_measured_after_each_epoch():
    images = np.random.default_rng(0).integers(0, 256, (8, 3, 16, 16), dtype=np.uint8)
    data = SimpleNamespace(split=lambda name: ImageDataset(images, [name] * len(images)))
    model, calibration = small_model(), Calibration(data, count=8)
    calibration.on_fit_start(None, model)
    calibration.on_train_epoch_end(None, model)
    mean, deviation = model.face_scores.tolist()
    assert mean != 2.0 and 0 < deviation < 5


@pytest.mark.parametrize("mask", ["center", "half"])
@pytest.mark.parametrize("name", ["portrait_01.webp", "portrait_07.webp", "portrait_20.webp"])
def test_portrait_gives_no_warning(completer, name, mask):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = completer(PORTRAITS / name, mask)
    assert not result.is_far
    assert not StoredCompletion(result).summary()["is_far"]


# A half of noise is sometimes completed to a face.
@pytest.mark.parametrize(
    ("name", "mask"),
    [*((name, "center") for name in DRAWN), *((n, "half") for n in DRAWN if n != "noise")],
)
def test_drawn_image_gives_a_warning(completer, name, mask, tmp_path):
    DRAWN[name].save(tmp_path / "drawn.png")
    with pytest.warns(UserWarning, match=f"drawn.png: {FAR_IMAGE}$") as caught:
        result = completer(tmp_path / "drawn.png", mask, crop=[0, 0, SIZE, SIZE])
    assert len(caught) == 1 and caught[0].filename == __file__
    assert result.is_far
    assert StoredCompletion(result).summary()["is_far"]


@pytest.mark.filterwarnings("ignore:.*looks unlike")  # the portrait is not cropped to its face
def test_content_of_the_hole_has_no_influence(completer):
    size = completer.model.image_shape[-1]
    portrait = Image.open(PORTRAITS / "portrait_07.webp").convert("RGB").resize((size, size))
    hole = np.zeros((size, size), bool)
    hole[size // 4 : size * 3 // 4, size // 4 : size * 3 // 4] = True
    covered = Image.fromarray(np.where(hole[..., None], np.uint8(255), np.asarray(portrait)))
    completions = [
        completer(image, ~hole, [0, 0, size, size]).batch.completion
        for image in (portrait, covered)
    ]
    assert torch.equal(*map(face_scores, completions))


def test_a_search_gives_no_warning():
    searching = Completer.load(
        "celeba64", "method=search", "solver.iterations=1", "stages=none", "trainer.accelerator=cpu"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not searching(DRAWN["house"], "center", [0, 0, SIZE, SIZE]).is_far


def test_command_prints_one_line_per_far_image(run, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    DRAWN["house"].save(photos / "house.png")
    Image.open(PORTRAITS / "portrait_07.webp").save(photos / "person.png")
    overrides = ["ckpt=celeba64", "trainer.accelerator=cpu", "batch_size=1", f"images={photos}"]
    result = run("inpaint.py", *overrides, f"output={tmp_path / 'out'}")
    lines = [line for line in result.stdout.splitlines() if FAR_IMAGE in line]
    assert lines == [f"{photos / 'house.png'}: {FAR_IMAGE}"]
