"""Trainings that start from a checkpoint, init= (models/fine_tuning.py)."""

import re

import pytest
import torch

from dcgan_inpaint.cli import train
from dcgan_inpaint.models.checkpoint import load_gan, load_model, save_weights
from dcgan_inpaint.models.dcgan import DCGAN
from dcgan_inpaint.models.latent_encoder import LatentEncoder
from dcgan_inpaint.models.one_pass import OnePass

SMALL = {"image_size": 16, "df_dim": 2, "layers": 2}
CONTEXT = SMALL | {"network": "context_encoder", "code_dim": 6, "gf_dim": 2, "hole_l2": 1.0}
DATA = ["data.image_size=16", "trainer.accelerator=cpu", "trainer.enable_progress_bar=false"]
GAN_START = ["model=one_pass", "model.perceptual=0.0"]


class Built(Exception):
    """Carries the model that a training would train."""


@pytest.fixture
def build(run, monkeypatch, tmp_path):
    """A function that returns the model of a command of train.py, and the line about init=."""

    def stop(config, data, model, *_):
        raise Built(model)

    monkeypatch.setattr(train, "check_image_counts", stop)
    notes = []
    monkeypatch.setattr("dcgan_inpaint.models.fine_tuning.rank_zero_info", notes.append)

    def call(*overrides, fails=False):
        arguments = (*DATA, *overrides, f"output={tmp_path / 'run'}")
        if fails:
            (line,) = run("train.py", *arguments, fails=True).stderr.strip().splitlines()
            return line
        with pytest.raises(Built) as built:
            run("train.py", *arguments)
        return built.value.args[0], notes.pop()

    return call


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Checkpoints of small models; the averages differ from the raw weights."""
    torch.manual_seed(0)
    gan = DCGAN(**SMALL, z_dim=5, gf_dim=3, prior="normal")
    models = {
        "gan": gan,
        "network": OnePass(gan, **SMALL, code_dim=6, skips=True, known=1.0, adversarial=0.1),
        "context": OnePass(**CONTEXT, adversarial=0.1),
        "unet": OnePass(image_size=16, network="unet", gf_dim=2, known=1.0),
        "encoder": LatentEncoder(gan, **SMALL, code_dim=6),
    }
    folder = tmp_path_factory.mktemp("checkpoints")
    for name, model in models.items():
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter)
        model.hparams["lr"] = 0.5
        save_weights(model, folder / f"{name}.safetensors")
        save_weights(model, folder / f"{name}_averaged.safetensors", averaged=True)
    return folder


def assert_equal(model, other, *without):
    mine, theirs = model.state_dict(), other.state_dict()
    names = [name for name in mine if not name.startswith(without)] if without else list(mine)
    for name in names:
        assert torch.equal(mine[name], theirs[name]), name


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("gan", ["model=dcgan"]),
        ("network", [*GAN_START, "model.conditional=false"]),
        ("context", ["model=context_encoder"]),
        ("unet", ["model=unet"]),
        ("encoder", ["model=latent_encoder"]),
    ],
)
def test_all_weights_and_widths_are_those_of_the_checkpoint(build, files, name, overrides):
    path = files / f"{name}.safetensors"
    model, note = build(*overrides, f"init={path}", "model.lr=0.25")
    stored = load_model(path)
    assert_equal(model, stored)
    for setting in model.architecture:
        assert getattr(model.settings, setting) == getattr(stored.settings, setting)
    assert model.settings.lr == 0.25
    assert note == f"init={path}: training starts from its weights"


def test_gan_inside_another_model_is_fine_tuned(build, files):
    model, _ = build("model=dcgan", f"init={files / 'network.safetensors'}")
    assert_equal(model, load_gan(files / "network.safetensors"))
    assert (model.settings.gf_dim, model.settings.prior) == (3, "normal")


def test_file_of_averages_starts_raw_weights_from_them_and_a_new_discriminator(build, files):
    path = files / "network_averaged.safetensors"
    model, note = build(*GAN_START, "model.conditional=false", f"init={path}")
    assert_equal(model, load_model(path), "discriminator")
    assert_equal(model.network, model.ema_network)
    assert_equal(model.discriminator, model.gan.discriminator)  # as in a new training
    assert note.endswith(
        "its weights; the raw weights start from the averages; "
        "the discriminator starts as in a new training"
    )


def test_discriminator_of_another_loss_is_new(build, files):
    path = files / "network.safetensors"
    model, note = build(*GAN_START, f"init={path}")  # this D also sees the mask
    assert model.discriminator.convs[0].in_channels == 4
    assert_equal(model, load_model(path), "discriminator")
    assert note.endswith("its weights; the discriminator starts as in a new training")
    model, note = build("model=one_pass", "loss=l1", f"init={path}")
    assert not hasattr(model, "discriminator")
    assert note.endswith("its weights")


def test_shipped_checkpoint_is_fine_tuned(build):
    model, note = build("model=dcgan", "init=celeba64", "data.image_size=64")
    gan = load_gan("celeba64")
    assert_equal(model, gan)
    assert_equal(model.generator, model.ema_generator)
    assert model.hparams["gf_dim"] == 48
    assert "the raw weights start from the averages" in note


def test_gan_option_does_not_continue_a_network(build, files, monkeypatch):
    """Only init= does."""
    notes = []
    monkeypatch.setattr("dcgan_inpaint.models.fine_tuning.start_from", notes.append)
    sizes = ["model.code_dim=6", "model.df_dim=2", "model.layers=2"]
    path = files / "network.safetensors"
    with pytest.raises(IndexError):  # there is no note
        build(*GAN_START, *sizes, f"gan={path}")
    assert notes == []


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("gan", ["model.gf_dim=8"], "model.gf_dim=8: init=.* has model.gf_dim=3. Remove it"),
        ("gan", ["model.gf_dim=64"], "model.gf_dim=64: init="),  # also the default value
        ("gan", ["model.prior=uniform"], "model.prior=uniform: init="),
        ("network", [*GAN_START, "gan=celeba64"], "gan=celeba64: .*includes its own GAN"),
        ("unet", ["model=context_encoder"], "model.network=context_encoder: .*network=unet$"),
        ("gan", GAN_START, "holds a DCGAN, but model= trains a one-pass network. Use gan="),
        ("unet", ["model=dcgan"], "holds a one-pass network without a GAN"),
        ("gan", ["data.image_size=32"], "data.image_size=32 data.channels=3: .*Use .*size=16"),
        ("gan", ["data.channels=1"], "data.image_size=16 data.channels=1: .*data.channels=3"),
        ("gan", ["resume=last.ckpt"], "resume=last.ckpt: init= starts a new training"),
        ("missing", [], "init=.*missing.safetensors: no such file"),
    ],
)
def test_what_does_not_fit_is_one_error_line(build, files, name, overrides, message):
    line = build(f"init={files / name}.safetensors", *overrides, fails=True)
    assert re.search(message, line), line


@pytest.mark.slow
def test_fine_tuned_run_is_resumed_without_the_first_checkpoint(run, files, tmp_path):
    (tmp_path / "init.safetensors").write_bytes((files / "gan.safetensors").read_bytes())
    small = ["data.train_size=32", "data.val_size=2", "batch_size=16", "sample_metrics=0"]
    start = [*DATA, *small, "preview=0", "validate=2", f"init={tmp_path / 'init.safetensors'}"]
    run("train.py", *start, f"output={tmp_path / 'run'}", "trainer.max_epochs=1")
    assert load_model(tmp_path / "run" / "weights.safetensors").trained_iterations == 2
    (tmp_path / "init.safetensors").unlink()
    resume = [f"resume={tmp_path / 'run' / 'last.ckpt'}", "trainer.max_epochs=2"]
    assert "trained 4 iterations" in run("train.py", *resume).stdout
    error = run("train.py", *resume, "init=celeba64", fails=True).stderr
    assert "init= starts a new training" in error
