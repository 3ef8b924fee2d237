"""The divergence without samples, against samples by the million."""

import numpy as np
import pytest
import torch

from gmlvm import GaussianMixturePrior
from gmlvm.closed_form import data_data, data_prior, expected_kernel, prior_prior
from gmlvm.divergences import DEFAULT_FACTORS, InverseMultiquadratic, squared_mmd

SAMPLES = 1_000_000


def random_case(seed, dim):
    rng = np.random.default_rng(seed)
    difference = rng.normal(size=dim) * rng.uniform(0, 4)
    variance = rng.uniform(0.01, 3, size=dim)
    constants = 2 * dim * np.array(DEFAULT_FACTORS) * rng.uniform(0.3, 1)
    return rng, difference, variance, constants


@pytest.mark.parametrize("dim", [1, 2, 9, 20])
@pytest.mark.parametrize("seed", range(3))
def test_expected_kernel_agrees_with_a_million_samples(seed, dim):
    rng, difference, variance, constants = random_case(seed, dim)
    distance = np.zeros(SAMPLES)
    for d in range(dim):
        distance += (difference[d] + np.sqrt(variance[d]) * rng.normal(size=SAMPLES)) ** 2
    values = sum(c / (c + distance) for c in constants)
    got = expected_kernel(
        InverseMultiquadratic(constants.tolist()), torch.from_numpy(difference), torch.from_numpy(variance)
    ).item()
    assert abs(got - values.mean()) <= 4 * values.std() / SAMPLES**0.5


@pytest.mark.parametrize(
    ("dim", "nodes", "alike", "bound"),
    [(9, 4, True, 1e-3), (9, 8, True, 1e-4), (1, 8, True, 2e-2), (9, 8, False, 2e-2)],
)
def test_the_quadrature_is_as_accurate_as_documented(dim, nodes, alike, bound):
    errors = []
    for seed in range(200):
        rng, difference, variance, _ = random_case(seed, dim)
        if not alike:
            variance[1:] = 0
        constant = (np.square(difference).sum() + variance.sum()) * np.exp(rng.uniform(np.log(1 / 15), np.log(15)))
        kernel = InverseMultiquadratic([constant])
        arguments = torch.from_numpy(difference), torch.from_numpy(variance)
        fine = expected_kernel(kernel, *arguments, nodes=100).item()
        errors.append(abs(expected_kernel(kernel, *arguments, nodes=nodes).item() - fine))
    assert max(errors) < bound


def test_many_nodes_do_not_overflow_in_float32():
    kernel = InverseMultiquadratic([5.0])
    arguments = torch.tensor([0.7]), torch.tensor([1.2])
    exact = expected_kernel(kernel, *(t.double() for t in arguments), nodes=100)
    torch.testing.assert_close(expected_kernel(kernel, *arguments, nodes=100), exact.float())


def test_without_variance_the_expectation_is_the_kernel():
    kernel = InverseMultiquadratic([5.0, 20.0])
    difference = torch.tensor([0.7, -1.1], dtype=torch.float64)
    got = expected_kernel(kernel, difference, torch.zeros(2, dtype=torch.float64), nodes=1)
    torch.testing.assert_close(got, kernel(difference.square().sum()), rtol=1e-12, atol=0)


@pytest.fixture
def case():
    """Posteriors of five images and a prior, K = 3 and D = 2, in float64."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    prior = GaussianMixturePrior(2 * normal(3, 2), normal(3, 2).exp(), normal(3))
    probs, loc, scale = normal(5, 3).softmax(1), 2 * normal(5, 3, 2), (0.5 * normal(5, 3, 2)).exp()
    return probs, loc, scale, prior, InverseMultiquadratic.for_prior(prior)


def closed_mmd(probs, loc, scale, prior, kernel, divergence):
    return (
        data_data(probs, loc, scale, kernel, divergence)
        - 2 * data_prior(probs, loc, scale, prior, kernel, divergence)
        + prior_prior(prior, kernel, divergence)
    )


@pytest.mark.parametrize("divergence", ["joint", "marginal"])
def test_it_is_the_mean_of_the_sampled_estimate(case, divergence):
    probs, loc, scale, prior, kernel = case
    generator = torch.Generator().manual_seed(1)
    component = torch.arange(3).repeat_interleave(8)
    sampled = []
    for _ in range(4000):
        z = loc + scale * torch.randn(loc.shape, generator=generator, dtype=torch.float64)
        prior_z = prior.sample(24, component, generator=generator).view(3, 8, 2)
        sampled.append(squared_mmd(probs, z, prior.probs, prior_z, kernel, divergence).item())
    got = closed_mmd(*case, divergence).item()
    assert abs(got - np.mean(sampled)) <= 4 * np.std(sampled) / len(sampled) ** 0.5


@pytest.mark.parametrize("divergence", ["joint", "marginal"])
def test_a_posterior_equal_to_the_prior_has_none(case, divergence):
    *_, prior, kernel = case
    probs, loc, scale = (t.expand(4, *t.shape) for t in (prior.probs, prior.loc, prior.scale))
    assert closed_mmd(probs, loc, scale, prior, kernel, divergence).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("divergence", ["joint", "marginal"])
def test_gradients(case, divergence):
    probs, loc, scale, prior, kernel = case
    inputs = tuple(t.clone().requires_grad_() for t in (probs, loc, scale))
    assert torch.autograd.gradcheck(lambda *a: closed_mmd(*a, prior, kernel, divergence), inputs)


@pytest.mark.parametrize("divergence", ["joint", "marginal"])
def test_codes_that_are_not_kept_take_no_part(case, divergence):
    probs, loc, scale, prior, kernel = case
    kept = torch.rand(5, 3, generator=torch.Generator().manual_seed(2)) > 0.4
    assert 2 < kept.sum() < 15
    weight = probs * kept
    for part, extra in ((data_data, ()), (data_prior, (prior,))):
        every = part(weight, loc, scale, *extra, kernel, divergence)
        some = part(weight, loc.masked_fill(~kept[..., None], 9), scale, *extra, kernel, divergence, kept)
        torch.testing.assert_close(some, every, rtol=1e-12, atol=0)


def test_bad_shapes_are_named(case):
    probs, loc, scale, prior, kernel = case
    with pytest.raises(ValueError, match=r"probs must have shape \(5, 3\).*got \(5, 2\)"):
        data_data(probs[:, :2], loc, scale, kernel)
    with pytest.raises(ValueError, match=r"scale must have shape \(5, 3, 2\).*got \(5, 3, 1\)"):
        data_prior(probs, loc, scale[..., :1], prior, kernel)
    with pytest.raises(ValueError, match=r"loc must have shape \(5, 3, 2\).*got \(5, 2, 2\)"):
        data_prior(probs[:, :2], loc[:, :2], scale[:, :2], prior, kernel)
    with pytest.raises(ValueError, match="need 2 images or more, got 1"):
        data_data(probs[:1], loc[:1], scale[:1], kernel)
    with pytest.raises(ValueError, match="one of 'joint', 'marginal'; got 'both'"):
        prior_prior(prior, kernel, "both")
