"""The training loop: one plain loop for every objective, on Lightning Fabric."""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm.auto import tqdm

from gmlvm.checkpoints import load_run, save_run
from gmlvm.datasets import ImageData
from gmlvm.model import GMLVM
from gmlvm.objectives import Objective, VAETerms, WAETerms
from gmlvm.validation import check_choice, check_number, check_positive_int, check_type

_DEVICES = ("auto", "cpu", "cuda", "mps")
_PRECISIONS = ("32-true", "bf16-mixed")
# Steps between looks at the terms: on a GPU each look waits for the device.
_LOOK_EVERY = 50
# Images that the matched start of the continuous encoder is fitted on.
_START_IMAGES = 5000


@dataclass(frozen=True)
class History:
    """The terms of every training step.

    Attributes:
        terms: For each name of the objective's terms, an array of shape (steps,).
        seconds: Time spent in the loop, callbacks included.
        device: Where it ran, such as ``"cpu"``.

    Source: chapter "Training the GM-WAE".
    """

    terms: dict[str, NDArray[np.float64]]
    seconds: float
    device: str

    @property
    def steps(self) -> int:
        """Number of steps."""
        return len(next(iter(self.terms.values())))

    def __getitem__(self, name: str) -> NDArray[np.float64]:
        """One term's values, shape (steps,)."""
        return self.terms[name]

    def __repr__(self) -> str:
        """Steps, time and the last values."""
        last = ", ".join(f"{name}={values[-1]:.4g}" for name, values in self.terms.items())
        return f"History({self.steps} steps on {self.device} in {self.seconds:.0f} s;\n  last: {last})"


def cosine(progress: float) -> float:
    r"""Learning-rate factor :math:`\frac12 (1 + \cos \pi t)`, from 1 at the start to 0 at the end.

    Args:
        progress: t, the share of the steps that are done, in [0, 1].

    Returns:
        The factor, in [0, 1].

    Source: Loshchilov and Hutter (2017), equation 5; chapter "Training the GM-WAE".

    Example:
        >>> cosine(0.0), round(cosine(0.5), 6), cosine(1.0)
        (1.0, 0.5, 0.0)
    """
    return 0.5 * (1 + math.cos(math.pi * progress))


