"""The worst perturbation of q_D, against cases where it is known."""

import numpy as np
import pytest
import torch
from scipy.special import expit, rel_entr
from torch import nn

from gmlvm.vat import virtual_adversarial_kl


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


def moved(weight, images, radius, seed=0):
    """For softmax(0, w.x): the probabilities of the second class at x and at the worst x + r, and x + r, in NumPy.

    The KL divergence grows away from x, so its gradient at the probe points along w, to the side where the probe lies.
    """
    w, x = weight.detach().numpy().ravel(), images.flatten(1).numpy()
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    side = np.sign(noise.flatten(1).numpy() @ w)
    shifted = x + radius * side[:, None] * w / np.linalg.norm(w)
    p, q = (expit(points @ w) for points in (x, shifted))
    return p, q, shifted


@pytest.mark.parametrize("seed", range(4))
def test_a_linear_network_is_moved_along_its_weights_and_away_from_the_image(two_classes, images, seed):
    p, q, _ = moved(two_classes[1].weight, images, 0.7, seed)
    expected = rel_entr(p, q) + rel_entr(1 - p, 1 - q)  # (B,)
    got = virtual_adversarial_kl(two_classes, images, 0.7, torch.Generator().manual_seed(seed))
    assert got.item() == pytest.approx(expected.mean(), rel=1e-9)


def test_the_unperturbed_side_is_a_fixed_target_and_so_is_the_perturbation(two_classes, images):
    weight = two_classes[1].weight
    virtual_adversarial_kl(two_classes, images, 0.7, torch.Generator().manual_seed(0)).backward()
    p, q, shifted = moved(weight, images, 0.7)
    # The derivative of the cross entropy of p and q by the logit at x + r is q - p; nothing comes from p, nor from r.
    np.testing.assert_allclose(weight.grad.numpy()[0], ((q - p)[:, None] * shifted).mean(0), rtol=1e-9)


@pytest.fixture
def curved():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(6, 20), nn.Tanh(), nn.Linear(20, 4)).double()


def test_the_direction_is_that_of_the_gradient_at_half_the_radius(curved, images):
    """Image by image, by a cross entropy, which differs from the divergence by a constant."""
    radius, changes = 3.0, []
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for x, way in zip(images, noise, strict=True):
        target = curved(x[None]).softmax(1).detach()
        probe = (x + radius / 2 * way / way.norm()).requires_grad_()
        (slope,) = torch.autograd.grad(nn.functional.cross_entropy(curved(probe[None]), target), probe)
        q = curved((x + radius * slope / slope.norm())[None]).softmax(1)
        changes.append(rel_entr(target.numpy(), q.detach().numpy()).sum())
    got = virtual_adversarial_kl(curved, images, radius, torch.Generator().manual_seed(0))
    assert got.item() == pytest.approx(np.mean(changes), rel=1e-9)


def test_it_is_at_least_that_of_a_random_perturbation(curved, images):
    worst = virtual_adversarial_kl(curved, images, 0.5, torch.Generator().manual_seed(0)).item()
    noise = torch.randn(200, *images.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    noise = 0.5 * noise / noise.flatten(2).norm(dim=2)[..., None, None, None]
    with torch.no_grad():
        p = curved(images).softmax(1).numpy()
        q = curved((images + noise).flatten(0, 1)).softmax(1).view(200, 6, 4).numpy()
    assert worst > rel_entr(p, q).sum(-1).mean(1).max()


def test_a_constant_network_does_not_change(images):
    constant = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    assert virtual_adversarial_kl(lambda x: constant.expand(len(x), 3), images).item() == 0.0


def test_a_radius_must_be_positive(two_classes, images):
    with pytest.raises(ValueError, match=r"radius must be a finite number in .* got 0"):
        virtual_adversarial_kl(two_classes, images, 0.0)


def test_the_generator_decides(curved, images):
    first, same, other = (
        virtual_adversarial_kl(curved, images, 2.0, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    )
    assert first == same
    assert first != other


def test_batch_norms_remember_no_perturbed_image(images):
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(12, 3)).double()
    virtual_adversarial_kl(network, images).backward()
    assert network[1].num_batches_tracked == 0
    assert (network[1].running_mean == 0).all()
    network(images)
    assert network[1].num_batches_tracked == 1


def test_batch_norms_go_on_remembering_after_an_error(images):
    norm = nn.BatchNorm2d(1).double()
    with pytest.raises(RuntimeError):
        virtual_adversarial_kl(nn.Sequential(norm, nn.Linear(7, 2)), images)
    assert norm.track_running_stats


def test_batch_norms_in_evaluation_mode_use_what_they_remember(images):
    norm = nn.BatchNorm2d(1, affine=False).double().eval()
    layers = nn.Flatten(), nn.Linear(6, 3).double()
    norm.running_mean.fill_(0.5)
    fixed = nn.Sequential(*layers)
    got = virtual_adversarial_kl(nn.Sequential(norm, *layers), images, 2.0, torch.Generator().manual_seed(0))
    shifted = virtual_adversarial_kl(
        lambda x: fixed((x - 0.5) / (1 + norm.eps) ** 0.5), images, 2.0, torch.Generator().manual_seed(0)
    )
    torch.testing.assert_close(got, shifted)


def test_the_direction_is_found_without_gradients_too(two_classes, images):
    with torch.no_grad():
        got = virtual_adversarial_kl(two_classes, images, 0.7, torch.Generator().manual_seed(0))
    assert got.item() == virtual_adversarial_kl(two_classes, images, 0.7, torch.Generator().manual_seed(0)).item() > 0
