"""The layers of frozen networks compute what the layers compute that they stand for."""

import pytest
import torch
from torch import nn

from dcgan_inpaint.models.dcgan import DCGAN
from dcgan_inpaint.models.fast_layers import IN, KERNEL, OUT, OnBlocks, Winograd
from dcgan_inpaint.models.networks import frozen


def layer(transposed, wide, narrow):
    torch.manual_seed(0)
    if transposed:
        made = nn.ConvTranspose2d(wide, narrow, 5, stride=2, padding=2, output_padding=1)
    else:
        made = nn.Conv2d(narrow, wide, 5, stride=2, padding=2)
    return made.to(memory_format=torch.channels_last).requires_grad_(False)


def maps(batch, transposed, wide, narrow, side):
    shape = (batch, wide, side, side) if transposed else (batch, narrow, 2 * side, 2 * side)
    return torch.randn(shape).to(memory_format=torch.channels_last)


def test_four_results_by_hand():
    weights, inputs = torch.tensor([1.0, 2.0, 3.0]).double(), torch.arange(1.0, 7.0).double()
    results = OUT @ ((KERNEL @ weights) * (IN @ inputs))
    expected = torch.tensor([14.0, 20.0, 26.0, 32.0])  # 1·1 + 2·2 + 3·3, 1·2 + 2·3 + 3·4, ...
    torch.testing.assert_close(results, expected.double(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("transposed", [True, False])
@pytest.mark.parametrize(("side", "wide"), [(4, 64), (8, 128)])
def test_value_and_gradient_are_those_of_the_layer(transposed, side, wide):
    direct = layer(transposed, wide, 24)
    x = maps(16, transposed, wide, 24, side).requires_grad_()
    fast = Winograd(direct)
    assert fast.pays(x)
    expected, result = direct(x), fast(x)
    assert (result - expected).abs().max() < 1e-5 * expected.abs().max()
    assert result.is_contiguous(memory_format=torch.channels_last)
    out_slope = torch.randn_like(expected)
    (slope,) = torch.autograd.grad(expected, x, out_slope)
    (fast_slope,) = torch.autograd.grad(result, x, out_slope)
    assert (fast_slope - slope).abs().max() < 1e-5 * slope.abs().max()


@pytest.mark.parametrize("transposed", [True, False])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("channels", [1, 3])
def test_on_blocks_value_and_gradient_are_those_of_the_layer(transposed, batch, channels):
    direct = layer(transposed, 24, channels)
    x = maps(batch, transposed, 24, channels, 8).requires_grad_()
    expected, result = direct(x), OnBlocks(direct)(x)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-5)
    assert result.is_contiguous(memory_format=torch.channels_last)
    out_slope = torch.randn_like(expected)
    (slope,) = torch.autograd.grad(expected, x, out_slope)
    (fast_slope,) = torch.autograd.grad(result, x, out_slope)
    torch.testing.assert_close(fast_slope, slope, rtol=0, atol=1e-5)


def test_images_leave_g_and_enter_d_on_blocks():
    gan = DCGAN(gf_dim=4, df_dim=4)
    assert isinstance(frozen(gan.generator).deconvs[-1], OnBlocks)
    assert isinstance(frozen(gan.discriminator).convs[0], OnBlocks)


@pytest.mark.parametrize("transposed", [True, False])
def test_rounding_is_about_twice_the_direct_sum(transposed):
    direct = layer(transposed, 128, 64)
    x = maps(16, transposed, 128, 64, 8)
    fast = Winograd(direct)(x)
    plain = direct(x)
    exact = direct.double()(x.double())
    error, direct_error = ((y - exact).square().mean().sqrt() for y in (fast, plain))
    assert 0 < error < 4 * direct_error


def test_direct_where_it_does_not_pay():
    fast = Winograd(layer(True, 64, 32))
    x = maps(16, True, 64, 32, 4)
    assert fast.pays(x)
    assert not fast.pays(x[:15])  # kernels weigh more than images
    assert not fast.pays(maps(16, True, 64, 32, 8))  # transforms more than products
    assert not fast.pays(maps(16, True, 64, 32, 2))  # less than a tile
    assert not fast.pays(x.double())
    with torch.autocast("cpu", torch.bfloat16):
        assert not fast.pays(x)
    assert torch.equal(fast(x[:15]), fast.direct(x[:15]))


def test_batches_of_frozen_networks_agree_with_single_images():
    torch.manual_seed(0)
    gan = DCGAN(gf_dim=16, df_dim=16)
    g, d = frozen(gan.generator), frozen(gan.discriminator)
    assert any(isinstance(m, Winograd) and m.pays(torch.empty(16, 128, 4, 4)) for m in g.modules())
    with torch.inference_mode():  # what is kept from here serves gradients later
        g(gan.latents(torch.arange(16)))
    z = gan.latents(torch.arange(16)).requires_grad_()
    images = g(z)
    logits = d(images)
    torch.testing.assert_close(images, torch.cat([g(row[None]) for row in z]), rtol=0, atol=1e-6)
    expected = torch.cat([d(image[None]) for image in images])
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
    logits.sum().backward()
    assert z.grad is not None
