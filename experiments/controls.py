"""Controls of a cut: is it what all images have in common that kills the discrete latent, or how strong the pull is?

Where that part is cut, less pulls. So the whole pull is tried as weak as that, and the common part by itself.

``python -m experiments.controls --output results/controls.json`` makes the file that the chapter "When the discrete
latent survives" reads beside that of ``experiments.causes``, whose settings, starts and seeds these are.
"""

from __future__ import annotations

from experiments import runner
from experiments.causes import SETTINGS, STARTS, Change, run
from experiments.elbo import CommonAlone, Shrunk

CHANGES: dict[str, Change] = {"pulls shrunk": Change(Shrunk), "common part alone": Change(CommonAlone)}
METHODS: dict[str, runner.Method] = {
    f"{start}, {name}": run(std, change) for start, std in STARTS.items() for name, change in CHANGES.items()
}

if __name__ == "__main__":
    runner.main("experiments.controls", SETTINGS, METHODS, range(5))
