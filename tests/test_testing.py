"""The checks of parts: every built-in part passes, and each fault is caught with a message that names it."""

import copy
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from gmlvm import (
    GMLVM,
    MMD,
    VAE,
    WAE,
    Clusterer,
    Distillation,
    Divergence,
    FullGaussianMixturePrior,
    GaussianMixturePrior,
    InformationMaximisation,
    Objective,
    networks,
)
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
from gmlvm.transport import Sinkhorn, SlicedWasserstein
from gmlvm.vat import Smoothness

IMAGES = torch.randint(256, (50, 1, 4, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def uneven(cls=GaussianMixturePrior, learn=()):
    """A prior whose components differ in everything."""
    generator = torch.Generator().manual_seed(0)
    loc, scale = torch.randn(2, 4, 3, generator=generator)
    return cls(loc, scale.abs() + 0.3, torch.tensor([0.5, -1.0, 0.0, 0.3]), learn=learn)


def slanted(cls=FullGaussianMixturePrior, learn=()):
    """The same with directions that depend on one another."""
    prior = uneven()
    below = 0.5 * torch.randn(4, 3, 3, generator=torch.Generator().manual_seed(1)).tril(-1)
    return cls(prior.loc, below * prior.scale[:, :, None] + torch.diag_embed(prior.scale), prior.logits, learn=learn)


def targets(num_components=3):
    return torch.rand(8, num_components, generator=torch.Generator().manual_seed(0)).softmax(1)


def encoder(*layers):
    return Clusterer(nn.Sequential(nn.Flatten(), nn.Linear(30, 8), *layers, nn.Linear(8, 3)), (1, 6, 5))


class TestWhatIsBuiltIn:
    @pytest.mark.parametrize("make", [uneven, slanted])
    @pytest.mark.parametrize("learn", [(), "loc", "scale", "weights", ("loc", "scale", "weights")], ids=str)
    def test_priors(self, make, learn):
        check_prior(make(learn=learn))

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

    @pytest.mark.parametrize(
        "kernel", [Gaussian([1.0]), lambda squared_distance: 1 / (1 + squared_distance)], ids=["Gaussian", "own"]
    )
    def test_the_mmd_with_another_kernel(self, kernel):
        check_divergence(MMD(kernel=kernel))

    @pytest.mark.parametrize("on", ["pairs", "codes"])
    @pytest.mark.parametrize("divergence", [SlicedWasserstein, Sinkhorn])
    def test_transport(self, on, divergence):
        check_divergence(divergence(on))
        check_divergence(divergence(on), slanted())

    @pytest.mark.parametrize("on", ["pairs", "codes"])
    def test_the_mmd_from_full_covariances(self, on):
        check_divergence(MMD(on), slanted())

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
        [
            VAE(), VAE(0.3, TopM(1)), VAE(smoothness=Smoothness(), consistency_weight=3.0),
            WAE(10.0), WAE(10.0, MMD("codes"), smoothness=Smoothness()), WAE(10.0, consistency_weight=3.0),
            InformationMaximisation(),
        ],
        ids=["VAE", "VAE top", "VAE smooth and consistent", "WAE", "WAE smooth", "WAE consistent", "information"],
    )  # fmt: skip
    def test_objectives(self, objective):
        check_objective(objective)
        check_objective(objective, GMLVM.for_images((1, 6, 5), 4, 3, networks="conv"))
        check_objective(objective, GMLVM.for_images((1, 6, 5), 4, 3, hidden_dim=8, prior=slanted()))

    @pytest.mark.parametrize("objective", [InformationMaximisation(), Distillation(targets())], ids=["own", "taught"])
    @pytest.mark.parametrize("layers", [(), (nn.BatchNorm1d(8), nn.Tanh())], ids=["linear", "batch norm"])
    def test_objectives_of_a_discrete_encoder_alone(self, objective, layers):
        check_objective(objective, encoder(*layers))

    @pytest.mark.parametrize("make", [uneven, slanted])
    @pytest.mark.parametrize("kind", ["mlp", "deep", "conv"])
    @pytest.mark.parametrize("learn", [(), "loc"], ids=str)
    def test_models(self, kind, learn, make):
        prior = make(learn=learn)
        check_model(GMLVM.for_images((2, 6, 5), 4, 3, networks=kind, prior=prior))

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


class LogitsInAColumn(GaussianMixturePrior):
    def __init__(self, *arguments, **settings):
        super().__init__(*arguments, **settings)
        self.logits = self.logits[:, None]


class NegativeScale(GaussianMixturePrior):
    def __init__(self, *arguments, **settings):
        super().__init__(*arguments, **settings)
        self.scale *= -1


class CodesInARow(GaussianMixturePrior):
    def codes(self, noise, component):
        return super().codes(noise, component).flatten(0, -2)


class DensityOfOneComponent(GaussianMixturePrior):
    def component_log_prob(self, z):
        return super().component_log_prob(z)[..., :1]


class KLOfAllComponents(GaussianMixturePrior):
    def component_kl(self, loc, scale):
        return super().component_kl(loc, scale).sum(-1)


class DensityOfTheScalesAlone(FullGaussianMixturePrior):
    def component_log_prob(self, z):
        return torch.distributions.Normal(self.loc, self.scale).log_prob(z.unsqueeze(-2)).sum(-1)


class KLOfTheScalesAlone(FullGaussianMixturePrior):
    def component_kl(self, loc, scale):
        return GaussianMixturePrior(self.loc.detach(), self.scale.detach()).component_kl(loc, scale)


FULL_PRIORS = [
    (DensityOfTheScalesAlone, r"component 0 of the prior must be .* component_kl\(\) and the density disagree"),
    (KLOfTheScalesAlone, "the KL divergence of a Gaussian from component 0 of the prior must be"),
]


@pytest.mark.parametrize(("cls", "message"), FULL_PRIORS, ids=[case[0].__name__ for case in FULL_PRIORS])
def test_a_fault_in_a_prior_with_full_covariances_is_caught(cls, message):
    with pytest.raises(AssertionError, match=message):
        check_prior(slanted(cls))


PRIORS = [
    (LogitsInAColumn, (), r"logits of the prior must have shape \(4,\), got \(4, 1\)"),
    (NegativeScale, (), r"scales of the prior must be positive, got -"),
    (CodesInARow, (), r"codes of the prior must have shape \(4, 4000, 3\), got \(16000, 3\)"),
    (DensityOfOneComponent, (), r"component_log_prob of the prior must have shape \(4, 4\), got \(4, 1\)"),
    (KLOfAllComponents, (), r"component_kl of the prior must have shape \(2, 4\), got \(2,\)"),
    (KLWithoutItsHalf, (), "the KL divergence of a Gaussian from component 0 of the prior must be"),
    (DensityOfTheVariance, (), "the log density of component 0 of the prior over"),
    (DensityWithoutItsConstant, (), "integrated, must be 1 within"),
    (SpreadOfTheVariance, (), "the variance of codes of component 0 of the prior must be"),
    (OtherComponent, (), "the mean of codes of component 0 of the prior must be"),
    (OwnNoise, (), "must leave the global generators as they were"),
    (DetachedMeans, "loc", "must be its slope"),
    (NeverTrained, "loc", "must reach slope, got zero"),
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
    """First and second moment of codes along a random direction, against the prior's: it passes."""

    def forward(self, posterior, z, prior, generator=None):
        way = self.way(z, generator)
        weight, along = self.weights(posterior), z @ way  # (B, K)
        first, second = self.moments(prior, way)
        return ((weight * along).sum() - first) ** 2 + ((weight * along**2).sum() - second) ** 2

    def way(self, z, generator):
        return F.normalize(torch.randn(z.shape[-1], generator=generator, dtype=z.dtype), dim=0)

    def weights(self, posterior):
        return posterior.probs / len(posterior.logits)

    def moments(self, prior, way):
        loc, variance = prior.loc @ way, prior.scale**2 @ way**2
        return prior.probs @ loc, prior.probs @ (loc**2 + variance)


class OnItsOwn(Moments):
    def way(self, z, generator):
        return super().way(z, None)


class WithNumPy(Moments):
    def way(self, z, generator):
        return torch.from_numpy(np.random.randn(z.shape[-1]))  # noqa: NPY002


class Unseeded(Moments):
    def way(self, z, generator):
        return super().way(z, generator) + random.random()


class WrongSign(Moments):
    def forward(self, posterior, z, prior, generator=None):
        return -super().forward(posterior, z, prior, generator)


class OneSided(Moments):
    def forward(self, posterior, z, prior, generator=None):
        return (posterior.probs.unsqueeze(-1) * (z + 5)).square().mean()


class HardWeights(Moments):
    def weights(self, posterior):
        return F.one_hot(posterior.logits.argmax(1), posterior.logits.shape[1]) / len(posterior.logits)


class FirstImages(Moments):
    def weights(self, posterior):
        place = torch.arange(len(posterior.logits)) < len(posterior.logits) / 2
        return posterior.probs * place[:, None] * 2 / len(posterior.logits)


class RootOfWeights(Moments):
    def weights(self, posterior):
        root = posterior.probs.sqrt()
        return root * root / len(posterior.logits)


class Distances(Moments):
    def forward(self, posterior, z, prior, generator=None):
        gaps = (z[:, None] - z[None, :]).square().sum(-1).sqrt()
        return super().forward(posterior, z, prior, generator) + 0 * gaps.sum()


class DetachedPrior(Moments):
    def moments(self, prior, way):
        first, second = super().moments(prior, way)
        return first.detach(), second.detach()


class HalfDetached(Moments):
    def weights(self, posterior):
        return (0.5 * posterior.probs + 0.5 * posterior.probs.detach()) / len(posterior.logits)


class ListOfLayers(Moments):
    def __init__(self):
        super().__init__()
        self.layers = [nn.Linear(2, 2)]


class ThreeImages(Moments):
    def forward(self, posterior, z, prior, generator=None):
        return super().forward(posterior, z, prior, generator) / (len(z) - 2)


class OneForEachImage(Moments):
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
    (DetachedPrior, "prior that learns must reach loc, got zero"),
    (HalfDetached, "must be its slope"),
    (ListOfLayers, r"got ListOfLayers\.layers as a plain attribute: use .* nn\.ModuleList"),
    (ThreeImages, "a divergence must be finite, got NaN or infinity"),
    (OneForEachImage, r"must have shape \(\), got"),
]


def test_a_divergence_of_ones_own_passes():
    check_divergence(Moments())


@pytest.mark.parametrize(("cls", "message"), DIVERGENCES, ids=[case[0].__name__ for case in DIVERGENCES])
def test_a_fault_in_a_divergence_is_caught(cls, message):
    with pytest.raises(AssertionError, match=message):
        check_divergence(cls())


class Doubled(Dense):
    def select(self, log_probs, generator=None, *, fixed_shape=False):
        chosen = super().select(log_probs, generator)
        return Selection(*(torch.cat([each, each]) for each in chosen[:2]), torch.cat([chosen.weight / 2] * 2))


class LargestAlone(Enumeration):
    """The most probable component, by its own weight: what is left out is missed."""

    def select(self, log_probs, generator=None, *, fixed_shape=False):
        weight, component = log_probs.exp().max(1)
        return Selection(torch.arange(len(component)), component, weight)


class LargestForAll(LargestAlone):
    def select(self, log_probs, generator=None, *, fixed_shape=False):
        chosen = super().select(log_probs)
        return chosen._replace(weight=chosen.weight / chosen.weight.detach())


class DetachedWeights(Resampled):
    def select(self, log_probs, generator=None, *, fixed_shape=False):
        chosen = super().select(log_probs, generator, fixed_shape=fixed_shape)
        return chosen._replace(weight=chosen.weight + 0 * log_probs.sum() - (chosen.weight - chosen.weight.detach()))


class DrawnAnywhere(Resampled):
    def select(self, log_probs, generator=None, *, fixed_shape=False):
        return super().select(log_probs, None, fixed_shape=fixed_shape)


class CountedFromOne(Dense):
    def select(self, log_probs, generator=None, *, fixed_shape=False):
        chosen = super().select(log_probs)
        return chosen._replace(component=chosen.component + 1)


class ShapeOfValues(Resampled):
    def select(self, log_probs, generator=None, *, fixed_shape=False):
        return super().select(log_probs, generator)


class ColumnOfWeights(Dense):
    def select(self, log_probs, generator=None, *, fixed_shape=False):
        chosen = super().select(log_probs)
        return chosen._replace(weight=chosen.weight[:, None])


class FilledUpWithOnes(Dense):
    def select(self, log_probs, generator=None, *, fixed_shape=False):
        chosen = super().select(log_probs)
        return chosen._replace(weight=torch.ones_like(chosen.weight)) if fixed_shape else chosen


class RootOfProbabilities(Dense):
    def select(self, log_probs, generator=None, *, fixed_shape=False):
        chosen, root = super().select(log_probs), log_probs.exp().sqrt().flatten()
        return chosen._replace(weight=root * root)


RULES = [
    (ColumnOfWeights, r"weight of a selection must have shape \(300,\), got \(300, 1\)"),
    (FilledUpWithOnes, "must sum to one, got 6 to 6"),
    (RootOfProbabilities, "must be finite, got NaN or infinity in logits of a certain posterior"),
    (Doubled, "must select no pair twice, got 600 terms of 300 pairs"),
    (LargestAlone, r"must sum to one, got 0\.16"),
    (LargestForAll, "^the sum over k by a rule must be .* it is biased"),
    (DetachedWeights, "the gradient of the sum over k by a rule must be .* score function"),
    (DrawnAnywhere, "must leave the global generators as they were"),
    (CountedFromOne, r"component of a selection must lie in 0\.\.5, got 1 to 6"),
    (ShapeOfValues, "the number of terms must not depend on values, got"),
]


@pytest.mark.parametrize(("cls", "message"), RULES, ids=[case[0].__name__ for case in RULES])
def test_a_fault_in_a_rule_is_caught(cls, message):
    with pytest.raises(AssertionError, match=message):
        check_enumeration(cls())


class Autoencoder(Objective):
    """Squared error of a drawn code's image, with a learned scale: it passes, and has places for faults."""

    def __init__(self):
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(()))
        self.register_buffer("constants", torch.linspace(0, 1, len(IMAGES)))  # one for each training image

    def terms(self, model, batch, generator):
        x = model.pixels(batch.images)
        posterior = model.posterior_of_pixels(x)
        error = (model.decoder_logits(self.codes(posterior, generator)).sigmoid() - x[:, None]).square().flatten(2)
        error = (posterior.probs * error.sum(2)).sum(1) + self.constants[batch.indices]  # (B,)
        return self.named(self.mean(error) * (-self.log_scale).exp() + self.log_scale, error.mean())

    def codes(self, posterior, generator):
        return posterior.sample(generator)

    def mean(self, error):
        return error.mean()

    def named(self, loss, error):
        return {"loss": loss, "error": error}


