"""Using a network without training it: no gradients, evaluation mode, by several threads at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

# Held while one thread has a model in evaluation mode that is not there by itself.
_MODES = threading.RLock()


@contextmanager
def inference(model: nn.Module) -> Iterator[None]:
    """No gradients and evaluation mode inside, every module's mode of before after it.

    Threads may share a model. One that is in evaluation mode by itself, as after training, is used by all at once; one
    that is not is used by one after the other.
    """
    with _MODES:
        modes = [(module, module.training) for module in model.modules()]
        if any(training for _, training in modes):
            try:
                model.eval()
                with torch.no_grad():
                    yield
            finally:
                for module, was_training in modes:
                    module.training = was_training
            return
    with torch.no_grad():
        yield
