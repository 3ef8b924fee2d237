"""The kernels against their formulas, and their expectations against quadrature and samples by the million."""

import numpy as np
import oracles
import pytest
import torch

from gmlvm import GaussianMixturePrior
from gmlvm.kernels import DEFAULT_BANDWIDTHS, Gaussian, InverseMultiquadratic, Kernel, is_constant

SAMPLES = 1_000_000
CONSTANTS, WIDTHS = (0.5, 2.0, 7.0), (0.4, 1.5, 3.0)
KERNELS = {
    "inverse multiquadratic": (
        InverseMultiquadratic(CONSTANTS),
        lambda squared: sum(c / (c + squared) for c in CONSTANTS),
    ),
    "Gaussian": (Gaussian(WIDTHS), lambda squared: sum(np.exp(-squared / (2 * w**2)) for w in WIDTHS)),
}


def unequal_prior():
    """Variances 1, 4, 9 and 16 in two dimensions: their mean is 7.5, and 2 D times it is 30."""
    return GaussianMixturePrior(torch.zeros(2, 2), torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([0.0, 2.0]))


def random_case(seed, dim):
    rng = np.random.default_rng(seed)
    difference = rng.normal(size=dim) * rng.uniform(0, 4)
    variance = rng.uniform(0.01, 3, size=dim)
    constants = 2 * dim * np.array(DEFAULT_BANDWIDTHS) * rng.uniform(0.3, 1)
    return rng, difference, variance, constants


@pytest.mark.parametrize("name", KERNELS)
def test_a_kernel_has_the_values_and_the_slope_of_its_formula(name):
    kernel, formula = KERNELS[name]
    squared = torch.linspace(0, 50, 40, dtype=torch.float64).requires_grad_()
    np.testing.assert_allclose(kernel(squared).detach(), formula(squared.detach().numpy()), rtol=1e-13)
    assert torch.autograd.gradcheck(kernel, squared)


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("dim", [1, 2])
def test_the_expected_kernel_agrees_with_quadrature_of_the_density(name, dim):
    kernel, formula = KERNELS[name]
    for seed in range(3):
        _, difference, variance, _ = random_case(seed, dim)
        got = kernel.expected(torch.from_numpy(difference), torch.from_numpy(variance), nodes=100).item()
        exact = oracles.gaussian_mean(formula, difference, variance)
        assert got == pytest.approx(exact, rel=1e-9 if name == "Gaussian" else 2e-3)


@pytest.mark.parametrize("dim", [1, 2, 9, 20])
@pytest.mark.parametrize("seed", range(3))
def test_the_expected_kernel_agrees_with_a_million_samples(seed, dim):
    rng, difference, variance, constants = random_case(seed, dim)
    distance = np.zeros(SAMPLES)
    for d in range(dim):
        distance += (difference[d] + np.sqrt(variance[d]) * rng.normal(size=SAMPLES)) ** 2
    arguments = torch.from_numpy(difference), torch.from_numpy(variance)
    widths = np.sqrt(constants)
    for kernel, values in (
        (InverseMultiquadratic(constants.tolist()), sum(c / (c + distance) for c in constants)),
        (Gaussian(widths.tolist()), sum(np.exp(-distance / (2 * w**2)) for w in widths)),
    ):
        assert abs(kernel.expected(*arguments).item() - values.mean()) <= 4 * values.std() / SAMPLES**0.5


@pytest.mark.parametrize(
    ("dim", "nodes", "alike", "bound"),
    [(9, 4, True, 1e-3), (9, 8, True, 1e-4), (1, 8, True, 2e-2), (9, 8, False, 2e-2)],
)
def test_the_quadrature_is_as_accurate_as_documented(dim, nodes, alike, bound):
    errors = []
    for seed in range(200):
        rng, difference, variance, _ = random_case(seed, dim)
        if not alike:
            variance[1:] = 0
        constant = (np.square(difference).sum() + variance.sum()) * np.exp(rng.uniform(np.log(1 / 15), np.log(15)))
        kernel = InverseMultiquadratic([constant])
        arguments = torch.from_numpy(difference), torch.from_numpy(variance)
        fine = kernel.expected(*arguments, nodes=100).item()
        errors.append(abs(kernel.expected(*arguments, nodes=nodes).item() - fine))
    assert max(errors) < bound


def test_many_nodes_do_not_overflow_in_float32():
    kernel = InverseMultiquadratic([5.0])
    arguments = torch.tensor([0.7]), torch.tensor([1.2])
    exact = kernel.expected(*(t.double() for t in arguments), nodes=100)
    torch.testing.assert_close(kernel.expected(*arguments, nodes=100), exact.float())


