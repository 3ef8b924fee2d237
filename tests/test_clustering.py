"""Objectives of a discrete encoder by itself, against NumPy and SciPy, and what they train it to."""

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, rel_entr, softmax
from scipy.stats import entropy
from slopes import assert_gradients
from test_vat import moved
from torch import nn

from gmlvm import Clusterer, Distillation, InformationMaximisation, Smoothness, fit
from gmlvm.batches import Batch

SHAPE, K = (1, 3, 2), 3


@pytest.fixture
def x():
    return torch.rand(6, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def linear(num_components=K):
    """A linear encoder in float64, so that its logits can be written down."""
    layer = nn.Linear(6, num_components, dtype=torch.float64)
    with torch.no_grad():
        for tensor in (layer.weight, layer.bias):
            tensor.copy_(2 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(1)))
    return Clusterer(nn.Sequential(nn.Flatten(), layer), SHAPE)


def logits(clusterer, x):
    layer = clusterer.discrete_encoder[1]
    return x.flatten(1).numpy() @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()


def two_classes():
    """Logits 0 and w.x, for which the worst perturbation is known."""
    layer = nn.Linear(6, 1, bias=False, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, -2.0, 0.5, 0.0, 3.0, -1.0]]))
    return Clusterer(nn.Sequential(nn.Flatten(), layer, nn.ZeroPad1d((1, 0))), SHAPE)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def given(rows, dtype=torch.float64):
    """A clusterer whose logits are given, as something to learn."""
    parameter = nn.Parameter(torch.as_tensor(rows, dtype=dtype))

    class Given(nn.Module):
        def __init__(self):
            super().__init__()
            self.rows = parameter

        def forward(self, x):
            # Tried with four images when it is made, and used with as many as it has rows.
            return self.rows.expand(len(x), -1) if len(self.rows) == 1 else self.rows[torch.arange(len(x)) % len(rows)]

    return Clusterer(Given(), SHAPE)


# Information maximisation


def test_entropies_are_those_of_scipy(x):
    terms = InformationMaximisation()(linear(), x, seeded())
    probs = softmax(logits(linear(), x), 1)
    assert terms.conditional_entropy.item() == pytest.approx(entropy(probs, axis=1).mean(), rel=1e-12)
    assert terms.entropy.item() == pytest.approx(entropy(probs.mean(0)), rel=1e-12)
    assert terms.entropy > terms.conditional_entropy  # by the mutual information


def test_the_roughness_is_the_change_of_q_under_the_worst_perturbation(x):
    clusterer = two_classes()
    p, q, _ = moved(clusterer.discrete_encoder[1].weight, x, 0.7, seed=3)
    terms = InformationMaximisation(Smoothness(radius=0.7))(clusterer, x, seeded(3))
    assert terms.roughness.item() == pytest.approx((rel_entr(p, q) + rel_entr(1 - p, 1 - q)).mean(), rel=1e-9)


@pytest.mark.parametrize(("smooth", "weight", "balance"), [(1.0, 0.1, 4.0), (3.0, 0.5, 2.0), (0.2, 0.0, 1.0)])
def test_the_loss_is_the_sum_that_it_says(x, smooth, weight, balance):
    objective = InformationMaximisation(Smoothness(smooth), weight=weight, balance=balance)
    terms = objective(linear(), x, seeded())
    expected = smooth * terms.roughness + weight * (terms.conditional_entropy - balance * terms.entropy)
    assert terms._fields[0] == "loss"
    assert terms.loss.item() == pytest.approx(expected.item(), rel=1e-12)
    assert terms.roughness > 0


def test_it_has_imsats_weights_if_none_are_given(x):
    plain, named = (o(linear(), x, seeded()) for o in (InformationMaximisation(), InformationMaximisation(
        Smoothness(1.0, 0.2), weight=0.1, balance=4.0)))  # fmt: skip
    assert plain == named
    text = repr(InformationMaximisation(Smoothness(2.0), weight=0.3, balance=5.0))
    assert "weight=0.3, balance=5.0" in text
    assert "Smoothness(2.0, share=0.2)" in text
    assert "shares=[0.25, 0.75]" in repr(InformationMaximisation(shares=torch.tensor([0.25, 0.75])))


def test_with_shares_it_is_the_kl_from_them_that_is_weighed(x):
    shares = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64)
    terms = InformationMaximisation(Smoothness(2.0), weight=0.3, balance=5.0, shares=shares)(linear(), x, seeded())
    mean = softmax(logits(linear(), x), 1).mean(0)
    expected = 2 * terms.roughness + 0.3 * (terms.conditional_entropy + 5 * entropy(mean, shares))
    assert terms.loss.item() == pytest.approx(expected.item(), rel=1e-12)
    assert terms.entropy.item() == pytest.approx(entropy(mean), rel=1e-12)


