"""Torch's global generators, from which dropout and the like draw: states that a run keeps for itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from gmlvm.identity import digest


class Ambient:
    """Own states for torch's global generators, the CPU's and that of a device.

    They are seeded with something else than the seed itself, or a generator with that seed would draw the same numbers.

    Args:
        seed: The seed.
        device: The device.

    Attributes:
        state: The states, by name: ``"cpu"``, and ``"device"`` for another device.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self.device = device
        devices = {"cpu": torch.device("cpu")} | ({} if device.type == "cpu" else {"device": device})
        seed = int(digest(f"ambient {seed}".encode()), 16)
        self.state = {name: torch.Generator(each).manual_seed(seed).get_state() for name, each in devices.items()}

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Draw from the own states inside; the global generators are afterwards as they were."""
        outside = self._current()
        self._install(self.state)
        try:
            yield
        finally:
            self.state = self._current()
            self._install(outside)

    def _current(self) -> dict[str, Tensor]:
        state = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            state["device"] = torch.cuda.get_rng_state(self.device)
        elif self.device.type == "mps":
            state["device"] = torch.mps.get_rng_state()
        return state

    def _install(self, state: dict[str, Tensor]) -> None:
        torch.set_rng_state(state["cpu"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(state["device"], self.device)
        elif self.device.type == "mps":
            torch.mps.set_rng_state(state["device"])
