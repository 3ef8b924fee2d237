"""The MMD as a part of an objective: its settings, what it keeps of a prior, what it leaves out, what it trains."""

import copy

import numpy as np
import oracles
import pytest
import slopes
import torch
from torch import nn

from gmlvm import MMD, GaussianMixturePrior, Posterior, Prior
from gmlvm.divergences import ESTIMATORS
from gmlvm.enumeration import truncate
from gmlvm.kernels import Gaussian, InverseMultiquadratic, Kernel
from gmlvm.mmd import squared_mmd

ON = pytest.mark.parametrize("on", ["pairs", "codes"])
EVERY = pytest.mark.parametrize("estimator", ESTIMATORS)
LEARNABLE = ("loc", "scale", "weights")
KERNEL = InverseMultiquadratic((2.0, 9.0))


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def unequal_prior(num_components=3, latent_dim=2, seed=0, **options):
    """A prior with unequal means, scales and weights, in float64."""
    loc, scale = 2 * normal(seed, num_components, latent_dim), normal(seed + 1, num_components, latent_dim).exp()
    return GaussianMixturePrior(loc, scale, normal(seed + 2, num_components), **options)


def encoded(prior, batch=6, sharpness=1.0):
    """A posterior that is somewhere near the prior, and one code for each image and component."""
    shape = (batch, prior.num_components, prior.latent_dim)
    loc = (prior.loc + normal(10, *shape)).detach()
    posterior = Posterior(sharpness * normal(11, *shape[:2]), loc, (0.3 * normal(12, *shape)).exp())
    return posterior, posterior.loc + posterior.scale * normal(13, *shape)


def value(divergence, prior, case=None, seed=0):
    return divergence(*(case or encoded(prior)), prior, torch.Generator().manual_seed(seed))


# What it computes.


@ON
@pytest.mark.parametrize("bandwidths", [None, (0.3, 4.0)])
def test_it_agrees_with_the_brute_force_double_sum_in_units_of_the_prior(on, bandwidths):
    prior = unequal_prior()
    posterior, z = encoded(prior)
    got = value(MMD(on, bandwidths=bandwidths, prior_samples=4, tolerance=0), prior)
    prior_z = prior.sample_each(4, torch.Generator().manual_seed(0))
    # 2 D times the mean variance: that between two codes of one component, drawn at random.
    unit = 4 * np.square(prior.scale.numpy()).mean()
    constants = [unit * bandwidth for bandwidth in bandwidths or (0.8, 2.4, 8.0, 24.0, 80.0)]
    own = oracles.prior_part(prior.probs.numpy(), prior.loc.numpy(), prior.scale.numpy(), constants, on == "pairs")
    arrays = (tensor.numpy() for tensor in (posterior.probs, z, prior.probs, prior_z))
    expected = oracles.squared_mmd(*arrays, constants, on == "pairs", own)
    assert got.item() == pytest.approx(expected, rel=1e-4)


@ON
def test_all_estimators_have_one_mean(on):
    prior = unequal_prior()
    posterior, _ = encoded(prior)
    generator, seen = torch.Generator().manual_seed(0), {"sampled": [], "half-closed": []}
    parts = {name: MMD(on, estimator=name) for name in seen}
    for _ in range(1500):
        z = posterior.sample(generator)
        for name, part in parts.items():
            seen[name].append(part(posterior, z, prior, generator).item())
    closed = value(MMD(on, estimator="closed"), prior).item()
    for values in seen.values():
        assert abs(np.mean(values) - closed) < 4 * np.std(values) / 1500**0.5


@ON
def test_in_closed_form_a_posterior_equal_to_the_prior_has_none(on):
    prior = unequal_prior()
    logits, loc, scale = (part.expand(4, *part.shape) for part in (prior.logits, prior.loc, prior.scale))
    assert value(MMD(on, estimator="closed"), prior, (Posterior(logits, loc, scale), loc)).item() == pytest.approx(
        0, abs=1e-4
    )
    wider = Posterior(logits, loc, 3 * scale)
    assert value(MMD(on, estimator="closed"), prior, (wider, loc)).item() > 0.01


