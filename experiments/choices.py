"""One choice at a time beside what is recommended: weights, kernels, sizes, batches, lengths, precision, divergences.

q_D is given, that of the model that the library ships: what is left to choose is how images are encoded within a
component, and how the prior is filled.

``python -m experiments.choices --output results/choices.json`` makes the file that the chapter "Choices" reads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from experiments import measures, runner, seeds
from gmlvm import GMLVM, MMD, WAE, Divergence, GaussianMixturePrior, History, datasets, networks, pretrained
from gmlvm.transport import Sinkhorn, SlicedWasserstein

#: What all runs share; weights are in units of the data's total variance, bandwidths in those of :class:`gmlvm.MMD`.
SETTINGS: dict[str, Any] = {
    "num_components": 10,
    "relative_weights": [0.2, 0.6, 2.0, 6.0, 20.0],
    "narrow": [0.1, 0.3, 0.8, 2.4, 8.0, 24.0],
    "wide": [8.0, 24.0, 80.0],
    "one": [8.0],
    "latent_dims": [2, 4, 20, 40],
    "edges": [2.0, 8.0],
    "hidden_dims": [4, 64, 256],
    "batch_sizes": [50, 400],
    "steps": [300, 3000],
    "consistency_weight": 10.0,
    # Squared distances, not values of a kernel: a weight for each, chosen by no one run.
    "sliced_weights": [0.02, 0.2],
    "sinkhorn_weight": 0.02,
}


@dataclass(frozen=True)
class Choice:
    """One training; all that is left out is what is recommended.

    Args:
        relative_weight: Of the penalty, in units of the total variance.
        penalty: Makes the divergence.
        consistency_weight: See :class:`gmlvm.WAE`.
        latent_dim: Dimension D of a code.
        edge: Distance between the prior's means.
        hidden_dim: Units of each component's continuous encoder.
        decoder_dim: Units of each of the decoder's layers.
        batch_size: Images in a step.
        steps: How many.
        precision: Of the products; see :func:`gmlvm.fit`.
    """

    relative_weight: float = 2.0
    penalty: Callable[[], Divergence] = MMD
    consistency_weight: float = 0.0
    latent_dim: int = 9
    edge: float = 4.0
    hidden_dim: int = 16
    decoder_dim: int = 512
    batch_size: int = 128
    steps: int = 1000
    precision: str = "32-true"

    def prior(self) -> GaussianMixturePrior:
        """A simplex where there is room for one, or the plane; means in random directions elsewhere."""
        k, d = SETTINGS["num_components"], self.latent_dim
        room = d >= k - 1 or d == 2
        return (GaussianMixturePrior.simplex if room else GaussianMixturePrior.scattered)(k, d, self.edge)


def _kernels(name: str) -> Callable[[], Divergence]:
    return partial(MMD, bandwidths=tuple(SETTINGS[name]))


#: By name; the first is what is recommended.
CHOICES: dict[str, Choice] = {
    "as recommended": Choice(),
    **{f"penalty weight {w:g}": Choice(w) for w in SETTINGS["relative_weights"] if w != Choice.relative_weight},
    **{f"narrow kernels, weight {w:g}": Choice(w, _kernels("narrow")) for w in SETTINGS["relative_weights"]},
    "wide kernels": Choice(penalty=_kernels("wide")),
    "one kernel": Choice(penalty=_kernels("one")),
    "penalty on z": Choice(penalty=partial(MMD, "codes")),
    "half-closed": Choice(penalty=partial(MMD, estimator="half-closed")),
    "closed": Choice(penalty=partial(MMD, estimator="closed")),
    **{f"sliced Wasserstein, weight {w:g}": Choice(w, SlicedWasserstein) for w in SETTINGS["sliced_weights"]},
    f"Sinkhorn, weight {SETTINGS['sinkhorn_weight']:g}": Choice(SETTINGS["sinkhorn_weight"], Sinkhorn),
    "consistency": Choice(consistency_weight=SETTINGS["consistency_weight"]),
    **{f"D = {d}": Choice(latent_dim=d) for d in SETTINGS["latent_dims"]},
    **{f"means {edge:g} apart": Choice(edge=edge) for edge in SETTINGS["edges"]},
    **{f"q_C of {h} units": Choice(hidden_dim=h) for h in SETTINGS["hidden_dims"]},
    "decoder of 128 units": Choice(decoder_dim=128),
    **{f"batches of {b}": Choice(batch_size=b) for b in SETTINGS["batch_sizes"]},
    **{f"{n} steps": Choice(steps=n) for n in SETTINGS["steps"]},
    "bfloat16": Choice(precision="bf16-mixed"),
}


def new_model(choice: Choice, seed: int) -> GMLVM:
    """A model before its training; its q_D is that of the model that the library ships, and stays as it is.

    Args:
        choice: What it is made of.
        seed: Seed of the weights.
    """
    shape, k, d = datasets.mnist().image_shape, SETTINGS["num_components"], choice.latent_dim
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        continuous = networks.ComponentEncoder(shape, k, d, choice.hidden_dim)
        decoder = networks.mlp_decoder(shape, d, choice.decoder_dim)
    discrete = pretrained("gm-wae-digits").discrete_encoder.requires_grad_(False)
    return GMLVM(choice.prior(), discrete, continuous, decoder, shape)


def train(choice: Choice, model: GMLVM, seed: int) -> History:
    """Train a model on MNIST.

    Args:
        choice: How.
        model: The model, trained in place but for its q_D.
        seed: Seed of batches and samples.
    """
    data = datasets.mnist()
    weight = choice.relative_weight * data.total_variance
    objective = WAE(weight, choice.penalty(), consistency_weight=choice.consistency_weight)
    return seeds.train_whole(
        model, objective, data, choice.steps, seed, batch_size=choice.batch_size, precision=choice.precision
    )


def run(choice: Choice) -> runner.Method:
    """One training, as a function of the seed.

    Args:
        choice: What is trained, and how.
    """

    def method(seed: int) -> dict[str, Any]:
        model = new_model(choice, seed)
        history = train(choice, model, seed)
        mixing = measures.mixing(datasets.mnist(), model, seed)
        return {"seconds": round(history.seconds, 1), "mixing": mixing, **measures.measured(model)}

    return method


METHODS: dict[str, runner.Method] = {name: run(choice) for name, choice in CHOICES.items()}

if __name__ == "__main__":
    runner.main("experiments.choices", SETTINGS, METHODS, range(3))
