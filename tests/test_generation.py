"""Drawn images judged by a classifier: distances against closed forms and loops, and a report of known answers."""

import numpy as np
import pytest
import torch
from torch import nn

from gmlvm import GMLVM, Clusterer, GaussianMixturePrior, datasets
from gmlvm.generation import (
    SampleReport,
    evaluate_samples,
    frechet_distance,
    kernel_distance,
    own_samples,
    prior_mixing,
)
from gmlvm.networks import ComponentEncoder, mlp_discrete_encoder

SHAPE = (1, 2, 2)


def with_moments(mean, covariance, count=50, seed=0):
    """A sample that has these moments exactly."""
    x = np.random.default_rng(seed).normal(size=(count, len(mean)))
    x -= x.mean(0)
    x = np.linalg.solve(np.linalg.cholesky(np.cov(x.T).reshape(len(mean), -1)), x.T).T  # white
    return mean + x @ np.linalg.cholesky(covariance).T


# Distances


def test_the_frechet_distance_of_gaussians_that_share_their_axes():
    """There the roots multiply: |m - n|^2 + sum (s - t)^2."""
    turn, s, t = (
        np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0],
        np.array([1.0, 2, 3]),
        np.array([2, 0.5, 3]),
    )
    a = with_moments(np.zeros(3), turn @ np.diag(s**2) @ turn.T)
    b = with_moments(np.array([1.0, -2, 2]), turn @ np.diag(t**2) @ turn.T, 70, seed=2)
    assert frechet_distance(a, b) == pytest.approx(9 + ((s - t) ** 2).sum(), rel=1e-8)


def test_the_frechet_distance_of_any_two_gaussians_in_the_plane():
    """Of a 2 x 2 matrix the trace of the root is known: sqrt(tr + 2 sqrt(det))."""
    first, second = np.array([[2.0, 1.2], [1.2, 1.0]]), np.array([[1.0, -0.5], [-0.5, 3.0]])
    product = first @ second
    root = np.sqrt(np.trace(product) + 2 * np.sqrt(np.linalg.det(product)))
    expected = 4 + np.trace(first) + np.trace(second) - 2 * root
    a, b = with_moments(np.array([1.0, 5]), first), with_moments(np.array([1.0, 3]), second, seed=1)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-8)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-8)


def test_a_sample_is_at_no_distance_from_itself_or_in_another_order():
    a = np.random.default_rng(0).normal(size=(40, 5))
    assert frechet_distance(a, a[::-1]) == pytest.approx(0, abs=1e-6)


