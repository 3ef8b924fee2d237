"""Layers of a network in few bits: integers with a step for each input, where what is rounded away is made good later.

A page that carries its networks has no room for 16 bits a weight, and 8 bits with one step for each row change its
figures in the second place. How far the rounding of a weight moves a layer's output depends on the inputs that the
layer gets: weights of inputs that the others foretell may have coarse steps, if the others take over the error.
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


@dataclass(frozen=True)
class CompactLayer:
    r"""A linear layer, :math:`w_{ij} = n_{ij}\, \mathrm{tolerance}_i\, \mathrm{step}_j`, whose inputs are sorted.

    Attributes:
        order: Which input stands where, (inputs,).
        step: What one unit of each sorted input's integers is worth, (inputs,).
        tolerance: Factor for each output, (outputs,).
        integers: For each sorted input and each output, (inputs, outputs).
        bias: (outputs,).
    """

    order: NDArray[np.uint16]
    step: NDArray[np.float32]
    tolerance: NDArray[np.float32]
    integers: NDArray[np.int32]
    bias: NDArray[np.float32]

    def weight(self) -> Tensor:
        """The weights that it stands for, (outputs, inputs), in float64."""
        weight = np.empty(self.integers.T.shape)
        weight[:, self.order] = (self.integers * self.step.astype(float)[:, None] * self.tolerance).T
        return torch.from_numpy(weight)

    def content(self) -> bytes:
        """All of it, field by field; integers as three planes of bytes, the lowest first, and signs in the last bit."""
        unsigned = ((self.integers << 1) ^ (self.integers >> 31)).astype("<u4")
        planes = unsigned.reshape(-1, 1).view(np.uint8)[:, :3].T
        parts = (
            self.order.astype("<u2"),
            self.step.astype("<f4"),
            self.tolerance.astype("<f4"),
            self.bias.astype("<f4"),
        )
        return b"".join(part.tobytes() for part in (*parts, planes))


def folded(network: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """The linear layers of a perceptron, with a ReLU between them, and its batch norms inside them.

    Args:
        network: Linear layers, batch norms after them and ReLUs between them, in evaluation mode.

    Returns:
        Weight (outputs, inputs) and bias (outputs,) of each layer, in float64.

    Raises:
        ValueError: If the network has another form.
    """
    layers: list[tuple[Tensor, Tensor]] = []
    kinds = ""
    for module in network if isinstance(network, nn.Sequential) else [network]:
        if isinstance(module, nn.Linear):
            layers.append((module.weight.detach().double(), module.bias.detach().double()))
            kinds += "L"
        elif isinstance(module, nn.BatchNorm1d) and kinds.endswith("L"):
            assert module.running_mean is not None
            assert module.running_var is not None
            factor = module.weight.detach() / (module.running_var.double() + module.eps).sqrt()
            weight, bias = layers[-1]
            shift = module.bias.detach() - module.running_mean * factor
            layers[-1] = weight * factor[:, None], bias * factor + shift
        elif isinstance(module, nn.ReLU):
            kinds += "R"
        elif not isinstance(module, (nn.Flatten, nn.Unflatten)):
            kinds += "?"
    if not layers or kinds != "R".join("L" * len(layers)):
        raise ValueError(f"network must be linear layers with a ReLU between them, got {network}")
    return layers


def compact(
    weight: Tensor, bias: Tensor, inputs: Tensor, error: float, damping: float, tolerance: Tensor | None = None
) -> CompactLayer:
    r"""Round a layer so that each of its outputs errs equally little over the inputs that it gets.

    With :math:`H` the mean of :math:`x x^T` and :math:`U` upper triangular, :math:`H^{-1} = U^T U`, the inputs are
    rounded one after the other, and each error is made good by those after it. What is left adds
    :math:`(\mathrm{step}_j / U_{jj})^2 / 12` to the mean squared error of the output. So
    :math:`\mathrm{step}_j \propto U_{jj}`.

    Args:
        weight: (outputs, inputs).
        bias: (outputs,).
        inputs: What the layer gets, (N, inputs).
        error: Root mean square error of an output whose tolerance is 1.
        damping: Share of the inputs' mean square that is added to each: none is taken to be better foretold than that.
        tolerance: Factor of the error for each output; 1 if left out.

    Returns:
        The layer in integers.

    Raises:
        ValueError: If an integer would have more than 23 bits and a sign.

    Source: Frantar et al. (2023), "GPTQ", for the order of things; steps by reverse water-filling, Cover and Thomas
    (2006), section 10.3.
    """
    outputs, size = weight.shape
    square = inputs.T @ inputs / len(inputs)
    square += square.diagonal().mean() * damping * torch.eye(size).to(square)
    order = square.diagonal().argsort()
    square = square[order][:, order]
    factor = torch.linalg.cholesky(torch.linalg.inv(square), upper=True)
    unit = (torch.ones(outputs) if tolerance is None else tolerance).float()
    step = (error * (12 / size) ** 0.5 * factor.diagonal()).float()
    left = (weight.double()[:, order] / unit.double()[:, None]).T.contiguous()  # (inputs, outputs)
    integers = torch.empty(left.shape, dtype=torch.int32)
    for j in range(size):
        rounded = (left[j] / step[j].double()).round()
        integers[j] = rounded.clamp(-(1 << 30), 1 << 30)
        missing = (left[j] - rounded * step[j].double()) / factor[j, j]
        left[j + 1 :].addr_(factor[j, j + 1 :], missing, alpha=-1)
    if int(integers.abs().max()) >= 1 << 23:
        raise ValueError(f"error must be larger for integers of three bytes, got {error}")
    fields = order.numpy().astype(np.uint16), step.numpy(), unit.numpy(), integers.numpy(), bias.float().numpy()
    return CompactLayer(*fields)


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
