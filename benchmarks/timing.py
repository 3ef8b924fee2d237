"""Times taken side by side: the contestants take turns, so that a machine whose speed drifts is fair to all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeVar

Name = TypeVar("Name", bound=Hashable)


def side_by_side(steps: Mapping[Name, Callable[[], object]], rounds: int, turn: int = 3) -> dict[Name, list[float]]:
    """Time each step in every round.

    Args:
        steps: What to time, by name.
        rounds: Rounds that count, after one that does not.
        turn: Steps that are timed in a turn, after one that brings weights and images back into the caches.

    Returns:
        Seconds for one step in each round, by name.
    """
    seconds: dict[Name, list[float]] = {name: [] for name in steps}
    for index in range(rounds + 1):
        for name, step in steps.items():
            step()
            start = time.perf_counter()
            for _ in range(turn):
                step()
            if index > 0:
                seconds[name].append((time.perf_counter() - start) / turn)
    return seconds


def summary(seconds: list[float], baseline: list[float]) -> dict[str, Any]:
    """Median and quartiles in milliseconds, and how many times faster than the baseline, round by round.

    Args:
        seconds: Times of one contestant.
        baseline: Times of the one to compare with, in the same rounds.
    """
    ratios = [b / s for b, s in zip(baseline, seconds, strict=True)]
    low, middle, high = statistics.quantiles(seconds, n=4)
    ratio_low, ratio, ratio_high = statistics.quantiles(ratios, n=4)
    return {
        "milliseconds": 1e3 * middle,
        "quartiles": [1e3 * low, 1e3 * high],
        "times_faster": ratio,
        "times_faster_quartiles": [ratio_low, ratio_high],
    }
