"""Metrics of two sets from the features of their images."""

import math

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

from dcgan_inpaint.metrics import sets
from dcgan_inpaint.metrics.sets import (
    SET_METRICS,
    compare_sets,
    frechet_distance,
    kernel_distance,
    precision_recall,
)


def normal_rows(count, dim=6, seed=0, shift=0.0):
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)) + shift


def column(*values):
    """Features of one dimension, (N, 1)."""
    return torch.tensor(values, dtype=torch.float32)[:, None]


@pytest.fixture(params=[7, 1024])
def block(request, monkeypatch):
    """Also with blocks that do not divide the number of rows."""
    monkeypatch.setattr(sets, "BLOCK", request.param)


def gaussian(mean, covariance):
    """4 rows with this mean (2,) and covariance (2, 2)."""
    corners = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]]).double() * (3 / 4) ** 0.5
    root = torch.linalg.cholesky(torch.tensor(covariance).double())
    return corners @ root.T + torch.tensor(mean)


def test_frechet_distance_of_two_dimensional_gaussians():
    a = gaussian([0.0, 0.0], [[4.0, 0.0], [0.0, 9.0]])
    assert torch.allclose(a.T.cov(), torch.diag(torch.tensor([4.0, 9.0]).double()))
    b = gaussian([3.0, 4.0], [[1.0, 0.0], [0.0, 25.0]])
    # |mean|^2 = 25, and (2 - 1)^2 and (3 - 5)^2 along the axes.
    assert frechet_distance(a, b) == pytest.approx(25 + 1 + 4)
    # Variances along the diagonals: 5 ± 3 against 4.
    c = gaussian([0.0, 0.0], [[5.0, 3.0], [3.0, 5.0]])
    d = gaussian([0.0, 0.0], [[4.0, 0.0], [0.0, 4.0]])
    assert frechet_distance(c, d) == pytest.approx((8**0.5 - 2) ** 2 + (2**0.5 - 2) ** 2)


def test_frechet_distance_agrees_with_scipy():
    """The covariances share no axes, and the sets have different sizes."""
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(300, 5, generator=generator) @ torch.randn(5, 5, generator=generator)
    b = torch.randn(200, 5, generator=generator) @ torch.randn(5, 5, generator=generator) + 1
    first, second = np.cov(a.double().T), np.cov(b.double().T)
    root = sqrtm(first @ second).real
    means = (a.double().mean(0) - b.double().mean(0)).square().sum().item()
    assert frechet_distance(a, b) == pytest.approx(means + np.trace(first + second - 2 * root))
    assert frechet_distance(b, a) == pytest.approx(frechet_distance(a, b))


def test_frechet_distance_with_fewer_rows_than_columns():
    """It is 0 for equal sets and the squared shift for a shifted set."""
    a = torch.randn(6, 40, generator=torch.Generator().manual_seed(0))
    assert frechet_distance(a, a.flip(0)) == pytest.approx(0, abs=1e-10)
    assert frechet_distance(a, a + 0.5) == pytest.approx(40 * 0.25)
    with pytest.raises(ValueError, match="sets of 1 image and 6 images are too small"):
        frechet_distance(a[:1], a)


def test_kernel_distance_of_four_numbers():
    """The kernel is (xy + 1)^3: 1 within {0, 1}, 343 within {2, 3}; 1, 1, 27 and 64 between."""
    a, b = column(0, 1), column(2, 3)
    assert kernel_distance(a, b) == pytest.approx(1 + 343 - 2 * 93 / 4)
    # Without the pairs (0, 2) and (1, 3) the mean between the sets is (1 + 27) / 2.
    assert kernel_distance(a, b, paired=True) == pytest.approx(1 + 343 - 28)
    with pytest.raises(ValueError, match="sets of 1 image and 2 images are too small"):
        kernel_distance(a[:1], b)


def test_kernel_distance_agrees_with_torch_fidelity(block):
    """One subset that is the complete set."""
    a, b = normal_rows(30), normal_rows(30, seed=1, shift=0.5)
    options = {"kid_subsets": 1, "kid_subset_size": 30, "verbose": False}
    expected = kid_features_to_metric(a.double(), b.double(), **options)
    assert kernel_distance(a, b) == pytest.approx(
        expected["kernel_inception_distance_mean"], rel=1e-4
    )


@pytest.mark.parametrize("paired", [False, True])
def test_metrics_agree_with_loops(block, paired):
    """Also for sets of different sizes."""
    fake = normal_rows(23, dim=2).numpy()
    real = normal_rows(23 if paired else 18, dim=2, seed=1, shift=0.7).numpy()

    def mean_kernel(a, b, without_partner):
        values = [
            (x @ y / 2 + 1) ** 3
            for i, x in enumerate(a)
            for j, y in enumerate(b)
            if not (without_partner and i == j)
        ]
        return np.mean(values)

    def share_near(points, rows):
        near = 0
        for i, x in enumerate(points):
            for j, y in enumerate(rows):
                others = np.sort([np.linalg.norm(y - z) for k, z in enumerate(rows) if k != j])
                if np.linalg.norm(x - y) <= others[2] and not (paired and i == j):
                    near += 1
                    break
        return near / len(points)

    distance = mean_kernel(fake, fake, True) + mean_kernel(real, real, True)
    distance -= 2 * mean_kernel(fake, real, paired)
    tensors = torch.from_numpy(fake), torch.from_numpy(real)
    assert kernel_distance(*tensors, paired) == pytest.approx(distance, rel=1e-4)
    expected = share_near(fake, real), share_near(real, fake)
    assert precision_recall(*tensors, paired) == pytest.approx(expected)
    assert 0.3 < min(expected) < max(expected) < 1


