r"""A teacher for the discrete encoder: groups of images that lie together on the manifold of the data."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from threadpoolctl import threadpool_limits
from torch import Tensor

from gmlvm.validation import check_positive_int, check_seed

#: Dimension of the embedding.
DIMENSIONS = 10
# Neighbours that it keeps near.
_NEIGHBOURS = 20
# The mixture starts on some of the codes; the best start goes on with all.
_START_CODES, _ROUNDS = 6000, 200


def as_rows(images: Tensor | ArrayLike) -> NDArray[np.float32]:
    """Images as the :func:`neighbour_embedding` takes them: the numbers of each in a row.

    Args:
        images: (N, ...), of any dtype; or features of images, (N, F).

    Returns:
        The same numbers, neither scaled nor shifted, shape (N, F) with F for all numbers of one.

    Raises:
        ValueError: If there is no axis but the first.

    Example:
        >>> as_rows(torch.tensor([[[0, 255], [1, 2]]], dtype=torch.uint8))
        array([[  0., 255.,   1.,   2.]], dtype=float32)
    """
    tensor = torch.as_tensor(images)
    if tensor.ndim < 2:
        raise ValueError(f"images must have shape (N, ...), features (N, F), got {tuple(tensor.shape)}")
    rows: NDArray[np.float32] = tensor.flatten(1).cpu().numpy().astype(np.float32)
    return rows


def neighbour_embedding(images: Tensor | ArrayLike, seed: int = 0) -> Any:
    """An embedding of images by UMAP, in which near neighbours stay near and groups are drawn together.

    Args:
        images: (N, ...), of any dtype, more than 20; or features of images, (N, F).
        seed: Seed of the embedding, below 2^64, of which UMAP gets the last 32 bits.

    Returns:
        The fitted ``umap.UMAP``, whose ``embedding_`` are the codes, (N, 10), and whose ``transform`` gives those of
        other images, as :func:`as_rows` has them.

    Raises:
        ImportError: If umap-learn is not there.
        TypeError: If ``seed`` is not an integer.
        ValueError: If there are too few images, they have no axis but the first, or ``seed`` is out of range.

    Source: McInnes et al. (2018); chapter "Components that mean digits".
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ImportWarning)  # of a part of umap that needs TensorFlow
            from umap import UMAP
    except ImportError as error:
        raise ImportError("the embedding needs umap-learn: pip install umap-learn") from error
    rows = as_rows(images)
    if len(rows) <= _NEIGHBOURS:
        raise ValueError(f"an embedding with {_NEIGHBOURS} neighbours needs more images than that, got {len(rows)}")
    # A seed makes the embedding repeatable, which umap pays for by using one core: said, it needs no warning.
    reducer = UMAP(
        n_components=DIMENSIONS, n_neighbors=_NEIGHBOURS, min_dist=0.0, n_jobs=1,
        random_state=check_seed("seed", seed) % 2**32,
    )  # fmt: skip
    threads = torch.get_num_threads()
    try:
        reducer.fit(rows)
    finally:
        # Numba gives OpenMP, which torch shares, all cores: what is trained next would be another run, and where
        # cores are taken a far slower one.
        torch.set_num_threads(threads)
    return reducer


def likeliest_mixture(codes: NDArray[Any], num_components: int, seed: int = 0, *, starts: int = 40) -> GaussianMixture:
    """A mixture of Gaussians with full covariances, the likeliest of many.

    Many starts on six thousand of the codes; the one of the highest likelihood goes on with all codes. Starts on a
    part find a higher likelihood of the whole than as long a search on the whole does.

    Args:
        codes: Shape (N, D).
        num_components: Number of groups K, at least 1.
        seed: Seed of the starts, below 2^64, of which scikit-learn gets the last 32 bits.
        starts: How many, at least 1.

    Returns:
        The fitted ``sklearn.mixture.GaussianMixture``.

    Raises:
        TypeError: If ``num_components``, ``seed`` or ``starts`` is not an integer.
        ValueError: If one of them is out of range, or there are fewer codes than groups.

    Source: Bishop (2006), section 9.2; chapter "Components that mean digits".
    """
    num_components = check_positive_int("num_components", num_components)
    starts = check_positive_int("starts", starts)
    if num_components > len(codes):
        raise ValueError(f"{num_components} components need at least as many codes, got {len(codes)}")
    random = np.random.RandomState(check_seed("seed", seed) % 2**32)
    part = codes[random.choice(len(codes), min(_START_CODES, len(codes)), replace=False)]
    # Matrices this small are slower on several threads, and far slower where other work wants the cores as well.
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore", ConvergenceWarning)  # of a start that others beat
        start = GaussianMixture(
            num_components, init_params="k-means++", n_init=starts, max_iter=_ROUNDS, random_state=random
        ).fit(part)
        return GaussianMixture(
            num_components, weights_init=start.weights_, means_init=start.means_, precisions_init=start.precisions_,
            max_iter=_ROUNDS, random_state=random,
        ).fit(codes)  # fmt: skip


def teacher(images: Tensor | ArrayLike, num_components: int, seed: int = 0) -> Tensor:
    """Probabilities of groups for images: :func:`likeliest_mixture` in the :func:`neighbour_embedding`.

    Args:
        images: (N, C, H, W), of any dtype, more than 20; or features of images, (N, F), such as a pretrained network
            gives.
        num_components: Number of groups K, at least 1.
        seed: Seed of both, below 2^64.

    Returns:
        Probabilities, float32, shape (N, K), on the CPU.

    Raises:
        ImportError: If umap-learn is not there.
        TypeError: If ``num_components`` or ``seed`` is not an integer.
        ValueError: If one of them is out of range, or there are too few images.
    """
    count = len(torch.as_tensor(images))
    if check_positive_int("num_components", num_components) > count:  # before minutes are spent
        raise ValueError(f"num_components must be at most the {count} images, got {num_components}")
    codes = neighbour_embedding(images, seed).embedding_.astype(np.float64)
    return torch.from_numpy(likeliest_mixture(codes, num_components, seed).predict_proba(codes)).float()
