"""Divergences against brute force, torch.distributions and their invariants."""

import numpy as np
import oracles
import pytest
import torch
from torch.distributions import Categorical, Independent, Normal, kl_divergence

from gmlvm import GaussianMixturePrior
from gmlvm.divergences import InverseMultiquadratic, categorical_kl, gaussian_kl, squared_mmd

CONSTANTS = (0.5, 2.0, 7.0)


def random_case(seed=0, batch=5, num_components=3, samples=4, latent_dim=2):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    probs, prior_probs = normal(batch, num_components).softmax(1), normal(num_components).softmax(0)
    z, prior_z = normal(batch, num_components, latent_dim), normal(num_components, samples, latent_dim)
    return probs, z, prior_probs, prior_z


def test_gaussian_kl_agrees_with_torch_distributions():
    loc, prior_loc = torch.randn(2, 6, 4, dtype=torch.float64)
    scale, prior_scale = torch.rand(2, 6, 4, dtype=torch.float64) + 0.1
    reference = kl_divergence(Independent(Normal(loc, scale), 1), Independent(Normal(prior_loc, prior_scale), 1))
    torch.testing.assert_close(gaussian_kl(loc, scale, prior_loc, prior_scale), reference)


def test_categorical_kl_agrees_with_torch_distributions():
    log_q, log_p = torch.randn(2, 6, 4, dtype=torch.float64).log_softmax(-1)
    reference = kl_divergence(Categorical(logits=log_q), Categorical(logits=log_p))
    torch.testing.assert_close(categorical_kl(log_q, log_p), reference)


def test_kl_is_zero_on_identity_and_positive_elsewhere():
    loc, scale = torch.randn(6, 4), torch.rand(6, 4) + 0.1
    assert gaussian_kl(loc, scale, loc, scale).abs().max() < 1e-6
    assert (gaussian_kl(loc, scale, loc + 0.3, scale * 1.1) > 0).all()
    log_q = torch.randn(6, 4).log_softmax(-1)
    assert categorical_kl(log_q, log_q).abs().max() < 1e-6


def test_categorical_kl_has_finite_gradients_for_a_sharp_posterior():
    logits = torch.tensor([[0.0, -400.0, -400.0]], requires_grad=True)
    categorical_kl(logits.log_softmax(-1), torch.full((3,), 1 / 3).log()).sum().backward()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("divergence", ["joint", "marginal"])
@pytest.mark.parametrize("seed", [0, 1])
def test_mmd_agrees_with_the_brute_force_double_sum(divergence, seed):
    case = random_case(seed)
    got = squared_mmd(*case, InverseMultiquadratic(CONSTANTS), divergence)
    expected = oracles.squared_mmd(*(t.numpy() for t in case), CONSTANTS, joint=divergence == "joint")
    assert got.item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("divergence", ["joint", "marginal"])
