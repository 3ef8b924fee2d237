"""The squared MMD without samples, against the mean of samples and where it must vanish."""

import memory
import numpy as np
import pytest
import slopes
import torch

from gmlvm import GaussianMixturePrior, pieces
from gmlvm.closed_form import data_data, data_prior, prior_prior
from gmlvm.kernels import Gaussian, InverseMultiquadratic
from gmlvm.mmd import squared_mmd

ON = pytest.mark.parametrize("on", ["pairs", "codes"])
KERNELS = pytest.mark.parametrize("kernel", [None, Gaussian([0.8, 2.0, 5.0])], ids=["multiquadratic", "Gaussian"])


def posterior_and_prior(batch=5, **options):
    """Posteriors of some images and a prior, K = 3 and D = 2, in float64."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    prior = GaussianMixturePrior(2 * normal(3, 2), normal(3, 2).exp(), normal(3), **options)
    probs, loc = normal(batch, 3).softmax(1), 2 * normal(batch, 3, 2)
    return probs, loc, (0.5 * normal(batch, 3, 2)).exp(), prior


@pytest.fixture
def case():
    *posterior, prior = posterior_and_prior()
    return *posterior, prior, InverseMultiquadratic.for_prior(prior)


def closed_mmd(probs, loc, scale, prior, kernel, on):
    return (
        data_data(probs, loc, scale, kernel, on)
        - 2 * data_prior(probs, loc, scale, prior, kernel, on)
        + prior_prior(prior, kernel, on)
    )


@ON
@KERNELS
def test_it_is_the_mean_of_the_sampled_estimate(case, on, kernel):
    probs, loc, scale, prior, default = case
    kernel = kernel or default
    generator = torch.Generator().manual_seed(1)
    sampled = []
    for _ in range(4000):
        z = loc + scale * torch.randn(loc.shape, generator=generator, dtype=torch.float64)
        prior_z = prior.sample_each(8, generator)
        sampled.append(squared_mmd(probs, z, prior.probs, prior_z, kernel, on).item())
    got = closed_mmd(probs, loc, scale, prior, kernel, on).item()
    assert abs(got - np.mean(sampled)) <= 4 * np.std(sampled) / len(sampled) ** 0.5


@ON
def test_a_posterior_equal_to_the_prior_has_none(case, on):
    *_, prior, kernel = case
    probs, loc, scale = (t.expand(4, *t.shape) for t in (prior.probs, prior.loc, prior.scale))
    assert closed_mmd(probs, loc, scale, prior, kernel, on).item() == pytest.approx(0, abs=1e-12)


@ON
def test_gradients(case, on):
    probs, loc, scale, prior, kernel = case
    inputs = tuple(t.clone().requires_grad_() for t in (probs, loc, scale))
    assert torch.autograd.gradcheck(lambda *a: closed_mmd(*a, prior, kernel, on), inputs)


@ON
@KERNELS
def test_a_prior_that_learns_gets_right_gradients(case, on, kernel):
    *posterior, prior = posterior_and_prior(learn=("loc", "scale", "weights"))
    kernel = kernel or case[-1]
    slopes.assert_gradients(lambda: closed_mmd(*posterior, prior, kernel, on), prior.parameters())


@ON
def test_codes_that_are_not_kept_take_no_part(case, on):
    probs, loc, scale, prior, kernel = case
    kept = torch.rand(5, 3, generator=torch.Generator().manual_seed(2)) > 0.4
    assert 2 < kept.sum() < 15
    weight = probs * kept
    for part, extra in ((data_data, ()), (data_prior, (prior,))):
        every = part(weight, loc, scale, *extra, kernel, on)
        some = part(weight, loc.masked_fill(~kept[..., None], 9), scale, *extra, kernel, on, kept)
        torch.testing.assert_close(some, every, rtol=1e-12, atol=0)


@ON
@pytest.mark.parametrize("some", [False, True])
def test_in_pieces_it_has_the_same_value_and_gradients(on, some, monkeypatch):
    probs, loc, scale, prior = posterior_and_prior(batch=6, learn=("loc", "scale", "weights"))
    kernel = InverseMultiquadratic.for_prior(prior)
    inputs = [tensor.requires_grad_() for tensor in (probs, loc, scale)] + list(prior.parameters())
    kept = torch.rand(6, 3, generator=torch.Generator().manual_seed(2)) > 0.4 if some else None
    parts = (
        lambda: data_data(probs, loc, scale, kernel, on, kept),
        lambda: data_prior(probs, loc, scale, prior, kernel, on, kept),
        lambda: prior_prior(prior, kernel, on, nodes=20),
    )
    for part in parts:
        results = []
        for piece in (2**21, 50):
            monkeypatch.setattr(pieces, "_CPU", piece)
            value = part()
            results.append((value, torch.autograd.grad(value, inputs, materialize_grads=True)))
        torch.testing.assert_close(*results, rtol=1e-10, atol=1e-14)


def test_a_batch_on_codes_takes_little_memory():
    """640 codes have 200,000 pairs, each with a quadrature over nine dimensions: at once they take 1.5 gigabytes."""
    preparation = """
from gmlvm.closed_form import data_data
from gmlvm.kernels import InverseMultiquadratic
probs = torch.rand(64, 10).softmax(1).requires_grad_()
loc = torch.randn(64, 10, 9).requires_grad_()
scale = torch.rand(64, 10, 9).requires_grad_()
kernel = InverseMultiquadratic([1.0, 3.0, 10.0, 30.0, 100.0])
"""
    computation = "data_data(probs, loc, scale, kernel, 'codes').backward()"
    assert memory.peak_megabytes(preparation, computation) < 500


@pytest.mark.parametrize(
    ("num_components", "computation"),
    [
        (300, "data_prior(probs, loc, scale, prior, kernel, 'codes').backward()"),
        (1000, "prior_prior(prior, kernel, 'codes')"),
    ],
)
def test_many_components_take_little_memory(num_components, computation):
    """2,100 codes with 300 components, or 1,000 with each other: 600,000 and a million quadratures."""
    preparation = f"""
from gmlvm import GaussianMixturePrior
from gmlvm.closed_form import data_prior, prior_prior
from gmlvm.kernels import InverseMultiquadratic
prior = GaussianMixturePrior(torch.randn({num_components}, 9))
probs = torch.rand(7, 300).softmax(1).requires_grad_()
loc = torch.randn(7, 300, 9).requires_grad_()
scale = torch.rand(7, 300, 9).requires_grad_()
kernel = InverseMultiquadratic([1.0, 3.0, 10.0, 30.0, 100.0])
"""
    assert memory.peak_megabytes(preparation, computation) < 500


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
    with pytest.raises(ValueError, match="one of 'pairs', 'codes'; got 'both'"):
        prior_prior(prior, kernel, "both")
    with pytest.raises(ValueError, match="nodes must be at least 1, got 0"):
        prior_prior(prior, kernel, nodes=0)