def test_even_shares_differ_from_none_by_a_constant(x):
    gradients, losses = [], []
    for shares in (None, torch.full((3,), 1 / 3)):
        clusterer = linear()
        loss = InformationMaximisation(shares=shares)(clusterer, x, seeded()).loss
        loss.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in clusterer.parameters()]))
        losses.append(loss.item())
    torch.testing.assert_close(*gradients)
    assert losses[1] - losses[0] == pytest.approx(0.1 * 4 * np.log(3))


def test_shares_of_another_number_of_components_are_refused(x):
    with pytest.raises(ValueError, match=r"shares must have shape \(3\) .*, got \(2,\)"):
        InformationMaximisation(shares=torch.tensor([0.5, 0.5]))(linear(), x, seeded())


def test_sure_and_even_is_where_the_entropies_are_best(x):
    """Equally many images of each component, each for sure, against all in one and no idea."""
    sure, one, none = (50 * np.eye(3)[[0, 1, 2, 0, 1, 2]], 50 * np.eye(3)[[0] * 6], np.zeros((6, 3)))
    objective = InformationMaximisation(weight=1.0)
    got = [[t.item() for t in objective(given(rows), x, seeded())[2:]] for rows in (sure, one, none)]
    np.testing.assert_allclose(got, [[0, np.log(3)], [0, 0], [np.log(3), np.log(3)]], atol=1e-12)


