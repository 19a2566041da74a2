"""Checkpoints of both forms load to the bit; hostile ones end in one line and run nothing."""

import json
import pickle
import struct
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from hostile import (
    BAD_LAYOUTS,
    DATA,
    FACES,
    HEADERS,
    LATENT,
    LENGTHS,
    OLD_FACES,
    PICKLED,
    PLACES,
    TENSORS,
    TEXTS,
    PickledCommand,
    lightning_checkpoint,
    make_calls,
    make_dcgan,
    make_models,
    write_checkpoint,
)
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save, save_file
from torch.utils.data import DataLoader
from training import quiet_trainer

from dcgan_inpaint.data.faces.source import Faces
from dcgan_inpaint.data.folder import Folder
from dcgan_inpaint.models.checkpoint import (
    checkpoint_path,
    load_gan,
    load_model,
    resolve_source,
    save_weights,
)
from dcgan_inpaint.models.context_encoder import ContextEncoder
from dcgan_inpaint.models.dcgan import DCGAN
from dcgan_inpaint.models.latent_encoder import LatentEncoder
from dcgan_inpaint.models.unet import UNet

SHIPPED = Path(__file__).parents[1] / "dcgan_inpaint" / "checkpoints" / "faces64.safetensors"


def refused(path):
    """The one line that a checkpoint ends in; its folder is as it was."""
    before = {p: p.stat().st_mtime_ns for p in path.parent.rglob("*")}
    with pytest.raises(ValueError) as error:
        resolve_source(load_model(path), None, str(path))
    assert {p: p.stat().st_mtime_ns for p in path.parent.rglob("*")} == before
    line = str(error.value)
    assert line.startswith(f"ckpt={path}") and "\n" not in line and len(line) < 500
    return line.removeprefix(f"ckpt={path}")


both = pytest.mark.parametrize("form", ["weights.ckpt", "weights.safetensors"])


# --- what loads ---


@pytest.mark.parametrize("which", range(3))
def test_both_forms_to_the_bit(which, tmp_path):
    model = make_models()[which]
    model.data, model.trained_iterations = FACES, 5
    save_weights(model, tmp_path / "new folder" / "kept")  # told by content, not by name
    torch.save(lightning_checkpoint(model), tmp_path / "weights")
    for path in (tmp_path / "new folder" / "kept", tmp_path / "weights"):
        loaded = load_model(path)
        assert type(loaded) is type(model)
        assert (loaded.data, loaded.trained_iterations) == (FACES, 5)
        assert dict(loaded.hparams) == dict(model.hparams)
        state = loaded.state_dict()
        assert list(state) == list(model.state_dict())
        for name, value in model.state_dict().items():
            assert torch.equal(state[name], value), name
            assert state[name].stride() == value.stride(), name
    assert [p.name for p in (tmp_path / "new folder").iterdir()] == ["kept"]


def test_what_lightning_saves(tmp_path):
    """Its iteration and description come along, into the other form as well."""
    trainer, model = quiet_trainer(), make_dcgan()
    model.data = FACES
    batches = [{"image": torch.zeros(4, 3, 16, 16)}] * 2
    trainer.fit(model, DataLoader(batches, batch_size=None))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    save_weights(load_gan(tmp_path / "last.ckpt"), tmp_path / "weights.safetensors")
    for name in ("last.ckpt", "weights.safetensors"):
        loaded = load_gan(tmp_path / name)
        assert (loaded.trained_iterations, loaded.data) == (2, FACES)


def test_loading_draws_as_building_does(tmp_path):
    """A latent encoder's first weights follow from the seed, whatever was checked before."""
    path = write_checkpoint(tmp_path / "weights.safetensors")
    draws = []
    for make in (make_dcgan, lambda: torch.manual_seed(0) and load_gan(path)):
        make()
        draws.append(torch.rand(3))
    assert torch.equal(*draws)


def test_old_checkpoints(tmp_path):
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
    for name in ("kind", "iteration", "data"):  # were not said at first
        del first[name]
    torch.save(first, tmp_path / "old.ckpt")
    assert load_model(tmp_path / "old.ckpt").data is None
    saved = lightning_checkpoint(make_models()[2])
    assert saved["hyper_parameters"]["gan_kind"] == "DCGAN"
    torch.save(saved, tmp_path / "old.ckpt")
    loaded = load_model(tmp_path / "old.ckpt", LatentEncoder)
    assert loaded.gan.settings == make_dcgan().settings


