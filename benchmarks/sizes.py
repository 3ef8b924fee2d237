"""What larger images cost: a step of every training of the path on MNIST's, scaled up and in colour.

``python -m benchmarks.sizes --json FILE`` measures, prints a table, and writes JSON.
"""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from benchmarks.output import parse_output
from benchmarks.steps import BATCH_SIZE, Step, library_step
from benchmarks.timing import side_by_side
from experiments import digits
from gmlvm import GMLVM, Clusterer, InformationMaximisation, datasets

#: Channels and sides.
SIZES = ((1, 28), (3, 32), (1, 64), (3, 64))
# Images to draw batches from.
_COUNT = 1000
_ROUNDS = 5


def scaled(images: Tensor, channels: int, side: int) -> Tensor:
    """Images of another size.

    Args:
        images: ``uint8``, (N, 1, H, W).
        channels: Channels C, all alike.
        side: Height and width S.

    Returns:
        ``uint8``, (N, C, S, S).
    """
    larger = interpolate(images.float(), size=(side, side), mode="bilinear")
    return larger.round().to(torch.uint8).expand(-1, channels, -1, -1).contiguous()


def steps_of(images: Tensor) -> dict[str, Step]:
    """A step of each training, at a learning rate of zero.

    Args:
        images: ``uint8``, (N, C, H, W).
    """
    shape, k, d = images.shape[1:], digits.SETTINGS["num_components"], digits.SETTINGS["latent_dim"]
    deep, conv = (GMLVM.for_images(shape, k, d, networks=networks, seed=0) for networks in ("deep", "conv"))
    start = Clusterer(GMLVM.for_images(shape, k, d, networks="deep", seed=0).discrete_encoder, shape)
    deep.discrete_encoder.requires_grad_(False)
    return {
        "refinement": library_step(start, images, InformationMaximisation(), batch_size=2 * BATCH_SIZE),
        "training": library_step(deep, images),
        "training, convolutions": library_step(conv, images),
    }


def costs() -> dict[str, dict[str, float]]:
    """Every training at every size.

    Returns:
        For each size the milliseconds of a step of each training, the median of rounds in which all took turns.
    """
    images = datasets.mnist().train.images[:_COUNT]
    sets = {f"{channels} x {side} x {side}": scaled(images, channels, side) for channels, side in SIZES}
    steps = {(size, part): step for size, larger in sets.items() for part, step in steps_of(larger).items()}
    found: dict[str, dict[str, float]] = {size: {} for size in sets}
    for (size, part), each in side_by_side(steps, _ROUNDS, turn=2).items():
        found[size][part] = 1e3 * median(each)
    return found


def table(found: dict[str, dict[str, float]]) -> Iterator[str]:
    """The lines of the table.

    Args:
        found: What :func:`costs` gives.
    """
    yield f"{torch.get_num_threads()} threads; milliseconds of a step"
    parts = list(next(iter(found.values())))
    yield " " * 14 + "".join(f"{part:>24}" for part in parts)
    for size, row in found.items():
        yield f"{size:14}" + "".join(f"{row[part]:24.1f}" for part in parts)


def main() -> None:
    """Measure, print, write."""
    output = parse_output("python -m benchmarks.sizes", __doc__)
    found = costs()
    print("\n".join(table(found)))
    settings = {"threads": torch.get_num_threads(), "seed": 0, "batch_size": BATCH_SIZE}
    output.write({"settings": settings, "sizes": found})


if __name__ == "__main__":
    main()
