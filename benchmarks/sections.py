"""What is measured, a function for each section of the table. All figures of a section come from one process."""

from __future__ import annotations

import statistics
import time
from copy import deepcopy
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode
from tqdm.auto import tqdm

from benchmarks.memory import in_new_process, peak_gigabytes
from benchmarks.steps import Step, gradient_step, library_step, objective, plain_step, plain_version, variants
from benchmarks.timing import side_by_side, summary
from gmlvm import GMLVM, MMD, GaussianMixturePrior, Run, cosine, datasets, evaluate, fit
from gmlvm.datasets import ImageData
from gmlvm.enumeration import Dense, Enumeration, Resampled, TopM, Truncated
from gmlvm.inference import inference

#: Figures that JSON can hold.
Figures = dict[str, Any]
_RACE_STEPS = 3000
_RACE_LAP = 150
_COMPONENTS = (10, 20, 50, 100)


def model_of(num_components: int, networks: str = "mlp", seed: int = 0) -> GMLVM:
    """A new model; beyond ten components its prior's means point in random directions, the nearest two 4 apart.

    Args:
        num_components: K.
        networks: ``"mlp"`` or ``"conv"``.
        seed: Seed of the weights and of the directions.
    """
    if networks == "conv":
        return GMLVM.for_images((1, 28, 28), num_components, 10, networks=networks, seed=seed)
    prior = None if num_components == 10 else GaussianMixturePrior.scattered(num_components, 9, seed=seed)
    return GMLVM.for_images((1, 28, 28), num_components, 9, prior=prior, seed=seed)


def trained(model: GMLVM, data: ImageData, steps: int) -> GMLVM:
    """The model after a short training with the chapters' objective."""
    fit(model, objective(), data, steps=steps, schedule=cosine)
    return model


def terms_per_image(model: GMLVM, data: ImageData) -> Figures:
    """How many terms of the sum over k a model asks for, each way: means over 2000 test images."""
    with inference(model):
        log_probs = model.posterior(data.test.images[:2000]).log_probs
        generator = torch.Generator().manual_seed(0)
        rules: tuple[Enumeration, ...] = (Dense(), Truncated(), TopM(1), Resampled())
        return {repr(rule): len(rule.select(log_probs, generator).weight) / len(log_probs) for rule in rules}


def race(data: ImageData) -> tuple[Figures, dict[int, GMLVM]]:
    """The chapter's whole training at K = 10, the plain version and the library in alternating laps.

    Returns:
        The figures, and the library's model at the start, at step 300 and at the end.
    """
    model = model_of(10)
    plain = plain_version(model)
    factors = (cosine(step / _RACE_STEPS) for step in range(_RACE_STEPS))
    train_plain = plain_step(plain, data.train.images, 1e-3, factors)
    contestants: dict[str, dict[str, list[float]]] = {
        name: {"seconds": [], "accuracy": [], "entropy": [], "components_used": []} for name in ("plain", "library")
    }
    states: dict[int, GMLVM] = {}
    clock = {"plain": 0.0, "library": 0.0, "resumed": 0.0}

    def lap(run: Run) -> None:
        current = run.model
        done = len(contestants["plain"]["seconds"]) * _RACE_LAP
        if done:
            clock["library"] += time.perf_counter() - clock["resumed"]
            start = time.perf_counter()
            for _ in range(_RACE_LAP):
                train_plain()
            clock["plain"] += time.perf_counter() - start
        if done in (0, 300, _RACE_STEPS):
            states[done] = deepcopy(current)
        for name, candidate in (("plain", plain.as_model(current.prior)), ("library", current)):
            report = evaluate(candidate, data)
            record = contestants[name]
            record["seconds"].append(clock[name])
            record["accuracy"].append(report.accuracy or 0.0)
            record["entropy"].append(report.component_entropy)
            record["components_used"].append(report.components_used)
        clock["resumed"] = time.perf_counter()

    laps = range(0, _RACE_STEPS + 1, _RACE_LAP)
    fit(model, objective(), data, steps=_RACE_STEPS, schedule=cosine, callbacks=dict.fromkeys(laps, lap))
    figures: Figures = {"steps": list(laps), **contestants, "terms_per_image": terms_per_image(model, data)}
    for name, record in contestants.items():
        figures[f"{name}_to_accuracy_0.50"] = _first(record, "accuracy", 0.5)
        figures[f"{name}_to_full_use"] = _first(record, "components_used", 10)
    figures["times_faster"] = clock["plain"] / clock["library"]
    return figures, states


def _first(record: dict[str, list[float]], figure: str, mark: float) -> float | None:
    """Seconds of training at the first lap at which a figure reached a mark, None if it never did."""
    return next((s for s, value in zip(record["seconds"], record[figure], strict=True) if value >= mark), None)


def parts(states: dict[int, GMLVM], data: ImageData) -> Figures:
    """A step without each part, in the states that a race went through."""
    figures: Figures = {}
    for state, model in tqdm(states.items(), unit="state"):
        seconds = side_by_side(variants(model, data.train.images), rounds=25)
        figures[str(state)] = {name: summary(times, seconds["plain"]) for name, times in seconds.items()}
    return figures


