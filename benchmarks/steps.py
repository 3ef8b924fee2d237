"""Training steps to be timed: the library's, the plain version's, and the library's without one of its parts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from functools import partial
from itertools import repeat

import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.plain import PlainWAE, SeparatePerceptrons
from gmlvm import GMLVM, MMD, WAE, Clusterer, Run
from gmlvm.enumeration import Dense, Enumeration, TopM, Truncated
from gmlvm.objectives import Objective

BATCH_SIZE = 128
PENALTY_WEIGHT = 100.0
#: One step of training.
Step = Callable[[], object]


def objective(**options: object) -> WAE:
    """The objective of the chapters, with changes."""
    return WAE(PENALTY_WEIGHT, **options)  # type: ignore[arg-type]


def index_batches(images: Tensor, generator: torch.Generator) -> Iterator[Tensor]:
    """Batches as the library draws them: indices into ``uint8`` images."""
    while True:
        yield images[torch.randint(len(images), (BATCH_SIZE,), generator=generator)]


def float_loader(images: Tensor, generator: torch.Generator) -> DataLoader[tuple[Tensor, ...]]:
    """Batches as most programs draw them: a shuffling loader of floats."""
    return DataLoader(TensorDataset(images / 255), BATCH_SIZE, shuffle=True, drop_last=True, generator=generator)


def library_step(
    model: Clusterer,
    images: Tensor,
    loss: Objective | None = None,
    *,
    batch_size: int | None = None,
    fused: bool = True,
    loader: bool = False,
    bfloat16: bool = False,
) -> Step:
    """A step as :func:`gmlvm.fit` takes it, at a learning rate of zero: the model stays in the state to be measured.

    Args:
        model: The model.
        images: ``uint8``, (N, C, H, W).
        loss: The objective; that of the chapters if left out.
        batch_size: Images in a step; that of the plain version if left out.
        fused: Whether Adam is one kernel.
        loader: Whether batches come from a loader of floats.
        bfloat16: Whether products are taken in bfloat16.
    """
    return Run(
        model,
        loss or objective(),
        float_loader(images, torch.Generator().manual_seed(0)) if loader else images,
        batch_size=None if loader else batch_size or BATCH_SIZE,
        optimizer=partial(torch.optim.Adam, lr=0.0, fused=fused or None),
        device="cpu",
        precision="bf16-mixed" if bfloat16 else "32-true",
    ).step


def gradient_step(model: GMLVM, images: Tensor, loss: Objective) -> Callable[[], Tensor]:
    """The gradient on a fresh batch, as one vector; all steps made here see the same batches, whatever they draw.

    Args:
        model: The model.
        images: ``uint8``, (N, C, H, W).
        loss: The objective.
    """
    batches = index_batches(images, torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    parameters = list(model.train().parameters())

    def step() -> Tensor:
        gradients = torch.autograd.grad(loss(model, next(batches), generator)[0], parameters)
        return torch.cat([gradient.flatten() for gradient in gradients])

    return step


def plain_step(
    plain: PlainWAE, images: Tensor, learning_rate: float = 0.0, factors: Iterable[float] | None = None
) -> Step:
    """A step of the plain version: batches from a loader, Adam as it comes.

    Args:
        plain: Networks and loss, trained in place.
        images: ``uint8``, (N, C, H, W).
        learning_rate: Adam's.
        factors: A factor on it for each step; 1 if left out.
    """
    rates = iter(repeat(1.0) if factors is None else factors)
    generator = torch.Generator().manual_seed(0)
    loader = float_loader(images, generator)
    batches = (x for _ in repeat(None) for (x,) in loader)
    optimizer = torch.optim.Adam(plain.parameters(), lr=learning_rate)
    plain.train()

    def step() -> None:
        optimizer.param_groups[0]["lr"] = learning_rate * next(rates)
        loss = plain(next(batches), generator)[0]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def plain_version(model: GMLVM) -> PlainWAE:
    """The plain version with the model's weights and the chapters' objective."""
    penalty = MMD()
    return PlainWAE(model, PENALTY_WEIGHT, penalty.bandwidths, penalty.prior_samples)


def separate(model: GMLVM) -> GMLVM:
    """The model with one perceptron after the other in place of the batched product."""
    return GMLVM(model.prior, model.discrete_encoder, SeparatePerceptrons(model), model.decoder, model.image_shape)


def variants(model: GMLVM, images: Tensor) -> dict[str, Step]:
    """The plain version, the library, and the library without each part or with something else in its place.

    Args:
        model: The model in the state that is to be measured; each step works on a copy of its own.
        images: ``uint8``, (N, C, H, W).
    """

    def with_rule(rule: Enumeration) -> Step:
        return library_step(deepcopy(model), images, objective(enumeration=rule))

    def with_penalty(penalty: MMD) -> Step:
        return library_step(deepcopy(model), images, objective(penalty=penalty))

    return {
        "plain": plain_step(plain_version(model), images),
        "library": library_step(deepcopy(model), images),
        "without resampling: all K decoded": with_rule(Dense()),
        "without resampling: those above 0.0001": with_rule(Truncated()),
        "without resampling: the largest and one drawn": with_rule(TopM(1)),
        "without leaving codes out of the penalty": with_penalty(MMD(tolerance=0.0)),
        "without the batched product in q_C": library_step(separate(deepcopy(model)), images),
        "without the fused optimiser": library_step(deepcopy(model), images, fused=False),
        "without index batches: a loader of floats": library_step(deepcopy(model), images, loader=True),
        "penalty half in closed form": with_penalty(MMD(estimator="half-closed")),
        "with bfloat16 products": library_step(deepcopy(model), images, bfloat16=True),
    }
