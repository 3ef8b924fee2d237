"""The paper at its own length: its objectives in its authors' settings, and with one thing changed at a time.

``python -m experiments.paper`` makes the files that the page on the paper's claims reads; the Makefile has the
commands. They take days on two cores, so each training keeps a checkpoint under ``checkpoints/``, and a command that
was stopped goes on in the middle of it. The settings are those of the authors' public history, by era:
github.com/benoitgaujac/SWAE.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experiments import runner
from experiments.elbo import Apart, Parts
from gmlvm import GMLVM, MMD, VAE, WAE, GaussianMixturePrior, Objective, Run, datasets, evaluate, fit
from gmlvm.batches import Batch
from gmlvm.enumeration import Dense, Enumeration, Resampled, Selection
from gmlvm.kl import gaussian_kl
from gmlvm.objectives import WAETerms
from gmlvm_book.records import write_whole

#: Lengths: what a change by itself is looked at for, a third of the paper's, those after which its authors start a VAE
#: from a WAE, and the paper's.
LENGTHS = {"short": 3000, "third": 16_233, "early": 18_000, "late": 48_000, "whole": 48_700}
#: What is no one's choice below: sizes, the lengths, and how long a VAE is trained after a WAE.
SETTINGS: dict[str, Any] = {"num_components": 10, "lengths": LENGTHS, "vae_steps": 6600}
#: Steps after which a model is measured.
LOOKS = (0, 30, 100, 300, 1000, 2000, 3000, 5000, 8000, 12_000, 16_233, 18_000, 24_000, 32_000, 40_000, 48_000, 48_700)
_CHECKPOINTS = Path(__file__).parents[1] / "checkpoints"


# The authors' settings


def paper_prior() -> GaussianMixturePrior:
    """Ten Gaussians of variance 1/8 around unit vectors, as in the paper."""
    return GaussianMixturePrior(torch.eye(SETTINGS["num_components"]), math.sqrt(1 / 8))


def simplex_prior(variance: float) -> GaussianMixturePrior:
    """Ten Gaussians around a regular simplex whose edge is that of unit vectors, as in the later revisions.

    Args:
        variance: Of every Gaussian in every direction.
    """
    k = SETTINGS["num_components"]
    return GaussianMixturePrior.simplex(k, k - 1, edge=math.sqrt(2), scale=math.sqrt(variance))


def rate(steps: int) -> Callable[[float], float]:
    """The authors' learning rate: halved at epoch 30 of 104, by another five at epoch 50 and by ten at epoch 100.

    Args:
        steps: Length of the training, if not the paper's; the rate falls at the same steps.

    Returns:
        The factor as a function of the share of these steps that is done.
    """

    def factor(progress: float) -> float:
        epoch = 104 * progress * steps / LENGTHS["whole"]
        return 1.0 if epoch < 30 else 0.5 if epoch < 50 else 0.1 if epoch < 100 else 0.01

    return factor


# Seven scales of twice the dimension, in the library's unit: twice the dimension times the variance 1/8.
PAPER_KERNELS = tuple(8 * scale for scale in (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0))
#: Fifteen, from .01 to 500.
LATER_SCALES = tuple(step * 10.0**power for power in range(-2, 3) for step in (1, 2, 5))


def wae(penalty_weight: float = 200.0, kernels: tuple[float, ...] = PAPER_KERNELS, **options: Any) -> WAE:
    """The paper's objective, with its penalty on z alone and its weights, of which the optimiser sees the ratio.

    Args:
        penalty_weight: In units of the squared error.
        kernels: Bandwidths.
        **options: More of :class:`gmlvm.WAE`'s.
    """
    weight = 0.05
    return WAE(weight * penalty_weight, MMD("codes", bandwidths=kernels), reconstruction_weight=weight, **options)


@dataclass(frozen=True)
class Setting:
    """One training; all that is left out is the paper's.

    Args:
        objective: What is minimised.
        prior: Makes the prior.
        learning_rate: Adam's.
        beta1: Adam's.
        batch_size: Images in a step.
        weight_std: Start of all weights; None is PyTorch's own.
        matched_start: Whether q_C starts with the prior's mean and variance for each component, as the authors'
            pretraining has it.
        precision: Of the arithmetic. Weights, divergences and the KL terms are of 32 bits in either; products in 16
            take half the time where the processor has them, and "32 bits" of :data:`TRAININGS` is their control.
    """

    objective: Objective
    prior: Callable[[], GaussianMixturePrior] = field(default=paper_prior, repr=False)
    learning_rate: float = 8e-4
    beta1: float = 0.5
    batch_size: int = 128
    weight_std: float | None = 0.01
    matched_start: bool = True
    precision: str = "bf16-mixed"


# Changes that the library has no part for


@dataclass(frozen=True)
class AllDecoded(Enumeration):
    """The weights of another rule, and every term decoded.

    What the decoder's batch norms see is that of the exact sum, and nothing else is.

    Args:
        rule: Gives the weights.
    """

    rule: Enumeration

    def select(
        self, log_probs: Tensor, generator: torch.Generator | None = None, *, fixed_shape: bool = False
    ) -> Selection:
        """All terms, most with weight zero."""
        some, every = self.rule.select(log_probs, generator), Dense().select(log_probs)
        weight = torch.zeros_like(log_probs).index_put((some.image, some.component), some.weight)
        return every._replace(weight=weight[every.image, every.component])


class SeveralCodes(WAE):
    """The mean of all terms over several codes for each image and component, as the authors have five."""

    def __init__(self, objective: WAE, samples: int) -> None:
        super().__init__(
            objective.penalty_weight, objective.penalty, reconstruction_weight=objective.reconstruction_weight
        )
        self.samples = samples

    def terms(self, model: GMLVM, batch: Batch, generator: torch.Generator | None) -> WAETerms:
        """Compute the terms once for each code; see :class:`gmlvm.Objective`."""
        each = [super(SeveralCodes, self).terms(model, batch, generator) for _ in range(self.samples)]
        return WAETerms(*(torch.stack(values).mean() for values in zip(*each, strict=True)))

    def extra_repr(self) -> str:
        """The settings for ``repr``."""
        return f"{super().extra_repr()}, samples={self.samples}"


class StandardNormalVAE(Apart):
    """The VAE with the KL of z from N(0, I) whatever k, as the authors' code of 2018 has it."""

    def parts(self, model: GMLVM, x: Tensor, generator: torch.Generator | None) -> Parts:
        """The ELBO's, with the other KL."""
        parts = super().parts(model, x, generator)
        zero = x.new_zeros(())
        return parts._replace(kl_z=gaussian_kl(parts.posterior.loc, parts.posterior.scale, zero, zero + 1))