def test_kernel_distance_has_no_bias():
    """Its mean over small sets of one distribution is 0; of equal pairs it is exactly 0."""
    estimates = torch.tensor(
        [kernel_distance(normal_rows(8, seed=i), normal_rows(8, seed=1000 + i)) for i in range(300)]
    )
    assert abs(estimates.mean()) < 3 * estimates.std() / 300**0.5
    rows = normal_rows(8)
    assert kernel_distance(rows, rows, paired=True) == pytest.approx(0, abs=1e-6)
    assert kernel_distance(rows, rows) < -1  # the partners bias it


def test_precision_and_recall_of_numbers():
    """The neighborhoods of the real numbers cover [-3, 7], those of the others 1 and more."""
    real, fake = column(0, 1, 2, 3, 4), column(4, 5, 6, 7, 40, 41)
    assert precision_recall(fake, real) == pytest.approx((4 / 6, 4 / 5))
    assert precision_recall(real, fake) == pytest.approx((4 / 5, 4 / 6))
    assert all(map(math.isnan, precision_recall(fake, real[:4])))


def test_precision_and_recall_agree_with_torch_fidelity(block):
    fake, real = 0.8 * normal_rows(60), normal_rows(50, seed=1, shift=0.3)
    options = {"prc_neighborhood": 3, "prc_batch_size": 60, "save_cpu_ram": False}
    expected = prc_features_to_metric(fake, real, verbose=False, **options)
    values = precision_recall(fake, real)
    assert values == pytest.approx((expected["precision"], expected["recall"]))
    assert values[1] < values[0] < 1  # the samples are narrower


def test_distances_are_computed_in_blocks(monkeypatch):
    monkeypatch.setattr(sets, "BLOCK", 7)
    rows = normal_rows(20)
    shapes = [tuple(d.shape) for d in sets._distances(rows, rows, without_diagonal=True)]
    assert shapes == [(7, 20), (7, 20), (6, 20)]


def test_intervals_depend_on_the_seed_only():
    fake, real = normal_rows(40), normal_rows(30, seed=1, shift=0.5)
    first, again, other = (compare_sets(fake, real, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert list(first) == list(SET_METRICS)
    for name, (value, low, high) in first.items():
        assert low < value < high
        assert other[name][0] == value
        assert other[name][1:] != (low, high)


def deviations(groups):
    """Return the deviation of each metric over groups, and the mean of those stated, (4,) each."""
    values = torch.tensor([[*group.values()] for group in groups]).double()  # (G, 4, 3)
    stated = (values[..., 1:] - values[..., :1]).abs().amax(2) / 1.96  # (G, 4)
    return values[..., 0].std(0), stated.mean(0)


@pytest.mark.parametrize("paired", [False, True])
def test_intervals_have_the_width_of_the_spread_over_other_sets(monkeypatch, paired):
    """Over 30 groups of 80 rows; also with subsets of a quarter of the rows."""
    monkeypatch.setattr(sets, "RESAMPLES", 15)
    groups = []
    for i in range(30):
        real = normal_rows(80, seed=i)
        fake = 0.9 * (0.5 * real if paired else 0) + normal_rows(80, seed=100 + i, shift=0.4)
        groups.append((fake, real))
    true, halves = deviations([compare_sets(*group, paired) for group in groups])
    monkeypatch.setattr(sets, "RESAMPLE_ROWS", 20)
    _, quarters = deviations([compare_sets(*group, paired) for group in groups])
    assert (0.6 * true < halves).all() and (halves < 1.6 * true).all()
    assert (0.6 * halves < quarters).all() and (quarters < 1.6 * halves).all()


def test_small_sets_have_no_intervals():
    fake, real = normal_rows(15), normal_rows(20, seed=1)
    metrics = compare_sets(fake, real)
    assert all(math.isfinite(value) and math.isnan(low) for value, low, _ in metrics.values())
    metrics = compare_sets(fake[:4], real)
    finite = [name for name, (value, *_) in metrics.items() if math.isfinite(value)]
    assert finite == ["fd_efflite0", "kid_efflite0"]


def test_a_share_that_is_the_same_in_all_subsets_has_no_interval():
    metrics = compare_sets(normal_rows(40, shift=50), normal_rows(40, seed=1))
    value, low, high = metrics["precision_efflite0"]
    assert value == 0 and math.isnan(low) and math.isnan(high)
