"""Completer, the Python interface: same results as inpaint.py, inputs, results."""

import io
import re
import subprocess
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

import hydra
import numpy as np
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.version import VersionBase
from PIL import Image
from training import small_dcgan

import dcgan_inpaint
from dcgan_inpaint import Completer
from dcgan_inpaint.composition import compose_config
from dcgan_inpaint.images import to_pil
from dcgan_inpaint.metrics.completions import psnr
from dcgan_inpaint.models.checkpoint import save_weights
from dcgan_inpaint.models.latent_encoder import LatentEncoder
from dcgan_inpaint.photos.crops import Crop, draw_crops

SHORT = ("solver.iterations=3", "stages=none", "trainer.accelerator=cpu")
CROP = [10, 5, 40, 40]
HOLE = np.zeros((50, 80), bool)
HOLE[20:30, 22:41] = True


@pytest.fixture(scope="module")
def dcgan():
    return small_dcgan(z_dim=8)


@pytest.fixture(scope="module")
def completer(dcgan):
    return Completer.load(dcgan, *SHORT)


def photo(seed=0, channels=3):
    shape = (50, 80, 3) if channels == 3 else (50, 80)
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def equal_pixels(a, b):
    return np.array_equal(np.asarray(a), np.asarray(b))


@pytest.mark.parametrize("mask", ["image", "random"])
def test_completer_equals_inpaint_py_bitwise(run, dcgan, tmp_path, mask):
    """Two photos in two batches, with the default settings except for a shorter search."""
    save_weights(dcgan, tmp_path / "weights.safetensors")
    (tmp_path / "photos").mkdir()
    for seed in range(2):
        Image.fromarray(photo(seed)).save(tmp_path / "photos" / f"{seed}.png")
    Image.fromarray(~HOLE).save(tmp_path / "hole.png")
    settings = ["solver.iterations=4", "batch_size=1", "trainer.accelerator=cpu"]
    mask_file = ["mask=file", f"mask.path={tmp_path / 'hole.png'}"] if mask == "image" else []
    run(
        "inpaint.py",
        f"ckpt={tmp_path / 'weights.safetensors'}",
        f"images={tmp_path / 'photos'}",
        f"crop={str(CROP).replace(' ', '')}",
        *(mask_file or ["mask=random"]),
        *settings,
        f"output={tmp_path / 'out'}",
    )
    completer = Completer.load(tmp_path / "weights.safetensors", *settings)
    photos = [photo(0), photo(1)]
    results = completer(photos, ~HOLE if mask == "image" else mask, CROP)
    assert not equal_pixels(results[0].image, photo(0))
    for i, result in enumerate(results):
        with Image.open(tmp_path / "out" / "photos" / f"0000{i}_{i}.png") as written:
            assert equal_pixels(result.image, written)


def test_pixels_outside_the_hole_equal_the_photo(completer):
    for channels in (1, 3):
        image = photo(channels=channels)
        result = completer(image, ~HOLE, CROP)
        assert result.image.size == (80, 50)
        assert result.image.mode == ("L" if channels == 1 else "RGB")
        completed = np.asarray(result.image)
        assert equal_pixels(completed[~HOLE], image[~HOLE])
        assert (completed[HOLE] != image[HOLE]).mean() > 0.9


def test_all_types_of_images_give_the_same_result(completer):
    levels, mask = photo(), (~HOLE).astype(float)
    expected = completer(Image.fromarray(levels), Image.fromarray(~HOLE), CROP).image
    tensor = torch.from_numpy(levels).permute(2, 0, 1)
    for image in (levels, levels / 255, tensor, tensor / 255):
        assert equal_pixels(completer(image, torch.from_numpy(mask)[None], CROP).image, expected)


def test_photos_masks_and_truths_may_be_paths(completer, tmp_path):
    paths = [tmp_path / "a photo.png", tmp_path / "other.png"]
    for seed, path in enumerate(paths):
        Image.fromarray(photo(seed)).save(path)
    Image.fromarray(~HOLE).save(tmp_path / "hole.png")
    expected = completer([photo(0), photo(1)], ~HOLE, CROP)
    for mask in (tmp_path / "hole.png", str(tmp_path / "hole.png"), [tmp_path / "hole.png"] * 2):
        results = completer([paths[0], str(paths[1])], mask, CROP)
        assert all(equal_pixels(a.image, b.image) for a, b in zip(results, expected, strict=True))
    assert results[0].metrics(str(paths[0])) == expected[0].metrics(photo(0))
    assert completer.crop_of(str(paths[0])) == completer.crop_of(photo(0))


