"""Tests of dcgan-export."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from test_blending import MASKS, make_masks, random_images
from training import small_dcgan

from dcgan_inpaint.blending import paste, poisson
from dcgan_inpaint.cli.entry_point import run_config
from dcgan_inpaint.composition import compose_config, normalize_overrides
from dcgan_inpaint.errors import one_line_errors
from dcgan_inpaint.images import to_float
from dcgan_inpaint.inpainting import exporting
from dcgan_inpaint.inpainting.exporting import export_program, write_onnx, write_program
from dcgan_inpaint.inpainting.poisson_graph import poisson_graph
from dcgan_inpaint.models.checkpoint import load_gan, load_model, save_weights
from dcgan_inpaint.models.one_pass import OnePass
from dcgan_inpaint.photos.photos import PORTRAITS
from dcgan_inpaint.photos.reading import open_photo


def export(**options):
    with one_line_errors():
        overrides = normalize_overrides([f"{key}={value}" for key, value in options.items()])
        config = compose_config("export", overrides)
    run_config("export", config)


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_weights(small_dcgan(z_dim=4), path)
    return path


def test_exported_checkpoint_generates_the_same_images_up_to_half_precision(
    checkpoint, tmp_path, capsys
):
    out = tmp_path / "exported.safetensors"
    export(ckpt=checkpoint, out=out)
    assert capsys.readouterr().out == f"{out}: {out.stat().st_size:,} bytes\n"
    assert out.stat().st_size < checkpoint.stat().st_size
    original, exported = load_gan(checkpoint), load_gan(out)
    assert exported.ema_only
    z = original.latents(torch.arange(2))
    torch.testing.assert_close(exported(z), original(z), rtol=0, atol=1e-2)


def draw(mask, count, size):
    return instantiate(compose_config("inpaint", [f"mask={mask}"]).mask)(torch.arange(count), size)


def images_and_masks(size):
    """Portraits (6, 3, S, S) in [-1, 1], and two center, two half and two random masks."""
    paths = sorted(PORTRAITS.glob("*.webp"))[:6]
    images = to_float(np.stack([np.asarray(open_photo(p).resize((size, size))) for p in paths]))
    images = images.movedim(-1, 1)
    masks = [draw(name, 2, size) for name in ("center", "half", "random80")]
    return images, torch.cat(masks)


def exact(network, images, mask, blend=poisson):
    with torch.no_grad():
        return blend(network(images * mask, mask), images, mask)


def run_onnx(path, images, mask):
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (completions,) = session.run(None, {"image": images.numpy(), "mask": mask.numpy()})
    return torch.from_numpy(completions)


@pytest.mark.slow  # a minute
@pytest.mark.parametrize("name", ["celeba64", "celeba128"])
def test_shipped_models_complete_the_same_in_onnx_and_torch_export(name, tmp_path, capsys):
    """Also for batches of one and six images; the graph was made with two.

    The graph solves the Poisson equation up to a small error; a level of 8 bits is 8e-3.
    """
    pytest.importorskip("onnxscript")
    model = load_model(name)
    network = model.fill()
    images, mask = images_and_masks(model.image_shape[-1])
    expected = exact(network, images, mask)
    assert (expected - images).abs()[mask.expand_as(images) == 0].mean() > 0.02
    export(ckpt=name, out=tmp_path / "a.onnx")
    export(ckpt=name, out=tmp_path / "a.pt2")
    completing = torch.export.load(tmp_path / "a.pt2").module()
    for rows in (slice(0, 1), slice(0, 6)):
        pair = images[rows], mask[rows]
        for completions in (run_onnx(tmp_path / "a.onnx", *pair), completing(*pair)):
            torch.testing.assert_close(completions, expected[rows], rtol=0, atol=1e-3)
            known = mask[rows].expand_as(completions) == 1
            assert torch.equal(completions[known], images[rows][known])
    source = str(Path(exporting.__file__).parents[1]).encode()
    assert source not in (tmp_path / "a.onnx").read_bytes()  # no local path
    assert (tmp_path / "a.onnx").stat().st_size < 0.6 * (tmp_path / "a.pt2").stat().st_size
    assert f"{tmp_path / 'a.onnx'}: " in capsys.readouterr().out


@pytest.fixture(scope="module")
def unet():
    """A U-Net of 16 px with untrained weights."""
    torch.manual_seed(0)
    settings = {"network": "unet", "image_size": 16, "channels": 1, "gf_dim": 8}
    return OnePass(**settings, known=1.0)


@pytest.mark.parametrize("blend", [paste, pytest.param(poisson, marks=pytest.mark.slow)])
def test_small_model_completes_the_same_in_onnx_and_torch_export(unet, blend, tmp_path):
    """One channel, any number of images, and a network without a GAN."""
    pytest.importorskip("onnxscript")
    network = unet.fill()
    program = export_program(network, unet.image_shape, blend)
    write_onnx(program, tmp_path / "a.onnx")
    write_program(program, tmp_path / "a.pt2")
    images, mask = images_and_masks(16)
    images = images[:, :1]
    expected = exact(network, images, mask, blend)
    torch.testing.assert_close(
        run_onnx(tmp_path / "a.onnx", images, mask), expected, rtol=0, atol=1e-3
    )
    completing = torch.export.load(tmp_path / "a.pt2").module()
    torch.testing.assert_close(completing(images[:1], mask[:1]), expected[:1], rtol=0, atol=1e-3)


ERRORS = [
    ({"out": "a.pt2", "weights": "int8"}, "weights=int8: requires out=<file>.onnx"),
    ({"out": "a.onnx", "weights": "int4"}, "weights=int4: should be 'half' or 'int8'"),
    ({"out": "a.onnx", "ckpt": "missing.safetensors"}, "ckpt=missing.safetensors: "),
    ({"out": "a.onnx", "ckpt": "faces64"}, "ckpt=faces64: holds a DCGAN, which has no network for"),
    ({"out": "a.bin"}, "out=a.bin: should end in .safetensors, .onnx or .pt2"),
    ({"out": "a.onnx", "blend": "seamless"}, "blend=seamless: no such choice"),
    ({"out": "folder.onnx"}, "out=folder.onnx: is a directory. Give the path of a file"),
    ({}, "out: missing. Give out="),
]


@pytest.mark.parametrize(("options", "message"), ERRORS)
def test_a_wrong_option_ends_in_one_line(options, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(SystemExit) as raised:
        export(**{"ckpt": "celeba64"} | options)
    line = str(raised.value)
    assert line.startswith("error: ") and message in line and "\n" not in line
    assert not (tmp_path / "a.onnx").exists()


def test_a_missing_library_ends_in_one_line_with_the_command(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    expected = r'a\.onnx needs onnxscript\. Install it: pip install -e "\.\[onnx\]"$'
    with pytest.raises(SystemExit, match=expected):
        export(ckpt="celeba64", out=tmp_path / "a.onnx")


@pytest.mark.parametrize(("weights", "bound"), [("half", 1e-4), ("int8", 4e-4)])
def test_weights_are_compressed(weights, bound, tmp_path):
    """Weights are below 0.1: the nearest of 127 levels is at most 0.1 / 127 / 2 away."""
    onnx = pytest.importorskip("onnx")
    network = torch.nn.Conv2d(4, 8, 6)  # 1152 weights, 8 biases

    class Constant(torch.nn.Module):
        def forward(self, known, mask):
            return self.network(torch.cat([known, mask], 1)).mean((1, 2, 3), True) + 0 * known

    completing = Constant()
    completing.network = network
    path = tmp_path / "a.onnx"
    write_onnx(export_program(completing, (3, 8, 8), paste), path, weights)
    graph = onnx.load(path).graph
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    (name,) = (name for name in stored if name.endswith(f"weight_{weights}"))
    values = stored[name].astype(np.float32)
    if weights == "int8":
        assert values.max() == 127 or values.min() == -127
        values = values * stored[name.replace("int8", "scale")][:, None, None, None]
    assert 0 < np.abs(values - network.weight.detach().numpy()).max() < bound
    bias = next(value for name, value in stored.items() if name.endswith("bias"))
    assert bias.dtype == np.float32 and np.array_equal(bias, network.bias.detach().numpy())
    images, mask = torch.rand(2, 3, 8, 8) * 2 - 1, torch.zeros(2, 1, 8, 8)
    with torch.no_grad():
        expected = completing(images * mask, mask)
    torch.testing.assert_close(run_onnx(path, images, mask), expected, rtol=0, atol=0.02)


@pytest.mark.parametrize("name", MASKS)
def test_poisson_graph_comes_close_to_poisson(name):
    """Each iteration reduces the error of white noise, the hardest image."""
    fake, images = random_images(3)
    mask = make_masks(name)
    expected = poisson(fake, images, mask)
    out = [poisson_graph(fake, images, mask, iterations) for iterations in (2, 6)]
    errors = [float((each - expected).abs().max()) for each in out]
    assert errors[1] < (2e-3 if name == "grid" else 3e-4)
    assert errors[1] <= 0.1 * errors[0]
    known = (mask == 1).expand_as(images)
    assert torch.equal(out[1][known], images[known])


def test_poisson_graph_without_known_pixels_or_without_a_hole():
    fake, images = random_images(3)
    mask = make_masks("center")
    mask[0], mask[2] = 0, 1
    out = poisson_graph(fake, images, mask)
    assert torch.equal(out[0], fake[0])
    assert torch.equal(out[2], images[2])
    torch.testing.assert_close(out[1:2], poisson_graph(fake[1:2], images[1:2], mask[1:2]))
