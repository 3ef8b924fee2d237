"""Seconds until groups found without labels agree with the digits at .95: the start of q_D beside its peers.

``python -m benchmarks.groups --json FILE`` measures, prints a table, and writes JSON.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import torch

from benchmarks.output import parse_output
from experiments import ablations, contest, digits, measures
from gmlvm import Clusterer, Distillation, InformationMaximisation, Objective, Run, datasets, embedding

MARK = 0.95
# Steps after which a training is looked at.
_EVERY = 100


def seconds_to_mark(seed: int = 0) -> dict[str, dict[str, Any]]:
    """Each method until it has reached the mark, or to its end.

    Args:
        seed: Seed of everything.

    Returns:
        For each method the seconds, the accuracy on the test split by then, and the seconds to the mark, None if it was
        never reached. Labels only measure, and measuring does not count.
    """
    settings = ablations.SETTINGS
    begun = time.perf_counter()
    targets = embedding.teacher(datasets.mnist().train.images, settings["num_components"], seed)
    teacher = time.perf_counter() - begun
    rows = {
        "k-means": contest.k_means(seed),
        "PCA + mixture": contest.principal_components(seed),
        "UMAP + mixture": contest.neighbours(seed),
        "start of q_D, no teacher": _trained(
            digits.new_encoder(datasets.mnist(), settings["num_components"], seed),
            [(InformationMaximisation(), settings["refining_steps"])],
            seed,
        ),
        "start of q_D": _trained(
            digits.new_encoder(datasets.mnist(), settings["num_components"], seed),
            [
                (Distillation(targets), settings["teaching_steps"]),
                (InformationMaximisation(), settings["refining_steps"]),
            ],
            seed,
            teacher,
        ),
    }
    return {name: row | {"to_mark": row["seconds"] if row["accuracy"] >= MARK else None} for name, row in rows.items()}


def _trained(model: Clusterer, stages: list[tuple[Objective, int]], seed: int, before: float = 0.0) -> dict[str, Any]:
    """Train a discrete encoder until the mark, looking now and then; ``before`` are the seconds already spent."""
    found = {"seconds": before, "accuracy": 0.0}
    for objective, steps in stages:
        clock = time.perf_counter()

        def look(run: Run) -> None:
            nonlocal clock
            found["seconds"] += time.perf_counter() - clock
            found["accuracy"] = measures.accuracy(datasets.mnist(), run.model)
            if found["accuracy"] >= MARK:
                run.stop()
            clock = time.perf_counter()

        if found["accuracy"] < MARK:
            looks = dict.fromkeys(sorted({*range(_EVERY, steps, _EVERY), steps}), look)
            ablations.train_encoder(model, objective, steps, seed, looks)
    return found


def table(rows: dict[str, dict[str, Any]]) -> Iterator[str]:
    """The lines of the table.

    Args:
        rows: What :func:`seconds_to_mark` gives.
    """
    yield f"Without labels to accuracy {MARK}, on {torch.get_num_threads()} threads"
    for name, row in rows.items():
        reached = "never" if row["to_mark"] is None else f"{row['to_mark']:.0f} s"
        yield f"  {name:26} {reached:>6}   accuracy {row['accuracy']:.3f} after {row['seconds']:.0f} s"


def main() -> None:
    """Measure, print, write."""
    output = parse_output("python -m benchmarks.groups", __doc__)
    rows = seconds_to_mark()
    print("\n".join(table(rows)))
    output.write({"settings": {"threads": torch.get_num_threads(), "seed": 0, "mark": MARK}, "methods": rows})


if __name__ == "__main__":
    main()
