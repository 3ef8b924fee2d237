"""Figures in one style. Every function takes arrays and an axis, draws on it, and gives it back.

Arrays may be tensors, on any device, with or without gradients, or lists of either. Nothing here knows of models or
data sets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from cycler import cycler
from matplotlib.axes import Axes
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

#: Okabe and Ito's palette, told apart with any colour vision; ten entries, the last two greys.
PALETTE = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#F0E442", "#000000", "#999999", "#555555",
)  # fmt: skip
#: Line styles that go with the palette, so that curves differ without colour as well.
LINE_STYLES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))


def use_style() -> None:
    """Set the book's figure style for this session: palette, sizes, light grid; in a notebook, twice the dots."""
    plt.rcParams.update(
        {
            "axes.prop_cycle": cycler(color=PALETTE),
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.alpha": 0.3,
            "grid.linewidth": 0.6,
            "axes.axisbelow": True,
            "axes.titlesize": "medium",
            "figure.dpi": 100,
            "figure.constrained_layout.use": True,
            "savefig.dpi": 100,
            "image.cmap": "gray",
            "legend.frameon": False,
        }
    )
    if "inline" in plt.get_backend():
        from matplotlib_inline.config import InlineBackend

        # Twice the dots, shown at the same size: sharp on any screen.
        InlineBackend.instance().figure_formats = {"retina"}


def line_style(index: int) -> dict[str, Any]:
    """Colour and dashes of one of several curves, for runs that share them across panels.

    Args:
        index: Which curve, from 0.

    Returns:
        Keyword arguments for ``Axes.plot``.

    Source: chapter "How a VAE collapses".
    """
    return {"color": PALETTE[index % len(PALETTE)], "linestyle": LINE_STYLES[index % len(LINE_STYLES)]}


def image_grid(images: Tensor | ArrayLike, ax: Axes | None = None, gap: int = 2) -> Axes:
    """Images side by side, in rows and columns.

    Args:
        images: ``uint8``, or values in [0, 1]; shape (rows, columns, C, H, W) with C 1 or 3.
        ax: Where to draw; the current axis if left out.
        gap: Pixels between images.

    Returns:
        The axis, with a column's centre at each x tick and a row's at each y tick, ticks hidden.

    Raises:
        ValueError: If the shape does not fit.

    Source: Gaujac, Feige and Barber (2018), figure 2; chapter "Training the GM-WAE".
    """
    array = _pixels(images)
    if array.ndim != 5 or array.shape[2] not in (1, 3) or array.size == 0:
        raise ValueError(f"images must have shape (rows, columns, C, H, W) with C 1 or 3, got {array.shape}")
    rows, columns, channels, height, width = array.shape
    canvas = np.ones((rows * (height + gap) - gap, columns * (width + gap) - gap, channels))
    for row in range(rows):
        for column in range(columns):
            top, left = row * (height + gap), column * (width + gap)
            canvas[top : top + height, left : left + width] = array[row, column].transpose(1, 2, 0)
    ax = ax or plt.gca()
    ax.imshow(canvas.squeeze(-1) if channels == 1 else canvas, vmin=0, vmax=1, interpolation="nearest")
    ax.set_xticks([column * (width + gap) + (width - 1) / 2 for column in range(columns)], [])
    ax.set_yticks([row * (height + gap) + (height - 1) / 2 for row in range(rows)], [])
    ax.tick_params(length=0)
    ax.grid(False)
    ax.spines[:].set_visible(False)
    return ax


