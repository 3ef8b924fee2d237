"""Result files: what was measured, together with everything needed to measure it again."""

from __future__ import annotations

import json
import os
import platform
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

_PACKAGES = ("torch", "torchvision", "lightning-fabric", "numpy", "scipy", "scikit-learn")


def write_record(path: Path, command: str, settings: dict[str, Any], runs: list[dict[str, Any]]) -> None:
    """Write a result file.

    Args:
        path: The JSON file; its folder must exist.
        command: What makes the file again, from the root of the repository.
        settings: What all runs share.
        runs: One entry for each run, its seed among the values.

    Raises:
        OSError: If the file cannot be written.
    """
    record = {**provenance(command), "settings": settings, "runs": runs}
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def provenance(command: str) -> dict[str, Any]:
    """Where figures come from: command, date, machine and versions, as JSON values.

    Args:
        command: What makes them again, from the root of the repository.
    """
    return {
        "command": command,
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "machine": machine(),
        "versions": {"python": platform.python_version(), "gmlvm": version("gmlvm")}
        | {package: version(package) for package in _PACKAGES},
    }


def machine() -> str:
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
