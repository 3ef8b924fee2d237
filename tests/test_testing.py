"""The checks of parts: every built-in part passes, and each fault is caught with a message that names it."""

import copy
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from gmlvm import GMLVM, MMD, VAE, WAE, Divergence, GaussianMixturePrior, Objective, networks
from gmlvm.batches import Batch, Batches, LoaderBatches, TensorBatches
from gmlvm.enumeration import Dense, Enumeration, Resampled, Selection, TopM, Truncated
from gmlvm.kernels import Gaussian, InverseMultiquadratic
from gmlvm.testing import (
    check_batches,
    check_divergence,
    check_enumeration,
    check_kernel,
    check_model,
    check_objective,
    check_prior,
)

IMAGES = torch.randint(256, (50, 1, 4, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def uneven(cls=GaussianMixturePrior, learn=()):
    """A prior whose components differ in everything."""
    generator = torch.Generator().manual_seed(0)
    loc, scale = torch.randn(2, 4, 3, generator=generator)
    return cls(loc, scale.abs() + 0.3, torch.tensor([0.5, -1.0, 0.0, 0.3]), learn=learn)


class TestWhatIsBuiltIn:
    @pytest.mark.parametrize("learn", [(), "loc", "scale", "weights", ("loc", "scale", "weights")], ids=str)
    def test_priors(self, learn):
        check_prior(uneven(learn=learn))

    def test_the_simplex_prior(self):
        check_prior(GaussianMixturePrior.simplex(10, 9))

    @pytest.mark.parametrize("kernel", [InverseMultiquadratic([1.0, 9.0]), Gaussian([0.5, 2.0])], ids=str)
    def test_kernels(self, kernel):
        check_kernel(kernel)

    @pytest.mark.parametrize("on", ["pairs", "codes"])
    @pytest.mark.parametrize("estimator", ["sampled", "half-closed", "closed"])
    def test_the_mmd(self, on, estimator):
        check_divergence(MMD(on, estimator=estimator))
        check_divergence(MMD(on, estimator=estimator), uneven())

    @pytest.mark.parametrize("kernel", [Gaussian([1.0]), lambda squared_distance: 1 / (1 + squared_distance)], ids=str)
    def test_the_mmd_with_another_kernel(self, kernel):
        check_divergence(MMD(kernel=kernel))

    @pytest.mark.parametrize("rule", [Dense(), TopM(1), TopM(5), Resampled(1), Resampled(3)], ids=str)
    def test_rules_without_bias(self, rule):
        check_enumeration(rule)

    def test_truncation_within_its_bound_and_with_a_number_of_terms_that_depends_on_values(self):
        check_enumeration(Truncated(0.02), tolerance=5 * 0.02, fixed_shape=False)
        with pytest.raises(AssertionError, match="biased"):
            check_enumeration(Truncated(0.1), tolerance=0.001, fixed_shape=False)
        with pytest.raises(AssertionError, match="must not depend on values"):
            check_enumeration(Truncated(0.02), tolerance=5 * 0.02)

    @pytest.mark.parametrize(
        "objective",
        [VAE(), VAE(0.3, TopM(1)), WAE(10.0), WAE(10.0, MMD("codes"), smoothness_weight=1.0)],
        ids=["VAE", "VAE top", "WAE", "WAE smooth"],
    )
    def test_objectives(self, objective):
        check_objective(objective)
        check_objective(objective, GMLVM.for_images((1, 6, 5), 4, 3, networks="conv"))

    @pytest.mark.parametrize("networks", ["mlp", "conv"])
    @pytest.mark.parametrize("learn", [(), "loc"], ids=str)
    def test_models(self, networks, learn):
        prior = GaussianMixturePrior.simplex(4, 3, learn=learn)
        check_model(GMLVM.for_images((2, 6, 5), 4, 3, networks=networks, prior=prior))

    @pytest.mark.parametrize("own", [None, 3], ids=["global generator", "own generator"])
    def test_a_loader(self, own):
        generator = None if own is None else torch.Generator().manual_seed(own)
        loader = DataLoader(TensorDataset(IMAGES, torch.arange(50)), 16, shuffle=True, generator=generator)
        check_batches(LoaderBatches(loader))

    def test_other_sources_of_batches(self):
        check_batches(TensorBatches(IMAGES, 8))
        check_batches(LoaderBatches([IMAGES[:20], IMAGES[20:] / 255]))
        check_batches(LoaderBatches(iter([IMAGES[:20], IMAGES[20:]])))  # which comes to an end


class KLWithoutItsHalf(GaussianMixturePrior):
    def component_kl(self, loc, scale):
        return super().component_kl(loc, scale) + 0.5 * self.latent_dim


class DensityOfTheVariance(GaussianMixturePrior):
    def component_log_prob(self, z):
        variance = self.scale**2
        return torch.distributions.Normal(self.loc, variance).log_prob(z.unsqueeze(-2)).sum(-1)


class DensityWithoutItsConstant(GaussianMixturePrior):
    def component_log_prob(self, z):
        return super().component_log_prob(z) + 0.9189 * self.latent_dim


class SpreadOfTheVariance(GaussianMixturePrior):
    def codes(self, noise, component):
        return self.loc[component] + self.scale[component] ** 2 * noise


class OtherComponent(GaussianMixturePrior):
    def codes(self, noise, component):
        return super().codes(noise, self.num_components - 1 - component)


class OwnNoise(GaussianMixturePrior):
    def codes(self, noise, component):
        return super().codes(torch.randn_like(noise), component)


class DetachedMeans(GaussianMixturePrior):
    def codes(self, noise, component):
        return self.loc[component].detach() + self.scale[component] * noise


class NeverTrained(GaussianMixturePrior):
    def __init__(self, *arguments, **settings):
        super().__init__(*arguments, **settings)
        self.slope = nn.Parameter(torch.ones(()))


class PlainMeans(GaussianMixturePrior):
    def __init__(self, *arguments, **settings):
        super().__init__(*arguments, **settings)
        loc = self.loc
        del self.loc
        self.loc = loc


class WeightsOfOdds(GaussianMixturePrior):
    def __init__(self, *arguments, **settings):
        super().__init__(*arguments, **settings)
        self.logits += 1


PRIORS = [
    (KLWithoutItsHalf, (), "the KL divergence of a Gaussian from component 0 of the prior must be"),
    (DensityOfTheVariance, (), "the log density of component 0 of the prior over"),
    (DensityWithoutItsConstant, (), "integrated, must be 1 within"),
    (SpreadOfTheVariance, (), "the variance of codes of component 0 of the prior must be"),
    (OtherComponent, (), "the mean of codes of component 0 of the prior must be"),
    (OwnNoise, (), "must leave the global generators as they were"),
    (DetachedMeans, "loc", "must be its slope"),
    (NeverTrained, (), "must reach slope, got zero"),
    (PlainMeans, (), r"got PlainMeans\.loc as a plain attribute: use nn\.Parameter, register_buffer"),
    (WeightsOfOdds, (), "must sum to one, got 2.7"),
]


@pytest.mark.parametrize(("cls", "learn", "message"), PRIORS, ids=[case[0].__name__ for case in PRIORS])
def test_a_fault_in_a_prior_is_caught(cls, learn, message):
    with pytest.raises(AssertionError, match=message):
        check_prior(uneven(cls, learn))


class ExpectedForScales(Gaussian):
    def expected(self, difference, variance, nodes=8):
        return super().expected(difference, variance**2, nodes)


KERNELS = {
    "grows": (lambda d: 1 + d, "largest at distance zero"),
    "box": (lambda d: (1 - d).clamp_min(0), "must be positive definite, got the eigenvalues -"),
    "edge at zero": (lambda d: (-d.sqrt()).exp(), "must be finite, got NaN or infinity in distances"),
    "sum": (lambda d: (-d).exp().sum(), r"must have shape \(2, 3\), got \(\)"),
    "detached": (lambda d: (-d.detach()).exp(), "must be differentiable"),
    "narrow": (lambda d: (-d).exp().float(), "must be torch.float64"),
    "scales for variances": (ExpectedForScales([1.0]), "the kernel over Gaussian draws must be"),
}


@pytest.mark.parametrize(("kernel", "message"), KERNELS.values(), ids=KERNELS)
def test_a_fault_in_a_kernel_is_caught(kernel, message):
    with pytest.raises(AssertionError, match=message):
        check_kernel(kernel)


class Moments(Divergence):
    """Squared differences of weighted mean and second moment: a divergence that passes, with places for faults."""

    def noise(self, z, generator):
        return torch.randn(z.shape[-1], generator=generator, dtype=z.dtype)

    def forward(self, posterior, z, prior, generator=None):
        weight = self.weights(posterior).unsqueeze(-1)
        way = F.normalize(self.noise(z, generator), dim=0)
        z = z * way.abs()
        mean = (weight * z).sum((0, 1)) - prior.probs @ self.means(prior) @ torch.diag(way.abs())
        return mean.square().sum()

    def weights(self, posterior):
        return posterior.probs / len(posterior.logits)

    def means(self, prior):
        return prior.loc + 0 * prior.scale.log()


class Spreads(Moments):
    def means(self, prior):
        return prior.loc + 1e-3 * prior.scale


class OnItsOwn(Spreads):
    def noise(self, z, generator):
        return torch.randn(z.shape[-1], dtype=z.dtype)


class WithNumPy(Spreads):
    def noise(self, z, generator):
        return torch.from_numpy(np.random.randn(z.shape[-1]))  # noqa: NPY002


class Unseeded(Spreads):
    def noise(self, z, generator):
        return super().noise(z, generator) + random.random()


class WrongSign(Spreads):
    def forward(self, posterior, z, prior, generator=None):
        return -super().forward(posterior, z, prior, generator)


class OneSided(Spreads):
    def forward(self, posterior, z, prior, generator=None):
        return (posterior.probs.unsqueeze(-1) * (z + 5)).square().mean()


class HardWeights(Spreads):
    def weights(self, posterior):
        return F.one_hot(posterior.logits.argmax(1), posterior.logits.shape[1]) / len(posterior.logits)


class FirstImages(Spreads):
    def weights(self, posterior):
        place = torch.arange(len(posterior.logits)) < len(posterior.logits) / 2
        return posterior.probs * place[:, None] * 2 / len(posterior.logits)


class RootOfWeights(Spreads):
    def weights(self, posterior):
        root = posterior.probs.sqrt()
        return root * root / len(posterior.logits)


class Distances(Spreads):
    def forward(self, posterior, z, prior, generator=None):
        spread = (z - z[:1]).square().sum(-1).sqrt()
        return super().forward(posterior, z, prior, generator) + 1e-6 * (self.weights(posterior) * spread).sum()


class DetachedPrior(Spreads):
    def means(self, prior):
        return super().means(prior).detach()


class HalfDetached(Spreads):
    def weights(self, posterior):
        return (0.5 * posterior.probs + 0.5 * posterior.probs.detach()) / len(posterior.logits)


class ListOfLayers(Spreads):
    def __init__(self):
        super().__init__()
        self.layers = [nn.Linear(2, 2)]


class OneForEachImage(Spreads):
    def forward(self, posterior, z, prior, generator=None):
        return super().forward(posterior, z, prior, generator).expand(len(z))


DIVERGENCES = [
    (OnItsOwn, "must leave the global generators as they were: draw from the generator that is given"),
    (WithNumPy, "must leave the global generators as they were"),
    (Unseeded, "from generators in the same state, must be the same"),
    (WrongSign, "is a sign wrong"),
    (OneSided, "must be near zero for codes drawn from the prior"),
    (HardWeights, r"must reach posterior\.logits"),
    (FirstImages, "when images change places must be 0 within"),
    (RootOfWeights, r"of a certain posterior must be finite, got NaN or infinity in posterior\.logits"),
    (Distances, "must be finite, got NaN or infinity in posterior"),
    (DetachedPrior, "must .*prior that learns"),
    (HalfDetached, "must be its slope"),
    (ListOfLayers, r"got ListOfLayers\.layers as a plain attribute: use .* nn\.ModuleList"),
    (OneForEachImage, r"must have shape \(\), got"),
]


def test_a_divergence_of_ones_own_passes():
    check_divergence(Spreads())


@pytest.mark.parametrize(("cls", "message"), DIVERGENCES, ids=[case[0].__name__ for case in DIVERGENCES])
def test_a_fault_in_a_divergence_is_caught(cls, message):
    with pytest.raises(AssertionError, match=message):
        check_divergence(cls())
