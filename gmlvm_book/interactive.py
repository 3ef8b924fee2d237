"""Figures that answer to the pointer: plain HTML with a few lines of script, no server, nothing from outside."""

from __future__ import annotations

import base64
import html
import json
import math
import re
from collections.abc import Mapping
from io import BytesIO
from string import Template

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from gmlvm.plots import PALETTE

# The thumbnail of an image has at most so many pixels a side, and so many shades: all of MNIST's test images come to
# 450 kB, and their strokes stay smooth.
_SIDE, _SHADES = 20, 4
# Points lie on a grid of so many steps each way.
_GRID = 1000
# A mark differs from what is behind it by at least so much (WCAG 2.2, 1.4.11).
_CONTRAST = 3.0
_BACKGROUNDS = {"light": "#FFFFFF", "dark": "#14181E"}
_FILTER = Template(
    """<label><input type="checkbox"> only those whose $names differ, $count of $total</label>
"""
)
_PANEL = Template(
    """<div>by $name<div><canvas width="800" height="800" tabindex="0" role="img" aria-label="$description By $name.">
</canvas><i></i></div></div>
"""
)
_PAGE = Template(
    """<div id="$name"><style>
#$name > div {display: flex; flex-wrap: wrap; gap: 12px; margin-top: 8px}
#$name > div > div {flex: 1 1 290px; max-width: 480px}
#$name > div > div > div {position: relative}
#$name canvas {display: block; box-sizing: border-box; width: 100%; border: 1px solid #888; border-radius: 4px;
  outline-offset: -3px; touch-action: pan-y}
#$name i {display: none; position: absolute; box-sizing: border-box; width: 16px; height: 16px; margin: -8px;
  border: 2px solid #000; outline: 2px solid #fff; border-radius: 50%; pointer-events: none}
#$name figure {display: none; position: absolute; margin: 0; padding: 4px; background: #fff; color: #000;
  border: 1px solid #555; border-radius: 4px; pointer-events: none; white-space: nowrap; font: 13px sans-serif;
  text-align: center}
#$name figure div {width: 84px; height: 84px; margin: auto}
#$name p {position: absolute; width: 1px; height: 1px; margin: 0; overflow: hidden; clip-path: inset(50%)}
</style>
$filter<div>
$panels</div>
<figure><div></div><span></span></figure>
<p role="status"></p></div>
<script>(() => {
const root = document.getElementById("$name"), page = document.documentElement, data = $data;
const only = root.querySelector("input"), card = root.querySelector("figure"), says = root.querySelector("p");
const place = grid => Float32Array.from(grid, v => 14 + v * 372 / data.grid);
const x = place(data.x), y = place(data.y), tile = card.firstElementChild;
const all = Uint32Array.from(x.keys()), apart = Uint32Array.from(data.apart);
const panels = [...root.querySelectorAll("canvas")].map((canvas, i) =>
  ({canvas, pen: canvas.getContext("2d"), ring: canvas.nextElementSibling, ...data.panels[i]}));
let seen = all, shown = -1;
tile.style.background = `url(data:image/webp;base64,$${data.sprite}) 0 0 / $${data.columns * 84}px auto`;
function draw() {
  const theme = page.dataset.theme === "dark" ? "dark" : "light", inks = data.inks[theme];
  for (const {canvas, pen, labels, centres} of panels) {
    const square = i => {
      pen.fillStyle = inks[labels[i] % inks.length];
      pen.fillRect(x[i] - 1, y[i] - 1, 2, 2);
    };
    const write = (i, size, ink) => {
      pen.font = `bold $${size}px sans-serif`;
      pen.fillStyle = ink;
      pen.strokeText(labels[i], x[i], y[i]);
      pen.fillText(labels[i], x[i], y[i]);
    };
    canvas.style.background = pen.strokeStyle = data.backgrounds[theme];
    pen.clearRect(0, 0, 400, 400);
    pen.globalAlpha = 0.25;
    if (seen !== all) all.forEach(square);
    pen.globalAlpha = 1;
    const many = seen.length > 500;
    seen.forEach(many ? square : i => write(i, 11, inks[labels[i] % inks.length]));
    if (many) centres.forEach(i => write(i, 20, theme === "dark" ? "#fff" : "#000"));
  }
}
function show(i, canvas) {
  if (i === shown && canvas?.parentElement === card.parentElement) return;
  shown = i;
  for (const {ring} of panels) {
    ring.style.display = i < 0 ? "none" : "block";
    ring.style.left = x[i] / 4 + "%";
    ring.style.top = y[i] / 4 + "%";
  }
  card.style.display = i < 0 ? "none" : "block";
  card.lastElementChild.textContent = i < 0 ? "" : panels.map(({name, labels}) => `$${name} $${labels[i]}`).join(", ");
  says.textContent = i < 0 ? "" : `Image $${i + 1} of $${all.length}: $${card.textContent}`;
  if (i < 0) return;
  tile.style.backgroundPosition = `$${-(i % data.columns) * 84}px $${-Math.floor(i / data.columns) * 84}px`;
  canvas.parentElement.append(card);
  const scale = canvas.clientWidth / 400, left = x[i] * scale, top = y[i] * scale;
  card.style.left = Math.max(0, Math.min(left + 14, canvas.clientWidth - card.offsetWidth)) + "px";
  card.style.top = Math.max(0, top > 130 ? top - 124 : top + 14) + "px";
}
function find(e) {
  const box = e.target.getBoundingClientRect(), scale = 400 / box.width;
  const left = (e.clientX - box.left) * scale, top = (e.clientY - box.top) * scale;
  // A finger is broader than a pointer.
  let best = -1, least = e.pointerType === "mouse" ? 400 : 1600 * scale;
  for (const i of seen) {
    const d = (x[i] - left) ** 2 + (y[i] - top) ** 2;
    if (d < least) [best, least] = [i, d];
  }
  show(best, e.target);
}
for (const {canvas, pen} of panels) {
  pen.scale(2, 2);  // sharp on screens with twice the dots
  pen.textAlign = "center"; pen.textBaseline = "middle"; pen.lineWidth = 4; pen.lineJoin = "round";
  canvas.addEventListener("pointermove", find);
  canvas.addEventListener("pointerdown", find);
  // A lifted finger leaves, and the image stays until the next tap.
  canvas.addEventListener("pointerleave", e => { if (e.pointerType === "mouse") show(-1); });
  canvas.addEventListener("keydown", e => {
    const step = {ArrowRight: 1, ArrowLeft: -1}[e.key], at = seen.indexOf(shown);
    if (step) {
      show(seen[((at < 0 && step < 0 ? 0 : at) + step + seen.length) % seen.length], canvas);
      e.preventDefault();
    }
    if (e.key === "Escape") show(-1);
  });
}
only?.addEventListener("change", () => { seen = only.checked ? apart : all; show(-1); draw(); });
new MutationObserver(draw).observe(page, {attributeFilter: ["data-theme"]});
draw();
})();</script>"""
)


