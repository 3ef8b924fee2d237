"""The prior against torch.distributions and SciPy; its sampler by goodness of fit; what it learns by its data."""

import copy
import math

import numpy as np
import oracles
import pytest
import torch
from scipy import stats
from torch import nn
from torch.distributions import Categorical, Independent, Laplace, MixtureSameFamily, Normal

from gmlvm import GaussianMixturePrior, Prior

LEARNABLE = ("loc", "scale", "weights")


def mixture(**options):
    generator = torch.Generator().manual_seed(5)
    loc = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    scale = torch.rand(4, 3, generator=generator, dtype=torch.float64) + 0.3
    return GaussianMixturePrior(loc, scale, torch.tensor([0.0, 1.0, -1.0, 0.5], dtype=torch.float64), **options)


@pytest.fixture
def prior():
    return mixture()


def values(prior):
    return {"loc": prior.loc.detach(), "scale": prior.scale.detach(), "weights": prior.probs.detach()}


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


@pytest.mark.parametrize(("num_components", "latent_dim"), [(2, 2), (12, 9), (30, 3)])
def test_scattered_means_lie_on_a_sphere_with_the_nearest_two_an_edge_apart(num_components, latent_dim):
    state = torch.get_rng_state()
    prior = GaussianMixturePrior.scattered(num_components, latent_dim, edge=2.5, scale=0.7, seed=3)
    assert torch.pdist(prior.loc).min().item() == pytest.approx(2.5, rel=1e-4)
    torch.testing.assert_close(prior.loc.norm(dim=1), prior.loc.norm(dim=1).mean().expand(num_components))
    assert (prior.scale == 0.7).all()
    assert torch.equal(GaussianMixturePrior.scattered(num_components, latent_dim, 2.5, seed=3).loc, prior.loc)
    assert not torch.equal(GaussianMixturePrior.scattered(num_components, latent_dim, 2.5, seed=4).loc, prior.loc)
    assert torch.equal(torch.get_rng_state(), state)


def test_scattered_directions_favour_none():
    loc = GaussianMixturePrior.scattered(2000, 3).loc
    second_moments = loc.T @ loc / len(loc) / loc[0].square().sum()
    torch.testing.assert_close(second_moments, torch.eye(3) / 3, atol=0.03, rtol=0)
    assert loc.mean(0).norm() < 0.1 * loc[0].norm()


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


def test_integers_of_numpy_are_integers(prior):
    drawn, expected = (
        prior.sample(size(3), component=size(2), generator=torch.Generator().manual_seed(0)) for size in (np.int64, int)
    )
    assert torch.equal(drawn, expected)


@pytest.mark.parametrize("learn", [(), LEARNABLE])
def test_what_it_was_given_is_copied(learn):
    given = [torch.zeros(2, 3), torch.ones(2, 3), torch.zeros(2)]
    prior = GaussianMixturePrior(*given, learn=learn)
    before = {name: value.clone() for name, value in values(prior).items()}
    for tensor in given:
        tensor.add_(1).mul_(2)
        tensor[0] += 5
    for name, value in values(prior).items():
        assert torch.equal(value, before[name])


# What a prior learns.


