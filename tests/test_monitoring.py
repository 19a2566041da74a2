"""Metrics during training, the best weights and early stopping (runs/monitoring.py)."""

import csv
import shutil
from functools import partial

import numpy as np
import pytest
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader
from training import quiet_trainer

from dcgan_inpaint.data.batches import ImageDataset
from dcgan_inpaint.masks import masks
from dcgan_inpaint.metrics.completions import psnr
from dcgan_inpaint.metrics.features import load_efflite0
from dcgan_inpaint.metrics.sets import frechet_distance
from dcgan_inpaint.models.checkpoint import load_model
from dcgan_inpaint.models.dcgan import DCGAN
from dcgan_inpaint.models.one_pass import OnePass
from dcgan_inpaint.runs.monitoring import BestWeights, Monitor, Patience, monitoring_callbacks
from dcgan_inpaint.runs.records import read_records
from dcgan_inpaint.runs.report import write_report

UNET = {"network": "unet", "gf_dim": 2, "known": 1.0, "hole": 1.0}


class ValidationData:
    """A data module with a validation split of noise."""

    def __init__(self, count=40, size=16):
        self.levels = np.random.default_rng(0).integers(0, 256, (count, 3, size, size), np.uint8)

    def split(self, name):
        assert name == "val"
        return ImageDataset(self.levels, [str(i) for i in range(len(self.levels))])


def unet(size=16):
    torch.manual_seed(0)
    mask = partial(masks.random, seed=0, missing=0.5)
    return OnePass(mask=mask, image_size=size, **UNET)


class Scripted(Monitor):
    """Reads the values of the metric from a list, one for each evaluation."""

    values: list[float] = []

    def on_fit_start(self, trainer, module):
        self.evaluated = []

    def _evaluate(self, module):
        self.evaluated.append(module.iteration)
        return self.values[len(self.curve)]


@pytest.fixture
def fit(tmp_path, monkeypatch):
    """A function that trains for epochs of one iteration; returns the iterations evaluated."""
    monkeypatch.setattr("dcgan_inpaint.runs.monitoring.Monitor", Scripted)

    def call(values, epochs, run_dir=tmp_path, every=1, patience=None, ckpt_path=None):
        Scripted.values = values
        callbacks = monitoring_callbacks(
            unet(), ValidationData(), run_dir, "psnr_hole", every, 8, patience
        )
        last = ModelCheckpoint(run_dir, "last", enable_version_counter=False)
        trainer = quiet_trainer(
            max_epochs=epochs, callbacks=[*callbacks, last], enable_checkpointing=True
        )
        model, data = unet(), [{"image": torch.zeros(2, 3, 16, 16)}]
        trainer.fit(model, DataLoader(data, batch_size=None), ckpt_path=ckpt_path)
        return callbacks[0].evaluated

    return call


def best_iteration(run_dir):
    return load_model(run_dir / "best.safetensors").trained_iterations