class LossLast(Autoencoder):
    def named(self, loss, error):
        return {"error": error, "loss": loss}


class Unnamed(Autoencoder):
    def named(self, loss, error):
        return loss, error


class ErrorOfEachImage(Autoencoder):
    def named(self, loss, error):
        return {"loss": loss, "error": error.expand(3)}


class Unbounded(Autoencoder):
    def named(self, loss, error):
        return {"loss": loss, "error": error.log() - error.log() + (0 * error).log()}


class GlobalNoise(Autoencoder):
    def codes(self, posterior, generator):
        return posterior.sample()


class DetachedCodes(Autoencoder):
    def codes(self, posterior, generator):
        return posterior.sample(generator).detach()


class DetachedScale(Autoencoder):
    def named(self, loss, error):
        return super().named(loss + (self.log_scale.detach() - self.log_scale), error)


class SecondScale(Autoencoder):
    def __init__(self):
        super().__init__()
        self.other = nn.Parameter(torch.zeros(()))


class FirstImageTwice(Autoencoder):
    def mean(self, error):
        return error.mean() + error[0]


class LeftInEvaluation(Autoencoder):
    def terms(self, model, batch, generator):
        return super().terms(model.eval(), batch, generator)


class Frozen(Autoencoder):
    def terms(self, model, batch, generator):
        model.decoder.requires_grad_(False)
        return super().terms(model, batch, generator)