def test_a_result_is_printed_in_one_line_and_shown_in_a_notebook(completer):
    result = completer(photo(), ~HOLE, CROP, candidates=3)
    pattern = r"Result\(80 x 50 px, 3 samples, \d+\.\d s\)"
    assert re.fullmatch(pattern, str(result)) and re.fullmatch(pattern, f"{[result]}"[1:-1])
    assert "80 x 50 px, 1 sample," in str(completer(photo(), ~HOLE, CROP))
    with Image.open(io.BytesIO(result._repr_png_())) as shown:
        assert equal_pixels(shown, result.image)


def test_seconds_are_the_share_of_each_image_of_the_run_time(completer):
    begin = time.perf_counter()
    results = completer([photo(0), photo(1)], ~HOLE, CROP)
    assert results[0].seconds == results[1].seconds > 0
    assert results[0].seconds + results[1].seconds < time.perf_counter() - begin


def test_result_does_not_depend_on_later_changes_of_the_input(completer):
    image = photo()
    result = completer(image, ~HOLE, CROP)
    image[:] = 0
    assert equal_pixels(result.image, completer(photo(), ~HOLE, CROP).image)


def changed_rows(result):
    """Return which rows of the result differ from photo(0)."""
    return (np.asarray(result.image) != photo(0)).any((1, 2))


def test_each_image_of_a_list_has_its_own_mask(completer):
    other = np.roll(HOLE, 3, 0)
    photos = [photo(0), photo(0)]
    first, second = completer(photos, [~HOLE, ~other], CROP)
    assert np.array_equal(changed_rows(first), HOLE.any(1))
    assert np.array_equal(changed_rows(second), other.any(1))
    assert completer([], "center") == []


def test_mask_of_another_size_is_scaled_to_the_crop(completer):
    square = np.ones((20, 20))
    square[5:10] = 0
    (rows,) = changed_rows(completer(photo(0), square, CROP)).nonzero()
    assert rows.tolist() == list(range(15, 25))


