import csv
import functools
import importlib.util
import math
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from scipy.signal import convolve2d
from torch.nn import functional as F
from torchmetrics.functional.image import (
    multiscale_structural_similarity_index_measure,
    structural_similarity_index_measure,
)
from torchmetrics.image.fid import FrechetInceptionDistance
from torchvision.models import alexnet
from training import quiet_trainer

from dcgan_inpaint.images import to_uint8
from dcgan_inpaint.metrics import samples
from dcgan_inpaint.metrics.completions import load_lpips, lpips
from dcgan_inpaint.metrics.samples import (
    frechet_inception_distance,
    laplacian_pyramid,
    load_inception,
    ms_ssim,
    sample_metrics,
    similarity,
    sliced_wasserstein,
    upsample,
)
from dcgan_inpaint.models.dcgan import DCGAN


def textures(count, size=64, seed=0, channels=3):
    """uint8 images with content at all scales and correlated channels."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.zeros(count, channels, size, size)
    side = 4
    while side <= size:
        shared = torch.randn(count, 1, side, side, generator=generator)
        independent = torch.randn(count, channels, side, side, generator=generator)
        image += F.interpolate(shared + 0.5 * independent, size, mode="bilinear") / side**0.5
        side *= 2
    return (128 + 35 * image).clamp(0, 255).round().to(torch.uint8)


def flat(values, size=32, channels=3):
    return (
        torch.tensor(values, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, channels, size, size)
    )


def test_pyramid_levels_sum_to_the_image():
    images = textures(3)
    pyramid = laplacian_pyramid(images.float())
    assert [(side, *level.shape[1:]) for side, level in pyramid.items()] == [
        (16, 3, 16, 16),
        (32, 3, 32, 32),
        (64, 3, 64, 64),
    ]
    total = pyramid[32] + upsample(pyramid[16])
    total = pyramid[64] + upsample(total)
    assert torch.allclose(total, images.float(), atol=1e-3)
    assert torch.equal(total.round().to(torch.uint8), images)


def test_pyramid_agrees_with_scipy():
    """An independent implementation with mirrored borders."""
    image = textures(1, 32)[0].numpy().astype(float)
    binomial = np.outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1]) / 256
    smaller = ndimage.convolve(image, binomial[None], mode="mirror")[:, ::2, ::2]
    spaced = np.zeros_like(image)
    spaced[:, ::2, ::2] = smaller
    fine = image - ndimage.convolve(spaced, 4 * binomial[None], mode="mirror")
    pyramid = laplacian_pyramid(torch.from_numpy(image).float()[None])
    assert np.allclose(pyramid[16][0], smaller, atol=1e-3)
    assert np.allclose(pyramid[32][0], fine, atol=1e-3)


def test_a_constant_image_has_detail_in_no_level():
    pyramid = laplacian_pyramid(flat([77]).float())
    assert (pyramid[16] == 77).all()
    assert (pyramid[32] == 0).all()


def test_equal_sets_have_distance_0():
    images = textures(6)
    assert sliced_wasserstein(images, images) == {16: 0, 32: 0, 64: 0}


def test_sliced_wasserstein_of_constant_images():
    """All 147 entries of a patch are v, the normalized value of its image.

    8 samples, half 0 and half 200: v is -1 or 1.  4 real images, three 0 and one 240: v is
    -1/sqrt(3) or sqrt(3).  Sorted, the pairs are (-1, -0.577) for a half, (1, -0.577) and
    (1, 1.732) for a quarter each.  The projection is v times the sum of the direction's entries,
    whose mean absolute value is 0.8.
    """
    fake, real = flat([0, 200] * 4), flat([0, 240, 0, 0])
    low, high = -1 / math.sqrt(3), math.sqrt(3)
    pairs = (low + 1) / 2 + (1 - low) / 4 + (high - 1) / 4
    entries = 3 * 7 * 7
    projection = math.sqrt(entries / math.pi) * math.exp(
        math.lgamma(entries / 2) - math.lgamma((entries + 1) / 2)
    )
    distance = sliced_wasserstein(fake, real)
    assert distance[32] == 0  # neither has detail
    assert distance[16] == pytest.approx(1000 * pairs * projection, rel=0.05)  # 512 directions


def test_sets_of_one_kind_have_a_small_distance():
    """Also for sets of different sizes; noise has a larger distance."""
    fake = textures(48, seed=1)
    near = sliced_wasserstein(fake, textures(48, seed=2))
    uneven = sliced_wasserstein(fake, textures(37, seed=2))
    far = sliced_wasserstein(fake, (128 + 60 * torch.randn(37, 3, 64, 64)).clamp(0, 255).byte())
    for side in (16, 32, 64):
        assert uneven[side] == pytest.approx(near[side], abs=40)
        assert far[side] > 2 * max(near[side], uneven[side])


def test_each_level_measures_its_frequencies():
    real = textures(32, seed=1)
    fake = textures(32, seed=2)
    fresh = sliced_wasserstein(fake, real)
    # Only the left half is smoothed, since normalization removes what all patches share.
    smooth = fake.clone()
    small = F.avg_pool2d(fake[..., :32].float(), 2)
    smooth[..., :32] = F.interpolate(small, scale_factor=2, mode="bilinear").byte()
    blurred = sliced_wasserstein(smooth, real)
    assert blurred[64] > 2 * fresh[64]
    assert blurred[16] < 1.2 * fresh[16]
    # A shadow from one side to the other has no detail.
    shadow = torch.linspace(-60, 60, 64)
    shadowed = sliced_wasserstein((fake / 2 + 64 + shadow).byte(), (real / 2 + 64).byte())
    assert shadowed[16] > 2 * fresh[16]
    assert shadowed[64] < 1.2 * fresh[64]


def test_channels_from_different_images_increase_the_distance():
    real = textures(32, seed=1)
    fresh = sliced_wasserstein(textures(32, seed=2), real)
    mixed = torch.stack([real[:, 0], real[:, 1].roll(1, 0), real[:, 2].roll(2, 0)], 1)
    for side, distance in sliced_wasserstein(mixed, real).items():
        assert distance > 1.5 * fresh[side]


def test_the_tint_of_a_set_does_not_change_the_distance():
    """Karras 2018 normalizes each channel of a set."""
    real, fake = textures(16, seed=1) // 2 + 50, textures(16, seed=2) // 2 + 50
    tinted = fake.clone()
    tinted[:, 0] += 40
    before, after = sliced_wasserstein(fake, real), sliced_wasserstein(tinted, real)
    assert before == pytest.approx(after, rel=1e-3)


def test_results_depend_on_the_seed_and_not_on_the_chunks(monkeypatch):
    fake, real = textures(10, 32, seed=1), textures(7, 32, seed=2)
    distance = sliced_wasserstein(fake, real, seed=3)
    assert sliced_wasserstein(fake, real, seed=3) == distance
    assert sliced_wasserstein(fake, real, seed=4) != distance
    mean_similarity = similarity(real)
    monkeypatch.setattr(samples, "IMAGE_CHUNK", 3)
    monkeypatch.setattr(samples, "DIRECTION_BLOCK", 100)
    assert sliced_wasserstein(fake, real, seed=3) == pytest.approx(distance, rel=1e-4)
    assert similarity(real) == pytest.approx(mean_similarity)


def test_float_images_are_compared_as_8_bit():
    fake, real = textures(4, 16, channels=1), textures(4, 16, seed=1, channels=1)
    floats = real.float() / 127.5 - 1
    assert sliced_wasserstein(fake, floats) == sliced_wasserstein(fake, real)
    assert list(sliced_wasserstein(fake, real)) == [16]
    assert torch.equal(ms_ssim(fake, floats), ms_ssim(fake, real))


@pytest.mark.parametrize("shape", [(3, 24, 24), (3, 8, 8), (1, 32, 32), (3, 32, 16)])
def test_images_of_wrong_shapes_raise(shape):
    other = shape if shape[0] == 3 else (3, 32, 32)
    with pytest.raises(ValueError, match="expected square images|samples have shape"):
        sliced_wasserstein(torch.zeros(2, *shape), torch.zeros(2, *other))


def by_scipy(a, b):
    """MS-SSIM of two uint8 images (C, S, S) (Wang 2003)."""
    score = 1.0
    for scale, weight in enumerate((0.0448, 0.2856, 0.3001, 0.2363, 0.1333)):
        side = min(11, a.shape[1])
        x = np.arange(side) - (side - 1) / 2
        window = np.exp(-(x[:, None] ** 2 + x**2) / (2 * (side * 1.5 / 11) ** 2))
        window /= window.sum()
        terms = []
        for p, q in zip(a, b, strict=True):
            mp, mq, pp, qq, pq = (
                convolve2d(m, window, mode="valid") for m in (p, q, p * p, q * q, p * q)
            )
            term = (2 * (pq - mp * mq) + 58.5225) / (pp - mp**2 + qq - mq**2 + 58.5225)
            if scale == 4:
                term *= (2 * mp * mq + 6.5025) / (mp**2 + mq**2 + 6.5025)
            terms.append(term)
        score *= max(np.mean(terms), 0) ** weight
        a, b = (m.reshape(len(m), len(m[0]) // 2, 2, -1, 2).mean((2, 4)) for m in (a, b))
    return score


def test_ms_ssim_agrees_with_scipy():
    a, b = textures(5, seed=1), textures(5, seed=2)
    b[0] = a[0] // 2 + 30
    b[1] = (a[1].int() + b[1]) // 2
    expected = [by_scipy(*(x.double().numpy() for x in pair)) for pair in zip(a, b, strict=True)]
    assert ms_ssim(a, b).tolist() == pytest.approx(expected, abs=1e-4)
    assert torch.equal(ms_ssim(a, b)[2:3], ms_ssim(a[2:3], b[2:3]))  # alone and in a batch


def test_ms_ssim_agrees_with_torchmetrics_on_large_images():
    """torchmetrics rejects 64 px.  At 192 px its four finer scales ignore the borders as well; the
    coarsest one does not, so its map is cropped here."""
    a, b = textures(3, 192, seed=1).float(), textures(3, 192, seed=2).float()
    b = 0.7 * a + 0.3 * b
    with pytest.raises(ValueError, match="must be larger than 160"):
        multiscale_structural_similarity_index_measure(a[..., :64, :64], b[..., :64, :64])
    settings = {"data_range": 255.0, "reduction": "none"}
    expected, p, q = torch.ones(3), a, b.round()
    for weight in (0.0448, 0.2856, 0.3001, 0.2363):
        _, contrast = structural_similarity_index_measure(
            p, q, return_contrast_sensitivity=True, **settings
        )
        expected *= contrast**weight
        p, q = F.avg_pool2d(p, 2), F.avg_pool2d(q, 2)
    _, image = structural_similarity_index_measure(p, q, return_full_image=True, **settings)
    expected *= image[..., 5:-5, 5:-5].mean((1, 2, 3)) ** 0.1333
    result = ms_ssim(a.byte(), b.round().byte())
    assert result.tolist() == pytest.approx(expected.tolist(), abs=1e-4)


def test_ms_ssim_of_constant_images_is_the_luminance_term():
    """Of the coarsest scale (Wang 2004, eq. 6)."""
    c1 = (0.01 * 255) ** 2
    luminance = (2 * 100 * 50 + c1) / (100**2 + 50**2 + c1)
    assert ms_ssim(flat([100]), flat([50])).item() == pytest.approx(luminance**0.1333, rel=1e-5)
    images = textures(2)
    assert ms_ssim(images, images).tolist() == pytest.approx([1, 1])
    assert (ms_ssim(images, 255 - images) == 0).all()  # a negative scale counts as 0
    with pytest.raises(ValueError, match="at least 16 px"):
        ms_ssim(flat([1], 8), flat([1], 8))


def test_similarity_decreases_with_diversity():
    varied = textures(21)
    collapsed = varied[:1].expand(20, -1, -1, -1)
    modes = varied[:2].repeat(10, 1, 1, 1)  # pairs i and i + 10 are equal
    assert similarity(collapsed) == pytest.approx(1)
    assert similarity(modes) == pytest.approx(1)
    near = (0.7 * varied[:1].float() + 0.3 * varied.float()).byte()
    assert similarity(varied) < similarity(near) < 1
    assert similarity(varied) == similarity(varied[:20])  # the 21st image is ignored
    with pytest.raises(ValueError, match="a set of 1 image has no pair"):
        similarity(varied[:1])


class Means(torch.nn.Module):
    """A substitute for Inception: the mean of each channel."""

    num_features = 3

    def forward(self, images):
        return images.double().mean((2, 3))


def test_fid_of_one_feature():
    """It is (difference of means)² + (difference of standard deviations)²."""
    fake = torch.stack([flat([10, 20, 30])[:, 0], *[flat([5, 5, 5])[:, 0]] * 2], 1)
    real = torch.stack([flat([50, 52, 54])[:, 0], *[flat([5, 5, 5])[:, 0]] * 2], 1)
    fid = FrechetInceptionDistance(feature=Means())
    expected = (52 - 20) ** 2 + (10 - 2) ** 2
    for _ in range(2):  # the state is reset
        assert frechet_inception_distance(fake, real, fid) == pytest.approx(expected, rel=1e-4)
    assert frechet_inception_distance(fake, fake, fid) == pytest.approx(0, abs=1e-3)
    gray = frechet_inception_distance(flat([10, 20, 30], channels=1), real, fid)
    assert gray > expected


@pytest.fixture
def inception_file(tmp_path, monkeypatch):
    """A file with untrained weights of torch-fidelity's Inception, and the network."""
    module = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    torch.manual_seed(0)
    torch.save({}, tmp_path / "nothing.pth")
    with monkeypatch.context() as patch:
        patch.setattr(module.FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        untrained = module.FeatureExtractorInceptionV3("", ["2048"], str(tmp_path / "nothing.pth"))
    state = untrained.state_dict()
    torch.save(state, tmp_path / "inception.pth")
    return tmp_path / "inception.pth", untrained


def test_inception_has_the_weights_of_the_file(inception_file, monkeypatch):
    path, untrained = inception_file
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", None)  # no download
    inception = load_inception(path)
    images = textures(2)
    inception.update(images, real=True)
    (features,) = untrained(images)  # torch-fidelity resizes as the original code
    assert torch.allclose(inception.real_features_sum, features.double().sum(0), rtol=1e-4)


def test_missing_and_invalid_weight_files_raise(tmp_path, monkeypatch):
    (tmp_path / "text.pth").write_text("not weights")
    torch.save({"other": torch.zeros(1)}, tmp_path / "other.pth")
    torch.save(torch.zeros(1), tmp_path / "tensor.pth")
    loaders = {"lpips": load_lpips}
    if importlib.util.find_spec("torch_fidelity"):
        loaders["fid"] = load_inception
    for option, load in loaders.items():
        with pytest.raises(FileNotFoundError, match=rf"^{option}=gone.pth: no such file. Use .+$"):
            load("gone.pth")
        for name in ("text", "other", "tensor"):
            with pytest.raises(ValueError, match=rf"^{option}=.*{name}.pth: .+$"):
                load(tmp_path / f"{name}.pth")
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(ModuleNotFoundError, match=r"^fid= needs torch-fidelity. Install it: .+$"):
        load_inception("gone.pth")


@pytest.fixture
def alexnet_files(tmp_path, monkeypatch):
    torch.manual_seed(0)
    # Names of torchvision's file, without the classifier, which LPIPS does not use.
    state = {f"features.{n}": v for n, v in alexnet().features.state_dict().items()}
    paths = [tmp_path / "first.pth", tmp_path / "second.pth"]
    torch.save(state, paths[0])
    torch.save({name: value.flip(0) for name, value in state.items()}, paths[1])
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", None)  # no download
    return paths


def test_lpips_uses_the_weights_of_the_file(alexnet_files):
    first, second = (load_lpips(path) for path in alexnet_files)
    a, b = (textures(3, seed=seed).float() / 127.5 - 1 for seed in (1, 2))
    distance = lpips(a, b, first)
    assert distance.shape == (3,)
    assert (distance > 0).all()
    assert (lpips(a, a, first) == 0).all()
    assert not torch.allclose(lpips(a, b, second), distance, rtol=0.01)
    assert torch.allclose(lpips(a[1:2], b[1:2], first), distance[1:2], rtol=1e-4)  # B = 1
    nearer = lpips(0.9 * a + 0.1 * b, a, first)
    assert (nearer < distance).all()
    gray = a.mean(1, keepdim=True)
    repeated = gray.repeat(1, 3, 1, 1)
    assert torch.equal(lpips(gray, -gray, first), lpips(repeated, -repeated, first))
    with pytest.raises(ValueError, match="Use 32 px or more"):
        lpips(a[..., :16, :16], b[..., :16, :16], first)


def tiny_gan():
    return DCGAN(image_size=16, z_dim=4, gf_dim=2, df_dim=2)


def test_sample_metrics_combine_all_metrics():
    dcgan, real = tiny_gan(), textures(5, 16)
    with torch.no_grad():
        fake = to_uint8(dcgan(dcgan.latents(torch.arange(6), 3)))
    metrics = sample_metrics(dcgan, real, 6, 3)
    values = {name: value for name, (value, *_) in metrics.items()}
    assert values == {
        "swd_16": pytest.approx(sliced_wasserstein(fake, real, 3)[16]),
        "swd": values["swd_16"],
        "ms_ssim": pytest.approx(similarity(fake)),
        "ms_ssim_real": pytest.approx(similarity(real)),
    }
    more = [lambda *sets: {"total": (sum(float(images.sum()) for images in sets), 1, 2)}]
    metrics = sample_metrics(dcgan, real, 6, 3, more=more)
    assert metrics["total"] == (float(fake.sum() + real.sum()), 1, 2)
    with pytest.raises(ValueError, match="Use 2 or more of each"):
        sample_metrics(dcgan, real[:1])
    with pytest.raises(ValueError, match=r"\(3, 32, 32\), but samples have shape \(3, 16, 16\)"):
        sample_metrics(dcgan, textures(2, 32))


@pytest.fixture
def sample(run, tmp_path):
    """Run sample.py with the checkpoint of a model trained on a folder of images."""
    (tmp_path / "images").mkdir()
    for i, image in enumerate(textures(60, 16)):
        file = tmp_path / "images" / f"{i}.png"
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(file)
    dcgan = tiny_gan()
    dcgan.data = {
        "_target_": "dcgan_inpaint.data.folder.Folder",
        "root": str(tmp_path / "images"),
        "image_size": 16,
        "channels": 3,
        "crop": 1.0,
    }
    trainer = quiet_trainer()
    trainer.strategy.connect(dcgan)
    trainer.save_checkpoint(tmp_path / "tiny.ckpt", weights_only=True)
    overrides = [f"ckpt={tmp_path / 'tiny.ckpt'}", f"output={tmp_path / 'out'}", "count=2"]
    return functools.partial(run, "sample.py", *overrides)


def test_sample_writes_quality_csv(sample, tmp_path):
    done = sample("metrics=true", "metrics_count=10", "split=train", "seed=2")
    with (tmp_path / "out" / "quality.csv").open() as file:
        metrics = {row["metric"]: float(row["value"]) for row in csv.DictReader(file)}
    assert list(metrics) == ["swd_16", "swd", "ms_ssim", "ms_ssim_real"]
    assert metrics["swd"] > 50  # an untrained G
    assert metrics["ms_ssim"] > metrics["ms_ssim_real"]
    last = done.stdout.splitlines()[-1]
    assert last.startswith("10 samples against ")
    assert f"train images: swd_16 {metrics['swd_16']:.4g}" in last
    config = (tmp_path / "out" / "config.yaml").read_text()
    assert "_target_: dcgan_inpaint.data.image_files.Folder" in config


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["metrics=true", "metrics_count=1"],
            "metrics_count=1: should be greater than or equal to 2",
        ),
        (["fid=gone.pth"], "fid=gone.pth: belongs to the metrics. Set metrics=true"),
        (["features=true"], "features=true: belongs to the metrics. Set metrics=true"),
        (["metrics=true", "data=faces"], "Use data.image_size=16 data.channels=3"),
        (["metrics=true", "split=dev"], "split=dev: should be 'train', 'val' or 'test'"),
    ],
)
def test_errors_of_sample_metrics_are_one_line(sample, tmp_path, arguments, message):
    done = sample(*arguments, fails=True)
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert message in error
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out" / "samples.png").exists()
