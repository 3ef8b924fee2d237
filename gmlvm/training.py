"""Training: a run that takes one step at a time, and the loop around it, on Lightning Fabric."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from numbers import Integral
from pathlib import Path
from types import FrameType
from typing import Any, TypeAlias

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer
from tqdm.auto import tqdm

from gmlvm import distributed, storage
from gmlvm.batches import Batch, Batches, TensorBatches, as_batches
from gmlvm.checkpoints import check_complete, owned, pack, unchanged_on_failure, under, unpack
from gmlvm.identity import describe, differences, digest, shapes, structure
from gmlvm.model import GMLVM
from gmlvm.objectives import Objective, Terms
from gmlvm.validation import (
    check_choice,
    check_number,
    check_path,
    check_positive_int,
    check_seed,
    check_type,
)

_KIND = "gmlvm training run"
_DEVICES = ("auto", "cpu", "cuda", "mps")
_PRECISIONS = ("32-true", "bf16-mixed")
# Steps between looks at the terms: on a GPU each look waits for the device.
_LOOK_EVERY = 50
# Images that the matched start of the continuous encoder is fitted on.
_START_IMAGES = 5000
# How far what a run computes may be from what it computed when it was saved, relative to the largest of its figures:
# rounding on another machine, no change of anything.
_SAME = 1e-3

# Buffers whose first values are settings, as weights are not: constants that the reader has chosen.
_SETTING_BUFFERS = ("model.prior.", "objective.")
# Why a run ended that goes on when it is called again.
_INTERRUPTED = "interrupted"

#: Called with the run after a step, in evaluation mode.
Callback: TypeAlias = "Callable[[Run], Any]"


@dataclass(frozen=True)
class History(Mapping[str, NDArray[np.float64]]):
    """The terms of every training step, by name: a mapping, as ``dict(history)`` or a data frame takes it.

    Attributes:
        terms: For each name of the objective's terms, an array of shape (steps,).
        seconds: Time spent in the loop, callbacks included.
        device: Where it ran, such as ``"cpu"``.
        stopped: Why it ended before all steps were done; empty if it did not.
    """

    terms: dict[str, NDArray[np.float64]]
    seconds: float
    device: str
    stopped: str = ""

    @property
    def steps(self) -> int:
        """Number of steps."""
        return len(next(iter(self.terms.values()), ()))

    def __getitem__(self, name: str) -> NDArray[np.float64]:
        """One term's values, shape (steps,)."""
        return self.terms[name]

    def __iter__(self) -> Iterator[str]:
        """The names of the terms."""
        return iter(self.terms)

    def __len__(self) -> int:
        """Number of terms."""
        return len(self.terms)

    def __repr__(self) -> str:
        """Steps, time and the last values."""
        last = ", ".join(f"{name}={values[-1]:.4g}" for name, values in self.terms.items() if len(values))
        stopped = f", stopped: {self.stopped}" if self.stopped else ""
        return f"History({self.steps} steps on {self.device} in {self.seconds:.0f} s{stopped};\n  last: {last})"


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


