"""The loop around a run's steps: deaf to labels, never left half done, and ended by callbacks, Ctrl-C and errors."""

import signal
import threading
import time
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from small_runs import Error, Noted, Stop, new_model, own_model, raise_stop, run, same_weights

from gmlvm import MMD, VAE, WAE, evaluate, fit
from gmlvm.datasets import Split

# What training does


@pytest.mark.parametrize("objective", [VAE(), WAE(100.0), WAE(10.0, MMD("codes"))], ids=["vae", "pairs", "codes"])
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


def test_labels_are_never_looked_at(small_data):
    shuffled = small_data.train.labels.flip(0)
    models = [new_model(), new_model()]
    run(models[0], small_data)
    run(models[1], replace(small_data, train=Split(small_data.train.images, shuffled)))
    assert same_weights(*models)


# What it is called with


def test_a_hundred_images_are_enough_for_the_default_batch(small_data):
    noted = Noted(1.0)
    images = small_data.train.images
    for count, size in ((100, 100), (400, 128)):
        fit(new_model(), noted, images[:count], steps=1, device="cpu", progress=False)
        assert len(noted._seen[-1][0]) == size


def test_numpy_scalars_are_numbers(small_data, tmp_path):
    plain, other = new_model(), new_model()
    run(plain, small_data, steps=6, batch_size=20, seed=3, learning_rate=2**-7, checkpoint_every=2)
    options = {
        "steps": np.int64(6), "batch_size": np.int32(20), "seed": np.uint64(3), "learning_rate": np.float32(2**-7),
        "checkpoint_every": np.int8(2), "checkpoint": tmp_path / "run.safetensors",
    }  # fmt: skip
    run(other, small_data, **options)
    assert same_weights(plain, other)
    assert run(new_model(), small_data, **options).steps == 6


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"optimizer": torch.optim.SGD, "learning_rate": 0.1}, ValueError, "learning_rate is Adam's; .* got 0.1"),
        ({"optimizer": torch.optim.LBFGS}, ValueError, "one step for one gradient; LBFGS asks for several"),
        ({"optimizer": list}, TypeError, "what optimizer gives must be of type Optimizer, got list"),
        ({"seed": 2**64}, ValueError, r"seed must be below 2\^64, got 18446744073709551616"),
        ({"seed": -1}, ValueError, "seed must be at least 0, got -1"),
        ({"device": "cuda:1", "devices": 2}, ValueError, "device must be such as 'cuda:1', for one process"),
        ({"device": "cpu", "devices": 3}, ValueError, "batch_size must be a multiple of devices=3, got 16"),
        ({"callbacks": [print, 3]}, TypeError, "a callback must be a function of the run, got 3"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 2, got 0"),
    ],
    ids=lambda value: "" if isinstance(value, (type, str)) else " and ".join(value),
)
def test_options_that_do_not_fit_are_refused_before_the_first_step(small_data, options, error, message):
    model = new_model()
    with pytest.raises(error, match=message):
        run(model, small_data, **options)
    assert same_weights(model, new_model())


def test_training_works_in_a_thread(small_data):
    model, expected = new_model(), new_model()
    thread = threading.Thread(target=run, args=(model, small_data))
    thread.start()
    thread.join()
    run(expected, small_data)
    assert same_weights(model, expected)


# Callbacks


def test_callbacks_come_after_their_steps_in_evaluation_mode(small_data):
    seen = []
    model = new_model()

    def note(run):
        seen.append((run.done, run.model.training, run.model.decoder[0].weight.detach().clone()))

    start = model.decoder[0].weight.detach().clone()
    run(model, small_data, callbacks={0: note, np.int64(1): note, 12: note})
    assert [(done, training) for done, training, _ in seen] == [(0, False), (1, False), (12, False)]
    assert torch.equal(seen[0][2], start)
    assert not torch.equal(seen[1][2], start)
    assert torch.equal(seen[2][2], model.decoder[0].weight)
    assert not model.training


def test_several_callbacks_come_after_every_step_in_turn(small_data):
    seen = []
    callbacks = [lambda run: seen.append(run.done), lambda run: seen.append(float(run.terms["loss"]))]
    history = run(new_model(), small_data, steps=3, callbacks=callbacks)
    assert seen == [1, history["loss"][0], 2, history["loss"][1], 3, history["loss"][2]]


@pytest.mark.parametrize("mode", [True, False], ids=["left in training mode", "left in evaluation mode"])
@pytest.mark.parametrize("new", [own_model, partial(new_model, networks="conv")], ids=["dropout", "conv"])
def test_callbacks_do_not_change_the_run(small_data, mode, new):
    plain, watched = new(), new()

    def look(run):
        run.model.sample(5, generator=torch.Generator().manual_seed(0))
        run.model.predict(small_data.test.images)
        run.model.train(mode)

    run(plain, small_data)
    run(watched, small_data, callbacks=look)
    assert same_weights(plain, watched)


