"""Interrupted training: the state of module and optimiser, checked as a whole before it is used."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor, nn

from gmlvm import storage
from gmlvm.identity import differences


@contextmanager
def owned(path: Path) -> Iterator[None]:
    """Keep other processes from the checkpoint at ``path``, and clear what killed writers have left beside it.

    The operating system ends the ownership with the process, however that ends.

    Args:
        path: The checkpoint.

    Raises:
        BlockingIOError: If another process has it.
    """
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise BlockingIOError(f"another process trains with the checkpoint {path}; name another file") from None
    try:
        storage.remove_partial(path)
        yield
    finally:
        lock.release()


def pack(module: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state of a module and its optimiser.

    Args:
        module: What is trained.
        optimizer: Its optimiser; the state of each parameter must be made of tensors, numbers and texts.

    Returns:
        Tensors by name, and JSON values.

    Raises:
        TypeError: If the optimiser keeps anything else.
    """
    tensors = {f"module.{name}": tensor for name, tensor in module.state_dict().items()}
    plain: dict[str, Any] = {}
    for index, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{index}.{name}"] = value
            elif value is None or isinstance(value, (bool, int, float, str)):
                plain[f"{index}.{name}"] = value
            else:
                raise TypeError(
                    f"a checkpoint cannot hold {name} of {type(optimizer).__name__}, a {type(value).__name__}; "
                    "use another optimiser, or train without a checkpoint"
                )
    return tensors, plain


def unpack(
    tensors: Mapping[str, Tensor], plain: Mapping[str, Any], module: nn.Module, optimizer: torch.optim.Optimizer
) -> Callable[[], None]:
    """Check a saved state against what it is for.

    Args:
        tensors: What :func:`pack` gave, and any others.
        plain: The JSON values.
        module: What is trained, in any state.
        optimizer: Its optimiser.

    Returns:
        A function that brings both to that state. Nothing is changed before it is called.

    Raises:
        ValueError: If a name or shape does not fit.
    """
    weights = under("module.", tensors)
    shapes, wanted = ({name: str(tuple(t.shape)) for name, t in ts.items()} for ts in (weights, module.state_dict()))
    if unlike := differences(shapes, wanted):
        raise ValueError(f"its weights do not fit ({unlike})")
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Any]] = {}
    for name, value in {**under("optimizer.", tensors), **plain}.items():
        index, _, key = name.partition(".")
        if not index.isdecimal() or int(index) >= len(parameters):
            raise ValueError(f"it holds a state of parameter {index}, and there are {len(parameters)}")
        if isinstance(value, Tensor) and value.ndim:
            parameter = parameters[int(index)]
            if value.shape == parameter.shape:
                # In the layout of its parameter, which files do not keep and a fused optimiser takes for granted.
                value = torch.empty_like(parameter, device="cpu", dtype=value.dtype).copy_(value)
            elif key in _MOMENTS:
                raise ValueError(
                    f"{key} of parameter {index} must have shape {tuple(parameter.shape)}, got {value.shape}"
                )
        state.setdefault(int(index), {})[key] = value

    def apply() -> None:
        module.load_state_dict(weights)
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})

    return apply


# What torch's optimisers keep in the shape of the parameter.
_MOMENTS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "exp_inf", "momentum_buffer", "square_avg", "acc_delta")


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose name starts with ``prefix``, without it.

    Args:
        prefix: The beginning of their names.
        tensors: All tensors.
    """
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
