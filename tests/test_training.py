"""The loop: repeatable, resumable, honest about its history, and deaf to labels."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from gmlvm import GMLVM, VAE, WAE, cosine, evaluate, fit
from gmlvm.datasets import Split


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
