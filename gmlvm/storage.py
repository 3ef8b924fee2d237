"""Tensors and a JSON header in one safetensors file, whole or not at all: the one place that reads and writes them."""

from __future__ import annotations

import glob
import json
import os
import secrets
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from gmlvm.identity import digest
from gmlvm.validation import check_path

_KEY, _DIGEST = "gmlvm", "digest"


def write(path: str | Path, kind: str, header: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Write a file in one piece: a crash while writing leaves the file of before.

    Args:
        path: The file; its folder must exist, ``~`` is the home folder.
        kind: What the file holds, checked again by :func:`read`.
        header: JSON values.
        tensors: The tensors, on any device; they may share memory.

    Raises:
        OSError: If the file cannot be written.
    """
    path = check_path(path, kind)
    content = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    text = json.dumps({"kind": kind, **header})
    replace(path, save(content, {_KEY: text, _DIGEST: _digest(text, content)}))


def replace(path: Path, content: bytes) -> None:
    """Put bytes in the place of a file, or leave it as it is if that fails.

    Args:
        path: The file; its folder must exist.
        content: What it is to hold.

    Raises:
        OSError: If it cannot be written.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        with partial.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def remove_partial(path: Path) -> None:
    """Remove what killed writers of a file have left beside it; only while no other process writes it.

    Args:
        path: The file.
    """
    for partial in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
        partial.unlink(missing_ok=True)


def read(path: str | Path, kind: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read what :func:`write` wrote.

    Files of version 0.1 have no digest, and are read without its check.

    Args:
        path: The file; ``~`` is the home folder.
        kind: What the file must hold.

    Returns:
        The header and the tensors, on the CPU.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged, or holds something else.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"no {kind} at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        header = json.loads(metadata.get(_KEY, "{}"))
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{path} is not a {kind}, or is damaged: {error}") from error
    if not isinstance(header, dict) or header.get("kind") != kind:
        found = header.get("kind") if isinstance(header, dict) else header
        raise ValueError(f"{path} must hold a {kind}, got {found!r}")
    of_before = set(metadata) == {_KEY}  # a file of version 0.1
    if not of_before and metadata.get(_DIGEST) != _digest(metadata[_KEY], tensors):
        raise ValueError(f"{path} is damaged: what it holds is not what was written (its digest differs)")
    return header, tensors


def _digest(header: str, tensors: dict[str, Tensor]) -> str:
    parts = [part for name in sorted(tensors) for part in (name.encode(), tensors[name])]
    return digest(header.encode(), *parts)
