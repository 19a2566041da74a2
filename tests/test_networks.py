import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dcgan_inpaint.models.encoder_generator import EncoderGenerator
from dcgan_inpaint.models.networks import (
    Discriminator,
    Encoder,
    Generator,
    freeze,
    generator_widths,
)


def same_conv(x, weight, bias):
    """Compute TensorFlow's SAME convolution, stride 2, kernel 5: pad 1 before and 2 after."""
    return F.conv2d(F.pad(x, (1, 2, 1, 2)), weight, bias, stride=2)


def same_deconv(x, weight, bias):
    """Compute the transpose of `same_conv`: the full output, cropped by 1 before and 2 after."""
    full = F.conv_transpose2d(x, weight, bias, stride=2)  # 2n + 3
    return full[:, :, 1 : 1 + 2 * x.shape[2], 1 : 1 + 2 * x.shape[3]]


def test_explicit_deconv_is_the_transpose_of_the_explicit_conv():
    torch.manual_seed(0)
    weight = torch.randn(4, 3, 5, 5, dtype=torch.float64)
    x, y = torch.randn(2, 3, 8, 8).double(), torch.randn(2, 4, 4, 4).double()
    forward = (same_conv(x, weight, None) * y).sum()
    backward = (x * same_deconv(y, weight, None)).sum()
    torch.testing.assert_close(forward, backward)


def with_statistics(network):
    """Replace moving statistics and affine parameters by random ones."""
    for module in network.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            nn.init.normal_(module.weight, 1, 0.2)
            nn.init.normal_(module.bias, 0, 0.2)
    for parameter in network.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.1)
    return network


@pytest.mark.parametrize("training", [False, True])
def test_discriminator_has_tensorflow_same_geometry(training):
    torch.manual_seed(0)
    network = with_statistics(Discriminator(32, 3, 4)).double().train(training)
    images = torch.rand(5, 3, 32, 32).double() * 2 - 1
    h = images  # upright, explicitly padded, with kernels flipped back
    for conv, norm in zip(network.convs, network.norms, strict=True):
        h = F.leaky_relu(norm(same_conv(h, conv.weight.flip(2, 3), conv.bias)), 0.2)
    logit = network.classify.weight.view(2, 2, -1).flip(0, 1).flatten()
    expected = h.permute(0, 2, 3, 1).flatten(1) @ logit + network.classify.bias
    torch.testing.assert_close(network(images), expected)


@pytest.mark.parametrize("training", [False, True])
def test_generator_has_tensorflow_same_geometry(training):
    torch.manual_seed(0)
    network = with_statistics(Generator(32, 3, 6, 2)).double().train(training)
    z = torch.rand(5, 6).double() * 2 - 1
    h = network.project(z).view(-1, 4, 4, 16).flip(1, 2).permute(0, 3, 1, 2)
    for norm, deconv in zip(network.norms, network.deconvs, strict=True):
        h = same_deconv(F.relu(norm(h)), deconv.weight.flip(2, 3), deconv.bias)
    torch.testing.assert_close(network(z), torch.tanh(h))


@pytest.mark.parametrize("size", [8, 16, 32, 64, 128, 256])
@pytest.mark.parametrize("channels", [1, 3])
def test_output_shapes(size, channels):
    images = Generator(size, channels, z_dim=5, gf_dim=4)(torch.zeros(2, 5))
    assert images.shape == (2, channels, size, size)
    if size >= 16:
        assert Discriminator(size, channels, df_dim=2)(images).shape == (2,)


def test_generator_widths_of_both_versions():
    assert generator_widths(64, 64, "blog") == [512, 256, 128, 64]  # at 4, 8, 16, 32 px
    assert generator_widths(64, 64, "amos_head") == [512, 512, 256, 128]
    assert generator_widths(32, 8, "amos_head") == [64, 64, 32]
    assert generator_widths(8, 3, "blog") == [24]
    with pytest.raises(ValueError, match="gf_dim=6: expected a multiple of 4 at 256 px"):
        generator_widths(256, 6)


