import warnings

import pytest
import torch
from torch.utils.data import DataLoader
from training import quiet_trainer

from dcgan_inpaint.models.dcgan import DCGAN
from dcgan_inpaint.runs.callbacks import CollapseWarning, CompletionPreview, SampleGrid


class Scripted(DCGAN):
    """Logs the losses it is told, and does not train."""

    def training_step(self, batch, batch_idx):
        self.optimizers()[0].step()
        for _ in range(self.hparams["g_steps"]):
            self.optimizers()[1].step()
        self.log_dict({"train/d_loss": batch[0], "train/g_loss": batch[1]})


def run(losses, *callbacks, gain=1.0):
    torch.manual_seed(0)
    model = Scripted(image_size=16, z_dim=4, gf_dim=2, df_dim=2)
    for parameter in model.generator.parameters():
        torch.nn.init.normal_(parameter, std=gain)
    trainer = quiet_trainer(
        callbacks=list(callbacks),
    )
    trainer.fit(model, DataLoader([torch.tensor(pair) for pair in losses], batch_size=None))
    return model


HEALTHY, D_WON, D_FOOLED = (1.0, 1.0), (0.001, 8.0), (3.0, 0.001)


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        ([D_WON] * 5, r"iteration 3: D has won.*model.g_steps=3"),
        ([D_FOOLED] * 5, r"iteration 3: D is fooled.*model.g_steps=1"),
    ],
)
def test_a_loss_near_zero_for_long_warns_once(losses, message):
    with pytest.warns(UserWarning, match=message) as caught:
        run(losses, CollapseWarning(patience=3))
    assert sum("Start again" in str(w.message) for w in caught) == 1


def test_a_short_dip_and_healthy_training_do_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", module="pytorch_lightning")
        run([D_WON, D_WON, HEALTHY] * 3, CollapseWarning(patience=3, warm_up=1))


def test_identical_samples_warn_after_the_warm_up():
    with pytest.warns(UserWarning, match=r"samples are all the same.*model.g_steps=3"):
        run([HEALTHY] * 3, CollapseWarning(warm_up=3), gain=1e-4)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", module="pytorch_lightning")
        run([HEALTHY] * 3, CollapseWarning(warm_up=4), gain=1e-4)


def test_images_are_named_by_iteration(tmp_path):
    images = torch.zeros(2, 3, 16, 16)
    preview = CompletionPreview(tmp_path, images, iterations=2)
    model = run([HEALTHY] * 5, SampleGrid(tmp_path, every=2, samples=4), preview)
    assert sorted(p.name for p in (tmp_path / "samples").iterdir()) == [
        "0000002.png",
        "0000004.png",
    ]
    assert [p.name for p in (tmp_path / "completions").iterdir()] == ["0000005.png"]
    assert model.trainer.callback_metrics["preview/psnr_hole"] > 0


def test_sample_grid_errors(tmp_path):
    with pytest.raises(ValueError, match="every=0: should be greater than or equal to 1"):
        SampleGrid(tmp_path, every=0)
