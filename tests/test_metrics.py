"""Figures of merit: by hand where the answer is known, by brute force where it is not."""

import json
from dataclasses import asdict, replace
from itertools import permutations

import memory
import numpy as np
import pytest
import torch
from torch import nn

from gmlvm import GMLVM, GaussianMixturePrior, evaluate, metrics
from gmlvm.datasets import Split, from_arrays
from gmlvm.metrics import match_components, mean_posterior_by_label
from gmlvm.networks import ComponentEncoder, mlp_decoder


class ByFirstPixel(nn.Module):
    """q_D(k|x) that puts nearly all of its mass on k = round(3 * first pixel)."""

    def forward(self, x):
        k = (3 * x[:, 0, 0, 0]).round().long()
        return 50 * nn.functional.one_hot(k, 4).to(x)


def sorting_model(prior_logits=None):
    shape = (1, 2, 2)
    prior = GaussianMixturePrior(GaussianMixturePrior.simplex(4, 3).loc, logits=prior_logits)
    return GMLVM(prior, ByFirstPixel(), ComponentEncoder(shape, 4, 3), mlp_decoder(shape, 3, 8), shape)


@pytest.fixture
def sorted_model():
    return sorting_model()


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
    assert report.accuracy == report.majority_accuracy == 0.5
    assert report.nmi == report.ari == 0
    assert report.component_entropy == pytest.approx(0, abs=1e-9)
    assert report.mutual_information == pytest.approx(0, abs=1e-9)
    assert report.components_used == 1


def test_the_label_map_is_fitted_on_the_training_split(sorted_model):
    """On the test split every label is the other one: a map fitted there would score 1."""
    report = evaluate(sorted_model, by_first_pixel([0, 1] * 4, [0, 1] * 4, [0, 1] * 4, [1, 0] * 4))
    assert report.accuracy == 0


def test_beside_the_accuracy_stands_that_of_the_commonest_label_of_the_training_split(sorted_model):
    """Label 1 is the commonest there; on the test split 0 is, and 1 has three of ten images."""
    report = evaluate(sorted_model, by_first_pixel([0] * 5, [0, 0, 1, 1, 1], [0] * 10, [0] * 5 + [1] * 3 + [2] * 2))
    assert report.majority_accuracy == 0.3


def test_mutual_information_of_an_uncertain_posterior(small_model, small_data):
    probs = small_model.predict_proba(small_data.test.images)
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
    assert report.accuracy is report.majority_accuracy is report.nmi is report.ari is report.component_labels is None
    assert report.mutual_information == full.mutual_information


def test_evaluation_repeats_and_leaves_mode_and_global_generator_as_they_were(small_model, small_data):
    small_model.discrete_encoder.append(nn.Dropout())
    small_model.train()
    state = torch.get_rng_state()
    assert evaluate(small_model, small_data) == evaluate(small_model, small_data)
    assert small_model.training
    assert torch.equal(torch.get_rng_state(), state)


def test_the_seed_decides_the_codes(sorted_model):
    """All images are the same here, so that their order can make no difference."""
    data = by_first_pixel([0] * 40, [0] * 40, [0] * 40, [0] * 40)
    assert len({evaluate(sorted_model, data, seed=seed).divergence for seed in range(5)}) == 5


def test_the_seed_decides_which_images_are_compared(sorted_model, monkeypatch):
    monkeypatch.setattr(metrics, "squared_mmd", lambda probs, *_: probs[0, 0].round())  # whether the first is a 0
    data = by_first_pixel([0, 1] * 20, [0, 1] * 20, [0, 1] * 20, [0, 1] * 20)
    assert {evaluate(sorted_model, data, seed=seed).divergence for seed in range(20)} == {0, 1}


def test_integers_may_be_numpys(small_model, small_data):
    report = evaluate(small_model, small_data, batch_size=np.int64(1000), seed=np.int32(0))
    assert report == evaluate(small_model, small_data)


def test_a_compiled_model_is_measured_as_it_is(small_model, small_data):
    assert evaluate(torch.compile(small_model), small_data) == evaluate(small_model, small_data)


def images_seen(network):
    """The sizes of the batches that a network gets, in order."""
    sizes = []
    network.register_forward_hook(lambda module, inputs, output: sizes.append(len(inputs[0])))
    return sizes


def test_a_test_image_is_encoded_once_and_a_training_image_by_the_discrete_encoder_alone(small_model, small_data):
    networks = (small_model.discrete_encoder, small_model.continuous_encoder, small_model.decoder)
    discrete, continuous, decoded = map(images_seen, networks)
    evaluate(small_model, small_data)
    assert sum(discrete) == 400 + 200
    assert sum(continuous) == sum(decoded) == 200


