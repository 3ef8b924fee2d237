"""The objectives against independent NumPy computations, in float64."""

from contextlib import nullcontext
from copy import deepcopy
from dataclasses import replace

import numpy as np
import oracles
import pytest
import torch
from gmlvm.expectations import TOLERANCE, Dense, Resampled, TopM, Truncated, truncate
from torch.func import functional_call

from gmlvm import GMLVM, VAE, WAE, GaussianMixturePrior, fit, objectives
from gmlvm.divergences import InverseMultiquadratic

# Rules that draw have score functions for weights, which no finite difference sees.
EXACT = WAE(10.0, expectation=Dense())


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
        prior_part=oracles.prior_part(
            np.exp(p["prior.logits"]), p["prior.loc"], p["prior.scale"], constants, divergence == "joint"
        ),
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


def test_what_the_prior_has_to_itself_is_computed_once_and_again_when_it_changes(double_model, x, monkeypatch):
    calls = []
    compute = objectives.closed_form.prior_prior
    monkeypatch.setattr(objectives.closed_form, "prior_prior", lambda *a: calls.append(a) or compute(*a))
    first = EXACT(double_model, x, torch.Generator().manual_seed(0)).divergence
    for _ in range(3):
        again = EXACT(double_model, x, torch.Generator().manual_seed(0)).divergence
        assert again.item() == first.item()
    assert len(calls) == 1
    wider = GaussianMixturePrior(double_model.prior.loc, 2 * double_model.prior.scale, double_model.prior.logits)
    double_model.prior.load_state_dict(wider.state_dict())
    loaded = EXACT(double_model, x, torch.Generator().manual_seed(0)).divergence
    double_model.prior = wider
    built = EXACT(double_model, x, torch.Generator().manual_seed(0)).divergence
    assert loaded.item() == built.item() != first.item()


def test_the_penalty_keeps_its_precision_under_autocast(small_model, small_data):
    x = small_data.train.images[:64]
    posterior = small_model.posterior(x)
    z = posterior.sample(torch.Generator().manual_seed(0))
    exact = WAE(1.0).penalty(small_model.prior, posterior, z, torch.Generator().manual_seed(1))
    with torch.autocast("cpu", torch.bfloat16):
        mixed = WAE(1.0).penalty(small_model.prior, posterior, z, torch.Generator().manual_seed(1))
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed, exact)


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


def gradient(objective, model, x):
    terms = objective(model, x, torch.Generator().manual_seed(0))
    return torch.cat([g.flatten() for g in torch.autograd.grad(terms.loss, list(model.parameters()))])


def test_along_a_run_the_sparse_gradient_is_the_dense_one(small_model, small_data, monkeypatch):
    """Terms left out of the sum over k and of the penalty, at the library's tolerance, in float64."""
    x = small_data.train.images[:64]
    differences, left_out = [], []

    def compare(model):
        double = deepcopy(model).double()
        sparse = gradient(WAE(100.0, expectation=Truncated()), double, x)
        with monkeypatch.context() as patch:
            patch.setattr(objectives, "truncate", lambda log_probs: truncate(log_probs, 0.0))
            dense = gradient(WAE(100.0, expectation=Dense()), double, x)
        differences.append(((sparse - dense).norm() / dense.norm()).item())
        left_out.append((double.posterior(x).probs <= TOLERANCE).double().mean().item())

    steps = range(0, 601, 50)
    fit(
        small_model,
        WAE(3.0),
        small_data,
        steps=600,
        batch_size=64,
        learning_rate=3e-3,
        callbacks=dict.fromkeys(steps, compare),
        progress=False,
    )
    assert max(differences) <= 1e-3
    assert max(left_out) > 0.1  # there was something to leave out
    assert max(differences) > 0


@pytest.mark.parametrize(
    "objective",
    [VAE(beta=2.0), EXACT, replace(EXACT, divergence="marginal"), replace(EXACT, estimator="half-closed")],
    ids=repr,
)
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


@pytest.mark.parametrize(
    "objective", [VAE(), VAE(expectation=TopM(1)), WAE(10.0), WAE(10.0, divergence="marginal")], ids=repr
)
def test_a_step_waits_for_no_value_of_an_accelerator(small_model, objective, monkeypatch):
    """Tensors without values stand for those of a GPU: whatever has to read one raises."""
    kernel = InverseMultiquadratic.for_prior(small_model.prior)
    monkeypatch.setattr(objectives, "_prior_part", lambda *_: (kernel, torch.zeros((), device="meta")))
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # which no such device has
    model = small_model.to("meta")
    x = torch.zeros(6, *model.image_shape, dtype=torch.uint8, device="meta")
    objective(model, x).loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    with pytest.raises(NotImplementedError, match="nonzero"):
        VAE(expectation=Truncated())(model, x)


def test_factors_may_be_any_sequence_and_decide_the_kernel(small_model, small_data):
    x = small_data.train.images[:8]
    values = [
        WAE(1.0, factors=factors)(small_model, x, torch.Generator().manual_seed(0)).divergence
        for factors in ((0.8, 2.4), [0.8, 2.4], np.array([0.8, 2.4]), (8.0, 24.0))
    ]
    assert values[0] == values[1] == values[2]
    assert values[0] != values[3]


def test_roughness_is_that_of_the_radius_and_the_generator(small_model, small_data):
    x = small_data.train.images[:8]

    def roughness(radius, seed):
        objective = WAE(1.0, smoothness_weight=1.0, smoothness_radius=radius)
        return objective(small_model, x, torch.Generator().manual_seed(seed)).roughness.item()

    assert roughness(1.0, 0) == roughness(1.0, 0)
    assert roughness(1.0, 0) != roughness(1.0, 1)
    assert roughness(3.0, 0) > 2 * roughness(1.0, 0)


@pytest.mark.parametrize(("networks", "fixed"), [("mlp", True), ("conv", False)])
def test_places_of_weight_zero_are_not_decoded_where_batch_norm_would_see_them(networks, fixed):
    model = GMLVM.for_images((1, 6, 5), 4, 3, networks=networks)
    log_probs = torch.zeros(6, 4, device="meta")
    # On a CPU the terms are as many as the values ask for. A device without values stands for a GPU.
    assert len(objectives._select(Resampled(2), model, torch.zeros(6, 4).log_softmax(1), None).weight) <= 18
    if fixed:
        assert len(objectives._select(Resampled(2), model, log_probs, None).weight) == 18
    else:
        with pytest.raises(NotImplementedError, match="nonzero"):
            objectives._select(Resampled(2), model, log_probs, None)


def test_resampling_is_unbiased_under_autocast(small_model, small_data):
    """The weights of improbable components: rounded to 8 bits they would never be drawn."""
    with torch.no_grad():
        small_model.discrete_encoder[-1].weight.zero_()
        small_model.discrete_encoder[-1].bias.copy_(torch.tensor([0.0, -6.5, -6.5, -6.5]))
    x = small_data.train.images[:1].expand(300_000, -1, -1, -1)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        log_probs = small_model.posterior(x).log_probs
        chosen = Resampled(2).select(log_probs, torch.Generator().manual_seed(0))
    mean = torch.zeros(4).index_add(0, chosen.component, chosen.weight) / len(x)
    # A weight of 1/2 at a rate of 2 q: a standard error of sqrt(q / 2 n), 5e-5.
    torch.testing.assert_close(mean, log_probs[0].exp(), rtol=0, atol=2e-4)
