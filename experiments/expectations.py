"""The GM-WAE of the chapter "Training the GM-WAE" with each way to take its sum over k.

``python -m experiments.expectations --output results/expectations.json`` makes the first file that the chapter "A sum
that costs what it uses" reads: ten seeds of each rule. What those ten leave in doubt is put to thirty others, with
``--output results/expectations_fresh.json --seeds {10..39} --methods truncated top-m resampled``.
"""

from __future__ import annotations

from experiments import runner
from experiments.seeds import SETTINGS, gm_wae
from gmlvm.enumeration import Dense, Enumeration, Resampled, TopM, Truncated

#: The rules; all else is as in the chapter.
RULES: dict[str, Enumeration] = {
    "dense": Dense(),
    "truncated": Truncated(),
    "top-m": TopM(1),
    "resampled": Resampled(2),
}


def with_rule(rule: Enumeration) -> runner.Method:
    """The chapter's training with one of :data:`RULES`, as a function of the seed."""
    return lambda seed: gm_wae(seed, enumeration=rule)


#: What is run for each seed.
METHODS = {name: with_rule(rule) for name, rule in RULES.items()}

if __name__ == "__main__":
    shared = {name: value for name, value in SETTINGS.items() if name != "smoothness_weight"}
    shared["rules"] = {name: repr(rule) for name, rule in RULES.items()}
    runner.main("experiments.expectations", shared, METHODS, range(10))