def test_early_stopping_is_a_callback(small_data):
    history = run(new_model(), small_data, steps=100, callbacks=lambda run: run.done == 7 and run.stop("good enough"))
    assert history.steps == 7
    assert history.stopped == "good enough"
    assert "stopped: good enough" in repr(history)


def test_a_run_that_is_stopped_before_its_first_step_has_an_empty_history(small_data):
    model = new_model()
    history = run(model, small_data, callbacks={0: lambda run: run.stop()})
    assert (history.steps, dict(history)) == (0, {})
    assert same_weights(model, new_model())


# However it ends


def fails_within(objective):
    class Fails(objective):
        def terms(self, model, batch, generator):
            raise Stop

    return Fails


@pytest.mark.parametrize(
    "options",
    [
        {"callbacks": {3: raise_stop}}, {"callbacks": {3: lambda run: run.model.train() and raise_stop(run)}},
        {"objective": fails_within(Error)()}, {"data": (1 / 0 for _ in range(1))},
    ],
    ids=["callback", "callback in training mode", "objective", "data"],
)  # fmt: skip
def test_the_model_is_in_evaluation_mode_however_training_ends(small_data, options):
    model = own_model()
    with pytest.raises((Stop, ZeroDivisionError)):
        run(model, options.pop("data", small_data), **options)
    assert not any(module.training for module in model.modules())


def test_the_seconds_of_a_history_are_those_of_the_loop(small_data):
    history = run(new_model(), small_data, callbacks={1: lambda _: time.sleep(0.2)})
    assert 0.2 <= history.seconds < 60


@pytest.mark.usefixtures("terminal")
def test_ctrl_c_gives_the_history_back_after_the_step_that_is_being_taken(small_data):
    model, expected = own_model(), own_model()
    history = run(model, small_data, callbacks={5: lambda _: signal.raise_signal(signal.SIGINT)})
    assert (history.steps, history.stopped) == (5, "interrupted")
    assert not model.training
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    run(expected, small_data, steps=5)
    assert same_weights(model, expected)


class Interrupted(WAE):
    """Ctrl-C is pressed while the fifth step is being taken."""

    _calls = 0

    def terms(self, model, batch, generator):
        self._calls += 1
        if self._calls == 5:
            signal.raise_signal(signal.SIGINT)
        return super().terms(model, batch, generator)


@pytest.mark.usefixtures("terminal")
def test_ctrl_c_within_a_step_lets_it_come_to_its_end(small_data):
    model, expected, seen = own_model(), own_model(), []
    history = run(model, small_data, Interrupted(100.0), callbacks=lambda run: seen.append(run.done))
    assert (history.steps, history.stopped) == (5, "interrupted")
    assert seen == [1, 2, 3, 4, 5]
    run(expected, small_data, steps=5)
    assert same_weights(model, expected)


@pytest.mark.usefixtures("terminal")
def test_ctrl_c_twice_ends_at_once(small_data):
    def press_twice(_):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    model = own_model()
    with pytest.raises(KeyboardInterrupt):
        run(model, small_data, callbacks={5: press_twice})
    assert not model.training
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("handler", [signal.SIG_IGN, lambda *_: None], ids=["ignored", "own"])
def test_a_reader_who_has_given_ctrl_c_another_meaning_keeps_it(small_data, handler):
    before = signal.signal(signal.SIGINT, handler)
    try:
        history = run(new_model(), small_data, callbacks={5: lambda _: signal.raise_signal(signal.SIGINT)})
        assert signal.getsignal(signal.SIGINT) == handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert history.steps == 12


def poison(name):
    def callback(run):
        with torch.no_grad():
            run.model.get_parameter(name).fill_(torch.nan)

    return callback


@pytest.mark.parametrize(
    ("spoil", "term"),
    [("decoder.4.bias", "reconstruction"), ("continuous_encoder.bias", "divergence")],
)
def test_a_loss_that_is_not_finite_names_the_step_and_the_term(small_data, spoil, term):
    model = new_model()
    with pytest.raises(FloatingPointError, match=rf"{term} is not finite at step 6 "):
        run(model, small_data, callbacks={5: poison(spoil)})
    assert not model.training


def test_what_is_not_finite_is_noticed_within_fifty_steps(small_data):
    noted = Noted(1.0)
    with pytest.raises(FloatingPointError, match="at step 3 "):
        run(new_model(), small_data, noted, steps=200, callbacks={2: poison("decoder.4.bias")})
    assert len(noted._seen) <= 50
