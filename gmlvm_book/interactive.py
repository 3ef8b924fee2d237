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
# A mark differs from what is behind it by at least so much (WCAG 2.2, 1.4.11).
_CONTRAST = 3.0
_BACKGROUNDS = {"light": "#FFFFFF", "dark": "#14181E"}
_PAGE = Template(
    """<div id="$name" style="position:relative;max-width:640px">
<canvas width="1280" height="1120" tabindex="0" role="img" aria-label="$description"
 style="width:100%;border:1px solid #888;border-radius:4px;touch-action:pan-y"></canvas>
<figure style="display:none;position:absolute;margin:0;padding:4px;background:#fff;color:#000;border:1px solid #555;
border-radius:4px;pointer-events:none;white-space:nowrap;font:13px sans-serif;text-align:center">
<div style="width:84px;height:84px;margin:auto;image-rendering:pixelated"></div><span></span></figure>
<p role="status" style="position:absolute;width:1px;height:1px;margin:0;overflow:hidden;clip-path:inset(50%)"></p></div>
<script>(() => {
const root = document.getElementById("$name"), page = document.documentElement, data = $data;
const canvas = root.querySelector("canvas"), card = root.querySelector("figure"), pen = canvas.getContext("2d");
const place = ([x, y]) => [24 + x * 592, 24 + (1 - y) * 512];
const points = data.points.map(place), size = $columns * 84, tile = card.firstElementChild;
tile.style.background = `url(data:image/png;base64,$${data.sprite}) 0 0 / $${size}px auto`;
pen.scale(2, 2);  // sharp on screens with twice the dots
let shown = -1;
function draw() {
  const theme = page.dataset.theme === "dark" ? "dark" : "light", inks = data.inks[theme];
  canvas.style.background = data.backgrounds[theme];
  pen.clearRect(0, 0, 640, 560);
  pen.fillStyle = theme === "dark" ? "#48566b" : "#d4d4d4";
  for (const [x, y] of data.background.map(place)) pen.fillRect(x - 1.5, y - 1.5, 3, 3);
  pen.textAlign = "center"; pen.textBaseline = "middle";
  points.forEach(([x, y], i) => {
    pen.font = (i === shown ? "bold 22px" : "bold 11px") + " sans-serif";
    pen.fillStyle = inks[data.labels[i] % inks.length];
    pen.fillText(data.labels[i], x, y);
  });
}
function show(i) {
  if (i === shown) return;
  shown = i; draw();
  card.style.display = i < 0 ? "none" : "block";
  root.lastElementChild.textContent = i < 0 ? "" : `Image $${i + 1} of $${points.length}: $${data.names[i]}`;
  if (i < 0) return;
  const scale = canvas.clientWidth / 640, [x, y] = points[i].map(v => v * scale);
  tile.style.backgroundPosition = `$${-(i % $columns) * 84}px $${-Math.floor(i / $columns) * 84}px`;
  card.lastElementChild.textContent = data.names[i];
  card.style.left = Math.max(0, Math.min(x + 14, canvas.clientWidth - card.offsetWidth)) + "px";
  card.style.top = Math.max(0, y > 130 ? y - 124 : y + 14) + "px";
}
function find(e) {
  const box = canvas.getBoundingClientRect(), scale = 640 / box.width;
  const x = (e.clientX - box.left) * scale, y = (e.clientY - box.top) * scale;
  // A finger is broader than a pointer.
  let best = -1, least = e.pointerType === "mouse" ? 400 : 1600 * scale;
  points.forEach(([a, b], i) => { const d = (a - x) ** 2 + (b - y) ** 2; if (d < least) [best, least] = [i, d]; });
  show(best);
}
canvas.addEventListener("pointermove", find);
canvas.addEventListener("pointerdown", find);
// A lifted finger leaves, and the image stays until the next tap.
canvas.addEventListener("pointerleave", e => { if (e.pointerType === "mouse") show(-1); });
canvas.addEventListener("keydown", e => {
  const step = {ArrowRight: 1, ArrowLeft: -1}[e.key];
  if (step) { show(((shown < 0 && step < 0 ? 0 : shown) + step + points.length) % points.length); e.preventDefault(); }
  if (e.key === "Escape") show(-1);
});
new MutationObserver(draw).observe(page, {attributeFilter: ["data-theme"]});
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
    description: str = "Map of images; point at a label, or press the arrow keys, to see its image.",
) -> str:
    """A map of images in the plane: each is drawn as its label, and appears when the pointer comes near.

    A tap does the same. Arrow keys go from image to image once the map has the focus, Escape hides the image; a screen
    reader says which is shown. The map is dark where the book is. For ``IPython.display.HTML``.

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
        "backgrounds": _BACKGROUNDS,
        "inks": {theme: [_ink(color, behind) for color in PALETTE] for theme, behind in _BACKGROUNDS.items()},
        "sprite": _sprite(pictures[:, 0]),
    }
    # "</" could end the script early.
    text = json.dumps(data, separators=(",", ":")).replace("</", "<\\/")
    return _PAGE.substitute(name=name, description=html.escape(description), data=text, columns=_COLUMNS)


def _ink(color: str, behind: str) -> str:
    """A colour, made darker or lighter until it can be read on what is behind it."""
    rgb, target = _rgb(color), 1.0 - np.round(_rgb(behind))
    if np.ptp(rgb) == 0 and target[0] == 1:
        rgb = 1 - rgb  # black on white is white on black; greys stay apart
    for share in np.linspace(0, 1, 51):
        mixed = rgb + share * (target - rgb)
        high, low = sorted((_luminance(mixed), _luminance(_rgb(behind))), reverse=True)
        if (high + 0.05) / (low + 0.05) >= _CONTRAST:
            break
    return "#" + "".join(f"{round(255 * value):02X}" for value in mixed)


def _rgb(color: str) -> NDArray[np.float64]:
    """Red, green and blue of ``#RRGGBB``, each in [0, 1]."""
    return np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])


def _luminance(rgb: NDArray[np.float64]) -> float:
    """Relative luminance as WCAG 2.2 defines it."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


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
