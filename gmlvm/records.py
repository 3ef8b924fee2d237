"""Result files: what was measured, together with everything needed to measure it again."""

from __future__ import annotations

import json
import os
import platform
import textwrap
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

_PACKAGES = ("torch", "torchvision", "lightning-fabric", "numpy", "scipy", "scikit-learn")
_ORIGIN = ("command", "date", "machine", "versions")
# What fits beside the text on a page of the book.
_WIDTH = 80


def write_record(path: Path, command: str, figures: dict[str, Any]) -> None:
    """Write a result file: how it was made, then the figures.

    Args:
        path: The JSON file; its folder must exist.
        command: What makes the file again, from the root of the repository.
        figures: What was measured, and with which settings and seeds, as JSON values.

    Raises:
        OSError: If the file cannot be written.

    Source: the project's own; the chapter "Training the GM-WAE" reads such a file.
    """
    origin = {
        "command": command,
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "machine": _machine(),
        "versions": {"python": platform.python_version(), "gmlvm": version("gmlvm")}
        | {package: version(package) for package in _PACKAGES},
    }
    path.write_text(json.dumps({**origin, **figures}, indent=1) + "\n", encoding="utf-8")


def read_record(path: str | Path) -> dict[str, Any]:
    """Read what :func:`write_record` wrote.

    Args:
        path: The JSON file.

    Returns:
        The record, with ``command``, ``date``, ``machine`` and ``versions``, then what was measured.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no JSON, or does not say how it was made.

    Source: the project's own; chapter "Training the GM-WAE".
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no result file at {path}")
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not a result file: {error}") from error
    missing = [key for key in _ORIGIN if not isinstance(record, dict) or key not in record]
    if missing:
        raise ValueError(f"{path} must say how it was made, it lacks {', '.join(missing)}")
    return record


def describe_origin(record: dict[str, Any]) -> str:
    """Say in a few lines how a record was made: command, date, machine, versions.

    Args:
        record: What :func:`read_record` returned.

    Source: the project's own; chapter "Training the GM-WAE".
    """
    versions = ", ".join(f"{package} {version}" for package, version in record["versions"].items())
    lines = (record["command"], f"{record['date']} on {record['machine']}", versions)
    return "\n".join(textwrap.fill(line, _WIDTH, subsequent_indent="  ") for line in lines)


def _machine() -> str:
    """What the runs were made on, in words: processor family, cores, accelerator."""
    accelerator = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no accelerator"
    return f"{platform.system()} {platform.machine()}, {_processor()}, {os.cpu_count()} cores, {accelerator}"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown processor"
