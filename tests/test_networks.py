"""Networks: the batched product against separate perceptrons, any image size, and both starts."""

import pytest
import torch
from torch import nn

from gmlvm import networks


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


@pytest.mark.parametrize("image_shape", [(1, 28, 28), (3, 32, 32), (1, 5, 9), (3, 1, 1)])
@pytest.mark.parametrize("kind", ["mlp", "conv"])
def test_networks_take_any_image_size_and_channel_count(image_shape, kind):
    discrete = getattr(networks, f"{kind}_discrete_encoder")(image_shape, 4)
    decoder = getattr(networks, f"{kind}_decoder")(image_shape, 3)
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