class Run:
    """One training run, a step at a time; :func:`fit` is a loop around it.

    The model is in training mode inside a step alone, and in evaluation mode outside, however a step ends. All
    randomness is the run's own: batches and samples come from ``generator``, and what asks torch's global
    generators inside a step, such as dropout, gets a state that the run keeps. So the same seed on the same machine
    with the same number of threads gives the same weights, and the global generators are left as they were.

    Args:
        model: The model, changed in place and moved to the device.
        objective: What to minimise; its parameters, if it has any, are trained with the model's.
        data: Images: see :func:`gmlvm.batches.as_batches` for what is taken. Labels are never looked at.
        steps: Steps that are planned, at least 1; needed for a schedule.
        batch_size: Images in a step, over all processes; for a loader its own.
        seed: Seed of the batches and of every sample, below 2^64.
        optimizer: From the list of trained parameters to a torch optimiser, such as
            ``functools.partial(torch.optim.SGD, lr=0.1)``; Adam if left out.
        learning_rate: Adam's, positive; 1e-3 if left out.
        schedule: Factor on the learning rate as a function of the share of steps done, such as :func:`cosine`.
        clip_norm: Largest norm of the gradient, positive; unlimited if left out.
        accumulate: Batches whose mean gradient makes a step, at least 1. What compares codes of a batch with one
            another, as the MMD does, compares those within each of them.
        matched_start: Fit the continuous encoder to the prior before the first step; see :meth:`GMLVM.match_prior`.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"`` or a ``torch.device``.
        devices: Processes to train with, each on a device of its own. They share each batch evenly; all calls are made
            by all of them. With batch norms each takes the means of its own rows.
        strategy: How they are started: Fabric's name, such as ``"ddp"``; ``"ddp_find_unused_parameters_true"`` if not
            every parameter takes part in every step.
        precision: ``"32-true"``, or ``"bf16-mixed"`` for bfloat16 where it is safe.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If one is out of range, the images do not fit the model, there is nothing to train, or the
            optimiser needs the loss more than once in a step.
        RuntimeError: If the device is not there; Fabric's own.

    Attributes:
        done: Steps that are done.
        terms: The terms of the last step, scalars on the device, by name; empty before the first.
        stopped: Why the run is to end, or empty.
    """

    @torch.inference_mode(False)
    def __init__(
        self,
        model: GMLVM,
        objective: Objective,
        data: Any,
        *,
        steps: int | None = None,
        batch_size: int | None = None,
        seed: int = 0,
        optimizer: Callable[[list[nn.Parameter]], Optimizer] | None = None,
        learning_rate: float | None = None,
        schedule: Callable[[float], float] | None = None,
        clip_norm: float | None = None,
        accumulate: int = 1,
        matched_start: bool = False,
        device: str | torch.device = "auto",
        devices: int = 1,
        strategy: str = "auto",
        precision: str = "32-true",
    ) -> None:
        self.model = getattr(model, "_orig_mod", model)  # what torch.compile wraps is trained as it is
        check_type("model", self.model, GMLVM)
        check_type("objective", objective, Objective)
        self.objective = objective
        self.steps = None if steps is None else check_positive_int("steps", steps)
        self.accumulate = check_positive_int("accumulate", accumulate)
        self.clip_norm = None if clip_norm is None else check_number("clip_norm", clip_norm, exclusive=True)
        seed = check_seed("seed", seed)
        check_choice("precision", precision, _PRECISIONS)
        self._plan = _factors(schedule, self.steps)
        make_optimizer = _optimizer(optimizer, learning_rate)
        fabric = _fabric(device, devices, strategy, precision)
        batches = as_batches(data, batch_size, fabric.device)
        _check_fits(batches, self.model, devices)
        self._module = _Loss(self.model, objective)
        self._trained = {name: p for name, p in self._module.named_parameters() if p.requires_grad}
        if not self._trained:
            raise ValueError("there is nothing to train: every parameter of the model is frozen")
        if any(parameter.is_inference() for parameter in self._trained.values()):
            raise ValueError(
                "model and objective must be made outside torch.inference_mode, or no gradient reaches them"
            )

        fabric.launch()
        if fabric.world_size != distributed.world_size():
            raise ValueError(
                f"devices must be the {distributed.world_size()} processes that train together, got {devices}"
            )
        self._fabric, self._batches = fabric, batches
        self._settings: dict[str, Any] = {
            "model": structure(self.model), "objective": structure(objective), "seed": seed,
            "values": {n: digest(b) for n, b in self._module.named_buffers() if n.startswith(_SETTING_BUFFERS)},
            "matched_start": bool(matched_start), "clip_norm": self.clip_norm, "accumulate": self.accumulate,
            "precision": precision, "device": fabric.device.type,
        }  # fmt: skip
        self.generator = torch.Generator(fabric.device).manual_seed(seed)
        self._ambient = _ambient_seed(seed, fabric.device)
        self._module.to(fabric.device)
        self.optimizer = make_optimizer(list(self._trained.values()))
        check_type("what optimizer gives", self.optimizer, Optimizer)
        if isinstance(self.optimizer, torch.optim.LBFGS):
            raise ValueError("the optimizer must take one step for one gradient; LBFGS asks for several")
        self._rates = [group["lr"] for group in self.optimizer.param_groups]
        self._settings["optimizer"] = {"class": type(self.optimizer).__qualname__} | {
            f"group {index}": {name: describe(v) for name, v in group.items() if name != "params"}
            | {"parameters": len(group["params"])}
            for index, group in enumerate(self.optimizer.param_groups)
        }
        self._loss, self._fabric_optimizer = fabric.setup(self._module, self.optimizer)
        self._matched_start = matched_start
        self._module.eval()
        self.done, self.stopped = 0, ""
        self.terms: dict[str, Tensor] = {}
        self._known: list[NDArray[np.float64]] = []  # rows of terms that were looked at
        self._pending: list[Tensor] = []  # and those that were not yet, on the device

    @property
    def device(self) -> torch.device:
        """Where the run computes."""
        return self._fabric.device

    @property
    def ends(self) -> bool:
        """Whether the data come to an end by themselves."""
        return isinstance(getattr(self._batches, "loader", None), Iterator)

    def start(self) -> None:
        """Make the matched start, if one was asked for; the first step does it if it was not done before."""
        if self._matched_start and self.done == 0:
            self._matched_start = False
            if not isinstance(self._batches, TensorBatches):
                raise ValueError("a matched start needs images given as a whole; call model.match_prior before")
            images = self._batches.images
            size = (min(_START_IMAGES, len(images)),)
            index = torch.randint(len(images), size, generator=self.generator, device=self.device)
            self.model.match_prior(images[index])

    def step(self) -> dict[str, Tensor]:
        """Take one step: draw a batch, compute the terms, follow the gradient.

        Returns:
            The terms, scalars on the device, by name; of the last batch, if several make a step. Whether they are
            finite shows in :meth:`look`.

        Raises:
            EOFError: If the data came to an end.
            ValueError: If all planned steps are done, the loss does not depend on anything that is trained, or the
                terms are not those of the step before.
        """
        self.start()
        if self.steps is not None and self.done >= self.steps:
            raise ValueError(f"all {self.steps} planned steps are done")
        factor = self._plan[self.done] if self._plan else 1.0
        for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * factor
        with self._inside():
            self._fabric_optimizer.zero_grad()
            for part in range(1, self.accumulate + 1):
                batch = self._batches.draw(self.generator)
                with self._fabric.no_backward_sync(self._loss, enabled=part < self.accumulate):
                    terms = _named(self._loss(batch, self.generator))
                    if not terms["loss"].requires_grad:
                        raise ValueError("the loss does not depend on any parameter that is trained")
                    self._fabric.backward(terms["loss"] / self.accumulate if self.accumulate > 1 else terms["loss"])
            if self.terms and list(terms) != list(self.terms):
                names = f"{', '.join(terms)} after {', '.join(self.terms)}"
                raise ValueError(f"an objective must give the same terms at each step, got {names}")
            if self.clip_norm is not None:  # what is not finite shows in look
                self._fabric.clip_gradients(
                    self._loss, self._fabric_optimizer, max_norm=self.clip_norm, error_if_nonfinite=False
                )
            self._fabric_optimizer.step()
        self.terms = {name: term.detach() for name, term in terms.items()}
        self._pending.append(torch.stack([term.float() for term in self.terms.values()]))
        self.done += 1
        return self.terms

    def stop(self, why: str = "stopped by a callback") -> None:
        """Ask the loop to end after this step.

        Args:
            why: What the history is to say.
        """
        self.stopped = why

    def look(self) -> dict[str, float]:
        """The terms of the last step as numbers; on a GPU this waits for it.

        Raises:
            FloatingPointError: If a term of any step since the last look is not finite, or a weight is not; the message
                names step and term, or the weight.
        """
        if self._pending:
            rows = torch.as_tensor(self._fabric.all_reduce(torch.stack(self._pending), reduce_op="mean"))
            self._known += list(rows.cpu().double().numpy())
            self._pending.clear()
            self._check_finite(len(rows))
        return dict(zip(self.terms, map(float, self._known[-1]), strict=True)) if self._known else {}

    def history(self, seconds: float = 0.0) -> History:
        """The terms of all steps.

        Args:
            seconds: Time that they took.
        """
        self.look()
        columns = np.array(self._known).reshape(-1, len(self.terms)).T if self.terms else ()
        terms = {name: column.copy() for name, column in zip(self.terms, columns, strict=True)}
        return History(terms, seconds, str(self.device), "" if self.done == self.steps else self.stopped)

    def save(self, path: str | Path, seconds: float = 0.0) -> None:
        """Write everything that a run needs to go on.

        Args:
            path: The file.
            seconds: Time spent so far.

        Raises:
            FloatingPointError: If a term or a weight is not finite.
            TypeError: If the optimiser keeps what a file cannot hold.
            OSError: If the file cannot be written.
        """
        self.look()
        self._check_finite(self.done)
        tensors, plain = pack(self._module, self.optimizer)
        tensors |= {f"batches.{name}": tensor for name, tensor in self._batches.state().items()}
        tensors |= {f"ambient.{name}": tensor for name, tensor in self._ambient.items()}
        tensors |= {
            "generator": self.generator.get_state(),
            "record": torch.tensor(np.array(self._known)).reshape(self.done, len(self.terms)),
            "plan": torch.tensor(self._plan, dtype=torch.float64),
            "probe": self._probe(),
        }
        header = {
            "settings": self._described(), "steps": self.steps, "done": self.done, "names": list(self.terms),
            "seconds": seconds, "optimizer": plain, "stopped": self.stopped, "shapes": shapes(tensors),
        }  # fmt: skip
        if distributed.rank() == 0:
            storage.write(path, _KIND, header, tensors)
        self._fabric.barrier()

    @torch.inference_mode(False)
    def resume(self, path: str | Path) -> float:
        """Go on from where a run was saved: afterwards this run is that run.

        A run that was planned for fewer steps is extended, if the factors of its learning rate are those that this one
        begins with.

        Args:
            path: What :meth:`save` wrote.

        Returns:
            Time that the steps so far took.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is damaged, or belongs to another run: other data, settings or networks, or networks that
                compute something else. Model, objective and optimiser are then as they were.
        """
        header, tensors = storage.read(path, _KIND)
        if "probe" not in tensors:
            raise ValueError(
                f"{path} was written by version 0.1; finish it with that, or start again with another file"
            )
        try:
            check_complete(header, tensors)
        except ValueError as error:
            raise ValueError(f"{path} is damaged: {error}") from None
        if unlike := self._unlike(header, tensors):
            raise ValueError(f"{path} belongs to a run with other settings ({unlike}); delete it or name another file")
        with unchanged_on_failure(self._module, self.optimizer):
            with _fitting(path):
                generator = torch.Generator(self.device).set_state(tensors["generator"])
                unpack(tensors, header["optimizer"], self._module, self.optimizer)
            probe = self._probe()
            with _fitting(path):
                if not _close(probe, tensors["probe"]):
                    raise ValueError(
                        "with its weights this model and objective compute something else than they did when it was "
                        "saved; delete it or name another file"
                    )
                with self._inside():
                    self._batches.restore(under("batches.", tensors))
        self.generator, self._ambient = generator, under("ambient.", tensors)
        self.done, self._known, self._pending = header["done"], list(tensors["record"].numpy()), []
        last = tensors["record"][-1:].flatten().float().to(self.device)
        self.terms = dict(zip(header["names"], last, strict=bool(self.done)))
        goes_on = self.steps != header["steps"] or header["stopped"] == _INTERRUPTED
        self.stopped = "" if goes_on else header["stopped"]
        self._matched_start = False
        return float(header["seconds"])

    def _described(self) -> dict[str, Any]:
        """The settings, with a digest of the data, which takes a while and is needed with a checkpoint alone."""
        if "data" not in self._settings:
            self._settings["data"] = self._batches.describe()
        return self._settings

    def _unlike(self, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
        """Why a checkpoint is of another run than this one; empty if it is not."""
        there, here = header["settings"], self._described()
        values = there.get("values")
        if isinstance(values, dict):  # what the run itself has changed since, such as a prior, is no other
            saved = under("module.", tensors)
            same = {n: values.get(n) for n, d in here["values"].items() if d == digest(saved.get(n, b""))}
            here = here | {"values": here["values"] | same}
        states = shapes({"generator": self.generator.get_state(), **self._ambient})
        found = shapes({"generator": tensors.get("generator", torch.empty(0)), **under("ambient.", tensors)})
        if unlike := differences(there, here) or differences(found, states):
            return unlike
        planned, done = header["steps"], header["done"]
        if done > (self.steps or done) or (planned is not None and (self.steps is None or self.steps < planned)):
            return f"steps: {planned or done} there, {self.steps} here"
        start = tensors["plan"]
        if not torch.equal(torch.tensor(self._plan[: len(start)], dtype=torch.float64), start):
            return (
                f"schedule: its factors for {planned} steps are not those that the {self.steps} steps here begin with"
            )
        return ""

    def _check_finite(self, last: int) -> None:
        """Raise if a term of the last so many steps that are known is not finite, or a weight is not."""
        first = len(self._known) - last
        _check_terms(np.array(self._known[first:]).reshape(last, len(self.terms)), first + 1, tuple(self.terms))
        finite = torch.stack([parameter.detach().isfinite().all() for parameter in self._trained.values()])
        if not bool(finite.all()):
            name = list(self._trained)[int(finite.long().argmin())]
            raise FloatingPointError(f"training stopped: {name} is not finite after step {self.done}")

    @contextmanager
    def _inside(self) -> Iterator[None]:
        """Training mode, gradients and the run's own global randomness inside; evaluation mode outside."""
        outside = _ambient_state(self.device)
        _set_ambient(self._ambient, self.device)
        self._module.train()
        try:
            with torch.inference_mode(False), torch.enable_grad():
                yield
        finally:
            self._module.eval()
            self._ambient = _ambient_state(self.device)
            _set_ambient(outside, self.device)

    def _probe(self) -> Tensor:
        """What the run computes on a fixed batch of noise: its terms, and the length of each parameter's gradient.

        A run is known by this besides its settings: code that settings do not show, such as a changed ``forward``,
        shows here. Nothing is left of it: generators, buffers and gradients are as they were.
        """
        count = self._batches.batch_size
        count -= count % distributed.world_size()
        rows = distributed.own_rows(count)
        generator = torch.Generator(self.device).manual_seed(0)
        ambient, buffers = self._ambient, {name: b.clone() for name, b in self._module.named_buffers()}
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self._ambient = _ambient_seed(0, self.device)
        try:
            with self._inside():
                noise = torch.rand((count, *self.model.image_shape), generator=torch.Generator().manual_seed(0))
                batch = Batch(noise[rows].to(self.device), torch.arange(count)[rows].to(self.device))
                terms = _named(self._module(batch, generator))
                gradients = torch.autograd.grad(terms["loss"], parameters, allow_unused=True, materialize_grads=True)
        finally:
            self._ambient = ambient
            with torch.no_grad():
                for name, buffer in self._module.named_buffers():
                    buffer.copy_(buffers[name])
        values = [term.detach().clone() for term in terms.values()]
        means: Any = self._fabric.all_reduce([*values, *gradients], reduce_op="mean")
        return torch.stack([*means[: len(values)], *(g.norm() for g in means[len(values) :])]).cpu().double()


def fit(
    model: GMLVM,
    objective: Objective,
    data: Any,
    *,
    steps: int | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    optimizer: Callable[[list[nn.Parameter]], Optimizer] | None = None,
    learning_rate: float | None = None,
    schedule: Callable[[float], float] | None = None,
    clip_norm: float | None = None,
    accumulate: int = 1,
    matched_start: bool = False,
    callbacks: Mapping[int, Callback] | Callback | Sequence[Callback] | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 500,
    device: str | torch.device = "auto",
    devices: int = 1,
    strategy: str = "auto",
    precision: str = "32-true",
    progress: bool = True,
) -> History:
    """Train a model in place.

    Images given as a whole stay on the device as ``uint8``; each step draws a batch from them with replacement. Labels
    are never looked at. The same seed on the same machine, with the same number of threads, gives the same weights.

    Ctrl-C ends the training after the step that is being taken, and what there is comes back; pressed again, it ends at
    once. With several processes it always ends at once.

    What a run needs of memory: the images, a byte for each value; the weights four times over, 16 bytes each, with
    their gradients and Adam's two moments; the layers of the networks for a batch; and, at K components, B images,
    and N codes that take part, at most B K: the penalty's kernel values, 16 bytes times N (N + 16 K) on codes and N
    times B on pairs. Once q_D is sharp N comes near B.

    Args:
        model: The model, changed in place, moved to the device and left there in evaluation mode.
        objective: What to minimise, such as ``VAE()`` or ``WAE(penalty_weight=100.0)``.
        data: An :class:`gmlvm.datasets.ImageData`, of which the training split is used; images as an array or tensor;
            or a ``DataLoader`` or another iterable of batches. See :func:`gmlvm.batches.as_batches`.
        steps: Optimiser steps, at least 1. If left out, an iterable that can't be begun again is used to its end.
        batch_size: Images in a step, at least 2; 128, or all if there are fewer, if left out.
        seed: Seed of the batches and of every sample drawn in the loop.
        optimizer: From the list of trained parameters to a torch optimiser; Adam if left out.
        learning_rate: Adam's, positive; 1e-3 if left out. Another optimiser has its own.
        schedule: Factor on the learning rate as a function of the share of steps done, such as
            :func:`cosine`; constant if left out.
        clip_norm: Largest norm of the gradient; unlimited if left out.
        accumulate: Batches whose gradients make a step.
        matched_start: Before the first step fit the continuous encoder to the prior, as the original does; for
            a new model alone. See :meth:`GMLVM.match_prior`.
        callbacks: Called with the :class:`Run`, which has the model, in evaluation mode: a function, or several, after
            every step; or functions by the number of steps after which they are called, 0 for before the first. With
            :meth:`Run.stop` they end the training.
        checkpoint: A file to save the run to and, if it is there, to go on from; a run that goes on ends
            with the very weights of one that was never stopped. Callbacks of steps already done are not
            called again. A finished run is extended by asking for more steps. An empty file beside it, with a name
            that ends in ``.lock``, keeps others away.
        checkpoint_every: Steps between saves.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"`` or a ``torch.device``.
        devices: Processes to train with, each on a device of its own; they share each batch, and compare all its codes.
            Callbacks are called in each of them, and must decide the same.
        strategy: How they are started; see :class:`Run`.
        precision: ``"32-true"``, or ``"bf16-mixed"`` for bfloat16 where it is safe.
        progress: Show a bar with the terms.

    Returns:
        The :class:`History` of all terms.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If one is out of range, the images do not fit the model, there is nothing to train, or the
            checkpoint is damaged or belongs to another run. All of these come before the first step, and leave the
            weights as they were. Also if the terms of the objective change on the way.
        FileNotFoundError: If the folder of the checkpoint is not there.
        BlockingIOError: If another process trains with the checkpoint.
        RuntimeError: If the device is not there; Fabric's own.
        FloatingPointError: If a term or a weight is not finite; the message names the step, and the term or weight.
    """
    run = Run(
        model, objective, data, steps=steps, batch_size=batch_size, seed=seed, optimizer=optimizer,
        learning_rate=learning_rate, schedule=schedule, clip_norm=clip_norm, accumulate=accumulate,
        matched_start=matched_start, device=device, devices=devices, strategy=strategy, precision=precision,
    )  # fmt: skip
    if steps is None and not run.ends:
        raise ValueError("steps must be given: the data never come to an end by themselves")
    callback = _callback(callbacks, steps)
    check_positive_int("checkpoint_every", checkpoint_every)
    path = None if checkpoint is None else check_path(checkpoint, "checkpoint")
    with owned(path) if path is not None and distributed.rank() == 0 else nullcontext():
        earlier = 0.0
        if path is not None and path.exists():
            earlier = run.resume(path)
        else:
            run.start()
            if path is not None:  # what cannot be saved shows before any work is lost
                run.save(path)
        try:
            return _loop(run, callback, path, checkpoint_every, progress, time.perf_counter() - earlier)
        finally:
            run.model.eval()  # whatever a callback did


def _loop(run: Run, callback: Callback, path: Path | None, every: int, progress: bool, start: float) -> History:
    """Step until all is done or something asks to stop; ``start`` is when the run would have begun without a break."""

    def show(bar: Any) -> None:
        bar.set_postfix({name: f"{value:.4g}" for name, value in run.look().items()})
        bar.update(run.done - bar.n)

    # The environment can switch the bar off as well; in a notebook tqdm does not look at it by itself.
    hidden = not progress or bool(os.environ.get("TQDM_DISABLE")) or distributed.rank() > 0
    with (
        _interruptions(run),
        tqdm(total=run.steps, initial=run.done, unit="step", disable=hidden) as bar,
    ):
        begun = (run.done, run.stopped)
        if run.done == 0:
            callback(run)
        while not run.stopped and run.done != run.steps:
            try:
                run.step()
            except EOFError as end:
                if run.done == 0:
                    raise ValueError(str(end)) from None
                run.stop(str(end))
                break
            callback(run)
            if run.done % _LOOK_EVERY == 0:
                show(bar)
            # What the optimiser keeps, and whether a file can hold it, shows after the first step.
            if path is not None and (run.done == 1 or run.done % every == 0) and run.done != run.steps:
                run.save(path, time.perf_counter() - start)
        show(bar)
        if path is not None and (run.done, run.stopped) != begun:
            run.save(path, time.perf_counter() - start)
    return run.history(time.perf_counter() - start)


@contextmanager
def _interruptions(run: Run) -> Iterator[None]:
    """The first Ctrl-C lets the step that is being taken come to its end, so that nothing is left half done.

    Not where Python gets no signals, where Ctrl-C means something else already, or where other processes would wait for
    this one.
    """
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler or distributed.world_size() > 1:
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        if run.stopped:
            raise KeyboardInterrupt
        run.stop(_INTERRUPTED)

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


class _Loss(nn.Module):
    """Objective and model as one module, so that Fabric's precision and devices apply to the whole loss."""

    def __init__(self, model: GMLVM, objective: Objective) -> None:
        super().__init__()
        self.model = model
        self.objective = objective

    def forward(self, batch: Batch, generator: torch.Generator) -> Terms:
        terms: Terms = self.objective(self.model, batch, generator)
        return terms


def _named(terms: Terms) -> dict[str, Tensor]:
    """Terms by name, if they are what an objective is to give."""
    given: Any = terms._asdict() if hasattr(terms, "_asdict") else terms
    if not isinstance(given, Mapping):
        raise TypeError(f"an objective must give terms by name, a mapping or a named tuple, got {type(given).__name__}")
    named = dict(given)
    if next(iter(named), None) != "loss" or any(getattr(term, "ndim", None) != 0 for term in named.values()):
        shapes = {name: tuple(getattr(term, "shape", "?")) for name, term in named.items()}
        raise ValueError(f"an objective must give scalar tensors by name, loss first; got shapes {shapes}")
    return named


def _factors(schedule: Callable[[float], float] | None, steps: int | None) -> list[float]:
    """The factor on the learning rate at every step."""
    if schedule is None:
        return [1.0] * (steps or 0)
    if not callable(schedule):
        raise TypeError(f"schedule must be a function of the share of steps done, got {schedule!r}")
    if steps is None:
        raise ValueError("a schedule goes by the share of steps done, so steps must be given")
    factors = []
    for step in range(steps):
        value: Any = schedule(step / steps)
        with suppress(AttributeError, RuntimeError, ValueError):  # of a tensor or NumPy scalar; of others below
            value = value.item()
        factors.append(check_number(f"what schedule gives at {step / steps:g}", value))
    return factors


def _optimizer(
    given: Callable[[list[nn.Parameter]], Optimizer] | None, learning_rate: float | None
) -> Callable[[list[nn.Parameter]], Optimizer]:
    if given is None:
        rate = check_number("learning_rate", 1e-3 if learning_rate is None else learning_rate, exclusive=True)
        return partial(torch.optim.Adam, lr=rate, fused=True)
    if not callable(given):
        raise TypeError(f"optimizer must be a function of the list of parameters, got {given!r}")
    if learning_rate is not None:
        raise ValueError(f"learning_rate is Adam's; the optimizer given has its own, got {learning_rate}")
    return given


def _fabric(device: str | torch.device, devices: int, strategy: str, precision: str) -> Fabric:
    kind, _, index = str(device).partition(":")
    check_choice("device", kind, _DEVICES)
    count: int | list[int] = check_positive_int("devices", devices)
    if index:
        if count != 1 or not index.isdecimal():
            raise ValueError(f"device must be such as 'cuda:1', for one process; got {device!s} for {devices}")
        count = [int(index)] if kind == "cuda" else 1
    return Fabric(accelerator=kind, devices=count, strategy=strategy, precision=precision)  # type: ignore[arg-type]


def _callback(callbacks: Any, steps: int | None) -> Callback:
    """One function for all: called after every step, and before the first."""
    if callbacks is None:
        return lambda run: None
    if not isinstance(callbacks, Mapping):
        several = tuple(callbacks) if isinstance(callbacks, Sequence) else (callbacks,)
        for each in several:
            if not callable(each):
                raise TypeError(f"a callback must be a function of the run, got {each!r}")
        return lambda run: [each(run) for each in several] if run.done else None
    by_step = dict(callbacks)
    for step, each in by_step.items():
        if isinstance(step, bool) or not isinstance(step, Integral) or not 0 <= int(step) <= (steps or math.inf):
            raise ValueError(f"callbacks must be at steps 0 to {steps}, got {step!r}")
        if not callable(each):
            raise TypeError(f"the callback at step {step} must be callable, got {each!r}")
    return lambda run: by_step[run.done](run) if run.done in by_step else None


def _check_terms(rows: NDArray[np.float64], first: int, names: tuple[str, ...]) -> None:
    """Raise for the first row of terms, (steps, terms), that is not finite; ``first`` is the step of the first row."""
    bad = ~np.isfinite(rows)
    if bad.any():
        row = int(bad.any(1).argmax())
        # The loss comes first and is not finite whenever a term is not: name the term where there is one.
        columns = bad[row].nonzero()[0]
        values = ", ".join(f"{names[c]} = {rows[row, c]}" for c in columns)
        raise FloatingPointError(
            f"training stopped: {names[columns[-1]]} is not finite at step {first + row} ({values})"
        )


def _check_fits(batches: Batches, model: GMLVM, devices: int) -> None:
    """Raise for images that do not fit; of those that a loader gives it shows when they come."""
    if not isinstance(batches, TensorBatches):
        return
    if batches.images.shape[1:] != model.image_shape:
        shape = tuple(batches.images.shape[1:])
        raise ValueError(f"the model is for images of shape {model.image_shape}, the data has {shape}")
    if batches.batch_size % devices:
        raise ValueError(f"batch_size must be a multiple of devices={devices}, got {batches.batch_size}")


@contextmanager
def _fitting(path: str | Path) -> Iterator[None]:
    """Say of which checkpoint something does not fit."""
    try:
        yield
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"{path} does not fit this run: {error}") from error


def _close(a: Tensor, b: Tensor) -> bool:
    """Whether two lists of figures are the same but for rounding."""
    return a.shape == b.shape and bool(((a - b).abs() <= _SAME * b.abs() + 1e-3 * _SAME * b.abs().max()).all())


def _ambient_seed(seed: int, device: torch.device) -> dict[str, Tensor]:
    """States of torch's global generators, seeded anew: not as the run's own, or both would draw the same numbers."""
    kinds = {"cpu": torch.device("cpu")} | ({} if device.type == "cpu" else {"device": device})
    seed = int(digest(f"ambient {seed}".encode()), 16)
    return {name: torch.Generator(kind).manual_seed(seed).get_state() for name, kind in kinds.items()}


def _ambient_state(device: torch.device) -> dict[str, Tensor]:
    """States of torch's global generators: the CPU's, and that of the device."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["device"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        state["device"] = torch.mps.get_rng_state()
    return state


def _set_ambient(state: Mapping[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state["device"], device)
    elif device.type == "mps":
        torch.mps.set_rng_state(state["device"])
