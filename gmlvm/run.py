"""One training run, a step at a time, on Lightning Fabric."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer

from gmlvm import distributed, optimisation, storage
from gmlvm.ambient import Ambient
from gmlvm.batches import Batch, Batches, TensorBatches, as_batches
from gmlvm.checkpoints import check_complete, pack, unchanged_on_failure, under, unpack
from gmlvm.clusterer import Clusterer
from gmlvm.history import INTERRUPTED, History, check_terms
from gmlvm.identity import describe, differences, digest, name_of, shapes, structure
from gmlvm.model import GMLVM
from gmlvm.objectives import Objective, Terms
from gmlvm.validation import check_choice, check_number, check_positive_int, check_seed, check_type

_KIND = "gmlvm training run"
_DEVICES = ("auto", "cpu", "cuda", "mps")
_PRECISIONS = ("32-true", "bf16-mixed")
# Images that the matched start of the continuous encoder is fitted on.
_START_IMAGES = 5000
# How far what a run computes may be from what it computed when it was saved, relative to the largest of its figures:
# rounding on another machine, no change of anything.
_SAME = 1e-3

# Buffers whose first values are settings, as weights are not: constants that the reader has chosen.
_SETTING_BUFFERS = ("model.prior.", "objective.")


class Run:
    """One training run, a step at a time; :func:`fit` is a loop around it.

    The model is in training mode inside a step alone, and in evaluation mode outside, however a step ends. All
    randomness is the run's own: batches and samples come from ``generator``, and what asks torch's global
    generators inside a step, such as dropout, gets a state that the run keeps. So the same seed on the same machine
    with the same number of threads gives the same weights, and the global generators are left as they were.

    Args:
        model: The model, changed in place and moved to the device: a :class:`GMLVM`, or a :class:`Clusterer` for an
            objective that needs no more. An encoder or decoder whose parameters are all frozen
            (``requires_grad_(False)``) stays in evaluation mode, so that it is left as it is altogether.
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
        model: Clusterer,
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
        self.model: Any = getattr(model, "_orig_mod", model)  # what torch.compile wraps is trained as it is
        check_type("model", self.model, GMLVM if matched_start else Clusterer)
        check_type("objective", objective, Objective)
        self.objective = objective
        self.steps = None if steps is None else check_positive_int("steps", steps)
        self.accumulate = check_positive_int("accumulate", accumulate)
        self.clip_norm = None if clip_norm is None else check_number("clip_norm", clip_norm, exclusive=True)
        seed = check_seed("seed", seed)
        check_choice("precision", precision, _PRECISIONS)
        self._plan = optimisation.factors(schedule, self.steps)
        make_optimizer = optimisation.optimizer_of(optimizer, learning_rate)
        fabric = _fabric(device, devices, strategy, precision)
        batches = as_batches(data, batch_size, fabric.device)
        _check_fits(batches, self.model, devices)
        self._module = _Loss(self.model, objective)
        self._trained = {name: p for name, p in self._module.named_parameters() if p.requires_grad}
        self._frozen = [part for part in self.model.children() if _is_frozen(part)]
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
        self._ambient = Ambient(seed, fabric.device)
        self._module.to(fabric.device)
        self.optimizer = make_optimizer(list(self._trained.values()))
        check_type("what optimizer gives", self.optimizer, Optimizer)
        if isinstance(self.optimizer, torch.optim.LBFGS):
            raise ValueError("the optimizer must take one step for one gradient; LBFGS asks for several")
        self._rates = [group["lr"] for group in self.optimizer.param_groups]
        self._settings["optimizer"] = {"class": name_of(type(self.optimizer))} | {
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
        # Who pressed Ctrl-C in the last step wants what comes after it to end as well.
        stopped = "" if self.done == self.steps and self.stopped != INTERRUPTED else self.stopped
        return History(terms, seconds, str(self.device), stopped)

    def rehearse(self) -> None:
        """Compute the terms and their gradients once, on noise: what cannot be trained shows, and nothing is changed.

        Raises:
            TypeError: If the objective gives no terms by name.
            ValueError: If the terms are no scalars, the loss is not first, or it does not depend on what is trained.
            Exception: Whatever model and objective raise.
        """
        self._probe()

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
        tensors |= {f"ambient.{name}": tensor for name, tensor in self._ambient.state.items()}
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
        self.generator, self._ambient.state = generator, under("ambient.", tensors)
        self.done, self._known, self._pending = header["done"], list(tensors["record"].numpy()), []
        last = tensors["record"][-1:].flatten().float().to(self.device)
        self.terms = dict(zip(header["names"], last, strict=bool(self.done)))
        goes_on = self.steps != header["steps"] or header["stopped"] == INTERRUPTED
        self.stopped = "" if goes_on else header["stopped"]
        self._matched_start = False
        return float(header["seconds"])

    def _described(self) -> dict[str, Any]:
        """The settings, with digests that take a while and are needed with a checkpoint alone.

        They are of the data, and of what is frozen: it is what it was at the start, and no step makes it that again.
        """
        if "data" not in self._settings:
            self._settings["data"] = self._batches.describe()
            parts = tuple(f"model.{name}." for name, part in self.model.named_children() if _is_frozen(part))
            frozen: dict[str, Tensor] = {n: p for n, p in self._module.named_parameters() if n not in self._trained}
            frozen |= {n: b for n, b in self._module.named_buffers() if n.startswith(parts)}
            self._settings["values"] |= {name: digest(tensor) for name, tensor in frozen.items()}
        return self._settings

    def _unlike(self, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
        """Why a checkpoint is of another run than this one; empty if it is not."""
        there, here = header["settings"], self._described()
        values = there.get("values")
        if isinstance(values, dict):  # what the run itself has changed since, such as a prior, is no other
            saved = under("module.", tensors)
            same = {n: values.get(n) for n, d in here["values"].items() if d == digest(saved.get(n, b""))}
            here = here | {"values": here["values"] | same}
        states = shapes({"generator": self.generator.get_state(), **self._ambient.state})
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
        check_terms(np.array(self._known[first:]).reshape(last, len(self.terms)), first + 1, tuple(self.terms))
        finite = torch.stack([parameter.detach().isfinite().all() for parameter in self._trained.values()])
        if not bool(finite.all()):
            name = list(self._trained)[int(finite.long().argmin())]
            raise FloatingPointError(f"training stopped: {name} is not finite after step {self.done}")

    @contextmanager
    def _inside(self, ambient: Ambient | None = None) -> Iterator[None]:
        """Training mode, gradients and the run's own global randomness inside; evaluation mode outside."""
        self._module.train()
        for part in self._frozen:
            part.eval()
        try:
            with (ambient or self._ambient).installed(), torch.inference_mode(False), torch.enable_grad():
                yield
        finally:
            self._module.eval()

    def _probe(self) -> Tensor:
        """What the run computes on a fixed batch of noise: its terms, and the length of each parameter's gradient.

        A run is known by this besides its settings: code that settings do not show, such as a changed ``forward``,
        shows here. Nothing is left of it: generators, buffers and gradients are as they were.
        """
        count = self._batches.batch_size
        count -= count % distributed.world_size()
        rows = distributed.own_rows(count)
        generator = torch.Generator(self.device).manual_seed(0)
        buffers = {name: buffer.clone() for name, buffer in self._module.named_buffers()}
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        try:
            with self._inside(Ambient(0, self.device)):
                noise = torch.rand((count, *self.model.image_shape), generator=torch.Generator().manual_seed(0))
                batch = Batch(noise[rows].to(self.device), torch.arange(count)[rows].to(self.device))
                terms = _named(self._module(batch, generator))
                gradients = torch.autograd.grad(terms["loss"], parameters, allow_unused=True, materialize_grads=True)
        finally:
            with torch.no_grad():
                for name, buffer in self._module.named_buffers():
                    buffer.copy_(buffers[name])
        values = [term.detach().clone() for term in terms.values()]
        means: Any = self._fabric.all_reduce([*values, *gradients], reduce_op="mean")
        return torch.stack([*means[: len(values)], *(g.norm() for g in means[len(values) :])]).cpu().double()


class _Loss(nn.Module):
    """Objective and model as one module, so that Fabric's precision and devices apply to the whole loss."""

    def __init__(self, model: Clusterer, objective: Objective) -> None:
        super().__init__()
        self.model = model
        self.objective = objective

    def forward(self, batch: Batch, generator: torch.Generator) -> Terms:
        terms: Terms = self.objective(self.model, batch, generator)
        return terms


def _is_frozen(part: nn.Module) -> bool:
    parameters = list(part.parameters())
    return bool(parameters) and not any(parameter.requires_grad for parameter in parameters)


def _named(terms: Terms) -> dict[str, Tensor]:
    """Terms by name, if they are what an objective is to give."""
    given: Any = terms._asdict() if hasattr(terms, "_asdict") else terms
    if not isinstance(given, Mapping):
        raise TypeError(f"an objective must give terms by name, a mapping or a named tuple, got {type(given).__name__}")
    named = dict(given)
    if next(iter(named), None) != "loss" or any(getattr(term, "ndim", None) != 0 for term in named.values()):
        shapes = {name: tuple(getattr(term, "shape", "?")) for name, term in named.items()}
        raise ValueError(f"an objective must give scalar tensors by name, loss first; got shapes {shapes}")
    if not named["loss"].requires_grad:
        raise ValueError("the loss does not depend on any parameter that is trained")
    return named


def _fabric(device: str | torch.device, devices: int, strategy: str, precision: str) -> Fabric:
    kind, _, index = str(device).partition(":")
    check_choice("device", kind, _DEVICES)
    count: int | list[int] = check_positive_int("devices", devices)
    if index:
        if count != 1 or not index.isdecimal():
            raise ValueError(f"device must be such as 'cuda:1', for one process; got {device!s} for {devices}")
        count = [int(index)] if kind == "cuda" else 1
    return Fabric(accelerator=kind, devices=count, strategy=strategy, precision=precision)  # type: ignore[arg-type]


def _check_fits(batches: Batches, model: Clusterer, devices: int) -> None:
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