class BytesAlways(Autoencoder):
    def terms(self, model, batch, generator):
        return super().terms(model, batch._replace(images=batch.images.double() / 255), generator)


class PlainConstants(Autoencoder):
    def __init__(self):
        super().__init__()
        constants = self.constants
        del self.constants
        self.constants = constants


class HalfOfItsState(Autoencoder):
    def state_dict(self, *arguments, **settings):
        return {
            name: value for name, value in super().state_dict(*arguments, **settings).items() if name != "log_scale"
        }

    def load_state_dict(self, state, strict=True, assign=False):
        return super().load_state_dict(state, strict=False)


class ThreeImagesAtLeast(Autoencoder):
    def mean(self, error):
        return error.sum() / (len(error) - 2)


class RootOfNothing(Autoencoder):
    def named(self, loss, error):
        return super().named(loss + (0 * error).sqrt(), error)


OBJECTIVES = [
    (ThreeImagesAtLeast, "the term loss must be finite"),
    (RootOfNothing, "the gradient of the loss must be finite, got NaN or infinity in"),
    (LossLast, r"with loss first, got \['error', 'loss'\]"),
    (Unnamed, r"must be a named tuple or a mapping, with loss first, got \['tuple'\]"),
    (ErrorOfEachImage, r"the term error must have shape \(\), got \(3,\)"),
    (Unbounded, "the term error must be finite"),
    (GlobalNoise, "the loss must leave the global generators as they were"),
    (DetachedCodes, "must be its slope"),
    (DetachedScale, "must be its slope"),
    (SecondScale, "must reach other, got zero"),
    (FirstImageTwice, "the change of the loss when images change places must be 0 within"),
    (LeftInEvaluation, r"must leave the model as it was, got changes .*training=True there, training=False here"),
    (Frozen, r"must leave the model as it was, got changes .*frozen here"),
    (BytesAlways, "images / 255 in floating point must be the same"),
    (PlainConstants, r"got PlainConstants\.constants as a plain attribute"),
    (HalfOfItsState, "a copy that was given the objective's state must be the same"),
]


