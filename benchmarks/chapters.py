"""How long each chapter takes: ``python -m benchmarks.chapters --json FILE`` runs them all, and writes the seconds."""

from __future__ import annotations

import time
from pathlib import Path

import nbformat
import torch
from nbclient import NotebookClient

from benchmarks.output import parse_output

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
    output = parse_output("python -m benchmarks.chapters", __doc__)
    figures = {}
    for chapter in sorted(BOOK.glob("*.ipynb")):
        figures[chapter.stem] = round(seconds(chapter), 1)
        print(f"{chapter.stem:20} {figures[chapter.stem]:6.0f} s")
    output.write({"settings": {"threads": torch.get_num_threads(), "seed": 0}, "seconds": figures})


if __name__ == "__main__":
    main()