def test_the_batch_size_bounds_what_a_network_gets_and_changes_no_figure(small_model, small_data):
    figures = asdict(evaluate(small_model, small_data))
    networks = (small_model.discrete_encoder, small_model.continuous_encoder, small_model.decoder)
    sizes = [images_seen(network) for network in networks]
    for name, value in asdict(evaluate(small_model, small_data, batch_size=37)).items():
        assert value == pytest.approx(figures[name], rel=1e-5), name
    assert [max(seen) for seen in sizes] == [37, 37, 37]


def test_a_thousand_components_fit_in_memory():
    """All kernel values at once would take 30 GB, the codes of all images and components 400 MB a tensor."""
    preparation = """
import numpy as np
from gmlvm import GMLVM, GaussianMixturePrior, datasets, evaluate
images = np.random.default_rng(0).integers(256, size=(1000, 4, 4)).astype(np.uint8)
data = datasets.from_arrays(images, None, images)
prior = GaussianMixturePrior(torch.randn(1000, 100, generator=torch.Generator().manual_seed(0)))
model = GMLVM.for_images(data.image_shape, 1000, 100, prior=prior, hidden_dim=16)
"""
    assert memory.peak_megabytes(preparation, "evaluate(model, data)") < 450


@pytest.mark.parametrize(("values", "images"), [(20 * 4 * 3, 20), (1, 4)])
def test_fewer_images_are_compared_where_the_codes_of_all_components_are_many(
    sorted_model, monkeypatch, values, images
):
    monkeypatch.setattr(metrics, "_DIVERGENCE_VALUES", values)
    monkeypatch.setattr(metrics, "squared_mmd", lambda probs, *_: torch.tensor(len(probs)))
    components = np.zeros(100, dtype=int)
    report = evaluate(sorted_model, by_first_pixel(components, components, components, components))
    assert report.divergence == images


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


@pytest.mark.parametrize("wrap", [list, np.array, lambda values: np.array(values, np.int32), torch.tensor])
def test_labels_may_be_lists_arrays_and_tensors(wrap):
    assert match_components(wrap([0, 0, 1]), wrap([1, 1, 0]), np.int64(2)).tolist() == [1, 0]
    assert mean_posterior_by_label(np.eye(2), wrap([1, 0])).tolist() == [[0, 1], [1, 0]]


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        ([0, -1], ValueError, "labels must count from 0, got -1"),
        ([0.0, 1.0], TypeError, "labels must be integers, got float64"),
        (["a", "b"], TypeError, "labels must be integers, got <U1"),
        ([True, False], TypeError, "labels must be integers, got bool"),
        ([[0], [1]], ValueError, r"one for each of 2 images, got \(2, 1\)"),
        ([0], ValueError, r"one for each of 2 images, got \(1,\)"),
    ],
)
def test_what_is_no_label_is_refused(labels, error, message):
    with pytest.raises(error, match=message):
        match_components([0, 1], labels, 2)
    with pytest.raises(error, match=message):
        mean_posterior_by_label(np.eye(2), labels)


@pytest.mark.parametrize(
    ("assigned", "message"),
    [
        ([0, 2], r"assigned must lie in 0\.\.1, got 2"),
        ([0, -1], "assigned must count from 0, got -1"),
        ([], r"assigned must have shape \(N,\), one for each of one or more, got \(0,\)"),
    ],
)
def test_what_is_no_component_is_refused(assigned, message):
    with pytest.raises(ValueError, match=message):
        match_components(np.array(assigned, dtype=int), np.zeros(len(assigned), dtype=int), 2)


def test_a_label_below_zero_is_refused_before_anything_is_encoded(small_model, small_data):
    unknown = replace(small_data, test=Split(small_data.test.images, small_data.test.labels - 1))
    seen = images_seen(small_model.discrete_encoder)
    with pytest.raises(ValueError, match="labels of the test split must count from 0, got -1"):
        evaluate(small_model, unknown)
    assert seen == []


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


def test_no_batch_is_left_with_a_single_image(sorted_model, monkeypatch):
    """Thirteen images in batches of four or fewer: 4, 3, 3 and 3, not 4, 4, 4 and 1, which has no pairs."""
    monkeypatch.setattr(metrics, "_DIVERGENCE_BATCH", 4)
    components = np.tile([0, 1, 2, 3], 4)[:13]
    assert np.isfinite(
        evaluate(sorted_model, by_first_pixel(components, components, components, components)).divergence
    )


