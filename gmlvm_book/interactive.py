"""Figures that answer to the pointer: plain HTML with a few lines of script, no server, nothing from outside."""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Sequence
from io import BytesIO
from string import Template

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from gmlvm.plots import PALETTE

# Images side by side in the one picture that holds them all.
_COLUMNS = 40
# Yellow and light grey letters cannot be read on white.
_INK = {"#F0E442": "#8A7500", "#999999": "#777777"}
_PAGE = Template(
    """<div id="$name" style="position:relative;max-width:640px">
<canvas width="640" height="560" tabindex="0" role="img" aria-label="$description"
 style="width:100%;background:#fff;border:1px solid #ccc;border-radius:4px"></canvas>
<figure style="display:none;position:absolute;margin:0;padding:4px;background:#fff;color:#000;border:1px solid #555;
border-radius:4px;pointer-events:none;white-space:nowrap;font:13px sans-serif;text-align:center">
<div style="width:84px;height:84px;margin:auto;image-rendering:pixelated"></div><span></span></figure></div>
<script>(() => {
const root = document.getElementById("$name"), data = $data;
const canvas = root.querySelector("canvas"), card = root.querySelector("figure"), pen = canvas.getContext("2d");
const place = ([x, y]) => [24 + x * 592, 24 + (1 - y) * 512];
const points = data.points.map(place), size = $columns * 84, tile = card.firstElementChild;
tile.style.background = `url(data:image/png;base64,$${data.sprite}) 0 0 / $${size}px auto`;
let shown = -1;
function draw() {
  pen.clearRect(0, 0, 640, 560);
  pen.fillStyle = "#d4d4d4";
  for (const [x, y] of data.background.map(place)) pen.fillRect(x - 1.5, y - 1.5, 3, 3);
  pen.textAlign = "center"; pen.textBaseline = "middle";
  points.forEach(([x, y], i) => {
    pen.font = (i === shown ? "bold 22px" : "bold 11px") + " sans-serif";
    pen.fillStyle = data.palette[data.labels[i] % data.palette.length];
    pen.fillText(data.labels[i], x, y);
  });
}
function show(i) {
  if (i === shown) return;
  shown = i; draw();
  card.style.display = i < 0 ? "none" : "block";
  if (i < 0) return;
  const scale = canvas.clientWidth / 640, [x, y] = points[i].map(v => v * scale);
  tile.style.backgroundPosition = `$${-(i % $columns) * 84}px $${-Math.floor(i / $columns) * 84}px`;
  card.lastElementChild.textContent = data.names[i];
  card.style.left = Math.max(0, Math.min(x + 14, canvas.clientWidth - 100)) + "px";
  card.style.top = Math.max(0, y > 130 ? y - 124 : y + 14) + "px";
}
canvas.addEventListener("pointermove", e => {
  const box = canvas.getBoundingClientRect(), scale = 640 / box.width;
  const x = (e.clientX - box.left) * scale, y = (e.clientY - box.top) * scale;
  let best = -1, least = 400;
  points.forEach(([a, b], i) => { const d = (a - x) ** 2 + (b - y) ** 2; if (d < least) [best, least] = [i, d]; });
  show(best);
});
canvas.addEventListener("pointerleave", () => show(-1));
canvas.addEventListener("keydown", e => {
  const step = {ArrowRight: 1, ArrowLeft: -1}[e.key];
  if (step) { show(((shown < 0 && step < 0 ? 0 : shown) + step + points.length) % points.length); e.preventDefault(); }
});
draw();
})();</script>"""
)


def hover_map(
    points: ArrayLike,
    images: ArrayLike,
    labels: Sequence[int],
    names: Sequence[str],
    background: ArrayLike = (),
    *,
    name: str = "hover-map",
    description: str = "Map of images; point at a label to see its image.",
) -> str:
    """A map of images in the plane: each is drawn as its label, and appears when the pointer comes near.

    Arrow keys go from image to image once the map has the focus. For ``IPython.display.HTML``.

    Args:
        points: Where each image lies, shape (N, 2).
        images: Values in [0, 1], shape (N, 1, H, H).
        labels: What is drawn for each image, integers from 0, N of them; they choose the colour too.
        names: What is written under each image, N of them.
        background: Further points, drawn small and grey, shape (M, 2).
        name: Id of the element, unique on its page: letters, digits and hyphens.
        description: What the map shows, for those who cannot see it.

    Returns:
        HTML with its data and script inside.

    Raises:
        ValueError: If a shape does not fit, the lengths differ, or ``name`` has other characters.

    Source: chapter "Walking the latent space".
    """
    if not re.fullmatch(r"[A-Za-z0-9-]+", name):
        raise ValueError(f"name must be made of letters, digits and hyphens, got {name!r}")
    plane = np.asarray(points, dtype=float)
    grey = np.asarray(background, dtype=float).reshape(-1, 2)
    pictures = np.asarray(images, dtype=float)
    if plane.ndim != 2 or plane.shape[1] != 2 or len(plane) == 0:
        raise ValueError(f"points must have shape (N, 2), got {plane.shape}")
    if pictures.ndim != 4 or pictures.shape[1] != 1 or pictures.shape[2] != pictures.shape[3]:
        raise ValueError(f"images must have shape (N, 1, H, H), got {pictures.shape}")
    lengths = {"points": len(plane), "images": len(pictures), "labels": len(labels), "names": len(names)}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"points, images, labels and names must be equally many, got {lengths}")
    both = np.concatenate([plane, grey])
    low, span = both.min(0), np.ptp(both, axis=0)
    span[span == 0] = 1
    data = {
        "points": ((plane - low) / span).round(4).tolist(),
        "background": ((grey - low) / span).round(4).tolist(),
        "labels": [int(label) for label in labels],
        "names": list(names),
        "palette": [_INK.get(color, color) for color in PALETTE],
        "sprite": _sprite(pictures[:, 0]),
    }
    # "</" could end the script early.
    text = json.dumps(data, separators=(",", ":")).replace("</", "<\\/")
    return _PAGE.substitute(name=name, description=html.escape(description), data=text, columns=_COLUMNS)


def _sprite(images: NDArray[np.float64]) -> str:
    """All images (N, H, W) in one PNG, black on white, base64."""
    count, height, width = images.shape
    rows = -(-count // _COLUMNS)
    tiles = np.zeros((rows * _COLUMNS, height, width))
    tiles[:count] = images
    sheet = tiles.reshape(rows, _COLUMNS, height, width).swapaxes(1, 2).reshape(rows * height, _COLUMNS * width)
    out = BytesIO()
    # Sixteen shades are enough for a thumbnail, and a third of the size.
    Image.fromarray((255 - np.rint(sheet * 15) * 17).astype(np.uint8)).save(out, "PNG", optimize=True)
    return base64.b64encode(out.getvalue()).decode()
