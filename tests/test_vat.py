"""The worst perturbation of q_D, against cases where it is known."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from scipy.special import expit, rel_entr
from torch import nn

from gmlvm.vat import Smoothness, nearest_distance, running_statistics_kept, virtual_adversarial_kl, worst_perturbation


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


def test_what_is_known_of_the_images_is_not_asked_again_and_is_held_as_well(curved, images):
    asked = []

    def logits(x):
        asked.append(x)
        return curved(x)

    expected = virtual_adversarial_kl(logits, images, 0.5, torch.Generator().manual_seed(0))
    log_probs = curved(images).log_softmax(1)
    got = virtual_adversarial_kl(logits, images, 0.5, torch.Generator().manual_seed(0), log_probs)
    assert got == expected
    assert len(asked) == 3 + 2
    gradients = (torch.autograd.grad(change, curved.parameters()) for change in (expected, got))
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))
    with pytest.raises(ValueError, match=r"log_probs must have shape \(6, .*got \(2, 4\)"):
        virtual_adversarial_kl(logits, images, 0.5, None, log_probs[:2])


def test_its_length_is_2_if_nothing_is_said(curved, images):
    by_default = virtual_adversarial_kl(curved, images, generator=torch.Generator().manual_seed(0))
    assert by_default == virtual_adversarial_kl(curved, images, 2.0, torch.Generator().manual_seed(0))


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


# The nearest other image


@pytest.mark.parametrize("count", [2, 6, 60])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_nearest_distance_is_that_of_scipy(count, dtype):
    x = torch.rand(count, 1, 4, 5, generator=torch.Generator().manual_seed(0), dtype=dtype)
    distances = cdist(x.flatten(1), x.flatten(1)) + np.diag(np.full(count, np.inf))
    got = nearest_distance(x)
    assert got.dtype == dtype
    np.testing.assert_allclose(got, distances.min(1), rtol=1e-5)


@pytest.mark.parametrize("count", [3, 60])
def test_an_image_that_comes_twice_has_next_to_no_distance(count):
    x = torch.rand(count, 1, 4, 5, generator=torch.Generator().manual_seed(0))
    x[2] = x[0]
    got = nearest_distance(x)
    assert got[[0, 2]].max() < 5e-3
    assert got[1] > 0.3


def test_an_image_alone_has_no_nearest_other(images):
    with pytest.raises(ValueError, match="a distance to the nearest other image needs 2 images or more, got 1"):
        nearest_distance(images[:1])
    with pytest.raises(ValueError, match="needs 2 images or more, got 1"):
        Smoothness()(nn.Flatten(), images[:1])


# The perturbation itself


@pytest.mark.parametrize("seed", range(3))
def test_the_worst_perturbation_of_a_linear_network_is_along_its_weights(two_classes, images, seed):
    *_, shifted = moved(two_classes[1].weight, images, 0.7, seed)
    r = worst_perturbation(two_classes, images, 0.7, torch.Generator().manual_seed(seed))
    assert r.shape == images.shape
    assert not r.requires_grad
    np.testing.assert_allclose((images + r).flatten(1), shifted, rtol=1e-9)
    torch.testing.assert_close(r.flatten(1).norm(dim=1), torch.full((6,), 0.7, dtype=torch.float64))


def test_each_image_can_have_a_radius_of_its_own(curved, images):
    lengths = torch.tensor([0.0, 0.1, 0.5, 1.0, 2.0, 3.0], dtype=torch.float64)
    r = worst_perturbation(curved, images, lengths, torch.Generator().manual_seed(0))
    torch.testing.assert_close(r.flatten(1).norm(dim=1), lengths)
    changes, noise = [], torch.randn(images.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for x, way, length in zip(images, noise, lengths, strict=True):  # one by one, each with the noise that it had
        with torch.no_grad():
            target = curved(x[None]).log_softmax(1)
        probe = (x + length / 2 * way / way.norm()).requires_grad_()
        (slope,) = torch.autograd.grad(nn.functional.cross_entropy(curved(probe[None]), target.exp()), probe)
        q = curved((x + length * slope / slope.norm())[None]).softmax(1)
        changes.append(rel_entr(target.exp().numpy(), q.detach().numpy()).sum())
    got = virtual_adversarial_kl(curved, images, lengths, torch.Generator().manual_seed(0))
    assert got.item() == pytest.approx(np.mean(changes), rel=1e-9)


def test_radii_that_do_not_fit_are_refused(curved, images):
    for radius in (torch.ones(5), torch.ones(6, 1), torch.tensor(1.0)):
        for call in (virtual_adversarial_kl, worst_perturbation):
            with pytest.raises(ValueError, match=r"radius must have shape \(6\) \(batch,\), got"):
                call(curved, images, radius, torch.Generator().manual_seed(0))


def test_what_no_perturbation_changes_is_not_perturbed(images):
    r = worst_perturbation(lambda x: torch.zeros(len(x), 3, dtype=x.dtype), images, 2.0, None)
    assert torch.equal(r, torch.zeros_like(images))


@pytest.mark.parametrize("margin", [0.0, 45.0, 60.0])  # of logits: a slope of up to exp(-60), whose square is zero
def test_a_perturbation_has_its_length_where_q_is_nearly_certain(margin):
    x = torch.rand(4, 1, 2, 3, generator=torch.Generator().manual_seed(0))
    weight = torch.linspace(1, 2, 6)

    def logits(x):
        return torch.stack([torch.zeros(len(x)), x.flatten(1) @ weight - margin], 1)

    r = worst_perturbation(logits, x, 0.7, torch.Generator().manual_seed(0))
    along = r.flatten(1) @ weight / weight.norm()
    torch.testing.assert_close(along.abs(), torch.full((4,), 0.7))


# Smoothness


def test_a_share_is_that_of_the_nearest_distance_and_a_radius_is_one_for_all(curved, images):
    distances = cdist(images.flatten(1), images.flatten(1)) + np.diag(np.full(6, np.inf))
    radii = torch.tensor(0.3 * distances.min(1))
    for smoothness, radius in ((Smoothness(share=0.3), radii), (Smoothness(5.0, radius=0.7), 0.7)):
        got, expected = (
            call(curved, images, *arguments, torch.Generator().manual_seed(0))
            for call, arguments in ((smoothness, ()), (virtual_adversarial_kl, (radius,)))
        )
        assert got.item() == pytest.approx(expected.item(), rel=1e-9)  # without the weight
    assert (Smoothness(5.0).weight, Smoothness().weight, Smoothness().share) == (5.0, 1.0, 0.2)
    assert repr(Smoothness(2.0, 0.5)) == "Smoothness(2.0, share=0.5)"
    assert repr(Smoothness(2.0, radius=3.0)) == "Smoothness(2.0, radius=3.0)"


@pytest.mark.parametrize("name", ["weight", "share", "radius"])
@pytest.mark.parametrize(
    ("value", "error"), [(0.0, ValueError), (-1.0, ValueError), (np.nan, ValueError), ("1", TypeError)]
)
def test_settings_of_smoothness_are_positive_numbers(name, value, error):
    with pytest.raises(error, match=f"{name} must be"):
        Smoothness(**{name: value})


def test_running_statistics_are_kept_in_every_part_and_in_training_mode_alone(images):
    norms = nn.BatchNorm2d(1), nn.BatchNorm2d(1, track_running_stats=False), nn.BatchNorm2d(1).eval()
    network = nn.ModuleList(norms).double()
    with running_statistics_kept(network):
        outputs = [norm(images) for norm in norms]
    white = (images - images.mean()) / (images.var(correction=0) + 1e-5).sqrt()
    for output, expected in zip(outputs, (white, white, images / (1 + 1e-5) ** 0.5), strict=True):
        torch.testing.assert_close(output, expected)
    assert norms[0].num_batches_tracked == 0
    assert (norms[0].running_mean == 0).all()
    assert [norm.track_running_stats for norm in norms] == [True, False, True]
