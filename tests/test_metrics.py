"""Figures of merit: by hand where the answer is known, by brute force where it is not."""

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import torch
from torch import nn

from gmlvm import GMLVM, GaussianMixturePrior, evaluate, metrics
from gmlvm.datasets import Split, from_arrays
from gmlvm.metrics import component_probs, match_components, mean_posterior_by_label
from gmlvm.networks import ComponentEncoder, mlp_decoder


class ByFirstPixel(nn.Module):
    """q_D(k|x) that puts nearly all of its mass on k = round(3 * first pixel)."""

    def forward(self, x):
        k = (3 * x[:, 0, 0, 0]).round().long()
        return 50 * nn.functional.one_hot(k, 4).to(x)


@pytest.fixture
def sorted_model():
    shape = (1, 2, 2)
    prior = GaussianMixturePrior.simplex(4, 3)
    return GMLVM(prior, ByFirstPixel(), ComponentEncoder(shape, 4, 3), mlp_decoder(shape, 3, 8), shape)


def by_first_pixel(components, labels, test_components, test_labels):
    def images(ks):
        return np.repeat(np.asarray(ks, dtype=float) / 3, 4).reshape(-1, 2, 2)

    return from_arrays(images(components), labels, images(test_components), test_labels)


def test_a_perfect_clustering(sorted_model):
    labels = np.tile([2, 0, 3, 1], 5)
    report = evaluate(sorted_model, by_first_pixel(np.tile([0, 1, 2, 3], 5), labels, [0, 1, 2, 3], [2, 0, 3, 1]))
    assert report.component_labels == (2, 0, 3, 1)
    assert report.accuracy == report.nmi == report.ari == 1
    assert report.component_entropy == pytest.approx(np.log(4))
    assert report.mutual_information == pytest.approx(np.log(4))
    assert report.components_used == 4
    assert report.component_shares == (0.25,) * 4


def test_one_component_for_everything(sorted_model):
    report = evaluate(sorted_model, by_first_pixel([0] * 8, [0, 1] * 4, [0] * 8, [0, 1] * 4))
    assert report.accuracy == 0.5
    assert report.nmi == report.ari == 0
    assert report.component_entropy == pytest.approx(0, abs=1e-9)
    assert report.mutual_information == pytest.approx(0, abs=1e-9)
    assert report.components_used == 1


def test_the_label_map_is_fitted_on_the_training_split(sorted_model):
    """On the test split every label is the other one: a map fitted there would score 1."""
    report = evaluate(sorted_model, by_first_pixel([0, 1] * 4, [0, 1] * 4, [0, 1] * 4, [1, 0] * 4))
    assert report.accuracy == 0


def test_mutual_information_of_an_uncertain_posterior(small_model, small_data):
    probs = component_probs(small_model, small_data.test.images)
    mean = probs.mean(0)
    expected = (probs * np.log(probs / mean)).sum(1).mean()  # the mean KL from the mean
    report = evaluate(small_model, small_data)
    assert report.mutual_information == pytest.approx(expected)
    assert report.component_entropy == pytest.approx(-(mean * np.log(mean)).sum())


def test_reconstruction_error_is_the_mean_of_the_squared_errors(small_model, small_data):
    x = small_data.test.images / 255
    error = (small_model.reconstruct(x) - x).square().sum((1, 2, 3)).mean().item()
    assert evaluate(small_model, small_data, batch_size=37).reconstruction_error == pytest.approx(error, rel=1e-5)


def test_divergence_is_small_for_matched_codes_and_large_for_others(small_model, small_data):
    shapes = evaluate(small_model, small_data).divergence
    with torch.no_grad():
        small_model.continuous_encoder.bias.add_(30.0)
    assert evaluate(small_model, small_data).divergence > 2 * shapes


def test_divergence_does_not_depend_on_the_order_of_the_images(sorted_model, monkeypatch):
    # Neighbours in a data set are often alike: batches of neighbours would each be far from the prior.
    monkeypatch.setattr(metrics, "_DIVERGENCE_BATCH", 20)
    components = np.repeat([0, 1, 2, 3], 100)
    mixed = np.random.default_rng(0).permutation(components)
    in_order, shuffled = (
        evaluate(sorted_model, by_first_pixel(order, order, order, order)).divergence for order in (components, mixed)
    )
    assert in_order == pytest.approx(shuffled, abs=0.1 * abs(shuffled))


