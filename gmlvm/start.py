r"""A start for the discrete encoder, so that components mean what images have in common before anything is decoded."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gmlvm import embedding, storage
from gmlvm.batches import whole_images
from gmlvm.checkpoints import owned
from gmlvm.clusterer import Clusterer
from gmlvm.clustering import Distillation, InformationMaximisation
from gmlvm.history import INTERRUPTED, History
from gmlvm.identity import differences, digest
from gmlvm.objectives import Objective
from gmlvm.run import Run
from gmlvm.training import fit
from gmlvm.validation import check_folder, check_path, check_positive_int, check_seed, check_shape, check_type

_KIND = "teacher's probabilities"
# Images in a step, if there are as many and nothing else is said.
_BATCH = 256


@dataclass(frozen=True)
class Start:
    """What :func:`start_discrete_encoder` did.

    Attributes:
        targets: The teacher's probabilities for the training images, shape (N, K).
        taught: The terms of each step of distillation.
        refined: The terms of each step after it, of information maximisation if no other objective was given.
    """

    targets: Tensor = field(repr=False)
    taught: History
    refined: History


def start_discrete_encoder(
    model: Clusterer,
    data: Any,
    *,
    targets: Tensor | None = None,
    refining: Objective | None = None,
    teaching_steps: int = 500,
    refining_steps: int = 5000,
    batch_size: int | None = None,
    learning_rate: float = 2e-3,
    seed: int = 0,
    checkpoints: str | Path | None = None,
    device: str | torch.device = "auto",
    progress: bool = True,
) -> Start:
    """Train the discrete encoder of a model by itself, in place; no label is looked at.

    A teacher says which images lie together (:func:`gmlvm.embedding.teacher`). The encoder learns its groups
    (:class:`gmlvm.clustering.Distillation`), and then goes its own way to boundaries between them that cross as few
    images as can be (:class:`gmlvm.clustering.InformationMaximisation`). Whatever objective the model is trained with
    afterwards keeps this partition, if q_D stays smooth: give it ``smoothness=Smoothness(20.0)`` in squared pixel
    units, 100 in nats, or freeze the encoder, ``model.discrete_encoder.requires_grad_(False)``.

    Ctrl-C ends it with a ``KeyboardInterrupt``: half of a start is none, and however it fails, the model is as it was.

    Args:
        model: The model; prior, continuous encoder and decoder are left as they are.
        data: An :class:`gmlvm.datasets.ImageData`, of which the training split is used, or images as an array or
            tensor.
        targets: Probabilities of another teacher, in the order of the images, shape (N, K).
        refining: What the encoder is trained with after the teacher; ``InformationMaximisation()`` if left out. Where
            groups may be of unequal size, ``InformationMaximisation(balance=0.0)``, which asks for no even use.
        teaching_steps: Steps of distillation, at least 1.
        refining_steps: Steps of information maximisation, at least 1.
        batch_size: Images in a step, at least 2; 256, or all if there are fewer, if left out.
        learning_rate: Adam's, constant.
        seed: Seed of teacher, batches and perturbations, below 2^64 - 1.
        checkpoints: A folder, made if it is not there, to keep what is done in: a start that was interrupted, and is
            called again, goes on from there, and ends with the very weights of one that was not; see
            :func:`gmlvm.fit`. As there, the encoder goes on from the weights that the folder has, whatever its own.
        device: See :func:`gmlvm.fit`.
        progress: Show a bar for each of the two trainings.

    Returns:
        The :class:`Start`.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If one is out of range or does not fit, or the checkpoints are damaged or of another start.
        ImportError: If no targets are given and umap-learn is not there.
        KeyboardInterrupt: If Ctrl-C was pressed.
        BlockingIOError: If another process works in the folder of the checkpoints.
        OSError: If that folder can't be made or written to.
        FloatingPointError: See :func:`gmlvm.fit`.

    Source: Hu et al. (2017); McInnes et al. (2018); chapter "Components that mean digits".
    """
    model = getattr(model, "_orig_mod", model)
    check_type("model", model, Clusterer)
    images = whole_images(data, "a teacher looks at all images at once")
    seed = check_seed("seed", seed)
    # The encoder by itself, so that the rest of the model neither moves nor is asked; and a copy, so that half of a
    # start leaves nothing behind.
    alone = Clusterer(deepcopy(model.discrete_encoder), model.image_shape)
    batch_size = min(_BATCH, len(images)) if batch_size is None else batch_size
    settings: dict[str, Any] = {"batch_size": batch_size, "learning_rate": learning_rate, "device": device}
    teaching_steps = check_positive_int("teaching_steps", teaching_steps)
    refining_steps = check_positive_int("refining_steps", refining_steps)
    refining = InformationMaximisation() if refining is None else refining
    # What cannot be trained shows before the teacher is asked, which takes minutes.
    Run(alone, refining, images, steps=refining_steps, seed=seed + 1, **settings).rehearse()
    shape = (len(images), model.num_components)
    if targets is not None:
        teaching = Distillation(check_shape("targets", targets, shape, " (images, num_components)"))
    folder = None if checkpoints is None else check_folder(checkpoints, "checkpoints")
    if folder is not None:
        folder.mkdir(exist_ok=True)
    if targets is None:
        targets = _asked_once(images, model.num_components, seed, folder)
        teaching = Distillation(targets)

    def train(part: str, objective: Objective, steps: int, seed: int, begun: str = "") -> History:
        file = folder and folder / f"{part}{begun}.safetensors"
        history = fit(alone, objective, images, steps=steps, seed=seed, checkpoint=file, progress=progress, **settings)
        if history.stopped == INTERRUPTED:
            raise KeyboardInterrupt(f"the {part} was interrupted after {history.steps} of {steps} steps")
        return history

    taught = train("teaching", teaching, teaching_steps, seed)
    # The file's name has the weights that it begins with: after another teaching there is another.
    begun = "-" + digest(*alone.state_dict().values()) if folder else ""
    refined = train("refining", refining, refining_steps, seed + 1, begun)
    model.discrete_encoder.load_state_dict(alone.discrete_encoder.state_dict())
    model.discrete_encoder.eval()
    model.to(alone.device)
    return Start(targets, taught, refined)


def _asked_once(images: Tensor, num_components: int, seed: int, folder: Path | None) -> Tensor:
    """What the teacher says, from the folder if it was asked before."""
    if folder is None:
        return embedding.teacher(images, num_components, seed)
    file = check_path(folder / "teacher.safetensors", _KIND)
    asked = {"images": digest(images), "num_components": num_components, "seed": seed}
    with owned(file):  # that the folder can't be written to shows here, before minutes are spent
        if file.exists():
            header, tensors = storage.read(file, _KIND)
            if unlike := differences(header["asked"], asked):
                raise ValueError(f"{file} belongs to another start ({unlike}); delete it or name another folder")
            return tensors["targets"]
        targets = embedding.teacher(images, num_components, seed)
        storage.write(file, _KIND, {"asked": asked}, {"targets": targets})
        return targets