@pytest.mark.parametrize("name", KERNELS)
def test_without_variance_the_expectation_is_the_kernel(name):
    kernel, _ = KERNELS[name]
    difference = torch.tensor([[0.7, -1.1], [0.0, 0.0]], dtype=torch.float64)
    got = kernel.expected(difference, torch.zeros(2, dtype=torch.float64), nodes=1)
    torch.testing.assert_close(got, kernel(difference.square().sum(-1)), rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", KERNELS)
def test_the_expected_kernel_has_right_gradients(name):
    _, difference, variance, _ = random_case(0, 3)
    inputs = tuple(torch.from_numpy(values).requires_grad_() for values in (difference, variance))
    assert torch.autograd.gradcheck(KERNELS[name][0].expected, inputs)


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("dim", [1, 3])
def test_eight_nodes_are_taken_if_nothing_is_said_and_their_number_is_checked(name, dim):
    kernel, (_, difference, variance, _) = KERNELS[name][0], random_case(0, dim)
    arguments = torch.from_numpy(difference), torch.from_numpy(variance)
    assert torch.equal(kernel.expected(*arguments), kernel.expected(*arguments, nodes=8))
    if name == "inverse multiquadratic":  # the other is exact without any
        assert not torch.equal(kernel.expected(*arguments), kernel.expected(*arguments, nodes=9))
        with pytest.raises(ValueError, match=r"^nodes must be at least 1, got 0"):
            kernel.expected(*arguments, nodes=0)


def test_only_kernels_of_numbers_are_known_to_stay_as_they_are():
    class Own(Gaussian):
        pass

    assert is_constant(Gaussian(WIDTHS))
    assert is_constant(InverseMultiquadratic(CONSTANTS))
    assert not is_constant(InverseMultiquadratic(torch.tensor(CONSTANTS)))
    assert not is_constant(Own(WIDTHS))


@pytest.mark.parametrize("name", KERNELS)
def test_a_kernel_is_positive_definite(name):
    codes = torch.randn(60, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gram = KERNELS[name][0]((codes[:, None] - codes).square().sum(-1))
    assert torch.linalg.eigvalsh(gram).min() > 0


# Units of the prior.


def test_the_unit_is_the_mean_squared_distance_between_two_codes_of_one_component():
    prior, generator = unequal_prior(), torch.Generator().manual_seed(0)
    first, second = (prior.sample_each(200_000, generator) for _ in range(2))
    squared = (first - second).square().sum(-1)
    (unit,) = InverseMultiquadratic.for_prior(prior, (1.0,)).constants
    assert abs(squared.mean().item() - unit) < 4 * squared.std().item() / 400_000**0.5


def test_the_constants_take_the_mean_variance_of_components_and_directions():
    assert InverseMultiquadratic.for_prior(unequal_prior(), (0.5, 2.0)).constants == pytest.approx((15.0, 60.0))
    narrow = GaussianMixturePrior.simplex(4, 3, scale=0.5)
    assert InverseMultiquadratic.for_prior(narrow, (0.5, 2.0)).constants == pytest.approx((0.75, 3.0))


def test_on_a_cpu_the_constants_are_numbers_and_elsewhere_nothing_is_waited_for():
    kernel = InverseMultiquadratic.for_prior(unequal_prior())
    assert all(isinstance(constant, float) for constant in kernel.constants)
    away = InverseMultiquadratic.for_prior(unequal_prior().to("meta"))  # where there is no value to read
    assert all(constant.device.type == "meta" for constant in away.constants)
    squared = torch.ones(3, 4, device="meta", requires_grad=True)
    away(squared).sum().backward()
    assert squared.grad.shape == (3, 4)
    assert away.expected(torch.ones(3, 2, device="meta"), torch.ones(2, device="meta")).shape == (3,)


def test_constants_that_are_tensors_give_what_numbers_give():
    numbers = InverseMultiquadratic(CONSTANTS)
    tensors = InverseMultiquadratic([torch.tensor(c, dtype=torch.float64) for c in CONSTANTS])
    squared = torch.linspace(0, 50, 40, dtype=torch.float64)
    inputs = [squared.clone().requires_grad_() for _ in range(2)]
    values = [kernel(given) for kernel, given in zip((numbers, tensors), inputs, strict=True)]
    torch.testing.assert_close(*values, rtol=1e-14, atol=0)
    slopes = [torch.autograd.grad(value.sum(), given)[0] for value, given in zip(values, inputs, strict=True)]
    torch.testing.assert_close(*slopes, rtol=1e-14, atol=0)
    _, difference, variance, _ = random_case(1, 3)
    expected = [k.expected(torch.from_numpy(difference), torch.from_numpy(variance)) for k in (numbers, tensors)]
    torch.testing.assert_close(*expected, rtol=1e-14, atol=0)


# What can't be wrong without a word.


def test_a_constant_that_would_get_no_gradient_is_an_error():
    with pytest.raises(ValueError, match="ask for gradients would get none; write a kernel of your own"):
        InverseMultiquadratic([torch.tensor(1.0, requires_grad=True)])


@pytest.mark.parametrize("kind", [InverseMultiquadratic, Gaussian])
def test_a_list_that_changes_later_does_not_change_the_kernel(kind):
    given = [1.0, 2.0]
    kernel = kind(given)
    before = kernel(torch.ones(1))
    given[0] = 100.0
    assert torch.equal(kernel(torch.ones(1)), before)


def test_a_kernel_without_a_closed_form_says_so():
    class Exponential(Kernel):
        def __call__(self, squared_distance):
            return (-(squared_distance + 1e-6).sqrt()).exp()

    assert not Exponential().has_closed_form
    assert Gaussian([1.0]).has_closed_form
    with pytest.raises(NotImplementedError, match="Exponential has no closed form over Gaussians"):
        Exponential().expected(torch.zeros(2), torch.ones(2))


@pytest.mark.parametrize("bandwidths", [(), (0.0,), (1.0, -1.0)])
def test_bandwidths_and_constants_must_be_there_and_positive(bandwidths):
    with pytest.raises(ValueError, match=r"bandwidths must (hold at least one|be .* in \(0, inf\])"):
        Gaussian(bandwidths)
    with pytest.raises(ValueError, match=r"bandwidths must (hold at least one|be .* in \(0, inf\])"):
        InverseMultiquadratic.for_prior(unequal_prior(), bandwidths)
    with pytest.raises(ValueError, match=r"constants must (hold at least one|be .* in \(0, inf\])"):
        InverseMultiquadratic(bandwidths)
