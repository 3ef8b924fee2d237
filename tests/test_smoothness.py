"""The worst perturbation of q_D, against cases where it is known."""

import math

import numpy as np
import pytest
import torch
from gmlvm.smoothness import adversarial_change
from scipy.special import rel_entr
from torch import nn


@pytest.fixture
def images():
    return torch.rand(6, 1, 3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.fixture
def two_classes():
    """Logits 0 and w.x: the steepest way is along w, from everywhere."""
    layer = nn.Linear(6, 1, bias=False, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, -2.0, 0.5, 0.0, 3.0, -1.0]]))
    return nn.Sequential(nn.Flatten(), layer, nn.ZeroPad1d((1, 0)))


def change_along(weight, x, shift):
    """KL of softmax(0, w.x) from softmax(0, w.x + shift), by SciPy."""
    logit = x.flatten(1).numpy() @ weight.detach().numpy().ravel()
    p, q = (1 / (1 + np.exp(-value)) for value in (logit, logit + shift))
    return rel_entr(p, q) + rel_entr(1 - p, 1 - q)


def test_a_linear_network_is_moved_along_its_weights(two_classes, images):
    weight = two_classes[1].weight
    radius = 0.7
    shift = radius * weight.norm().item()
    for image in images.split(1):
        got = adversarial_change(two_classes, image, radius, torch.Generator().manual_seed(0)).item()
        # The gradient at the probe points away from the image: one way along w or the other.
        both = [change_along(weight, image, sign * shift)[0] for sign in (1, -1)]
        assert min(abs(got - value) for value in both) < 1e-9


def test_it_is_the_mean_over_the_batch(two_classes, images):
    weight = two_classes[1].weight
    shift = 0.7 * weight.norm().item()
    got = adversarial_change(two_classes, images, 0.7, torch.Generator().manual_seed(0)).item()
    both = np.stack([change_along(weight, images, sign * shift) for sign in (1, -1)])
    assert both.min(0).mean() - 1e-9 <= got <= both.max(0).mean() + 1e-9


def test_it_is_at_least_that_of_a_random_perturbation(images):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(6, 20), nn.Tanh(), nn.Linear(20, 4)).double()
    worst = adversarial_change(network, images, 0.5, torch.Generator().manual_seed(0)).item()
    noise = torch.randn(200, *images.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    noise = 0.5 * noise / noise.flatten(2).norm(dim=2)[..., None, None, None]
    with torch.no_grad():
        p = network(images).softmax(1).numpy()
        q = network((images + noise).flatten(0, 1)).softmax(1).view(200, 6, 4).numpy()
    assert worst > rel_entr(p, q).sum(-1).mean(1).max()


def test_a_constant_network_does_not_change(images):
    constant = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    assert adversarial_change(lambda x: constant.expand(len(x), 3), images).item() == 0.0


def test_the_unperturbed_side_is_a_fixed_target(two_classes, images):
    weight = two_classes[1].weight
    adversarial_change(two_classes, images, 0.7, torch.Generator().manual_seed(0)).backward()
    got = weight.grad.norm().item()
    assert math.isfinite(got)
    assert got > 0
    # At a vanishing radius both sides are equal, where a KL has no gradient on the side that is not its target.
    weight.grad = None
    adversarial_change(two_classes, images, 1e-9, torch.Generator().manual_seed(0)).backward()
    assert weight.grad.norm().item() == pytest.approx(0, abs=1e-6)


def test_a_radius_must_be_positive(two_classes, images):
    with pytest.raises(ValueError, match=r"radius must be a finite number in .* got 0"):
        adversarial_change(two_classes, images, 0.0)


def test_the_generator_decides(images):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(6, 20), nn.Tanh(), nn.Linear(20, 4)).double()
    first, same, other = (adversarial_change(network, images, 2.0, torch.Generator().manual_seed(s)) for s in (0, 0, 1))
    assert first == same
    assert first != other


def test_batch_norms_remember_no_perturbed_image(images):
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(12, 3)).double()
    adversarial_change(network, images).backward()
    assert network[1].num_batches_tracked == 0
    assert (network[1].running_mean == 0).all()
    network(images)
    assert network[1].num_batches_tracked == 1
