"""The terms of every training step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: Why a run ended that goes on when it is called again.
INTERRUPTED = "interrupted"


@dataclass(frozen=True)
class History(Mapping[str, NDArray[np.float64]]):
    """The terms of every training step, by name: a mapping, as ``dict(history)`` or a data frame takes it.

    Attributes:
        terms: For each name of the objective's terms, an array of shape (steps,).
        seconds: Time spent in the loop, callbacks included.
        device: Where it ran, such as ``"cpu"``.
        stopped: Why it ended before all steps were done; empty if it did not.
    """

    terms: dict[str, NDArray[np.float64]]
    seconds: float
    device: str
    stopped: str = ""

    @property
    def steps(self) -> int:
        """Number of steps."""
        return len(next(iter(self.terms.values()), ()))

    def __getitem__(self, name: str) -> NDArray[np.float64]:
        """One term's values, shape (steps,)."""
        return self.terms[name]

    def __iter__(self) -> Iterator[str]:
        """The names of the terms."""
        return iter(self.terms)

    def __len__(self) -> int:
        """Number of terms."""
        return len(self.terms)

    def __repr__(self) -> str:
        """Steps, time and the last values."""
        # A term that was zero throughout is one that the objective was made without.
        last = ", ".join(f"{name}={values[-1]:.4g}" for name, values in self.terms.items() if values.any())
        stopped = f", stopped: {self.stopped}" if self.stopped else ""
        return f"History({self.steps} steps on {self.device} in {self.seconds:.0f} s{stopped};\n  last: {last})"


def check_terms(rows: NDArray[np.float64], first: int, names: tuple[str, ...]) -> None:
    """Check that the terms of some steps are finite.

    Args:
        rows: The terms, shape (steps, terms).
        first: The step of the first row.
        names: Their names.

    Raises:
        FloatingPointError: If one is not; the message names the first such step, and the term.
    """
    bad = ~np.isfinite(rows)
    if bad.any():
        row = int(bad.any(1).argmax())
        # The loss comes first and is not finite whenever a term is not: name the term where there is one.
        columns = bad[row].nonzero()[0]
        values = ", ".join(f"{names[c]} = {rows[row, c]}" for c in columns)
        raise FloatingPointError(
            f"training stopped: {names[columns[-1]]} is not finite at step {first + row} ({values})"
        )
