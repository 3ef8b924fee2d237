"""Sums over k: the exact one, the truncated one within its bounds, and those that draw without bias."""

import numpy as np
import pytest
import torch

from gmlvm.enumeration import Dense, Resampled, Selection, TopM, Truncated, truncate

DRAWING = [TopM(1), TopM(2), TopM(4), Resampled(1), Resampled(2), Resampled(3), Resampled(5)]


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


@pytest.mark.parametrize("rule", [Dense(), Truncated(0.1), *DRAWING], ids=repr)
def test_weights_of_an_image_sum_to_one_and_no_term_stands_twice(log_probs, rule):
    chosen = rule.select(log_probs.clone().requires_grad_(), torch.Generator().manual_seed(0))
    sums = torch.zeros(len(log_probs), dtype=torch.float64).index_add(0, chosen.image, chosen.weight)
    torch.testing.assert_close(sums, torch.ones_like(sums))
    pairs = set(zip(chosen.image.tolist(), chosen.component.tolist(), strict=True))
    assert len(pairs) == len(chosen.weight)


@pytest.mark.parametrize("tolerance", [1e-3, 1e-2, 0.1])
def test_truncation_stays_within_its_bounds_and_saves_terms(log_probs, tolerance):
    values = torch.randn_like(log_probs)
    spread = values.amax(1) - values.amin(1)
    bound = 5 * tolerance * spread  # (B,), for K = 6
    sums, gradients = [], []
    for rule in (Truncated(tolerance), Dense()):
        logits = log_probs.clone().requires_grad_()
        sums.append(total(rule, logits.log_softmax(1), values))
        gradients.append(torch.autograd.grad(sums[-1].sum(), logits)[0])
    error, gradient_error = (sums[0] - sums[1]).abs(), (gradients[0] - gradients[1]).abs().sum(1)
    assert (error <= bound).all()
    assert (gradient_error <= 2 * bound).all()
    assert error.max() > 0
    assert len(Truncated(tolerance).select(log_probs).weight) < log_probs.numel()


def test_truncation_shifts_the_gradient_behind_the_values_within_its_bound(log_probs):
    tolerance, slopes = 0.05, torch.randn_like(log_probs)
    errors = []
    for rule in (Truncated(tolerance), Dense()):
        theta = torch.zeros(len(log_probs), 1, dtype=torch.float64, requires_grad=True)
        errors.append(torch.autograd.grad(total(rule, log_probs, theta * slopes).sum(), theta)[0].squeeze(1))
    top = slopes.gather(1, log_probs.argmax(1, keepdim=True))
    assert ((errors[0] - errors[1]).abs() <= 5 * tolerance * (slopes - top).abs().amax(1)).all()
    assert (errors[0] != errors[1]).any()


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


def estimates(rule, logits, values, draws):
    """Independent estimates of the sum, (draws,), and their gradients in the logits, (draws, K)."""
    repeated = logits.expand(draws, -1).clone().requires_grad_()
    sums = total(rule, repeated.log_softmax(1), values.expand(draws, -1))
    return sums.detach(), torch.autograd.grad(sums.sum(), repeated)[0]


