"""The GM-WAE of the chapter "Training the GM-WAE" over several seeds: how much of one run is luck.

``python -m experiments.seeds --output results/gm_wae_seeds.json`` makes the file that the chapter reads.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from sklearn.cluster import KMeans

from experiments import measures, runner
from gmlvm import GMLVM, MMD, WAE, History, Objective, cosine, datasets, evaluate, fit
from gmlvm.datasets import ImageData
from gmlvm.vat import Smoothness

#: What the chapter trains with; the weight is that of its variant with the smoothness term.
SETTINGS: dict[str, Any] = {
    "num_components": 10,
    "latent_dim": 9,
    "penalty_weight": 100.0,
    "smoothness_weight": 1.0,
    "steps": 3000,
}


def train_whole(model: GMLVM, objective: Objective, data: ImageData, steps: int, seed: int, **options: Any) -> History:
    """Train all of a model that is not frozen, with the falling rate of the chapters.

    Args:
        model: The model.
        objective: What is minimised.
        data: Of which the training split is used.
        steps: How many.
        seed: Seed of batches and samples.
        **options: More of :func:`gmlvm.fit`'s.
    """
    return fit(model, objective, data, steps=steps, schedule=cosine, seed=seed, progress=False, **options)


def train(seed: int, matched_start: bool = False, precision: str = "32-true", **options: Any) -> tuple[GMLVM, History]:
    """Train one GM-WAE as the chapter does.

    Args:
        seed: Seed of the weights, the batches and every sample.
        matched_start: Whether to begin with the matched start of q_C.
        precision: Of the products; see :func:`gmlvm.fit`.
        **options: What the objective has besides the weight of its penalty.
    """
    data = datasets.mnist()
    model = GMLVM.for_images(data.image_shape, SETTINGS["num_components"], SETTINGS["latent_dim"], seed=seed)
    objective = WAE(penalty_weight=SETTINGS["penalty_weight"], **options)
    return model, train_whole(
        model, objective, data, SETTINGS["steps"], seed, matched_start=matched_start, precision=precision
    )


def train_and_measure(model: GMLVM, objective: Objective, steps: int, seed: int) -> dict[str, Any]:
    """Train all of a model that is not frozen on MNIST, and measure it before and after its prior moves to the codes.

    Args:
        model: The model, whose prior is another afterwards.
        objective: What is minimised.
        steps: How many.
        seed: Seed of batches and samples.
    """
    history = train_whole(model, objective, datasets.mnist(), steps, seed)
    return {"seconds": round(history.seconds, 1), **measures.with_fitted_prior(model)}


def gm_wae(seed: int, **changes: Any) -> dict[str, Any]:
    """Train one GM-WAE as the chapter does and measure it.

    Args:
        seed: Seed of the weights, the batches and every sample.
        **changes: What :func:`train` is to do otherwise.

    Returns:
        The training time in seconds and the report's figures; JSON values.
    """
    model, history = train(seed, **changes)
    return {"seconds": round(history.seconds, 1), **asdict(evaluate(model, datasets.mnist()))}


def k_means(seed: int) -> dict[str, Any]:
    """Cluster the raw pixels with k-means, one start, and measure it by the same rules as the model.

    Args:
        seed: Seed of the start.

    Returns:
        The accuracy: share of the test images whose cluster's label is right, the label map fitted on the
        training split.
    """
    data = datasets.mnist()
    train, test = measures.pixels(data)
    clusters = SETTINGS["num_components"]
    found = KMeans(clusters, n_init=1, random_state=seed).fit(train)
    return {"accuracy": measures.agreement(data, found.labels_, found.predict(test), clusters)}


#: What is run for each seed: the chapter's training, that with a change, and a yardstick.
METHODS: dict[str, runner.Method] = {
    "plain": gm_wae,
    "marginal": lambda seed: gm_wae(seed, penalty=MMD("codes")),
    "marginal matched": lambda seed: gm_wae(seed, penalty=MMD("codes"), matched_start=True),
    "matched": lambda seed: gm_wae(seed, matched_start=True),
    "smooth": lambda seed: gm_wae(seed, smoothness=Smoothness(SETTINGS["smoothness_weight"], radius=2.0)),
    "bfloat16": lambda seed: gm_wae(seed, precision="bf16-mixed"),
    "k_means": k_means,
}

if __name__ == "__main__":
    runner.main("experiments.seeds", SETTINGS, METHODS, range(5))