@ON
def test_a_kernel_of_ones_own_is_a_function(on):
    prior = unequal_prior()
    by_hand = value(MMD(on, kernel=lambda squared: 2 / (2 + squared) + 9 / (9 + squared)), prior)
    # What has no closed form is estimated, the prior's own part too.
    posterior, z = encoded(prior)
    prior_z = prior.sample_each(16, torch.Generator().manual_seed(0))
    expected = squared_mmd(posterior.probs, z, prior.probs, prior_z, KERNEL, on)
    torch.testing.assert_close(by_hand, expected, rtol=1e-10, atol=0)


@EVERY
def test_it_repeats_with_its_generator_and_leaves_the_global_one_alone(estimator):
    prior, part, before = unequal_prior(), MMD(estimator=estimator), torch.get_rng_state()
    assert torch.equal(value(part, prior), value(part, prior))
    assert torch.equal(value(part, prior), value(part, prior, seed=1)) == (estimator != "sampled")
    assert torch.equal(torch.get_rng_state(), before)


def test_it_is_computed_in_full_precision_under_autocast():
    prior = unequal_prior().float()
    posterior, z = encoded(unequal_prior())
    case = Posterior(*(t.float() for t in (posterior.logits, posterior.loc, posterior.scale))), z.float()
    exact = value(MMD(), prior, case)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(value(MMD(), prior, case), exact)


# A prior that changes.


def doubled_by_data(prior):
    prior.loc.data.mul_(2)


def halved_in_place(prior):
    prior.scale.mul_(0.5)


def other_weights(prior):
    prior.logits.copy_(normal(7, 3).log_softmax(0))


def loaded(prior):
    prior.load_state_dict(unequal_prior(seed=5).state_dict())


@ON
@EVERY
@pytest.mark.parametrize("change", [doubled_by_data, halved_in_place, other_weights, loaded])
def test_a_prior_changed_in_place_counts_from_then_on(on, estimator, change):
    prior, part = unequal_prior(), MMD(on, estimator=estimator)
    case = encoded(prior)
    before = value(part, prior, case)
    change(prior)
    fresh = value(MMD(on, estimator=estimator), copy.deepcopy(prior), case)
    after = value(part, prior, case)
    assert torch.equal(after, fresh)
    assert not torch.equal(after, before)


def test_one_part_serves_several_priors_in_turn():
    part, one = MMD(), GaussianMixturePrior(torch.zeros(1, 2))  # alike in both precisions
    for prior in [unequal_prior(), unequal_prior(seed=5), one, copy.deepcopy(one).double()] * 2:
        posterior, z = encoded(prior)
        case = (
            Posterior(*(t.to(prior.loc) for t in (posterior.logits, posterior.loc, posterior.scale))),
            z.to(prior.loc),
        )
        assert torch.equal(value(part, prior, case), value(MMD(), prior, case))


def test_settings_that_are_changed_count_from_then_on():
    part, prior = MMD(), unequal_prior()
    value(part, prior)
    part.on = "codes"
    assert torch.equal(value(part, prior), value(MMD("codes"), prior))
    part.kernel = KERNEL
    assert torch.equal(value(part, prior), value(MMD("codes", kernel=KERNEL), prior))
    part.kernel, part.bandwidths = None, (1.0,)
    assert torch.equal(value(part, prior), value(MMD("codes", bandwidths=(1.0,)), prior))


@ON
@pytest.mark.parametrize(
    ("kernel", "estimator"),
    [(kernel, estimator) for kernel in (KERNEL, Gaussian((1.0, 3.0))) for estimator in ESTIMATORS]
    + [(lambda squared: 1 / (1 + squared), "sampled")],  # a function has no closed form
)
def test_a_prior_that_learns_gets_the_whole_gradient(on, kernel, estimator):
    prior = unequal_prior(learn=LEARNABLE)
    case, part = encoded(prior), MMD(on, kernel=kernel, estimator=estimator)
    slopes.assert_gradients(lambda: value(part, prior, case), prior.parameters())


