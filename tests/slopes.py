"""Gradients against finite differences, for what gradcheck can't be given: parameters that a module holds."""

import pytest
import torch


def assert_gradients(value, tensors, rel=1e-6, step=1e-5):
    """The gradient of a scalar in each tensor, which is changed in place, is its slope along a random direction."""
    tensors = list(tensors)
    gradients = torch.autograd.grad(value(), tensors)
    for seed, (tensor, gradient) in enumerate(zip(tensors, gradients, strict=True)):
        generator = torch.Generator().manual_seed(seed)
        direction = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
        start, ends = tensor.detach().clone(), []
        for sign in (1, -1):
            tensor.data.copy_(start + sign * step * direction)
            ends.append(value().item())
        tensor.data.copy_(start)
        slope = (ends[0] - ends[1]) / (2 * step)
        assert (gradient * direction).sum().item() == pytest.approx(slope, rel=rel)
