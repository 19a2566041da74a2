"""Callbacks of a training run (runs/callbacks.py)."""

import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader
from training import quiet_trainer

from dcgan_inpaint.data.batches import ImageDataset
from dcgan_inpaint.models.dcgan import DCGAN
from dcgan_inpaint.runs.callbacks import (
    Calibration,
    CollapseWarning,
    CompletionPreview,
    FiniteCheck,
    SampleGrid,
    training_callbacks,
)


class ScriptedDCGAN(DCGAN):
    """Logs the losses in its batches, and does not train."""

    def training_step(self, batch, batch_idx):
        self.optimizers()[0].step()
        for _ in range(self.hparams["g_steps"]):
            self.optimizers()[1].step()
        self.log_dict({"train/d_loss": batch[0], "train/g_loss": batch[1]})


def fit(losses, *callbacks, gain=1.0):
    torch.manual_seed(0)
    model = ScriptedDCGAN(image_size=16, z_dim=4, gf_dim=2, df_dim=2)
    for parameter in model.generator.parameters():
        torch.nn.init.normal_(parameter, std=gain)
    trainer = quiet_trainer(callbacks=list(callbacks))
    trainer.fit(model, DataLoader([torch.tensor(pair) for pair in losses], batch_size=None))
    return model


class ValidationData:
    """A data module with a validation split of black images."""

    def __init__(self, count):
        self.count = count

    def split(self, name):
        assert name == "val"
        levels = np.zeros((self.count, 3, 16, 16), np.uint8)
        return ImageDataset(levels, [str(i) for i in range(self.count)])


HEALTHY, LOW_D_LOSS, LOW_G_LOSS = (1.0, 1.0), (0.001, 8.0), (3.0, 0.001)


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        ([LOW_D_LOSS] * 5, r"iteration 3: d_loss is near zero.*model.g_steps=3"),
        ([LOW_G_LOSS] * 5, r"iteration 3: g_loss is near zero.*model.g_steps=1"),
    ],
)
def test_loss_that_stays_near_zero_warns_once(losses, message):
    with pytest.warns(UserWarning, match=message) as caught:
        fit(losses, CollapseWarning(patience=3))
    assert sum("Train with" in str(w.message) for w in caught) == 1


def test_short_dips_of_a_loss_do_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", module="pytorch_lightning")
        fit([LOW_D_LOSS, LOW_D_LOSS, HEALTHY] * 3, CollapseWarning(patience=3, warm_up=1))


def test_identical_samples_warn_only_after_the_warm_up():
    with pytest.warns(UserWarning, match=r"samples look the same.*model.g_steps=3"):
        fit([HEALTHY] * 3, CollapseWarning(warm_up=3), gain=1e-4)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", module="pytorch_lightning")
        fit([HEALTHY] * 3, CollapseWarning(warm_up=4), gain=1e-4)


def test_images_are_named_by_iteration(tmp_path):
    preview = CompletionPreview(tmp_path, ValidationData(3), count=2, iterations=2)
    model = fit([HEALTHY] * 5, SampleGrid(tmp_path, every=2, samples=4), preview)
    assert sorted(p.name for p in (tmp_path / "samples").iterdir()) == [
        "0000002.png",
        "0000004.png",
    ]
    assert [p.name for p in (tmp_path / "completions").iterdir()] == ["0000005.png"]
    assert model.trainer.callback_metrics["preview/psnr_hole"] > 0


@pytest.mark.parametrize(("available", "used"), [(3, 2), (1, 1)])
def test_preview_uses_as_many_validation_images_as_there_are(tmp_path, available, used):
    preview = CompletionPreview(tmp_path, ValidationData(available), count=2)
    preview.on_fit_start(None, None)
    assert preview.images.shape == (used, 3, 16, 16)


def test_sample_grid_rejects_zero_iterations(tmp_path):
    with pytest.raises(ValueError, match="every=0: should be greater than or equal to 1"):
        SampleGrid(tmp_path, every=0)


@pytest.mark.parametrize(
    ("is_gan", "calibrated", "preview", "expected"),
    [
        (True, False, 0, {CollapseWarning, SampleGrid}),
        (True, False, 4, {CollapseWarning, SampleGrid, CompletionPreview}),
        (False, True, 0, {Calibration}),
        (False, False, 4, {CompletionPreview}),
    ],
)
def test_training_callbacks_depend_on_the_model(tmp_path, is_gan, calibrated, preview, expected):
    model = SimpleNamespace(needs_calibration=calibrated)
    model.gan = model if is_gan else None
    callbacks = training_callbacks(model, None, tmp_path, 500, preview)
    optional = {Calibration, CollapseWarning, CompletionPreview, SampleGrid}
    assert {type(callback) for callback in callbacks} & optional == expected
    assert isinstance(callbacks[-1], ModelCheckpoint)  # it stores what the others changed


@pytest.mark.parametrize("network", ["generator", "discriminator"])
def test_weights_that_are_not_finite_stop_training_before_a_checkpoint(tmp_path, network):
    model = DCGAN(image_size=16, gf_dim=1, df_dim=1, z_dim=3)
    data = DataLoader([{"image": torch.zeros(4, 3, 16, 16)}] * 4, batch_size=None)
    trainer = quiet_trainer(max_epochs=1, callbacks=[FiniteCheck()], log_every_n_steps=2)
    step, count = model.training_step, iter(range(100))

    def failing_step(*args):
        step(*args)
        if next(count) == 2:
            next(getattr(model, network).parameters()).data.fill_(float("nan"))

    model.training_step = failing_step
    with pytest.raises(
        FloatingPointError, match=f"{network}.*not finite after iteration 4.*Lower model.lr"
    ):
        trainer.fit(model, data)
    with pytest.raises(FloatingPointError):
        trainer.save_checkpoint(tmp_path / "last.ckpt")
    assert not (tmp_path / "last.ckpt").exists()