def reconstruction_grid(
    x: Tensor | ArrayLike, x_hat: Tensor | ArrayLike, columns: int = 10, ax: Axes | None = None
) -> Axes:
    """Data in the odd rows (the first, the third ...), its reconstructions below in the even ones.

    Args:
        x: Data, ``uint8`` or in [0, 1], shape (N, C, H, W), N a multiple of ``columns``.
        x_hat: Reconstructions, of the same shape.
        columns: Images in each row.
        ax: Where to draw; the current axis if left out.

    Returns:
        The axis, with the rows named.

    Raises:
        ValueError: If the shapes differ or N is no multiple of ``columns``.

    Source: Gaujac, Feige and Barber (2018), figure 2a; chapter "Training the GM-WAE".
    """
    data, reconstructions = _pixels(x), _pixels(x_hat)
    if data.shape != reconstructions.shape:
        raise ValueError(f"x and x_hat must have the same shape, got {data.shape} and {reconstructions.shape}")
    if data.ndim != 4 or len(data) == 0 or columns < 1 or len(data) % columns:
        raise ValueError(f"x must have shape (N, C, H, W) with N a multiple of {columns}, got {data.shape}")
    pairs = np.stack([data, reconstructions]).reshape(2, -1, columns, *data.shape[1:])  # (2, rows, columns, C, H, W)
    rows = pairs.swapaxes(0, 1).reshape(-1, columns, *data.shape[1:])
    ax = image_grid(rows, ax)
    ax.set_yticks(ax.get_yticks(), ["data", "model"] * (len(rows) // 2))
    return ax


def posterior_heatmap(
    matrix: Tensor | ArrayLike,
    ax: Axes | None = None,
    *,
    label_names: Sequence[str] = (),
    component_names: Sequence[str] = (),
) -> Axes:
    """Mean q_D(k|x) for each label as shades, with the larger values written in.

    Args:
        matrix: Shape (labels, K), values in [0, 1].
        ax: Where to draw; the current axis if left out.
        label_names: Names of the rows; their numbers if left out.
        component_names: Names of the columns; their numbers if left out.

    Returns:
        The axis.

    Raises:
        ValueError: If the shape does not fit.

    Source: Gaujac, Feige and Barber (2018), figure 5; chapter "Training the GM-WAE".
    """
    values = _array(matrix).astype(float)
    if values.ndim != 2 or values.size == 0:
        raise ValueError(f"matrix must have shape (labels, K), got {values.shape}")
    ax = ax or plt.gca()
    ax.imshow(values, vmin=0, vmax=1, cmap="cividis", aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        if value >= 0.05:
            shade = "black" if value > 0.6 else "white"
            ax.text(column, row, f"{value:.2f}".lstrip("0"), ha="center", va="center", color=shade, fontsize=8)
    labels, components = values.shape
    ax.set_xticks(range(components), component_names if len(component_names) else map(str, range(components)))
    ax.set_yticks(range(labels), label_names if len(label_names) else map(str, range(labels)))
    ax.set(xlabel="component k", ylabel="label")
    ax.grid(False)
    return ax


def learning_curves(
    terms: Mapping[str, Tensor | ArrayLike], ax: Axes | None = None, *, smooth: int = 50, **kwargs: Any
) -> Axes:
    """One curve for each term: a running mean over the steps.

    Args:
        terms: Arrays of shape (steps,), by name, such as a :class:`gmlvm.History`.
        ax: Where to draw; the current axis if left out.
        smooth: Steps in the running mean, at least 1; half of the steps if there are fewer than twice as many, so that
            a curve is left.
        **kwargs: Passed on to ``Axes.plot``.

    Returns:
        The axis, with a legend where there is more than one term.

    Raises:
        TypeError: If ``terms`` is no mapping or ``smooth`` no integer.
        ValueError: If there are no terms, one is not of shape (steps,) or has no step, or ``smooth`` is below 1.

    Source: Gaujac, Feige and Barber (2018), figure 1; chapter "Training the GM-WAE".
    """
    if not isinstance(terms, Mapping):
        raise TypeError(f"terms must be a mapping from names to arrays, such as a History; got {type(terms).__name__}")
    if isinstance(smooth, bool) or not isinstance(smooth, Integral):
        raise TypeError(f"smooth must be an integer, got {smooth!r}")
    if smooth < 1:
        raise ValueError(f"smooth must be at least 1, got {smooth}")
    arrays = _rows(terms, "step")
    if not arrays:
        raise ValueError("terms must name at least one array, got none")
    ax = ax or plt.gca()
    for index, (name, array) in enumerate(arrays.items()):
        window = min(int(smooth), max(len(array) // 2, 1))
        means = np.convolve(array, np.full(window, 1 / window), mode="valid")
        style = {"linestyle": LINE_STYLES[index % len(LINE_STYLES)], "label": name, **kwargs}
        ax.plot(np.arange(window, len(array) + 1), means, **style)
    ax.set_xlabel("step")
    if len(arrays) > 1:
        ax.legend()
    return ax


def seed_strip(
    values: Mapping[str, Tensor | ArrayLike],
    ax: Axes | None = None,
    *,
    color: str | Mapping[str, str] = PALETTE[0],
    bar: str | None = "black",
) -> Axes:
    """A row for each name, a point for each seed, the mean a bar.

    Args:
        values: A figure of each run, shape (seeds,), by name; the first name's row is on top.
        ax: Where to draw; the current axis if left out.
        color: Of the points, or of those of a name, the first of the palette for names that are left out.
        bar: Colour of the means; None is that of the points, where a row has points of two kinds.

    Returns:
        The axis, with the names at its y ticks.

    Raises:
        TypeError: If ``values`` is no mapping.
        ValueError: If there are no names, or one has no values of shape (seeds,).

    Source: chapter "A contest".
    """
    if not isinstance(values, Mapping):
        raise TypeError(f"values must be a mapping from names to figures of each seed, got {type(values).__name__}")
    arrays = _rows(values, "seed")
    if not arrays:
        raise ValueError("values must name at least one row, got none")
    ax = ax or plt.gca()
    for row, (name, array) in enumerate(arrays.items()):
        place = row + np.linspace(-0.2, 0.2, len(array)) if len(array) > 1 else [row]
        own = color if isinstance(color, str) else color.get(name, PALETTE[0])
        ax.plot(array, place, "o", markersize=5, color=own, alpha=0.85)
        ax.plot([array.mean()] * 2, [row - 0.35, row + 0.35], color=bar or own)
    ax.set_yticks(range(len(arrays)), list(arrays))
    ax.set_ylim(len(arrays) - 0.5, -0.5)
    return ax


def _rows(values: Mapping[str, Tensor | ArrayLike], unit: str) -> dict[str, NDArray[np.float64]]:
    """Arrays by name, each with a value for one unit or more."""
    arrays = {name: _array(row).astype(float) for name, row in values.items()}
    for name, array in arrays.items():
        if array.ndim != 1 or len(array) == 0:
            raise ValueError(f"{name} must have shape ({unit}s,), one {unit} or more, got {array.shape}")
    return arrays


def _array(values: Tensor | ArrayLike) -> NDArray[Any]:
    """What can be drawn, in the memory of the CPU."""
    if isinstance(values, (list, tuple)):
        return np.array([_array(value) for value in values])
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        return (values.float() if values.dtype == torch.bfloat16 else values).numpy()  # which NumPy doesn't have
    return np.asarray(values)


def _pixels(images: Tensor | ArrayLike) -> NDArray[np.float64]:
    """Images as values in [0, 1]."""
    array = _array(images)
    return array / 255 if array.dtype == np.uint8 else array.astype(float)