@pytest.mark.parametrize("form", ["weights.ckpt", "weights.safetensors"])
def test_halved_weights_become_whole(form, tmp_path):
    """A file may hold float16, to be half as large; the model computes in float32."""
    model = make_dcgan()
    halved = {k: v.half() for k, v in model.state_dict().items() if v.is_floating_point()}
    path = write_checkpoint(tmp_path / form, model, tensors=halved)
    for name, value in load_model(path).state_dict().items():
        expected = halved[name].float() if name in halved else model.state_dict()[name]
        assert value.dtype == expected.dtype, name
        assert torch.equal(value, expected), name


def test_the_shipped_one():
    gan = load_gan(SHIPPED)
    assert (gan.settings.gf_dim, gan.trained_iterations) == (24, 15600)
    assert gan.data["source"] == "faces"
    assert not torch.equal(gan.generator.project.weight, gan.ema_generator.project.weight)
    assert SHIPPED.stat().st_size < 10e6


def test_the_shipped_sampler():
    """Of CelebA: GAN and sampling encoder in one small file that names no folder."""
    model = load_model("celeba64", LatentEncoder)
    assert (model.settings.noise_dim, model.gan.settings.gf_dim, model.ema_only) == (64, 48, True)
    assert model.data == {**model.data, "source": "celeba"} and "root" not in model.data
    assert checkpoint_path("celeba64").stat().st_size < 20e6
    with pytest.raises(ValueError, match=r"Set data=celeba data.root="):
        resolve_source(model, None, "celeba64")


def test_the_shipped_gan_of_photos():
    """Of CelebA at 128 px: averaged networks, in half precision, that name no folder."""
    gan = load_gan(checkpoint_path("celeba128"))
    assert gan.image_shape == (3, 128, 128) and gan.settings.crop == 0.8
    assert (gan.ema_only, gan.trained_iterations, gan.settings.layers) == (True, 8582, 5)
    assert gan.data == {**gan.data, "source": "celeba"} and "root" not in gan.data
    assert checkpoint_path("celeba128").stat().st_size < 20e6


def test_what_a_search_asks_of_a_model():
    gan, context, encoder = make_models()
    known, mask = torch.zeros(2, 3, 16, 16), torch.ones(2, 1, 16, 16)
    assert (gan.gan, context.gan) == (gan, None)
    assert encoder.gan.kind == "DCGAN"
    assert gan.fill() is gan.latent_encoder() is context.latent_encoder() is encoder.fill() is None
    z, offset = encoder.latent_encoder()(known, mask)
    assert (z.shape, offset.shape) == ((2, 3), (2, 256))
    context.generator.decoder.deconvs[-1].bias.data.fill_(5.0)
    assert context.fill(ema=False)(known, mask).mean() > 0.9 > context.fill()(known, mask).mean()


# --- what goes with a checkpoint ---


def test_source_of(tmp_path, capsys):
    model = make_dcgan()
    chosen = Faces(16, train_size=9)
    assert resolve_source(model, chosen, "a.ckpt") is chosen
    with pytest.raises(ValueError, match=r"ckpt=a.ckpt: does not name .* Set data="):
        resolve_source(model, None, "a.ckpt")
    sizes = "data.image_size=32 data.channels=1: ckpt=a.ckpt is for other images. Use data.image_size=16"
    with pytest.raises(ValueError, match=sizes):
        resolve_source(model, Faces(32, 1), "a.ckpt")
    model.data = FACES
    assert resolve_source(model, None, "a.ckpt").train_size == 8
    assert capsys.readouterr().out == ""
    Image.new("RGB", (20, 20)).save(tmp_path / "one.png")
    model.data = {"source": "folder", "root": str(tmp_path), "image_size": 16}
    assert isinstance(resolve_source(model, None, "a.ckpt"), Folder)
    assert str(tmp_path) in capsys.readouterr().out  # a folder that the user did not name
    model.data["root"] = str(tmp_path / "gone")
    with pytest.raises(FileNotFoundError, match=r"gone is not a folder"):
        resolve_source(model, None, "a.ckpt")


@both
def test_another_kind(form, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"ckpt=.*gone.ckpt: no such file"):
        load_gan(tmp_path / "gone.ckpt")
    for model in make_models():
        write_checkpoint(tmp_path / form, model)
        others = [cls for cls in (DCGAN, ContextEncoder, LatentEncoder) if cls is not type(model)]
        assert isinstance(load_model(tmp_path / form, type(model)), type(model))
        with pytest.raises(
            ValueError, match=f"{form}: holds a {model.kind}. Use a checkpoint of a"
        ):
            load_model(tmp_path / form, *others)


# --- hostile: the description of the data ---


