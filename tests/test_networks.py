"""Networks: products and convolutions against sums written out, any image size, and both starts."""

import numpy as np
import pytest
import torch
from scipy.stats import kstest
from torch import nn

from gmlvm import networks


def affine(layer, x):
    """A linear layer's W x + b, in NumPy."""
    weight = layer.weight.detach().numpy().astype(float)
    bias = 0.0 if layer.bias is None else layer.bias.detach().numpy().astype(float)
    return x @ weight.T + bias


def normalised(layer, x):
    """A batch norm's output in evaluation mode, in NumPy; the channels are on axis 1."""
    values = (layer.running_mean, layer.running_var, layer.weight, layer.bias)
    mean, variance, gain, shift = (
        value.detach().numpy().astype(float).reshape(-1, *[1] * (x.ndim - 2)) for value in values
    )
    return (x - mean) / np.sqrt(variance + layer.eps) * gain + shift


def convolved(x, weight, stride, padding):
    """A convolution as the sum that defines it, in NumPy: every output weighs the square of pixels under it."""
    weight = weight.detach().numpy().astype(float)
    size = weight.shape[-1]
    x = np.pad(x, [(0, 0), (0, 0), (padding, padding), (padding, padding)])
    rows, columns = ((length - size) // stride + 1 for length in x.shape[2:])
    out = np.zeros((len(x), len(weight), rows, columns))
    for i in range(rows):
        for j in range(columns):
            square = x[:, :, stride * i : stride * i + size, stride * j : stride * j + size]
            out[:, :, i, j] = np.einsum("ncij,fcij->nf", square, weight)
    return out


def spread(x, weight, stride):
    """A transposed convolution as the sum that defines it, in NumPy: every pixel adds a square to the output."""
    weight = weight.detach().numpy().astype(float)
    size = weight.shape[-1]
    rows, columns = x.shape[2:]
    out = np.zeros((len(x), weight.shape[1], stride * rows + size, stride * columns + size))
    for i in range(rows):
        for j in range(columns):
            square = np.einsum("nc,cfij->nfij", x[:, :, i, j], weight)
            out[:, :, stride * i : stride * i + size, stride * j : stride * j + size] += square
    return out[:, :, 2 : 2 + stride * rows, 2 : 2 + stride * columns]  # the margin of 2 that padding leaves out


def with_statistics(network):
    """The network in evaluation mode, with batch norms that do something."""
    generator = torch.Generator().manual_seed(0)
    for layer in network.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            for tensor, low in ((layer.running_mean, -0.5), (layer.running_var, 0.5), (layer.bias.data, -0.5)):
                tensor.uniform_(low, low + 1, generator=generator)
    return network.eval()


def test_component_encoder_is_k_separate_perceptrons():
    encoder = networks.ComponentEncoder((1, 4, 4), num_components=3, latent_dim=2, hidden_dim=5)
    x = torch.rand(7, 1, 4, 4)
    loc, scale = encoder(x)
    for k in range(3):
        mlp = nn.Sequential(nn.Flatten(), nn.Linear(16, 5), nn.ReLU(), nn.Linear(5, 4))
        with torch.no_grad():
            mlp[1].weight.copy_(encoder.hidden.weight[5 * k : 5 * k + 5])
            mlp[1].bias.copy_(encoder.hidden.bias[5 * k : 5 * k + 5])
            mlp[3].weight.copy_(encoder.weight[k].t())
            mlp[3].bias.copy_(encoder.bias[k])
        out = mlp(x)
        torch.testing.assert_close(loc[:, k], out[:, :2])
        torch.testing.assert_close(scale[:, k], out[:, 2:].exp())


def test_component_encoder_starts_as_pytorchs_linear_layers_do():
    """Uniformly within one over the root of the number of inputs, here a third."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = networks.ComponentEncoder((1, 4, 4), num_components=50, latent_dim=20, hidden_dim=9)
    for start in (encoder.weight, encoder.bias):
        assert kstest(start.detach().flatten(), "uniform", (-1 / 3, 2 / 3)).pvalue > 0.01


def test_perceptrons_are_affine_maps_with_rectifiers_between():
    generator = np.random.default_rng(0)
    x, z = generator.random((3, 1, 2, 3)), generator.normal(size=(5, 2))
    encoder, decoder = networks.mlp_discrete_encoder((1, 2, 3), 4, 7), networks.mlp_decoder((1, 2, 3), 2, 7)
    linear = [layer for layer in (*encoder, *decoder) if isinstance(layer, nn.Linear)]
    logits = affine(linear[1], np.maximum(affine(linear[0], x.reshape(3, 6)), 0))
    hidden = np.maximum(affine(linear[3], np.maximum(affine(linear[2], z), 0)), 0)
    np.testing.assert_allclose(encoder(torch.tensor(x).float()).detach(), logits, atol=1e-5)
    pixels = affine(linear[4], hidden).reshape(5, 1, 2, 3)
    np.testing.assert_allclose(decoder(torch.tensor(z).float()).detach(), pixels, atol=1e-5)


def test_deep_encoder_is_two_normalised_layers_and_an_affine_map():
    encoder = with_statistics(networks.deep_discrete_encoder((2, 3, 4), 5, 7))
    x = np.random.default_rng(0).random((6, 2, 3, 4))
    expected = x.reshape(6, 24)
    for linear, norm in ((encoder[1], encoder[2]), (encoder[4], encoder[5])):
        expected = np.maximum(normalised(norm, affine(linear, expected)), 0)
    assert expected.shape == (6, 7)
    np.testing.assert_allclose(encoder(torch.tensor(x).float()).detach(), affine(encoder[7], expected), atol=1e-5)
    assert len(encoder) == 8


def test_the_components_of_a_deep_encoder_are_alike_at_first():
    encoder = networks.deep_discrete_encoder((1, 28, 28), 10)
    assert encoder[1].out_features == encoder[4].out_features == 512
    assert encoder[-1].weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert (encoder[-1].bias == 0).all()
    probs = encoder(torch.rand(50, 1, 28, 28, generator=torch.Generator().manual_seed(0))).softmax(1)
    torch.testing.assert_close(probs, torch.full((50, 10), 0.1), atol=0.1, rtol=0)


@pytest.mark.parametrize("image_shape", [(1, 5, 9), (3, 8, 8)])
def test_convolutional_encoder_is_the_sum_written_out(image_shape):
    encoder = with_statistics(networks.conv_discrete_encoder(image_shape, 4))
    x = np.random.default_rng(0).random((3, *image_shape))
    expected = x
    for convolution, norm in ((encoder[0], encoder[1]), (encoder[3], encoder[4])):
        expected = np.maximum(normalised(norm, convolved(expected, convolution.weight, 2, 2)), 0)
    expected = affine(encoder[-1], expected.reshape(3, -1))
    np.testing.assert_allclose(encoder(torch.tensor(x).float()).detach(), expected, atol=1e-5)


@pytest.mark.parametrize("image_shape", [(1, 5, 6), (3, 8, 8)])
def test_convolutional_decoder_is_the_sum_written_out_cut_at_the_lower_and_right_edge(image_shape):
    channels, height, width = image_shape
    decoder = with_statistics(networks.conv_decoder(image_shape, 2))
    z = np.random.default_rng(0).normal(size=(3, 2))
    expected = np.maximum(normalised(decoder[1], affine(decoder[0], z)), 0).reshape(3, 128, 2, 2)
    for transposed, norm in ((decoder[4], decoder[5]), (decoder[7], decoder[8])):
        expected = np.maximum(normalised(norm, spread(expected, transposed.weight, 2)), 0)
    last = decoder[10]
    expected = spread(expected, last.weight, 1) + last.bias.detach().numpy().reshape(channels, 1, 1)
    assert expected.shape == (3, channels, 8, 8)
    logits = decoder(torch.tensor(z).float()).detach()
    np.testing.assert_allclose(logits, expected[:, :, :height, :width], atol=1e-5)


@pytest.mark.parametrize("image_shape", [(1, 28, 28), (3, 32, 32), (1, 5, 9), (3, 1, 1)])
@pytest.mark.parametrize("kind", ["mlp", "deep", "conv"])
def test_networks_take_any_image_size_and_channel_count(image_shape, kind):
    discrete = getattr(networks, f"{kind}_discrete_encoder")(image_shape, 4)
    decoder = getattr(networks, f"{'mlp' if kind == 'deep' else kind}_decoder")(image_shape, 3)
    assert discrete(torch.rand(2, *image_shape)).shape == (2, 4)
    assert decoder(torch.randn(5, 3)).shape == (5, *image_shape)


def test_original_convolutions_have_the_papers_sizes():
    encoder = networks.conv_discrete_encoder((1, 28, 28), 10)
    convolutions = [m for m in encoder.modules() if isinstance(m, nn.Conv2d)]
    assert [(c.out_channels, c.kernel_size, c.stride) for c in convolutions] == [
        (16, (5, 5), (2, 2)),
        (32, (5, 5), (2, 2)),
    ]
    decoder = networks.conv_decoder((1, 28, 28), 10)
    transposed = [m for m in decoder.modules() if isinstance(m, nn.ConvTranspose2d)]
    assert [(c.in_channels, c.out_channels, c.kernel_size) for c in transposed] == [
        (128, 64, (5, 5)),
        (64, 32, (5, 5)),
        (32, 1, (5, 5)),
    ]
    assert decoder[0].out_features == 7 * 7 * 128


def test_the_convolutional_decoder_can_be_narrower():
    decoder = networks.conv_decoder((1, 28, 28), 10, filters=np.uint8(70))
    transposed = [m for m in decoder.modules() if isinstance(m, nn.ConvTranspose2d)]
    assert [(c.in_channels, c.out_channels) for c in transposed] == [(280, 140), (140, 70), (70, 1)]
    with pytest.raises(ValueError, match="filters must be at least 1, got 0"):
        networks.conv_decoder((1, 28, 28), 10, filters=0)


def test_match_gives_codes_the_priors_mean_and_variance():
    encoder = networks.ComponentEncoder((1, 6, 6), num_components=4, latent_dim=3, hidden_dim=8)
    x = torch.rand(300, 1, 6, 6)
    loc, scale = torch.randn(4, 3), torch.rand(4, 3) + 0.5
    encoder.match(x, loc, scale, noise=0.3)
    got_loc, got_scale = encoder(x)
    torch.testing.assert_close(got_loc.mean(0), loc, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(got_loc.var(0) + got_scale.square().mean(0), scale.square(), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(got_scale, (0.3 * scale).expand_as(got_scale))


def test_match_copes_with_a_coordinate_that_no_image_moves():
    encoder = networks.ComponentEncoder((1, 4, 4), num_components=2, latent_dim=2, hidden_dim=3)
    with torch.no_grad():
        encoder.weight[1].zero_()
    loc = torch.tensor([[0.0, 1.0], [2.0, 3.0]])
    encoder.match(torch.rand(20, 1, 4, 4), loc, torch.ones(2, 2))
    got, _ = encoder(torch.rand(5, 1, 4, 4))
    torch.testing.assert_close(got[:, 1], loc[1].expand(5, 2))


def test_start_weights_sets_weights_and_spares_batch_norm():
    decoder = networks.conv_decoder((1, 28, 28), 10)
    networks.start_weights(decoder, 0.01, torch.Generator().manual_seed(0))
    transposed = [m for m in decoder.modules() if isinstance(m, nn.ConvTranspose2d)]
    for layer in (decoder[0], *transposed[:2]):
        assert layer.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert (transposed[-1].bias == 0).all()
    assert all((m.weight == 1).all() for m in decoder.modules() if isinstance(m, nn.BatchNorm2d))


def test_sizes_may_be_numpys():
    encoder = networks.ComponentEncoder((1, 4, 4), np.int64(3), np.int32(2), np.uint8(200))
    assert [type(size) for size in (encoder.num_components, encoder.latent_dim, encoder.hidden_dim)] == [int] * 3
    assert encoder.hidden.out_features == 600  # which 8 bits don't hold
    assert networks.mlp_decoder((1, 4, 4), np.int64(2), np.int64(5))(torch.zeros(1, 2)).shape == (1, 1, 4, 4)
    for kind in (networks.mlp_discrete_encoder, networks.deep_discrete_encoder):
        assert kind((1, 4, 4), np.int64(3), np.int64(5)).eval()(torch.zeros(1, 16)).shape == (1, 3)


@pytest.mark.parametrize(
    ("sizes", "error", "message"),
    [
        (((4, 4), 3, 5), ValueError, r"image_shape must be \(channels, height, width\)"),
        (((1, 4, 4), 0, 5), ValueError, "num_components must be at least 1, got 0"),
        (((1, 4, 4), 3, 0), ValueError, "hidden_dim must be at least 1, got 0"),
        (((1, 4, 4), 3, 5.0), TypeError, "hidden_dim must be an integer, got 5.0"),
    ],
)
def test_sizes_of_discrete_encoders_out_of_range_are_refused(sizes, error, message):
    for kind in (networks.mlp_discrete_encoder, networks.deep_discrete_encoder):
        with pytest.raises(error, match=message):
            kind(*sizes)
