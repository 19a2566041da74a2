import sys
from functools import partial

import numpy as np
import pytest
import torch

from dcgan_inpaint.blending import paste, poisson
from dcgan_inpaint.data.faces.source import Faces
from dcgan_inpaint.images import to_float
from dcgan_inpaint.inpainting import baselines
from dcgan_inpaint.inpainting.baselines import (
    BaselineModule,
    Biharmonic,
    Nearest,
    OpenCV,
    divergence,
    forward_differences,
)
from dcgan_inpaint.masks import masks

LIBRARIES = {"biharmonic": "skimage", "telea": "cv2", "navier_stokes": "cv2"}


@pytest.fixture(scope="module")
def nearest(tmp_path_factory):
    return Nearest(Faces(16, 3, train_size=40), str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(params=["mean", "nearest", "tv", "biharmonic", "telea", "navier_stokes"])
def baseline(request, nearest):
    if request.param in LIBRARIES:
        pytest.importorskip(LIBRARIES[request.param])
    if request.param in ("telea", "navier_stokes"):
        return OpenCV(request.param)
    return {
        "mean": lambda: baselines.mean,
        "nearest": lambda: nearest,
        "tv": lambda: partial(baselines.total_variation, iterations=30),
        "biharmonic": Biharmonic,
    }[request.param]()


def faces(n):
    source = Faces(16, 3, test_size=n)
    return to_float(np.stack(source.decode(source.items("test"))))


def baseline_module(baseline, blend=paste):
    mask = partial(masks.random, seed=0, missing=0.5)
    return BaselineModule(baseline, mask, blend, (3, 16, 16))


def test_result_does_not_depend_on_the_pixels_in_the_hole(baseline):
    module, images, index = baseline_module(baseline), faces(3), torch.arange(3)
    done = module.predict_step({"image": images, "index": index})
    other = torch.where(done.mask == 0, -images.flip(0), images)
    again = module.predict_step({"image": other, "index": index})
    assert torch.equal(done.fake, again.fake)
    assert torch.equal(done.completion, again.completion)


def test_completions_do_not_depend_on_the_batch(baseline):
    module, images = baseline_module(baseline), faces(3)
    together = module.predict_step({"image": images, "index": torch.arange(3)})
    for i in range(3):
        alone = module.predict_step({"image": images[i : i + 1], "index": torch.tensor([i])})
        torch.testing.assert_close(alone.fake[0], together.fake[i], rtol=0, atol=1e-6)


@pytest.mark.parametrize("blend", [paste, poisson])
def test_known_pixels_are_unchanged(baseline, blend):
    images = faces(2)
    done = baseline_module(baseline, blend=blend).predict_step(
        {"image": images, "index": torch.arange(2)}
    )
    known = done.mask.expand_as(images) == 1
    assert torch.equal(done.completion[known], images[known])
    assert done.fake.shape == images.shape
    assert done.fake.dtype == torch.float32
    assert done.fake.abs().max() <= 1 + 1e-6
    assert torch.equal(done.observed, images * done.mask)
    if blend is paste:
        assert torch.equal(done.completion[~known], done.fake[~known])


def test_mean_is_the_mean_of_the_known_pixels():
    known = torch.tensor([[[[0.5, 0.0], [-0.1, 0.2]]], [[[0.0, 0.0], [0.0, 0.0]]]])
    mask = torch.tensor([[[[1.0, 0.0], [1.0, 1.0]]], [[[0.0, 0.0], [0.0, 0.0]]]])
    fake = baselines.mean(known, mask)
    torch.testing.assert_close(fake[0], torch.full((1, 2, 2), 0.2))
    assert not fake[1].any()  # gray without known pixels


def test_nearest_returns_a_training_image_for_itself(nearest):
    images = to_float(nearest.images[[7, 31, 0]])
    mask = masks.random(torch.arange(3), 16, seed=0, missing=0.8)
    assert torch.equal(nearest(images * mask, mask), images)


def test_nearest_matches_a_direct_search(nearest, monkeypatch):
    images, training = faces(5), to_float(nearest.images)
    mask = masks.half(torch.arange(5), 16, seed=0)
    distance = (mask[:, None] * (training[None] - images[:, None]) ** 2).sum((2, 3, 4))  # (B, N)
    expected = training[distance.argmin(1)]
    for chunk in (7, 40):
        monkeypatch.setattr(nearest, "chunk", chunk)
        assert torch.equal(nearest(images * mask, mask), expected)


def test_divergence_is_the_negative_adjoint_of_forward_differences():
    x = torch.tensor([[[[1.0, 3.0], [2.0, 7.0]]]])
    down, right = [[1.0, 4.0], [0.0, 0.0]], [[2.0, 0.0], [5.0, 0.0]]
    assert torch.equal(forward_differences(x), torch.tensor([[down, right]]))
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 5, 4, generator=generator).double()
    p = torch.randn(2, 6, 5, 4, generator=generator).double()
    torch.testing.assert_close((forward_differences(x) * p).sum(), -(x * divergence(p)).sum())


