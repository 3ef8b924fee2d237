"""A part of the book's build: it writes the networks of the page "A page to touch" for the scripts of that page.

The models are those that the package ships. ``_config.yml`` names this module, and Sphinx calls :func:`setup`.
"""

from __future__ import annotations

import codecs
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from gmlvm import FullGaussianMixturePrior, datasets, pretrained, weights
from gmlvm.plots import PALETTE
from gmlvm.prior import Prior
from gmlvm_book.compact import CompactLayer, compact, packed

if TYPE_CHECKING:
    from sphinx.application import Sphinx

#: Where the script lies in the built book.
SCRIPT = Path("_static") / "touch" / "weights.js"


def axes(prior: Prior) -> NDArray[np.float32]:
    """The principal directions of each component's Gaussian, each as long as its standard deviation.

    Args:
        prior: Full or diagonal covariances.

    Returns:
        Shape (K, D, D): for each component the directions, the longest first, of which each is a row. Directions of
        equal length are the axes of the code.
    """
    factor = prior.scale_tril if isinstance(prior, FullGaussianMixturePrior) else torch.diag_embed(prior.scale)
    negative, direction = torch.linalg.eigh(-(factor @ factor.mT).double())  # rising; directions are columns
    rows = (direction * (-negative).sqrt().unsqueeze(1)).mT
    largest = rows.gather(2, rows.abs().argmax(2, keepdim=True))  # an eigenvector's sign is nobody's choice
    found: NDArray[np.float32] = (rows * largest.sign()).float().numpy()
    return found


def script() -> str:
    """Everything that the page needs of the library, as a script that names it ``touchData``.

    Returns:
        An object: ``models``, for each its name, the numbers of its networks, and for each component the digit that
        most of the test images it takes show, and their share, or nulls if it takes none; ``networks``, the sizes of
        their layers; ``digits`` of the test images to pick from, and their ``places`` in the test split; ``colours``;
        and ``text``, in which ``bytes`` deflated bytes are packed. They hold the networks, layer for layer as
        :meth:`gmlvm_book.compact.CompactLayer.content` has them, then each model's means and axes, then the images.
    """
    data = datasets.mnist()
    labels = data.test.labels
    assert labels is not None
    networks: list[list[CompactLayer]] = []
    known: dict[bytes, int] = {}  # two models share an encoder
    models: list[dict[str, Any]] = []
    priors = b""

    def number(network: nn.Module) -> int:
        layers = compact(network)
        content = b"".join(layer.content() for layer in layers)
        if content not in known:
            known[content] = len(networks)
            networks.append(layers)
        return known[content]

    for name in weights.NAMES:
        model = pretrained(name)
        counts = np.zeros((model.num_components, 10), int)
        np.add.at(counts, (model.predict(data.test.images), labels.numpy()), 1)
        models.append(
            {
                "name": name,
                "encoder": number(model.discrete_encoder),
                "decoder": number(model.decoder),
                "digits": [int(row.argmax()) if row.any() else None for row in counts],
                "shares": [round(row.max() / row.sum(), 3) if row.any() else None for row in counts],
            }
        )
        priors += model.prior.loc.numpy().astype("<f4").tobytes() + axes(model.prior).astype("<f4").tobytes()
    picked = torch.cat([(labels == digit).nonzero()[0] for digit in range(10)])
    text, size = packed(b"".join(known) + priors + data.test.images[picked].numpy().tobytes())
    found = {
        "models": models,
        "networks": [[layers[0].integers.shape[1], *(len(layer.bias) for layer in layers)] for layers in networks],
        "digits": labels[picked].tolist(),
        "places": picked.tolist(),
        "colours": list(PALETTE),
        "bytes": size,
        "text": text,
    }
    return f"const touchData = {json.dumps(found, ensure_ascii=False)};\n"


def write_script(folder: Path, text: str) -> None:
    """Write a script, with two bytes a character.

    Args:
        folder: The built book.
        text: What :func:`script` gave.
    """
    path = folder / SCRIPT
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(codecs.BOM_UTF16_LE + text.encode("utf-16-le"))


def setup(app: Sphinx) -> dict[str, Any]:
    """Sphinx's own entry: write the script when the book is built.

    Args:
        app: The build.
    """

    def finished(app: Sphinx, error: Exception | None) -> None:
        if error is None and app.builder.format == "html":
            write_script(Path(app.outdir), script())

    app.connect("build-finished", finished)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
