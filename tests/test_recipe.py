"""From images to components in one call: what the five steps do, and what they must not do."""

import copy
import math

import numpy as np
import pytest
import torch
from small_runs import Stop, same_weights
from test_embedding import three_groups
from test_start import cut_off
from torch import nn

from gmlvm import (
    GMLVM,
    WAE,
    Clusterer,
    GaussianMixturePrior,
    InformationMaximisation,
    Run,
    datasets,
    evaluate,
    fit,
    fit_prior,
    learn_components,
    start_discrete_encoder,
)
from gmlvm.generation import own_samples
from gmlvm.optimisation import cosine

STEPS = {"teaching_steps": 60, "refining_steps": 3, "steps": 30, "progress": False, "device": "cpu"}


@pytest.fixture(scope="module")
def targets(small_data):
    """A teacher that is right, and has heard of a fifth kind that there is not."""
    return nn.functional.one_hot(small_data.train.labels, 5).float()


@pytest.fixture(scope="module")
def learned(small_data, targets):
    return learn_components(small_data, 5, targets=targets, **STEPS)


def test_what_is_empty_is_left_out_and_the_prior_of_the_training_has_the_shares_of_the_rest(small_data, learned):
    assert learned.shares.shape == (5,)
    assert learned.shares.sum() == pytest.approx(1)
    assert learned.kept == tuple(np.flatnonzero(learned.shares > 0.005)) == (0, 1, 2, 3)
    kept = learned.shares[list(learned.kept)]
    np.testing.assert_allclose(learned.training_prior.probs, kept / kept.sum(), rtol=1e-5)
    assert learned.model.num_components == 4
    assert learned.model.latent_dim == 9
    assert not any(parameter.requires_grad for parameter in learned.model.discrete_encoder.parameters())
    assert evaluate(learned.model, small_data).accuracy == 1


def test_it_is_the_five_steps_one_by_one(small_data, targets):
    found = learn_components(small_data, 5, targets=targets, relative_weight=3.0, least_share=0, seed=4, **STEPS)
    model = GMLVM.for_images(small_data.image_shape, 5, 9, networks="deep", seed=4)
    alike = {"seed": 4, "progress": False, "device": "cpu"}
    brief = {"teaching_steps": 60, "refining_steps": 3}
    refining = InformationMaximisation(balance=0.0)
    start_discrete_encoder(model, small_data, targets=targets, refining=refining, **brief, **alike)
    shares = model.predict_proba(small_data.train.images).mean(0)
    model.prior = GaussianMixturePrior.simplex(5, 9, logits=torch.tensor(np.log(shares)))
    model.discrete_encoder.requires_grad_(False)
    fit(model, WAE(3 * small_data.total_variance), small_data, steps=30, schedule=cosine, **alike)
    np.testing.assert_array_equal(found.shares, shares)
    np.testing.assert_array_equal(found.own_samples, own_samples(model, seed=4))
    for name, value in model.state_dict().items():
        if not name.startswith("prior"):
            assert torch.equal(found.model.state_dict()[name], value), name
    assert torch.equal(found.training_prior.loc, model.prior.loc)


def test_batches_and_precision_are_those_of_the_training(small_data, targets, monkeypatch):
    seen = []
    monkeypatch.setattr("gmlvm.recipe.fit", lambda *args, **more: (seen.append(more), fit(*args, **more))[1])
    learn_components(small_data, 5, targets=targets, batch_size=50, precision="bf16-mixed", **STEPS)
    assert [(more["batch_size"], more["precision"]) for more in seen] == [(50, "bf16-mixed")]


def test_its_prior_is_that_of_the_codes(small_data, learned):
    again = copy.deepcopy(learned.model)
    fit_prior(again, small_data)
    assert torch.equal(again.prior.loc, learned.model.prior.loc)
    assert not torch.equal(learned.training_prior.loc, learned.model.prior.loc)


def test_an_even_use_is_asked_for_where_it_is_wanted(small_data, targets, monkeypatch):
    seen = []
    start = start_discrete_encoder
    monkeypatch.setattr(
        "gmlvm.recipe.start_discrete_encoder",
        lambda *args, refining, **more: (seen.append(refining.balance), start(*args, refining=refining, **more))[1],
    )
    for even in (True, False):
        learn_components(small_data, 5, targets=targets, even=even, **STEPS)
    assert seen == [InformationMaximisation().balance, 0.0]


def test_networks_of_ones_own_are_built_for_the_start_and_for_what_is_kept(small_data, targets):
    priors = []

    def build(prior):
        priors.append(prior)
        return GMLVM.for_images(small_data.image_shape, prior.num_components, prior.latent_dim, prior=prior, seed=1)

    found = learn_components(small_data, 5, targets=targets, build=build, latent_dim=4, **STEPS)
    assert [(prior.num_components, prior.latent_dim) for prior in priors] == [(5, 4), (len(found.kept), 4)]
    assert torch.equal(found.training_prior.loc, priors[1].loc)


def whatever_its_weights(prior):
    return GMLVM.for_images((1, 8, 8), prior.num_components, prior.latent_dim, networks="mlp")


def one_more(prior):
    return GMLVM.for_images((1, 8, 8), prior.num_components + 1, prior.latent_dim)


