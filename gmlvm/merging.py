r"""Components that share a boundary where images lie, and an encoder in which such components are one."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.cluster.hierarchy import cut_tree, linkage
from scipy.spatial.distance import squareform
from torch import Tensor, nn

from gmlvm.clusterer import Clusterer
from gmlvm.inference import inference
from gmlvm.validation import check_number, check_positive_int, check_seed, check_type
from gmlvm.vat import nearest_distance, worst_perturbation

# Flow of pairs that touch nowhere, in units of what chance would give: their distance is to be finite.
_NONE = 1e-12


def boundary_flow(
    model: Clusterer, images: Tensor | ArrayLike, share: float = 0.25, *, batch_size: int = 500, seed: int = 0
) -> NDArray[np.float64]:
    r"""How much of the images lies at the boundary between two components.

    .. math:: F_{ab} = \frac{\sum_x q(a|x)\, q(b|x + r) + q(b|x)\, q(a|x + r)}{2 N\, \bar q_a\, \bar q_b}

    with r the perturbation that changes q most, and :math:`\bar q` its mean over the images: 1 if a perturbed
    image's component had nothing to do with the image's.

    Args:
        model: Gives q(k|x).
        images: (N, C, H, W), at least 2.
        share: Length of r in units of the distance to the nearest other image of the batch, positive.
        batch_size: Images at once, at least 2; more, but not twice as many, where they don't come out even.
        seed: Seed of the directions that the search for r starts from, below 2^64.

    Returns:
        Symmetric, shape (K, K).

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If one is out of range.

    Source: chapter "Components that mean digits".
    """
    check_type("model", model, Clusterer)
    k = model.num_components
    check_number("share", share, exclusive=True)
    flow, mass, images = np.zeros((k, k)), np.zeros(k), model._images(images)
    count, generator = len(images), torch.Generator(model.device).manual_seed(check_seed("seed", seed))
    batches = max(1, count // check_positive_int("batch_size", batch_size, minimum=2))
    with inference(model):
        for batch in images.tensor_split(batches):
            x = model.pixels(batch)
            r = worst_perturbation(model.discrete_encoder, x, share * nearest_distance(x), generator)
            here, there = (model.discrete_encoder(at).softmax(1).double() for at in (x, x + r))
            flow += (here.t() @ there).cpu().numpy()
            mass += here.sum(0).cpu().numpy()
    return (flow + flow.T) / 2 * count / np.outer(mass, mass)


def merge_heights(flow: NDArray[np.float64]) -> NDArray[np.float64]:
    """The order in which components are merged: those with the most between them first.

    Average linkage on the negative logarithm of :func:`boundary_flow`: a wide step in the heights, the third column,
    tells where components stop to be parts of one.

    Args:
        flow: Symmetric, shape (K, K), at least 0, K at least 2.

    Returns:
        SciPy's linkage, shape (K - 1, 4).

    Raises:
        ValueError: If the flow has another shape, is not symmetric, or holds what is negative or not finite.

    Source: Sokal and Michener (1958), through SciPy; chapter "Components that mean digits".
    """
    square = flow.ndim == 2 and flow.shape[0] == flow.shape[1] >= 2
    if not square or not np.allclose(flow, flow.T) or not (np.isfinite(flow) & (flow >= 0)).all():
        raise ValueError(f"flow must be symmetric, (K, K) with K at least 2, finite and at least 0, got {flow}")
    distance = -np.log(np.maximum(flow, _NONE))
    np.fill_diagonal(distance, 0)
    links: NDArray[np.float64] = linkage(squareform(distance - min(0.0, distance.min()), checks=False), "average")
    return links


def merged_groups(links: NDArray[np.float64], num_groups: int) -> NDArray[np.int64]:
    """The group of each component.

    Args:
        links: From :func:`merge_heights`, shape (K - 1, 4).
        num_groups: Groups to keep, from 1 to K.

    Returns:
        Groups, counted from 0 in the order in which they first occur, shape (K,).

    Raises:
        ValueError: If there are fewer components than groups.
    """
    num_groups = check_positive_int("num_groups", num_groups)
    if num_groups > len(links) + 1:
        raise ValueError(f"{len(links) + 1} components cannot be merged to {num_groups} groups")
    # Not fcluster, which gives fewer groups where several pairs are equally far apart.
    groups: NDArray[np.int64] = cut_tree(links, num_groups)[:, 0].astype(np.int64)
    return groups


def merge_components(encoder: nn.Module, groups: Sequence[int] | NDArray[np.int64]) -> nn.Module:
    r"""An encoder whose components are groups of another's, :math:`q(g|x) = \sum_{k \in g} q(k|x)`.

    Args:
        encoder: Module from images to logits (B, K).
        groups: The group of each component, shape (K,), such as :func:`merged_groups` gives.

    Returns:
        A module from images to log probabilities of the groups, (B, G), which do for logits; it holds the encoder.

    Raises:
        ValueError: If there is a group without components.

    Source: chapter "Components that mean digits".

    Example:
        >>> merge_components(nn.Identity(), [0, 1, 0])(torch.zeros(1, 3)).exp()
        tensor([[0.6667, 0.3333]])
    """
    return _Merged(encoder, groups)


def keep_components(encoder: nn.Module, components: Sequence[int] | NDArray[np.int64]) -> nn.Module:
    r"""An encoder with some of another's components, :math:`q(k|x, k \text{ is kept})`.

    For what an encoder that may leave components empty has left empty.

    Args:
        encoder: Module from images to logits (B, K).
        components: Those that are kept, in the new order, shape (G,), each at most once.

    Returns:
        A module from images to logits (B, G). Of an ``nn.Sequential`` that ends with an ``nn.Linear``, as the library's
        own encoders do, it is a copy whose last layer has G rows, so that a model with it can be saved and built again
        like any other; else it holds the encoder.

    Raises:
        ValueError: If there is none, or one is named twice, is negative, or is not among the rows of the last layer.

    Source: chapter "Choices".

    Example:
        >>> keep_components(nn.Identity(), [2, 0])(torch.tensor([[0.0, 1.0, 2.0]]))
        tensor([[2., 0.]])
    """
    kept = _Kept(encoder, components)
    if type(encoder) is nn.Sequential and len(encoder) and type(encoder[-1]) is nn.Linear:
        return nn.Sequential(*deepcopy(encoder[:-1]), _rows(encoder[-1], kept.components))
    return kept


def _rows(layer: nn.Linear, rows: Tensor) -> nn.Linear:
    """A linear layer with some of another's outputs."""
    if rows.max() >= layer.out_features:
        raise ValueError(f"components must be below the encoder's {layer.out_features}, got {rows.tolist()}")
    fewer = deepcopy(layer)
    fewer.out_features = len(rows)
    for name, values in layer.named_parameters():
        chosen = values.detach()[rows.to(values.device)].clone()
        setattr(fewer, name, nn.Parameter(chosen, requires_grad=values.requires_grad))
    return fewer