def variation(x):
    """The total variation, (B,)."""
    return forward_differences(x).norm(dim=1).sum((1, 2))


def center_mask(size=16):
    return masks.center(torch.arange(1), size, 0.25)


def edge(size=16):
    """-0.5 to the left of column 7, 0.5 elsewhere."""
    return (torch.arange(size) >= 7).float().expand(1, 3, size, size) - 0.5


def test_total_variation_continues_a_constant_and_an_edge():
    mask, constant = center_mask(), torch.full((1, 3, 16, 16), 0.3)
    assert torch.equal(baselines.total_variation(constant * mask, mask, 5), constant)
    filled = baselines.total_variation(edge() * mask, mask, 2000)
    torch.testing.assert_close(filled, edge(), rtol=0, atol=0.01)


def test_total_variation_of_a_monotonic_row():
    """Three of five pixels between 0 and 1 are missing; every monotonic row has variation 1."""
    known = torch.tensor([0.0, 0, 0, 0, 1]).view(1, 1, 1, 5)
    mask = torch.tensor([1.0, 0, 0, 0, 1]).view(1, 1, 1, 5)
    filled = baselines.total_variation(known, mask, 200)
    assert variation(filled).item() == pytest.approx(1, abs=1e-4)
    assert variation(edge()).item() == pytest.approx(16 * 3**0.5)  # an edge in 3 channels


def test_total_variation_converges_in_1000_iterations():
    images = faces(4)
    mask = masks.half(torch.arange(4), 16, seed=0)
    short, long = (baselines.total_variation(images * mask, mask, n) for n in (1000, 5000))
    start = poisson(baselines.mean(images * mask, mask), images, mask)
    assert (variation(long) < 0.98 * variation(start)).all()
    assert (variation(short) < 1.01 * variation(long)).all()


def test_biharmonic_continues_a_ramp():
    pytest.importorskip("skimage")
    y, x = torch.meshgrid(
        torch.linspace(-0.5, 0.5, 16), torch.linspace(-0.4, 0.4, 16), indexing="ij"
    )
    ramp, mask = (x + y).expand(1, 3, 16, 16), center_mask()
    filled = Biharmonic()(ramp * mask, mask).float()
    torch.testing.assert_close(filled, ramp, rtol=0, atol=1e-4)


@pytest.mark.parametrize("algorithm", ["telea", "navier_stokes"])
@pytest.mark.parametrize("channels", [1, 3])
def test_opencv_continues_a_constant(algorithm, channels):
    pytest.importorskip("cv2")
    inpaint = OpenCV(algorithm, radius=3)
    constant, mask = (
        torch.full((2, channels, 16, 16), 51 / 127.5 - 1),
        center_mask().repeat(2, 1, 1, 1),
    )
    filled = inpaint(constant * mask, mask)
    torch.testing.assert_close(
        filled, constant, rtol=0, atol=2.01 / 127.5
    )  # Telea rounds on its way
    images = faces(1)[:, :channels]
    levels = (inpaint(images * center_mask(), center_mask()) + 1) * 127.5  # 8-bit
    torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("method", "library", "module"),
    [
        (Biharmonic, "scikit-image", "skimage.restoration"),
        (partial(OpenCV, "telea"), "OpenCV", "cv2"),
        (partial(OpenCV, "navier_stokes"), "OpenCV", "cv2"),
    ],
)
def test_a_missing_library_raises_with_its_extra(method, library, module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    line = rf'method=\w+ needs {library}\. Install it: pip install -e "\.\[baselines\]"'
    with pytest.raises(ModuleNotFoundError, match=line):
        method()


def test_arguments_out_of_range_raise():
    with pytest.raises(ValueError, match="radius=0: should be greater than 0"):
        OpenCV("telea", radius=0)
    with pytest.raises(ValueError, match="algorithm=fmm: should be 'telea' or 'navier_stokes'"):
        OpenCV("fmm")
    known = torch.zeros(1, 3, 16, 16)
    with pytest.raises(ValueError, match="iterations=0: should be greater"):
        baselines.total_variation(known, center_mask(), iterations=0)


def test_check_does_not_run_the_baseline(nearest, monkeypatch):
    monkeypatch.setattr(Nearest, "__call__", lambda *_: pytest.fail("the baseline was run"))
    baseline_module(nearest).check()
    with pytest.raises(ValueError, match="scale"):
        BaselineModule(nearest, partial(masks.center, scale=0.7), paste, (3, 16, 16)).check()