@both
@pytest.mark.parametrize("name", ["copyfile", "touch", "open", "hub", "savetxt"])
@pytest.mark.parametrize("place", PLACES)
def test_calls_in_the_data(form, name, place, tmp_path):
    call = make_calls(tmp_path / "marker")[name]
    assert "data" in refused(write_checkpoint(tmp_path / form, data=PLACES[place](call)))
    assert not (tmp_path / "marker").exists()


@both
@pytest.mark.parametrize("case", DATA)
def test_data(form, case, tmp_path):
    data, says = DATA[case]
    assert says in refused(write_checkpoint(tmp_path / form, data=data))


# --- hostile: settings and the rest of the header ---


@both
@pytest.mark.parametrize("case", HEADERS)
def test_headers(form, case, tmp_path):
    header, says = HEADERS[case]
    assert says in refused(write_checkpoint(tmp_path / form, **header))


@both
@pytest.mark.parametrize("case", LATENT)
def test_a_latent_encoder_whose_gan_lies(form, case, tmp_path):
    settings, says = LATENT[case]
    assert says in refused(write_checkpoint(tmp_path / form, make_models()[2], settings=settings))


@pytest.mark.parametrize(("header", "says"), TEXTS)
def test_json(header, says, tmp_path):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(save({"w": torch.zeros(2)}, {"dcgan_inpaint": header}))
    assert says in refused(path)


# --- hostile: the tensors ---


@both
@pytest.mark.parametrize("case", TENSORS)
def test_tensors(form, case, tmp_path):
    tensors, says = TENSORS[case]
    assert says in refused(write_checkpoint(tmp_path / form, tensors=tensors))


@pytest.mark.parametrize("case", PICKLED)
def test_pickled_tensors(case, tmp_path):
    tensors, says = PICKLED[case]
    assert says in refused(write_checkpoint(tmp_path / "weights.ckpt", tensors=tensors))


def test_a_storage_that_was_cut(tmp_path):
    """The archive holds less of a tensor than the pickle claims."""
    whole, path = write_checkpoint(tmp_path / "whole.ckpt"), tmp_path / "weights.ckpt"
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(path, "w") as target:
        records = source.infolist()
        last = max(records, key=lambda record: record.file_size)
        for record in sorted(records, key=lambda record: record is last):
            data = source.read(record)
            target.writestr(record.filename, data[:4] if record is last else data)
    refused(path)


# --- hostile: the file ---


@pytest.mark.parametrize("place", ["state_dict", "hyper_parameters", "callbacks", "data"])
def test_a_pickle_that_runs(place, tmp_path):
    path, marker = tmp_path / "weights.ckpt", tmp_path / "marker"
    torch.save(lightning_checkpoint(make_dcgan()) | {place: {"x": PickledCommand(marker)}}, path)
    assert "(contains more than tensors and plain values)" in refused(path)
    path.write_bytes(pickle.dumps(PickledCommand(marker)))  # without an archive around it
    assert "neither safetensors nor a file of torch.save" in refused(path)
    assert not marker.exists()


@both
@pytest.mark.parametrize("share", [0, 0.001, 0.1, 0.5, 0.99])
def test_truncated(form, share, tmp_path):
    path = write_checkpoint(tmp_path / form)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    assert "truncated, or not a" in refused(path)