def test_a_component_is_used_from_four_tenths_of_its_equal_share_on(sorted_model):
    shares = np.repeat([0, 1, 2, 3], [9, 10, 40, 41])
    report = evaluate(sorted_model, by_first_pixel(shares, shares, shares, shares))
    assert report.component_shares == (0.09, 0.10, 0.40, 0.41)
    assert report.components_used == 3


def test_a_component_of_a_large_weight_needs_more_images_than_one_of_a_small_weight():
    """Four tenths of the weights are 0.24, 0.08, 0.04 and 0.04; 0.08 is enough, whatever float32 makes of the 0.2."""
    shares = np.repeat([0, 1, 2, 3], [239, 80, 40, 641])
    model = sorting_model(torch.tensor([0.6, 0.2, 0.1, 0.1]).log())
    report = evaluate(model, by_first_pixel(shares, shares, shares, shares))
    assert report.components_used == 3


def test_a_component_without_weight_and_without_images_is_not_used():
    shares = np.tile([0, 1, 2], 10)
    model = sorting_model(torch.tensor([0.0, 0.0, 0.0, -200.0]))  # exp(-200) is zero in float32
    report = evaluate(model, by_first_pixel(shares, shares, shares, shares))
    assert report.components_used == 3


@pytest.mark.parametrize("network", ["discrete_encoder", "continuous_encoder", "decoder"])
def test_a_network_with_weights_of_nan_has_no_report(small_model, small_data, network):
    with torch.no_grad():
        for parameter in getattr(small_model, network).parameters():
            parameter.fill_(torch.nan)
    with pytest.raises(ValueError, match=r"must be (positive and )?finite"):
        evaluate(small_model, small_data)


def test_codes_too_far_away_to_be_compared_have_no_report(sorted_model):
    sorted_model.continuous_encoder = Standing(sorted_model.prior, [0, 1, 2, 3])
    sorted_model.continuous_encoder.loc = torch.full((4, 3), 1e30)
    with pytest.raises(ValueError, match="divergence of the codes from the prior must be finite"):
        evaluate(sorted_model, by_first_pixel([0] * 4, [0] * 4, [0] * 4, [0] * 4))


@pytest.mark.parametrize("scale", [0.0, -1.0])
def test_scales_that_are_not_positive_are_refused(sorted_model, scale):
    sorted_model.continuous_encoder = Standing(sorted_model.prior, [0, 1, 2, 3])
    sorted_model.continuous_encoder.scale = torch.full((4, 3), scale)
    with pytest.raises(ValueError, match="must be positive and finite"):
        evaluate(sorted_model, by_first_pixel([0] * 4, [0] * 4, [0] * 4, [0] * 4))


class Constant(nn.Module):
    """q_D that is the same for every image."""

    def forward(self, x):
        return torch.zeros(len(x), 4)


def test_an_entropy_without_information_is_told(sorted_model):
    data = by_first_pixel([0, 1, 2, 3], [0, 1, 2, 3], [0, 1, 2, 3], [0, 1, 2, 3])
    telling = evaluate(sorted_model, data)
    assert telling.note == ""
    assert "note" not in repr(telling)
    sorted_model.discrete_encoder = Constant()
    mute = evaluate(sorted_model, data)
    assert mute.component_entropy == telling.component_entropy == pytest.approx(np.log(4))
    assert "tells next to nothing of the image" in mute.note
    assert mute.note in repr(mute)


@pytest.mark.parametrize(
    ("entropy", "information", "told"),
    [(1.3, 0.06, True), (1.3, 0.07, False), (0.7, 0.0, True), (0.68, 0.0, False)],  # log 4 is 1.386
)
def test_the_note_is_for_less_than_a_twentieth_of_an_entropy_above_half_of_its_most(
    sorted_model, entropy, information, told
):
    report = evaluate(sorted_model, by_first_pixel([0] * 4, [0] * 4, [0] * 4, [0] * 4))
    report = replace(report, component_entropy=entropy, mutual_information=information)
    assert (report.note != "") == told


def test_a_report_shows_every_figure_and_is_written_as_json(small_model, small_data):
    report = evaluate(small_model, small_data)
    figures = asdict(report)
    assert [line.split("=")[0].strip() for line in repr(report).splitlines()[1:12]] == list(figures)
    assert f"divergence={report.divergence:.4g}" in repr(report)
    read = json.loads(json.dumps(figures))
    assert {name: tuple(value) if isinstance(value, list) else value for name, value in read.items()} == figures