@pytest.fixture
def one_image():
    """Logits and values of one image, (1, 6) each; the values lie far from zero."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 6, dtype=torch.float64, generator=generator)
    return logits, 5 + torch.randn(1, 6, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("rule", DRAWING, ids=repr)
def test_rules_that_draw_are_unbiased_in_value_and_gradient(rule, one_image):
    (expected,), (gradient,) = estimates(Dense(), *one_image, 1)
    draws = 200_000
    sums, gradients = estimates(rule, *one_image, draws)
    for samples, truth in ((sums[:, None], expected), (gradients, gradient)):
        standard_error = samples.std(0) / draws**0.5
        assert ((samples.mean(0) - truth).abs() <= 4 * standard_error + 1e-12).all()
    assert gradients.std(0).max() > 0


@pytest.mark.parametrize("rule", DRAWING, ids=repr)
def test_a_constant_added_to_every_term_adds_no_noise(rule, one_image):
    logits, values = one_image
    sums, gradients = estimates(rule, logits, values, 100)
    shifted, shifted_gradients = estimates(rule, logits, values + 1000, 100)
    torch.testing.assert_close(shifted - 1000, sums)
    torch.testing.assert_close(shifted_gradients, gradients)


@pytest.mark.parametrize("m", [1, 2, 3, 5])
def test_resampling_costs_at_most_m_plus_one_terms_and_what_it_says_on_average(m):
    generator = torch.Generator().manual_seed(0)
    for spread in (0.0, 0.5, 2.0, 8.0):
        log_probs = (spread * torch.randn(20_000, 30, dtype=torch.float64, generator=generator)).log_softmax(1)
        chosen = Resampled(m).select(log_probs, generator)
        terms = chosen.image.bincount(minlength=len(log_probs))
        chance = (m * log_probs.exp()).clamp_max(1).scatter(1, log_probs.argmax(1, keepdim=True), 1)
        assert terms.min() >= 1
        assert terms.max() <= m + 1
        assert terms.double().mean().item() == pytest.approx(chance.sum(1).mean().item(), abs=0.02)
        assert chosen.weight.min() >= -1e-12


def test_resampling_keeps_large_terms_exactly_and_draws_small_ones_at_their_rate():
    probs = torch.tensor([[0.55, 0.3, 0.08, 0.05, 0.02]], dtype=torch.float64)
    chosen = Resampled(4).select(probs.log().expand(100_000, -1), torch.Generator().manual_seed(0))
    rates = chosen.component.bincount(minlength=5) / 100_000
    np.testing.assert_allclose(rates, [1, 1, 0.32, 0.2, 0.08], atol=0.006)
    assert chosen.weight[chosen.component == 1].unique().tolist() == pytest.approx([0.3])
    assert chosen.weight[chosen.component > 1].unique().tolist() == pytest.approx([0.25])


def test_fixed_shapes_on_other_devices_hold_the_same_terms(log_probs):
    """What runs on a GPU, run here: the places that are free have weight zero."""
    chosen = Resampled(2).select(log_probs, torch.Generator().manual_seed(0))
    fixed = Resampled(2).select(log_probs, torch.Generator().manual_seed(0), fixed_shape=True)
    assert len(fixed.weight) == 3 * len(log_probs)
    matrices = []
    for selection in (chosen, fixed):
        matrix = torch.zeros_like(log_probs)
        matrix[selection.image, selection.component] = selection.weight
        matrices.append(matrix)
    torch.testing.assert_close(*matrices)


def test_top_m_costs_m_plus_one_terms(log_probs):
    chosen = TopM(2).select(log_probs)
    assert len(chosen.weight) == 3 * len(log_probs)


@pytest.mark.parametrize("m", [5, 6, 9])
def test_top_m_of_nearly_all_terms_is_dense(log_probs, m):
    values = torch.rand_like(log_probs)
    torch.testing.assert_close(total(TopM(m), log_probs, values), total(Dense(), log_probs, values))
    assert len(TopM(m).select(log_probs).weight) == log_probs.numel()


@pytest.mark.parametrize("rule", [Truncated(), *DRAWING], ids=repr)
def test_a_certain_posterior_is_survived(rule):
    logits = torch.tensor([[100.0, 0.0, -100.0, -300.0]], requires_grad=True)
    chosen = rule.select(logits.log_softmax(1))
    assert chosen.component[0] == 0
    assert chosen.weight.tolist() == pytest.approx([1.0] + [0.0] * (len(chosen.weight) - 1))
    assert torch.autograd.grad(chosen.mean(chosen.component.float(), 1), logits)[0].isfinite().all()


@pytest.mark.parametrize("rule", [Dense(), TopM(1), TopM(5), Resampled(2)], ids=repr)
def test_with_fixed_shape_the_number_of_terms_is_that_of_the_images_alone(rule, log_probs):
    sharp = (20 * log_probs).log_softmax(1)
    counts = {
        len(rule.select(q, fixed_shape=True).weight) for q in (log_probs, sharp, torch.full_like(sharp, 1 / 6).log())
    }
    assert len(counts) == 1


@pytest.mark.parametrize("rule", DRAWING, ids=repr)
def test_drawn_terms_come_from_the_generator_alone(rule, log_probs):
    before = torch.get_rng_state()
    one, same = (rule.select(log_probs, torch.Generator().manual_seed(0)) for _ in range(2))
    assert all(map(torch.equal, one, same))
    assert torch.equal(torch.get_rng_state(), before)


def test_different_images_are_drawn_for_independently():
    """The covariance of the weights of two images with one posterior is zero, so sums over pairs have no bias."""
    log_probs = torch.tensor([0.7, 0.1, 0.1, 0.1], dtype=torch.float64).log().expand(100_000, -1)
    for rule in (Resampled(2), TopM(1)):
        chosen = rule.select(log_probs, torch.Generator().manual_seed(0))
        weights = torch.zeros(100_000, 4, dtype=torch.float64)
        weights[chosen.image, chosen.component] = chosen.weight.detach()
        products = (weights[::2] - log_probs[0].exp()) * (weights[1::2] - log_probs[0].exp())
        assert (products.mean(0).abs() <= 4 * products.std(0) / 50_000**0.5 + 1e-12).all()


def test_truncated_weights_sum_to_one_and_are_zero_where_a_component_is_left_out(log_probs):
    weight, kept = truncate(log_probs, 0.1)
    probs = log_probs.exp()
    expected = probs.numpy() > 0.1
    expected[np.arange(len(probs)), probs.argmax(1)] = True
    np.testing.assert_array_equal(kept, expected)
    assert (weight[~kept] == 0).all()
    torch.testing.assert_close(weight.sum(1), torch.ones(len(weight), dtype=torch.float64))
    others = kept.scatter(1, probs.argmax(1, keepdim=True), False)
    assert others.any()
    torch.testing.assert_close(weight[others], probs[others])


def test_the_tolerance_itself_is_left_out():
    log_probs = torch.tensor([[0.75, 0.25]], dtype=torch.float64).log()
    weight, kept = truncate(log_probs, log_probs[0, 1].exp().item())
    assert kept.tolist() == [[True, False]]
    assert weight.tolist() == [[1.0, 0.0]]


def test_the_mean_is_over_the_images_whatever_the_number_of_terms():
    chosen = Selection(torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1]), torch.tensor([1.0, 0.25, 0.75]))
    assert chosen.mean(torch.tensor([2.0, 4.0, 8.0]), 2).item() == pytest.approx((2 + 1 + 6) / 2)


def test_the_terms_of_some_images_count_from_the_first_of_them():
    chosen = Selection(torch.tensor([0, 1, 1, 2, 3]), torch.tensor([5, 6, 7, 8, 9]), torch.arange(5.0))
    part = chosen.of_images(slice(1, 3))
    assert part.image.tolist() == [0, 0, 1]
    assert part.component.tolist() == [6, 7, 8]
    assert part.weight.tolist() == [1, 2, 3]
