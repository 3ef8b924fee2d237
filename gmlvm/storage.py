"""Tensors and a JSON header in one safetensors file: the one place that reads and writes them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

_KEY = "gmlvm"


def write(path: Path, kind: str, header: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Write a file in one piece: a crash while writing leaves the file of before.

    Args:
        path: The file; its folder must exist.
        kind: What the file holds, checked again by :func:`read`.
        header: JSON values.
        tensors: The tensors, on any device.

    Raises:
        OSError: If the file cannot be written.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(f"no folder {path.parent} to write {path.name} to")
    partial = path.with_name(path.name + ".partial")
    content = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(content, partial, metadata={_KEY: json.dumps({"kind": kind, **header})})
    os.replace(partial, path)


def read(path: Path, kind: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read what :func:`write` wrote.

    Args:
        path: The file.
        kind: What the file must hold.

    Returns:
        The header and the tensors, on the CPU.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged, or holds something else.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no {kind} at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get(_KEY, "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not a {kind}: {error}") from error
    if header.get("kind") != kind:
        raise ValueError(f"{path} must hold a {kind}, got {header.get('kind')!r}")
    return header, tensors