def fit(
    model: GMLVM,
    objective: Objective,
    data: ImageData,
    *,
    steps: int,
    batch_size: int = 128,
    seed: int = 0,
    learning_rate: float = 1e-3,
    schedule: Callable[[float], float] | None = None,
    matched_start: bool = False,
    callbacks: Mapping[int, Callable[[GMLVM], None]] | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 500,
    device: str = "auto",
    precision: str = "32-true",
    progress: bool = True,
) -> History:
    """Train a model in place with Adam.

    The training images stay on the device as ``uint8``; each step draws a batch from them with replacement.
    Labels are never looked at. The same seed on the same machine, with the same number of threads, gives
    the same weights.

    Args:
        model: The model, changed in place, moved to the device and left there in evaluation mode.
        objective: What to minimise, such as ``VAE()`` or ``WAE(penalty_weight=100.0)``.
        data: The data; its training split is used.
        steps: Optimiser steps, at least 1.
        batch_size: Images in a step, at least 2 and at most the training split.
        seed: Seed of the batches and of every sample drawn in the loop.
        learning_rate: Adam's, positive.
        schedule: Factor on the learning rate as a function of the share of steps done, such as
            :func:`cosine`; constant if left out.
        matched_start: Before the first step fit the continuous encoder to the prior, as the original does; for
            a new model alone. See :meth:`GMLVM.match_prior`.
        callbacks: Called with the model, in evaluation mode, after so many steps; 0 is before the first.
        checkpoint: A file to save the run to and, if it is there, to go on from; a run that goes on ends
            with the very weights of one that was never stopped. Callbacks of steps already done are not
            called again.
        checkpoint_every: Steps between saves.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
        precision: ``"32-true"``, or ``"bf16-mixed"`` for bfloat16 where it is safe.
        progress: Show a bar with the terms.

    Returns:
        The :class:`History` of all terms.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If one is out of range, the images do not fit the model, or the checkpoint belongs to
            another run. All of these come before the first step, and leave the weights as they were.
        FileNotFoundError: If the folder of the checkpoint is not there.
        RuntimeError: If the device is not there; Fabric's own.
        FloatingPointError: If a term is not finite; the message names the step and the term.

    Source: chapter "Training the GM-WAE".
    """
    callbacks = dict(callbacks or {})
    _check(model, objective, data, batch_size, steps, callbacks)
    check_positive_int("seed", seed, minimum=0)
    check_number("learning_rate", learning_rate, exclusive=True)
    check_positive_int("checkpoint_every", checkpoint_every)
    check_choice("device", device, _DEVICES)
    check_choice("precision", precision, _PRECISIONS)
    if schedule is not None and not callable(schedule):
        raise TypeError(f"schedule must be a function of the share of steps done, got {schedule!r}")
    path = None if checkpoint is None else Path(checkpoint)
    if path is not None and not path.parent.is_dir():
        raise FileNotFoundError(f"no folder {path.parent} to write the checkpoint {path.name} to")

    fabric = Fabric(accelerator=device, devices=1, precision=precision)  # type: ignore[arg-type]
    images = data.train.images.to(fabric.device)
    generator = torch.Generator(fabric.device).manual_seed(seed)
    model.to(fabric.device)
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, fused=True)
    loss_module, fabric_optimizer = fabric.setup(_Loss(model, objective), optimizer)

    names = objective.term_names
    record = torch.empty(steps, len(names), device=fabric.device)
    done, earlier = 0, 0.0
    settings: dict[str, Any] = {}
    if path is not None:
        settings = {
            "model": _describe_model(model), "objective": _describe_objective(objective), "data": _describe_data(data),
            "steps": steps, "batch_size": batch_size, "seed": seed, "learning_rate": learning_rate,
            "schedule": None if schedule is None else [round(schedule(t / 10), 6) for t in range(11)],
            "matched_start": matched_start, "precision": precision, "device": fabric.device.type,
        }  # fmt: skip
    if path is not None and path.exists():
        saved, earlier = load_run(path, model, optimizer, generator, settings)
        done = len(saved)
        record[:done] = saved.to(fabric.device)
    elif matched_start:
        model.match_prior(images[_draw(len(images), min(_START_IMAGES, len(images)), generator)])
    if path is not None and done == 0:  # what cannot be saved shows before any work is lost
        save_run(path, model, optimizer, generator, record[:0], 0.0, settings)

    start = time.perf_counter() - earlier
    # The environment can switch the bar off as well; in a notebook tqdm does not look at it by itself.
    hidden = not progress or bool(os.environ.get("TQDM_DISABLE"))
    with tqdm(total=steps, initial=done, unit="step", disable=hidden) as bar:
        if done == 0:
            _call(callbacks, 0, model)
        model.train()
        for step in range(done + 1, steps + 1):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * (1.0 if schedule is None else schedule((step - 1) / steps))
            terms = loss_module(images[_draw(len(images), batch_size, generator)], generator)
            fabric_optimizer.zero_grad()
            fabric.backward(terms.loss)
            fabric_optimizer.step()
            record[step - 1] = torch.stack([term.detach().float() for term in terms])

            save_now = path is not None and (step % checkpoint_every == 0 or step == steps)
            if step % _LOOK_EVERY == 0 or step == steps or step in callbacks or save_now:
                _check_finite(record[done:step], done, names)
                bar.set_postfix({n: f"{v:.4g}" for n, v in zip(names, record[step - 1].tolist(), strict=True)})
                bar.update(step - done)
                done = step
                _call(callbacks, step, model)
            if save_now and path is not None:
                seconds = time.perf_counter() - start
                save_run(path, model, optimizer, generator, record[:step], seconds, settings)
    model.eval()
    columns = record.cpu().double().numpy().T
    terms_by_name = {name: column.copy() for name, column in zip(names, columns, strict=True)}
    return History(terms_by_name, time.perf_counter() - start, str(fabric.device))


