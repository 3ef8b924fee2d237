"""What follows the gradient: the optimiser, and the factor on its learning rate at every step."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from gmlvm.validation import check_number


def cosine(progress: float) -> float:
    r"""Learning-rate factor :math:`\frac12 (1 + \cos \pi t)`, from 1 at the start to 0 at the end.

    Args:
        progress: t, the share of the steps that are done, in [0, 1].

    Returns:
        The factor, in [0, 1].

    Source: Loshchilov and Hutter (2017), equation 5; chapter "Training the GM-WAE".

    Example:
        >>> cosine(0.0), round(cosine(0.5), 6), cosine(1.0)
        (1.0, 0.5, 0.0)
    """
    return 0.5 * (1 + math.cos(math.pi * progress))


def factors(schedule: Callable[[float], float] | None, steps: int | None) -> list[float]:
    """The factor on the learning rate at every step.

    Args:
        schedule: The factor as a function of the share of steps done; one throughout if left out.
        steps: Steps that are planned.

    Raises:
        TypeError: If ``schedule`` is no function, or gives something that is no number.
        ValueError: If it gives a negative number or one that is not finite, or ``steps`` is left out.
    """
    if schedule is None:
        return [1.0] * (steps or 0)
    if not callable(schedule):
        raise TypeError(f"schedule must be a function of the share of steps done, got {schedule!r}")
    if steps is None:
        raise ValueError("a schedule goes by the share of steps done, so steps must be given")
    factors = []
    for step in range(steps):
        value: Any = schedule(step / steps)
        with suppress(AttributeError, RuntimeError, ValueError):  # of a tensor or NumPy scalar; of others below
            value = value.item()
        factors.append(check_number(f"what schedule gives at {step / steps:g}", value))
    return factors


def optimizer_of(
    given: Callable[[list[nn.Parameter]], Optimizer] | None, learning_rate: float | None
) -> Callable[[list[nn.Parameter]], Optimizer]:
    """The function from parameters to an optimiser: the one given, or Adam.

    Args:
        given: The reader's own.
        learning_rate: Adam's; 1e-3 if left out.

    Raises:
        TypeError: If ``given`` is no function.
        ValueError: If both are given, or the rate is not positive.
    """
    if given is None:
        rate = check_number("learning_rate", 1e-3 if learning_rate is None else learning_rate, exclusive=True)
        return partial(torch.optim.Adam, lr=rate, fused=True)
    if not callable(given):
        raise TypeError(f"optimizer must be a function of the list of parameters, got {given!r}")
    if learning_rate is not None:
        raise ValueError(f"learning_rate is Adam's; the optimizer given has its own, got {learning_rate}")
    return given
