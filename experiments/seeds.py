"""The GM-WAE of the chapter "Training the GM-WAE" over several seeds: how much of one run is luck.

``python -m experiments.seeds --output results/gm_wae_seeds.json`` makes the file that the chapter reads.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from joblib import Parallel, delayed
from sklearn.cluster import KMeans
from tqdm.auto import tqdm

from experiments.records import write_record
from gmlvm import GMLVM, WAE, cosine, datasets, evaluate, fit, metrics

#: What the chapter trains with; the weight is that of its variant with the smoothness term.
SETTINGS: dict[str, Any] = {
    "num_components": 10,
    "latent_dim": 9,
    "penalty_weight": 100.0,
    "smoothness_weight": 1.0,
    "steps": 3000,
}


def gm_wae(seed: int, smoothness_weight: float, matched_start: bool) -> dict[str, Any]:
    """Train one GM-WAE and measure it.

    Args:
        seed: Seed of the weights, the batches and every sample.
        smoothness_weight: Weight of the objective's smoothness term.
        matched_start: Whether to begin with the matched start of q_C.

    Returns:
        The training time in seconds and the report's figures; JSON values.
    """
    data = datasets.mnist()
    model = GMLVM.for_images(data.image_shape, SETTINGS["num_components"], SETTINGS["latent_dim"], seed=seed)
    objective = WAE(penalty_weight=SETTINGS["penalty_weight"], smoothness_weight=smoothness_weight)
    history = fit(
        model,
        objective,
        data,
        steps=SETTINGS["steps"],
        schedule=cosine,
        matched_start=matched_start,
        seed=seed,
        progress=False,
    )
    return {"seconds": round(history.seconds, 1), **asdict(evaluate(model, data))}


def k_means(seed: int) -> dict[str, Any]:
    """Cluster the raw pixels with k-means, one start, and measure it by the same rules as the model.

    Args:
        seed: Seed of the start.

    Returns:
        The accuracy: share of the test images whose cluster's label is right, the label map fitted on the
        training split.
    """
    data = datasets.mnist()
    assert data.train.labels is not None
    assert data.test.labels is not None
    train_pixels, test_pixels = (split.images.flatten(1).numpy() / 255 for split in (data.train, data.test))
    clusters = SETTINGS["num_components"]
    kmeans = KMeans(clusters, n_init=1, random_state=seed).fit(train_pixels)
    labels = metrics.match_components(kmeans.labels_, data.train.labels.numpy(), clusters)
    return {"accuracy": float((labels[kmeans.predict(test_pixels)] == data.test.labels.numpy()).mean())}


#: What is run for each seed: the chapter's training, that with one change at a time, and a yardstick.
METHODS: dict[str, Callable[[int], dict[str, Any]]] = {
    "plain": lambda seed: gm_wae(seed, 0.0, matched_start=False),
    "matched": lambda seed: gm_wae(seed, 0.0, matched_start=True),
    "smooth": lambda seed: gm_wae(seed, SETTINGS["smoothness_weight"], matched_start=False),
    "k_means": k_means,
}


def run(method: str, seed: int) -> dict[str, Any]:
    """Run one of :data:`METHODS` on one thread: a run for each core is faster than one run on all of them."""
    torch.set_num_threads(1)
    return METHODS[method](seed)


def main() -> None:
    """Run all methods and seeds, as many at a time as there are cores, and write the file."""
    parser = argparse.ArgumentParser(description="the GM-WAE of the first chapter over several seeds")
    parser.add_argument("--output", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(5)), help="seeds to run (default: 0 to 4)")
    parser.add_argument("--jobs", type=int, default=-1, help="runs at a time (default: one for each core)")
    arguments = parser.parse_args()
    if not arguments.output.parent.is_dir():
        parser.error(f"no folder {arguments.output.parent} to write {arguments.output.name} to")
    tasks = [(method, seed) for method in METHODS for seed in arguments.seeds]
    results = Parallel(n_jobs=arguments.jobs, return_as="generator")(delayed(run)(*task) for task in tasks)
    figures = dict(zip(tasks, tqdm(results, total=len(tasks), unit="run"), strict=True))
    runs = [{"seed": seed, **{m: figures[m, seed] for m in METHODS}} for seed in arguments.seeds]
    command = f"python -m experiments.seeds --output {arguments.output.as_posix()} --seeds "
    write_record(arguments.output, command + " ".join(map(str, arguments.seeds)), SETTINGS, runs)


if __name__ == "__main__":
    main()
