"""The objectives against independent NumPy computations, in float64."""

from contextlib import nullcontext
from copy import deepcopy

import numpy as np
import oracles
import pytest
import torch
from torch import nn
from torch.func import functional_call

from gmlvm import GMLVM, MMD, VAE, WAE, Divergence, Objective, Run, fit
from gmlvm.batches import Batch
from gmlvm.enumeration import TOLERANCE, Dense, Resampled, TopM, Truncated
from gmlvm.kernels import InverseMultiquadratic
from gmlvm.vat import Smoothness

# Rules that draw have score functions for weights, which no finite difference sees.
EXACT = WAE(10.0, enumeration=Dense())


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def x():
    return torch.rand(5, 1, 4, 3, dtype=torch.float64, generator=seeded(9))


def parameters(model):
    return {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}


def noise(model, count, seed=0):
    """The noise that ``Posterior.sample`` draws first from a generator of this seed."""
    shape = (count, model.num_components, model.latent_dim)
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64).numpy()


@pytest.mark.parametrize("beta", [1.0, 0.3, 10.0])
def test_elbo_agrees_with_an_independent_computation(double_model, x, beta):
    terms = VAE(beta=beta)(double_model, x, seeded())
    expected = oracles.negative_elbo(x.numpy(), noise(double_model, len(x)), parameters(double_model), beta)
    np.testing.assert_allclose([term.item() for term in terms], [*expected, 0, 0], rtol=1e-10)


@pytest.mark.parametrize("on", ["pairs", "codes"])
def test_wae_agrees_with_an_independent_computation(double_model, x, on):
    penalty = MMD(on, prior_samples=4)
    terms = WAE(30.0, penalty, reconstruction_weight=0.7, enumeration=Dense())(double_model, x, seeded())
    p = parameters(double_model)
    eps = noise(double_model, len(x))
    error = oracles.expected_squared_error(x.numpy(), eps, p)
    # The prior's noise follows the posterior's in the same stream.
    generator = seeded()
    torch.randn(5, 3, 2, generator=generator, dtype=torch.float64)
    prior_noise = torch.randn(12, 2, generator=generator, dtype=torch.float64).numpy().reshape(3, 4, 2)
    prior_z = p["prior.loc"][:, None] + p["prior.scale"][:, None] * prior_noise
    loc, scale = oracles.continuous_encoder(x.numpy(), p)
    constants = InverseMultiquadratic.for_prior(double_model.prior, penalty.bandwidths).constants
    mmd = oracles.squared_mmd(
        np.exp(oracles.discrete_encoder(x.numpy(), p)),
        loc + scale * eps,
        np.exp(p["prior.logits"]),
        prior_z,
        constants,
        joint=on == "pairs",
        prior_part=oracles.prior_part(
            np.exp(p["prior.logits"]), p["prior.loc"], p["prior.scale"], constants, on == "pairs"
        ),
    )
    np.testing.assert_allclose([t.item() for t in terms], [0.7 * error + 30 * mmd, error, mmd, 0, 0], rtol=1e-9)


def test_the_smoothness_term_is_weighted_and_added(double_model, x):
    plain = WAE(30.0)(double_model, x, seeded())
    smooth = WAE(30.0, smoothness=Smoothness(3.0))(double_model, x, seeded())
    assert smooth.roughness.item() > 0
    assert smooth.reconstruction.item() == plain.reconstruction.item()
    assert smooth.loss.item() == pytest.approx(plain.loss.item() + 3 * smooth.roughness.item(), rel=1e-12)


def test_roughness_is_that_of_the_radius_and_the_generator(small_model, small_data):
    x = small_data.train.images[:8]

    def roughness(radius, seed):
        objective = WAE(1.0, smoothness=Smoothness(radius=radius))
        return objective(small_model, x, seeded(seed)).roughness.item()

    assert roughness(1.0, 0) == roughness(1.0, 0)
    assert roughness(1.0, 0) != roughness(1.0, 1)
    assert roughness(3.0, 0) > 2 * roughness(1.0, 0)


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
    terms = objective(model, x, seeded())
    return torch.cat([g.flatten() for g in torch.autograd.grad(terms.loss, list(model.parameters()))])


