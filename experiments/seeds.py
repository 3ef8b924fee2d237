"""The GM-WAE of the chapter "Training the GM-WAE" over several seeds: how much of one run is luck.

``python -m experiments.seeds --output results/gm_wae_seeds.json`` makes the file that the chapter reads.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from joblib import Parallel, delayed
from sklearn.cluster import KMeans

from experiments.records import write_record
from gmlvm import GMLVM, WAE, cosine, datasets, evaluate, fit, metrics

#: What the chapter trains with.
SETTINGS: dict[str, Any] = {"num_components": 10, "latent_dim": 9, "penalty_weight": 100.0, "steps": 3000}


def train(seed: int) -> dict[str, Any]:
    """Train one model and measure it, and k-means on the same images with the same seed.

    Args:
        seed: Seed of the weights, the batches and every sample.

    Returns:
        The seed, the training time in seconds, the report's figures and the accuracy of k-means; JSON values.
    """
    torch.set_num_threads(1)  # one run for each core is faster than one run on all of them
    data = datasets.mnist()
    model = GMLVM.for_images(data.image_shape, SETTINGS["num_components"], SETTINGS["latent_dim"], seed=seed)
    objective = WAE(penalty_weight=SETTINGS["penalty_weight"])
    history = fit(model, objective, data, steps=SETTINGS["steps"], schedule=cosine, seed=seed, progress=False)
    return {
        "seed": seed,
        "seconds": round(history.seconds, 1),
        **asdict(evaluate(model, data)),
        "kmeans_accuracy": kmeans_accuracy(data, seed),
    }


def kmeans_accuracy(data: datasets.ImageData, seed: int) -> float:
    """Accuracy of k-means on raw pixels, one start, by the same rules as the model's.

    Args:
        data: Images with labels.
        seed: Seed of the start.

    Returns:
        Share of the test images whose cluster's label is right; the label map is fitted on the training split.

    Raises:
        ValueError: If there are no labels.
    """
    if data.train.labels is None or data.test.labels is None:
        raise ValueError(f"accuracy needs labels, {data} has none")
    train_pixels, test_pixels = (split.images.flatten(1).numpy() / 255 for split in (data.train, data.test))
    clusters = SETTINGS["num_components"]
    kmeans = KMeans(clusters, n_init=1, random_state=seed).fit(train_pixels)
    labels = metrics.match_components(kmeans.labels_, data.train.labels.numpy(), clusters)
    return float((labels[kmeans.predict(test_pixels)] == data.test.labels.numpy()).mean())


def main() -> None:
    """Run all seeds, as many at a time as there are cores, and write the file."""
    parser = argparse.ArgumentParser(description="the GM-WAE of the first chapter over several seeds")
    parser.add_argument("--output", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(5)), help="seeds to run (default: 0 to 4)")
    parser.add_argument("--jobs", type=int, default=-1, help="runs at a time (default: one for each core)")
    arguments = parser.parse_args()
    if not arguments.output.parent.is_dir():
        parser.error(f"no folder {arguments.output.parent} to write {arguments.output.name} to")
    runs = Parallel(n_jobs=arguments.jobs, verbose=5)(delayed(train)(seed) for seed in arguments.seeds)
    seeds = " ".join(map(str, arguments.seeds))
    command = f"python -m experiments.seeds --output {arguments.output.as_posix()} --seeds {seeds}"
    write_record(arguments.output, command, SETTINGS, list(runs))


if __name__ == "__main__":
    main()