def curve(run_dir):
    with (run_dir / "monitor.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["iteration", "monitor/psnr_hole"]
    return [(int(iteration), float(value)) for iteration, value in rows]


def test_best_weights_are_those_of_the_best_value(fit, tmp_path):
    assert fit([1.0, 3.0, 2.0, 2.5], epochs=4) == [1, 2, 3, 4]
    assert best_iteration(tmp_path) == 2
    assert curve(tmp_path) == [(1, 1.0), (2, 3.0), (3, 2.0), (4, 2.5)]


def test_training_stops_after_evaluations_without_an_improvement(fit, tmp_path):
    """Epochs without an evaluation do not count."""
    assert fit([1.0, 3.0, 2.0, 2.5, 4.0], epochs=20, every=2, patience=2) == [2, 4, 6, 8]
    assert best_iteration(tmp_path) == 4
    assert torch.load(tmp_path / "last.ckpt")["iteration"] == 8


@pytest.mark.parametrize("moved", [False, True])
def test_best_value_and_patience_survive_resuming(fit, tmp_path, moved):
    run_dir = tmp_path / "run"
    fit([3.0, 2.0], epochs=2, run_dir=run_dir, patience=3)
    if moved:
        run_dir = shutil.move(run_dir, tmp_path / "moved")
    values = [3.0, 2.0, 2.5, 2.9, 9.0]
    evaluated = fit(values, 9, run_dir, patience=3, ckpt_path=run_dir / "last.ckpt")
    assert evaluated == [3, 4]  # the second and third without an improvement
    assert best_iteration(run_dir) == 1
    assert curve(run_dir) == [(1, 3.0), (2, 2.0), (3, 2.5), (4, 2.9)]


def test_patience_may_change_on_resume(fit, tmp_path):
    fit([3.0, 2.0], epochs=2, patience=1)
    values = [3.0, 2.0, 1.0, 4.0, 0.0]
    assert fit(values, 4, patience=5, ckpt_path=tmp_path / "last.ckpt") == [3, 4]
    assert best_iteration(tmp_path) == 4


def evaluate(model, data, *arguments):
    monitor, best = monitoring_callbacks(model, data, *arguments, patience=None)
    assert isinstance(best, BestWeights)
    monitor.on_fit_start(None, model)
    return monitor._evaluate(model), monitor.images


def test_psnr_hole_is_that_of_completions_of_the_first_images(tmp_path):
    model = unet()
    value, images = evaluate(model, ValidationData(), tmp_path, "psnr_hole", 1, 36)
    mask = model.mask(-1 - torch.arange(36), 16)
    fake = model.fill()(images * mask, mask)
    expected = psnr(torch.where(mask == 0, fake, images), images, 1 - mask).mean()
    assert value == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("is_gan", [True, False])
def test_fd_compares_samples_or_completions_with_the_images(tmp_path, is_gan):
    data, network = ValidationData(6, 32), load_efflite0(32)
    model = DCGAN(image_size=32, z_dim=4, gf_dim=2, df_dim=2) if is_gan else unet(32)
    value, images = evaluate(model, data, tmp_path, "fd", 1, 512)
    assert len(images) == 6
    index = -1 - torch.arange(6)
    with torch.no_grad():
        if is_gan:
            fake = model(model.latents(index))
        else:
            mask = model.mask(index, 32)
            fake = torch.where(mask == 0, model.fill()(images * mask, mask), images)
        expected = frechet_distance(network(fake).pooled, network(images).pooled)
    assert value == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    ("monitor", "patience", "message"),
    [
        (None, 3, "patience=3: there is no metric. Set monitor=fd"),
        ("psnr_hole", None, "monitor=psnr_hole: a DCGAN makes no completions. Use monitor=fd"),
        ("fd", None, "monitor=fd: images of 16 px are too small"),
    ],
)
def test_metric_that_does_not_apply_is_refused(tmp_path, monitor, patience, message):
    model = DCGAN(image_size=16, z_dim=4, gf_dim=2, df_dim=2)
    with pytest.raises(ValueError, match=message):
        monitoring_callbacks(model, ValidationData(), tmp_path, monitor, 1, 8, patience)


def test_without_a_metric_there_are_no_callbacks(tmp_path):
    assert monitoring_callbacks(unet(), None, tmp_path, None, 1, 8, None) == []
    callbacks = monitoring_callbacks(unet(), None, tmp_path, "psnr_hole", 1, 8, 2)
    assert [type(callback) for callback in callbacks] == [Monitor, Patience, BestWeights]


OPTIONS = [
    *("model=unet", "model.gf_dim=2", "data.image_size=16", "data.train_size=32", "batch_size=16"),
    *("data.val_size=8", "preview=0", "validate=2", "monitor=psnr_hole", "patience=9"),
    *("trainer.accelerator=cpu", "trainer.enable_progress_bar=false"),
]


@pytest.mark.slow
def test_report_of_a_resumed_training_has_the_whole_curve(run, tmp_path):
    result = run("train.py", *OPTIONS, f"output={tmp_path / 'run'}", "trainer.max_epochs=2")
    assert f"ckpt={tmp_path / 'run' / 'best.safetensors'}" in result.stdout
    run("train.py", f"resume={tmp_path / 'run' / 'last.ckpt'}", "trainer.max_epochs=3")
    assert [iteration for iteration, _ in curve(tmp_path / "run")] == [2, 4, 6]
    validation = tmp_path / "run" / "validation"
    page = (validation / "index.html").read_text()
    assert "iterations; monitor/psnr_hole" in page
    write_report(validation, read_records(validation))  # from the files of this directory alone
    assert (validation / "index.html").read_text() == page
    result = run(
        "inpaint.py",
        f"ckpt={tmp_path / 'run' / 'best.safetensors'}",
        "limit=1",
        f"output={tmp_path}/out",
    )
    assert "1 image completed" in result.stdout
