"""The GM-WAE as a capable user of PyTorch would write it, to measure the library against: dense, clear, nothing tuned.

It has the library's networks and estimators and none of its tricks: K separate perceptrons for q_C, all K codes of an
image decoded, every pair of codes in the penalty, the prior's own pairs drawn at every step, Adam as it comes.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn

from gmlvm import GMLVM, Prior
from gmlvm.networks import ComponentEncoder


class ComponentPerceptron(nn.Module):
    """q_C(z|k,x) for one k.

    Args:
        pixels: Pixels of an image.
        hidden_dim: Hidden units.
        latent_dim: Dimension D of a code.
    """

    def __init__(self, pixels: int, hidden_dim: int, latent_dim: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(pixels, hidden_dim)
        self.out = nn.Linear(hidden_dim, 2 * latent_dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``loc`` and ``scale``, each (B, D), for images (B, C, H, W)."""
        loc, log_scale = self.out(self.hidden(x.flatten(1)).relu()).chunk(2, dim=1)
        return loc, log_scale.exp()


class SeparatePerceptrons(nn.Module):
    """q_C(z|k,x) for every k, one perceptron after the other.

    Args:
        model: A model of the library, whose weights are copied.
    """

    def __init__(self, model: GMLVM) -> None:
        super().__init__()
        encoder, latent_dim = model.continuous_encoder, model.latent_dim
        if not isinstance(encoder, ComponentEncoder):
            raise TypeError(f"the model must have the library's continuous encoder, got {type(encoder).__name__}")
        self.perceptrons = nn.ModuleList()
        for k in range(encoder.num_components):
            perceptron = ComponentPerceptron(encoder.hidden.in_features, encoder.hidden_dim, latent_dim)
            rows = slice(k * encoder.hidden_dim, (k + 1) * encoder.hidden_dim)
            with torch.no_grad():
                perceptron.hidden.weight.copy_(encoder.hidden.weight[rows])
                perceptron.hidden.bias.copy_(encoder.hidden.bias[rows])
                perceptron.out.weight.copy_(encoder.weight[k].t())
                perceptron.out.bias.copy_(encoder.bias[k])
            self.perceptrons.append(perceptron)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``loc`` and ``scale``, each (B, K, D), for images (B, C, H, W)."""
        loc, scale = zip(*(perceptron(x) for perceptron in self.perceptrons), strict=True)
        return torch.stack(loc, dim=1), torch.stack(scale, dim=1)


class PlainWAE(nn.Module):
    """Model and loss of a GM-WAE with the penalty on pairs (k, z).

    Args:
        model: A model of the library; its weights are copied.
        penalty_weight: Weight of the squared MMD.
        bandwidths: Squared bandwidths of the kernels, in units of the prior's mean squared distance within a component.
        prior_samples: Samples of each prior component in a step, M.
    """

    prior_loc: Tensor
    prior_scale: Tensor

    def __init__(self, model: GMLVM, penalty_weight: float, bandwidths: Sequence[float], prior_samples: int) -> None:
        super().__init__()
        self.discrete_encoder = deepcopy(model.discrete_encoder).to(memory_format=torch.contiguous_format)
        self.continuous_encoder = SeparatePerceptrons(model)
        self.decoder = deepcopy(model.decoder).to(memory_format=torch.contiguous_format)
        self.penalty_weight, self.prior_samples = penalty_weight, prior_samples
        self.register_buffer("prior_loc", model.prior.loc.clone())
        self.register_buffer("prior_scale", model.prior.scale.clone())
        self.image_shape = model.image_shape
        unit = 2 * model.latent_dim * model.prior.scale.square().mean().item()
        self.constants = [unit * bandwidth for bandwidth in bandwidths]

    def forward(self, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return the loss, the error, and the data-data, data-prior and prior-prior parts of the squared MMD.

        Args:
            x: Images in [0, 1], (B, C, H, W).
            generator: Source of randomness.
        """
        batch, (num_components, latent_dim) = len(x), self.prior_loc.shape
        probs = self.discrete_encoder(x).softmax(1)  # (B, K)
        loc, scale = self.continuous_encoder(x)  # (B, K, D)
        z = loc + scale * torch.randn(loc.shape, generator=generator)

        images = self.decoder(z.reshape(-1, latent_dim)).sigmoid()
        images = images.view(batch, num_components, *x.shape[1:])
        error = (images - x[:, None]).square().sum((2, 3, 4))  # (B, K)
        reconstruction = (probs * error).sum(1).mean()

        noise = torch.randn(num_components, self.prior_samples, latent_dim, generator=generator)
        prior_z = self.prior_loc[:, None] + self.prior_scale[:, None] * noise  # (K, M, D)
        z, weights = z.transpose(0, 1), probs.t()  # (K, B, D) and (K, B)
        pairs = 1 - torch.eye(batch)
        data = torch.einsum("ki,kij,kj->", weights, self.kernel(z, z) * pairs, weights) / (batch * (batch - 1))
        cross = torch.einsum("ki,kim->", weights, self.kernel(z, prior_z)) / (
            batch * self.prior_samples * num_components
        )
        pairs = 1 - torch.eye(self.prior_samples)
        prior = (self.kernel(prior_z, prior_z) * pairs).sum() / (
            num_components**2 * self.prior_samples * (self.prior_samples - 1)
        )
        loss = reconstruction + self.penalty_weight * (data - 2 * cross + prior)
        return loss, reconstruction, data, cross, prior

    def as_model(self, prior: Prior) -> GMLVM:
        """The library's view of these networks, to evaluate them."""
        return GMLVM(prior, self.discrete_encoder, self.continuous_encoder, self.decoder, self.image_shape)

    def kernel(self, a: Tensor, b: Tensor) -> Tensor:
        """Inverse multiquadratic kernel between codes (K, N, D) and (K, M, D): (K, N, M)."""
        # Not torch.cdist: its root has no finite gradient where a code meets itself.
        squared = a.square().sum(2)[:, :, None] + b.square().sum(2)[:, None] - 2 * a @ b.transpose(1, 2)
        return torch.stack([c / (c + squared) for c in self.constants]).sum(0)
