"""The trained models that the package ships, each from scratch, with the figures that it has as it is shipped.

``python -m experiments.pretrained --output gmlvm/data/pretrained`` makes the files that :func:`gmlvm.pretrained` reads.
Samples are read by the classifier that ``python -m gmlvm_book.instrument`` trains.
"""

from __future__ import annotations

import argparse
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from experiments import collapse, digits, measures, seeds
from gmlvm import GMLVM, VAE, WAE, cosine, datasets, fit, fit_prior, start_discrete_encoder, weights
from gmlvm_book.records import write_record

SEED = 0
#: What the weights are rounded to: in 16 bits each file has less than 3 MB.
DTYPE = torch.float16
#: Matrices of q_D and of the decoder are rounded further, to multiples of a power of two, this share of the spread of
#: their values or near it: so few different values take some seven bits each when they are packed.
SHARE = 1 / 24
#: The VAE whose discrete latent collapses, as the chapter "How a VAE collapses" starts it.
COLLAPSE = collapse.CELLS["mlp small matched"]
#: What is told of a model, by what :func:`experiments.measures.measured` calls its parts.
FIGURES = {
    "model": ("accuracy", "component_entropy", "mutual_information", "reconstruction_error"),
    "samples": ("purity", "least_purity", "frechet", "kernel"),
}


def train() -> dict[str, GMLVM]:
    """Train all of them; two share a start for q_D, which then stays as it is, and one collapses.

    Returns:
        The models, by the names of :data:`gmlvm.weights.NAMES`.
    """
    data, settings = datasets.mnist(), digits.SETTINGS
    start = digits.new_model(data, SEED)
    start_discrete_encoder(start, data, refining_steps=settings["refining_steps"], seed=SEED)
    start.discrete_encoder.requires_grad_(False)
    objectives = {"gm-wae-digits": WAE(penalty_weight=settings["penalty_weight"]), "gm-vae-digits": VAE()}
    models = {}
    for name, objective in objectives.items():
        models[name] = model = deepcopy(start)
        fit(model, objective, data, steps=settings["steps"], schedule=cosine, seed=SEED)
        fit_prior(model, data)
    return {**models, "gm-wae": seeds.train(SEED)[0], "gm-vae": collapsed(settings["steps"])}


def collapsed(steps: int) -> GMLVM:
    """Train a VAE of which one component takes nearly all images.

    Args:
        steps: How many.
    """
    data, sizes = datasets.mnist(), [seeds.SETTINGS[name] for name in ("num_components", "latent_dim")]
    start = {name: COLLAPSE[name] for name in ("networks", "weight_std")}
    model = GMLVM.for_images(data.image_shape, *sizes, seed=SEED, **start)
    matched_start = COLLAPSE["matched_start"]
    seeds.train_whole(model, COLLAPSE["objective"], data, steps, SEED, matched_start=matched_start)
    return model


def rounded(model: GMLVM) -> GMLVM:
    """A model as its file gives it back.

    Args:
        model: The model as it was trained.
    """
    model = deepcopy(model).requires_grad_(False)
    for parameter in (*model.discrete_encoder.parameters(), *model.decoder.parameters()):
        if parameter.ndim > 1:
            step = 2 ** (parameter.std() * SHARE).log2().round()
            parameter.copy_((parameter / step).round() * step)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        model.save(path, dtype=DTYPE)
        return GMLVM.load(path)


def figures(model: GMLVM) -> dict[str, Any]:
    """What is told of a model.

    Args:
        model: The model.
    """
    found = measures.measured(model)
    return {name: found[part][name] for part, names in FIGURES.items() for name in names}


def main() -> None:
    """Train the models that the package ships, and write their files and where they came from."""
    parser = argparse.ArgumentParser(prog="python -m experiments.pretrained", description=main.__doc__)
    parser.add_argument("--output", type=Path, required=True, help="the folder to write to")
    folder = parser.parse_args().output
    if not folder.is_dir():
        parser.error(f"--output must be a folder that is there, got {folder}")
    torch.set_num_threads(1)
    # Nothing is written before everything is there.
    models = {name: rounded(model) for name, model in train().items()}
    record = {
        "settings": {
            "seed": SEED,
            "gm-wae": seeds.SETTINGS,
            "digits": digits.SETTINGS,
            "gm-vae": {**COLLAPSE, "objective": repr(COLLAPSE["objective"]), "steps": digits.SETTINGS["steps"]},
            "rounded to": SHARE,
        },
        "models": {name: figures(model) for name, model in models.items()},
    }
    for name, model in models.items():
        model.save(folder / f"{name}.safetensors", dtype=DTYPE)
    command = f"python -m experiments.pretrained --output {folder.as_posix()}"
    write_record(folder / weights.RECORD, command, record)


if __name__ == "__main__":
    main()
