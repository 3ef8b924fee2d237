"""Schematics: what has a shape is drawn. Every function draws on an axis and gives it back.

The drawings have a white ground, so that they can be read on a dark page as well; component k has the colour and the
marker that it has in all pictures of the toy.
"""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Circle, Ellipse, FancyBboxPatch, Rectangle
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from gmlvm.plots import PALETTE
from gmlvm_book.toy import MARKERS

_INK, _DATA, _NETWORK = "black", "#DDDDDD", "#CFE3F1"


def graphical_model(ax: Axes) -> Axes:
    """The generative model: component, code and image on a plate, with what they depend on outside of it.

    Args:
        ax: Where to draw.

    Returns:
        The axis.

    Source: notation page; chapter "Mixtures as latent variables".
    """
    _canvas(ax, 10, 4.4)
    ax.add_patch(FancyBboxPatch((0.6, 0.3), 8.8, 2.3, boxstyle="round,pad=0.1", fill=False, edgecolor=_INK))
    ax.text(9.3, 0.4, "for each image", ha="right", va="bottom")
    for name, x, fill in (("k", 1.9, "white"), ("z", 5.0, "white"), ("x", 8.1, _DATA)):
        _variable(ax, name, x, 1.6, fill)
    for name, x in (("$p_D$", 1.9), ("$m_k, s_k$", 5.0), ("$G$", 8.1)):
        ax.text(x, 4.0, name, ha="center", va="center")
        _arrow(ax, (x, 3.65), (x, 2.2))
    _arrow(ax, (2.5, 1.6), (4.4, 1.6))
    _arrow(ax, (5.6, 1.6), (7.5, 1.6))
    return ax


def who_feeds_what(ax: Axes) -> Axes:
    """Two encoders and the decoder: what each reads and what it gives. The decoder does not read the component.

    Args:
        ax: Where to draw.

    Returns:
        The axis.

    Source: notation page; chapter "Mixtures as latent variables".
    """
    _canvas(ax, 12.8, 5.4)
    _image(ax, "image\n$x$", 1.0, 1.6)
    _network(ax, "$q_D$", 3.6, 4.3)
    _variable(ax, "k", 5.8, 4.3)
    _network(ax, "$q_C$", 5.8, 1.6)
    _variable(ax, "z", 8.0, 1.6)
    _network(ax, "$G$", 9.7, 1.6)
    _image(ax, "image\n$G(z)$", 11.9, 1.6)
    _arrow(ax, (1.5, 2.3), (2.85, 4.1))
    _arrow(ax, (4.35, 4.3), (5.2, 4.3))
    _arrow(ax, (5.8, 3.7), (5.8, 2.15))
    for start, end in ((1.7, 5.05), (6.55, 7.4), (8.6, 8.95), (10.45, 11.2)):
        _arrow(ax, (start, 1.6), (end, 1.6))
    ax.plot([6.4, 9.3], [4.0, 2.35], ":", color=PALETTE[4], linewidth=1.5)
    ax.plot(7.85, 3.175, "x", color=PALETTE[4], markersize=12, markeredgewidth=2.5)
    ax.text(8.3, 3.5, "no arrow: the decoder\nsees $z$ alone", va="bottom")
    for x, text in ((3.6, "discrete encoder"), (5.8, "continuous encoder"), (9.7, "decoder")):
        y = 5.05 if x == 3.6 else 0.75
        ax.text(x, y, text, ha="center", va="center")
    return ax


def compared_by_penalty(ax: Axes, on: str) -> Axes:
    """What a penalty holds against what: codes of encoded images on the left, draws from the prior on the right.

    Args:
        ax: Where to draw.
        on: ``"pairs"``, a component at a time, or ``"codes"``, all at once and without their components.

    Returns:
        The axis.

    Raises:
        ValueError: If ``on`` is another word.

    Source: chapter "From transport to autoencoders".
    """
    if on not in ("pairs", "codes"):
        raise ValueError(f'on must be "pairs" or "codes", got {on!r}')
    _canvas(ax, 10, 5.4)
    for x, text in ((2.4, "encoded images"), (7.6, "the prior")):
        ax.text(x, 5.1, text, ha="center", va="center")
    rng = np.random.default_rng(0)
    # Three groups of encoded images; the encoder has given all of them component 0.
    middle = np.array([[-0.95, -0.5], [0.95, -0.5], [0.0, 0.75]])
    clouds = middle[:, None] + 0.24 * rng.normal(size=(2, 3, 14, 2))
    if on == "codes":
        for cloud, x in zip(clouds, (2.4, 7.6), strict=True):
            ax.add_patch(Ellipse((x, 2.4), 4.2, 4.2, facecolor="#F2F2F2", edgecolor="grey"))
            ax.plot(*(cloud.reshape(-1, 2) * (1.0, 1.3) + (x, 2.4)).T, "D", color="#555555", markersize=3.5)
        _compare(ax, 2.4, (4.6, 5.4), "$z$")
        return ax
    for k, y in enumerate((4.1, 2.5, 0.9)):
        encoded = clouds[0].reshape(-1, 2) if k == 0 else np.empty((0, 2))
        for places, x in ((encoded, 2.4), (clouds[1, k], 7.6)):
            color = PALETTE[k]
            ax.add_patch(Ellipse((x, y), 4.2, 1.4, facecolor="white", edgecolor=color, linewidth=1.5))
            places = places * (1.0, 0.45) + (x, y)
            ax.plot(*places.T, MARKERS[k], color=color, markersize=4, alpha=0.7, markeredgewidth=0)
        _compare(ax, y, (4.6, 5.4), f"$k={k}$")
    return ax


