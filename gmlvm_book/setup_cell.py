"""The first code cell of every chapter, which fetches and installs the book on Colab.

``python -m gmlvm_book.setup_cell book/*.ipynb`` writes it into chapters; ``make notebooks`` begins with that. The
repository's address is that of ``_config.yml``.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import nbformat
import yaml

# A folder with a package's name is found as a package, but has no origin. The clone has the name of none.
_CELL = '''\
# On Colab this fetches the book and installs it; elsewhere it does nothing.
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from subprocess import getstatusoutput


def shell(command):
    """Run a command; stop if it fails, and say why."""
    failed, output = getstatusoutput(command)
    if failed:
        sys.exit(f"The book can't be set up: {output}")


if not Path("../results").exists():
    if not Path("gmlvm-book").exists():
        repository = "REPOSITORY"
        shell(f"git clone -q --depth 1 {repository} gmlvm-book")
    os.chdir("gmlvm-book/book")
found = [find_spec(name) for name in ("gmlvm", "umap", "ot")]
if not all(spec and spec.origin for spec in found):
    shell(f'{sys.executable} -m pip install -q "..[start,transport]"')
'''
_GLUE = """
from gmlvm_book.numbers import glue  # puts numbers of this run into the text
"""


def setup_cell(repository: str, code: str = "") -> str:
    """The source of the cell.

    Args:
        repository: The address to clone.
        code: What follows it in the chapter; one that puts numbers into the text gets the function for it.
    """
    return (_CELL.replace("REPOSITORY", repository) + _GLUE * bool(re.search(r"\bglue\(", code))).strip()


def write(path: Path, repository: str) -> None:
    """Write the cell into a chapter, in place of its first code cell.

    Args:
        path: The notebook.
        repository: The address to clone.
    """
    notebook = nbformat.read(path, as_version=4)
    first, *others = (cell for cell in notebook.cells if cell.cell_type == "code")
    first.source = setup_cell(repository, "\n".join(cell.source for cell in others))
    nbformat.write(notebook, path)


def main() -> None:
    """Write the cell into the chapters that are named."""
    parser = argparse.ArgumentParser(prog="python -m gmlvm_book.setup_cell", description=__doc__)
    parser.add_argument("chapters", nargs="+", type=Path, help="notebooks")
    repository = yaml.safe_load(Path("_config.yml").read_text(encoding="utf-8"))["repository"]["url"]
    for path in parser.parse_args().chapters:
        write(path, repository)


if __name__ == "__main__":
    main()