PAPER = Setting(wae())
#: Trainings by name: the paper's, its VAE with the weight of the KL terms that its code had and that of the bound, the
#: former as that code has its KL of z, the authors' later settings, and the paper's with one thing changed.
TRAININGS: dict[str, Setting] = {
    "WAE": PAPER,
    "VAE beta 10": replace(PAPER, objective=VAE(10.0, enumeration=Resampled())),
    "VAE beta 1": replace(PAPER, objective=VAE(enumeration=Resampled())),
    # Run on a processor that has no products in 16 bits.
    "VAE beta 10, standard normal": replace(PAPER, objective=StandardNormalVAE(Resampled(), 10.0), precision="32-true"),
    "2018-09": replace(
        PAPER,
        objective=wae(450.0, tuple(16 * scale for scale in LATER_SCALES)),
        prior=partial(simplex_prior, 1 / 16),
        learning_rate=5e-4,
        batch_size=50,
    ),
    **{
        f"2021, weight {weight:g}": replace(
            PAPER,
            objective=wae(weight, tuple(18 * scale for scale in LATER_SCALES)),
            prior=partial(simplex_prior, 1 / 18),
            learning_rate=1e-4,
        )
        for weight in (750.0, 1750.0)
    },
    **{f"weight {weight:g}": replace(PAPER, objective=wae(weight)) for weight in (450.0, 750.0, 1750.0)},
    "narrow kernels": replace(PAPER, objective=wae(kernels=(0.1, 0.3, 0.8, 2.4, 8.0, 24.0))),
    "pairs": replace(PAPER, objective=WAE(10.0, MMD(bandwidths=PAPER_KERNELS), reconstruction_weight=0.05)),
    "exact sum": replace(PAPER, objective=wae(enumeration=Dense())),
    "drawn sum, all decoded": replace(PAPER, objective=wae(enumeration=AllDecoded(Resampled()))),
    "five codes": replace(PAPER, objective=SeveralCodes(wae(), 5)),
    "beta1 .9": replace(PAPER, beta1=0.9),
    "q_C not matched": replace(PAPER, matched_start=False),
    "ordinary start": replace(PAPER, weight_std=None),
    "32 bits": replace(PAPER, precision="32-true"),
}


# Running them


