"""The marginal likelihood: against what is known, integrated, or must hold."""

import copy
import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import nn

from experiments import likelihoods
from gmlvm import GMLVM, GaussianMixturePrior
from gmlvm.batches import Batch
from gmlvm.likelihood import bernoulli, log_likelihood

SHAPE = (1, 2, 2)


class Encoder(nn.Module):
    """The same posterior for all images, with every component as it is given."""

    def __init__(self, loc, scale):
        super().__init__()
        self.loc, self.scale = nn.Parameter(loc), nn.Parameter(scale)

    def forward(self, x):
        shape = (len(x), *self.loc.shape)
        return self.loc.expand(shape), self.scale.expand(shape)


class Linear(nn.Module):
    """Logits W z + b."""

    def __init__(self, weight, bias):
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)

    def forward(self, z):
        return (z @ self.weight.T + self.bias).unflatten(1, SHAPE)


class Logits(nn.Module):
    """The same q_D for all images."""

    def __init__(self, probs):
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(probs, dtype=torch.float64).log())

    def forward(self, x):
        return self.logits.expand(len(x), -1)


def new_model(latent_dim, probs=(0.2, 0.5, 0.3), seed=0, spread=1.0):
    """Three components in float64; q_C is the prior, wider by a factor."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(shape, generator=generator, dtype=torch.float64)  # noqa: E731
    prior = GaussianMixturePrior(
        draw(3, latent_dim), draw(3, latent_dim).abs() + 0.3, torch.tensor([0.1, 0.9, -0.4]).double()
    )
    encoder = Encoder(prior.loc.clone(), spread * prior.scale.clone())
    return GMLVM(prior, Logits(probs), encoder, Linear(draw(4, latent_dim), draw(4)), SHAPE)


@pytest.fixture
def images():
    return torch.tensor([[0, 1, 1, 0], [1, 1, 0, 1], [0, 0, 0, 0]], dtype=torch.float64).reshape(3, *SHAPE)


def test_in_one_dimension_it_is_the_integral(images):
    model = new_model(1)
    found = log_likelihood(model, images, samples=20_000)
    prior = model.prior
    for x, value in zip(images, found, strict=True):

        def density(z, x=x):
            code = torch.tensor([[z]], dtype=torch.float64)
            with torch.no_grad():
                return math.exp(prior.log_prob(code).item() + bernoulli(model.decoder_logits(code), x[None]).item())

        exact, _ = integrate.quad(density, -15, 15, limit=200)
        assert value == pytest.approx(math.log(exact), abs=0.02)


@pytest.mark.parametrize("spread", [1.0, 1.7])
def test_of_a_linear_gaussian_mixture_it_is_known(images, spread):
    """x = W z + b + noise: a mixture of Gaussians, whatever q_C is."""
    model, noise = new_model(2, spread=spread), 0.6

    def gaussian(logits, x):
        return torch.distributions.Normal(logits, noise).log_prob(x).flatten(1).sum(1)

    found = log_likelihood(model, images, samples=40_000, observation=gaussian)
    weight, bias = (p.detach().numpy() for p in (model.decoder.weight, model.decoder.bias))
    expected = np.zeros(len(images))
    for p, loc, scale in zip(model.prior.probs, model.prior.loc.numpy(), model.prior.scale.numpy(), strict=True):
        covariance = weight @ np.diag(scale**2) @ weight.T + noise**2 * np.eye(4)
        density = stats.multivariate_normal(weight @ loc + bias, covariance)
        expected += p.item() * density.pdf(images.flatten(1).numpy())
    np.testing.assert_allclose(found, np.log(expected), atol=0.05)


def test_with_the_true_posterior_one_sample_is_exact(images):
    """A decoder that does not look at z: the posterior is the prior, and nothing is left to chance."""
    model = new_model(3)
    with torch.no_grad():
        model.decoder.weight.zero_()
    exact = bernoulli(model.decoder_logits(torch.zeros(3, 3, dtype=torch.float64)), images).detach()
    np.testing.assert_allclose(log_likelihood(model, images, samples=1), exact, rtol=1e-9)


def test_q_d_takes_no_part_and_what_is_left_out_lowers_it(images):
    one, other = (new_model(2, probs) for probs in ((0.2, 0.5, 0.3), (0.001, 0.009, 0.99)))
    np.testing.assert_allclose(log_likelihood(one, images, 50), log_likelihood(other, images, 50), rtol=1e-12)
    np.testing.assert_array_equal(log_likelihood(one, images, 50, tolerance=0.1), log_likelihood(one, images, 50))
    fewer = log_likelihood(other, images, 4000, tolerance=0.1)
    assert (fewer < log_likelihood(other, images, 4000)).all()
    # All but the largest are left out: a mixture of one.
    expected = GMLVM(
        GaussianMixturePrior(other.prior.loc[2:], other.prior.scale[2:]), Logits([1.0]),
        Encoder(other.prior.loc[2:].clone(), other.prior.scale[2:].clone()), other.decoder, SHAPE,
    )  # fmt: skip
    alone = log_likelihood(expected, images, 4000) + other.prior.logits[2].item()
    np.testing.assert_allclose(fewer, alone, atol=0.05)


def test_more_samples_raise_it_on_average(images):
    model = new_model(2, spread=0.5)
    few, many = (
        np.mean([log_likelihood(model, images, samples, seed=seed) for seed in range(200)], 0) for samples in (1, 20)
    )
    assert (many > few).all()


def test_batches_and_the_seed(images):
    model = new_model(2)
    whole = log_likelihood(model, images, 2000)
    np.testing.assert_array_equal(whole, log_likelihood(model, images, 2000))
    parts = log_likelihood(model, images, 2000, codes_at_once=1, seed=1)
    assert (parts != whole).all()
    np.testing.assert_allclose(parts, whole, atol=0.2)
    assert whole.dtype == np.float64
    assert whole.shape == (3,)
    with pytest.raises(ValueError, match=r"images must have shape \(N, C, H, W\), N at least 1, got \(0, 1, 2, 2\)"):
        log_likelihood(model, images[:0])
    assert log_likelihood(model, (255 * images).byte(), 10).tolist() == log_likelihood(model, images, 10).tolist()


def test_it_is_measured_in_evaluation_mode_and_leaves_no_trace(images):
    model = new_model(2)
    model.decoder = nn.Sequential(model.decoder, nn.Dropout(0.9))
    model.train()
    before = torch.get_rng_state()
    first = log_likelihood(model, images, 20)
    assert model.training
    assert torch.equal(torch.get_rng_state(), before)
    model.eval()
    np.testing.assert_array_equal(log_likelihood(model, images, 20), first)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"samples": 0}, ValueError, "samples must be at least 1, got 0"),
        ({"tolerance": -0.1}, ValueError, "tolerance must be .* got -0.1"),
        ({"tolerance": 1.0}, ValueError, "tolerance must be below 1, .* got 1.0"),
        ({"codes_at_once": 0}, ValueError, "codes_at_once must be at least 1, got 0"),
        ({"seed": -1}, ValueError, "seed must be"),
    ],
)
def test_settings_out_of_range_are_refused(images, settings, error, message):
    with pytest.raises(error, match=message):
        log_likelihood(new_model(2), images, **settings)


def test_grey_images_have_no_bernoulli_likelihood(images):
    with pytest.raises(ValueError, match=r"images must be black and white, 0 or 1, .* binarise them first"):
        log_likelihood(new_model(2), images / 2)


@pytest.mark.parametrize(
    "given", [lambda x: x.bool().numpy(), lambda x: (255 * x).byte().numpy()[:, 0], lambda x: x.tolist()]
)
def test_images_may_come_in_any_form(images, given):
    model = new_model(2)
    np.testing.assert_array_equal(log_likelihood(model, given(images), 5), log_likelihood(model, images, 5))


def test_only_a_model_with_a_decoder_has_one(images):
    with pytest.raises(TypeError, match="model must be of type GMLVM"):
        log_likelihood(nn.Identity(), images)


# The experiment


def test_images_are_binarised_with_their_grey_levels(small_data):
    static = likelihoods.binarised(small_data)
    for split, grey in ((static.train, small_data.train), (static.test, small_data.test)):
        assert set(split.images.unique().tolist()) == {0, 255}
        assert split.images.double().mean() == pytest.approx(grey.images.double().mean().item(), rel=0.05)
        assert torch.equal(split.labels, grey.labels)
    assert torch.equal(static.train.images, likelihoods.binarised(small_data).train.images)


def test_a_dynamic_binarisation_is_another_in_every_step(small_model, small_data):
    batch, seen = Batch(small_data.train.images[:50]), []
    posterior = small_model.posterior_of_pixels
    small_model.posterior_of_pixels = lambda x: (seen.append(x), posterior(x))[1]
    objective, generator = likelihoods.Binarised(), torch.Generator().manual_seed(0)
    for _ in range(400):
        objective(small_model, batch, generator)
    assert set(seen[0].unique().tolist()) == {0, 1}
    assert not torch.equal(seen[0], seen[1])
    torch.testing.assert_close(torch.stack(seen).mean(0), small_model.pixels(batch.images), atol=0.13, rtol=0)


def test_every_model_has_its_likelihood(small_data, monkeypatch):
    monkeypatch.setattr(likelihoods.datasets, "mnist", lambda: small_data)
    sizes = {"num_components": 4, "latent_dim": 3, "steps": 20, "wae_steps": 2, "samples": 20, "test_images": 40}
    for name, value in sizes.items():
        monkeypatch.setitem(likelihoods.SETTINGS, name, value)
    started = GMLVM.for_images(small_data.image_shape, 4, 3, networks="deep", seed=9).requires_grad_(False)
    monkeypatch.setattr(likelihoods, "pretrained", lambda _: copy.deepcopy(started))
    found = {
        (kind, how): likelihoods.run(kind, how)(0)
        for kind in likelihoods.SETTINGS["kinds"]
        for how in likelihoods.SETTINGS["binarisations"]
    }
    values = [figures["log_likelihood"] for figures in found.values()]
    assert len(set(values)) == len(found)
    assert all(-30 < value < 0 for value in values)  # 30 pixels, of one bit at most
    for figures in found.values():
        assert figures["log_likelihood"] > figures["with_a_tenth_of_the_samples"] - 0.5
        assert np.mean(figures["of_images"]) == pytest.approx(figures["log_likelihood"], abs=0.005)
        assert len(figures["of_images"]) == sizes["test_images"]
