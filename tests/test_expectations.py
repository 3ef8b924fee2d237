"""Sums over k: the exact one, and the truncated one within its bound."""

import pytest
import torch

from gmlvm.expectations import Dense, Truncated


def total(rule, log_probs, values):
    """The estimated sum over k of q_k f_k for each image, (B,)."""
    chosen = rule.select(log_probs)
    terms = chosen.weight * values[chosen.image, chosen.component]
    return torch.zeros(len(log_probs), dtype=terms.dtype).index_add(0, chosen.image, terms)


@pytest.fixture
def log_probs():
    return (4 * torch.randn(50, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))).log_softmax(1)


def test_dense_is_the_sum(log_probs):
    values = torch.randn_like(log_probs)
    torch.testing.assert_close(total(Dense(), log_probs, values), (log_probs.exp() * values).sum(1))


@pytest.mark.parametrize("tolerance", [1e-3, 1e-2, 0.1])
def test_truncation_stays_within_its_bound_and_saves_terms(log_probs, tolerance):
    values = torch.rand_like(log_probs)
    error = (total(Truncated(tolerance), log_probs, values) - total(Dense(), log_probs, values)).abs().max()
    assert 0 < error <= tolerance * 6 * values.max()
    assert len(Truncated(tolerance).select(log_probs).weight) < log_probs.numel()


def test_truncation_with_tolerance_zero_is_dense(log_probs):
    values = torch.rand_like(log_probs)
    torch.testing.assert_close(total(Truncated(0.0), log_probs, values), total(Dense(), log_probs, values))


def test_the_largest_term_is_always_kept():
    uniform = torch.full((4, 10), 0.1).log()
    assert Truncated(0.4).select(uniform).image.tolist() == [0, 1, 2, 3]


def test_weights_carry_the_gradient_of_the_posterior():
    logits = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    values = torch.randn(3, 4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda a: total(Dense(), a.log_softmax(1), values), (logits,))