@EVERY
def test_with_the_default_kernel_means_and_weights_get_the_whole_gradient_too(estimator):
    prior = unequal_prior(learn=("loc", "weights"))  # scales would change its unit
    case, part = encoded(prior), MMD(estimator=estimator)
    slopes.assert_gradients(lambda: value(part, prior, case), prior.parameters())


@ON
@EVERY
def test_a_prior_learns_step_after_step(on, estimator):
    prior = unequal_prior(learn=LEARNABLE)
    case, part = encoded(prior), MMD(on, estimator=estimator, kernel=KERNEL)
    optimizer = torch.optim.Adam(prior.parameters(), lr=0.02)
    first = value(part, prior, case).item()
    for _ in range(20):
        optimizer.zero_grad()
        value(part, prior, case).backward()
        optimizer.step()
    assert value(part, prior, case).item() < first - 1e-3


def test_a_prior_that_learns_is_evaluated_with_the_values_it_has():
    prior, part = unequal_prior(learn=LEARNABLE), MMD()
    frozen = GaussianMixturePrior(prior.loc.detach(), prior.scale.detach(), prior.logits.detach())
    with torch.no_grad():
        torch.testing.assert_close(value(part, prior), value(MMD(), frozen), rtol=1e-4, atol=0)
        prior.loc.mul_(2)
        frozen.loc.mul_(2)
        torch.testing.assert_close(value(part, prior), value(MMD(), frozen), rtol=1e-4, atol=0)


def test_a_mean_that_is_a_parameter_in_a_subclass_gets_the_whole_gradient():
    class Trained(GaussianMixturePrior):
        def __init__(self, prior):
            super().__init__(prior.loc, prior.scale, prior.logits)
            del self.loc
            self.loc = nn.Parameter(prior.loc.clone())

    prior = Trained(unequal_prior())
    case, part = encoded(prior), MMD("codes", kernel=KERNEL)
    for _ in range(2):
        slopes.assert_gradients(lambda: value(part, prior, case), prior.parameters())


# A kernel that changes.


class Learned(nn.Module, Kernel):
    """A Gaussian kernel with a width that is trained."""

    def __init__(self):
        super().__init__()
        self.log_width = nn.Parameter(torch.tensor(0.3, dtype=torch.float64))

    def forward(self, squared_distance):
        return (-squared_distance / (2 * self.log_width.exp() ** 2)).exp()

    def expected(self, difference, variance, nodes=8):
        wider = 1 + variance / self.log_width.exp() ** 2
        return (wider.rsqrt() * (-difference.square() / (2 * wider * self.log_width.exp() ** 2)).exp()).prod(-1)


@ON
@EVERY
def test_a_kernel_that_learns_is_trained_step_after_step(on, estimator):
    prior, part = unequal_prior(), MMD(on, kernel=Learned(), estimator=estimator)
    assert [name for name, _ in part.named_parameters()] == ["kernel.log_width"]
    for _ in range(2):
        slopes.assert_gradients(lambda: value(part, prior), part.parameters())
        part.kernel.log_width.data.add_(0.5)


def test_a_constant_that_is_changed_in_place_counts_from_then_on():
    constant, prior = torch.tensor(2.0, dtype=torch.float64), unequal_prior()
    part = MMD(kernel=InverseMultiquadratic([constant]))
    before = value(part, prior)
    constant.mul_(3)
    torch.testing.assert_close(
        value(part, prior), value(MMD(kernel=InverseMultiquadratic([6.0])), prior), rtol=1e-4, atol=0
    )
    assert not torch.equal(value(part, prior), before)


# What is left out.


def gradient(part, prior, posterior, noise):
    logits, loc, scale = (t.clone().requires_grad_() for t in (posterior.logits, posterior.loc, posterior.scale))
    value(part, prior, (Posterior(logits, loc, scale), loc + scale * noise)).backward()
    return logits.grad, loc.grad, scale.grad


