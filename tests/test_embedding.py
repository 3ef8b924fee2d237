"""The teacher of the discrete encoder: codes in which neighbours stay together, and the likeliest mixture of them."""

import sys

import numpy as np
import pytest
import torch
from scipy import stats

from gmlvm import embedding
from gmlvm.embedding import as_rows, likeliest_mixture, neighbour_embedding, teacher


def three_groups(count=90, seed=0):
    """Images of 8 x 8 pixels with a bright square in one of three places and noise, and which it is."""
    generator = torch.Generator().manual_seed(seed)
    images, groups = torch.randint(50, (count, 1, 8, 8), generator=generator), torch.arange(count) % 3
    for image, group in zip(images, groups.tolist(), strict=True):
        row, column = ((0, 0), (0, 5), (5, 2))[group]
        image[0, row : row + 3, column : column + 3] += 200
    return images.to(torch.uint8), groups.numpy()


def crossing(count=600, seed=0):
    """Codes of three Gaussians, long and thin, which no distance to a centre separates; and their parameters."""
    rng = np.random.default_rng(seed)
    means = np.array([[0.0, 0.0], [0.0, 1.5], [4.0, 0.0]])
    covariances = np.array([[[4.0, 0.0], [0.0, 0.05]], [[4.0, 0.0], [0.0, 0.05]], [[0.05, 0.0], [0.0, 4.0]]])
    groups = rng.integers(3, size=count)
    codes = np.stack([rng.multivariate_normal(means[k], covariances[k]) for k in groups])
    return codes, groups, means, covariances


def found(probs, groups):
    """The component of each group, by the commonest."""
    return [np.bincount(probs[groups == k].argmax(1), minlength=3).argmax() for k in range(3)]


def probabilities(codes, *arguments):
    """What the likeliest mixture says of the codes that it was fitted to."""
    return likeliest_mixture(codes, *arguments).predict_proba(codes)


# The embedding; the first call compiles for some ten seconds.


def test_images_that_lie_together_stay_together_and_groups_are_drawn_apart():
    images, groups = three_groups()
    before, state = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    reducer = neighbour_embedding(images)
    codes = reducer.embedding_
    assert codes.shape == (90, 10)
    distance = np.linalg.norm(codes[:, None] - codes, axis=2)
    same = groups[:, None] == groups
    assert distance[same].max() < distance[~same].min()
    np.testing.assert_array_equal(neighbour_embedding(images).embedding_, codes)
    assert not np.array_equal(neighbour_embedding(images, seed=1).embedding_, codes)
    new, groups_of_new = three_groups(30, seed=1)
    others = reducer.transform(as_rows(new))
    nearest = np.linalg.norm(others[:, None] - codes, axis=2).argmin(1)
    assert (groups[nearest] == groups_of_new).all()
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), state)


def test_torch_keeps_its_number_of_threads():
    """Numba sets OpenMP's, which torch shares."""
    neighbour_embedding(three_groups(30)[0])
    assert torch.get_num_threads() == 1  # as all tests have it: numba sets it at the first call


def test_the_largest_seed_can_be_used():
    images, _ = three_groups(30)
    assert np.isfinite(neighbour_embedding(images, 2**64 - 1).embedding_).all()
    assert np.isfinite(probabilities(crossing(60)[0], 3, 2**64 - 1)).all()


def test_a_missing_umap_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(ImportError, match="the embedding needs umap-learn: pip install umap-learn"):
        neighbour_embedding(three_groups(30)[0])


def test_bad_images_and_seeds_are_refused():
    with pytest.raises(ValueError, match="with 20 neighbours needs more images than that, got 20"):
        neighbour_embedding(three_groups(20)[0])
    with pytest.raises(ValueError, match=r"images must have shape \(N, ...\), features \(N, F\), got \(30,\)"):
        neighbour_embedding(torch.zeros(30))
    with pytest.raises(ValueError, match="seed must be at least 0, got -1"):
        neighbour_embedding(three_groups(30)[0], -1)


