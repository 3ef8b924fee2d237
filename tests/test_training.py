"""The loop: repeatable, resumable, honest about its history, and deaf to labels."""

import time
from copy import deepcopy
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from gmlvm import GMLVM, VAE, WAE, GaussianMixturePrior, cosine, evaluate, fit, training
from gmlvm.datasets import Split, from_arrays


def new_model(seed=1, networks="mlp"):
    return GMLVM.for_images((1, 6, 5), 4, 3, networks=networks, hidden_dim=12, component_hidden_dim=5, seed=seed)


def run(model, data, objective=None, **options):
    settings = {"steps": 12, "batch_size": 16, "device": "cpu", "progress": False} | options
    return fit(model, objective or WAE(100.0), data, **settings)


def same_weights(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.mark.parametrize("objective", [VAE(), WAE(100.0), WAE(10.0, divergence="marginal")], ids=repr)
def test_training_lowers_the_loss(small_data, objective):
    history = run(new_model(), small_data, objective, steps=150, batch_size=64)
    assert history["loss"][-20:].mean() < history["loss"][:5].mean()


def test_training_finds_the_classes_of_an_easy_data_set(small_data):
    reports = []
    for seed in range(1, 4):
        model = new_model(seed)
        run(model, small_data, WAE(3.0), steps=600, batch_size=64, learning_rate=3e-3, seed=seed)
        reports.append(evaluate(model, small_data))
    assert min(report.component_entropy for report in reports) > 0.95 * np.log(4)
    assert np.mean([report.accuracy for report in reports]) > 0.8  # chance is 0.25


def test_the_same_seed_gives_the_same_weights_and_another_does_not(small_data):
    models = [new_model() for _ in range(3)]
    for model, seed in zip(models, (0, 0, 1), strict=True):
        run(model, small_data, seed=seed)
    assert same_weights(models[0], models[1])
    assert not same_weights(models[0], models[2])


def test_training_leaves_the_global_generator_alone(small_data):
    before = torch.get_rng_state()
    run(new_model(), small_data)
    assert torch.equal(torch.get_rng_state(), before)


def test_labels_are_never_looked_at(small_data):
    shuffled = small_data.train.labels.flip(0)
    models = [new_model(), new_model()]
    run(models[0], small_data)
    run(models[1], replace(small_data, train=Split(small_data.train.images, shuffled)))
    assert same_weights(*models)


class Stop(Exception):  # noqa: N818 (stands for any interruption)
    """Interrupts a run."""


@pytest.mark.parametrize(("stop_at", "networks"), [(5, "mlp"), (8, "mlp"), (11, "mlp"), (5, "conv")])
def test_an_interrupted_run_ends_with_the_weights_of_one_that_was_not(small_data, tmp_path, stop_at, networks):
    def interrupt(_):
        raise Stop

    whole, parts = new_model(networks=networks), new_model(networks=networks)
    options = {"schedule": cosine, "checkpoint_every": 4}
    expected = run(whole, small_data, **options)
    path = tmp_path / "run.safetensors"
    with pytest.raises(Stop):
        run(parts, small_data, checkpoint=path, callbacks={stop_at: interrupt}, **options)
    resumed = new_model(7, networks)  # whatever stood there before, the checkpoint decides
    history = run(resumed, small_data, checkpoint=path, **options)
    assert same_weights(whole, resumed)
    for name in expected.terms:
        np.testing.assert_array_equal(history[name], expected[name])


def test_a_finished_run_is_not_run_again(small_data, tmp_path):
    path = tmp_path / "run.safetensors"
    first, second = new_model(), new_model()
    run(first, small_data, checkpoint=path)
    calls = []
    history = run(second, small_data, checkpoint=path, callbacks={0: calls.append, 12: calls.append})
    assert same_weights(first, second)
    assert history.steps == 12
    assert calls == []


def test_callbacks_come_after_their_steps_in_evaluation_mode(small_data):
    seen = []
    model = new_model()

    def note(m):
        seen.append((m.training, m.decoder[0].weight.detach().clone()))

    start = model.decoder[0].weight.detach().clone()
    run(model, small_data, callbacks={0: note, 1: note, 12: note})
    assert [training for training, _ in seen] == [False] * 3
    assert torch.equal(seen[0][1], start)
    assert not torch.equal(seen[1][1], start)
    assert torch.equal(seen[2][1], model.decoder[0].weight)
    assert not model.training


def test_callbacks_do_not_change_the_run(small_data):
    plain, watched = new_model(), new_model()
    run(plain, small_data)
    run(watched, small_data, callbacks={3: lambda m: m.sample(5, generator=torch.Generator().manual_seed(0))})
    assert same_weights(plain, watched)


def test_history_holds_every_step_and_adds_up(small_data):
    history = run(new_model(), small_data, VAE(beta=3.0))
    assert history.steps == 12
    assert list(history.terms) == ["loss", "reconstruction", "kl_z", "kl_k"]
    total = history["reconstruction"] + 3 * (history["kl_z"] + history["kl_k"])
    np.testing.assert_allclose(history["loss"], total, rtol=1e-5)
    assert history.seconds > 0
    assert "12 steps on cpu" in repr(history)


@pytest.mark.parametrize(
    ("spoil", "term"),
    [("decoder.4.bias", "reconstruction"), ("continuous_encoder.bias", "divergence")],
)
def test_a_loss_that_is_not_finite_names_the_step_and_the_term(small_data, spoil, term):
    def poison(model):
        with torch.no_grad():
            model.get_parameter(spoil).fill_(torch.nan)

    with pytest.raises(FloatingPointError, match=rf"{term} is not finite at step 6 "):
        run(new_model(), small_data, callbacks={5: poison})


def test_schedule_scales_the_learning_rate(small_data):
    still = new_model()
    before = new_model()
    run(still, small_data, schedule=lambda t: 0.0)
    weights = zip(still.parameters(), before.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in weights)


def test_the_matched_start_is_made_before_the_first_step(small_data):
    model = new_model()
    run(model, small_data, schedule=lambda t: 0.0, matched_start=True)
    with torch.no_grad():
        loc = model.posterior(small_data.train.images).loc
    np.testing.assert_allclose(loc.mean(0), model.prior.loc, atol=0.25)  # fitted on 400 draws
    np.testing.assert_allclose(loc.std(0), model.prior.scale, rtol=0.2)


def test_bfloat16_autocast_trains_close_to_float32(small_data):
    exact, mixed = (run(new_model(), small_data, steps=40, precision=p) for p in ("32-true", "bf16-mixed"))
    np.testing.assert_allclose(mixed["reconstruction"][-10:].mean(), exact["reconstruction"][-10:].mean(), rtol=0.1)


def test_cosine_falls_from_one_to_zero():
    values = [cosine(t) for t in np.linspace(0, 1, 20)]
    assert values[0] == 1
    assert values[-1] == pytest.approx(0)
    assert (np.diff(values) < 0).all()


class Noted(WAE):
    """The objective, which notes the images it is given and whether products are in bfloat16."""

    def __call__(self, model, x, generator=None):
        self.seen.append((x, torch.is_autocast_enabled("cpu")))
        return super().__call__(model, x, generator)


@pytest.fixture
def noted(monkeypatch):
    monkeypatch.setattr(Noted, "seen", [], raising=False)
    return Noted(1.0)


def test_batches_are_drawn_evenly_from_the_whole_training_split_alone(noted):
    images = torch.arange(40, dtype=torch.uint8).view(40, 1, 1, 1).expand(40, 1, 6, 5)
    data = from_arrays(images, test_images=images + 100)
    run(new_model(), data, noted, steps=500)
    counts = torch.cat([x[:, 0, 0, 0] for x, _ in noted.seen]).bincount(minlength=40)
    assert counts.shape == (40,)
    # 8000 draws: each image about 200 times, with a standard deviation of 14.
    assert 130 < counts.min() <= counts.max() < 270


@pytest.mark.parametrize("rate", [1e-3, 3e-4])
def test_the_first_step_of_adam_has_the_length_of_the_learning_rate(small_data, rate):
    model, before = new_model(), new_model()
    run(model, small_data, steps=1, learning_rate=rate)
    pairs = zip(model.parameters(), before.parameters(), strict=True)
    assert max((a - b).abs().max().item() for a, b in pairs) == pytest.approx(rate, rel=1e-3)


def test_the_schedule_sees_the_share_of_steps_that_are_done(small_data):
    seen = []
    run(new_model(), small_data, steps=5, schedule=lambda t: seen.append(t) or 1.0)
    assert seen == [0.0, 0.2, 0.4, 0.6, 0.8]


def test_precision_decides_whether_products_are_in_bfloat16(small_data, noted):
    exact = run(new_model(), small_data, noted, steps=3)
    mixed = run(new_model(), small_data, noted, steps=3, precision="bf16-mixed")
    assert [enabled for _, enabled in noted.seen] == [False] * 3 + [True] * 3
    assert not np.array_equal(exact["reconstruction"], mixed["reconstruction"])


def test_what_is_not_finite_is_noticed_within_fifty_steps(small_data, noted):
    def poison(model):
        with torch.no_grad():
            model.decoder[4].bias.fill_(torch.nan)

    with pytest.raises(FloatingPointError, match="at step 3 "):
        run(new_model(), small_data, noted, steps=200, callbacks={2: poison})
    assert len(noted.seen) <= 50


def test_the_matched_start_is_fitted_on_images_that_the_seed_draws(small_data, monkeypatch):
    monkeypatch.setattr(training, "_START_IMAGES", 50)
    starts = []
    for seed in (0, 1):
        model = new_model()
        run(model, small_data, schedule=lambda t: 0.0, matched_start=True, seed=seed)
        starts.append(model.continuous_encoder.weight.detach())
    whole = new_model()
    whole.match_prior(small_data.train.images)
    assert not torch.equal(*starts)
    assert not torch.equal(starts[0], whole.continuous_encoder.weight)


OTHERS = {
    "objective": {"objective": WAE(99.0)},
    "steps": {"steps": 14},
    "batch_size": {"batch_size": 17},
    "seed": {"seed": 3},
    "learning_rate": {"learning_rate": 2e-3},
    "schedule": {"schedule": lambda t: 1 - t * t},
    "matched_start": {"matched_start": True},
    "precision": {"precision": "bf16-mixed"},
    "data": {"data": 1},
    "model": {"model": {"hidden_dim": 13}},
    "prior": {"model": {"prior": GaussianMixturePrior.simplex(4, 3, edge=9.0)}},
}


@pytest.mark.parametrize("changed", OTHERS)
def test_a_checkpoint_of_another_run_is_refused_and_the_model_left_alone(small_data, tmp_path, changed):
    path = tmp_path / "run.safetensors"
    run(new_model(), small_data, checkpoint=path, schedule=lambda t: 1 - t)
    options = {"schedule": lambda t: 1 - t, "objective": WAE(100.0), "data": 0, "model": {}} | OTHERS[changed]
    sizes = {"hidden_dim": 12, "component_hidden_dim": 5} | options.pop("model")
    model = GMLVM.for_images((1, 6, 5), 4, 3, **sizes)
    before = deepcopy(model)
    # Other data of the same name and size: one pixel is another.
    images = small_data.train.images.clone()
    images[0, 0, 0, 0] += options.pop("data")
    data = replace(small_data, train=Split(images, small_data.train.labels))
    with pytest.raises(ValueError, match=f"other settings .*{'model' if changed == 'prior' else changed}: "):
        run(model, data, checkpoint=path, **options)
    assert same_weights(model, before)


def test_a_partial_function_as_schedule_can_be_resumed(small_data, tmp_path):
    path = tmp_path / "run.safetensors"
    first, second = new_model(), new_model()
    for model in (first, second):
        run(model, small_data, checkpoint=path, schedule=partial(pow, 0.5))
    assert same_weights(first, second)


def test_the_time_of_a_resumed_run_holds_that_of_its_first_part(small_data, tmp_path):
    path = tmp_path / "run.safetensors"
    first = run(new_model(), small_data, checkpoint=path, callbacks={1: lambda _: time.sleep(0.3)})
    assert run(new_model(), small_data, checkpoint=path).seconds >= first.seconds - 0.1 > 0.2


def test_what_cannot_be_saved_is_found_before_the_first_step(small_data, tmp_path):
    calls = []
    path = tmp_path / "run.safetensors"
    tied = new_model()
    tied.decoder[2].weight = tied.discrete_encoder[3].weight  # 12 by 12, both
    with pytest.raises(RuntimeError, match="share memory"):
        run(tied, small_data, checkpoint=path, callbacks={0: calls.append})

    class Silent(WAE):
        __repr__ = object.__repr__

    with pytest.raises(ValueError, match="must tell its settings"):
        run(new_model(), small_data, Silent(1.0), checkpoint=path, callbacks={0: calls.append})
    assert calls == []