def train(name: str, steps: int, seed: int) -> tuple[GMLVM, dict[str, Any]]:
    """One of :data:`TRAININGS`, from its checkpoint where it was stopped, or from that of a shorter one.

    Args:
        name: Its name.
        steps: Its length.
        seed: Seed of everything.

    Returns:
        The model, and what was measured on the way by the number of steps.
    """
    how, data = TRAININGS[name], datasets.mnist()
    prior = how.prior()
    model = GMLVM.for_images(
        data.image_shape,
        prior.num_components,
        prior.latent_dim,
        seed=seed,
        prior=prior,
        networks="conv",
        weight_std=how.weight_std,
    )
    file = _checkpoint(f"{name}, {steps} steps, seed {seed}")
    shorter = [_checkpoint(f"{name}, {length} steps, seed {seed}") for length in LENGTHS.values() if length < steps]
    begun = [path for path in shorter if path.exists()]
    if begun and not file.exists():
        _copy(begun[-1], file)
    return model, _followed(model, how, steps, seed, file)


def _followed(model: GMLVM, how: Setting, steps: int, seed: int, file: Path) -> dict[str, Any]:
    """Train with a checkpoint, and with what was measured beside it."""
    data, looks_file = datasets.mnist(), _looks_beside(file)
    looks: dict[str, Any] = json.loads(looks_file.read_text()) if looks_file.exists() else {}

    def look(run: Run) -> None:
        looks[str(run.done)] = asdict(evaluate(run.model, data))
        write_whole(looks_file, json.dumps(looks))

    history = fit(
        model,
        deepcopy(how.objective),
        data,
        steps=steps,
        batch_size=how.batch_size,
        optimizer=partial(torch.optim.Adam, lr=how.learning_rate, betas=(how.beta1, 0.999)),
        schedule=rate(steps),
        matched_start=how.matched_start,
        callbacks=dict.fromkeys((step for step in (*LOOKS, steps) if step <= steps), look),
        checkpoint=file,
        seed=seed,
        precision=how.precision,
        progress=False,
    )
    return {"seconds": round(history.seconds, 1), "looks": {step: looks[step] for step in sorted(looks, key=int)}}


def _checkpoint(name: str) -> Path:
    """A file for a training, under this code alone: other code would go on with something else."""
    folder = _CHECKPOINTS / runner.CODE["code"]
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{name}.safetensors"


def _looks_beside(file: Path) -> Path:
    return file.with_suffix(".json")


def _copy(begun: Path, file: Path) -> None:
    """Begin a longer training with a shorter one. The checkpoint comes last: without it, all is begun anew."""
    shutil.copy(_looks_beside(begun), _looks_beside(file))
    part = file.with_suffix(".copy")
    shutil.copy(begun, part)
    part.replace(file)


def training(name: str, length: str) -> runner.Method:
    """One of :data:`TRAININGS` as a function of the seed.

    Args:
        name: Its name.
        length: The name of its length in :data:`LENGTHS`.
    """
    return lambda seed: train(name, LENGTHS[length], seed)[1]


def vae_after_wae(length: str, beta: float) -> runner.Method:
    """A VAE from the paper's WAE, as a function of the seed.

    Args:
        length: The name of the WAE's length in :data:`LENGTHS`.
        beta: Weight of the KL terms.
    """
    how = replace(PAPER, objective=VAE(beta, enumeration=Resampled()), matched_start=False)

    def method(seed: int) -> dict[str, Any]:
        model, _ = train("WAE", LENGTHS[length], seed)
        file = _checkpoint(f"VAE beta {beta:g} after {LENGTHS[length]} steps, seed {seed}")
        return _followed(model, how, SETTINGS["vae_steps"], seed, file)

    return method


#: What is run for each seed, by name.
METHODS: dict[str, runner.Method] = {name: training(name, "short") for name in TRAININGS}
METHODS |= {
    f"{name}, {length}": training(name, length)
    for name in ("WAE", "VAE beta 10", "VAE beta 1", "pairs")
    for length in ("third", "early", "late", "whole")
}
METHODS |= {
    f"VAE beta {beta:g} after {length} WAE": vae_after_wae(length, beta)
    for beta in (10.0, 1.0)
    for length in ("short", "early", "late", "whole")
}


def described() -> dict[str, str]:
    """All trainings in words, the same in every process: a function's own would say where it lies in memory."""
    priors = {name: how.prior() for name, how in TRAININGS.items()}
    return {name: f"{how}, {priors[name]} of scale {priors[name].scale[0, 0]:.4f}" for name, how in TRAININGS.items()}


if __name__ == "__main__":
    runner.main("experiments.paper", {**SETTINGS, "trainings": described()}, METHODS, range(3))
