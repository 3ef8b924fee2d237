"""What the latents are charged, from a tenth of the ELBO's KL terms to thirty times them, together and apart.

``python -m experiments.price --output results/price.json`` makes the file that the chapter "When the discrete latent
survives" reads.
"""

from __future__ import annotations

from itertools import product
from typing import Any

from experiments import collapse, runner
from experiments.elbo import Priced
from gmlvm.enumeration import Resampled

SETTINGS: dict[str, Any] = {
    **collapse.SETTINGS,
    "steps": 1000,
    "both": [0.1, 0.3, 1.0, 3.0, 10.0, 30.0],
    "alone": [0.1, 10.0],
}
#: Whether q_C starts matched to the prior, by name; weights start as PyTorch's own.
STARTS = {"unmatched": False, "matched": True}
#: The weights of the KL of k and of that of z, by name.
PRICES: dict[str, tuple[float, float]] = {
    **{f"both {price:g}": (price, price) for price in SETTINGS["both"]},
    **{f"k {price:g}": (price, 1.0) for price in SETTINGS["alone"]},
    **{f"z {price:g}": (1.0, price) for price in SETTINGS["alone"]},
}
#: What is run for each seed, by name.
METHODS: dict[str, runner.Method] = {
    f"{price}, {start}": collapse.run(
        Priced(*weights, Resampled()), "mlp", None, matched_start=matched, steps=SETTINGS["steps"]
    )
    for (start, matched), (price, weights) in product(STARTS.items(), PRICES.items())
}

if __name__ == "__main__":
    runner.main("experiments.price", SETTINGS, METHODS, range(5))
