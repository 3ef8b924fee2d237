"""Sliced Wasserstein and Sinkhorn divergences against linear programmes, dual iterations, and what shifts must give."""

import sys

import numpy as np
import oracles
import pytest
import slopes
import torch

from gmlvm import WAE, GaussianMixturePrior, Posterior
from gmlvm.transport import Sinkhorn, SlicedWasserstein

pytest.importorskip("ot")

ON = pytest.mark.parametrize("on", ["pairs", "codes"])
BOTH = pytest.mark.parametrize("kind", [SlicedWasserstein, Sinkhorn])
LEARNABLE = ("loc", "scale", "weights")


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def unequal_prior(**options):
    return GaussianMixturePrior(normal(0, 3, 2), (0.5 * normal(1, 3, 2)).exp(), normal(2, 3), **options)


def encoded(prior, batch=6):
    shape = (batch, prior.num_components, prior.latent_dim)
    posterior = Posterior(normal(11, *shape[:2]), prior.loc + normal(10, *shape), (0.3 * normal(12, *shape)).exp())
    return posterior, posterior.loc + posterior.scale * normal(13, *shape)


def value(divergence, prior, case=None, seed=0):
    return divergence(*(case or encoded(prior)), prior, torch.Generator().manual_seed(seed))


def matched(prior, samples, seed=0):
    """A batch whose codes are, weight by weight, the prior's own samples of this seed."""
    prior_z = prior.sample_each(samples, torch.Generator().manual_seed(seed))  # (K, M, D)
    z = prior_z.transpose(0, 1).contiguous()
    return Posterior(prior.logits.expand(samples, -1), z, torch.ones_like(z)), z


def weighted_samples(prior, on, component_distance, samples=4):
    """By hand, in NumPy: weights and places of the codes of a batch and of the prior's samples."""
    posterior, z = encoded(prior)
    prior_z = prior.sample_each(samples, torch.Generator().manual_seed(0)).numpy()  # (K, M, D)
    # The root of the mean squared distance between two codes of one component.
    unit = np.sqrt(2 * prior.latent_dim * np.square(prior.scale.numpy()).mean())
    corners = np.eye(3) * component_distance / np.sqrt(2) * (on == "pairs")
    batch, num_components, _ = z.shape
    codes = [np.append(z[i, k].numpy() / unit, corners[k]) for i in range(batch) for k in range(num_components)]
    others = [np.append(prior_z[k, m] / unit, corners[k]) for k in range(num_components) for m in range(samples)]
    weight, other_weight = posterior.probs.numpy().ravel() / batch, prior.probs.numpy().repeat(samples) / samples
    return weight, np.array(codes), other_weight, np.array(others)


# What they compute.


@ON
@pytest.mark.parametrize("component_distance", [0.5, 1.5])
def test_along_a_direction_the_sliced_distance_is_the_optimal_transport_cost(on, component_distance):
    prior = unequal_prior()
    part = SlicedWasserstein(on, projections=5, component_distance=component_distance, prior_samples=4, tolerance=0)
    weight, codes, other_weight, others = weighted_samples(prior, on, component_distance)
    # The directions are drawn after the prior's samples, and in the dimensions that are there.
    generator = torch.Generator().manual_seed(0)
    prior.sample_each(4, generator)
    dim = 5 if on == "pairs" else 2
    directions = torch.randn(dim, 5, generator=generator, dtype=torch.float64).numpy()
    directions /= np.linalg.norm(directions, axis=0)
    expected = np.mean(
        [
            oracles.transport_cost(
                weight, codes[:, :dim] @ line[:, None], other_weight, others[:, :dim] @ line[:, None]
            )
            for line in directions.T
        ]
    )
    assert value(part, prior).item() == pytest.approx(expected, rel=1e-6)


@ON
@pytest.mark.parametrize("component_distance", [0.5, 1.5])
@pytest.mark.parametrize("regularisation", [0.3, 1.0])
def test_sinkhorn_is_the_regularised_cost_less_that_within_each(on, component_distance, regularisation):
    prior = unequal_prior()
    part = Sinkhorn(
        on,
        component_distance=component_distance,
        regularisation=regularisation,
        iterations=5000,
        prior_samples=4,
        tolerance=0,
    )
    data, other = np.split(np.array(weighted_samples(prior, on, component_distance), dtype=object), 2)
    between, within, within_other = (
        oracles.sinkhorn_cost(*a, *b, regularisation) for a, b in ((data, other), (data, data), (other, other))
    )
    assert value(part, prior).item() == pytest.approx(between - within / 2 - within_other / 2, rel=1e-4)


