"""The GM-WAE as a capable user of PyTorch would write it, to measure the library against: dense, clear, nothing tuned.

It has the library's networks and estimators and none of its tricks: K separate perceptrons for q_C, all K codes of an
image decoded, every pair of codes in the penalty, the prior's own pairs drawn at every step, Adam as it comes.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn

from gmlvm import GMLVM


class ComponentPerceptron(nn.Module):
    """q_C(z|k,x) for one k.

    Args:
        pixels: Pixels of an image.
        hidden_dim: Hidden units.
        latent_dim: Dimension D of a code.
    """

    def __init__(self, pixels: int, hidden_dim: int, latent_dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(pixels, hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, 2 * latent_dim)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``loc`` and ``scale``, each (B, D), for images (B, C, H, W)."""
        loc, log_scale = self.layers(x).chunk(2, dim=1)
        return loc, log_scale.exp()


class PlainWAE(nn.Module):
    """Model and loss of a GM-WAE with the penalty on pairs (k, z).

    Args:
        model: A model of the library; its weights are copied.
        penalty_weight: Weight of the squared MMD.
        factors: Kernel constants in units of the prior's mean squared distance within a component.
        prior_samples: Samples of each prior component in a step, M.
    """

    def __init__(self, model: GMLVM, penalty_weight: float, factors: Sequence[float], prior_samples: int) -> None:
        super().__init__()
        self.discrete_encoder = deepcopy(model.discrete_encoder)
        self.continuous_encoders = nn.ModuleList(_perceptrons(model))
        self.decoder = deepcopy(model.decoder)
        self.penalty_weight, self.prior_samples = penalty_weight, prior_samples
        self.register_buffer("prior_loc", model.prior.loc.clone())
        self.register_buffer("prior_scale", model.prior.scale.clone())
        unit = 2 * model.latent_dim * model.prior.scale.square().mean().item()
        self.constants = [unit * factor for factor in factors]

    def forward(self, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return the loss, the error, and the data-data, data-prior and prior-prior parts of the squared MMD.

        Args:
            x: Images in [0, 1], (B, C, H, W).
            generator: Source of randomness.
        """
        batch, num_components, latent_dim = len(x), len(self.continuous_encoders), self.prior_loc.shape[1]
        probs = self.discrete_encoder(x).softmax(1)  # (B, K)
        posteriors = [encoder(x) for encoder in self.continuous_encoders]
        loc = torch.stack([loc for loc, _ in posteriors], dim=1)  # (B, K, D)
        scale = torch.stack([scale for _, scale in posteriors], dim=1)
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

    def kernel(self, a: Tensor, b: Tensor) -> Tensor:
        """Inverse multiquadratic kernel between codes (K, N, D) and (K, M, D): (K, N, M)."""
        # Not torch.cdist: its root has no finite gradient where a code meets itself.
        squared = a.square().sum(2)[:, :, None] + b.square().sum(2)[:, None] - 2 * a @ b.transpose(1, 2)
        return torch.stack([c / (c + squared) for c in self.constants]).sum(0)


def _perceptrons(model: GMLVM) -> list[ComponentPerceptron]:
    """The K perceptrons of the model's continuous encoder, one by one, with the same weights."""
    encoder, size = model.continuous_encoder, model.continuous_encoder.hidden_dim
    perceptrons = []
    for k in range(model.num_components):
        perceptron = ComponentPerceptron(encoder.hidden.in_features, size, model.latent_dim)
        rows = slice(k * size, (k + 1) * size)
        _, hidden, _, out = perceptron.layers
        with torch.no_grad():
            hidden.weight.copy_(encoder.hidden.weight[rows])
            hidden.bias.copy_(encoder.hidden.bias[rows])
            out.weight.copy_(encoder.weight[k].t())
            out.bias.copy_(encoder.bias[k])
        perceptrons.append(perceptron)
    return perceptrons
