"""What :mod:`gmlvm.testing` asks of any part: tensors, draws, means, gradients, and what has to stay as it was."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from gmlvm.identity import differences, digest, structure

_Part = TypeVar("_Part")
_Module = TypeVar("_Module", bound=nn.Module)
# Standard errors that a mean may be off: by chance, one of two million is.
_ERRORS = 5.0
# Half the way of a finite difference, and how far a slope may be from it, relative to slopes in random directions: a
# solver need not be quite at its optimum.
_STEP, _SLOPE = 1e-5, 1e-2


def require(holds: bool, message: str) -> None:
    """Raise an ``AssertionError`` unless something holds, under ``python -O`` as well."""
    if not holds:
        raise AssertionError(message)


def seeded(seed: int = 0) -> torch.Generator:
    """A generator on the CPU."""
    return torch.Generator().manual_seed(seed)


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    """Standard normal noise in float64."""
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def trained(part: nn.Module) -> dict[str, Tensor]:
    """Parameters that are trained, by name."""
    return {name: parameter for name, parameter in part.named_parameters() if parameter.requires_grad}


@contextmanager
def ambient(seed: int = 0) -> Iterator[None]:
    """The global generators of torch and NumPy in a known state inside, and as they were outside."""
    of_numpy = np.random.get_state()  # noqa: NPY002 (the one that a part may draw from)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # not torch.manual_seed, which seeds a GPU as well
            np.random.seed(seed)  # noqa: NPY002
            yield
    finally:
        np.random.set_state(of_numpy)  # noqa: NPY002


def copied(what: str, part: _Part) -> _Part:
    """A copy of a part, if it holds its tensors and modules where they are moved, trained and saved."""
    for name, module in part.named_modules(prefix=type(part).__name__) if isinstance(part, nn.Module) else ():
        for key, value in vars(module).items():
            several = [] if key.startswith("_") else _items(value)  # torch keeps its own under such names
            plain = isinstance(value, Tensor) or any(isinstance(each, (Tensor, nn.Module)) for each in several)
            require(
                not plain,
                f"{what} must hold tensors and modules where they are moved, trained and saved, got {name}.{key} as a "
                "plain attribute: use nn.Parameter, register_buffer or nn.ModuleList",
            )
    try:
        return deepcopy(part)
    except Exception as error:
        raise AssertionError(f"{what} must be such that copy.deepcopy can copy it, got: {error}") from error


def blank(what: str, part: _Module) -> _Module:
    """A copy of a part in which every weight is one half."""
    copy = copied(what, part)
    for parameter in copy.parameters():
        nn.init.constant_(parameter, 0.5)
    return copy


def state(part: nn.Module) -> dict[str, str]:
    """What a part must not change in another: its settings, modes and weights; batch norms may remember a batch."""
    modes = {f"mode of {name}": f"training={module.training}" for name, module in part.named_modules()}
    return structure(part) | modes | {f"value of {name}": digest(leaf) for name, leaf in part.named_parameters()}


def unchanged(what: str, part: nn.Module, before: Mapping[str, str]) -> None:
    """Require that a part is as it was when :func:`state` was taken."""
    changed = differences(before, state(part))
    require(not changed, f"{what} must leave the model as it was, got changes (before there, after here): {changed}")


def tensor(what: str, value: object, shape: tuple[int, ...], dtype: torch.dtype | None = torch.float64) -> Tensor:
    """Require a finite tensor of a shape and dtype, any if None."""
    if not isinstance(value, Tensor):
        raise AssertionError(f"{what} must be a tensor, got {type(value).__name__}")
    require(value.shape == shape, f"{what} must have shape {tuple(shape)}, got {tuple(value.shape)}")
    require(dtype in (None, value.dtype), f"{what} must be {dtype} as what it is computed from, got {value.dtype}")
    require(bool(value.isfinite().all()), f"{what} must be finite, got NaN or infinity")
    return value


def same(what: str, value: Tensor, expected: Tensor, advice: str = "", *, exact: bool = False) -> None:
    """Require equal tensors, but for rounding unless ``exact``."""
    require(value.shape == expected.shape, f"{what} must have shape {tuple(expected.shape)}, got {tuple(value.shape)}")
    close = torch.equal(value, expected) if exact else torch.allclose(value, expected, rtol=1e-4, atol=1e-6)
    gap = (value.double() - expected.double()).abs().max().item() if value.numel() else 0.0
    require(
        close, f"{what} must be the same, got a largest difference of {gap:.3g}" + (f": {advice}" if advice else "")
    )


def mean(what: str, samples: Tensor, expected: Tensor | float, advice: str, slack: float = 0.0) -> None:
    """Require that independent samples (n, ...) have a mean, within what chance allows and a slack."""
    found, wanted = samples.mean(0), torch.as_tensor(expected, dtype=samples.dtype)
    allowed = _ERRORS * samples.std(0) / len(samples) ** 0.5 + slack + 1e-8 * (1 + wanted.abs())
    excess = ((found - wanted).abs() - allowed).flatten()
    worst = int(excess.argmax())
    is_, to_be, margin = (each.expand(found.shape).flatten()[worst].item() for each in (found, wanted, allowed))
    require(
        bool(excess.max() <= 0),
        f"{what} must be {to_be:.4g} within {margin:.2g}, got {is_:.4g} in the mean over {len(samples)}: {advice}",
    )


def drawn(what: str, draw: Callable[[torch.Generator], Tensor]) -> Tensor:
    """Require that a draw follows its generator alone, and give the draw."""
    draws = []
    for seed in (1, 2):  # states of the global generators, in which a draw that looks at them would differ
        with ambient(seed):
            before = _global_states()
            draws.append(draw(seeded()))
            kept = _global_states() == before
        require(kept, f"{what} must leave the global generators as they were: draw from the generator that is given")
    advice = "draw from the generator that is given alone"
    same(f"{what}, from generators in the same state,", draws[0], draws[1], advice, exact=True)
    return draws[0]


def gradients(
    what: str, value: Callable[[], Tensor], leaves: Mapping[str, Tensor], *, reach: bool = True, exact: bool = False
) -> None:
    """Require finite gradients; that they reach every leaf; and, if ``exact``, that they are the slope of the value."""
    total = value()
    require(total.requires_grad, f"{what} must be differentiable, got no gradient: is there a detach or no_grad in it?")
    found = torch.autograd.grad(total, list(leaves.values()), allow_unused=True, materialize_grads=True)
    for name, gradient in zip(leaves, found, strict=True):
        finite = bool(gradient.isfinite().all())
        require(finite, f"the gradient of {what} must be finite, got NaN or infinity in {name}")
        reached = bool(gradient.any()) or not reach
        require(reached, f"the gradient of {what} must reach {name}, got zero: is it left out, or detached?")
    if not exact:
        return
    generator, starts = seeded(), [leaf.detach().clone() for leaf in leaves.values()]
    length = sum(start.numel() for start in starts) ** 0.5
    ways = [normal(generator, *start.shape) / length for start in starts]  # together about of length one
    slope = sum((gradient * way).sum().item() for gradient, way in zip(found, ways, strict=True))
    typical = sum(gradient.square().sum().item() for gradient in found) ** 0.5 / length
    values = []
    with torch.no_grad():
        for step in (-_STEP, _STEP, 0.0):  # and back to the start
            for leaf, start, way in zip(leaves.values(), starts, ways, strict=True):
                leaf.copy_(start + step * way)
            values.append(value().item())
    difference = (values[1] - values[0]) / (2 * _STEP)
    rounding = 1e-14 * max(map(abs, values)) / _STEP
    require(
        abs(slope - difference) <= _SLOPE * max(abs(slope), abs(difference), typical) + rounding,
        f"the gradient of {what} must be its slope, {difference:.6g} in a random direction, got {slope:.6g}: is a part "
        "detached, or a derivative written by hand wrong?",
    )


def _items(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, (list, tuple)) else ()


def _global_states() -> tuple[bytes, bytes]:
    return torch.get_rng_state().numpy().tobytes(), pickle.dumps(np.random.get_state())  # noqa: NPY002
