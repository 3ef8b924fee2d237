"""The squared MMD from samples, against its double sums pair by pair and its invariants."""

import re

import memory
import numpy as np
import oracles
import pytest
import torch

from gmlvm import GaussianMixturePrior, pieces
from gmlvm.kernels import InverseMultiquadratic
from gmlvm.mmd import data_data, squared_mmd

CONSTANTS = (0.5, 2.0, 7.0)
ON = pytest.mark.parametrize("on", ["pairs", "codes"])


def random_case(seed=0, batch=5, num_components=3, samples=4, latent_dim=2):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    probs, prior_probs = normal(batch, num_components).softmax(1), normal(num_components).softmax(0)
    z, prior_z = normal(batch, num_components, latent_dim), normal(num_components, samples, latent_dim)
    return probs, z, prior_probs, prior_z


@ON
@pytest.mark.parametrize(("seed", "batch", "samples"), [(0, 5, 4), (1, 5, 4), (0, 2, 2)])
def test_it_agrees_with_the_brute_force_double_sum(on, seed, batch, samples):
    case = random_case(seed, batch, samples=samples)
    got = squared_mmd(*case, InverseMultiquadratic(CONSTANTS), on)
    expected = oracles.squared_mmd(*(t.numpy() for t in case), CONSTANTS, joint=on == "pairs")
    assert got.item() == pytest.approx(expected, rel=1e-10)


@ON
@pytest.mark.parametrize("batch", [2, 5])
def test_its_data_part_is_what_is_left_when_the_prior_weighs_nothing(on, batch):
    probs, z, prior_probs, prior_z = random_case(batch=batch)
    kernel = InverseMultiquadratic(CONSTANTS)
    whole = squared_mmd(probs, z, torch.zeros_like(prior_probs), prior_z, kernel, on)
    torch.testing.assert_close(data_data(probs, z, kernel, on), whole, rtol=1e-12, atol=0)


def test_pairs_are_compared_if_nothing_is_said():
    case, kernel = random_case(), InverseMultiquadratic(CONSTANTS)
    assert torch.equal(squared_mmd(*case, kernel), squared_mmd(*case, kernel, "pairs"))
    assert torch.equal(data_data(*case[:2], kernel), data_data(*case[:2], kernel, "pairs"))


@ON
def test_codes_that_are_not_kept_take_no_part(on):
    probs, z, prior_probs, prior_z = random_case()
    kept = torch.rand(5, 3, generator=torch.Generator().manual_seed(1)) > 0.4
    assert 2 < kept.sum() < 15
    weight, kernel = (probs * kept).requires_grad_(), InverseMultiquadratic(CONSTANTS)
    every = squared_mmd(weight, z, prior_probs, prior_z, kernel, on)
    moved = z.masked_fill(~kept[..., None], 9)
    some = squared_mmd(weight, moved, prior_probs, prior_z, kernel, on, kept=kept)
    torch.testing.assert_close(some, every, rtol=1e-12, atol=0)
    gradients = [torch.autograd.grad(value, weight)[0] * kept for value in (every, some)]
    torch.testing.assert_close(*gradients)


class Looking:
    """A kernel that remembers which squared distances it was asked for."""

    def __init__(self):
        self.seen = []

    def __call__(self, squared_distance):
        self.seen.append(squared_distance.detach())
        return 1 / (1 + squared_distance)


@pytest.mark.parametrize(("on", "count"), [("pairs", 3 * 2 * (2 + 4)), ("codes", 4 * (4 + 3 * 4))])
def test_codes_that_are_not_kept_cost_nothing(on, count):
    """Four codes of 15 are kept, two of a component at most, and compared with one another and with all samples."""
    probs, z, prior_probs, prior_z = random_case()
    kept = torch.zeros(5, 3, dtype=torch.bool)
    kept[[0, 2, 3, 4], [0, 1, 1, 2]] = True
    kernel = Looking()
    squared_mmd(probs * kept, z, prior_probs, prior_z, kernel, on, kept=kept, prior_part=torch.tensor(0.0))
    assert sum(distances.numel() for distances in kernel.seen) == count


@ON
def test_a_kernel_is_given_no_negative_distance(on):
    """Codes close together and far from the origin: what rounding leaves of |a|^2 + |b|^2 - 2 a.b has either sign."""
    probs, z, prior_probs, prior_z = (tensor.float() for tensor in random_case())
    kernel = Looking()
    squared_mmd(probs, 100 + z / 1000, prior_probs, 100 + prior_z / 1000, kernel, on)
    assert min(distances.min() for distances in kernel.seen) == 0


