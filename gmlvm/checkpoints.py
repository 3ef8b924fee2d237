"""Interrupted training: everything a run needs to go on, in one file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gmlvm import storage

_KIND = "gmlvm training run"


def save_run(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
    record: Tensor,
    seconds: float,
    settings: dict[str, Any],
) -> None:
    """Write a run's state.

    Args:
        path: The file.
        model: The module that is trained.
        optimizer: Its optimiser; the state of each parameter must be tensors, as Adam's is.
        generator: The source of all randomness of the run.
        record: Terms of the steps so far, shape (steps so far, terms).
        seconds: Training time so far.
        settings: What the run was started with; JSON values.
    """
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in state.items()}
    tensors |= {"generator": generator.get_state(), "record": record}
    storage.write(path, _KIND, {"seconds": seconds, "settings": settings}, tensors)


def load_run(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
    settings: dict[str, Any],
) -> tuple[Tensor, float]:
    """Bring model, optimiser and generator to where a run stopped.

    Args:
        path: A file that :func:`save_run` wrote.
        model: The module, built as it was for that run.
        optimizer: Its optimiser.
        generator: The source of randomness.
        settings: What this run is started with; must equal what the saved one was started with.

    Returns:
        The record of the steps so far, shape (steps so far, terms), and the training time so far in seconds.

    Raises:
        ValueError: If the file is not a saved run, or was started with other settings.
    """
    header, tensors = storage.read(path, _KIND)
    saved = header["settings"]
    differing = [name for name in sorted(saved | settings) if saved.get(name) != settings.get(name)]
    if differing:
        details = "; ".join(f"{name}: {saved.get(name)!r} there, {settings.get(name)!r} here" for name in differing)
        raise ValueError(f"{path} belongs to a run with other settings ({details}); delete it or name another file")
    model.load_state_dict(_under("model.", tensors))
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in _under("optimizer.", tensors).items():
        index, _, key = name.partition(".")
        parameter = parameters[int(index)]
        if tensor.shape == parameter.shape:
            # In the layout of its parameter, which files do not keep and a fused optimiser takes for granted.
            tensor = torch.empty_like(parameter, device="cpu").copy_(tensor)
        state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    generator.set_state(tensors["generator"])
    return tensors["record"], float(header["seconds"])


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose name starts with ``prefix``, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