@pytest.mark.parametrize("training", [False, True])
def test_encoder_has_the_layers_of_a_discriminator(training):
    """The mask is an additional channel, and the code has BatchNorm and LeakyReLU."""
    torch.manual_seed(0)
    network = with_statistics(Encoder(32, 3, 5, 4)).double().train(training)
    known, mask = torch.rand(6, 3, 32, 32).double(), torch.ones(6, 1, 32, 32).double()
    h = torch.cat([known, mask], 1)
    for conv, norm in zip(network.convs, network.norms, strict=True):
        h = F.leaky_relu(norm(same_conv(h, conv.weight.flip(2, 3), conv.bias)), 0.2)
    code = network.code.weight.view(5, 2, 2, -1).flip(1, 2).flatten(1)
    expected = h.permute(0, 2, 3, 1).flatten(1) @ code.T + network.code.bias
    expected = F.leaky_relu(network.code_norm(expected), 0.2)
    torch.testing.assert_close(network(known, mask), expected)
    mask[:, :, 3, 5] = 0
    assert not torch.allclose(network(known, mask), expected)


@pytest.mark.parametrize("size", [16, 64])
@pytest.mark.parametrize("channels", [1, 3])
def test_encoder_generator_shapes(size, channels):
    encoder = Encoder(size, channels, code_dim=5, df_dim=2)
    network = EncoderGenerator(encoder, Generator(size, channels, 5, gf_dim=4), None, skips=False)
    known, mask = torch.zeros(2, channels, size, size), torch.ones(2, 1, size, size)
    assert network.encoder(known, mask).shape == (2, 5)
    assert network(known, mask).shape == (2, channels, size, size)


def test_discriminator_tensors_have_the_names_of_old_checkpoints():
    state = Discriminator(16, 1, 1).state_dict()
    names = [f"convs.{i}.{what}" for i in range(4) for what in ("weight", "bias")]
    what = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    names += [f"norms.{i}.{w}" for i in range(1, 4) for w in what]
    assert list(state) == [*names, "classify.weight", "classify.bias"]


def test_initial_weights_follow_the_original():
    torch.manual_seed(0)
    generator, discriminator = Generator(), Discriminator()
    assert generator.deconvs[0].weight.std().item() == pytest.approx(0.02, rel=0.01)
    assert generator.deconvs[0].weight.abs().max() > 0.06  # not truncated
    weight = discriminator.convs[3].weight
    assert weight.abs().max() <= 0.04  # truncated at 2 sigma, which narrows the spread to 0.88
    assert weight.std().item() == pytest.approx(0.02 * 0.8796, rel=0.01)
    assert all((m.weight == 1).all() and (m.bias == 0).all() for m in generator.norms)
    assert not generator.deconvs[0].bias.any()
    assert not discriminator.classify.bias.any()


def test_frozen_networks_compute_the_same_function_without_batchnorm():
    torch.manual_seed(0)
    generator = with_statistics(Generator(32, 3, 6, 4)).eval()
    discriminator = with_statistics(Discriminator(32, 3, 4)).eval()
    z = torch.randn(3, 6)
    with torch.no_grad():
        images = generator(z)
        logits = discriminator(images)
    for folded in (freeze(generator), freeze(discriminator)):
        assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
        assert not any(p.requires_grad for p in folded.parameters())
        assert not folded.training
    torch.testing.assert_close(freeze(generator)(z), images)
    torch.testing.assert_close(freeze(discriminator)(images), logits)
    assert all(p.requires_grad for p in generator.parameters())  # the original is unchanged


def test_frozen_context_generator_computes_the_same_function():
    torch.manual_seed(0)
    network = with_statistics(
        EncoderGenerator(Encoder(32, 3, 6, 4), Generator(32, 3, 6, 4), None, False)
    ).eval()
    known, mask = torch.rand(3, 3, 32, 32), (torch.rand(3, 1, 32, 32) > 0.5).float()
    folded = freeze(network)
    assert not any(isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d)) for m in folded.modules())
    assert not any(p.requires_grad for p in folded.parameters())
    assert not folded.training
    with torch.no_grad():
        torch.testing.assert_close(folded(known, mask), network(known, mask))
    assert all(p.requires_grad for p in network.parameters())


@pytest.mark.parametrize("level", [1, 2, 3])
def test_image_is_the_same_from_the_map_of_any_level(level):
    torch.manual_seed(0)
    generator = Generator(image_size=32, z_dim=5, gf_dim=4).eval()
    z = torch.rand(3, 5) * 2 - 1
    flat = generator.lift(z, 0, level)
    side = 2 << level  # 4, 8, 16
    assert flat.shape == (3, side * side * generator.widths[level - 1])
    torch.testing.assert_close(generator(flat, level), generator(z))
    torch.testing.assert_close(
        freeze(generator)(freeze(generator).lift(z, 0, level), level), generator(z)
    )