def no_decoder(prior):
    return Clusterer(nn.Sequential(nn.Flatten(), nn.Linear(64, prior.num_components)), (1, 8, 8))


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (whatever_its_weights, ValueError, r"must have the 3 weights of the prior .*, got 0\.33, 0\.33, 0\.33"),
        (one_more, ValueError, r"must have the 3 weights of the prior .*, got 0\.25, 0\.25, 0\.25, 0\.25"),
        (no_decoder, TypeError, "what build gives must be of type GMLVM, got Clusterer"),
    ],
)
def test_a_model_that_is_not_built_around_its_prior_is_refused_before_any_work(monkeypatch, build, error, message):
    data = datasets.from_arrays(three_groups(40)[0])
    monkeypatch.setattr("gmlvm.recipe.start_discrete_encoder", lambda *_, **__: pytest.fail("work was begun"))
    with pytest.raises(error, match=message):
        learn_components(data, 3, build=build, **STEPS)


def test_a_prior_of_another_kind_may_have_the_weights_that_are_given(small_data, targets):
    def build(prior):
        k, d = prior.num_components, prior.latent_dim
        own = GaussianMixturePrior.simplex(k, d, 8.0, logits=prior.logits, learn=("loc", "weights"))
        return GMLVM.for_images(small_data.image_shape, k, d, prior=own)

    found = learn_components(small_data, 5, targets=targets, build=build, **STEPS)
    assert found.training_prior.loc.requires_grad


def test_a_longer_start_is_followed_by_a_training_of_its_own(small_data, targets, tmp_path):
    settings = {"targets": targets, **STEPS}
    learn_components(small_data, 5, checkpoints=tmp_path, **settings)
    longer = settings | {"refining_steps": 6}
    found, whole = (learn_components(small_data, 5, checkpoints=at, **longer) for at in (tmp_path, None))
    assert same_weights(found.model, whole.model)


def test_that_its_training_was_interrupted_it_says(small_data, targets, monkeypatch):
    take = Run.step

    def step(run):
        if isinstance(run.objective, WAE) and run.done == 4:
            run.stop("interrupted")
        return take(run)

    monkeypatch.setattr(Run, "step", step)
    found = learn_components(small_data, 5, targets=targets, **STEPS)
    assert (found.history.steps, found.history.stopped) == (5, "interrupted")


def test_of_fewer_images_than_a_batch_all_are_taken():
    images, groups = three_groups(90)
    data = datasets.from_arrays(images)
    targets = nn.functional.one_hot(torch.tensor(groups), 3).float()
    assert learn_components(data, 3, targets=targets, **STEPS).history.steps == 30


def test_what_it_gives_is_saved_like_any_other_with_components_left_out(small_data, learned, tmp_path):
    assert len(learned.kept) < 5
    learned.model.save(tmp_path / "model.safetensors")
    loaded = GMLVM.load(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(
        loaded.predict_proba(small_data.test.images), learned.model.predict_proba(small_data.test.images)
    )


@pytest.mark.parametrize("after", [30, 62, 80])
def test_what_was_cut_off_goes_on_with_nothing_lost(small_data, targets, learned, tmp_path, monkeypatch, after):
    settings = {"targets": targets, "checkpoints": tmp_path / "learned", **STEPS}
    with monkeypatch.context() as patch:
        cut_off(patch, after)
        with pytest.raises(Stop):
            learn_components(small_data, 5, **settings)
    with monkeypatch.context() as patch:
        steps = cut_off(patch, math.inf)
        again = learn_components(small_data, 5, **settings)
    assert len(steps) < 60 + 3 + 30
    assert same_weights(again.model, learned.model)
    np.testing.assert_array_equal(again.history["loss"], learned.history["loss"])
    np.testing.assert_array_equal(again.shares, learned.shares)
    np.testing.assert_array_equal(again.own_samples, learned.own_samples)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"num_components": 0}, ValueError, "num_components must be at least 1, got 0"),
        ({"least_share": 1.0}, ValueError, "least_share must be below 1, .* got 1.0"),
        ({"relative_weight": -1.0}, ValueError, "relative_weight must be .* got -1"),
        ({"steps": 0}, ValueError, "steps must be at least 1, got 0"),
        ({"seed": -1}, ValueError, "seed must be"),
        ({"batch_size": 401}, ValueError, "batch_size must be at most the 400 training images, got 401"),
        ({"precision": "half"}, ValueError, "half"),
        ({"checkpoints": "no/learned"}, FileNotFoundError, "no folder no to write the checkpoints learned to"),
        ({"latent_dim": 0}, ValueError, "latent_dim must be at least 1, got 0"),
    ],
)
def test_settings_out_of_range_are_refused_before_any_work(small_data, settings, error, message, monkeypatch):
    monkeypatch.setattr("gmlvm.recipe.start_discrete_encoder", lambda *_, **__: pytest.fail("work was begun"))
    with pytest.raises(error, match=message):
        learn_components(small_data, **{"num_components": 4, **STEPS, **settings})


def test_images_alone_are_no_data(small_data):
    with pytest.raises(TypeError, match="data must be of type ImageData"):
        learn_components(small_data.train.images, 4, **STEPS)


def test_if_no_component_is_kept_it_says_so(small_data, targets):
    with pytest.raises(ValueError, match=r"no component has more than least_share=0.9 .* the largest 0\.\d"):
        learn_components(small_data, 5, targets=targets, least_share=0.9, **STEPS)
