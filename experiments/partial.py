"""The finished runs of a command that is not finished: a file that may be cut or damaged anywhere.

Each line carries a seal, a digest of itself and of the command's identity, and is trusted for that alone::

    <seal> {"command": "python -m experiments.seeds", "settings": {...}, "code": ..., "torch": ...}
    <seal> ["plain", 0, {"accuracy": 0.5}]
    <seal> ["plain", 1, {"accuracy": 0.6}]
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, TextIO

from gmlvm.identity import differences, digest
from gmlvm_book.records import to_json, write_whole

#: Figures by method and seed.
Runs = dict[tuple[str, int], Any]


def read(path: Path, identity: dict[str, Any]) -> tuple[Runs, list[str]]:
    """Read the runs of a command that was stopped.

    Args:
        path: The file; if there is none, nothing was begun.
        identity: What every run of the command shares, as JSON values.

    Returns:
        The runs that can be trusted, and a sentence on each line that cannot.

    Raises:
        ValueError: If the file belongs to a command with another identity.
    """
    if not path.exists():
        return {}, []
    *lines, rest = path.read_bytes().split(b"\n")
    runs: Runs = {}
    notes: list[str] = []
    for number, line in enumerate(lines, start=1):
        seal, _, text = line.decode(errors="replace").partition(" ")
        if number == 1 and seal == _seal(text, None):
            begun = json.loads(text)
            if begun != identity:
                raise ValueError(
                    f"{path} was begun by another command, code or version ({differences(begun, identity)})"
                )
        elif number > 1 and seal == _seal(text, identity):
            method, seed, figures = json.loads(text)
            runs[method, seed] = figures
        else:
            notes.append(f"line {number} is damaged and not trusted")
    if rest:
        notes.append(f"line {len(lines) + 1} was cut short and is not trusted")
    return runs, notes


def write(path: Path, identity: dict[str, Any], runs: Runs) -> None:
    """Write the file anew, in one piece.

    Args:
        path: The file.
        identity: What every run of the command shares, as JSON values.
        runs: The runs so far.
    """
    lines = [_line(to_json(identity), None)]
    lines += [_line(to_json([*run, figures]), identity) for run, figures in runs.items()]
    write_whole(path, "".join(lines))


def append(file: TextIO, identity: dict[str, Any], run: tuple[str, int], figures: Any) -> None:
    """Add a run, and wait until the disk has it.

    Args:
        file: What :func:`write` wrote, open for appending.
        identity: The same as there.
        run: Its method and seed.
        figures: What it found, as JSON values.
    """
    file.write(_line(to_json([*run, figures]), identity))
    file.flush()
    os.fsync(file.fileno())


def _line(text: str, identity: dict[str, Any] | None) -> str:
    return f"{_seal(text, identity)} {text}\n"


def _seal(text: str, identity: dict[str, Any] | None) -> str:
    """A digest of a line and of whose it is: a line of another command is as little trusted as a damaged one."""
    return digest(json.dumps([identity, text], sort_keys=True).encode())