def noise(states: dict[int, GMLVM], data: ImageData, pairs: int = 200) -> Figures:
    """Variance of the gradient over fresh batches, seconds for one, and their product, the cost of a given precision.

    For each way to take the sum over k and each way to estimate the penalty, all on the same batches.

    Args:
        states: Models, by the steps that they were trained for.
        data: The data.
        pairs: Pairs of batches. Half the squared distance of the gradients of two batches has the mean that is looked
            for, and the spread over pairs gives its standard error.
    """
    losses = {repr(rule): objective(enumeration=rule) for rule in (Dense(), Truncated(), TopM(1), Resampled(1))}
    penalties = {name: MMD(estimator=name) for name in ("sampled", "half-closed")}
    losses |= {f"{Resampled()}, {name}": objective(penalty=penalty) for name, penalty in penalties.items()}
    losses |= {f"{Resampled(3)}": objective(enumeration=Resampled(3))}
    figures: Figures = {}
    for state, model in tqdm(states.items(), unit="state"):
        gradients = {name: gradient_step(deepcopy(model), data.train.images, loss) for name, loss in losses.items()}
        distances = {}
        for name, gradient in gradients.items():
            halves = [(gradient() - gradient()).square().sum().item() / 2 for _ in range(pairs)]
            distances[name] = torch.tensor(halves, dtype=torch.float64)
        seconds = side_by_side(gradients, rounds=15)
        dense = distances[repr(Dense())]
        figures[str(state)] = {}
        for name, values in distances.items():
            extra = values - dense
            milliseconds = 1e3 * statistics.median(seconds[name])
            figures[str(state)][name] = {
                "variance": values.mean().item(),
                "variance_error": (values.std() / pairs**0.5).item(),
                "extra": (extra.mean() / dense.mean()).item(),
                "extra_error": (extra.std() / pairs**0.5 / dense.mean()).item(),
                "milliseconds": milliseconds,
                "variance_seconds": values.mean().item() * milliseconds / 1e3,
            }
    return figures


def components(data: ImageData) -> Figures:
    """A step against K, at the start and after 1200 steps; all K take turns."""
    models = {num_components: model_of(num_components) for num_components in _COMPONENTS}
    figures: Figures = {str(num_components): {} for num_components in models}
    for state in ("start", "trained"):
        steps: dict[tuple[int, str], Step] = {}
        for num_components, model in tqdm(models.items(), unit="K"):
            if state == "trained":
                trained(model, data, 1200)
            steps[num_components, "plain"] = plain_step(plain_version(model), data.train.images)
            steps[num_components, "library"] = library_step(deepcopy(model), data.train.images)
        seconds = side_by_side(steps, rounds=10)
        for num_components, model in models.items():
            plain, library = (seconds[num_components, name] for name in ("plain", "library"))
            figures[str(num_components)][state] = {
                "plain": summary(plain, plain),
                "library": summary(library, plain),
                "terms_per_image": terms_per_image(model, data),
            }
    return figures


def original(data: ImageData) -> Figures:
    """A step with the original's networks: the plain dense one and the library's, beside a large matrix product."""
    model = trained(model_of(10, "conv"), data, 600)
    model.train()
    images = data.train.images
    steps = {
        "plain": plain_step(plain_version(model), images),
        "library, all K decoded": library_step(deepcopy(model), images, objective(enumeration=Dense())),
        "library": library_step(deepcopy(model), images),
        "library, with bfloat16 products": library_step(deepcopy(model), images, bfloat16=True),
    }
    figures: Figures = {"terms_per_image": terms_per_image(model, data)}
    figures |= beside_product(steps, rounds=5, turn=1)
    del figures["library, with bfloat16 products"]["share_of_peak"]  # which is that of 32-bit products
    figures["profile"] = step_profile(steps["library, all K decoded"])
    for name in ("plain", "library"):
        figures[name]["peak_memory_gigabytes"] = in_new_process(_peak_memory, name)
    return figures


def beside_product(steps: dict[str, Step], rounds: int, turn: int = 3) -> Figures:
    """Times of steps, the first being what others are compared with, and their share of what the machine can reach.

    That is the rate of a large float32 matrix product, which takes its turns with them.
    """
    operations = {}
    for name, step in steps.items():
        step()
        with FlopCounterMode(display=False) as counter:
            step()
        operations[name] = counter.get_total_flops()
    size = 2048
    a, b = torch.randn(2, size, size)
    seconds = side_by_side({**steps, "product": lambda: torch.mm(a, b)}, rounds, turn)
    peak = 2 * size**3 / statistics.median(seconds.pop("product"))
    figures: Figures = {"matrix_product_gigaflops_per_second": peak / 1e9}
    baseline = next(iter(seconds.values()))
    for name, times in seconds.items():
        figures[name] = {
            **summary(times, baseline),
            "gigaflop": operations[name] / 1e9,
            "share_of_peak": operations[name] / statistics.median(times) / peak,
        }
    return figures


def step_profile(step: Step, rows: int = 8) -> list[Figures]:
    """The operations that take most of a step, with their share of it."""
    with profile(activities=[ProfilerActivity.CPU]) as record:
        step()
    averages = sorted(record.key_averages(), key=lambda row: -row.self_cpu_time_total)
    total = sum(row.self_cpu_time_total for row in averages)
    return [{"operation": row.key, "share": row.self_cpu_time_total / total} for row in averages[:rows]]


def _peak_memory(name: str) -> float:
    """Largest memory of a process, in gigabytes, that takes three steps from the start with the original's networks.

    Python, torch and the data are part of it; those of the plain version are floats, as its loader has them.
    """
    model, images = model_of(10, "conv"), datasets.mnist().train.images
    step = plain_step(plain_version(model), images) if name == "plain" else library_step(model, images)
    for _ in range(3):
        step()
    return peak_gigabytes()


def small_step(states: dict[int, GMLVM], data: ImageData) -> Figures:
    """Operations, share of the peak and profile of the library's own step in the trained state."""
    step = library_step(deepcopy(states[_RACE_STEPS]), data.train.images)
    return {**beside_product({"library": step}, rounds=40)["library"], "profile": step_profile(step, rows=12)}
