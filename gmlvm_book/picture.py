"""The picture of the README and of the book's first page: a figure of a chapter, as its last run drew it.

``python -m gmlvm_book.picture`` writes it; ``make notebooks`` ends with that.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path

_ROOT = Path(__file__).parents[1]
#: The chapter and the name of its figure.
SOURCE = _ROOT / "book" / "digits.ipynb", "fig-samples-digits"
PICTURE = _ROOT / "assets" / "samples.png"


def drawn(notebook: Path, name: str) -> bytes:
    """A figure in the outputs of a notebook, as PNG.

    Args:
        notebook: The file.
        name: Name of the figure.

    Raises:
        ValueError: If the notebook has no such figure, or it was not run.
    """
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        if cell["metadata"].get("mystnb", {}).get("figure", {}).get("name") == name:
            for output in cell["outputs"]:
                if "image/png" in output.get("data", {}):
                    return base64.b64decode(output["data"]["image/png"])
            raise ValueError(f"{notebook} was not run: its figure {name} has no picture")
    raise ValueError(f"{notebook} has no figure named {name}")


if __name__ == "__main__":
    PICTURE.write_bytes(drawn(*SOURCE))
