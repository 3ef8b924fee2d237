"""The prior of full covariances against SciPy and torch.distributions; its draws by their moments; what it learns."""

import copy
import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from gmlvm import MMD, VAE, WAE, FullGaussianMixturePrior, GaussianMixturePrior
from gmlvm.posterior import Posterior

LEARNABLE = ("loc", "scale", "weights")
WEIGHTS = torch.tensor([0.0, 1.0, -1.0, 0.5], dtype=torch.float64)


def factors():
    generator = torch.Generator().manual_seed(5)
    loc = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    below = 0.7 * torch.randn(4, 3, 3, generator=generator, dtype=torch.float64).tril(-1)
    return loc, below + torch.diag_embed(0.3 + torch.rand(4, 3, generator=generator, dtype=torch.float64))


def mixture(**options):
    return FullGaussianMixturePrior(*factors(), WEIGHTS, **options)


@pytest.fixture
def prior():
    return mixture()


def values(prior):
    return {"loc": prior.loc.detach(), "scale": prior.scale_tril.detach(), "weights": prior.probs.detach()}


def covariances():
    factor = factors()[1].numpy()
    return factor @ factor.transpose(0, 2, 1)


def test_densities_are_scipys(prior):
    z = torch.randn(2, 7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    densities = [
        stats.multivariate_normal(m, c).logpdf(z.numpy())
        for m, c in zip(factors()[0].numpy(), covariances(), strict=True)
    ]
    by_component = np.stack(densities, axis=-1)
    np.testing.assert_allclose(prior.component_log_prob(z), by_component, rtol=1e-10)
    weights = np.exp(WEIGHTS.numpy()) / np.exp(WEIGHTS.numpy()).sum()
    np.testing.assert_allclose(prior.probs, weights)
    np.testing.assert_allclose(prior.log_prob(z), np.log(np.exp(by_component) @ weights), rtol=1e-10)
    responsibilities = np.exp(by_component) * weights
    responsibilities /= responsibilities.sum(-1, keepdims=True)
    np.testing.assert_allclose(prior.log_responsibilities(z).exp(), responsibilities, rtol=1e-8)


def test_scales_are_the_standard_deviations_in_each_direction(prior):
    np.testing.assert_allclose(prior.scale.square(), np.diagonal(covariances(), axis1=1, axis2=2), rtol=1e-12)


def gaussians(seed=1, count=6):
    generator = torch.Generator().manual_seed(seed)
    loc = torch.randn(count, 4, 3, generator=generator, dtype=torch.float64)
    return loc, 0.2 + torch.rand(count, 4, 3, generator=generator, dtype=torch.float64)


def test_the_kl_divergence_is_torchs(prior):
    loc, scale = gaussians()
    reference = kl_divergence(
        MultivariateNormal(loc, scale_tril=torch.diag_embed(scale)),
        MultivariateNormal(factors()[0], scale_tril=factors()[1]),
    )
    torch.testing.assert_close(prior.component_kl(loc, scale), reference, rtol=1e-10, atol=0)
    torch.testing.assert_close(prior.component_kl(loc[0], scale[0]), reference[0], rtol=1e-10, atol=0)


def test_the_kl_divergence_is_a_mean_over_draws(prior):
    loc, scale = gaussians(count=1)
    q = Normal(loc, scale)
    z = loc + scale * torch.randn(50_000, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    ratios = torch.stack(
        [q.log_prob(z).sum(-1)[:, k] - prior.component_log_prob(z[:, k])[:, k] for k in range(4)], dim=1
    )
    error = ratios.std(0) / math.sqrt(len(z))
    assert ((ratios.mean(0) - prior.component_kl(loc, scale)[0]).abs() < 4 * error).all()
    assert (error < 0.2).all()


def test_no_gaussian_is_nearer_than_the_component_itself():
    loc, scale = factors()[0], 0.5 * torch.ones(4, 3, dtype=torch.float64)
    prior = FullGaussianMixturePrior(loc, torch.diag_embed(scale))
    torch.testing.assert_close(prior.component_kl(loc, scale), torch.zeros(4, dtype=torch.float64))
    assert (prior.component_kl(loc, 1.01 * scale) > 0).all()


def test_draws_have_the_means_and_covariances(prior):
    z = prior.sample_each(40_000, torch.Generator().manual_seed(0)).numpy()
    for codes, loc, covariance in zip(z, factors()[0].numpy(), covariances(), strict=True):
        variance = np.diag(covariance)
        assert (np.abs(codes.mean(0) - loc) < 4 * np.sqrt(variance / 40_000)).all()
        error = np.sqrt((np.outer(variance, variance) + covariance**2) / 40_000)  # of a Gaussian's sample covariance
        assert (np.abs(np.cov(codes.T) - covariance) < 4 * error).all()


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_draws_of_a_component_fit_its_gaussian(prior, temperature):
    z = prior.sample(5000, component=2, temperature=temperature, generator=torch.Generator().manual_seed(1)).numpy()
    whitened = np.linalg.solve(temperature * factors()[1][2].numpy(), (z - factors()[0][2].numpy()).T)
    for row in whitened:
        assert stats.kstest(row, "norm").pvalue > 1e-3
    assert np.abs(np.corrcoef(whitened)[~np.eye(3, dtype=bool)]).max() < 4 / math.sqrt(5000)


def test_draws_of_several_components_are_each_of_its_own(prior):
    component = torch.tensor([3, 0, 1])
    torch.testing.assert_close(prior.sample(3, component, temperature=0.0), factors()[0][component])
    each = prior.sample_each(7, torch.Generator().manual_seed(1))
    one_by_one = prior.sample(28, torch.arange(4).repeat_interleave(7), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(each.flatten(0, 1), one_by_one)


def test_with_diagonal_factors_it_is_the_diagonal_prior():
    loc, scale = factors()[0], 0.3 + torch.arange(12, dtype=torch.float64).view(4, 3) / 10
    full = FullGaussianMixturePrior(loc, torch.diag_embed(scale), WEIGHTS)
    diagonal, z = GaussianMixturePrior(loc, scale, WEIGHTS), torch.linspace(-2, 2, 15, dtype=torch.float64).view(5, 3)
    torch.testing.assert_close(full.component_log_prob(z), diagonal.component_log_prob(z))
    torch.testing.assert_close(full.component_kl(*gaussians()), diagonal.component_kl(*gaussians()))
    draws = [p.sample(9, generator=torch.Generator().manual_seed(3)) for p in (full, diagonal)]
    torch.testing.assert_close(*draws)
    assert FullGaussianMixturePrior(loc, torch.diag_embed(scale)).probs.tolist() == [0.25] * 4


@pytest.mark.parametrize("learn", [(), LEARNABLE])
def test_what_it_was_given_is_copied(learn):
    given = [torch.zeros(2, 3), torch.eye(3).repeat(2, 1, 1), torch.zeros(2)]
    prior = FullGaussianMixturePrior(*given, learn=learn)
    before = {name: value.clone() for name, value in values(prior).items()}
    for tensor in given:
        tensor.add_(1).mul_(2)
    for name, value in values(prior).items():
        assert torch.equal(value, before[name])


# What it learns


@pytest.mark.parametrize("learn", [(), ("loc",), ("scale",), ("weights",), LEARNABLE])
def test_what_is_named_is_trained_stays_valid_and_nothing_else_moves(learn):
    prior, before = mixture(learn=learn), values(mixture())
    assert prior.learn == learn
    assert len(list(prior.parameters())) == len(learn)
    for name, value in values(prior).items():  # it starts where it is put
        torch.testing.assert_close(value, before[name], rtol=1e-14, atol=1e-15)
    if learn:
        optimizer = torch.optim.SGD(prior.parameters(), lr=0.3)
        for _ in range(5):
            optimizer.zero_grad()
            (-prior.log_prob(torch.ones(5, 3, dtype=torch.float64)).mean()).backward()
            optimizer.step()
    for name, value in values(prior).items():
        assert torch.equal(value, before[name]) == (name not in learn)
    assert torch.equal(prior.scale_tril, prior.scale_tril.tril())
    assert (prior.scale_tril.diagonal(dim1=1, dim2=2) > 0).all()
    assert prior.probs.sum().item() == pytest.approx(1)


def test_a_prior_that_learns_finds_the_gaussian_that_made_the_codes():
    """Of one component the likeliest Gaussian is known: mean and covariance of the codes."""
    z = mixture().sample(2000, component=1, generator=torch.Generator().manual_seed(0))
    prior = FullGaussianMixturePrior(torch.zeros_like(z[:1]), torch.eye(3)[None], learn=("loc", "scale"))
    optimizer = torch.optim.LBFGS(prior.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = -prior.log_prob(z).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    np.testing.assert_allclose(prior.loc.detach()[0], z.numpy().mean(0), atol=1e-4)
    factor = prior.scale_tril.detach()[0].numpy()
    np.testing.assert_allclose(factor @ factor.T, np.cov(z.numpy().T, ddof=0), atol=1e-3)


def test_a_kl_divergence_moves_what_is_learned():
    prior = mixture(learn=("loc", "scale"))
    loc, scale = gaussians()
    from_prior = torch.autograd.grad(prior.component_kl(loc, scale).sum(), list(prior.parameters()))
    assert all(gradient.isfinite().all() and gradient.any() for gradient in from_prior)
    (by_loc,) = torch.autograd.grad(prior.component_kl(loc, scale).sum(), prior.loc)
    precision = np.linalg.inv(covariances())
    expected = np.einsum("kde,nke->kd", precision, factors()[0].numpy() - loc.numpy())
    np.testing.assert_allclose(by_loc, expected, rtol=1e-8)


@pytest.mark.parametrize("learn", [(), LEARNABLE])
def test_it_is_saved_and_loaded_with_what_it_learned(learn):
    prior = FullGaussianMixturePrior(torch.zeros(4, 3).double(), torch.eye(3).expand(4, 3, 3), learn=learn)
    prior.load_state_dict(mixture(learn=learn).state_dict())
    for name, value in values(prior).items():
        torch.testing.assert_close(value, values(mixture())[name], rtol=1e-14, atol=1e-15)
    for name, value in values(copy.deepcopy(prior).float()).items():
        torch.testing.assert_close(value, values(prior)[name].float())


@pytest.mark.parametrize("name", LEARNABLE)
def test_a_parameter_that_would_not_be_trained_is_an_error(name):
    arguments = {"loc": torch.zeros(2, 3), "scale_tril": torch.eye(3).repeat(2, 1, 1), "logits": torch.zeros(2)}
    argument = {"weights": "logits", "scale": "scale_tril"}.get(name, name)
    arguments[argument] = nn.Parameter(arguments[argument])
    with pytest.raises(ValueError, match=rf'{name} that asks for gradients.*pass learn=\("{name}",\)'):
        FullGaussianMixturePrior(**arguments)
    assert len(list(FullGaussianMixturePrior(**arguments, learn=name).parameters())) == 1


# Objectives and errors


@pytest.mark.parametrize("objective", [VAE(), WAE(10.0), WAE(10.0, MMD("codes"))], ids=["vae", "pairs", "codes"])
def test_objectives_take_it_and_see_its_covariances(double_model, objective):
    x = torch.rand(5, 1, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    diagonal, terms = double_model.prior, []
    for off in (None, 0.0, 0.8):
        factor = torch.diag_embed(diagonal.scale)
        if off is not None:
            factor[:, 1, 0] = off
            double_model.prior = FullGaussianMixturePrior(diagonal.loc, factor, diagonal.logits)
        with torch.no_grad():
            terms.append(torch.stack(objective(double_model, x, torch.Generator().manual_seed(0))))
    loss, reconstruction = 0, 1
    assert terms[0][reconstruction] == terms[1][reconstruction] == terms[2][reconstruction]
    assert terms[1][loss].item() != pytest.approx(terms[2][loss].item(), rel=1e-3)
    if isinstance(objective, VAE):  # the MMD knows the diagonal prior's own part, and draws that of this one
        torch.testing.assert_close(terms[0], terms[1])


def test_closed_forms_of_the_mmd_refuse_it(prior):
    loc, scale = gaussians()
    posterior = Posterior(torch.zeros(6, 4, dtype=torch.float64), loc, scale)
    for estimator in ("closed", "half-closed"):
        with pytest.raises(TypeError, match="closed forms, must be of type GaussianMixturePrior, got FullGaussian"):
            MMD(estimator=estimator)(posterior, loc, prior)


EYE = torch.eye(3).repeat(2, 1, 1)
BAD = {
    "loc rank": ((torch.zeros(3), EYE), ValueError, r"loc must have shape \(\*, \*\).*got \(3,\)"),
    "loc list": (([[0.0]], EYE), TypeError, "loc must be a torch.Tensor, got list"),
    "loc integer": ((torch.zeros(2, 3).long(), EYE), TypeError, "floating point, got torch.int64"),
    "loc nan": ((torch.full((2, 3), math.nan), EYE), ValueError, "all finite"),
    "factor shape": ((torch.zeros(2, 3), EYE[0]), ValueError, r"scale_tril must have shape \(2, 3, 3\).*got \(3, 3\)"),
    "factor number": ((torch.zeros(2, 3), 1.0), TypeError, "scale_tril must be a torch.Tensor, got float"),
    "factor full": ((torch.zeros(2, 3), EYE + 0.1), ValueError, "lower triangular with a positive diagonal"),
    "factor negative": ((torch.zeros(2, 3), -EYE), ValueError, "lower triangular with a positive diagonal"),
    "factor nan": ((torch.zeros(2, 3), EYE * math.nan), ValueError, "finite and lower triangular"),
    "factor infinite": ((torch.zeros(2, 3), EYE + EYE.roll(1, 1).tril(-1) * math.inf), ValueError, "finite and lower"),
    "logits shape": ((torch.zeros(2, 3), EYE, torch.zeros(3)), ValueError, r"logits must have shape \(2\)"),
    "logits": ((torch.zeros(2, 3), EYE, torch.tensor([0.0, math.inf])), ValueError, "logits must be finite"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_mixture_is_refused(case):
    arguments, error, message = BAD[case]
    with pytest.raises(error, match=message):
        FullGaussianMixturePrior(*arguments)


def test_bad_codes_and_names_are_refused(prior):
    with pytest.raises(ValueError, match=r"shape \(..., 3\), got \(5, 2\)"):
        prior.log_prob(torch.zeros(5, 2))
    with pytest.raises(ValueError, match=r"component must lie in 0..3, got 4"):
        prior.sample(2, component=4)
    with pytest.raises(ValueError, match="learn must be one of 'loc', 'scale', 'weights'; got 'scale_tril'"):
        mixture(learn="scale_tril")
