"""What more images cost, and larger ones: the seconds of the teacher and the memory of the recipe.

``python -m benchmarks.counts --json FILE`` measures, prints a table, and writes JSON.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch

from benchmarks.memory import in_new_process, peak_gigabytes
from benchmarks.output import parse_output
from benchmarks.sizes import scaled
from experiments import digits
from gmlvm import datasets, embedding, learn_components

#: How many images of MNIST, and the side that they are scaled to.
SETS = ((5_000, 28), (15_000, 28), (60_000, 28), (15_000, 64))
# UMAP is compiled when it is first called.
_WARM_UP = 500
# Of each training: the largest memory is needed from the first on.
_STEPS = 20


def of_set(count: int, side: int) -> dict[str, float]:
    """The recipe with such images, in a process that has done nothing else.

    Args:
        count: Images N.
        side: Height and width.

    Returns:
        Seconds of the teacher, the seconds of one pass over all images by q_D, and the largest memory in gigabytes
        after the teacher and at the end, with Python and torch.
    """
    images, k = scaled(datasets.mnist().train.images[:count], 1, side), digits.SETTINGS["num_components"]
    data = datasets.from_arrays(images.numpy())
    embedding.teacher(images[:_WARM_UP], k)
    begun = time.perf_counter()
    targets = embedding.teacher(images, k)
    teacher, memory = time.perf_counter() - begun, peak_gigabytes()
    learned = learn_components(
        data,
        k,
        targets=targets,
        teaching_steps=_STEPS,
        refining_steps=_STEPS,
        steps=_STEPS,
        least_share=0,
        progress=False,
    )
    begun = time.perf_counter()
    learned.model.predict(images)
    return {
        "teacher": teacher,
        "grouping": time.perf_counter() - begun,
        "gigabytes_teacher": memory,
        "gigabytes": peak_gigabytes(),
    }


def table(found: dict[str, dict[str, float]]) -> Iterator[str]:
    """The lines of the table.

    Args:
        found: What :func:`of_set` gives, by set.
    """
    yield f"{torch.get_num_threads()} threads"
    yield f"{'images':16}{'teacher, s':>14}{'grouping, s':>14}{'teacher, GB':>14}{'recipe, GB':>14}"
    for images, row in found.items():
        yield f"{images:16}" + "".join(f"{value:14.1f}" for value in row.values())


def main() -> None:
    """Measure, print, write."""
    output = parse_output("python -m benchmarks.counts", __doc__)
    found = {f"{count} x {side} x {side}": in_new_process(of_set, count, side) for count, side in SETS}
    print("\n".join(table(found)))
    output.write({"settings": {"threads": torch.get_num_threads(), "seed": 0, "steps": _STEPS}, "counts": found})


if __name__ == "__main__":
    main()