def test_features_that_are_constant_and_fewer_samples_than_features_have_a_distance():
    """Their covariances have no root then, but its trace has a value: a classifier has units that are off."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(50, 2)), 3 + 2 * rng.normal(size=(60, 2))
    zeros = [np.zeros((len(x), 3)) for x in (a, b)]
    padded = [np.concatenate([x, zero], 1) for x, zero in zip((a, b), zeros, strict=True)]
    assert frechet_distance(*padded) == pytest.approx(frechet_distance(a, b), rel=1e-6)
    assert frechet_distance(zeros[0], zeros[1] + 2) == pytest.approx(12)
    few = rng.normal(size=(4, 20))
    assert frechet_distance(few, few) == pytest.approx(0, abs=1e-5)


def squared_mmd(x, y):
    """The unbiased estimate by its sums, pair by pair."""

    def kernel(u, v):
        return (u @ v / len(u) + 1) ** 3

    n, m = len(x), len(y)
    within = [
        sum(kernel(s[i], s[j]) for i in range(len(s)) for j in range(len(s)) if i != j) / (len(s) * (len(s) - 1))
        for s in (x, y)
    ]
    return sum(within) - 2 * sum(kernel(u, v) for u in x for v in y) / (n * m)


def test_the_kernel_distance_is_the_sum_written_out():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(12, 3)), 0.5 + rng.normal(size=(12, 3))
    assert kernel_distance(a, b) == pytest.approx(squared_mmd(a, b), rel=1e-10)
    pieces = [squared_mmd(a[i : i + 4], b[i : i + 4]) for i in (0, 4, 8)]
    assert kernel_distance(a, b, size=4) == pytest.approx(np.mean(pieces), rel=1e-10)
    # Of what does not come out even the pieces are larger, and none is too small for an estimate.
    pieces = [squared_mmd(a[:6], b[:6]), squared_mmd(a[6:], b[6:])]
    assert kernel_distance(a, b, size=5) == pytest.approx(np.mean(pieces), rel=1e-10)
    assert kernel_distance(a[:5], b, size=2) == pytest.approx(
        np.mean([squared_mmd(a[:3], b[:3]), squared_mmd(a[3:5], b[3:5])])
    )


def test_the_kernel_distance_has_no_bias():
    rng = np.random.default_rng(0)
    same = [kernel_distance(*rng.normal(size=(2, 20, 3))) for _ in range(400)]
    assert abs(np.mean(same)) < 4 * np.std(same) / 20
    assert min(same) < 0
    assert kernel_distance(rng.normal(size=(200, 3)), 1 + rng.normal(size=(200, 3))) > 10 * np.std(same)


@pytest.mark.parametrize("distance", [frechet_distance, kernel_distance])
@pytest.mark.parametrize("shapes", [((5, 3), (5, 2)), ((1, 3), (5, 3)), ((5, 3), (1, 3)), ((5,), (5,))])
def test_features_that_do_not_fit_are_refused(distance, shapes):
    with pytest.raises(ValueError, match=r"features must have shapes \(N, F\) and \(M, F\), N and M at least 2, got"):
        distance(*map(np.ones, shapes))


def test_pieces_must_hold_two():
    with pytest.raises(ValueError, match="size must be at least 2, got 1"):
        kernel_distance(np.ones((5, 2)), np.ones((5, 2)), size=1)


# The report


class Pixels(nn.Module):
    """A decoder that draws the first four numbers of a code as logits of the pixels."""

    def forward(self, z):
        return z.unflatten(1, SHAPE)


def drawing(loc, scale=0.3):
    """A model whose component k draws images about the logits ``loc[k]``."""
    prior = GaussianMixturePrior(torch.tensor(loc), scale)
    k, d = prior.loc.shape
    return GMLVM(prior, mlp_discrete_encoder(SHAPE, k, 4), ComponentEncoder(SHAPE, k, d, 2), Pixels(), SHAPE)


def corner_classifier(num_classes=4):
    """Label = the brightest pixel; the features are the pixels. With more classes those are never said."""
    last = nn.Linear(4, num_classes)
    with torch.no_grad():
        last.weight.copy_(10 * torch.eye(num_classes, 4))
        last.bias.copy_(torch.tensor([0.0] * 4 + [-1e3] * (num_classes - 4)))
    return Clusterer(nn.Sequential(nn.Flatten(), nn.Dropout(0.5), last), SHAPE)


def bright(k, by=3.0):
    return [by if i == k else -by for i in range(4)]


@pytest.fixture(scope="module")
def data():
    """Test images that the model with a bright pixel each draws."""
    images = torch.cat([drawing([bright(k) for k in range(4)]).sample(100, k, generator=seeded(k)) for k in range(4)])
    labels = np.arange(4).repeat(100)
    return datasets.from_arrays(images[::7], labels[::7], images, labels, channels="first")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_a_model_that_draws_the_images_is_pure_and_near(data):
    report = evaluate_samples(drawing([bright(k) for k in (2, 0, 3, 1)]), corner_classifier(), data, samples=200)
    assert report.purity == report.least_purity == 1
    assert report.component_purities == (1, 1, 1, 1)
    assert report.component_labels == (2, 0, 3, 1)
    assert report.labels_recalled == 4
    assert report.diversity == pytest.approx(1, abs=0.1)
    assert report.frechet == pytest.approx(0, abs=1e-3)
    assert report.kernel == pytest.approx(0, abs=2)


class Brightest(nn.Module):
    """A discrete encoder that goes by the brightest pixel."""

    def forward(self, x):
        return 10 * x.flatten(1)


def test_own_samples_are_those_that_go_back_where_they_came_from():
    model = drawing([bright(0), bright(1), bright(3), [3.0, 3, -3, -3]])
    model.discrete_encoder = Brightest()
    shares = own_samples(model, 50)
    assert shares.tolist() == [1, 1, 0, 0]  # what lights pixel 3 goes to the fourth, what lights two to the first two
    model.discrete_encoder = nn.Sequential(nn.Flatten(), nn.Linear(4, 4))
    assert own_samples(model, 7, seed=1).tolist() == own_samples(model, 7, seed=1).tolist()
    with pytest.raises(ValueError, match="samples must be at least 1, got 0"):
        own_samples(model, 0)
    with pytest.raises(TypeError, match="model must be of type GMLVM"):
        own_samples(model.discrete_encoder)


class Coded(nn.Module):
    """A continuous encoder: Gaussians of one mean and width for every image, or with the pixels for its mean."""

    def __init__(self, k, loc=None, scale=1e-3):
        super().__init__()
        self.k, self.loc, self.scale = k, loc, nn.Parameter(torch.tensor(scale))

    def forward(self, x):
        loc = x.flatten(1) if self.loc is None else torch.full((len(x), 4), self.loc)
        return loc[:, None].expand(-1, self.k, -1), self.scale.expand(len(x), self.k, 4)


def coded(encoder, loc=((0.0, 0, 0, 0),), scale=1.0):
    model = drawing([list(row) for row in loc], scale)
    model.continuous_encoder, model.discrete_encoder = encoder, Brightest() if len(loc) == 4 else First()
    return model


class First(nn.Module):
    """A discrete encoder with one component."""

    def forward(self, x):
        return x.flatten(1)[:, :1]


def test_codes_mix_with_the_prior_s_draws_where_they_lie_as_these_do():
    images = torch.rand(300, *SHAPE, generator=seeded())
    alike = prior_mixing(coded(Coded(1, 0.0, 1.0)), images)
    assert alike == pytest.approx(0.5, abs=0.06)  # its standard deviation is about 0.025
    # A crowd at the mean and a cloud far away have no neighbours in the prior; one half as wide has too few.
    assert prior_mixing(coded(Coded(1, 50.0)), images) == 0
    assert 0 < prior_mixing(coded(Coded(1, 0.0, 0.5)), images) < alike - 0.05


def test_the_mixing_share_is_counted_point_by_point():
    images, model = torch.rand(9, *SHAPE, generator=seeded()), coded(Coded(4), [bright(k, 1.0) for k in range(4)])
    generator = seeded(3)
    posterior = model.posterior(images)
    codes = posterior.sample(generator).detach().numpy()[np.arange(9), images.flatten(1).argmax(1)]
    points = [*codes, *model.prior.sample(9, generator=generator).numpy()]
    other = 0
    for i, point in enumerate(points):
        nearest = min((j for j in range(18) if j != i), key=lambda j: np.linalg.norm(points[j] - point))
        other += (i < 9) != (nearest < 9)
    assert prior_mixing(model, images, seed=3) == prior_mixing(model, images.numpy(), seed=3) == other / 18
    assert prior_mixing(model, images, seed=3) != prior_mixing(model, images, seed=4)


def test_what_does_not_mix_with_a_prior_is_refused():
    model, images = coded(Coded(1)), torch.rand(2, *SHAPE)
    with pytest.raises(TypeError, match="model must be of type GMLVM, got Coded"):
        prior_mixing(model.continuous_encoder, images)
    with pytest.raises(ValueError, match="the number of images must be at least 2, got 1"):
        prior_mixing(model, images[:1])
    with pytest.raises(ValueError, match="seed must be at least 0, got -1"):
        prior_mixing(model, images, seed=-1)
    with pytest.raises(ValueError, match=r"x must have shape \(\*, 1, 2, 2\)"):
        prior_mixing(model, images[:, :, :1])


def test_what_is_mixed_narrow_or_missing_shows_where_it_should(data):
    """Component 0 between two labels, 1 and 2 of the same label, all of them narrow."""
    model = drawing([[3.0, 3.0, -3, -3], bright(2), bright(2), bright(3)], scale=0.03)
    report = evaluate_samples(model, corner_classifier(), data, samples=400)
    assert report.component_purities[1:] == (1, 1, 1)
    assert report.component_purities[0] == report.least_purity == pytest.approx(0.5, abs=0.1)
    assert report.purity == pytest.approx(np.mean(report.component_purities))
    assert report.component_labels[1:] == (2, 2, 3)
    assert report.labels_recalled == 3
    assert report.diversity == pytest.approx(0.1, abs=0.05)
    near = evaluate_samples(drawing([bright(k) for k in range(4)]), corner_classifier(), data, samples=400)
    assert report.frechet > 10 * near.frechet
    assert report.kernel > 10 * abs(near.kernel)


def test_distances_are_those_of_the_features_of_what_the_weights_of_the_prior_draw(data):
    """Ten times as many as of each component, drawn after these from the same generator."""
    model = drawing([bright(0), bright(1), bright(2), bright(3)])
    model.prior.logits.copy_(torch.tensor([0.7, 0.1, 0.1, 0.1]).log())
    report = evaluate_samples(model, corner_classifier(), data, samples=30, seed=5)
    generator = seeded(5)
    each = [model.sample(30, k, generator=generator).flatten(1).double().numpy() for k in range(4)]
    drawn = model.sample(300, generator=generator).flatten(1).double().numpy()
    real = data.test.images.flatten(1).double().numpy() / 255
    assert report.frechet == pytest.approx(frechet_distance(drawn, real), rel=1e-4)
    assert report.kernel == pytest.approx(1000 * kernel_distance(drawn, real), rel=1e-4)

    def spread(x):
        return np.mean([np.linalg.norm(x[i] - x[j]) for i in range(len(x)) for j in range(i)])

    diversity = np.mean([spread(x) / spread(real[100 * k : 100 * k + 30]) for k, x in enumerate(each)])
    assert report.diversity == pytest.approx(diversity, rel=1e-4)


def test_the_seed_decides_and_nothing_is_left_behind(data):
    model, classifier = drawing([bright(k) for k in range(4)]).train(), corner_classifier().train()
    state = torch.get_rng_state()
    first, same, other = (evaluate_samples(model, classifier, data, samples=20, seed=seed) for seed in (0, 0, 1))
    assert first == same
    assert first != other
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in (*model.modules(), *classifier.modules()))


def test_a_report_prints_its_figures_a_line_each():
    report = SampleReport(0.123456, 0.1, (0.1, 0.2), (1, 0), 2, 1.0, 3.25, -0.5)
    assert repr(report).splitlines()[0] == "SampleReport("
    assert "  purity=0.1235" in repr(report).splitlines()
    assert "  component_labels=[1, 0]" in repr(report).splitlines()
    assert "  kernel=-0.5" in repr(report).splitlines()


def test_bad_input_is_refused(data):
    model, classifier = drawing([bright(k) for k in range(4)]), corner_classifier()
    unlabelled = datasets.from_arrays(data.test.images, channels="first")
    three = data.test.labels.numpy() < 3
    missing = datasets.from_arrays(
        data.test.images[three],
        data.test.labels[three],
        data.test.images[three],
        data.test.labels[three],
        channels="first",
    )
    for arguments, error, message in (
        ((classifier, classifier, data), TypeError, "model must be of type GMLVM, got Clusterer"),
        ((model, classifier.discrete_encoder, data), TypeError, "classifier must be of type Clusterer, got Sequential"),
        ((model, Clusterer(Flat(), SHAPE), data), TypeError, r"classifier.discrete_encoder must be of type Sequential"),
        ((model, classifier, data.test.images), TypeError, "data must be of type ImageData, got Tensor"),
        ((model, classifier, unlabelled), ValueError, "the test split has no labels"),
        ((model, classifier, missing), ValueError, "component 3 are read as 3: 2 test images of it are needed"),
    ):
        with pytest.raises(error, match=message):
            evaluate_samples(*arguments, samples=5)
    with pytest.raises(ValueError, match="samples must be at least 2, got 1"):
        evaluate_samples(model, classifier, data, samples=1)
    with pytest.raises(ValueError, match="seed must be at least 0, got -1"):
        evaluate_samples(model, classifier, data, seed=-1)


class Flat(nn.Module):
    def forward(self, x):
        return 10 * x.flatten(1)
