"""A VAE that starts from the GM-WAE whose components mean digits: does the objective keep them?

``python -m experiments.digits_vae --output results/digits_vae.json`` is for the chapter "A VAE that starts from the
WAE", beside that of ``experiments.wae_start``; no file of it is committed yet.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from experiments import digits, runner
from experiments.wae_start import LOOKS, WINDOW, vae
from experiments.wae_start import SETTINGS as VAE_SETTINGS
from gmlvm import GMLVM, datasets

#: The path's, and how the VAE is trained after it; its prior is that which the path was trained with.
SETTINGS: dict[str, Any] = {
    **digits.SETTINGS,
    **{name: VAE_SETTINGS[name] for name in ("vae_steps", "learning_rate")},
    "looks": list(LOOKS),
    "window": WINDOW,
}


def from_digits(seed: int) -> GMLVM:
    """The path's model before its prior moves, every part of it free again.

    Args:
        seed: Seed of everything.
    """
    model, _ = digits.follow(datasets.mnist(), seed)
    return model.requires_grad_(True)


def both(seed: int) -> dict[str, Any]:
    """The VAE with either weight of its KL terms, from one and the same model.

    Args:
        seed: Seed of everything.
    """
    start = from_digits(seed)
    return {f"beta {beta:g}": vae(beta, lambda _: deepcopy(start))(seed) for beta in (1.0, 10.0)}


METHODS: dict[str, runner.Method] = {"digits": both}

if __name__ == "__main__":
    runner.main("experiments.digits_vae", SETTINGS, METHODS, range(3))