def test_without_labels_the_figures_that_need_them_are_none(small_model, small_data):
    bare = replace(small_data, train=Split(small_data.train.images, None), test=Split(small_data.test.images, None))
    report, full = evaluate(small_model, bare), evaluate(small_model, small_data)
    assert report.accuracy is report.nmi is report.ari is report.component_labels is None
    assert report.mutual_information == full.mutual_information


def test_evaluation_repeats_and_restores_the_mode(small_model, small_data):
    small_model.train()
    assert evaluate(small_model, small_data) == evaluate(small_model, small_data)
    assert small_model.training


def test_the_label_map_is_the_best_of_all_permutations():
    rng = np.random.default_rng(0)
    assigned, labels = rng.integers(5, size=(2, 200))
    best = max(np.mean(np.array(p)[assigned] == labels) for p in permutations(range(5)))
    assert np.mean(match_components(assigned, labels, 5)[assigned] == labels) == best


def test_components_left_over_take_their_most_frequent_label():
    assigned = np.array([0, 0, 0, 1, 1, 2, 2, 2, 2])
    labels = np.array([0, 0, 0, 1, 1, 0, 0, 0, 1])
    assert match_components(assigned, labels, 3).tolist() == [0, 1, 0]


def test_a_permutation_of_components_changes_no_figure(small_model, small_data):
    before = evaluate(small_model, small_data)
    order = torch.tensor([2, 0, 3, 1])
    with torch.no_grad():
        for parameter in small_model.discrete_encoder[3].parameters():
            parameter.copy_(parameter[order])
    after = evaluate(small_model, small_data)
    for name in ("accuracy", "nmi", "ari", "component_entropy", "mutual_information", "components_used"):
        assert getattr(after, name) == pytest.approx(getattr(before, name)), name


def test_mean_posterior_by_label_averages_the_rows_of_each_label():
    probs = np.array([[0.5, 0.5], [0.1, 0.9], [0.3, 0.7]])
    np.testing.assert_allclose(mean_posterior_by_label(probs, np.array([1, 0, 0])), [[0.2, 0.8], [0.5, 0.5]])


class Standing(nn.Module):
    """q_C that is some component of the prior, whatever the image."""

    def __init__(self, prior, order):
        super().__init__()
        self.loc, self.scale = prior.loc[order], prior.scale[order]

    def forward(self, x):
        return self.loc.expand(len(x), *self.loc.shape), self.scale.expand(len(x), *self.scale.shape)


@pytest.mark.parametrize(("order", "low", "high"), [([0, 1, 2, 3], -0.01, 0.01), ([1, 2, 3, 0], 0.05, np.inf)])
def test_divergence_is_that_of_sampled_pairs(sorted_model, order, low, high):
    """Samples, as the means alone have no spread; pairs, as the codes of all components together are the prior's."""
    sorted_model.continuous_encoder = Standing(sorted_model.prior, order)
    shares = np.tile([0, 1, 2, 3], 500)
    assert low < evaluate(sorted_model, by_first_pixel(shares, shares, shares, shares)).divergence < high


@pytest.mark.parametrize("count", [19, 21])
def test_a_last_batch_that_is_small_does_not_count_for_a_whole_one(sorted_model, monkeypatch, count):
    monkeypatch.setattr(metrics, "_DIVERGENCE_BATCH", 20)
    monkeypatch.setattr(metrics, "squared_mmd", lambda probs, *_: torch.tensor(len(probs)))
    shares = np.zeros(count, dtype=int)
    expected = {19: 19, 21: 10.5}[count]  # one batch of 19; one of 11 and one of 10
    assert evaluate(sorted_model, by_first_pixel(shares, shares, shares, shares)).divergence == expected


def test_a_component_is_used_from_four_tenths_of_its_equal_share_on(sorted_model):
    shares = np.repeat([0, 1, 2, 3], [9, 10, 40, 41])
    report = evaluate(sorted_model, by_first_pixel(shares, shares, shares, shares))
    assert report.component_shares == (0.09, 0.10, 0.40, 0.41)
    assert report.components_used == 3