class _Merged(nn.Module):
    groups: Tensor

    def __init__(self, encoder: nn.Module, groups: Sequence[int] | NDArray[np.int64]) -> None:
        super().__init__()
        array = np.asarray(groups)
        if array.ndim != 1 or len(array) == 0 or set(array.tolist()) != set(range(int(array.max()) + 1)):
            raise ValueError(f"groups must name one for each component, from 0 on and none without any; got {groups}")
        self.encoder = encoder
        self.register_buffer("groups", torch.as_tensor(array, dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        members = torch.nn.functional.one_hot(self.groups).bool()  # (K, G)
        log_probs: Tensor = self.encoder(x).log_softmax(1)
        return log_probs.unsqueeze(2).masked_fill(~members, -torch.inf).logsumexp(1)

    def extra_repr(self) -> str:
        return f"groups={self.groups.tolist()}"


class _Kept(nn.Module):
    components: Tensor

    def __init__(self, encoder: nn.Module, components: Sequence[int] | NDArray[np.int64]) -> None:
        super().__init__()
        array = np.asarray(components)
        if array.ndim != 1 or array.dtype.kind not in "iu" or not 0 < len(array) == len(set(array.tolist())):
            raise ValueError(f"components must be integers, one or more, each once; got {components}")
        if array.min() < 0:
            raise ValueError(f"components must be counted from 0, got {components}")
        self.encoder = encoder
        self.register_buffer("components", torch.as_tensor(array, dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.encoder(x)
        return logits.index_select(1, self.components)

    def extra_repr(self) -> str:
        return f"components={self.components.tolist()}"
