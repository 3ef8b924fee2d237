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
from torch import Tensor, nn

from gmlvm import FullGaussianMixturePrior, datasets, pretrained, weights
from gmlvm.plots import PALETTE
from gmlvm.prior import Prior
from gmlvm_book.compact import CompactLayer, compact, folded, packed

if TYPE_CHECKING:
    from sphinx.application import Sphinx

#: Where the script lies in the built book.
SCRIPT = Path("_static") / "touch" / "weights.js"
#: Root mean square error of each output of a layer, and damping, for :func:`gmlvm_book.compact.compact`: what holds q_D
#: to 1e-4 of the library's and images to 1e-3, which a test sees to. Codes come from the prior, but drawings not from
#: MNIST.
ROUNDING = {"encoder": (4e-5, 1e-3), "decoder": (3.1e-4, 1e-7)}
# Images, and codes, that say what the layers get.
_LOOKS = {"encoder": 10_000, "decoder": 20_000}
# A pixel that is always nearly black or nearly white may err more in its logit, up to so many times.
_MOST_TOLERANCE = 64.0


def compact_network(network: nn.Module, inputs: Tensor, part: str) -> list[CompactLayer]:
    """A network in integers.

    Args:
        network: A perceptron, as :func:`gmlvm_book.compact.folded` takes it.
        inputs: What it gets, (N, inputs), in float64.
        part: ``"encoder"`` or ``"decoder"``. A pixel of a decoder that is never grey may err more, up to a limit.

    Returns:
        Its layers, each rounded for what those before it, rounded themselves, give.
    """
    layers = folded(network)
    error, damping = ROUNDING[part]
    tolerance = None
    if part == "decoder":
        grey = run(layers, inputs).sigmoid()
        tolerance = (0.25 / (grey * (1 - grey)).amax(0)).clamp(max=_MOST_TOLERANCE)
    found: list[CompactLayer] = []
    for weight, bias in layers:
        last = len(found) == len(layers) - 1
        found.append(compact(weight, bias, inputs, error, damping, tolerance if last else None))
        inputs = (inputs @ found[-1].weight().T + bias).relu()
    return found


def run(layers: list[tuple[Tensor, Tensor]], x: Tensor) -> Tensor:
    """What a perceptron gives.

    Args:
        layers: Weight (outputs, inputs) and bias (outputs,) of each.
        x: (N, inputs).

    Returns:
        Outputs of the last layer, (N, outputs).
    """
    *before, (weight, bias) = layers
    for inner, shift in before:
        x = (x @ inner.T + shift).relu()
    return x @ weight.T + bias


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
        most of the test images it takes show, and their share; ``networks``, the sizes of their layers; ``digits`` of
        the test images to pick from, and their ``places`` in the test split; ``colours``; and ``text``, in which
        ``bytes`` deflated bytes are packed. They hold the networks, layer for layer as
        :meth:`gmlvm_book.compact.CompactLayer.content` has them, then each model's means and axes, then the images.
    """
    data = datasets.mnist()
    labels = data.test.labels
    assert labels is not None
    looks = data.train.images[: _LOOKS["encoder"]].flatten(1).double() / 255
    networks: list[list[CompactLayer]] = []
    known: dict[bytes, int] = {}  # two models share an encoder
    models: list[dict[str, Any]] = []
    priors = b""

    def number(network: nn.Module, inputs: Tensor, part: str) -> int:
        signature = b"".join(value.detach().numpy().tobytes() for value in network.state_dict().values())
        if signature not in known:
            known[signature] = len(networks)
            networks.append(compact_network(network, inputs, part))
        return known[signature]

    for name in weights.NAMES:
        model = pretrained(name)
        codes = model.prior.sample(_LOOKS["decoder"], generator=torch.Generator().manual_seed(0)).double()
        counts = np.zeros((model.num_components, 10), int)
        np.add.at(counts, (model.predict(data.test.images), labels.numpy()), 1)
        models.append(
            {
                "name": name,
                "encoder": number(model.discrete_encoder, looks, "encoder"),
                "decoder": number(model.decoder, codes, "decoder"),
                "digits": counts.argmax(1).tolist(),
                "shares": (counts.max(1) / counts.sum(1)).round(3).tolist(),
            }
        )
        priors += model.prior.loc.numpy().astype("<f4").tobytes() + axes(model.prior).astype("<f4").tobytes()
    picked = torch.cat([(labels == digit).nonzero()[0] for digit in range(10)])
    layers = b"".join(layer.content() for network in networks for layer in network)
    text, size = packed(layers + priors + data.test.images[picked].numpy().tobytes())
    found = {
        "models": models,
        "networks": [[len(layers[0].order), *(len(layer.bias) for layer in layers)] for layers in networks],
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
