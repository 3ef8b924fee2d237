"""Layers of a network as whole numbers, and bytes as the text of a script, for a page that carries its networks.

The models that the package ships have matrices of few different values (``experiments/pretrained.py`` rounds them), so
nothing is lost here: a page that reads these numbers has the package's own networks.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

#: Characters of the packed text: 15 bits each, counted from here. None of them is special in a script.
FIRST_CHARACTER = 0x3000
# Steps are 2 to a whole power between minus this and this.
_POWERS = 24


@dataclass(frozen=True)
class CompactLayer:
    r"""A linear layer whose weights are whole numbers times a factor for each output.

    Attributes:
        integers: 16 bits each, (outputs, inputs).
        factor: (outputs,).
        bias: (outputs,).
    """

    integers: NDArray[np.int16]
    factor: NDArray[np.float32]
    bias: NDArray[np.float32]

    def weight(self) -> Tensor:
        """The weights, (outputs, inputs), in float64."""
        return torch.from_numpy(self.integers * self.factor.astype(float)[:, None])

    def content(self) -> bytes:
        """All of it, field by field; integers input by input, low bytes before high ones, and signs in the last bit."""
        numbers = self.integers.T.astype(np.int32)  # (inputs, outputs)
        planes = ((numbers << 1) ^ (numbers >> 31)).astype("<u2").reshape(-1, 1).view(np.uint8).T
        return b"".join(part.tobytes() for part in (self.factor.astype("<f4"), self.bias.astype("<f4"), planes))


def compact(network: nn.Module) -> list[CompactLayer]:
    """A perceptron layer by layer, its batch norms inside them.

    Args:
        network: Linear layers, batch norms after them and ReLUs between them, in evaluation mode. Each weight matrix
            holds multiples of a power of two.

    Returns:
        Its layers, which have a ReLU between them.

    Raises:
        ValueError: If the network has another form, or a matrix other values than 16 bits can count.
    """
    layers: list[CompactLayer] = []
    kinds = ""
    for module in network if isinstance(network, nn.Sequential) else [network]:
        if isinstance(module, nn.Linear):
            integers, step = counted(module.weight)
            factor = np.full(module.out_features, step, np.float32)
            layers.append(CompactLayer(integers, factor, module.bias.detach().float().numpy()))
            kinds += "L"
        elif isinstance(module, nn.BatchNorm1d) and kinds.endswith("L"):
            layers[-1] = _with_norm(layers[-1], module)
            kinds += "N"
        elif isinstance(module, nn.ReLU):
            kinds += "R"
        elif not isinstance(module, (nn.Flatten, nn.Unflatten)):
            kinds += "?"
    if not layers or kinds.replace("LN", "L") != "R".join("L" * len(layers)):
        raise ValueError(f"network must be linear layers with a ReLU between them, got {network}")
    return layers


def _with_norm(layer: CompactLayer, norm: nn.BatchNorm1d) -> CompactLayer:
    """A layer with the batch norm after it, which in evaluation mode is a factor and a shift of each output."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    factor = norm.weight.detach().double() / (norm.running_var.double() + norm.eps).sqrt()
    shift = norm.bias.detach() - norm.running_mean * factor
    return CompactLayer(
        layer.integers,
        (layer.factor * factor.numpy()).astype(np.float32),
        (layer.bias * factor.numpy() + shift.numpy()).astype(np.float32),
    )


def counted(matrix: Tensor) -> tuple[NDArray[np.int16], float]:
    """A matrix as whole numbers times a step.

    Args:
        matrix: Multiples of a power of two.

    Returns:
        The whole numbers, and the largest power of two of which all values are multiples.

    Raises:
        ValueError: If there is none, or the numbers have more than 16 bits.

    Example:
        >>> counted(torch.tensor([[0.75, -1.5]]))
        (array([[ 3, -6]], dtype=int16), 0.25)
    """
    values = matrix.detach().double().numpy()
    for power in range(_POWERS, -_POWERS - 1, -1):
        numbers = values / 2.0**power
        if np.array_equal(numbers, numbers.round()):
            if np.abs(numbers).max() < 2**15:
                return numbers.astype(np.int16), 2.0**power
            break
    raise ValueError(
        f"a matrix of shape {values.shape} must hold multiples of a power of two that 16 bits can count; "
        "experiments.pretrained rounds to such"
    )


def packed(content: bytes) -> tuple[str, int]:
    """Bytes as text for a script, 15 bits a character, deflated before.

    Args:
        content: The bytes.

    Returns:
        The text, and the number of deflated bytes in it.
    """
    deflated = zlib.compress(content, 9)
    bits = np.unpackbits(np.frombuffer(deflated, np.uint8))
    groups = np.pad(bits, (0, -len(bits) % 15)).reshape(-1, 15)
    characters = FIRST_CHARACTER + groups @ (1 << np.arange(14, -1, -1))
    return characters.astype("<u2").tobytes().decode("utf-16-le"), len(deflated)
