"""Ways out of the collapse of the discrete latent, one knob each, on the same networks, start and steps.

q_C starts matched to the prior, as the original's does: the start from which the VAE collapses most.

``python -m experiments.ways_out --output results/ways_out.json`` makes the file that the chapter "When the discrete
latent survives" reads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from experiments import runner, seeds
from experiments.elbo import Encouraged, FreeBits, Relaxed, Scheduled, TowardsWAE
from gmlvm import GMLVM, VAE, WAE, GaussianMixturePrior, Objective, datasets, evaluate, pretrained
from gmlvm.enumeration import Resampled

#: What all runs share, and each knob's setting: half of the training for what rises, half of log 10 for what is free.
SETTINGS: dict[str, Any] = {
    "num_components": 10,
    "latent_dim": 9,
    "steps": 2000,
    "penalty_weight": 100.0,
    "rising_steps": 1000,
    "free_nats": 1.15,
    "reward": 10.0,
    "temperature": 0.5,
    "beta": 10.0,
}


@dataclass(frozen=True)
class Way:
    """One run.

    Args:
        objective: Makes what is minimised.
        prepare: What is done to the model before its training.
        prior: Makes the prior.
    """

    objective: Callable[[], Objective]
    prepare: Callable[[GMLVM], None] = lambda model: None
    prior: Callable[[], GaussianMixturePrior] = lambda: _prior()


def _prior(**options: Any) -> GaussianMixturePrior:
    return GaussianMixturePrior.simplex(SETTINGS["num_components"], SETTINGS["latent_dim"], **options)


def _normalise_logits(model: GMLVM) -> None:
    """Batch norm on the logits of q_D, so that over a batch each has the same mean and spread."""
    norm = nn.BatchNorm1d(SETTINGS["num_components"], affine=False)
    model.discrete_encoder = nn.Sequential(model.discrete_encoder, norm)


def _start(model: GMLVM) -> None:
    """The q_D of the model that the library ships, which the rest of the model has never met."""
    model.discrete_encoder = pretrained("gm-vae-digits").discrete_encoder.requires_grad_(True)


def _elbo() -> Objective:
    return VAE(enumeration=Resampled())


#: By name; the first is the VAE with nothing done, the last is no VAE.
WAYS: dict[str, Way] = {
    "nothing": Way(_elbo),
    "beta 10": Way(lambda: VAE(SETTINGS["beta"], enumeration=Resampled())),
    "KL of k rises": Way(lambda: Scheduled(SETTINGS["rising_steps"], of_k=True)),
    "KL of z rises": Way(lambda: Scheduled(SETTINGS["rising_steps"], of_z=True)),
    "both rise": Way(lambda: Scheduled(SETTINGS["rising_steps"], of_k=True, of_z=True)),
    "free nats for k": Way(lambda: FreeBits(SETTINGS["free_nats"])),
    "reward for information": Way(lambda: Encouraged(SETTINGS["reward"], information=True)),
    "reward for even use": Way(lambda: Encouraged(SETTINGS["reward"], information=False)),
    "Gumbel-softmax": Way(lambda: Relaxed(SETTINGS["temperature"])),
    "normalised logits": Way(_elbo, _normalise_logits),
    "learned prior": Way(_elbo, prior=lambda: _prior(learn=("loc", "scale", "weights"))),
    "halfway to the WAE": Way(lambda: TowardsWAE(0.5, SETTINGS["penalty_weight"])),
    "MMD for the KLs": Way(lambda: TowardsWAE(1.0, SETTINGS["penalty_weight"])),
    "start of q_D": Way(_elbo, _start),
    "GM-WAE": Way(lambda: WAE(SETTINGS["penalty_weight"])),
}


def run(way: Way) -> runner.Method:
    """One run, as a function of the seed.

    Args:
        way: What is done.
    """

    def method(seed: int) -> dict[str, Any]:
        data, prior = datasets.mnist(), way.prior()
        model = GMLVM.for_images(data.image_shape, prior.num_components, prior.latent_dim, seed=seed, prior=prior)
        way.prepare(model)
        history = seeds.train_whole(model, way.objective(), data, SETTINGS["steps"], seed, matched_start=True)
        return {"seconds": round(history.seconds, 1), "report": asdict(evaluate(model, data))}

    return method


METHODS: dict[str, runner.Method] = {name: run(way) for name, way in WAYS.items()}

if __name__ == "__main__":
    runner.main("experiments.ways_out", SETTINGS, METHODS, range(5))
