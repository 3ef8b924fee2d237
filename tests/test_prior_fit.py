"""The prior fitted to a model's codes: its moments in NumPy, and that no other mixture does better."""

import copy

import numpy as np
import oracles
import pytest
import torch
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from gmlvm import FullGaussianMixturePrior, GaussianMixturePrior, datasets, fit_prior
from gmlvm.prior_fit import COVARIANCES


@pytest.fixture
def model(double_model):
    """A model whose codes are correlated, component by component."""
    with torch.no_grad():
        double_model.continuous_encoder.weight.mul_(3)
        double_model.continuous_encoder.weight[..., 2:] /= 3
        double_model.continuous_encoder.weight[..., 1] += double_model.continuous_encoder.weight[..., 0]
        double_model.continuous_encoder.bias[:, 2:] -= 1
    return double_model


@pytest.fixture
def data():
    images = torch.randint(256, (60, 1, 4, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(4))
    return datasets.from_arrays(images, channels="first")


def posteriors(model, data):
    """q_D, means and standard deviations of q_C, by the oracles."""
    p = {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}
    x = data.train.images.numpy() / 255
    return np.exp(oracles.discrete_encoder(x, p)), *oracles.continuous_encoder(x, p)


def moments(q, loc, scale):
    """Shares, means and covariances of the components, image by image."""
    shares, means, covariances = [], [], []
    for k in range(q.shape[1]):
        weight = q[:, k] / q[:, k].sum()
        mean = sum(w * m for w, m in zip(weight, loc[:, k], strict=True))
        covariance = sum(
            w * (np.diag(s**2) + np.outer(m - mean, m - mean))
            for w, m, s in zip(weight, loc[:, k], scale[:, k], strict=True)
        )
        shares.append(q[:, k].mean()), means.append(mean), covariances.append(covariance)
    return map(np.array, (shares, means, covariances))


@pytest.mark.parametrize("batch_size", [7, 1000])
def test_it_has_the_moments_of_the_codes(model, data, batch_size):
    shares, means, covariances = moments(*posteriors(model, data))
    full = fit_prior(model, data, batch_size=batch_size)
    assert isinstance(full, FullGaussianMixturePrior)
    assert model.prior is full
    np.testing.assert_allclose(full.probs, shares, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(full.loc, means, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(full.scale_tril @ full.scale_tril.mT, covariances, rtol=1e-6, atol=1e-8)
    diagonal = fit_prior(model, data, "diagonal", batch_size=batch_size)
    assert isinstance(diagonal, GaussianMixturePrior)
    assert model.prior is diagonal
    np.testing.assert_allclose(diagonal.probs, shares, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(diagonal.loc, means, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(diagonal.scale**2, np.diagonal(covariances, axis1=1, axis2=2), rtol=1e-6, atol=1e-8)


def cross_entropy(q, loc, scale, logits, means, factor):
    """Minus the mean of E_q log p(k, z), up to q's own entropy, by torch's KL divergences."""
    components = MultivariateNormal(means, scale_tril=factor)
    codes = MultivariateNormal(loc, scale_tril=torch.diag_embed(scale))
    total = kl_divergence(codes, components) + Independent(Normal(loc, scale), 1).entropy() - logits.log_softmax(0)
    return (q * total).sum(1).mean().item()


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_no_other_mixture_of_its_kind_has_a_larger_bound(model, data, covariance):
    """Of small changes in random directions every one lowers the bound, and to second order."""
    posterior = [torch.tensor(part) for part in posteriors(model, data)]
    prior = fit_prior(model, data, covariance)
    factor = prior.scale_tril if covariance == "full" else torch.diag_embed(prior.scale)
    best = cross_entropy(*posterior, prior.logits, prior.loc, factor)
    generator = torch.Generator().manual_seed(0)
    allowed = torch.ones_like(factor).tril() if covariance == "full" else torch.eye(2).expand_as(factor)
    for _ in range(20):
        ways = [torch.randn(t.shape, generator=generator, dtype=t.dtype) for t in (prior.logits, prior.loc, factor)]
        ways[2] *= allowed
        for step in (1e-3, -1e-3):
            values = (t + step * way for t, way in zip((prior.logits, prior.loc, factor), ways, strict=True))
            worse = cross_entropy(*posterior, *values) - best
            assert 0 < worse < 1e-3
    other = cross_entropy(*posterior, prior.logits, prior.loc, torch.diag_embed(prior.scale))
    assert (other > best + 1e-6) == (covariance == "full")  # so that full covariances are worth having


def test_networks_modes_and_generators_are_left_as_they_were(small_model, small_data):
    before, state = copy.deepcopy(small_model.state_dict()), torch.get_rng_state()
    small_model.train()
    prior = fit_prior(small_model, small_data)
    assert all(module.training for name, module in small_model.named_modules() if not name.startswith("prior"))
    assert torch.equal(torch.get_rng_state(), state)
    for name, tensor in small_model.state_dict().items():
        assert name.startswith("prior") or torch.equal(tensor, before[name])
    assert prior.learn == ()
    assert list(prior.parameters()) == []
    assert prior.loc.dtype == torch.float32
    small_model.sample(3)


def test_images_may_come_in_any_form_and_of_a_data_set_the_training_split_counts(small_model, small_data):
    images = small_data.train.images
    expected = fit_prior(small_model, images)
    for data in (small_data, small_data.train, images / 255, images.numpy()):
        torch.testing.assert_close(fit_prior(small_model, data).state_dict(), expected.state_dict())
    assert not torch.equal(fit_prior(small_model, small_data.test.images).loc, expected.loc)


def test_a_prior_that_learned_is_replaced_by_one_that_stays(model, data):
    expected = fit_prior(copy.deepcopy(model), data)
    prior = model.prior
    model.prior = GaussianMixturePrior(prior.loc, prior.scale, prior.logits, learn=("loc", "scale", "weights"))
    fitted = fit_prior(model, data)
    assert torch.equal(fitted.loc, expected.loc)
    assert not any(name.startswith("prior") for name, _ in model.named_parameters())


def test_it_can_be_fitted_where_gradients_are_off_and_trained_on_afterwards(model, data):
    with torch.inference_mode():
        prior = fit_prior(model, data)
    z = prior.loc.clone().requires_grad_()
    prior.log_prob(z).sum().backward()
    assert z.grad.isfinite().all()


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_a_component_without_images_is_told(small_model, small_data, covariance):
    with torch.no_grad():
        small_model.discrete_encoder[3].bias[2] = -1e4
    prior = small_model.prior
    with pytest.raises(ValueError, match=r"every component needs images enough .* 3 dimensions; their shares .* 0, "):
        fit_prior(small_model, small_data, covariance)
    assert small_model.prior is prior


def test_bad_arguments_are_refused(small_model, small_data):
    images = small_data.train.images
    for arguments, error, message in (
        ((torch.nn.Linear(2, 2), images), TypeError, "model must be of type GMLVM, got Linear"),
        ((small_model, images, "spherical"), ValueError, "covariance must be one of 'diagonal', 'full'; got 'spheri"),
        ((small_model, iter([images])), TypeError, "must be ImageData or images, not a loader"),
        ((small_model, 5), TypeError, "data must be ImageData, images, or a loader of images, got int"),
        ((small_model, images[:, :, :5]), ValueError, r"x must have shape \(\*, 1, 6, 5\)"),
    ):
        with pytest.raises(error, match=message):
            fit_prior(*arguments)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        fit_prior(small_model, images, batch_size=0)
