"""Both posteriors of a batch: normalised, sampled with the right moments, refused when they are no distributions."""

import math

import pytest
import torch

from gmlvm import Posterior


@pytest.fixture
def posterior():
    generator = torch.Generator().manual_seed(0)
    loc = torch.randn(5, 4, 3, generator=generator)
    scale = torch.rand(5, 4, 3, generator=generator) + 0.1
    return Posterior(torch.randn(5, 4, generator=generator), loc, scale)


def test_probabilities_are_the_normalised_exponentials(posterior):
    rows = [[math.exp(logit) for logit in row] for row in posterior.logits.tolist()]
    expected = torch.tensor([[value / sum(row) for value in row] for row in rows])
    torch.testing.assert_close(posterior.probs, expected)
    torch.testing.assert_close(posterior.log_probs, expected.log())


def test_log_probs_read_under_no_grad_have_gradients_later(posterior):
    logits = posterior.logits.clone().requires_grad_()
    read_twice = Posterior(logits, posterior.loc, posterior.scale)
    with torch.no_grad():
        assert read_twice.log_probs.isfinite().all()
    (gradient,) = torch.autograd.grad(read_twice.log_probs[:, 0].sum(), logits)
    # The derivative of log softmax_0 with respect to logit j is 1 for j = 0, less softmax_j.
    torch.testing.assert_close(gradient, torch.eye(4)[0] - posterior.probs)


def test_samples_have_the_posteriors_mean_and_scale(posterior):
    generator = torch.Generator().manual_seed(0)
    z = torch.stack([posterior.sample(generator) for _ in range(4000)])
    standard = ((z - posterior.loc) / posterior.scale).flatten(1)
    assert standard.mean(0).abs().max() < 4 / 4000**0.5
    assert (standard.std(0) - 1).abs().max() < 4 / (2 * 4000) ** 0.5


def test_samples_have_gradients_in_mean_and_scale(posterior):
    loc, scale = posterior.loc.clone().requires_grad_(), posterior.scale.clone().requires_grad_()
    z = Posterior(posterior.logits, loc, scale).sample(torch.Generator().manual_seed(0))
    z.sum().backward()
    torch.testing.assert_close(loc.grad, torch.ones_like(loc))
    torch.testing.assert_close(scale.grad, ((z - loc) / scale).detach())


def test_a_sound_posterior_passes_also_with_a_component_ruled_out(posterior):
    posterior.check()
    logits = posterior.logits.clone()
    logits[:, 1] = -torch.inf
    Posterior(logits, posterior.loc, posterior.scale).check()


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("logits", math.nan, r"q_D\(k\|x\) must be finite"),
        ("logits", math.inf, r"q_D\(k\|x\) must be finite"),
        ("loc", math.nan, r"means of q_C\(z\|k,x\) must be finite"),
        ("loc", math.inf, r"means of q_C\(z\|k,x\) must be finite"),
        ("scale", 0.0, "positive and finite, got values from 0 to .*exponential"),
        ("scale", -0.5, "positive and finite, got values from -0.5 to .*exponential"),
        ("scale", math.inf, "positive and finite, got values from .* to inf"),
        ("scale", math.nan, "positive and finite, got values from nan"),
    ],
)
def test_one_bad_value_is_refused(posterior, part, value, message):
    getattr(posterior, part).view(-1)[7] = value
    with pytest.raises(ValueError, match=message):
        posterior.check()