def test_an_objective_of_ones_own_passes():
    check_objective(Autoencoder())


@pytest.mark.parametrize(("cls", "message"), OBJECTIVES, ids=[case[0].__name__ for case in OBJECTIVES])
def test_a_fault_in_an_objective_is_caught(cls, message):
    with pytest.raises(AssertionError, match=message):
        check_objective(cls())


class Surprise(Objective):
    """Entropy of q_D with a learned weight: one of a discrete encoder alone that passes, and has places for faults."""

    def __init__(self):
        super().__init__()
        self.log_weight = nn.Parameter(torch.zeros(()))

    def terms(self, model, batch, generator):
        log_probs = self.logits(model, model.pixels(batch.images), generator).log_softmax(1)
        return {"loss": self.weight() * -(log_probs.exp() * log_probs).sum(1).mean() - self.log_weight}

    def logits(self, model, x, generator):
        return model.discrete_encoder(x)

    def weight(self):
        return self.log_weight.exp()


class NoiseOfItsOwn(Surprise):
    def logits(self, model, x, generator):
        return super().logits(model, x + 0.1 * torch.randn_like(x), generator)


class HalfAWeight(Surprise):
    def weight(self):
        return (0.5 * self.log_weight + 0.5 * self.log_weight.detach()).exp()