@pytest.mark.parametrize("num_components", [10, 100, 1000, 3000])
@pytest.mark.parametrize("sharpness", [1.0, 3.0, 5.0, 8.0])
def test_the_gradient_is_as_exact_as_the_tolerance_for_every_number_of_components(num_components, sharpness):
    prior = unequal_prior(num_components, 3)
    posterior, z = encoded(prior, sharpness=sharpness)
    noise = (z - posterior.loc) / posterior.scale
    exact, truncated = (gradient(MMD(tolerance=t), prior, posterior, noise) for t in (0, 1e-3))
    for a, b in zip(exact, truncated, strict=True):
        assert (a - b).norm() < 2e-3 * a.norm()


def test_no_image_loses_more_than_the_tolerance():
    for num_components in (10, 1000):
        posterior, _ = encoded(unequal_prior(num_components), batch=50, sharpness=4.0)
        _, kept = truncate(posterior.log_probs, 1e-3 / num_components)
        lost = (posterior.probs * ~kept).sum(1)
        assert 0 < lost.max() <= 1e-3


@ON
def test_codes_below_the_tolerance_take_no_part(on):
    prior = unequal_prior()
    posterior, z = encoded(prior)
    sharp = Posterior(posterior.logits - torch.tensor([0.0, 0.0, 20.0]).double(), posterior.loc, posterior.scale)
    moved = z + 5 * torch.tensor([0.0, 0.0, 1.0]).double()[:, None]
    near, far = (value(MMD(on), prior, (sharp, codes)) for codes in (z, moved))
    assert torch.equal(near, far)
    near, far = (value(MMD(on, tolerance=0), prior, (sharp, codes)) for codes in (z, moved))
    assert not torch.equal(near, far)


# What it refuses.


class Uniform(Prior):
    """Uniform boxes: no Gaussians."""

    def __init__(self):
        super().__init__()
        for name, tensor in (("loc", normal(0, 3, 2)), ("scale", torch.ones(3, 2).double()), ("logits", normal(1, 3))):
            self.register_buffer(name, tensor)
        self.logits = self.logits.log_softmax(0)

    def component_log_prob(self, z):
        raise NotImplementedError

    def component_kl(self, loc, scale):
        raise NotImplementedError

    def codes(self, noise, component):
        return self.loc[component] + self.scale[component] * 12**0.5 * (torch.special.ndtr(noise) - 0.5)


@ON
def test_a_prior_without_gaussians_is_compared_by_samples_alone(on):
    prior = Uniform()
    posterior, z = encoded(prior)
    got = value(MMD(on, kernel=KERNEL), prior)
    prior_z = prior.sample_each(16, torch.Generator().manual_seed(0))
    expected = squared_mmd(posterior.probs, z, prior.probs, prior_z, KERNEL, on)
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=0)
    for estimator in ("half-closed", "closed"):
        with pytest.raises(TypeError, match="prior, for closed forms, must be of type GaussianMixturePrior"):
            value(MMD(on, estimator=estimator), prior)


def test_settings_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="either a kernel or the bandwidths of the default one"):
        MMD(kernel=KERNEL, bandwidths=(1.0,))
    with pytest.raises(TypeError, match=r"kernel must be a function of squared distances, got 2\.0"):
        MMD(kernel=2.0)
    for estimator in ("half-closed", "closed"):
        with pytest.raises(ValueError, match=f"'{estimator}' needs a kernel with a closed form over Gaussians"):
            MMD(kernel=lambda squared: (-squared).exp(), estimator=estimator)


@EVERY
def test_it_can_be_copied_and_shows_its_settings(estimator):
    part = MMD("codes", bandwidths=(1.0,), estimator=estimator, prior_samples=8, tolerance=0.01)
    prior = unequal_prior()
    expected = value(part, prior)
    assert torch.equal(value(copy.deepcopy(part), prior), expected)
    for shown in ("'codes'", "bandwidths=(1.0,)", repr(estimator), "prior_samples=8", "tolerance=0.01"):
        assert shown in repr(part)