@pytest.mark.parametrize("learn", [(), ("loc",), ("scale",), ("weights",), LEARNABLE])
def test_what_is_named_is_trained_and_nothing_else(learn):
    prior, before = mixture(learn=learn), values(mixture())
    assert prior.learn == learn
    assert len(list(prior.parameters())) == len(learn)
    for name, value in values(prior).items():  # it starts where it is put
        torch.testing.assert_close(value, before[name], rtol=1e-14, atol=0)
    if learn:
        optimizer = torch.optim.SGD(prior.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            (-prior.log_prob(torch.ones(5, 3, dtype=torch.float64)).mean()).backward()
            optimizer.step()
    for name, value in values(prior).items():
        assert torch.equal(value, before[name]) == (name not in learn)
    assert (prior.scale > 0).all()
    assert prior.probs.sum().item() == pytest.approx(1)


def test_one_name_may_stand_alone_and_the_order_does_not_matter():
    assert mixture(learn="scale").learn == ("scale",)
    assert mixture(learn=["weights", "loc"]).learn == ("loc", "weights")
    assert GaussianMixturePrior.simplex(3, 2, learn=("loc",)).loc.requires_grad
    assert GaussianMixturePrior.scattered(5, 2, learn=("loc",)).loc.requires_grad


def test_a_prior_that_learns_finds_the_mixture_that_made_the_codes():
    truth = mixture()
    z = truth.sample(4000, generator=torch.Generator().manual_seed(0))
    start = truth.loc + 0.5 * torch.randn(4, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    prior = GaussianMixturePrior(start, 1.0, learn=LEARNABLE)
    optimizer = torch.optim.Adam(prior.parameters(), lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        (-prior.log_prob(z).mean()).backward()
        optimizer.step()
    assert prior.log_prob(z).mean() > truth.log_prob(z).mean()  # as the maximum of the likelihood is
    torch.testing.assert_close(prior.loc.detach(), truth.loc, atol=0.25, rtol=0)
    torch.testing.assert_close(prior.scale.detach(), truth.scale, atol=0.15, rtol=0)
    torch.testing.assert_close(prior.probs.detach(), truth.probs, atol=0.05, rtol=0)


def test_codes_are_differentiable_in_what_is_learned():
    prior = mixture(learn=("loc", "scale"))
    z = prior.sample_each(5, torch.Generator().manual_seed(0))
    noise = ((z - prior.loc[:, None]) / prior.scale[:, None]).detach()
    by_loc, by_log_scale = torch.autograd.grad(z.sum(), list(prior.parameters()))
    torch.testing.assert_close(by_loc, torch.full_like(by_loc, 5))
    torch.testing.assert_close(by_log_scale, noise.sum(1) * prior.scale.detach())  # scales are learned as logarithms


@pytest.mark.parametrize("name", LEARNABLE)
def test_a_parameter_that_would_not_be_trained_is_an_error(name):
    arguments = {"loc": torch.zeros(2, 3), "scale": torch.ones(2, 3), "logits": torch.zeros(2)}
    argument = "logits" if name == "weights" else name
    arguments[argument] = nn.Parameter(arguments[argument])
    with pytest.raises(ValueError, match=rf'{name} that asks for gradients.*pass learn=\("{name}",\)'):
        GaussianMixturePrior(**arguments)
    assert len(list(GaussianMixturePrior(**arguments, learn=name).parameters())) == 1


def test_the_names_that_can_be_learned_are_named():
    with pytest.raises(ValueError, match="learn must be one of 'loc', 'scale', 'weights'; got 'mean'"):
        mixture(learn=("loc", "mean"))


@pytest.mark.parametrize("learn", [(), LEARNABLE])
def test_it_is_saved_and_loaded_with_what_it_learned(learn):
    prior = GaussianMixturePrior(torch.zeros(4, 3, dtype=torch.float64), learn=learn)
    prior.load_state_dict(mixture(learn=learn).state_dict())
    for name, value in values(prior).items():
        torch.testing.assert_close(value, values(mixture())[name], rtol=1e-14, atol=0)
    assert len(list(prior.parameters())) == len(learn)
    for name, value in values(copy.deepcopy(prior).float()).items():
        torch.testing.assert_close(value, values(prior)[name].float())


def test_a_value_that_is_changed_in_place_counts_from_then_on(prior):
    z = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    prior.log_prob(z)
    prior.loc.data.mul_(2)
    prior.scale.mul_(0.5)
    fresh = GaussianMixturePrior(prior.loc, prior.scale, prior.logits)
    torch.testing.assert_close(prior.log_prob(z), fresh.log_prob(z))


# A prior of one's own.


class LaplaceMixture(Prior):
    """Laplace components: they say their means and standard deviations, and density, divergence and draws."""

    def __init__(self, loc, scale):
        super().__init__()
        self.loc = nn.Parameter(loc)
        self.register_buffer("scale", scale)
        self.register_buffer("logits", torch.full((len(loc),), 1 / len(loc), dtype=loc.dtype).log())

    @property
    def width(self):
        return self.scale / math.sqrt(2)

    def component_log_prob(self, z):
        return Independent(Laplace(self.loc, self.width), 1).log_prob(z.unsqueeze(-2))

    def component_kl(self, loc, scale):
        raise NotImplementedError

    def codes(self, noise, component):
        uniform = torch.special.ndtr(noise) - 0.5
        return self.loc[component] - self.width[component] * uniform.sign() * (1 - 2 * uniform.abs()).log()


def test_a_prior_of_ones_own_says_its_components_and_gets_the_rest():
    prior = LaplaceMixture(torch.tensor([[-3.0], [3.0]]).double(), torch.tensor([[0.5], [2.0]]).double())
    assert (prior.num_components, prior.latent_dim) == (2, 1)
    z = prior.sample(5000, generator=torch.Generator().manual_seed(0)).detach()

    def cdf(v):
        return 0.5 * stats.laplace.cdf(v, -3, 0.5 / math.sqrt(2)) + 0.5 * stats.laplace.cdf(v, 3, math.sqrt(2))

    assert stats.kstest(z[:, 0].numpy(), cdf).pvalue > 1e-3
    densities = 0.5 * stats.laplace.pdf(z, -3, 0.5 / math.sqrt(2)) + 0.5 * stats.laplace.pdf(z, 3, math.sqrt(2))
    np.testing.assert_allclose(prior.log_prob(z).exp().detach(), densities[:, 0])
    sharp = prior.log_responsibilities(torch.tensor([[-3.0], [9.0]]).double()).exp()
    assert sharp.diag().min() > 0.9


@pytest.mark.parametrize("make", [GaussianMixturePrior.simplex, GaussianMixturePrior.scattered])
def test_weights_that_are_given_are_those_of_the_mixture(make):
    shares = torch.tensor([0.7, 0.2, 0.1])
    torch.testing.assert_close(make(3, 3, logits=shares.log()).probs, shares)
    torch.testing.assert_close(make(3, 3).probs, torch.full((3,), 1 / 3))
    with pytest.raises(ValueError, match="logits"):
        make(3, 3, logits=torch.zeros(4))