@ON
def test_a_known_prior_part_takes_the_place_of_the_estimated_one(on):
    case, kernel = random_case(), InverseMultiquadratic(CONSTANTS)
    estimated = squared_mmd(*case, kernel, on)
    with_zero, with_two = (
        squared_mmd(*case, kernel, on, prior_part=torch.tensor(p, dtype=torch.float64)) for p in (0.0, 2.0)
    )
    assert (with_two - with_zero).item() == pytest.approx(2)
    assert with_zero < estimated


@ON
def test_it_is_zero_in_expectation_for_equal_distributions(on):
    """Codes drawn from the prior with the prior's weights: the estimate must average to zero, with both signs."""
    prior = GaussianMixturePrior.simplex(3, 2, edge=2.0)
    kernel = InverseMultiquadratic.for_prior(prior)
    generator = torch.Generator().manual_seed(0)
    probs = prior.probs.expand(12, 3)
    values = []
    for _ in range(600):
        z, prior_z = (prior.sample_each(12, generator) for _ in range(2))
        values.append(squared_mmd(probs, z.transpose(0, 1), prior.probs, prior_z, kernel, on).item())
    assert abs(np.mean(values)) < 4 * np.std(values) / len(values) ** 0.5
    assert min(values) < 0 < max(values)


@ON
def test_it_does_not_depend_on_the_order_of_components_or_images(on):
    probs, z, prior_probs, prior_z = random_case()
    kernel = InverseMultiquadratic(CONSTANTS)
    k, i = torch.tensor([2, 0, 1]), torch.tensor([4, 1, 0, 3, 2])
    before = squared_mmd(probs, z, prior_probs, prior_z, kernel, on)
    after = squared_mmd(probs[i][:, k], z[i][:, k], prior_probs[k], prior_z[k], kernel, on)
    torch.testing.assert_close(before, after)


def test_on_codes_it_is_blind_to_a_wasted_component_and_on_pairs_not():
    """All images take component 0, whose codes have the whole mixture's distribution: k is wasted, z is matched."""
    prior = GaussianMixturePrior.simplex(3, 2)
    kernel = InverseMultiquadratic.for_prior(prior)
    generator = torch.Generator().manual_seed(0)
    probs = torch.tensor([1.0, 0.0, 0.0]).expand(50, 3)
    values = {"pairs": [], "codes": []}
    for _ in range(200):
        z = prior.sample(150, generator=generator).unflatten(0, (50, 3))
        prior_z = prior.sample_each(20, generator)
        for on, seen in values.items():
            seen.append(squared_mmd(probs, z, prior.probs, prior_z, kernel, on).item())
    error = np.std(values["codes"]) / np.sqrt(200)
    assert abs(np.mean(values["codes"])) < 4 * error
    assert np.mean(values["pairs"]) > 100 * error


@ON
def test_gradients(on):
    case = random_case(batch=3, samples=2)
    kernel = InverseMultiquadratic(CONSTANTS)
    inputs = tuple(tensor.requires_grad_() for tensor in case)
    assert torch.autograd.gradcheck(lambda *given: squared_mmd(*given, kernel, on), inputs)
    assert torch.autograd.gradcheck(lambda *given: data_data(*given, kernel, on), inputs[:2])


@ON
def test_pairs_take_two(on):
    probs, z, prior_probs, prior_z = random_case()
    kernel = InverseMultiquadratic(CONSTANTS)
    with pytest.raises(ValueError, match="2 codes and 2 prior samples or more, got 1 and 4"):
        squared_mmd(probs[:1], z[:1], prior_probs, prior_z, kernel, on)
    with pytest.raises(ValueError, match="2 codes and 2 prior samples or more, got 5 and 1"):
        squared_mmd(probs, z, prior_probs, prior_z[:, :1], kernel, on)
    with pytest.raises(ValueError, match="2 images or more, got 1"):
        data_data(probs[:1], z[:1], kernel, on)


def test_codes_that_are_not_kept_are_not_looked_at():
    probs, z, prior_probs, prior_z = random_case()
    kept, kernel = torch.ones(5, 3).bool(), InverseMultiquadratic(CONSTANTS)
    kept[1, 2], probs[1, 2], z[1, 2] = False, 0, torch.nan
    assert data_data(probs, z, kernel, "codes", kept).isfinite()
    assert squared_mmd(probs, z, prior_probs, prior_z, kernel, "codes", kept=kept).isfinite()