def test_a_photo_without_a_face_is_a_warning_with_the_crop_drawn(completer, tmp_path):
    Image.fromarray(photo()).save(tmp_path / "cat.png")
    message = r"cat.png: no face found: completing the center \[15,0,50,50\]. Give crop="
    with pytest.warns(UserWarning, match=message) as caught:
        result = completer(tmp_path / "cat.png", "center")
    assert len(caught) == 1 and caught[0].filename == __file__
    assert result.crop == Crop(15 + 0j, 50 + 0j, without_face=True)
    assert equal_pixels(result.crop_preview, draw_crops(Image.fromarray(photo()), [result.crop]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not completer(tmp_path / "cat.png", "center", CROP).crop.without_face
        assert completer.crop_of(photo()) == result.crop


def test_numbers_may_be_numpy_scalars(completer):
    expected = completer(photo(), ~HOLE, CROP, candidates=2).image
    for crop in (np.array(CROP), [np.int64(c) for c in CROP], tuple(CROP)):
        assert equal_pixels(completer(photo(), ~HOLE, crop, candidates=np.int32(2)).image, expected)


def test_candidates_are_returned_with_their_spread(completer):
    result = completer(photo(), ~HOLE, CROP, candidates=3)
    assert len(result.candidates) == 3
    assert equal_pixels(result.candidates[0], result.image)
    assert not equal_pixels(result.candidates[1], result.image)
    assert all(equal_pixels(np.asarray(c)[~HOLE], photo()[~HOLE]) for c in result.candidates)
    assert result.spread.shape == (16, 16)
    assert result.spread.max() > 0
    assert equal_pixels(result.fake, to_pil(result.batch.fake[0]))
    assert result.trace.shape == (4, 3)
    context, prior, total = result.trace.unbind(1)
    torch.testing.assert_close(total, context + 0.1 * prior)
    mean = completer(photo(), ~HOLE, CROP, candidates=3, select="mean")
    torch.testing.assert_close(mean.batch.fake, result.batch.fakes.mean(1))
    one = completer(photo(), ~HOLE, CROP)
    assert one.spread is None
    assert len(one.candidates) == 1


def test_latent_encoder_with_noise_returns_samples_and_a_predicted_error(dcgan):
    """The image is the first sample; fewer candidates give the first of the same samples."""
    torch.manual_seed(1)
    encoder = LatentEncoder(dcgan, image_size=16, noise_dim=4, code_dim=8, df_dim=4)
    completer = Completer.load(encoder, SHORT[-1])
    result = completer(photo(), ~HOLE, CROP, candidates=4, select="sample")
    assert equal_pixels(result.image, result.candidates[0])
    first_two = completer(photo(), ~HOLE, CROP, candidates=2, select="sample")
    assert all(
        equal_pixels(*pair) for pair in zip(first_two.candidates, result.candidates, strict=False)
    )
    assert len({each.tobytes() for each in result.candidates}) == 4
    assert result.predicted_error.shape == (16, 16)  # not trained, so from the spread alone
    torch.testing.assert_close(
        result.predicted_error, result.spread * (1 + 1 / 4) ** 0.5, rtol=0, atol=1e-6
    )
    one = completer(photo(), ~HOLE, CROP, candidates=1)  # a search from a random latent
    assert one.predicted_error is None and not equal_pixels(one.image, result.image)
    searched = Completer.load(encoder, SHORT[-1], "start=random")
    assert searched(photo(), ~HOLE, CROP, candidates=2).predicted_error is None
    assert equal_pixels(searched(photo(), ~HOLE, CROP).image, one.image)


def test_metrics_equal_their_formulas(completer):
    result = completer(photo(), ~HOLE, CROP)
    truth = photo(1)
    metrics = result.metrics(truth)
    error = (np.asarray(result.image, float) - truth) ** 2
    assert metrics["psnr_whole"] == pytest.approx(10 * np.log10(255**2 / error.mean()), rel=1e-5)
    assert metrics["psnr_hole"] == pytest.approx(
        10 * np.log10(255**2 / error[HOLE].mean()), rel=1e-5
    )
    assert set(metrics) == {"psnr_hole", "psnr_whole", "ssim_hole", "ssim_whole"}
    identical = result.metrics(result.image)
    assert identical["ssim_whole"] == pytest.approx(1)
    assert identical["psnr_hole"] == float("inf")
    with pytest.raises(ValueError, match="truth: the size is 40 x 50 px"):
        result.metrics(truth[:, :40])


def test_metrics_at_the_size_of_the_model_equal_those_of_the_completion(completer):
    """Up to rounding to 8 bits."""
    image = photo()[:16, :16]
    result = completer(image, "center")
    batch = result.batch
    expected = psnr(batch.completion, batch.images, 1 - batch.mask).item()
    assert result.metrics(image)["psnr_hole"] == pytest.approx(expected, abs=0.05)


def test_watch_is_called_at_each_iteration_and_can_end_the_search(completer):
    calls = []

    def watch(progress):
        calls.append((progress.iteration, progress.index.tolist(), progress.show().shape))
        if len(calls) == 3:
            raise InterruptedError("enough")

    with pytest.raises(InterruptedError, match="enough"):
        completer([photo(0), photo(1)], ~HOLE, CROP, watch=watch)
    assert calls == [(t, [0, 1], (2, 3, 16, 16)) for t in range(3)]


def test_baselines_return_no_trace_and_no_spread(dcgan, tmp_path):
    result = Completer.load(dcgan, "method=tv", SHORT[-1])(photo(), ~HOLE, CROP)
    assert equal_pixels(np.asarray(result.image)[~HOLE], photo()[~HOLE])
    assert (result.trace, result.spread) == (None, None)
    assert equal_pixels(result.candidates[0], result.image)
    data = ["data=faces", "data.image_size=16", "data.train_size=4", f"cache_dir={tmp_path}"]
    nearest = Completer.load(dcgan, "method=nearest", *data)(photo(), ~HOLE, CROP)
    assert not equal_pixels(nearest.image, photo())


def test_precision_follows_the_configuration(dcgan):
    half = Completer.load(dcgan, *SHORT, "trainer.precision=bf16-mixed")
    full = Completer.load(dcgan, *SHORT)
    starts = [each(photo(), ~HOLE, CROP).trace[0] for each in (half, full)]  # from the same z
    assert not torch.equal(*starts)
    torch.testing.assert_close(*starts, rtol=0.02, atol=0)


def test_shipped_checkpoint_is_loaded_by_name():
    result = Completer.load("faces64", *SHORT)(photo())
    assert result.fake.size == (64, 64)
    assert not equal_pixels(result.image, photo())


def test_watch_is_not_called_without_a_search(dcgan):
    calls = []
    result = Completer.load(dcgan, "method=mean")(photo(), watch=calls.append)
    assert result.trace is None and calls == []


def test_the_default_model_is_celeba128():
    assert Completer.load().name == "celeba128"
    assert Completer.load().model.settings.image_size == 128


def test_attributes_in_the_readme_are_not_empty_with_the_default_model():
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    (sentence,) = re.findall(r"`result` also has (.*?)\n\n", readme, re.DOTALL)
    names = re.findall(r"`(\w+)", sentence)
    result = Completer.load("celeba128", "detector=null")(photo(), candidates=2)
    assert {"candidates", "spread", "predicted_error"} <= set(names)
    assert [name for name in names if getattr(result, name) is None] == []


def test_mask_file_of_the_configuration_is_the_default_mask(dcgan, tmp_path):
    """Its polarity (mask.known=black) applies to mask images in a call as well."""
    Image.fromarray(HOLE).save(tmp_path / "hole.png")
    overrides = ["mask=file", f"mask.path={tmp_path / 'hole.png'}", "mask.known=black"]
    completer = Completer.load(dcgan, *SHORT, *overrides)
    expected = Completer.load(dcgan, *SHORT)(photo(), ~HOLE, CROP).image
    for mask in (None, "file", HOLE):
        assert equal_pixels(completer(photo(), mask, CROP).image, expected)


def test_completer_works_in_a_program_that_uses_hydra(dcgan, completer, tmp_path, monkeypatch):
    """The program's own configuration and Hydra's version for it stay as they are."""
    (tmp_path / "app.yaml").write_text("size: 3\n")
    images = []

    @hydra.main(version_base="1.2", config_path=str(tmp_path), config_name="app")
    def program(cfg):
        images.append(Completer.load(dcgan, *SHORT)(photo(), ~HOLE, CROP).image)
        assert hydra.compose("app") == cfg == {"size": 3}
        assert HydraConfig.get().job.config_name == "app"
        assert str(hydra.version.getbase()) == "1.2"

    overrides = ["hydra.run.dir=.", "hydra.output_subdir=null", "hydra/job_logging=none"]
    monkeypatch.setattr(sys, "argv", ["app.py", *overrides])
    program()
    assert equal_pixels(images[0], completer(photo(), ~HOLE, CROP).image)


def test_composing_does_not_touch_the_global_state_of_hydra(monkeypatch):
    """Composing works while another thread uses Hydra."""

    def used(*_):
        raise AssertionError("uses GlobalHydra")

    for name in ("clear", "initialize"):
        monkeypatch.setattr(GlobalHydra, name, used)
    monkeypatch.setattr(VersionBase.instance(), "version_base", hydra.version._UNSPECIFIED_)
    assert compose_config("inpaint", ["mask=half"]).mask._target_.endswith("half")
    assert hydra.version.getbase() is hydra.version._UNSPECIFIED_


@pytest.mark.parametrize("model", ["loaded before", "loaded", "built"])
def test_completer_works_in_inference_mode(completer, dcgan, tmp_path, model):
    expected = completer(photo(), ~HOLE, CROP).image
    save_weights(dcgan, tmp_path / "weights.safetensors")
    with torch.inference_mode():
        models = {"loaded": tmp_path / "weights.safetensors", "built": small_dcgan(z_dim=8)}
        own = completer if model == "loaded before" else Completer.load(models[model], *SHORT)
        result = own(photo(), torch.from_numpy(~HOLE).clone(), CROP)
        assert equal_pixels(result.image, expected)


def test_completers_of_different_models_work_in_threads(completer):
    """Also of different sizes, and while another thread disables gradients."""
    completers = [completer, Completer.load(small_dcgan(z_dim=5), *SHORT)]
    completers.append(Completer.load("faces64", *SHORT))
    expected = [each(photo(), ~HOLE, CROP).image for each in completers]
    with ThreadPoolExecutor(3) as pool, torch.no_grad():
        results = list(pool.map(lambda each: each(photo(), ~HOLE, CROP).image, completers))
    assert all(map(equal_pixels, results, expected))


def test_importing_the_package_does_not_import_torch():
    code = "import sys, dcgan_inpaint as d; print(d.__version__, 'torch' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == [version("dcgan_inpaint"), "False"]
    with pytest.raises(AttributeError, match="no attribute 'Completter'"):
        _ = dcgan_inpaint.Completter