def hover_map(
    points: ArrayLike,
    images: ArrayLike,
    labels: Mapping[str, ArrayLike],
    *,
    name: str = "hover-map",
    description: str = "Map of images; point at a mark, or press the arrow keys, to see its image.",
) -> str:
    """Maps of images in the plane, one for each kind of label; an image appears when the pointer comes near.

    They stand side by side, or on a phone one below the other. Each shows the same points, coloured by its labels.
    Where there are few points each is drawn as its label; where there are many, as a square, with a large label in the
    middle of those that share it. What is pointed at in one map is marked in all. A tap does the same. Arrow keys go
    from image to image once a map has the focus, Escape hides the image; a screen reader says which is shown. Where an
    image's labels differ, a box to tick leaves only such images. The maps are dark where the book is. For
    ``IPython.display.HTML``.

    Args:
        points: Where each image lies, shape (N, 2).
        images: Values in [0, 1], shape (N, 1, H, H); shown with at most 20 pixels a side, in four shades.
        labels: By the name of each kind, the labels of the images, integers from 0, shape (N,). They choose the
            colour, and are written under an image.
        name: Id of the element, unique on its page: letters, digits and hyphens.
        description: What the maps show, for those who cannot see them.

    Returns:
        HTML with its data and script inside.

    Raises:
        ValueError: If a shape or a value does not fit, the lengths differ, or ``name`` has other characters.

    Source: chapter "Walking the latent space".
    """
    if not re.fullmatch(r"[A-Za-z0-9-]+", name):
        raise ValueError(f"name must be made of letters, digits and hyphens, got {name!r}")
    plane = np.asarray(points, dtype=float)
    pictures = np.asarray(images)
    if not isinstance(labels, Mapping) or not labels:
        raise ValueError(f"labels must be a mapping from names to labels, got {labels!r}")
    kinds = {kind: np.asarray(values) for kind, values in labels.items()}
    if plane.ndim != 2 or plane.shape[1] != 2:
        raise ValueError(f"points must have shape (N, 2), got {plane.shape}")
    if not np.isfinite(plane).all():
        raise ValueError(f"points must be finite, got {plane[~np.isfinite(plane).all(1)]}")
    if pictures.ndim != 4 or pictures.shape[1] != 1 or pictures.shape[2] != pictures.shape[3] or pictures.size == 0:
        raise ValueError(f"images must have shape (N, 1, H, H), got {pictures.shape}")
    if not (pictures.min() >= 0 and pictures.max() <= 1):
        raise ValueError(f"images must lie in [0, 1], got {pictures.min()} to {pictures.max()}")
    for kind, values in kinds.items():
        if values.ndim != 1 or not np.issubdtype(values.dtype, np.integer) or (values < 0).any():
            raise ValueError(f"labels must be integers from 0, of shape (N,), got {kind!r}: {values!r}")
    lengths = {"points": len(plane), "images": len(pictures)} | {kind: len(values) for kind, values in kinds.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"points, images and labels must be equally many, got {lengths}")
    columns = math.ceil(math.sqrt(len(plane)))
    span = np.ptp(plane, axis=0)
    span[span == 0] = 1
    grid = np.rint((plane - plane.min(0)) / span * _GRID).astype(int)
    apart = np.flatnonzero(np.ptp(list(kinds.values()), axis=0))
    data = {
        "grid": _GRID,
        "x": grid[:, 0].tolist(),
        "y": (_GRID - grid[:, 1]).tolist(),  # a screen's rows go down
        "panels": [
            {"name": kind, "labels": values.tolist(), "centres": _centres(grid, values)}
            for kind, values in kinds.items()
        ],
        "apart": apart.tolist(),
        "backgrounds": _BACKGROUNDS,
        "inks": {theme: [_ink(color, behind) for color in PALETTE] for theme, behind in _BACKGROUNDS.items()},
        "columns": columns,
        "sprite": _sprite(pictures[:, 0], columns),
    }
    names = [html.escape(kind) for kind in kinds]
    about = html.escape(description)
    return _PAGE.substitute(
        name=name,
        filter=_FILTER.substitute(names=" and ".join(names), count=len(apart), total=f"{len(plane):,}")
        if len(apart)
        else "",
        panels="".join(_PANEL.substitute(name=kind, description=about) for kind in names),
        # "</" could end the script early.
        data=json.dumps(data, separators=(",", ":")).replace("</", "<\\/"),
    )


def _centres(places: NDArray[np.int_], labels: NDArray[np.int_]) -> list[int]:
    """Of each label the point that is nearest to the median of its points."""
    found = []
    for label in np.unique(labels):
        (members,) = np.nonzero(labels == label)
        offsets = places[members] - np.median(places[members], axis=0)
        found.append(int(members[np.square(offsets).sum(1).argmin()]))
    return found


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


def _sprite(images: NDArray[np.floating], columns: int) -> str:
    """All images (N, H, H) as thumbnails in one lossless WebP, black on white, base64."""
    side = min(images.shape[1], _SIDE)
    sheet = Image.new("L", (columns * side, -(-len(images) // columns) * side), "white")
    for index, image in enumerate(images):
        tile = Image.fromarray(np.rint(255 * (1 - image)).astype(np.uint8))
        place = index % columns * side, index // columns * side
        sheet.paste(tile.resize((side, side), Image.Resampling.LANCZOS), place)
    shades = np.rint(np.asarray(sheet) / 255 * (_SHADES - 1)) * 255 / (_SHADES - 1)
    out = BytesIO()
    Image.fromarray(shades.astype(np.uint8)).save(out, "WEBP", lossless=True, quality=100)
    return base64.b64encode(out.getvalue()).decode()
