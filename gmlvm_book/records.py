"""Result files: what was measured, together with everything needed to measure it again."""

from __future__ import annotations

import json
import math
import os
import platform
import secrets
import textwrap
from collections.abc import Iterator
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

_PACKAGES = ("torch", "torchvision", "lightning-fabric", "numpy", "scipy", "scikit-learn", "umap-learn")
_ORIGIN = ("command", "date", "machine", "versions")
# What fits beside the text on a page of the book.
_WIDTH = 80


def write_record(path: str | Path, command: str, figures: dict[str, Any]) -> None:
    """Write a result file in one piece: how it was made, then the figures.

    Args:
        path: The JSON file; its folder must exist. A file of that name stays as it was until the new one is complete.
        command: What makes the file again, from the root of the repository.
        figures: What was measured, and with which settings and seeds, as JSON values.

    Raises:
        ValueError: If a figure is not a JSON value; NaN and the infinities are none.
        OSError: If the file cannot be written.
    """
    origin = {
        "command": command,
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "machine": _machine(),
        "versions": versions(),
    }
    write_whole(path, to_json({**origin, **figures}, indent=1) + "\n")


def read_record(path: str | Path) -> dict[str, Any]:
    """Read what :func:`write_record` wrote.

    Args:
        path: The JSON file.

    Returns:
        The record, with ``command``, ``date``, ``machine`` and ``versions``, then what was measured.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no JSON, or does not say how it was made.

    Source: chapter "Training the GM-WAE".
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


def describe_origin(*records: dict[str, Any]) -> str:
    """Say in a few lines how records were made: command, date and machine, and versions where the next has others.

    Args:
        *records: What :func:`read_record` returned.

    Source: chapter "Training the GM-WAE".
    """
    lines: list[str] = []
    for record, following in zip(records, (*records[1:], None), strict=True):
        lines += (record["command"], f"{record['date']} on {record['machine']}")
        if following is None or following["versions"] != record["versions"]:
            lines.append(", ".join(f"{package} {version}" for package, version in record["versions"].items()))
    return "\n".join(textwrap.fill(line, _WIDTH, subsequent_indent="  ") for line in lines)


def versions() -> dict[str, str]:
    """The versions of Python, this library and what it computes with, by name."""
    packages = {package: version(package) for package in _PACKAGES}
    return {"python": platform.python_version(), "gmlvm": version("gmlvm"), **packages}


def to_json(value: Any, indent: int | None = None) -> str:
    """Turn figures into JSON that any program can read.

    Args:
        value: Dictionaries, lists, texts, numbers, booleans and None.
        indent: Spaces for each level; None writes one line.

    Raises:
        ValueError: If a part is something else, or a number that is not finite; the message names its place.

    Example:
        >>> to_json({"runs": [{"loss": float("nan")}]})
        Traceback (most recent call last):
        ValueError: figures must be JSON values, and numbers finite; got ['runs'][0]['loss'] = nan
    """
    refused = ", ".join(f"{place or 'the whole'} = {part!r}" for place, part in _refused(value))
    if refused:
        raise ValueError(f"figures must be JSON values, and numbers finite; got {refused}")
    return json.dumps(value, indent=indent)


def write_whole(path: str | Path, text: str) -> None:
    """Write a text file in one piece: a crash or a full disk leaves the file that was there, and nothing beside it.

    Args:
        path: The file; its folder must exist. A link is followed.
        text: The new content.

    Raises:
        OSError: If the file cannot be written.
    """
    path = Path(path).resolve()
    if not path.parent.is_dir():
        raise FileNotFoundError(f"no folder {path.parent} to write {path.name} to")
    # Two writers at once must not share it.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        with temporary.open("x", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _refused(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """The places in a value that JSON cannot hold, with what is there."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _refused(part, f"{place}[{key!r}]")
    elif isinstance(value, (list, tuple)):
        for index, part in enumerate(value):
            yield from _refused(part, f"{place}[{index}]")
    elif not (value is None or isinstance(value, (str, int)) or (isinstance(value, float) and math.isfinite(value))):
        yield place, value


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
