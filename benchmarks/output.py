"""The option ``--json`` of every benchmark: where its figures are written, if they are."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gmlvm_book.records import write_record


@dataclass(frozen=True)
class Output:
    """Where figures go.

    Args:
        program: The command, without its options.
        path: The file; None if there is to be none.
    """

    program: str
    path: Path | None

    def write(self, figures: dict[str, Any]) -> None:
        """Write the record, if a file was named.

        Args:
            figures: What was measured, and with which settings.
        """
        if self.path is not None:
            write_record(self.path, f"{self.program} --json {self.path.as_posix()}", figures)


def parse_output(program: str, description: str | None) -> Output:
    """Read the command line, before anything is measured.

    Args:
        program: The command, without its options.
        description: What its help says.

    Raises:
        SystemExit: If the file's folder does not exist.
    """
    parser = argparse.ArgumentParser(prog=program, description=description)
    parser.add_argument("--json", type=Path, help="a file to write the figures to")
    path = parser.parse_args().json
    if path is not None and not path.parent.is_dir():
        parser.error(f"no folder {path.parent} to write {path.name} to")
    return Output(program, path)
