"""Sums over k: the exact one, and the truncated one within its bound."""

import pytest
import torch

from gmlvm.expectations import Dense, TopM, Truncated


def total(rule, log_probs, values):
    """The estimated sum over k of q_k f_k for each image, (B,)."""
    chosen = rule.select(log_probs, torch.Generator().manual_seed(0))
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


def estimates(rule, logits, values, draws, control=True):
    """Independent estimates of the sum, (draws,), and their gradients in the logits, (draws, K)."""
    repeated = logits.expand(draws, -1).clone().requires_grad_()
    chosen = rule.select(repeated.log_softmax(1), torch.Generator().manual_seed(0))
    if not control:
        chosen = chosen._replace(control=None)
    terms = values[0, chosen.component]
    # The mean over the batch times its size: each row's gradient is that of its own estimate.
    (chosen.mean(terms, draws) * draws).backward()
    return (chosen.weight * terms).detach().view(draws, -1).sum(1), repeated.grad


@pytest.mark.parametrize("m", [1, 2, 4])
def test_top_m_is_unbiased_in_value_and_gradient(m):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 6, dtype=torch.float64, generator=generator)
    values = 5 + torch.randn(1, 6, dtype=torch.float64, generator=generator)
    (expected,), (gradient,) = estimates(Dense(), logits, values, 1)
    draws = 200_000
    sums, gradients = estimates(TopM(m), logits, values, draws)
    for samples, truth in ((sums[:, None], expected), (gradients, gradient)):
        standard_error = samples.std(0) / draws**0.5
        assert ((samples.mean(0) - truth).abs() <= 4 * standard_error + 1e-12).all()
    assert gradients.std(0).max() > 0


def test_the_baseline_of_top_m_lowers_the_variance_of_the_gradient():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 6, dtype=torch.float64, generator=generator)
    values = 5 + torch.randn(1, 6, dtype=torch.float64, generator=generator)
    _, with_baseline = estimates(TopM(1), logits, values, 10_000)
    _, without = estimates(TopM(1), logits, values, 10_000, control=False)
    assert with_baseline.var(0).sum() < 0.2 * without.var(0).sum()


def test_top_m_costs_m_plus_one_terms(log_probs):
    chosen = TopM(2).select(log_probs)
    assert len(chosen.weight) == 3 * len(log_probs)
    pairs = set(zip(chosen.image.tolist(), chosen.component.tolist(), strict=True))
    assert len(pairs) == len(chosen.weight)  # no term twice


@pytest.mark.parametrize("m", [5, 6, 9])
def test_top_m_of_nearly_all_terms_is_dense(log_probs, m):
    values = torch.rand_like(log_probs)
    torch.testing.assert_close(total(TopM(m), log_probs, values), total(Dense(), log_probs, values))


def test_top_m_survives_a_certain_posterior():
    certain = torch.tensor([[100.0, 0.0, -100.0, -300.0]]).log_softmax(1)
    chosen = TopM(1).select(certain)
    assert chosen.component[0] == 0
    assert chosen.weight.tolist() == pytest.approx([1, 0])
    assert chosen.weight.isfinite().all()