def test_codes_that_are_not_kept_take_no_part(divergence):
    probs, z, prior_probs, prior_z = random_case()
    kept = torch.rand(5, 3, generator=torch.Generator().manual_seed(1)) > 0.4
    assert 2 < kept.sum() < 15
    weight, kernel = (probs * kept).requires_grad_(), InverseMultiquadratic(CONSTANTS)
    every = squared_mmd(weight, z, prior_probs, prior_z, kernel, divergence)
    moved = z.masked_fill(~kept[..., None], 9)
    some = squared_mmd(weight, moved, prior_probs, prior_z, kernel, divergence, kept=kept)
    torch.testing.assert_close(some, every, rtol=1e-12, atol=0)
    gradients = [torch.autograd.grad(value, weight)[0] * kept for value in (every, some)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("divergence", ["joint", "marginal"])
def test_a_known_prior_part_takes_the_place_of_the_estimated_one(divergence):
    case, kernel = random_case(), InverseMultiquadratic(CONSTANTS)
    estimated = squared_mmd(*case, kernel, divergence)
    with_zero, with_two = (
        squared_mmd(*case, kernel, divergence, prior_part=torch.tensor(p, dtype=torch.float64)) for p in (0.0, 2.0)
    )
    assert (with_two - with_zero).item() == pytest.approx(2)
    assert with_zero < estimated


@pytest.mark.parametrize("divergence", ["joint", "marginal"])
def test_mmd_is_zero_in_expectation_for_equal_distributions(divergence):
    """Codes drawn from the prior with the prior's weights: the estimate must average to zero, with both signs."""
    prior = GaussianMixturePrior.simplex(3, 2, edge=2.0)
    kernel = InverseMultiquadratic.for_prior(prior)
    generator = torch.Generator().manual_seed(0)
    component = torch.arange(3).repeat_interleave(12)

    def draw():
        return prior.sample(36, component, generator=generator).unflatten(0, (3, 12))

    probs = prior.probs.expand(12, 3)
    values = np.array(
        [squared_mmd(probs, draw().transpose(0, 1), prior.probs, draw(), kernel, divergence) for _ in range(600)]
    )
    assert abs(values.mean()) < 4 * values.std() / np.sqrt(len(values))
    assert values.min() < 0 < values.max()


@pytest.mark.parametrize("divergence", ["joint", "marginal"])
def test_mmd_does_not_depend_on_the_order_of_components_or_images(divergence):
    probs, z, prior_probs, prior_z = random_case()
    kernel = InverseMultiquadratic(CONSTANTS)
    k, i = torch.tensor([2, 0, 1]), torch.tensor([4, 1, 0, 3, 2])
    before = squared_mmd(probs, z, prior_probs, prior_z, kernel, divergence)
    after = squared_mmd(probs[i][:, k], z[i][:, k], prior_probs[k], prior_z[k], kernel, divergence)
    torch.testing.assert_close(before, after)


def test_marginal_mmd_is_blind_to_a_wasted_component_and_joint_is_not():
    """All images take component 0, whose codes have the whole mixture's distribution: k is wasted, z is matched."""
    prior = GaussianMixturePrior.simplex(3, 2)
    kernel = InverseMultiquadratic.for_prior(prior)
    generator = torch.Generator().manual_seed(0)
    probs = torch.tensor([1.0, 0.0, 0.0]).expand(50, 3)
    component = torch.arange(3).repeat_interleave(20)
    values = {"joint": [], "marginal": []}
    for _ in range(200):
        z = prior.sample(150, generator=generator).unflatten(0, (50, 3))
        prior_z = prior.sample(60, component, generator=generator).unflatten(0, (3, 20))
        for divergence, seen in values.items():
            seen.append(squared_mmd(probs, z, prior.probs, prior_z, kernel, divergence).item())
    error = np.std(values["marginal"]) / np.sqrt(200)
    assert abs(np.mean(values["marginal"])) < 4 * error
    assert np.mean(values["joint"]) > 100 * error


@pytest.mark.parametrize("divergence", ["joint", "marginal"])
def test_mmd_gradients(divergence):
    probs, z, prior_probs, prior_z = random_case(batch=3, samples=2)
    kernel = InverseMultiquadratic(CONSTANTS)
    inputs = (probs.requires_grad_(), z.requires_grad_())
    assert torch.autograd.gradcheck(lambda q, c: squared_mmd(q, c, prior_probs, prior_z, kernel, divergence), inputs)


def test_gaussian_kl_gradients():
    loc = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    scale = (torch.rand(3, 2, dtype=torch.float64) + 0.2).requires_grad_()
    prior_loc, prior_scale = torch.zeros(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda m, s: gaussian_kl(m, s, prior_loc, prior_scale), (loc, scale))


def test_kernel_units_follow_the_prior():
    narrow, wide = (GaussianMixturePrior.simplex(4, 3, scale=s) for s in (0.5, 1.0))
    factors = (0.5, 2.0)
    assert InverseMultiquadratic.for_prior(wide, factors).constants == pytest.approx((3.0, 12.0))
    assert InverseMultiquadratic.for_prior(narrow, factors).constants == pytest.approx((0.75, 3.0))


def test_what_is_not_a_number_stays_so():
    uniform = torch.full((3,), 1 / 3).log()
    assert categorical_kl(torch.tensor([torch.nan, -1.0, -1.0]), uniform).isnan()
