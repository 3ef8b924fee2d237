"""How many components? What can be read off images without a label, and how labels agree with each number afterwards.

``python -m experiments.number --output results/number.json`` makes the file that the chapter "Choices" reads.
Fashion-MNIST is read as by ``experiments.other_data``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import adjusted_rand_score, silhouette_score

from experiments import measures, runner
from experiments.imbalance import unequal_shapes
from experiments.other_data import fashion, small_digits
from gmlvm import datasets, embedding, merging
from gmlvm.datasets import ImageData, Split

#: Images that are drawn, those of them that no mixture sees (at most a fifth), the numbers of components that are
#: tried, and starts of each mixture.
SETTINGS: dict[str, Any] = {"images": 10_000, "held_out": 1000, "numbers": list(range(2, 21)), "starts": 5}


def halves(data: ImageData, seed: int) -> list[ImageData]:
    """Two halves of a draw from the training split that share no image, with the same held-out images to test on.

    Args:
        data: The images.
        seed: Seed of the draw.
    """

    def part(where: NDArray[np.int64]) -> Split:
        assert data.train.labels is not None
        return Split(data.train.images[where], data.train.labels[where])

    drawn = np.random.default_rng(seed).permutation(len(data.train))[: SETTINGS["images"]]
    held_out, rest = np.split(drawn, [min(SETTINGS["held_out"], len(drawn) // 5)])
    return [ImageData(data.name, part(half), part(held_out), data.class_names) for half in np.array_split(rest, 2)]


def neighbour_flow(graph: Any, probs: NDArray[np.float64]) -> NDArray[np.float64]:
    """:func:`gmlvm.merging.boundary_flow` along the graph of neighbours that UMAP draws, in place of perturbations.

    Args:
        graph: Weights between images, symmetric and sparse, (N, N).
        probs: Probabilities of components, (N, K).

    Returns:
        Symmetric, shape (K, K): 1 where a neighbour's component had nothing to do with an image's.
    """
    degree = np.asarray(graph.sum(1), dtype=np.float64).ravel()
    mass = degree @ probs
    flow: NDArray[np.float64] = probs.T @ (graph @ probs) * degree.sum() / np.outer(mass, mass)
    return (flow + flow.T) / 2  # rounding


def of_half(data: ImageData, seed: int) -> tuple[dict[str, list[float]], list[NDArray[np.int64]]]:
    """Mixtures in the embedding of one half.

    Args:
        data: The half, and the held-out images.
        seed: Seed of embedding and mixtures.

    Returns:
        Curves over the number of components, the heights at which the largest number is merged, and the components of
        the held-out images for each number.
    """
    reducer = embedding.neighbour_embedding(data.train.images, seed)
    codes = reducer.embedding_.astype(np.float64)
    held_out = reducer.transform(embedding.as_rows(data.test.images)).astype(np.float64)
    curves: dict[str, list[float]] = {
        name: [] for name in ("bic", "silhouette", "held-out likelihood", "accuracy", "nmi")
    }
    predicted = []
    for k in SETTINGS["numbers"]:
        mixture = embedding.likeliest_mixture(codes, k, seed, starts=SETTINGS["starts"])
        groups = mixture.predict(codes)
        predicted.append(mixture.predict(held_out))
        curves["bic"].append(float(mixture.bic(codes)) / len(codes))
        curves["silhouette"].append(float(silhouette_score(codes, groups)))
        curves["held-out likelihood"].append(float(mixture.score(held_out)))
        for name, value in measures.grouped(data, groups, predicted[-1], k).items():
            curves[name].append(value)
    links = merging.merge_heights(neighbour_flow(reducer.graph_, mixture.predict_proba(codes)))
    return {**curves, "merge heights": links[:, 2].tolist()}, predicted


def picks(curves: dict[str, list[float]]) -> dict[str, int]:
    """The number of components that each rule takes; no rule knows a label.

    Args:
        curves: Over the numbers of components; of the merge heights, over the mergers, first to last.
    """
    numbers = SETTINGS["numbers"]
    best = {name: numbers[int(np.argmax(curves[name]))] for name in ("stability", "silhouette", "held-out likelihood")}
    # What is left when the next merger is much further than the last.
    left = numbers[-1] - 1 - int(np.argmax(np.diff(curves["merge heights"])))
    return {**best, "bic": numbers[int(np.argmin(curves["bic"]))], "merge heights": left}


def numbered(source: Callable[[], ImageData]) -> runner.Method:
    """Curves over the number of components and what each rule takes, as a function of the seed.

    All but the stability are means over the two halves; that is the adjusted Rand index between what the mixture of
    the one and that of the other say of the held-out images.

    Args:
        source: Gives the data.
    """

    def method(seed: int) -> dict[str, Any]:
        data = source()
        (one, said), (other, said_too) = (of_half(half, seed) for half in halves(data, seed))
        curves = {name: np.mean([one[name], other[name]], axis=0).tolist() for name in one}
        curves["stability"] = [float(adjusted_rand_score(*pair)) for pair in zip(said, said_too, strict=True)]
        return {"num_labels": len(data.class_names), "curves": curves, "picks": picks(curves)}

    return method


#: What is run for each seed, by name.
METHODS: dict[str, runner.Method] = {
    "MNIST": numbered(datasets.mnist),
    "Fashion-MNIST": numbered(fashion),
    "small digits": numbered(small_digits),
    "unequal shapes": numbered(unequal_shapes),
}

if __name__ == "__main__":
    runner.main("experiments.number", SETTINGS, METHODS, range(3))
