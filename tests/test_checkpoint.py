"""Checkpoints of both formats load bitwise."""

import json
import zipfile
from pathlib import Path

import pytest
import torch
from hostile import (
    FACES,
    OLD_FACES,
    lightning_checkpoint,
    make_dcgan,
    make_models,
    write_checkpoint,
)
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader
from training import quiet_trainer

from dcgan_inpaint.data.faces.source import Faces
from dcgan_inpaint.data.image_files import Folder
from dcgan_inpaint.data.sources import resolve_source
from dcgan_inpaint.files import find_checkpoint
from dcgan_inpaint.models.checkpoint import load_gan, load_model, save_weights
from dcgan_inpaint.models.dcgan import DCGAN
from dcgan_inpaint.models.latent_encoder import LatentEncoder
from dcgan_inpaint.models.one_pass import OnePass

SHIPPED = Path(__file__).parents[1] / "dcgan_inpaint" / "checkpoints" / "faces64.safetensors"


def source_for(model, chosen, ckpt):
    return resolve_source(chosen, model.data, model.image_shape, ckpt)


both = pytest.mark.parametrize("form", ["weights.ckpt", "weights.safetensors"])


# --- valid checkpoints ---


@pytest.mark.parametrize("kind", range(3))
def test_both_formats_restore_the_model_bitwise(kind, tmp_path):
    model = make_models()[kind]
    model.data, model.trained_iterations = FACES, 5
    save_weights(model, tmp_path / "new folder" / "file")  # the content tells the format
    torch.save(lightning_checkpoint(model), tmp_path / "weights")
    for path in (tmp_path / "new folder" / "file", tmp_path / "weights"):
        loaded = load_model(path)
        assert type(loaded) is type(model)
        assert (loaded.data, loaded.trained_iterations) == (FACES, 5)
        assert dict(loaded.hparams) == dict(model.hparams)
        state = loaded.state_dict()
        assert list(state) == list(model.state_dict())
        for name, value in model.state_dict().items():
            assert torch.equal(state[name], value), name
            assert state[name].stride() == value.stride(), name
    assert [p.name for p in (tmp_path / "new folder").iterdir()] == ["file"]


def test_lightning_checkpoint_converts_to_safetensors(tmp_path):
    """Iteration and data description are preserved."""
    trainer, model = quiet_trainer(), make_dcgan()
    model.data = FACES
    batches = [{"image": torch.zeros(4, 3, 16, 16)}] * 2
    trainer.fit(model, DataLoader(batches, batch_size=None))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    save_weights(load_gan(tmp_path / "last.ckpt"), tmp_path / "weights.safetensors")
    for name in ("last.ckpt", "weights.safetensors"):
        loaded = load_gan(tmp_path / name)
        assert (loaded.trained_iterations, loaded.data) == (2, FACES)


def test_loading_uses_as_many_random_numbers_as_building(tmp_path):
    """The initial weights of a latent encoder do not depend on how its GAN was obtained."""
    path = write_checkpoint(tmp_path / "weights.safetensors")
    numbers = []
    for make in (make_dcgan, lambda: torch.manual_seed(0) and load_gan(path)):
        make()
        numbers.append(torch.rand(3))
    assert torch.equal(*numbers)


def test_header_of_the_first_versions_loads(tmp_path):
    """The data was a configuration, and at first kind, iteration and data were not stored."""
    (tmp_path / "images").mkdir()
    folder = {"_target_": "dcgan_inpaint.data.folder.Folder", "root": str(tmp_path / "images")}
    folder |= {"image_size": 16, "channels": 3, "crop": 0.5}
    celeba = {"_target_": "dcgan_inpaint.data.celeba.CelebA", "root": "../celeba"}
    for data, source in (
        (OLD_FACES, FACES),
        (folder, {"source": "folder"} | {k: folder[k] for k in list(folder)[1:]}),
        (celeba | {"download": False}, {"source": "celeba", "root": "../celeba"}),
    ):
        torch.save(lightning_checkpoint(make_dcgan(), data=data), tmp_path / "old.ckpt")
        assert load_gan(tmp_path / "old.ckpt").data == source
    first = lightning_checkpoint(make_dcgan())
    for name in ("kind", "iteration", "data"):
        del first[name]
    torch.save(first, tmp_path / "old.ckpt")
    assert load_model(tmp_path / "old.ckpt").data is None
    saved = lightning_checkpoint(make_models()[2])
    assert saved["hyper_parameters"]["gan_kind"] == "DCGAN"
    torch.save(saved, tmp_path / "old.ckpt")
    loaded = load_model(tmp_path / "old.ckpt", LatentEncoder)
    assert loaded.gan.settings == make_dcgan().settings


@pytest.fixture(scope="module")
def old_checkpoints(tmp_path_factory):
    """Checkpoints written by commit 7f30de1 (fixtures/make_checkpoints.py), expected outputs."""
    folder = tmp_path_factory.mktemp("old")
    with zipfile.ZipFile(Path(__file__).parent / "fixtures" / "old_checkpoints.zip") as archive:
        archive.extractall(folder)
    return folder, load_file(folder / "expected.safetensors")


