"""How long each chapter takes: ``python -m benchmarks.chapters --json FILE`` runs them all, and writes the seconds."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import nbformat
import torch
from nbclient import NotebookClient

from gmlvm_book.records import write_record

BOOK = Path(__file__).parents[1] / "book"


def seconds(path: Path) -> float:
    """Run a chapter from top to bottom, and keep nothing of it but the time.

    Args:
        path: The notebook.
    """
    notebook = nbformat.read(path, as_version=4)
    begun = time.perf_counter()
    NotebookClient(notebook, timeout=None, resources={"metadata": {"path": path.parent}}).execute()
    return time.perf_counter() - begun


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chapters", description=__doc__)
    parser.add_argument("--json", type=Path, help="a file to write the figures to")
    path = parser.parse_args().json
    if path is not None and not path.parent.is_dir():
        parser.error(f"no folder {path.parent} to write {path.name} to")
    figures = {}
    for chapter in sorted(BOOK.glob("*.ipynb")):
        figures[chapter.stem] = round(seconds(chapter), 1)
        print(f"{chapter.stem:20} {figures[chapter.stem]:6.0f} s")
    if path is not None:
        settings = {"threads": torch.get_num_threads(), "seed": 0}
        write_record(
            path, f"python -m benchmarks.chapters --json {path.as_posix()}", {"settings": settings, "seconds": figures}
        )


if __name__ == "__main__":
    main()