def test_the_same_weights_are_the_same_file(tmp_path):
    for name in ("a", "b"):
        save_weights(make_dcgan(), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@both
def test_a_flipped_bit(form, tmp_path):
    """Anywhere in a file that we write: refused, or nothing has changed."""
    model, path = make_dcgan(), tmp_path / form
    model.data = FACES
    if path.suffix == ".ckpt":
        torch.save(lightning_checkpoint(model), path)
    else:
        save_weights(model, path)
    data, state, taken = path.read_bytes(), model.state_dict(), 0
    places = [*range(0, 2000, 61), *range(2000, len(data), len(data) // 50)]
    for place in [*places, *range(len(data) - 2000, len(data), 61)]:
        changed = bytearray(data)
        changed[place] ^= 1 << place % 8
        path.write_bytes(changed)
        try:
            loaded = load_model(path)
        except ValueError as error:
            assert str(error).startswith(f"ckpt={path}") and "\n" not in str(error)
            continue
        taken += 1  # such as the time at which a part of an archive was written
        assert dict(loaded.hparams) == dict(model.hparams), place
        assert all(torch.equal(v, state[k]) for k, v in loaded.state_dict().items()), place
    assert taken < len(places) / 2


@pytest.mark.parametrize("change", [{"hyper_parameters": {"hidden": 3}}, {"state_dict": None}, {}])
def test_foreign(change, tmp_path):
    path = tmp_path / "weights.ckpt"
    torch.save(
        lightning_checkpoint(make_dcgan()) | change if change else {"layer": torch.zeros(2)}, path
    )
    refused(path)
    path.write_text("not a checkpoint at all")
    assert "neither safetensors nor a file of torch.save" in refused(path)
    torch.save([1, 2], path)
    assert "truncated, or not a" in refused(path)


def test_compressed(tmp_path):
    """torch stores records as they are; a compressed one may unpack to any size."""
    whole, path = write_checkpoint(tmp_path / "whole.ckpt"), tmp_path / "weights.ckpt"
    with (
        zipfile.ZipFile(whole) as source,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for record in source.infolist():
            target.writestr(record.filename, source.read(record))
    assert "compressed" in refused(path)


@pytest.mark.parametrize("header", BAD_LAYOUTS)
def test_safetensors_that_lie(header, tmp_path):
    path, text = tmp_path / "weights.safetensors", json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(8))
    assert "truncated, or not a" in refused(path)


@pytest.mark.parametrize("length", LENGTHS)
def test_safetensors_whose_length_lies(length, tmp_path):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(struct.pack("<Q", length) + b'{"w": 1}')
    assert "truncated, or not a" in refused(path)


def test_safetensors_nested_deeply(tmp_path):
    path, depth = tmp_path / "weights.safetensors", 50 * sys.getrecursionlimit()
    text = b'{"w": ' + b"[" * depth + b"]" * depth + b"}"
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    assert "truncated, or not a" in refused(path)


@pytest.mark.parametrize("kind", ["DCGAN", "latent encoder", "sampler", "context encoder", "U-Net"])
def test_an_averaged_file_completes_the_same(tmp_path, kind):
    """To half precision, from less than half of the file; the raw networks are not there."""
    small = {"image_size": 16, "df_dim": 2}
    torch.manual_seed(0)
    gan = DCGAN(**small, gf_dim=2, z_dim=4)
    made = {
        "DCGAN": lambda: gan,
        "latent encoder": lambda: LatentEncoder(gan=gan, **small, code_dim=3),
        "sampler": lambda: LatentEncoder(gan=gan, **small, code_dim=3, noise_dim=2),
        "context encoder": lambda: ContextEncoder(**small, gf_dim=2, code_dim=4),
        "U-Net": lambda: UNet(image_size=16, gf_dim=2),
    }[kind]()
    made.data = {"source": "celeba", "root": "/home/somebody", "image_size": 16}
    whole, slim = tmp_path / "whole.safetensors", tmp_path / "slim.safetensors"
    save_weights(made, whole)
    save_weights(made, slim, averaged=True)
    assert b"somebody" not in slim.read_bytes()
    sizes = [
        sum(t.numel() * t.itemsize for t in load_file(file).values()) for file in (whole, slim)
    ]
    assert sizes[1] < 0.55 * sizes[0]

    loaded = load_model(slim)
    state = made.state_dict()
    for name, value in loaded.state_dict().items():
        if not name.startswith(tuple(made.training_only) or "none"):
            for raw, average in made.averages.items():
                if name.startswith(f"{raw}."):
                    name = average + name.removeprefix(raw)
            torch.testing.assert_close(value, state[name], rtol=1e-3, atol=1e-6)
    with pytest.raises(ValueError, match="ema=false: ckpt has only the averaged networks"):
        loaded.check_ema(ema=False)
    loaded.check_ema(ema=True)
    load_model(whole).check_ema(ema=False)
    with pytest.raises(
        ValueError, match="was trained on celeba images. Set data=celeba data.root="
    ):
        resolve_source(loaded, None, "slim")


def test_an_averaged_file_that_lacks_more_is_refused(tmp_path):
    save_weights(DCGAN(image_size=16, gf_dim=2, df_dim=2), tmp_path / "a", averaged=True)
    with safe_open(tmp_path / "a", "pt") as file:
        about = json.loads(file.metadata()["dcgan_inpaint"])
    del about["checksum"]
    words = {"dcgan_inpaint": json.dumps(about)}
    tensors = load_file(tmp_path / "a")
    del tensors["ema_generator.project.weight"]
    save_file(tensors, tmp_path / "b", words)
    with pytest.raises(ValueError, match="project.weight'?: missing"):
        load_model(tmp_path / "b")


def test_shipped_checkpoints_have_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # anywhere
    assert load_model("faces64").settings.image_size == 64
    with pytest.raises(FileNotFoundError, match="ckpt=faces65: no such file.* faces64"):
        load_model("faces65")