def assert_equal_outputs(actual, expected):
    # Bitwise on the machine that wrote them; other processors round convolutions differently.
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_old_checkpoints_give_the_same_outputs(old_checkpoints, suffix):
    folder, expected = old_checkpoints
    known, mask = expected["known"], expected["mask"]
    loaded = {
        name: load_model(folder / f"{name}{suffix}").eval()
        for name in ("dcgan", "latent_encoder", "context_encoder", "unet")
    }
    assert all(model.trained_iterations == 2 for model in loaded.values())
    assert all(model.data["source"] == "faces" for model in loaded.values())
    with torch.no_grad():
        gan, encoder = loaded["dcgan"], loaded["latent_encoder"]
        assert_equal_outputs(gan(gan.latents(torch.arange(2))), expected["images"])
        z, offset, _ = encoder.ema_encoder.encode(known, mask, expected["noise"])
        assert_equal_outputs(z, expected["z"])
        assert_equal_outputs(offset, expected["offset"])
        fill = loaded["context_encoder"].ema_network(known, mask)
        assert_equal_outputs(fill, expected["context_encoder"])
        assert_equal_outputs(loaded["unet"].ema_network(known, mask), expected["unet"])
    assert torch.equal(encoder.error_calibration, expected["error_calibration"])


@pytest.mark.parametrize("name", ["dcgan", "latent_encoder", "context_encoder", "unet"])
def test_old_formats_hold_the_same_tensors(old_checkpoints, name):
    folder, _ = old_checkpoints
    lightning, weights = (
        load_model(folder / f"{name}{suffix}").state_dict() for suffix in (".ckpt", ".safetensors")
    )
    assert lightning.keys() == weights.keys()
    assert all(torch.equal(value, weights[key]) for key, value in lightning.items())


def test_old_latent_encoder_without_df_dim_has_the_default_of_its_time(tmp_path):
    model = LatentEncoder(gan=make_dcgan(), image_size=16, code_dim=4, df_dim=64)
    saved = lightning_checkpoint(model)
    del saved["hyper_parameters"]["df_dim"]
    torch.save(saved, tmp_path / "old.ckpt")
    assert load_model(tmp_path / "old.ckpt").settings.df_dim == 64


@both
def test_half_precision_weights_load_as_float32(form, tmp_path):
    model = make_dcgan()
    half = {k: v.half() for k, v in model.state_dict().items() if v.is_floating_point()}
    path = write_checkpoint(tmp_path / form, model, tensors=half)
    for name, value in load_model(path).state_dict().items():
        expected = half[name].float() if name in half else model.state_dict()[name]
        assert value.dtype == expected.dtype, name
        assert torch.equal(value, expected), name


def test_shipped_faces64_holds_raw_and_averaged_networks():
    gan = load_gan(SHIPPED)
    assert (gan.settings.gf_dim, gan.trained_iterations) == (24, 15600)
    assert gan.data["source"] == "faces"
    assert not torch.equal(gan.generator.project.weight, gan.ema_generator.project.weight)
    assert SHIPPED.stat().st_size < 10e6


@pytest.mark.parametrize(("name", "side", "layers"), [("celeba64", 64, 4), ("celeba128", 128, 5)])
def test_shipped_celeba_model_holds_a_gan_and_a_one_pass_network_without_paths(name, side, layers):
    model = load_model(name, OnePass)
    assert model.image_shape == (3, side, side) and model.settings.layers == layers
    assert model.ema_only and model.gan.ema_only and model.trained_iterations > 0
    assert model.data == {**model.data, "source": "celeba"} and "root" not in model.data
    trained, of_gan = model.network.decoder, model.gan.ema_generator
    assert torch.equal(trained.deconvs[0].weight, of_gan.deconvs[0].weight)  # stored once
    assert not torch.equal(trained.deconvs[1].weight, of_gan.deconvs[1].weight)
    assert model.ema_network.directions.norm(dim=1).min() > 0  # of the noise of samples
    assert find_checkpoint(name).stat().st_size < 20e6
    with pytest.raises(ValueError, match=r"Set data=celeba data.root="):
        source_for(model, None, name)


def test_models_offer_a_gan_an_encoder_or_a_fill():
    gan, context, encoder = make_models()
    known, mask = torch.zeros(2, 3, 16, 16), torch.ones(2, 1, 16, 16)
    assert (gan.gan, context.gan) == (gan, None)
    assert encoder.gan.kind == "DCGAN"
    assert gan.fill() is gan.latent_encoder() is context.latent_encoder() is encoder.fill() is None
    z, offset, _ = encoder.latent_encoder().encode(known, mask)
    assert (z.shape, offset.shape) == ((2, 3), (2, 256))
    context.network.decoder.deconvs[-1].bias.data.fill_(5.0)
    assert context.fill(ema=False)(known, mask).mean() > 0.9 > context.fill()(known, mask).mean()


# --- data source and kind ---