def plan(ax: Axes, x: NDArray[np.float64], y: NDArray[np.float64]) -> Axes:
    """Two clouds and the optimal plan between them: a line from every point to the one that it is paired with.

    Args:
        ax: Where to draw.
        x: Points, shape (N, 2).
        y: As many points, shape (N, 2).

    Returns:
        The axis.

    Source: chapter "Optimal transport".
    """
    squared = ((x[:, None] - y) ** 2).sum(-1)  # (N, N)
    for i, j in zip(*linear_sum_assignment(squared), strict=True):
        ax.plot([x[i, 0], y[j, 0]], [x[i, 1], y[j, 1]], color="grey", linewidth=1)
    return _two_clouds(ax, x, y)


def divergence(ax: Axes, x: NDArray[np.float64], y: NDArray[np.float64]) -> Axes:
    """The same clouds as a divergence sees them: each as a whole, no point with a partner.

    Args:
        ax: Where to draw.
        x: Points, shape (N, 2).
        y: Points, shape (M, 2).

    Returns:
        The axis.

    Source: chapter "Optimal transport".
    """
    for cloud, color in ((x, PALETTE[0]), (y, PALETTE[1])):
        values, axes = np.linalg.eigh(np.cov(cloud.T))
        width, height = 5 * np.sqrt(values)
        angle = float(np.degrees(np.arctan2(axes[1, 0], axes[0, 0])))
        shape = Ellipse((cloud[:, 0].mean(), cloud[:, 1].mean()), width, height, angle=angle)
        shape.set(facecolor=color, edgecolor=color, alpha=0.25)
        ax.add_patch(shape)
    arrow = {"arrowstyle": "<->", "color": _INK, "linewidth": 1.5}
    ax.annotate("", tuple(y.mean(0)), tuple(x.mean(0)), arrowprops=arrow, zorder=4)
    return _two_clouds(ax, x, y)


def _two_clouds(ax: Axes, x: NDArray[np.float64], y: NDArray[np.float64]) -> Axes:
    ax.plot(*x.T, "o", color=PALETTE[0], markersize=7, zorder=3)
    ax.plot(*y.T, "s", color=PALETTE[1], markersize=7, zorder=3)
    ax.set_aspect("equal")
    ax.set_axis_off()
    return ax


def _canvas(ax: Axes, width: float, height: float) -> None:
    """An empty canvas, on which a unit is as long as it is wide."""
    ax.set(xlim=(0, width), ylim=(0, height), aspect="equal")
    ax.set_axis_off()


def _variable(ax: Axes, name: str, x: float, y: float, fill: str = "white") -> None:
    ax.add_patch(Circle((x, y), 0.55, facecolor=fill, edgecolor=_INK))
    ax.text(x, y, f"${name}$", ha="center", va="center", size="large")


def _network(ax: Axes, name: str, x: float, y: float) -> None:
    shape = FancyBboxPatch((x - 0.65, y - 0.4), 1.3, 0.8, boxstyle="round,pad=0.1", facecolor=_NETWORK, edgecolor=_INK)
    ax.add_patch(shape)
    ax.text(x, y, name, ha="center", va="center", size="large")


def _image(ax: Axes, name: str, x: float, y: float) -> None:
    ax.add_patch(Rectangle((x - 0.7, y - 0.7), 1.4, 1.4, facecolor=_DATA, edgecolor=_INK))
    ax.text(x, y, name, ha="center", va="center")


def _arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    ax.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": _INK, "shrinkA": 0, "shrinkB": 0})


def _compare(ax: Axes, y: float, ends: tuple[float, float], text: str) -> None:
    """A double arrow between what is compared."""
    arrow = {"arrowstyle": "<->", "color": _INK, "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", (ends[1], y), (ends[0], y), arrowprops=arrow)
    ax.text(sum(ends) / 2, y + 0.12, text, ha="center", va="bottom")
