"""Why the discrete latent dies from PyTorch's own start, q_C not matched to the prior; and a control of all starts.

The interventions are those of ``experiments.causes`` and ``experiments.controls``, from the start that they leave out.
The control, *slow q_D*, takes the place of *pulls shrunk*: Adam, which trains here, hides the size of a gradient, so
it is q_D's learning rate that gets the factor.

``python -m experiments.unmatched --output results/unmatched.json`` makes the file that the chapter "When the
discrete latent survives" reads beside theirs, whose settings and seeds these are.
"""

from __future__ import annotations

from experiments import runner
from experiments.causes import CHANGES, SETTINGS, STARTS, Change, run
from experiments.elbo import PULLS, CommonAlone, Slow

START = "ordinary unmatched"
SLOW = Change(Slow)
OWN: dict[str, Change] = {
    **{name: CHANGES[name] for name in ("none", *(f"{pull} cut" for pull in PULLS), "common part cut", "q_C frozen")},
    "common part alone": Change(CommonAlone),
    "slow q_D": SLOW,
}
METHODS: dict[str, runner.Method] = {
    **{f"{START}, {name}": run(STARTS["ordinary"], change, matched=False) for name, change in OWN.items()},
    **{f"{start}, slow q_D": run(std, SLOW) for start, std in STARTS.items()},
}

if __name__ == "__main__":
    runner.main("experiments.unmatched", SETTINGS, METHODS, range(5))