@ON
def test_with_little_regularisation_sinkhorn_is_the_optimal_transport_cost(on):
    prior = unequal_prior()
    part = Sinkhorn(on, regularisation=0.01, iterations=50_000, prior_samples=4, tolerance=0)
    expected = oracles.transport_cost(*weighted_samples(prior, on, 1.0))
    assert value(part, prior).item() == pytest.approx(expected, rel=0.02)


@ON
@BOTH
def test_between_a_sample_and_itself_there_is_nothing(kind, on):
    prior = unequal_prior()
    assert value(kind(on, prior_samples=8), prior, matched(prior, 8)).item() == pytest.approx(0, abs=1e-6)


@ON
def test_a_shift_costs_its_squared_length(on):
    prior, shift = unequal_prior(), torch.tensor([0.6, -1.1], dtype=torch.float64)
    posterior, z = matched(prior, 8)
    unit = 4 * prior.scale.square().mean()
    expected = (shift.square().sum() / unit).item()
    sinkhorn = value(Sinkhorn(on, prior_samples=8), prior, (posterior, z + shift)).item()
    assert sinkhorn == pytest.approx(expected, rel=1e-3)
    # A direction of the 2 or, on pairs, 2 + 3 dimensions sees that share of it.
    sliced = value(SlicedWasserstein(on, prior_samples=8, projections=4000), prior, (posterior, z + shift)).item()
    assert sliced == pytest.approx(expected / (5 if on == "pairs" else 2), rel=0.1)


@BOTH
def test_they_have_no_unit(kind):
    """The same picture in other units: prior and codes three times as large."""
    prior = unequal_prior()
    posterior, z = encoded(prior)
    larger = GaussianMixturePrior(3 * prior.loc, 3 * prior.scale, prior.logits)
    for on in ("pairs", "codes"):
        expected = value(kind(on), prior, (posterior, z))
        torch.testing.assert_close(value(kind(on), larger, (posterior, 3 * z)), expected)


# Pairs.


@BOTH
def test_on_codes_they_are_blind_to_exchanged_components_and_on_pairs_not(kind):
    prior = GaussianMixturePrior.simplex(3, 2)
    posterior, z = matched(prior, 16)
    exchanged = Posterior(posterior.logits, posterior.loc.roll(1, 1), posterior.scale), z.roll(1, 1)
    assert value(kind("codes"), prior, exchanged).item() == pytest.approx(0, abs=1e-4)
    assert value(kind("pairs"), prior, exchanged).item() > 0.05


def test_mass_that_a_component_has_too_much_is_carried_at_the_documented_price():
    """Codes all at one place, all of component 0, where the prior has half its mass in each of two components there."""
    prior = GaussianMixturePrior(torch.zeros(2, 1).double(), 1.0)
    prior_z = prior.sample_each(8, torch.Generator().manual_seed(0)).transpose(0, 1)  # (M, K, D)
    # Each image is in component 0 only; its codes are those of both components.
    z = torch.cat([prior_z[:, :1], prior_z[:, 1:]]).expand(16, 2, 1)
    certain = Posterior(torch.tensor([[0.0, -60.0]]).double().expand(16, 2), z, torch.ones_like(z))
    for distance in (1.0, 2.0):
        part = Sinkhorn(component_distance=distance, regularisation=0.01, iterations=20_000, prior_samples=8)
        assert value(part, prior, (certain, z)).item() == pytest.approx(0.5 * distance**2, rel=0.02)


# Gradients.


@ON
@BOTH
def test_gradients_reach_weights_codes_and_a_prior_that_learns(kind, on, monkeypatch):
    monkeypatch.setattr(Sinkhorn, "_ERROR", 1e-12)
    # Scales set the unit, through which no gradient goes: a scale that learns is checked below.
    prior = unequal_prior(learn=("loc", "weights"))
    posterior, z = encoded(unequal_prior())
    logits, z = posterior.logits.requires_grad_(), z.requires_grad_()
    part = kind(on, prior_samples=4, tolerance=0)

    def given():
        return value(part, prior, (Posterior(logits, posterior.loc, posterior.scale), z))

    slopes.assert_gradients(given, [logits, z, *prior.parameters()], rel=1e-4)


