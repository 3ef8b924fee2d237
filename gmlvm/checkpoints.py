"""Interrupted training: the state of module and optimiser, checked as a whole before it is used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor, nn

from gmlvm import storage
from gmlvm.identity import differences, shapes

# What JSON holds as it is.
_PLAIN = (bool, int, float, str)
# What the header of a checkpoint holds, and of which type.
_HEADER: dict[str, Any] = {
    "settings": dict, "steps": (int, type(None)), "done": int, "names": list, "seconds": (int, float),
    "optimizer": dict, "stopped": str, "shapes": dict,
}  # fmt: skip


@contextmanager
def owned(path: Path) -> Iterator[None]:
    """Keep other processes from the file at ``path``, and clear what killed writers have left beside it.

    The operating system ends the ownership with the process, however that ends.

    Args:
        path: The file, there or not.

    Raises:
        BlockingIOError: If another process has it.
        OSError: If nothing can be written beside it.
    """
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise BlockingIOError(f"another process works with {path}; wait for it, or name another file") from None
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
    for name, value in _kept(optimizer):
        if isinstance(value, Tensor):
            tensors[f"optimizer.{name}"] = value
        elif value is None or isinstance(value, _PLAIN):
            plain[name] = value
        else:
            raise TypeError(
                f"a checkpoint cannot hold {name} of {type(optimizer).__name__}, a {type(value).__name__}; "
                "use another optimiser, or train without a checkpoint"
            )
    return tensors, plain


def unpack(
    tensors: Mapping[str, Tensor], plain: Mapping[str, Any], module: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    """Bring a module and its optimiser to a saved state.

    Args:
        tensors: What :func:`pack` gave, and any others.
        plain: The JSON values.
        module: What is trained, in any state.
        optimizer: Its optimiser.

    Raises:
        ValueError: If a name or shape does not fit.
    """
    weights = under("module.", tensors)
    if unlike := differences(shapes(weights), shapes(module.state_dict())):
        raise ValueError(f"its weights do not fit ({unlike})")
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Any]] = {}
    groups = optimizer.state_dict()["param_groups"]
    for name, value in {**under("optimizer.", tensors), **plain}.items():
        kind, _, place = name.partition(".")
        index, _, key = place.partition(".")
        places = {"state": parameters, "group": groups}.get(kind, [])
        if not index.isdecimal() or int(index) >= len(places):
            raise ValueError(f"its optimiser holds {name}, and there are {len(places)} to which that could belong")
        if kind == "group":
            groups[int(index)][key] = value
            continue
        parameter = parameters[int(index)]
        if isinstance(value, Tensor) and value.shape == parameter.shape:
            # In the layout of its parameter, which files do not keep and a fused optimiser takes for granted.
            value = torch.empty_like(parameter, device="cpu", dtype=value.dtype).copy_(value)
        state.setdefault(int(index), {})[key] = value
    module.load_state_dict(weights)
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _kept(optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, Any]]:
    """What an optimiser keeps from step to step, by name."""
    for index, state in optimizer.state_dict()["state"].items():
        if not isinstance(index, int):
            raise TypeError(
                f"a checkpoint cannot hold {index} of {type(optimizer).__name__}, which belongs to no parameter"
            )
        yield from ((f"state.{index}.{name}", value) for name, value in state.items())
    # Some keep numbers with the settings of their groups; the learning rate is set anew at each step.
    for index, group in enumerate(optimizer.param_groups):
        for name, value in group.items():
            if name != "lr" and isinstance(value, _PLAIN):
                yield f"group.{index}.{name}", value


@contextmanager
def unchanged_on_failure(module: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Bring a module and its optimiser back to where they were, if what is done inside fails.

    Args:
        module: What is trained.
        optimizer: Its optimiser.
    """
    weights = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    state = deepcopy(optimizer.state_dict())
    try:
        yield
    except BaseException:
        module.load_state_dict(weights)
        optimizer.load_state_dict(state)
        raise


def check_complete(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Check that a checkpoint holds all that its header names, whatever its digest says.

    Args:
        header: The header, of which ``shapes`` names the tensors.
        tensors: The tensors.

    Raises:
        ValueError: If something is missing, of another type or of another shape.
    """
    for name, kinds in _HEADER.items():
        if not isinstance(header.get(name), kinds):
            raise ValueError(f"its {name} is {header.get(name)!r}")
    if unlike := differences(header["shapes"], shapes(tensors)):
        raise ValueError(f"it is not complete ({unlike})")
    steps, done, names = header["steps"], header["done"], header["names"]
    if not all(isinstance(name, str) for name in names):
        raise ValueError(f"its names are {names!r}")
    for name, shape in {"record": (done, len(names)), "plan": (steps or 0,)}.items():
        found = tuple(tensors[name].shape) if name in tensors else None
        if found != shape:
            raise ValueError(f"its {name} has shape {found}, not {shape}")


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose name starts with ``prefix``, without it.

    Args:
        prefix: The beginning of their names.
        tensors: All tensors.
    """
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
