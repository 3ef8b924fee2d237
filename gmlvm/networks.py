"""The networks behind the model: discrete encoders, continuous encoder, decoders.

Discrete encoder: images (B, C, H, W) to logits (B, K). Continuous encoder: images to ``loc`` and
``scale``, each (B, K, D). Decoder: codes (N, D) to logits (N, C, H, W). ``mlp_*`` are fast on a CPU,
``conv_*`` are those of Gaujac, Feige and Barber (2018); both take any image size and channel count.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gmlvm.validation import check_image_shape, check_number, check_positive_int

# The original's convolutional sizes.
_ENCODER_CHANNELS = (16, 32)
# Spread of weights that say nothing yet.
_NEAR_ZERO = 0.01


def mlp_discrete_encoder(image_shape: tuple[int, int, int], num_components: int, hidden_dim: int = 512) -> nn.Module:
    """Logits of q_D(k|x) from a multilayer perceptron with one hidden layer.

    Args:
        image_shape: (C, H, W).
        num_components: Number of components K, at least 1.
        hidden_dim: Units of the hidden layer.

    Returns:
        A module from images (B, C, H, W) to logits (B, K).

    Raises:
        ValueError: If a size is out of range.
    """
    num_components = check_positive_int("num_components", num_components)
    hidden_dim = check_positive_int("hidden_dim", hidden_dim)
    pixels = math.prod(check_image_shape(image_shape))
    return nn.Sequential(nn.Flatten(), nn.Linear(pixels, hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, num_components))


def deep_discrete_encoder(image_shape: tuple[int, int, int], num_components: int, hidden_dim: int = 512) -> nn.Module:
    """Logits of q_D(k|x) from a multilayer perceptron with two hidden layers and batch norms.

    The last layer starts near zero, so that all components are alike at first.

    Args:
        image_shape: (C, H, W).
        num_components: Number of components K, at least 1.
        hidden_dim: Units of each hidden layer.

    Returns:
        A module from images (B, C, H, W) to logits (B, K).

    Raises:
        ValueError: If a size is out of range.

    Source: Hu et al. (2017), section 4; chapter "Components that mean digits".
    """
    num_components = check_positive_int("num_components", num_components)
    size = math.prod(check_image_shape(image_shape))
    hidden_dim = check_positive_int("hidden_dim", hidden_dim)
    layers: list[nn.Module] = [nn.Flatten()]
    for _ in range(2):
        layers += [nn.Linear(size, hidden_dim), nn.BatchNorm1d(hidden_dim), nn.ReLU()]
        size = hidden_dim
    last = nn.Linear(size, num_components)
    nn.init.normal_(last.weight, 0, _NEAR_ZERO)
    nn.init.zeros_(last.bias)
    return nn.Sequential(*layers, last)


def conv_discrete_encoder(image_shape: tuple[int, int, int], num_components: int) -> nn.Module:
    """Logits of q_D(k|x) from the original's convolutions: 16 and 32 filters, 5 x 5, stride 2.

    Args:
        image_shape: (C, H, W).
        num_components: Number of components K, at least 1.

    Returns:
        A module from images (B, C, H, W) to logits (B, K).

    Raises:
        ValueError: If a size is out of range.

    Source: Gaujac, Feige and Barber (2018), experiments; chapter "How a VAE collapses".
    """
    num_components = check_positive_int("num_components", num_components)
    channels, height, width = check_image_shape(image_shape)
    layers: list[nn.Module] = []
    for filters in _ENCODER_CHANNELS:
        # The batch norm has a shift of its own, so the convolution needs no bias.
        layers += [nn.Conv2d(channels, filters, 5, stride=2, padding=2, bias=False), nn.BatchNorm2d(filters), nn.ReLU()]
        channels, height, width = filters, (height + 1) // 2, (width + 1) // 2
    network = nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * height * width, num_components))
    return network.to(memory_format=torch.channels_last)  # which convolutions are faster in, here and on a GPU


class ComponentEncoder(nn.Module):
    r"""q_C(z|k,x) for every k: K separate perceptrons with one small hidden layer, as one batched product.

    .. math::
        h_k = \operatorname{relu}(W_k x + b_k), \quad
        \mathrm{loc}_k = A_k h_k + a_k, \quad
        \log \mathrm{scale}_k = C_k h_k + c_k

    Small hidden layers are meant to leave the class to k: an encoder that can describe every image by z alone makes k
    redundant. The chapter "When the discrete latent survives" finds no effect of one sign.

    Args:
        image_shape: (C, H, W).
        num_components: Number of components K, at least 1.
        latent_dim: Dimension D of a code, at least 1.
        hidden_dim: Units of each component's hidden layer; 16 in the original.

    Raises:
        ValueError: If a size is out of range.

    Source: Gaujac, Feige and Barber (2018), experiments; chapter "Training the GM-WAE".
    """

    def __init__(
        self, image_shape: tuple[int, int, int], num_components: int, latent_dim: int, hidden_dim: int = 16
    ) -> None:
        super().__init__()
        self.num_components = k = check_positive_int("num_components", num_components)
        self.latent_dim = d = check_positive_int("latent_dim", latent_dim)
        self.hidden_dim = h = check_positive_int("hidden_dim", hidden_dim)
        pixels = math.prod(check_image_shape(image_shape))
        # All K first layers read the same x, so side by side they are one linear layer.
        self.hidden = nn.Linear(pixels, k * h)
        self.weight = nn.Parameter(torch.empty(k, h, 2 * d))
        self.bias = nn.Parameter(torch.empty(k, 2 * d))
        bound = 1 / math.sqrt(h)  # PyTorch's own start of a linear layer
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``loc`` and ``scale``, each (B, K, D), for images of shape (B, C, H, W)."""
        hidden = F.relu(self.hidden(x.flatten(1))).unflatten(1, (self.num_components, self.hidden_dim))  # (B, K, h)
        out = torch.baddbmm(self.bias.unsqueeze(1), hidden.transpose(0, 1), self.weight).transpose(0, 1)  # (B, K, 2D)
        loc, log_scale = out.chunk(2, dim=-1)
        return loc, log_scale.exp()

    @torch.no_grad()
    def match(self, x: Tensor, loc: Tensor, scale: Tensor, noise: float = 0.1) -> None:
        r"""Start so that the codes of component k have the mean and variance of prior component k.

        Rescales the last layer, in closed form: over the images given, coordinate d of :math:`\mathrm{loc}_k` gets
        mean ``loc[k, d]`` and variance :math:`(1 - \mathrm{noise}^2)\, s_{kd}^2`, and the posterior's own
        standard deviation becomes :math:`\mathrm{noise} \cdot s_{kd}` for every image. The two add up to the prior's
        variance. The original reached such a start by 1000 to 1500 steps of pretraining.

        Args:
            x: Images, (B, C, H, W), at least 2.
            loc: Means to match, (K, D).
            scale: Standard deviations to match, (K, D).
            noise: Share of the standard deviation left to the posterior, in (0, 1].

        Raises:
            ValueError: If ``noise`` is out of range or there are fewer than two images.

        Source: the shared start of the original's pretraining; chapter "Training the GM-WAE".
        """
        check_number("noise", noise, maximum=1.0, exclusive=True)
        if len(x) < 2:
            raise ValueError(f"a matched start needs at least 2 images, got {len(x)}")
        weight, log_weight = self.weight.chunk(2, dim=-1)  # views, (K, h, D)
        bias, log_bias = self.bias.chunk(2, dim=-1)  # views, (K, D)
        current, _ = self(x)
        mean, spread = current.mean(0), current.std(0)  # (K, D)
        # A coordinate that no image moves cannot be stretched: it only gets its mean.
        moved = spread > 1e-6
        gain = torch.where(moved, math.sqrt(1 - noise**2) * scale / spread.clamp_min(1e-6), torch.ones_like(spread))
        weight.mul_(gain.unsqueeze(1))
        bias.copy_((bias - mean) * gain + loc)
        log_weight.zero_()
        log_bias.copy_((noise * scale).log())