@ON
@BOTH
def test_a_prior_that_learns_comes_nearer_to_the_codes(kind, on):
    prior = unequal_prior(learn=LEARNABLE)
    case, part = encoded(unequal_prior()), kind(on)
    optimizer, values = torch.optim.Adam(prior.parameters(), lr=0.05), []
    before = [parameter.detach().clone() for parameter in prior.parameters()]
    for _ in range(30):
        optimizer.zero_grad()
        values.append(value(part, prior, case))
        values[-1].backward()
        optimizer.step()
    assert values[-1].item() < 0.8 * values[0].item()
    for parameter, start in zip(prior.parameters(), before, strict=True):
        assert (parameter - start).abs().max() > 0.02


# On a batch.


@BOTH
def test_on_a_batch_they_are_biased_upwards_and_less_so_on_a_larger_one(kind):
    prior, means = GaussianMixturePrior.simplex(3, 2), []
    generator = torch.Generator().manual_seed(0)
    for size in (4, 32):
        values = []
        for _ in range(20):
            z = prior.sample_each(size, generator).transpose(0, 1)
            posterior = Posterior(prior.logits.expand(size, -1), z, torch.ones_like(z))
            values.append(kind(prior_samples=size)(posterior, z, prior, generator).item())
        assert min(values) > 0
        means.append(np.mean(values))
    assert means[1] < means[0] / 3


@ON
@BOTH
def test_they_repeat_with_their_generator_and_leave_the_global_ones_alone(kind, on):
    prior = unequal_prior()
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    assert torch.equal(value(kind(on), prior), value(kind(on), prior))
    assert not torch.equal(value(kind(on), prior), value(kind(on), prior, seed=1))
    assert torch.equal(torch.get_rng_state(), before)
    assert (np.random.get_state()[1] == numpy_before).all()  # noqa: NPY002


@ON
@BOTH
def test_codes_below_the_tolerance_take_no_part(kind, on):
    prior = unequal_prior()
    posterior, z = encoded(prior)
    sharp = Posterior(posterior.logits - torch.tensor([0.0, 0.0, 20.0]).double(), posterior.loc, posterior.scale)
    moved = z + torch.tensor([0.0, 0.0, 1.0]).double()[:, None]
    near, far = (value(kind(on), prior, (sharp, codes)) for codes in (z, moved))
    assert torch.equal(near, far)


@BOTH
def test_they_are_penalties_of_an_objective(kind, small_model, small_data):
    objective = WAE(10.0, kind())
    terms = objective(small_model, small_data.train.images[:20], torch.Generator().manual_seed(0))
    terms.loss.backward()
    assert terms.divergence.item() > 0
    for name in ("discrete_encoder", "continuous_encoder"):
        network = getattr(small_model, name)
        assert max(parameter.grad.abs().max() for parameter in network.parameters()) > 0


# What they refuse.


@BOTH
def test_without_the_library_the_error_says_what_to_install(kind, monkeypatch):
    monkeypatch.setitem(sys.modules, "ot", None)
    with pytest.raises(ImportError, match="pip install POT"):
        kind()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"on": "both"}, ValueError, "on must be one of 'pairs', 'codes'; got 'both'"),
        ({"component_distance": 0.0}, ValueError, r"component_distance must be .* in \(0, inf\], got 0"),
        ({"prior_samples": 0}, ValueError, "prior_samples must be at least 1, got 0"),
        ({"tolerance": 0.6}, ValueError, r"tolerance must be .* in \[0, 0.5\], got 0.6"),
    ],
)
@BOTH
def test_settings_out_of_range_are_named(kind, options, error, message):
    with pytest.raises(error, match=message):
        kind(**options)


def test_settings_of_one_kind_are_checked_too():
    with pytest.raises(ValueError, match="projections must be at least 1, got 0"):
        SlicedWasserstein(projections=0)
    with pytest.raises(ValueError, match=r"regularisation must be .* in \(0, inf\], got 0"):
        Sinkhorn(regularisation=0.0)
    with pytest.raises(TypeError, match=r"iterations must be an integer, got 10\.0"):
        Sinkhorn(iterations=10.0)


def test_too_few_iterations_are_not_silent():
    with pytest.warns(UserWarning, match="did not converge"):
        value(Sinkhorn(regularisation=0.01, iterations=3), unequal_prior())
