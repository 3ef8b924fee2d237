"""Figures of executed notebooks made light: 256 colours, which a drawn figure or a grey image does not exceed by much.

``python -m gmlvm_book.figures book/*.ipynb`` rewrites them in place, as ``make notebooks`` does.
A second run changes nothing.
"""

from __future__ import annotations

import argparse
import base64
import json
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

_COLOURS = 256


def lighten(png: bytes) -> bytes:
    """The same picture, opaque and in 256 colours, about a third as large.

    Args:
        png: A PNG. What is transparent in it is shown on white.
    """
    picture = Image.open(BytesIO(png))
    if picture.mode == "P":
        return png
    rgba = picture.convert("RGBA")
    opaque = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    out = BytesIO()
    opaque.quantize(_COLOURS, dither=Image.Dither.NONE).save(out, "PNG", optimize=True)
    return out.getvalue()


def lighten_notebook(path: Path) -> None:
    """Make every PNG among the outputs of a notebook light.

    Args:
        path: The file, rewritten in place.
    """
    notebook: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "image/png" in data:
                data["image/png"] = base64.b64encode(lighten(base64.b64decode(data["image/png"]))).decode()
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("notebooks", nargs="+", type=Path)
    for notebook_path in parser.parse_args().notebooks:
        lighten_notebook(notebook_path)