# The mixture


def test_probabilities_are_those_of_the_gaussians_that_the_codes_came_from():
    codes, groups, means, covariances = crossing()
    probs = probabilities(codes, 3)
    assert probs.dtype == np.float64
    np.testing.assert_allclose(probs.sum(1), 1)
    order = found(probs, groups)
    assert len(set(order)) == 3
    assert (probs.argmax(1) == np.array(order)[groups]).mean() > 0.9
    joint = np.stack([stats.multivariate_normal(m, c).pdf(codes) for m, c in zip(means, covariances, strict=True)], 1)
    assert np.abs(probs[:, order] - joint / joint.sum(1, keepdims=True)).mean() < 0.02


def test_the_seed_decides_and_the_global_generator_is_left_alone():
    codes, before = crossing(200)[0], np.random.get_state()[1].copy()  # noqa: NPY002
    np.testing.assert_array_equal(probabilities(codes, 3, 1), probabilities(codes, 3, 1))
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002


def test_many_codes_begin_with_a_part_of_them_and_end_with_all(monkeypatch):
    codes, groups, *_ = crossing()
    whole = probabilities(codes, 3)
    monkeypatch.setattr(embedding, "_START_CODES", 200)
    part = probabilities(codes, 3)
    assert part.shape == whole.shape
    np.testing.assert_allclose(part[:, found(part, groups)], whole[:, found(whole, groups)], atol=0.05)


def test_more_starts_find_what_one_misses():
    codes = crossing()[0]
    scores = [
        [likeliest_mixture(codes, 6, seed, starts=starts).score(codes) for seed in range(5)] for starts in (1, 40)
    ]
    assert (np.array(scores[1]) >= np.array(scores[0])).all()
    assert np.mean(scores[1]) > np.mean(scores[0])


def test_one_group_has_everything():
    np.testing.assert_array_equal(probabilities(crossing(60)[0], 1), np.ones((60, 1)))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((0,), ValueError, "num_components must be at least 1, got 0"),
        ((2.0,), TypeError, "num_components must be an integer, got 2.0"),
        ((3, -1), ValueError, "seed must be at least 0, got -1"),
        ((11,), ValueError, "11 components need at least as many codes, got 10"),
    ],
)
def test_bad_arguments_of_the_mixture_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        probabilities(crossing(10)[0], *arguments)
    with pytest.raises(ValueError, match="starts must be at least 1, got 0"):
        likeliest_mixture(crossing(10)[0], 3, starts=0)


# Both


def test_the_teacher_finds_the_groups_of_images():
    images, groups = three_groups()
    probs = teacher(images, 3, seed=2)
    assert (probs.dtype, probs.shape, probs.device.type) == (torch.float32, (90, 3), "cpu")
    torch.testing.assert_close(probs.sum(1), torch.ones(90))
    order = found(probs.numpy(), groups)
    assert len(set(order)) == 3
    assert (probs.numpy().argmax(1) == np.array(order)[groups]).all()
    assert torch.equal(teacher(images, 3, seed=2), probs)
    assert torch.equal(teacher(images.flatten(1).numpy(), 3, seed=2), probs)


@pytest.mark.parametrize(
    ("num_components", "error", "message"),
    [
        (0, ValueError, "num_components must be at least 1, got 0"),
        (31, ValueError, "num_components must be at most the 30 images, got 31"),
        ("3", TypeError, "num_components must be an integer, got '3'"),
    ],
)
def test_a_number_of_groups_out_of_range_is_refused_before_minutes_are_spent(
    monkeypatch, num_components, error, message
):
    monkeypatch.setattr("gmlvm.embedding.neighbour_embedding", pytest.fail)
    with pytest.raises(error, match=message):
        teacher(three_groups(30)[0].numpy(), num_components)