class _Loss(nn.Module):
    """Objective and model as one module, so that Fabric's precision and devices apply to the whole loss."""

    def __init__(self, model: GMLVM, objective: Objective) -> None:
        super().__init__()
        self.model = model
        self.objective = objective

    def forward(self, x: Tensor, generator: torch.Generator) -> VAETerms | WAETerms:
        return self.objective(self.model, x, generator)


def _describe_model(model: GMLVM) -> str:
    """The networks' sizes and a digest of the prior."""
    networks = model.architecture or [(name, tuple(weight.shape)) for name, weight in model.named_parameters()]
    return f"{networks} with prior {_digest(*model.prior.buffers())}"


def _describe_objective(objective: Objective) -> str:
    """The objective's ``repr``, if it says with what settings."""
    text = repr(objective)
    if " at 0x" in text:
        raise ValueError(f"a checkpoint keeps the repr of the objective, which must tell its settings; got {text}")
    return text


def _describe_data(data: ImageData) -> str:
    """Name, sizes and a digest of the training images."""
    return f"{data!r} {_digest(data.train.images)}"


def _digest(*tensors: Tensor) -> str:
    """A few digits that differ if any value does."""
    content = hashlib.sha256()
    for tensor in tensors:
        content.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return content.hexdigest()[:12]


def _draw(count: int, size: int, generator: torch.Generator) -> Tensor:
    """Indices drawn with replacement, so that a batch is an independent sample of the data: int64, (size,)."""
    return torch.randint(count, (size,), generator=generator, device=generator.device)


def _call(callbacks: Mapping[int, Callable[[GMLVM], None]], step: int, model: GMLVM) -> None:
    """Run the callback of a step, if there is one, on the model in evaluation mode."""
    if step in callbacks:
        model.eval()
        callbacks[step](model)
        model.train()


def _check_finite(record: Tensor, offset: int, names: tuple[str, ...]) -> None:
    """Raise for the first row of terms, (steps, terms), that is not finite; ``offset`` steps lie before it."""
    bad = ~record.isfinite()
    if bool(bad.any()):
        row = int(bad.any(1).nonzero()[0])
        # The loss comes first and is not finite whenever a term is not: name the term where there is one.
        columns = bad[row].nonzero().flatten().tolist()
        values = ", ".join(f"{names[c]} = {record[row, c].item()}" for c in columns)
        raise FloatingPointError(
            f"training stopped: {names[columns[-1]]} is not finite at step {offset + row + 1} ({values})"
        )


def _check(model: Any, objective: Any, data: Any, batch_size: Any, steps: Any, callbacks: Mapping[Any, Any]) -> None:
    """Raise for arguments of :func:`fit` that do not fit together."""
    check_type("model", model, GMLVM)
    check_type("objective", objective, Objective)
    check_type("data", data, ImageData)
    if data.image_shape != model.image_shape:
        raise ValueError(f"the model is for images of shape {model.image_shape}, the data has {data.image_shape}")
    check_positive_int("steps", steps)
    if check_positive_int("batch_size", batch_size, minimum=2) > len(data.train):
        raise ValueError(f"batch_size must be at most the {len(data.train)} training images, got {batch_size}")
    for step, callback in callbacks.items():
        if isinstance(step, bool) or not isinstance(step, int) or not 0 <= step <= steps:
            raise ValueError(f"callbacks must be at steps 0 to {steps}, got {step!r}")
        if not callable(callback):
            raise TypeError(f"the callback at step {step} must be callable, got {callback!r}")