def test_gradients_of_the_entropies_are_their_slopes(x):
    clusterer = linear()
    for name in ("conditional_entropy", "entropy"):
        value = lambda name=name: getattr(InformationMaximisation()(clusterer, x, seeded()), name)  # noqa: E731
        assert_gradients(value, clusterer.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("other", [-2000.0, -torch.inf], ids=["rounded to zero", "ruled out"])
def test_a_probability_of_zero_has_a_value_and_a_gradient(x, dtype, other):
    """x log x has an infinite slope at zero, and minus infinity times zero has no value."""
    clusterer = given([[0.0, other, 1.0], [0.5, other, other]], dtype)
    terms = InformationMaximisation()(clusterer, x.to(dtype), seeded())
    terms.loss.backward()
    probs = np.array([[1, 0, np.e], [1, 0, 0]]) / np.array([[1 + np.e], [1]])
    assert terms.conditional_entropy.item() == pytest.approx(entropy(probs, axis=1).mean(), rel=1e-6)
    assert terms.entropy.item() == pytest.approx(entropy(probs.mean(0)), rel=1e-6)
    assert clusterer.discrete_encoder.rows.grad.isfinite().all()
    assert clusterer.discrete_encoder.rows.grad.any()


def test_batch_norms_remember_the_images_alone(x):
    norm = nn.BatchNorm1d(6)
    clusterer = Clusterer(nn.Sequential(nn.Flatten(), norm, nn.Linear(6, 3)), SHAPE).double().train()
    InformationMaximisation()(clusterer, x, seeded())
    assert norm.num_batches_tracked == 1
    torch.testing.assert_close(norm.running_mean, 0.1 * x.flatten(1).mean(0))


def test_information_maximisation_finds_four_groups(small_data):
    """Accuracy up to the names of the components; from this start, since not every one finds them."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Flatten(), nn.Linear(30, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 4))
    clusterer = Clusterer(network, small_data.image_shape)
    history = fit(
        clusterer, InformationMaximisation(), small_data, steps=150, batch_size=64, learning_rate=5e-3, progress=False
    )
    assert list(history.terms) == ["loss", "roughness", "conditional_entropy", "entropy"]
    counts = np.zeros((4, 4))
    np.add.at(counts, (clusterer.predict(small_data.test.images), small_data.test.labels.numpy()), 1)
    assert counts.max(1).sum() / counts.sum() > 0.95
    assert len(set(counts.argmax(1))) == 4


# Distillation


def targets(count=10, num_components=K):
    return torch.rand(count, num_components, generator=seeded(5), dtype=torch.float64).softmax(1)


def test_the_cross_entropy_is_that_of_the_targets_of_these_images(x):
    rows, all_targets = torch.tensor([7, 0, 3, 3, 9, 1]), targets()
    objective = Distillation(all_targets, Smoothness(0.4))
    terms = objective(linear(), Batch(x, rows), seeded())
    log_probs = log_softmax(logits(linear(), x), 1)
    expected = np.mean([-(all_targets.numpy()[row] * log_probs[i]).sum() for i, row in enumerate(rows)])
    assert terms.cross_entropy.item() == pytest.approx(expected, rel=1e-12)
    assert terms._fields[0] == "loss"
    assert terms.loss.item() == pytest.approx((terms.cross_entropy + 0.4 * terms.roughness).item(), rel=1e-12)
    assert terms.roughness > 0


def test_the_roughness_of_distillation_is_that_of_its_smoothness(x):
    clusterer = two_classes()
    p, q, _ = moved(clusterer.discrete_encoder[1].weight, x, 0.7, seed=3)
    objective = Distillation(targets(6, 2), Smoothness(radius=0.7))
    terms = objective(clusterer, Batch(x, torch.arange(6)), seeded(3))
    assert terms.roughness.item() == pytest.approx((rel_entr(p, q) + rel_entr(1 - p, 1 - q)).mean(), rel=1e-9)
    plain, named = (
        Distillation(targets(6, 2), *smoothness)(clusterer, Batch(x, torch.arange(6)), seeded())
        for smoothness in ((), (Smoothness(1.0, 0.2),))
    )
    assert plain == named


def test_the_gradient_of_the_cross_entropy_is_its_slope(x):
    clusterer, objective = linear(), Distillation(targets())
    batch = Batch(x, torch.arange(6))
    assert_gradients(lambda: objective(clusterer, batch, seeded()).cross_entropy, clusterer.parameters())


def test_targets_are_copied_and_move_with_the_objective_but_are_not_trained():
    original = targets()
    objective = Distillation(original.requires_grad_())
    with torch.no_grad():
        original.zero_()
    assert torch.equal(objective.targets, targets())
    assert list(objective.parameters()) == []
    assert "targets" in objective.state_dict()
    assert objective.to("meta").targets.device.type == "meta"


def test_with_labels_it_trains_a_classifier(small_data):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        clusterer = Clusterer(nn.Sequential(nn.Flatten(), nn.Linear(30, 4)), small_data.image_shape)
    labels = nn.functional.one_hot(small_data.train.labels, 4).float()
    history = fit(clusterer, Distillation(labels), small_data, steps=60, learning_rate=0.05, progress=False)
    assert list(history.terms) == ["loss", "cross_entropy", "roughness"]
    assert (clusterer.predict(small_data.test.images) == small_data.test.labels.numpy()).mean() > 0.98


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ([[0.5, 0.5]], TypeError, r"targets must be a torch.Tensor, got list"),
        (torch.ones(5), ValueError, r"targets must have shape \(\*, \*\) \(images, num_components\), got \(5,\)"),
        (torch.ones(5, 2), ValueError, "targets must be probabilities, with rows that sum to one"),
        (torch.tensor([[1.5, -0.5]]), ValueError, "targets must be probabilities"),
        (torch.full((5, 2), torch.nan), ValueError, "targets must be probabilities"),
    ],
    ids=["list", "rank", "sum", "negative", "nan"],
)
def test_what_are_no_targets_is_refused(wrong, error, message):
    with pytest.raises(error, match=message):
        Distillation(wrong)


def test_targets_need_to_be_told_which_images_they_are_of(x):
    with pytest.raises(ValueError, match="targets belong to the images of a data set, and the batch does not say"):
        Distillation(targets())(linear(), x, seeded())


def test_targets_of_another_number_of_components_are_refused(x):
    with pytest.raises(ValueError, match=r"targets must have shape \(\*, 3\) .*, got \(10, 4\)"):
        Distillation(targets(10, 4))(linear(), Batch(x, torch.arange(6)), seeded())


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"smoothness": 1.0}, TypeError, "smoothness must be of type Smoothness, got float"),
        ({"weight": -1.0}, ValueError, "weight must be .* got -1"),
        ({"balance": float("nan")}, ValueError, "balance must be .* got nan"),
        ({"balance": "4"}, TypeError, "balance must be a number, got '4'"),
        ({"shares": [0.5, 0.5]}, TypeError, "shares must be a torch.Tensor, got list"),
        ({"shares": torch.ones(2, 2) / 4}, ValueError, "shares must have shape"),
        ({"shares": torch.tensor([0.0, 1.0])}, ValueError, "shares must be positive and sum to one, got"),
        ({"shares": torch.tensor([0.5, 0.6])}, ValueError, "shares must be positive and sum to one, got"),
    ],
)
def test_settings_out_of_range_are_refused(settings, error, message):
    with pytest.raises(error, match=message):
        InformationMaximisation(**settings)
    if "smoothness" in settings:
        with pytest.raises(error, match=message):
            Distillation(targets(), **settings)
