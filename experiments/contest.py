"""Who finds the digits without labels, and who draws them: other ways beside the path, by the same rules.

``python -m experiments.contest --output results/contest.json`` makes the file that the chapter "A contest" reads beside
that of ``experiments.digits``. Each method sees the images of the training split alone.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture
from torch import Tensor

from experiments import digits, measures, runner, seeds
from gmlvm import GMLVM, MMD, VAE, WAE, Objective, datasets, embedding, evaluate
from gmlvm.enumeration import Resampled
from gmlvm.generation import judge_samples

#: What the models share with the path, and how much longer an autoencoder is trained, which gets as long as the path.
SETTINGS: dict[str, Any] = {
    **{name: digits.SETTINGS[name] for name in ("num_components", "latent_dim", "penalty_weight", "steps")},
    "autoencoder_steps": 12_000,
    "kmeans_starts": 10,
    "hidden_dim": 160,
}
#: Weight of the penalty on z alone, as large as the paper's against a squared error.
CODES_WEIGHT = 200.0


def _k_means(codes: NDArray[Any], seed: int) -> KMeans:
    return KMeans(SETTINGS["num_components"], n_init=SETTINGS["kmeans_starts"], random_state=seed).fit(codes)


def _mixture(codes: NDArray[Any], seed: int) -> GaussianMixture:
    return embedding.likeliest_mixture(codes.astype(np.float64), SETTINGS["num_components"], seed)


def _groups(begun: float, found: KMeans | GaussianMixture, train: NDArray[Any], test: NDArray[Any]) -> dict[str, float]:
    """Seconds since ``begun``, and the accuracy of what was found."""
    seconds = round(time.perf_counter() - begun, 1)
    agreement = measures.agreement(
        datasets.mnist(), found.predict(train), found.predict(test), SETTINGS["num_components"]
    )
    return {"seconds": seconds, "accuracy": agreement}


def k_means(seed: int) -> dict[str, Any]:
    """K-means on pixels, the best of ten starts by its own loss.

    Args:
        seed: Seed of everything, here and below.
    """
    train, test = measures.pixels(datasets.mnist())
    begun = time.perf_counter()
    return _groups(begun, _k_means(train, seed), train, test)


def principal_components(seed: int) -> dict[str, Any]:
    """The teacher's mixture on as many principal components as the teacher's embedding has dimensions."""
    pixels, begun = measures.pixels(datasets.mnist()), time.perf_counter()
    reducer = PCA(embedding.DIMENSIONS, random_state=seed).fit(pixels[0])
    train, test = map(reducer.transform, pixels)
    return _groups(begun, _mixture(train, seed), train, test)


def neighbours(seed: int) -> dict[str, Any]:
    """The teacher by itself: UMAP of the pixels and a mixture; the test split is embedded into the training split."""
    data, begun = datasets.mnist(), time.perf_counter()
    reducer = embedding.neighbour_embedding(data.train.images, seed)
    mixture = _mixture(reducer.embedding_, seed)
    return _groups(begun, mixture, reducer.embedding_, reducer.transform(embedding.as_rows(data.test.images)))


def one_gaussian_model(objective: Objective, steps: int, seed: int) -> tuple[GMLVM, float]:
    """A model with a single component, trained, and the seconds that it took; no more weights than K = 10 has.

    Args:
        objective: What is minimised.
        steps: How many.
        seed: Seed of everything.
    """
    data = datasets.mnist()
    model = GMLVM.for_images(
        data.image_shape, 1, SETTINGS["latent_dim"], seed=seed, component_hidden_dim=SETTINGS["hidden_dim"]
    )
    history = seeds.train_whole(model, objective, data, steps, seed)
    return model, history.seconds


def autoencoder(seed: int) -> dict[str, Any]:
    """Groups of an autoencoder's codes: by k-means, by a mixture, and by UMAP and a mixture, which is N2D."""
    model, seconds = one_gaussian_model(WAE(penalty_weight=0.0), SETTINGS["autoencoder_steps"], seed)
    data, begun = datasets.mnist(), time.perf_counter() - seconds
    train, test = (model.transform(split.images) for split in (data.train, data.test))
    figures: dict[str, Any] = {"k-means": _groups(begun, _k_means(train, seed), train, test)}
    begun = time.perf_counter() - seconds
    figures["mixture"] = _groups(begun, _mixture(train, seed), train, test)
    begun = time.perf_counter() - seconds
    reducer = embedding.neighbour_embedding(torch.from_numpy(train), seed)
    mixture = _mixture(reducer.embedding_, seed)
    figures["UMAP + mixture"] = _groups(begun, mixture, reducer.embedding_, reducer.transform(test.astype(np.float32)))
    return {**figures, "reconstruction_error": evaluate(model, data).reconstruction_error}


def one_gaussian(objective: Objective) -> runner.Method:
    """A model with one Gaussian, and with a mixture that is fitted to its codes afterwards, as a function of the seed.

    Args:
        objective: What is minimised.
    """

    def method(seed: int) -> dict[str, Any]:
        model, seconds = one_gaussian_model(objective, SETTINGS["steps"], seed)
        data = datasets.mnist()
        fixed, begun = measures.measured(model), time.perf_counter() - seconds
        train, test = (model.transform(split.images) for split in (data.train, data.test))
        mixture = _mixture(train, seed)
        figures = _groups(begun, mixture, train, test)
        mixture.random_state = np.random.RandomState(seed)

        def draw(count: int, component: int | None) -> Tensor:
            codes = np.empty((0, model.latent_dim))
            while len(codes) < count:  # of its components it draws all at once
                drawn, of = mixture.sample(10 * count)
                codes = np.concatenate([codes, drawn if component is None else drawn[of == component]])
            return measures.decoded(model, mixture, codes, count)

        samples = judge_samples(draw, SETTINGS["num_components"], measures.classifier(), data)
        return {"one Gaussian": fixed, "mixture": {**figures, "samples": asdict(samples)}}

    return method


def components(objective: Objective) -> runner.Method:
    """A model with ten components and the plain model's networks, from an ordinary start, as a function of the seed.

    Args:
        objective: What is minimised.
    """

    def method(seed: int) -> dict[str, Any]:
        shape = datasets.mnist().image_shape
        model = GMLVM.for_images(shape, SETTINGS["num_components"], SETTINGS["latent_dim"], seed=seed)
        return seeds.train_and_measure(model, objective, SETTINGS["steps"], seed)

    return method


#: What is run for each seed, by name.
METHODS: dict[str, runner.Method] = {
    "k-means": k_means,
    "PCA + mixture": principal_components,
    "UMAP + mixture": neighbours,
    "autoencoder": autoencoder,
    "VAE, one Gaussian": one_gaussian(VAE()),
    "WAE, one Gaussian": one_gaussian(WAE(penalty_weight=SETTINGS["penalty_weight"])),
    # With the WAE's rule for the sum over k, which is several times as fast as the exact sum.
    "GM-VAE, beta 1": components(VAE(enumeration=Resampled())),
    "GM-VAE, beta 10": components(VAE(10.0, enumeration=Resampled())),
    "GM-WAE on z": components(WAE(CODES_WEIGHT, MMD("codes"))),
    "GM-WAE": digits.plain,
}

if __name__ == "__main__":
    runner.main("experiments.contest", SETTINGS, METHODS, range(10))
