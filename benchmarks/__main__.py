"""``python -m benchmarks --json FILE``: measure everything, print one table, write JSON."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from benchmarks import sections
from benchmarks.output import parse_output
from benchmarks.steps import BATCH_SIZE
from gmlvm import datasets


def measure() -> dict[str, Any]:
    """All sections, on as many threads as torch takes by itself."""
    data = datasets.mnist()
    race, states = sections.race(data)
    return {
        "settings": {"batch_size": BATCH_SIZE, "threads": torch.get_num_threads(), "seed": 0},
        "race": race,
        "parts": sections.parts(states, data),
        "noise": sections.noise(states, data),
        "small_step": sections.small_step(states, data),
        "components": sections.components(data),
        "original": sections.original(data),
    }


def table(figures: dict[str, Any]) -> Iterator[str]:
    """The lines of the table."""
    original = figures["original"]
    threads, peak = figures["settings"]["threads"], original["matrix_product_gigaflops_per_second"]
    yield f"{threads} threads; a large float32 matrix product reaches {peak:.0f} Gflop/s"
    race = figures["race"]
    yield f"\nK = 10, {race['steps'][-1]} steps, in turn: the library is {race['times_faster']:.2f} times faster"
    for name in ("plain", "library"):
        accuracy, use = (race[f"{name}_to_{mark}"] for mark in ("accuracy_0.50", "full_use"))
        yield (
            f"  {name:8} {race[name]['seconds'][-1]:6.0f} s   to accuracy 0.50: {_seconds(accuracy)}   "
            f"to full use: {_seconds(use)}   accuracy at the end: {race[name]['accuracy'][-1]:.3f}"
        )
    for state, rows in figures["parts"].items():
        yield f"\nA step at K = 10 in the state after {state} steps"
        yield from _rows(rows)
    for state, rows in figures["noise"].items():
        yield f"\nGradient noise at K = 10 after {state} steps (variance, its standard error, ms, product)"
        for name, row in rows.items():
            yield (
                f"  {name:50} {row['variance']:9.1f} ± {row['variance_error']:5.1f} {row['milliseconds']:7.1f} "
                f"{row['variance_seconds']:9.2f}"
            )
    step = figures["small_step"]
    yield f"\nA step at K = 10, trained: {step['gigaflop']:.2f} Gflop, {step['share_of_peak']:.0%} of the peak"
    yield from (f"  {row['share']:6.1%} {row['operation']}" for row in step["profile"])
    for num_components, states in figures["components"].items():
        for state, rows in states.items():
            terms = rows["terms_per_image"]["Resampled(m=2)"]
            yield f"\nA step at K = {num_components}, {state}: {terms:.2f} terms for each image"
            yield from _rows({name: rows[name] for name in ("plain", "library")})
    yield "\nA step with the original's networks, K = 10, after 600 steps"
    rows = {name: row for name, row in original.items() if isinstance(row, dict) and "milliseconds" in row}
    yield from _rows(rows)
    for name, row in rows.items():
        share = f", {row['share_of_peak']:.0%} of the peak" if "share_of_peak" in row else ""
        memory = f", {row['peak_memory_gigabytes']:.2f} GB" if "peak_memory_gigabytes" in row else ""
        yield f"  {name:50} {row['gigaflop']:.0f} Gflop{share}{memory}"
    yield "  all K decoded, where the time goes:"
    yield from (f"  {row['share']:6.1%} {row['operation']}" for row in original["profile"])


def _rows(rows: dict[str, Any]) -> Iterator[str]:
    for name, row in rows.items():
        (low, high), (slow, fast) = row["quartiles"], row["times_faster_quartiles"]
        yield (
            f"  {name:50} {row['milliseconds']:7.1f} ms ({low:.1f} to {high:.1f})"
            f"   {row['times_faster']:6.2f} times plain ({slow:.2f} to {fast:.2f})"
        )


def _seconds(value: float | None) -> str:
    return "never" if value is None else f"{value:.0f} s"


def main() -> None:
    """Measure, print, write."""
    output = parse_output("python -m benchmarks", "how fast training is, in ratios")
    figures = measure()
    print("\n".join(table(figures)))
    output.write(figures)


if __name__ == "__main__":
    main()