def test_along_a_run_the_sparse_gradient_is_the_dense_one(small_model, small_data):
    """Terms left out of the sum over k and of the penalty, at the library's tolerances, in float64."""
    x = small_data.train.images[:64]
    sparse, dense = WAE(100.0, enumeration=Truncated()), WAE(100.0, MMD(tolerance=0.0), enumeration=Dense())
    differences, left_out = [], []

    def compare(run):
        double = deepcopy(run.model).double()
        of_sparse, of_dense = gradient(sparse, double, x), gradient(dense, double, x)
        differences.append(((of_sparse - of_dense).norm() / of_dense.norm()).item())
        left_out.append((double.posterior(x).probs <= TOLERANCE).double().mean().item())

    settings = {"steps": 600, "batch_size": 64, "learning_rate": 3e-3, "progress": False}
    fit(small_model, WAE(3.0), small_data, callbacks=dict.fromkeys(range(0, 601, 50), compare), **settings)
    assert max(differences) <= 1e-3
    assert max(left_out) > 0.1  # there was something to leave out
    assert max(differences) > 0


@pytest.mark.parametrize(
    "objective",
    [
        VAE(beta=2.0),
        EXACT,
        WAE(10.0, MMD("codes"), enumeration=Dense()),
        WAE(10.0, MMD(estimator="half-closed"), enumeration=Dense()),
    ],
    ids=["vae", "pairs", "codes", "half-closed"],
)
def test_gradients_with_respect_to_every_parameter(double_model, x, objective):
    names, values = zip(*double_model.named_parameters(), strict=True)

    class Loss(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = double_model

        def forward(self):
            return objective(self.model, x[:3], seeded()).loss

    def loss(*parameters):
        return functional_call(Loss(), {f"model.{n}": p for n, p in zip(names, parameters, strict=True)}, ())

    assert torch.autograd.gradcheck(loss, values, fast_mode=True)


@pytest.mark.parametrize("objective", [VAE(), WAE(10.0)], ids=["vae", "wae"])
def test_uint8_images_are_their_grey_levels_over_255(small_model, small_data, objective):
    x = small_data.train.images[:4]
    whole, grey = objective(small_model, x, seeded()), objective(small_model, x / 255, seeded())
    torch.testing.assert_close(torch.stack(whole), torch.stack(grey))


@pytest.mark.parametrize(
    ("objective", "weights"),
    [
        (VAE(), {"reconstruction": 1, "kl_z": 1, "kl_k": 1}),
        (WAE(10.0), {"reconstruction": 1, "divergence": 10}),
        (
            VAE(0.3, smoothness=Smoothness(3.0), consistency_weight=0.5),
            {"reconstruction": 1, "kl_z": 0.3, "kl_k": 0.3, "roughness": 3, "inconsistency": 0.5},
        ),
        (
            WAE(10.0, reconstruction_weight=0.7, smoothness=Smoothness(3.0), consistency_weight=5.0),
            {"reconstruction": 0.7, "divergence": 10, "roughness": 3, "inconsistency": 5},
        ),
    ],
    ids=["vae", "wae", "vae with all", "wae with all"],
)
def test_the_loss_comes_first_and_is_the_sum_that_it_says(double_model, x, objective, weights):
    terms = objective(double_model, x, seeded())._asdict()
    assert next(iter(terms)) == "loss"
    loss = terms.pop("loss")
    assert loss.item() == pytest.approx(sum(weight * terms[name].item() for name, weight in weights.items()), rel=1e-12)
    assert all((term != 0) == (name in weights) for name, term in terms.items())


@pytest.mark.parametrize("name", ["penalty_weight", "reconstruction_weight", "consistency_weight"])
def test_weights_are_zero_or_more(name):
    assert getattr(WAE(**{"penalty_weight": 1.0, name: 0}), name) == 0
    with pytest.raises(ValueError, match=rf"{name} must be .* in \[0, inf\], got -1"):
        WAE(**{"penalty_weight": 1.0, name: -1})


@pytest.mark.parametrize("kind", [VAE, WAE], ids=["vae", "wae"])
def test_all_that_is_drawn_comes_from_the_generator(double_model, x, kind):
    objective = kind(1.0, enumeration=Resampled(), smoothness=Smoothness(), consistency_weight=1.0)
    before = torch.get_rng_state()
    first, same, other = (torch.stack(objective(double_model, x, seeded(seed))) for seed in (0, 0, 1))
    assert torch.equal(first, same)
    assert (first != other).sum() >= 4  # at least the loss, the reconstruction, roughness and inconsistency
    assert torch.equal(torch.get_rng_state(), before)


def test_images_alone_are_a_batch(double_model, x):
    terms = [EXACT(double_model, batch, seeded()).loss for batch in (x, Batch(x), Batch(x, torch.arange(5)))]
    assert terms[0] == terms[1] == terms[2]


@pytest.mark.parametrize(
    "objective",
    [
        VAE(),
        VAE(enumeration=TopM(1)),
        WAE(10.0),
        WAE(10.0, MMD("codes")),
        WAE(10.0, smoothness=Smoothness(), consistency_weight=1.0),
    ],
    ids=["vae", "vae top", "pairs", "codes", "terms of q_D"],
)
def test_a_step_waits_for_no_value_of_an_accelerator(small_model, objective, monkeypatch):
    """Tensors without values stand for those of a GPU: whatever has to read one raises."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # which no such device has
    model = small_model.to("meta")
    x = torch.zeros(6, *model.image_shape, dtype=torch.uint8, device="meta")
    objective(model, x).loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    with pytest.raises(NotImplementedError, match="nonzero"):
        VAE(enumeration=Truncated())(model, x)


class Counting(nn.Module):
    """Counts the codes that a decoder is given."""

    def __init__(self, decoder):
        super().__init__()
        self.decoder, self.codes = decoder, 0

    def forward(self, z):
        self.codes += len(z)
        return self.decoder(z)


@pytest.mark.parametrize(("kind", "fixed"), [("mlp", True), ("conv", False)])
def test_places_of_weight_zero_are_not_decoded_where_batch_norm_would_see_them(kind, fixed):
    model = GMLVM.for_images((1, 6, 5), 4, 3, networks=kind)
    model.decoder = Counting(model.decoder)
    objective, x = VAE(enumeration=Resampled(2)), torch.zeros(6, 1, 6, 5, dtype=torch.uint8)
    with torch.no_grad():
        model.discrete_encoder[-1].weight.zero_()
        model.discrete_encoder[-1].bias.copy_(torch.tensor([9.0, 0, 0, 0]))
    objective(model, x, seeded())
    assert model.decoder.codes <= 8  # on a CPU the terms are as many as the values ask for, here about one an image
    model.to("meta").decoder.codes = 0  # a device without values stands for a GPU
    if fixed:
        objective(model, x.to("meta"))
        assert model.decoder.codes == 18
    else:
        with pytest.raises(NotImplementedError, match="nonzero"):
            objective(model, x.to("meta"))


def test_resampling_is_unbiased_under_autocast(small_model, small_data):
    """The weights of improbable components: rounded to 8 bits they would never be drawn."""
    with torch.no_grad():
        small_model.discrete_encoder[-1].weight.zero_()
        small_model.discrete_encoder[-1].bias.copy_(torch.tensor([0.0, -6.5, -6.5, -6.5]))
    x = small_data.train.images[:1].expand(300_000, -1, -1, -1)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        log_probs = small_model.posterior(x).log_probs
        chosen = Resampled(2).select(log_probs, seeded())
    mean = torch.zeros(4).index_add(0, chosen.component, chosen.weight) / len(x)
    # A weight of 1/2 at a rate of 2 q: a standard error of sqrt(q / 2 n), 5e-5.
    torch.testing.assert_close(mean, log_probs[0].exp(), rtol=0, atol=2e-4)


class Centre(Divergence):
    """How far the mean code is from a learned point: a penalty with a parameter."""

    def __init__(self):
        super().__init__()
        self.point = nn.Parameter(torch.ones(3))

    def forward(self, posterior, z, prior, generator=None):
        return (posterior.probs.unsqueeze(2) * z).sum(1).mean(0).sub(self.point).square().sum()


class Weighted(Objective):
    """Squared error with a learned variance, and a weight for each training image."""

    def __init__(self, weights):
        super().__init__()
        self.log_variance = nn.Parameter(torch.zeros(()))
        self.register_buffer("weights", weights)
        self.seen = []

    def terms(self, model, batch, generator):
        self.seen.append(batch)
        weight = self.weights[batch.indices]  # (B,)
        x = model.pixels(batch.images)
        posterior = model.posterior_of_pixels(x)
        error = (model.decoder_logits(posterior.sample(generator)).sigmoid() - x[:, None]).square().flatten(2).sum(2)
        error = (weight * (posterior.probs * error).sum(1)).mean()
        return {"loss": error * (-self.log_variance).exp() + self.log_variance, "error": error}


def new_model():
    return GMLVM.for_images((1, 6, 5), 4, 3, hidden_dim=12, component_hidden_dim=5, seed=1)


@pytest.mark.parametrize(
    "make", [lambda: Weighted(torch.ones(400)), lambda: WAE(10.0, Centre())], ids=["objective", "penalty"]
)
def test_parameters_of_an_objective_are_trained_and_taken_up_again_from_a_checkpoint(small_data, tmp_path, make):
    settings = {"steps": 10, "batch_size": 16, "progress": False}
    whole_model, whole = new_model(), make()
    start = deepcopy(whole.state_dict())
    fit(whole_model, whole, small_data, **settings)
    moved = [name for name, _ in whole.named_parameters() if not torch.equal(whole.state_dict()[name], start[name])]
    assert moved == [name for name, _ in whole.named_parameters()] != []

    path = tmp_path / "run"
    half = Run(new_model(), make(), small_data, steps=10, batch_size=16)
    for _ in range(4):
        half.step()
    half.save(path)
    model, objective = new_model(), make()
    fit(model, objective, small_data, checkpoint=path, **settings)
    for expected, got in ((whole_model, model), (whole, objective)):
        assert all(map(torch.equal, expected.state_dict().values(), got.state_dict().values()))


def test_a_constant_of_each_training_image_is_found_by_its_index(small_data):
    images = small_data.train.images
    weights = images.double().flatten(1).mean(1).float()
    objective = Weighted(weights)
    history = fit(new_model(), objective, small_data, steps=3, batch_size=16, progress=False)
    for batch in objective.seen:
        assert torch.equal(images[batch.indices], batch.images)
        torch.testing.assert_close(weights[batch.indices], batch.images.double().flatten(1).mean(1).float())
    none = fit(new_model(), Weighted(torch.zeros(400)), small_data, steps=3, batch_size=16, progress=False)
    assert (none["error"] == 0).all()
    assert (history["error"] > 0).all()


def test_the_settings_of_an_objective_stand_in_its_repr():
    text = repr(WAE(3.0, MMD("codes"), smoothness=Smoothness(0.5), consistency_weight=2.0))
    assert "3.0" in text
    assert "Smoothness(0.5, share=0.2)" in text
    assert "consistency_weight=2.0" in text
    assert "MMD('codes'" in text
    assert repr(VAE(0.3, TopM(2))) == "VAE(beta=0.3, enumeration=TopM(m=2), consistency_weight=0.0)"
