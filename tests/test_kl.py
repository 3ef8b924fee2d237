"""The KL divergences against torch.distributions, and where numbers get very small."""

import math

import pytest
import torch
from torch.distributions import Categorical, Independent, Normal, kl_divergence

from gmlvm.kl import categorical_kl, gaussian_kl

UNIFORM = torch.full((3,), 1 / 3).log()


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_gaussian_kl_agrees_with_torch_distributions():
    loc, prior_loc, (scale, prior_scale) = normal(0, 6, 4), normal(1, 6, 4), normal(2, 2, 6, 4).exp()
    reference = kl_divergence(Independent(Normal(loc, scale), 1), Independent(Normal(prior_loc, prior_scale), 1))
    torch.testing.assert_close(gaussian_kl(loc, scale, prior_loc, prior_scale), reference)


def test_categorical_kl_agrees_with_torch_distributions():
    log_q, log_p = normal(0, 2, 6, 4).log_softmax(-1)
    reference = kl_divergence(Categorical(logits=log_q), Categorical(logits=log_p))
    torch.testing.assert_close(categorical_kl(log_q, log_p), reference)


def test_kl_is_zero_on_identity_and_positive_elsewhere():
    loc, scale = normal(0, 6, 4), normal(1, 6, 4).exp()
    assert gaussian_kl(loc, scale, loc, scale).abs().max() < 1e-12
    assert (gaussian_kl(loc, scale, loc + 0.3, scale * 1.1) > 0).all()
    log_q, log_p = normal(2, 2, 6, 4).log_softmax(-1)
    assert categorical_kl(log_q, log_q).abs().max() < 1e-12
    assert (categorical_kl(log_q, log_p) > 0).all()


def test_gaussian_kl_gradients():
    inputs = (normal(0, 3, 2), normal(1, 3, 2).exp(), normal(2, 2), normal(3, 2).exp())
    assert torch.autograd.gradcheck(gaussian_kl, tuple(tensor.requires_grad_() for tensor in inputs))


def test_categorical_kl_gradients():
    inputs = (normal(0, 3, 4).requires_grad_(), normal(1, 4).requires_grad_())
    assert torch.autograd.gradcheck(lambda a, b: categorical_kl(a.log_softmax(-1), b.log_softmax(-1)), inputs)


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e15])
def test_gaussian_kl_of_a_scale_whose_square_float32_does_not_hold(scale):
    loc, scale = torch.zeros(1), torch.tensor([scale], requires_grad=True)
    value = gaussian_kl(loc, scale, loc, torch.ones(1))
    value.backward()
    exact = scale.item() ** 2 / 2 - 0.5 - math.log(scale.item())
    assert value.item() == pytest.approx(exact, rel=1e-6)
    assert scale.grad.item() == pytest.approx(scale.item() - 1 / scale.item(), rel=1e-6)


def test_a_component_of_probability_zero_adds_nothing_to_value_or_gradient():
    log_q = torch.tensor([0.5, 0.5, 0.0]).log().requires_grad_()
    value = categorical_kl(log_q, UNIFORM)
    value.backward()
    assert value.item() == pytest.approx(math.log(3 / 2))
    # The derivative of q log(q / p) in log q: q (log(q / p) + 1).
    expected = 0.5 * (math.log(3 / 2) + 1)
    torch.testing.assert_close(log_q.grad, torch.tensor([expected, expected, 0.0]))


def test_a_component_that_both_rule_out_adds_nothing():
    none = torch.tensor([0.5, 0.5, 0.0]).log()
    assert categorical_kl(none, none).item() == 0


@pytest.mark.parametrize("logit", [-80.0, -400.0, -torch.inf])
def test_categorical_kl_has_the_right_gradient_for_a_sharp_posterior(logit):
    logits = torch.tensor([[0.0, logit, logit]], requires_grad=True)
    categorical_kl(logits.log_softmax(-1), UNIFORM).sum().backward()
    torch.testing.assert_close(logits.grad, torch.zeros(1, 3))


def test_what_is_not_a_number_stays_so():
    assert categorical_kl(torch.tensor([torch.nan, -1.0, -1.0]), UNIFORM).isnan()
    nan, one = torch.tensor([torch.nan]), torch.ones(1)
    assert gaussian_kl(nan, one, one, one).isnan()
    assert gaussian_kl(one, nan, one, one).isnan()
