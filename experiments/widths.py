"""Components of unequal width: which kernels fill the narrow ones?

q_D is given, that of the model that the library ships. Every other component of the prior is a quarter as wide as the
rest.

``python -m experiments.widths --output results/widths.json`` makes the file that the chapter "The evidence behind the
choices" reads.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import Any

import torch
from torch import Tensor

from experiments import choices, measures, runner
from gmlvm import GMLVM, MMD, Divergence, GaussianMixturePrior, datasets
from gmlvm.generation import judge_samples, prior_mixing
from gmlvm.posterior import Posterior
from gmlvm.prior import Prior

#: What all runs share; the weight is in units of the data's total variance, bandwidths in those of :class:`gmlvm.MMD`.
SETTINGS: dict[str, Any] = {
    "relative_weight": choices.Choice.relative_weight,
    "steps": choices.Choice.steps,
    "narrow_scale": 0.25,
    "narrow_components": [1, 3, 5, 7, 9],
    "narrow_kernels": choices.SETTINGS["narrow"],
}


class OwnUnits(Divergence):
    """A divergence of pairs, each component's codes measured from its mean and in its own standard deviations.

    Args:
        divergence: Compares pairs, so that no two components meet in it.
    """

    def __init__(self, divergence: Divergence) -> None:
        super().__init__()
        self.divergence = divergence

    def forward(
        self, posterior: Posterior, z: Tensor, prior: Prior, generator: torch.Generator | None = None
    ) -> Tensor:
        """Estimate it; see :class:`gmlvm.Divergence`."""
        loc, scale = prior.loc, prior.scale
        measured = Posterior(posterior.logits, (posterior.loc - loc) / scale, posterior.scale / scale)
        standard = GaussianMixturePrior(torch.zeros_like(loc), 1.0, prior.logits)
        value: Tensor = self.divergence(measured, (z - loc) / scale, standard, generator)
        return value


#: What the codes are compared by.
PENALTIES: dict[str, Callable[[], Divergence]] = {
    "default": MMD,
    "narrow kernels": partial(MMD, bandwidths=tuple(SETTINGS["narrow_kernels"])),
    "own units": lambda: OwnUnits(MMD()),
}


def unequal_prior() -> GaussianMixturePrior:
    """The prior of the chapter with some components narrower."""
    prior = choices.Choice().prior()
    scale = prior.scale.clone()
    scale[SETTINGS["narrow_components"]] = SETTINGS["narrow_scale"]
    return GaussianMixturePrior(prior.loc, scale)


def half(model: GMLVM, components: list[int], seed: int) -> dict[str, float]:
    """How well some components are filled, and what their samples are read as.

    Args:
        model: The model.
        components: Which.
        seed: Seed of codes and draws.
    """
    data, chosen = datasets.mnist(), torch.tensor(components)
    images = data.test.images[torch.isin(torch.from_numpy(model.predict(data.test.images)), chosen)]
    logits = torch.full((model.num_components,), -100.0)  # so that the others are never drawn
    logits[chosen] = 0
    alone = deepcopy(model)
    alone.prior = GaussianMixturePrior(model.prior.loc, model.prior.scale, logits)
    generator = torch.Generator().manual_seed(seed)

    def draw(count: int, component: int | None) -> Tensor:
        return alone.sample(count, None if component is None else components[component], generator=generator)

    return {
        "mixing": prior_mixing(alone, images[:2000], seed=seed),
        "purity": judge_samples(draw, len(components), measures.classifier(), data).purity,
    }


def run(penalty: Callable[[], Divergence]) -> runner.Method:
    """One training, as a function of the seed.

    Args:
        penalty: Makes what the codes are compared by.
    """

    def method(seed: int) -> dict[str, Any]:
        choice = choices.Choice(SETTINGS["relative_weight"], penalty, steps=SETTINGS["steps"])
        model = choices.new_model(choice, seed)
        model.prior = unequal_prior()
        choices.train(choice, model, seed)
        narrow = SETTINGS["narrow_components"]
        wide = [k for k in range(model.num_components) if k not in narrow]
        return {
            "wide": half(model, wide, seed),
            "narrow": half(model, narrow, seed),
            **measures.measured(model),
        }

    return method


METHODS: dict[str, runner.Method] = {name: run(penalty) for name, penalty in PENALTIES.items()}

if __name__ == "__main__":
    runner.main("experiments.widths", SETTINGS, METHODS, range(3))
