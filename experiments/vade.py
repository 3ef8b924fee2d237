"""VaDE with the library's parts: the same generative model, one q(z|x), q(k|x) by Bayes' rule, a prior that learns.

``python -m experiments.vade --output results/vade.json`` makes the file that the chapter "A contest" reads. An
autoencoder is trained, a mixture of its codes is the start of the prior, and then everything is trained by the ELBO.
Larger networks than the contest's, and smaller and far shorter trained ones than those of its authors.

Source: Jiang et al. (2017).
"""

from __future__ import annotations

import math
import time
import warnings
from typing import Any

import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from experiments import contest, measures, runner, seeds
from experiments.origin import ForAll
from gmlvm import GMLVM, VAE, WAE, GaussianMixturePrior, datasets
from gmlvm.datasets import ImageData
from gmlvm.enumeration import Truncated
from gmlvm.networks import mlp_decoder
from gmlvm.prior import LEARNABLE, Prior

#: Ten codes and components, as its authors have; the steps of the contest's autoencoder, and half as many afterwards.
SETTINGS: dict[str, Any] = {
    "num_components": contest.SETTINGS["num_components"],
    "latent_dim": 10,
    "hidden_dim": 500,
    "pretraining_steps": contest.SETTINGS["autoencoder_steps"],
    "steps": 6000,
    "mixture_starts": 10,
    "noise": 0.1,
}


class Encoder(nn.Module):
    """q(z|x), the same for every component: a perceptron with two hidden layers.

    Args:
        image_shape: (C, H, W).
        latent_dim: Dimension D of a code.
        hidden_dim: Units of each hidden layer.
    """

    def __init__(self, image_shape: tuple[int, int, int], latent_dim: int, hidden_dim: int) -> None:
        super().__init__()
        pixels = math.prod(image_shape)
        self.hidden = nn.Sequential(
            nn.Flatten(), nn.Linear(pixels, hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, hidden_dim), nn.ReLU()
        )
        self.loc, self.log_scale = nn.Linear(hidden_dim, latent_dim), nn.Linear(hidden_dim, latent_dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Means and standard deviations, (B, 1, D) each."""
        hidden = self.hidden(x)
        return self.loc(hidden).unsqueeze(1), self.log_scale(hidden).exp().unsqueeze(1)

    @torch.no_grad()
    def start_scale(self, scale: Tensor) -> None:
        """Forget the standard deviations: they begin at these values, for every image.

        Args:
            scale: Shape (D,), positive.
        """
        self.log_scale.weight.zero_()
        self.log_scale.bias.copy_(scale.log())


class ByBayes(nn.Module):
    """q(k|x) by Bayes' rule: the prior's responsibilities at the mean of q(z|x).

    It holds encoder and prior, and has no weights of its own: what it is trained for moves them.

    Args:
        encoder: Gives means (B, 1, D).
        prior: The model's own, one that learns: a model copies others.
    """

    def __init__(self, encoder: nn.Module, prior: Prior) -> None:
        super().__init__()
        self.encoder, self.prior = encoder, prior

    def forward(self, x: Tensor) -> Tensor:
        """Log probabilities, (B, K)."""
        loc, _ = self.encoder(x)
        return self.prior.log_responsibilities(loc.squeeze(1))


def new_model(prior: GaussianMixturePrior, encoder: Encoder, decoder: nn.Module, data: ImageData) -> GMLVM:
    """The model: q(k|x) and q(z|x) have the same weights, and q(k|x) those of the prior besides.

    Args:
        prior: The start of the prior, which learns.
        encoder: q(z|x).
        decoder: From codes to logits of images.
        data: Whose images it is for.
    """
    discrete, continuous = ByBayes(encoder, prior), ForAll(encoder, prior.num_components)
    return GMLVM(prior, discrete, continuous, decoder, data.image_shape)


def autoencoder(data: ImageData, seed: int) -> tuple[GMLVM, float]:
    """An autoencoder, trained, and the seconds that it took.

    Args:
        data: The images.
        seed: Seed of everything.
    """
    shape, d, hidden_dim = data.image_shape, SETTINGS["latent_dim"], SETTINGS["hidden_dim"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder, decoder = Encoder(shape, d, hidden_dim), mlp_decoder(shape, d, hidden_dim)
        one = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), 1))
    model = GMLVM(GaussianMixturePrior(torch.zeros(1, d)), one, encoder, decoder, shape)
    history = seeds.train_whole(model, WAE(penalty_weight=0.0), data, SETTINGS["pretraining_steps"], seed)
    return model, history.seconds


def started(pretrained: GMLVM, data: ImageData, seed: int) -> GMLVM:
    """The model before the ELBO is trained: the prior is a mixture of the autoencoder's codes, the likeliest of some.

    Its Gaussians have diagonal covariances, as the prior has. The standard deviations of q(z|x), of which an
    autoencoder leaves next to nothing, begin anew at a share of those of the codes.

    Args:
        pretrained: The autoencoder, whose networks the model takes.
        data: The images.
        seed: Seed of the mixture.
    """
    codes = pretrained.transform(data.train.images)
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore", ConvergenceWarning)
        mixture = GaussianMixture(
            SETTINGS["num_components"], covariance_type="diag", init_params="k-means++",
            n_init=SETTINGS["mixture_starts"], max_iter=200, random_state=seed,
        ).fit(codes)  # fmt: skip
    loc, scale, weights = (
        torch.from_numpy(values).float() for values in (mixture.means_, mixture.covariances_**0.5, mixture.weights_)
    )
    prior = GaussianMixturePrior(loc, scale, weights.log(), learn=LEARNABLE)
    encoder = pretrained.continuous_encoder
    assert isinstance(encoder, Encoder)
    encoder.start_scale(SETTINGS["noise"] * torch.from_numpy(codes.std(0)).float())
    return new_model(prior, encoder, pretrained.decoder, data)


def vade(seed: int) -> dict[str, Any]:
    """Pretraining, a start for the prior, and the ELBO, for one seed.

    Args:
        seed: Seed of everything.

    Returns:
        Seconds of each part; the model's figures at the start; and at the end with its own prior, and with one of full
        covariances fitted to its codes, as the other contestants have it.
    """
    data = datasets.mnist()
    pretrained, pretraining = autoencoder(data, seed)
    begun = time.perf_counter()
    model = started(pretrained, data, seed)
    mixture = time.perf_counter() - begun
    start = measures.measured(model)
    # The code is the same for every component, so one decoded code an image is the sum over all of them.
    history = seeds.train_whole(model, VAE(enumeration=Truncated(0.5)), data, SETTINGS["steps"], seed)
    seconds = {"pretraining": pretraining, "mixture": mixture, "training": history.seconds}
    return {
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
        "start": start,
        **measures.with_fitted_prior(model),
    }


METHODS: dict[str, runner.Method] = {"VaDE": vade}

if __name__ == "__main__":
    runner.main("experiments.vade", SETTINGS, METHODS, range(3))