class EvaluationAlways(Surprise):
    def logits(self, model, x, generator):
        return super().logits(model.eval(), x, generator)


@pytest.mark.parametrize(
    ("cls", "message"),
    [
        (NoiseOfItsOwn, "the loss must leave the global generators as they were"),
        (HalfAWeight, "must be its slope"),
        (EvaluationAlways, "must leave the model as it was, got changes"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_fault_in_an_objective_of_a_discrete_encoder_alone_is_caught(cls, message):
    check_objective(Surprise(), encoder())
    with pytest.raises(AssertionError, match=message):
        check_objective(cls(), encoder())


def test_gradients_that_are_stopped_on_purpose_can_be_let_pass():
    check_objective(DetachedCodes(), exact_gradient=False)
    check_divergence(HalfDetached(), exact_gradient=False)


class OwnDecoder(nn.Module):
    """A linear decoder, with a place for faults."""

    def __init__(self, layer=None):
        super().__init__()
        self.linear = nn.Linear(2, 12)
        self.layer = nn.Identity() if layer is None else layer

    def forward(self, z):
        return self.layer(self.linear(z))


class DropoutAlways(nn.Module):
    def forward(self, x):
        return F.dropout(x, 0.5, training=True)


class Detached(nn.Module):
    def forward(self, x):
        return x.detach()


class Unused(nn.Linear):
    def forward(self, x):
        return x


class Counting(nn.Module):
    """Gives something else after each use."""

    def __init__(self):
        super().__init__()
        self.register_buffer("uses", torch.zeros(()))

    def forward(self, x):
        self.uses = self.uses + 1
        return x + self.uses


class Centred(nn.Module):
    def forward(self, x):
        return x - x.mean(0)


class Counted(nn.Module):
    calls = 0

    def forward(self, x):
        self.calls += 1
        return x


class InDouble(nn.Module):
    def forward(self, x):
        return x.double()


class OtherWhenRead(nn.Module):
    _gain = 1.0

    def _load_from_state_dict(self, *arguments):
        self._gain = 2.0

    def forward(self, x):
        return self._gain * x


DECODERS = {
    "centred": (Centred(), "what reconstruct gives for each image alone must be the same, .* no image may see"),
    "counted": (Counted(), r"looking at a model must leave the model as it was, got changes .*Counted\(calls="),
    "double": (InDouble(), r"what decoder gives must be torch\.float32"),
    "other when read": (OtherWhenRead(), "an image by a model read from a file must be the same"),
    "batch statistics": (nn.BatchNorm1d(12, track_running_stats=False), "no image may see the others"),
    "dropout always": (DropoutAlways(), "must leave the global generators as they were"),
    "detached": (Detached(), "what decoder gives must be differentiable"),
    "unused": (Unused(1, 1), r"what decoder gives must reach layer\.weight, got zero"),
    "counting": (Counting(), "what reconstruct gives, from generators in the same state, must be the same"),
}


def with_decoder(layer=None):
    shape = (1, 4, 3)
    with torch.random.fork_rng():
        torch.manual_seed(
            0
        )  # of a hundred networks this small about one gives the same for all codes, and hides faults
        encoders = networks.mlp_discrete_encoder(shape, 3, 8), networks.ComponentEncoder(shape, 3, 2, 4)
        decoder = OwnDecoder(layer)
    return GMLVM(GaussianMixturePrior.simplex(3, 2), *encoders, decoder, shape)


@pytest.mark.parametrize("layer", [None, nn.BatchNorm1d(12), nn.Dropout(0.5)], ids=["none", "norm", "dropout"])
def test_a_model_with_networks_of_ones_own_passes(layer):
    check_model(with_decoder(layer))


def test_a_prior_that_draws_elsewhere_is_caught_in_its_model():
    with pytest.raises(AssertionError, match="what sample gives must leave the global generators as they were"):
        check_model(GMLVM.for_images((1, 6, 5), 4, 3, prior=uneven(OwnNoise)))


@pytest.mark.parametrize(("layer", "message"), DECODERS.values(), ids=DECODERS)
def test_a_fault_in_a_model_is_caught(layer, message):
    with pytest.raises(AssertionError, match=message):
        check_model(with_decoder(layer))


class InOrder(Batches):
    """The images in order, eight at a time, from where it is: it passes, and has places for faults."""

    batch_size = 8

    def __init__(self):
        self.place = 0

    def draw(self, generator):
        rows = torch.arange(self.place, self.place + 8) % len(IMAGES)
        self.place += 8
        return self.batch(rows)

    def batch(self, rows):
        return Batch(IMAGES[rows], rows)

    def describe(self):
        return {"images": len(IMAGES)}

    def state(self):
        return {"place": torch.tensor(self.place)}

    def restore(self, state):
        self.place = int(state["place"])


class ForgetsItsPlace(InOrder):
    def state(self):
        return {}

    def restore(self, state):
        pass


class ForgetsItsOrder(InOrder):
    """The place is kept, but not the order, which is drawn when it is made."""

    def draw(self, generator):
        if self.place == 0:
            self.order = torch.randperm(len(IMAGES), generator=generator)
        return self.batch(self.order[super().draw(generator).indices])

    def restore(self, state):
        super().restore(state)
        self.order = torch.arange(len(IMAGES))


class DrawsWithNumPy(InOrder):
    def draw(self, generator):
        return self.batch(torch.from_numpy(np.random.randint(50, size=8)))  # noqa: NPY002


class Levels(InOrder):
    def batch(self, rows):
        return Batch(IMAGES[rows].float())


class Arrays(InOrder):
    def batch(self, rows):
        return IMAGES[rows].numpy()


class SmallIndices(InOrder):
    def batch(self, rows):
        return Batch(IMAGES[rows], rows.to(torch.int32))


class WithoutChannels(InOrder):
    def batch(self, rows):
        return Batch(IMAGES[rows, 0], rows)


class DescribesItsPlace(InOrder):
    def describe(self):
        return {"place": self.place}


class DescribesATensor(InOrder):
    def describe(self):
        return {"images": IMAGES[:1]}


class KeepsANumber(InOrder):
    def state(self):
        return {"place": self.place}


SOURCES = [
    (ForgetsItsPlace, "must go on with the same batches, got others"),
    (ForgetsItsOrder, "must go on with the same batches, got others"),
    (DrawsWithNumPy, "must go on with the same batches, got others"),
    (Levels, r"must be uint8 or floating point in .* got torch\.float32 from 1 to 254"),
    (Arrays, "must give a Batch whose images are a tensor, got ndarray"),
    (SmallIndices, "indices of a batch must be torch.int64"),
    (WithoutChannels, r"must have shape \(B, C, H, W\), none zero, got \(8, 4, 3\)"),
    (DescribesItsPlace, "must say the same of the same source"),
    (DescribesATensor, "must give what JSON can hold"),
    (KeepsANumber, r"place of state\(\) must be a tensor, got int"),
]


def test_a_source_of_ones_own_passes():
    check_batches(InOrder())


@pytest.mark.parametrize(("cls", "message"), SOURCES, ids=[case[0].__name__ for case in SOURCES])
def test_a_fault_in_a_source_is_caught(cls, message):
    with pytest.raises(AssertionError, match=message):
        check_batches(cls())


def test_a_source_that_cannot_be_copied_is_named():
    with pytest.raises(AssertionError, match=r"such that copy\.deepcopy can copy it, got: cannot pickle"):
        check_batches(LoaderBatches(images for images in [IMAGES]))


CHECKS = {
    check_prior: uneven(learn="loc"),
    check_divergence: Moments(),
    check_objective: Autoencoder(),
    check_model: with_decoder(nn.BatchNorm1d(12)),
}


@pytest.mark.parametrize(("check", "part"), CHECKS.items(), ids=[check.__name__ for check in CHECKS])
def test_a_check_leaves_the_part_and_the_global_generators_as_they_were(check, part):
    before, state, of_numpy = copy.deepcopy(part.state_dict()), torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    check(part)
    after = part.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert all(module.training for module in part.modules())
    assert torch.equal(torch.get_rng_state(), state)
    assert (np.random.get_state()[1] == of_numpy).all()  # noqa: NPY002


@pytest.mark.parametrize(
    "check", [check_prior, check_divergence, check_enumeration, check_objective, check_model, check_batches]
)
def test_what_is_no_such_part_is_refused(check):
    with pytest.raises(TypeError, match=r"must be of type .*, got Linear"):
        check(nn.Linear(1, 1))
