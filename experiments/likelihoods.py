"""How probable held-out digits are: one Gaussian against a mixture, from several starts, on black and white MNIST.

``python -m experiments.likelihoods --output results/likelihoods.json`` makes the file that the chapter "How good is the
model?" reads. *Static*: the training images are binarised once; *dynamic*: anew in every step. The test images are the
same in both, binarised once; the fixed binarisation that papers share is another draw.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import torch

from experiments import runner, seeds
from gmlvm import GMLVM, VAE, WAE, datasets, evaluate, pretrained
from gmlvm.batches import Batch
from gmlvm.datasets import ImageData, Split
from gmlvm.enumeration import Resampled
from gmlvm.likelihood import log_likelihood
from gmlvm.objectives import VAETerms

#: What all runs share, and the axes. Codes have as many dimensions as is usual where likelihoods are compared, and the
#: one Gaussian's encoder no more weights than those of ten components have.
SETTINGS: dict[str, Any] = {
    "num_components": 10,
    "latent_dim": 40,
    "hidden_dims": {"one Gaussian": 160, "mixture": 16},
    "binarisations": ["static", "dynamic"],
    "kinds": ["one Gaussian", "mixture", "mixture, start of q_D", "mixture, after the WAE"],
    "steps": 12_000,
    "wae_steps": 3000,
    "penalty_weight": 100.0,
    "samples": 200,
    "test_images": 1000,
}


class Binarised(VAE):
    """The negative ELBO of images that are binarised anew in every step: a pixel is white with its grey level."""

    def terms(self, model: GMLVM, batch: Batch, generator: torch.Generator | None) -> VAETerms:
        """Compute the terms; see :class:`gmlvm.VAE`."""
        drawn = torch.bernoulli(model.pixels(batch.images), generator=generator)
        return super().terms(model, batch._replace(images=drawn), generator)


def binarised(data: ImageData) -> ImageData:
    """Black and white images, drawn once.

    Args:
        data: The grey ones.
    """

    def drawn(split: Split, seed: int) -> Split:
        grey = split.images.float() / 255
        return replace(split, images=255 * torch.bernoulli(grey, generator=torch.Generator().manual_seed(seed)).byte())

    return ImageData(f"binarised {data.name}", drawn(data.train, 0), drawn(data.test, 1), data.class_names)


def run(kind: str, binarisation: str, wide: bool = False) -> runner.Method:
    """One model, as a function of the seed.

    Args:
        kind: One of the kinds of model.
        binarisation: ``"static"`` or ``"dynamic"``.
        wide: Whether each component's continuous encoder is as wide as that of the one Gaussian.
    """

    def method(seed: int) -> dict[str, Any]:
        grey = datasets.mnist()
        static = binarised(grey)
        one = kind == "one Gaussian"
        model = GMLVM.for_images(
            grey.image_shape,
            1 if one else SETTINGS["num_components"],
            SETTINGS["latent_dim"],
            component_hidden_dim=SETTINGS["hidden_dims"]["one Gaussian" if one or wide else "mixture"],
            seed=seed,
        )
        if kind.endswith("start of q_D"):
            # It stays as it is: what it calls a digit it has learned from grey images, without labels.
            model.discrete_encoder = pretrained("gm-wae-digits").discrete_encoder.requires_grad_(False)
        if kind.endswith("after the WAE"):
            seeds.train_whole(model, WAE(SETTINGS["penalty_weight"]), static, SETTINGS["wae_steps"], seed)
        dynamic = binarisation == "dynamic"
        objective = (Binarised if dynamic else VAE)(enumeration=Resampled())
        steps = SETTINGS["steps"]
        history = seeds.train_whole(model, objective, grey if dynamic else static, steps, seed)
        # From all of the split: MNIST's first test images and its last are of other writers.
        count = SETTINGS["test_images"]
        images = static.test.images[torch.arange(count) * len(static.test.images) // count]
        # With the sum over k in full: what a sharp q_D would leave out is worth half a nat and more.
        found = log_likelihood(model, images, SETTINGS["samples"], seed=seed)
        few = log_likelihood(model, images, SETTINGS["samples"] // 10, seed=seed)
        report = evaluate(model, static)
        return {
            "training_elbo": -round(float(np.mean(history["loss"][-steps // 10 :])), 3),
            "log_likelihood": float(np.mean(found)),
            "with_a_tenth_of_the_samples": float(np.mean(few)),
            # Of each image: models are compared on the same ones, which vary by far more than two models differ.
            "of_images": np.round(found, 2).tolist(),
            "accuracy": report.accuracy,
            "component_entropy": report.component_entropy,
        }

    return method


METHODS: dict[str, runner.Method] = {
    f"{kind}, {binarisation}": run(kind, binarisation)
    for binarisation, kind in product(SETTINGS["binarisations"], SETTINGS["kinds"])
}
METHODS |= {f"{kind}, wide q_C, static": run(kind, "static", wide=True) for kind in SETTINGS["kinds"][1:]}

if __name__ == "__main__":
    runner.main("experiments.likelihoods", SETTINGS, METHODS, range(3))
