"""The objectives against independent NumPy computations, in float64."""

import numpy as np
import oracles
import pytest
import torch
from torch.func import functional_call

from gmlvm import VAE, WAE
from gmlvm.divergences import InverseMultiquadratic
from gmlvm.expectations import Dense, Truncated


@pytest.fixture
def x():
    return torch.rand(5, 1, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(9))


def parameters(model):
    return {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}


def noise(model, count, seed=0):
    """The noise that ``Posterior.sample`` draws first from a generator of this seed."""
    shape = (count, model.num_components, model.latent_dim)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).numpy()


@pytest.mark.parametrize("beta", [1.0, 0.3, 10.0])
def test_elbo_agrees_with_an_independent_computation(double_model, x, beta):
    terms = VAE(beta=beta)(double_model, x, torch.Generator().manual_seed(0))
    expected = oracles.negative_elbo(x.numpy(), noise(double_model, len(x)), parameters(double_model), beta)
    np.testing.assert_allclose([term.item() for term in terms], expected, rtol=1e-10)


@pytest.mark.parametrize("divergence", ["joint", "marginal"])
def test_wae_agrees_with_an_independent_computation(double_model, x, divergence):
    objective = WAE(30.0, divergence=divergence, reconstruction_weight=0.7, expectation=Dense(), prior_samples=4)
    terms = objective(double_model, x, torch.Generator().manual_seed(0))
    p = parameters(double_model)
    eps = noise(double_model, len(x))
    error = oracles.expected_squared_error(x.numpy(), eps, p)
    # The prior's noise follows the posterior's in the same stream.
    generator = torch.Generator().manual_seed(0)
    torch.randn(5, 3, 2, generator=generator, dtype=torch.float64)
    prior_noise = torch.randn(12, 2, generator=generator, dtype=torch.float64).numpy().reshape(3, 4, 2)
    prior_z = p["prior.loc"][:, None] + p["prior.scale"][:, None] * prior_noise
    loc, scale = oracles.continuous_encoder(x.numpy(), p)
    constants = InverseMultiquadratic.for_prior(double_model.prior, objective.factors).constants
    mmd = oracles.squared_mmd(
        np.exp(oracles.discrete_encoder(x.numpy(), p)),
        loc + scale * eps,
        np.exp(p["prior.logits"]),
        prior_z,
        constants,
        joint=divergence == "joint",
    )
    np.testing.assert_allclose([t.item() for t in terms], [0.7 * error + 30 * mmd, error, mmd, 0], rtol=1e-9)


@pytest.mark.parametrize("divergence", ["joint", "marginal"])
@pytest.mark.parametrize("estimator", ["sampled", "half-closed"])
def test_every_estimator_has_the_closed_forms_mean(double_model, x, divergence, estimator):
    closed = WAE(1.0, divergence=divergence, estimator="closed")(double_model, x).divergence.item()
    objective = WAE(1.0, divergence=divergence, estimator=estimator)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        sampled = np.array([objective(double_model, x, generator).divergence.item() for _ in range(300)])
    assert sampled.std() > 0
    assert abs(sampled.mean() - closed) <= 4 * sampled.std() / len(sampled) ** 0.5


def test_the_smoothness_term_is_weighted_and_added(double_model, x):
    plain = WAE(30.0)(double_model, x, torch.Generator().manual_seed(0))
    smooth = WAE(30.0, smoothness_weight=3.0)(double_model, x, torch.Generator().manual_seed(0))
    assert smooth.roughness.item() > 0
    assert smooth.reconstruction.item() == plain.reconstruction.item()
    assert smooth.loss.item() == pytest.approx(plain.loss.item() + 3 * smooth.roughness.item(), rel=1e-12)


def test_beta_zero_leaves_the_reconstruction(double_model, x):
    terms = VAE(beta=0.0)(double_model, x)
    assert terms.loss.item() == terms.reconstruction.item()


def test_a_posterior_equal_to_the_prior_has_no_kl(double_model, x):
    prior = double_model.prior
    with torch.no_grad():
        for layer in (double_model.discrete_encoder[3], double_model.continuous_encoder):
            layer.weight.zero_()
        double_model.discrete_encoder[3].bias.copy_(prior.logits)
        double_model.continuous_encoder.bias.copy_(torch.cat([prior.loc, prior.scale.log()], dim=1))
    terms = VAE()(double_model, x)
    assert terms.kl_z.item() == pytest.approx(0, abs=1e-12)
    assert terms.kl_k.item() == pytest.approx(0, abs=1e-12)


def test_truncation_stays_within_its_bound(double_model, x):
    tolerance, pixels = 0.2, 12
    values = [
        WAE(1.0, expectation=rule)(double_model, x, torch.Generator().manual_seed(0)).reconstruction.item()
        for rule in (Dense(), Truncated(tolerance))
    ]
    assert 0 <= values[0] - values[1] <= tolerance * double_model.num_components * pixels


@pytest.mark.parametrize("objective", [VAE(beta=2.0), WAE(10.0), WAE(10.0, divergence="marginal")], ids=repr)
def test_gradients_with_respect_to_every_parameter(double_model, x, objective):
    names, values = zip(*double_model.named_parameters(), strict=True)

    class Loss(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = double_model

        def forward(self):
            return objective(self.model, x[:3], torch.Generator().manual_seed(0)).loss

    def loss(*parameters):
        return functional_call(Loss(), {f"model.{n}": p for n, p in zip(names, parameters, strict=True)}, ())

    assert torch.autograd.gradcheck(loss, values, fast_mode=True)


def test_uint8_images_are_their_grey_levels_over_255(small_model, small_data):
    x = small_data.train.images[:4]
    for objective in (VAE(), WAE(10.0)):
        whole = objective(small_model, x, torch.Generator().manual_seed(0))
        grey = objective(small_model, x / 255, torch.Generator().manual_seed(0))
        torch.testing.assert_close(torch.stack(whole), torch.stack(grey))


def test_terms_are_named_with_the_loss_first(small_model, small_data):
    for objective in (VAE(), WAE(10.0)):
        terms = objective(small_model, small_data.train.images[:4])
        assert terms._fields == objective.term_names
        assert terms._fields[0] == "loss"
