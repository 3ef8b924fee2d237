"""The prior against torch.distributions and SciPy; its sampler by goodness of fit."""

import math

import numpy as np
import oracles
import pytest
import torch
from scipy import stats
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from gmlvm import GaussianMixturePrior


@pytest.fixture
def prior():
    generator = torch.Generator().manual_seed(5)
    loc = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    scale = torch.rand(4, 3, generator=generator, dtype=torch.float64) + 0.3
    return GaussianMixturePrior(loc, scale, torch.tensor([0.0, 1.0, -1.0, 0.5], dtype=torch.float64))


def test_log_prob_agrees_with_torch_distributions_and_scipy(prior):
    z = torch.randn(2, 7, 3, dtype=torch.float64)
    reference = MixtureSameFamily(Categorical(logits=prior.logits), Independent(Normal(prior.loc, prior.scale), 1))
    torch.testing.assert_close(prior.log_prob(z), reference.log_prob(z), rtol=1e-12, atol=0)
    by_scipy = oracles.mixture_log_prob(z.numpy(), prior.logits.numpy(), prior.loc.numpy(), prior.scale.numpy())
    np.testing.assert_allclose(prior.log_prob(z), by_scipy, rtol=1e-10)


def test_component_log_prob_adds_up_to_the_mixture(prior):
    z = torch.randn(5, 3, dtype=torch.float64)
    torch.testing.assert_close((prior.component_log_prob(z) + prior.logits).logsumexp(-1), prior.log_prob(z))


def test_log_prob_is_stable_far_from_every_mode(prior):
    assert prior.log_prob(torch.full((3,), 1e3, dtype=torch.float64)).isfinite()


def test_weights_are_normalised_and_uniform_by_default(prior):
    assert prior.probs.sum().item() == pytest.approx(1)
    torch.testing.assert_close(GaussianMixturePrior(torch.zeros(5, 2)).probs, torch.full((5,), 0.2))


@pytest.mark.parametrize(("num_components", "latent_dim"), [(1, 1), (2, 1), (3, 2), (10, 9), (10, 30), (100, 99)])
def test_simplex_means_are_equidistant_and_centred(num_components, latent_dim):
    prior = GaussianMixturePrior.simplex(num_components, latent_dim, edge=2.5, scale=0.7)
    distances = torch.pdist(prior.loc)
    torch.testing.assert_close(distances, torch.full_like(distances, 2.5))
    assert prior.loc.mean(0).abs().max() < 1e-5
    assert (prior.scale == 0.7).all()


def test_circle_for_many_means_in_the_plane():
    loc = GaussianMixturePrior.simplex(8, 2, edge=3.0).loc
    neighbours = (loc - loc.roll(1, 0)).norm(dim=1)
    torch.testing.assert_close(neighbours, torch.full((8,), 3.0))
    radius = torch.full((8,), 1.5 / math.sin(math.pi / 8))
    torch.testing.assert_close(loc.norm(dim=1), radius)


def test_sampled_components_fit_the_weights(prior):
    k = prior.sample_component(20_000, torch.Generator().manual_seed(0))
    counts = np.bincount(k.numpy(), minlength=4)
    assert stats.chisquare(counts, prior.probs.numpy() * 20_000).pvalue > 1e-3


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_samples_of_a_component_fit_its_gaussian(prior, temperature):
    z = prior.sample(5000, component=2, temperature=temperature, generator=torch.Generator().manual_seed(1))
    standard = ((z - prior.loc[2]) / (temperature * prior.scale[2])).numpy()
    for d in range(3):
        assert stats.kstest(standard[:, d], "norm").pvalue > 1e-3
    off_diagonal = np.corrcoef(standard.T)[~np.eye(3, dtype=bool)]
    assert np.abs(off_diagonal).max() < 4 / math.sqrt(5000)


def test_responsibilities_are_bayes_rule_on_scipys_densities(prior):
    z = prior.sample(50, generator=torch.Generator().manual_seed(5))
    loc, scale = prior.loc.double().numpy(), prior.scale.double().numpy()
    densities = [stats.multivariate_normal(m, np.diag(s**2)).pdf(z.double()) for m, s in zip(loc, scale, strict=True)]
    joint = prior.probs.double().numpy() * np.stack(densities, axis=1)
    expected = joint / joint.sum(1, keepdims=True)
    np.testing.assert_allclose(prior.log_responsibilities(z).exp(), expected, rtol=1e-4, atol=1e-7)


def test_samples_of_each_component_are_those_of_that_component(prior):
    each = prior.sample_each(7, torch.Generator().manual_seed(1))
    one_by_one = prior.sample(28, torch.arange(4).repeat_interleave(7), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(each.flatten(0, 1), one_by_one)


def test_samples_of_the_mixture_fit_its_distribution_function(prior):
    z = prior.sample(5000, generator=torch.Generator().manual_seed(2)).numpy()
    for d in range(3):

        def cdf(v, d=d):
            parts = stats.norm.cdf(np.asarray(v)[:, None], prior.loc[:, d].numpy(), prior.scale[:, d].numpy())
            return parts @ prior.probs.numpy()

        assert stats.kstest(z[:, d], cdf).pvalue > 1e-3


def test_temperature_zero_gives_the_means(prior):
    component = torch.tensor([3, 0, 1])
    torch.testing.assert_close(prior.sample(3, component, temperature=0.0), prior.loc[component])


def test_sampling_repeats_with_its_generator_and_leaves_the_global_one_alone(prior):
    before = torch.get_rng_state()
    first, second = (prior.sample(6, generator=torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), before)