def test_what_does_not_fit_is_named_with_its_shape_and_meaning():
    probs, z, prior_probs, prior_z = random_case()
    kernel, kept = InverseMultiquadratic(CONSTANTS), torch.ones(5, 2).bool()
    batch = "(batch, num_components"
    cases = [
        ((probs, z, prior_probs, prior_z), "both", None, "on must be one of 'pairs', 'codes'; got 'both'"),
        (
            (probs, z[0], prior_probs, prior_z), "pairs", None,
            f"z must have shape (*, *, *) {batch}, latent_dim), got (3, 2)",
        ),
        ((probs[:4], z, prior_probs, prior_z), "pairs", None, f"probs must have shape (5, 3) {batch}), got (4, 3)"),
        ((probs, z, prior_probs, prior_z), "pairs", kept, f"kept must have shape (5, 3) {batch}), got (5, 2)"),
        (
            (probs, z, prior_probs[:2], prior_z), "pairs", None,
            "prior_probs must have shape (3) (num_components,), got (2,)",
        ),
        (
            (probs, z, prior_probs, prior_z[:2]), "pairs", None,
            "prior_z must have shape (3, *, 2) (num_components, samples, latent_dim), got (2, 4, 2)",
        ),
    ]  # fmt: skip
    for given, on, kept, message in cases:
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            squared_mmd(*given, kernel, on, kept=kept)
        if "prior" not in message:
            with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
                data_data(*given[:2], kernel, on, kept)


# A kernel of one's own.


@ON
def test_any_function_of_squared_distances_is_a_kernel(on):
    def own(squared_distance):
        return sum(c / (c + squared_distance) for c in CONSTANTS)

    case = random_case()
    built_in, by_hand = (squared_mmd(*case, kernel, on) for kernel in (InverseMultiquadratic(CONSTANTS), own))
    torch.testing.assert_close(by_hand, built_in, rtol=1e-12, atol=0)


@ON
@pytest.mark.parametrize("piece", [2**21, 60])
def test_a_kernel_that_is_trained_gets_its_gradient_also_where_the_batch_is_large(on, piece, monkeypatch):
    monkeypatch.setattr(pieces, "_CPU", piece)
    case = random_case()

    def value(log_width):
        return squared_mmd(*case, lambda squared: (-squared / log_width.exp()).exp(), on)

    assert torch.autograd.gradcheck(value, torch.tensor(0.3, dtype=torch.float64, requires_grad=True))


# Memory.


@ON
@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("some", [False, True])
def test_in_pieces_it_has_the_same_value_and_gradients(on, known, some, monkeypatch):
    case = tuple(tensor.requires_grad_() for tensor in random_case(batch=6))
    kernel = InverseMultiquadratic(CONSTANTS)
    options = {}
    if known:
        options["prior_part"] = torch.tensor(0.5, dtype=torch.float64)
    if some:
        options["kept"] = torch.rand(6, 3, generator=torch.Generator().manual_seed(1)) > 0.4
    results = []
    for piece in (2**21, 60):
        monkeypatch.setattr(pieces, "_CPU", piece)
        value = squared_mmd(*case, kernel, on, **options)
        results.append((value, *torch.autograd.grad(value, case)))
    torch.testing.assert_close(*results, rtol=1e-10, atol=1e-14)


def test_a_batch_of_ten_components_and_128_images_is_one_piece(monkeypatch):
    """So that its values are, to the last bit, what they have always been."""
    monkeypatch.setattr(pieces, "_SumInPieces", None)
    case = random_case(batch=128, num_components=10, samples=16, latent_dim=9)
    assert squared_mmd(*case, InverseMultiquadratic(CONSTANTS), "codes").isfinite()


def test_a_large_batch_on_codes_takes_little_memory():
    """6,400 codes and 1,600 samples have 51 million kernel values: at once they would take 1.5 gigabytes."""
    preparation = """
from gmlvm.kernels import InverseMultiquadratic
from gmlvm.mmd import squared_mmd
probs = torch.rand(64, 100).softmax(1).requires_grad_()
z = torch.randn(64, 100, 9).requires_grad_()
prior = torch.full((100,), 0.01), torch.randn(100, 16, 9)
kernel = InverseMultiquadratic([1.0, 10.0])
"""
    computation = "squared_mmd(probs, z, *prior, kernel, 'codes').backward()"
    assert memory.peak_megabytes(preparation, computation) < 400
