"""Trained models inside the package, and where each came from."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import as_file, files

from gmlvm.model import GMLVM
from gmlvm.validation import check_choice

#: The models that :func:`gmlvm.pretrained` knows, all of MNIST's digits.
NAMES = ("gm-wae-digits", "gm-vae-digits", "gm-wae", "gm-vae")
#: Name of the file beside them that says where they came from.
RECORD = "origin.json"

_FOLDER = files("gmlvm") / "data" / "pretrained"


@dataclass(frozen=True)
class Origin:
    """How a trained model was made, and how good it is.

    Attributes:
        command: What trains it again, from the root of the repository.
        seed: Seed of everything.
        date: When, as year, month and day.
        machine: On what, in words.
        versions: Of Python and the packages, by name.
        figures: Measured on MNIST's test split, by name: ``accuracy``, ``component_entropy``, ``mutual_information``
            and ``reconstruction_error`` as :class:`gmlvm.Report` has them, and ``purity``, ``least_purity``,
            ``frechet`` and ``kernel`` of its samples as :class:`gmlvm.generation.SampleReport` has them.
    """

    command: str
    seed: int
    date: str
    machine: str
    versions: dict[str, str]
    figures: dict[str, float]


def pretrained(name: str) -> GMLVM:
    """A model that is trained already, from a file inside this package.

    ``"gm-wae-digits"`` is the GM-WAE whose components mean digits: a start for q_D, which then stayed as it was, and
    a prior of full covariances fitted to the codes. ``"gm-vae-digits"`` is the VAE from the same start, and
    ``"gm-wae"`` the GM-WAE with neither start nor fitted prior. ``"gm-vae"`` is a VAE that collapsed: one component
    takes nearly all images. Weights are rounded, so that the matrices of q_D and of the decoder have few different
    values.

    Args:
        name: One of :data:`gmlvm.weights.NAMES`.

    Returns:
        The model in evaluation mode, on the CPU, in float32; :func:`gmlvm.weights.origin` says how it was made.

    Raises:
        ValueError: If there is no model of that name, or its file is damaged.

    Source: chapter "Components that mean digits"; for the two without a start, chapter "Training the GM-WAE" and
    chapter "How a VAE collapses".

    Example:
        >>> pretrained("gm-wae-digits").sample(8, component=3).shape
        torch.Size([8, 1, 28, 28])
    """
    with as_file(_FOLDER / f"{check_choice('name', name, NAMES)}.safetensors") as path:
        return GMLVM.load(path)


def origin(name: str) -> Origin:
    """Where a model of :func:`gmlvm.pretrained` came from, and the figures that it has as it is shipped.

    Args:
        name: One of :data:`gmlvm.weights.NAMES`.

    Returns:
        The :class:`Origin`.

    Raises:
        ValueError: If there is no model of that name.
    """
    check_choice("name", name, NAMES)
    record = json.loads((_FOLDER / RECORD).read_text(encoding="utf-8"))
    return Origin(
        **{key: record[key] for key in ("command", "date", "machine", "versions")},
        seed=record["settings"]["seed"],
        figures=record["models"][name],
    )
