"""Training: the loop around a run's steps."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from numbers import Integral
from pathlib import Path
from types import FrameType
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.optim import Optimizer
from tqdm.auto import tqdm

from gmlvm import distributed
from gmlvm.checkpoints import owned
from gmlvm.clusterer import Clusterer
from gmlvm.history import INTERRUPTED, History
from gmlvm.objectives import Objective
from gmlvm.run import Run
from gmlvm.validation import check_path, check_positive_int

# Steps between looks at the terms: on a GPU each look waits for the device.
_LOOK_EVERY = 50

#: Called with the run after a step, in evaluation mode.
Callback: TypeAlias = "Callable[[Run], Any]"


def fit(
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
        model: The model, changed in place, moved to the device and left there in evaluation mode. Whether
            :meth:`GMLVM.load` will build it again by itself, :attr:`GMLVM.can_be_rebuilt` tells beforehand.
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
            with the very weights of one that was never stopped. It goes on from the weights in the file, whatever
            those of the model that are trained; frozen ones must be the same. Callbacks of steps already done are not
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
        run.stop(INTERRUPTED)

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


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