def test_source_is_the_chosen_one_or_that_of_the_training(tmp_path, capsys):
    model = make_dcgan()
    chosen = Faces(16, train_size=9)
    assert source_for(model, chosen, "a.ckpt") is chosen
    with pytest.raises(ValueError, match=r"ckpt=a.ckpt: does not name .* Set data="):
        source_for(model, None, "a.ckpt")
    sizes = (
        "data.image_size=32 data.channels=1: ckpt=a.ckpt .* Use data.image_size=16 data.channels=3"
    )
    with pytest.raises(ValueError, match=sizes):
        source_for(model, Faces(32, 1), "a.ckpt")
    model.data = FACES
    assert source_for(model, None, "a.ckpt").train_size == 8
    assert capsys.readouterr().out == ""
    Image.new("RGB", (20, 20)).save(tmp_path / "one.png")
    model.data = {"source": "folder", "root": str(tmp_path), "image_size": 16}
    assert isinstance(source_for(model, None, "a.ckpt"), Folder)
    assert (
        str(tmp_path) in capsys.readouterr().out
    )  # the checkpoint names the directory, not the user
    model.data["root"] = str(tmp_path / "gone")
    with pytest.raises(FileNotFoundError, match=r"gone: not a directory"):
        source_for(model, None, "a.ckpt")


@both
def test_checkpoint_of_another_kind_is_rejected(form, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"ckpt=.*gone.ckpt: no such file"):
        load_gan(tmp_path / "gone.ckpt")
    for model in make_models():
        write_checkpoint(tmp_path / form, model)
        others = [cls for cls in (DCGAN, OnePass, LatentEncoder) if cls is not type(model)]
        assert isinstance(load_model(tmp_path / form, type(model)), type(model))
        with pytest.raises(
            ValueError, match=f"{form}: holds a {model.kind}. Use a checkpoint of a"
        ):
            load_model(tmp_path / form, *others)


def test_equal_models_are_saved_to_equal_files(tmp_path):
    for name in ("a", "b"):
        save_weights(make_dcgan(), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("kind", ["DCGAN", "latent encoder", "sampler", "context encoder", "U-Net"])
def test_averaged_file_is_half_as_large_and_equal_to_half_precision(tmp_path, kind):
    small = {"image_size": 16, "df_dim": 2}
    torch.manual_seed(0)
    gan = DCGAN(**small, gf_dim=2, z_dim=4)
    model = {
        "DCGAN": lambda: gan,
        "latent encoder": lambda: LatentEncoder(gan=gan, **small, code_dim=3),
        "sampler": lambda: LatentEncoder(gan=gan, **small, code_dim=3, noise_dim=2),
        "context encoder": lambda: OnePass(
            network="context_encoder", hole_l2=1.0, **small, gf_dim=2, code_dim=4
        ),
        "U-Net": lambda: OnePass(network="unet", known=1.0, image_size=16, gf_dim=2),
    }[kind]()
    model.data = {"source": "celeba", "root": "/home/somebody", "image_size": 16}
    full, averaged = tmp_path / "full.safetensors", tmp_path / "averaged.safetensors"
    save_weights(model, full)
    save_weights(model, averaged, averaged=True)
    assert b"somebody" not in averaged.read_bytes()
    sizes = [
        sum(t.numel() * t.itemsize for t in load_file(file).values()) for file in (full, averaged)
    ]
    assert sizes[1] < 0.55 * sizes[0]

    loaded = load_model(averaged)
    state = model.state_dict()
    for name, value in loaded.state_dict().items():
        if not name.startswith(tuple(model.training_only) or "none"):
            for raw, average in model.averages.items():
                if name.startswith(f"{raw}."):
                    name = average + name.removeprefix(raw)
            torch.testing.assert_close(value, state[name], rtol=1e-3, atol=1e-6)
    with pytest.raises(ValueError, match="ema=false: ckpt has only the averaged networks"):
        loaded.check_ema(ema=False)
    loaded.check_ema(ema=True)
    load_model(full).check_ema(ema=False)
    with pytest.raises(
        ValueError, match="was trained on celeba images. Set data=celeba data.root="
    ):
        source_for(loaded, None, "averaged")


def test_averaged_file_without_an_average_is_rejected(tmp_path):
    save_weights(DCGAN(image_size=16, gf_dim=2, df_dim=2), tmp_path / "a", averaged=True)
    with safe_open(tmp_path / "a", "pt") as file:
        about = json.loads(file.metadata()["dcgan_inpaint"])
    del about["checksum"]
    metadata = {"dcgan_inpaint": json.dumps(about)}
    tensors = load_file(tmp_path / "a")
    del tensors["ema_generator.project.weight"]
    save_file(tensors, tmp_path / "b", metadata)
    with pytest.raises(ValueError, match="project.weight'?: missing"):
        load_model(tmp_path / "b")


def test_shipped_checkpoints_load_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_model("faces64").settings.image_size == 64
    with pytest.raises(FileNotFoundError, match="ckpt=faces65: no such file.* faces64"):
        load_model("faces65")