def mlp_decoder(image_shape: tuple[int, int, int], latent_dim: int, hidden_dim: int = 512) -> nn.Module:
    """Decoder logits from a multilayer perceptron with two hidden layers.

    Args:
        image_shape: (C, H, W).
        latent_dim: Dimension D of a code, at least 1.
        hidden_dim: Units of each hidden layer.

    Returns:
        A module from codes (N, D) to logits (N, C, H, W).

    Raises:
        ValueError: If a size is out of range.
    """
    latent_dim = check_positive_int("latent_dim", latent_dim)
    hidden_dim = check_positive_int("hidden_dim", hidden_dim)
    shape = check_image_shape(image_shape)
    return nn.Sequential(
        nn.Linear(latent_dim, hidden_dim),
        nn.ReLU(),
        nn.Linear(hidden_dim, hidden_dim),
        nn.ReLU(),
        nn.Linear(hidden_dim, math.prod(shape)),
        nn.Unflatten(1, shape),
    )


def conv_decoder(image_shape: tuple[int, int, int], latent_dim: int, filters: int = 32) -> nn.Module:
    """Decoder logits from the original's transposed convolutions: 128 to 64 to 32 filters, 5 x 5.

    A linear layer gives maps at a quarter of the image's size, two layers of stride 2 bring them to full
    size, and a last one of stride 1 gives the channels. Sizes that are no multiple of four are cut at the
    lower and right edge.

    Args:
        image_shape: (C, H, W).
        latent_dim: Dimension D of a code, at least 1.
        filters: Maps at full size; there are twice as many at half the size, and four times at a quarter.

    Returns:
        A module from codes (N, D) to logits (N, C, H, W).

    Raises:
        ValueError: If a size is out of range.

    Source: Gaujac, Feige and Barber (2018), experiments; chapter "How a VAE collapses".
    """
    latent_dim = check_positive_int("latent_dim", latent_dim)
    filters = check_positive_int("filters", filters)
    channels, height, width = check_image_shape(image_shape)
    first, *rest = 4 * filters, 2 * filters, filters
    small = (first, -(-height // 4), -(-width // 4))
    layers: list[nn.Module] = [
        nn.Linear(latent_dim, math.prod(small), bias=False),
        nn.BatchNorm1d(math.prod(small)),
        nn.ReLU(),
        nn.Unflatten(1, small),
    ]
    for count in rest:
        layers += [
            nn.ConvTranspose2d(first, count, 5, stride=2, padding=2, output_padding=1, bias=False),
            nn.BatchNorm2d(count),
            nn.ReLU(),
        ]
        first = count
    network = nn.Sequential(*layers, nn.ConvTranspose2d(first, channels, 5, padding=2), _Crop(height, width))
    return network.to(memory_format=torch.channels_last)


class _Crop(nn.Module):
    """Keep the upper left ``height`` x ``width`` pixels."""

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.height, self.width = height, width

    def forward(self, x: Tensor) -> Tensor:
        return x[..., : self.height, : self.width]


@torch.no_grad()
def start_weights(module: nn.Module, std: float, generator: torch.Generator | None = None) -> None:
    """Start every weight at N(0, std squared) and every bias at zero, as the original did with std 0.01.

    Together with the matched start of q_C this is the regime in which the original's GM-VAE collapses. Batch norm
    keeps its own start.

    Args:
        module: The network, changed in place.
        std: Standard deviation, positive.
        generator: Source of randomness; torch's global one if left out.

    Raises:
        ValueError: If ``std`` is not positive.

    Source: Gaujac, Feige and Barber (2018), the authors' experiment code; chapter "How a VAE collapses".
    """
    check_number("std", std, exclusive=True)
    norms = {id(p) for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) for p in m.parameters()}
    for name, parameter in module.named_parameters():
        if id(parameter) in norms:
            continue
        if name.rpartition(".")[2] == "bias":
            parameter.zero_()
        else:
            parameter.normal_(0, std, generator=generator)
