"""Why the discrete latent dies: which term moves q_D, and what happens where its pull is cut.

``python -m experiments.causes --output results/causes.json`` makes the file that the chapter "When the discrete latent
survives" reads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from experiments import digits, runner
from experiments.elbo import PULLS, Cut, Slow, use
from gmlvm import GMLVM, MMD, WAE, Objective, Run, datasets, evaluate, fit, pretrained
from gmlvm.batches import Batch
from gmlvm.enumeration import Dense

#: What all runs share, the steps at which they are looked at, and the images that are looked at.
SETTINGS: dict[str, Any] = {
    "num_components": 10,
    "latent_dim": 9,
    "steps": 300,
    "penalty_weight": 100.0,
    "looks": [0, 1, 3, 10, 20, 30, 50, 100, 200, 300],
    "look_images": 500,
}
#: Adam's, which is what :func:`gmlvm.fit` takes by itself.
LEARNING_RATE = 1e-3
#: Starts of all weights by name: the original's, and PyTorch's own. Each is matched to the prior afterwards.
STARTS: dict[str, float | None] = {"near zero": 0.01, "ordinary": None}


@dataclass(frozen=True)
class Change:
    """One run.

    Args:
        objective: Makes what is minimised.
        freeze: Whether q_C stays as its start has made it.
        trained: Whether decoder, q_C and prior are those of the VAE that the library ships, whose components mean
            digits; q_D is new.
    """

    objective: Callable[[], Objective] = Cut
    freeze: bool = False
    trained: bool = False


CHANGES: dict[str, Change] = {
    "none": Change(),
    **{f"{pull} cut": Change(lambda pull=pull: Cut([pull])) for pull in PULLS},  # type: ignore[misc]
    "common part cut": Change(lambda: Cut(common=True)),
    "q_C frozen": Change(freeze=True),
    "WAE on pairs": Change(lambda: WAE(SETTINGS["penalty_weight"], enumeration=Dense())),
    "WAE on z": Change(lambda: WAE(SETTINGS["penalty_weight"], MMD("codes"), enumeration=Dense())),
}


def new_model(seed: int, weight_std: float | None, trained: bool) -> GMLVM:
    """The model before its training.

    Args:
        seed: Seed of its weights.
        weight_std: Start of all weights; None is PyTorch's own.
        trained: See :class:`Change`.
    """
    data, k = datasets.mnist(), SETTINGS["num_components"]
    if not trained:
        return GMLVM.for_images(data.image_shape, k, SETTINGS["latent_dim"], seed=seed, weight_std=weight_std)
    model = pretrained("gm-vae-digits").requires_grad_(True)
    fresh = digits.new_encoder(data, k, seed)
    return GMLVM(model.prior, fresh.discrete_encoder, model.continuous_encoder, model.decoder, model.image_shape)


def drifts(model: GMLVM, objective: Objective, images: Tensor, seed: int) -> dict[str, list[float]]:
    """What a small gradient step on each term alone would do to the use of the components.

    Args:
        model: The model.
        objective: Its terms are looked at one by one, with their weights.
        images: Shape (B, C, H, W).
        seed: Seed of the codes.

    Returns:
        For each term that q_D takes part in, the slope of the entropy of the mean q_D, and of I(x; k), in nats for each
        unit of step.
    """
    weights = {
        "reconstruction": getattr(objective, "reconstruction_weight", 1.0),
        "kl_z": 1.0,
        "kl_k": 1.0,
        "divergence": getattr(objective, "penalty_weight", 1.0),
    }
    parameters = [p for p in model.discrete_encoder.parameters() if p.requires_grad]
    generator = torch.Generator(model.device).manual_seed(seed)
    terms = objective(model, Batch(images), generator)
    goals = use(model.posterior(images).log_probs)
    slopes = [torch.autograd.grad(goal, parameters, retain_graph=True) for goal in goals]
    found = {}
    for name, term in terms._asdict().items():
        if name not in weights or not term.requires_grad:
            continue
        pull = torch.autograd.grad(weights[name] * term, parameters, retain_graph=True, allow_unused=True)
        if any(part is not None for part in pull):
            found[name] = [
                -sum(float((a * b).sum()) for a, b in zip(pull, slope, strict=True) if a is not None)
                for slope in slopes
            ]
    return found


def run(start: float | None, change: Change, matched: bool = True) -> runner.Method:
    """One run, as a function of the seed.

    Args:
        start: Start of all weights; None is PyTorch's own.
        change: What is done otherwise.
        matched: Whether q_C is matched to the prior before the first step.
    """

    def method(seed: int) -> dict[str, Any]:
        data, objective = datasets.mnist(), change.objective()
        model = new_model(seed, start, change.trained)
        if matched and not change.trained:
            model.match_prior(data.train.images[:5000])
        model.continuous_encoder.requires_grad_(not change.freeze)
        images = data.test.images[: SETTINGS["look_images"]]
        looks: dict[str, Any] = {"entropy": [], "information": [], "drifts": []}

        def look(run: Run) -> None:
            with torch.enable_grad():
                entropy, information = (goal.item() for goal in use(run.model.posterior(images).log_probs))
                looks["drifts"].append(drifts(run.model, objective, images, seed))
            looks["entropy"].append(entropy)
            looks["information"].append(information)

        callbacks = dict.fromkeys(SETTINGS["looks"], look)
        optimizer = objective.optimizer(model, LEARNING_RATE) if isinstance(objective, Slow) else None
        fit(
            model, objective, data,
            steps=SETTINGS["steps"], optimizer=optimizer, callbacks=callbacks, seed=seed, progress=False,
        )  # fmt: skip
        return {**looks, "report": asdict(evaluate(model, data))}

    return method


METHODS: dict[str, runner.Method] = {
    f"{start}, {name}": run(std, change) for start, std in STARTS.items() for name, change in CHANGES.items()
}
METHODS["trained decoder and q_C"] = run(None, Change(trained=True))

if __name__ == "__main__":
    runner.main("experiments.causes", SETTINGS, METHODS, range(5))
