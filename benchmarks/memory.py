"""What a process of its own needed at most."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

Result = TypeVar("Result")


def in_new_process(call: Callable[..., Result], *arguments: object) -> Result:
    """Call a function of a module in a process that has done nothing else.

    Args:
        call: The function.
        *arguments: Its arguments.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(call, *arguments).result()


def peak_gigabytes() -> float:
    """Largest memory of this process so far, in gigabytes, with Python and all that it has loaded."""
    status = Path("/proc/self/status")
    if status.is_file():  # where it is there: the other figure can be that of the process that started this one
        (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
        return int(line.split()[1]) * 1024 / 1e9
    unit = 1 if sys.platform == "darwin" else 1024  # what ru_maxrss counts in
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
