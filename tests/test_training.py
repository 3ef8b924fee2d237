"""The loop and its step: repeatable, honest about its history, deaf to labels, and never left half done."""

import signal
import threading
import time
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from small_runs import Error, Learned, Noted, new_model, own_model, run, same_weights, state

from gmlvm import MMD, VAE, WAE, Objective, Run, cosine, evaluate, fit, training
from gmlvm.datasets import Split


class Stop(Exception):  # noqa: N818 (stands for any interruption)
    """Interrupts a run."""


def raise_stop(_):
    raise Stop


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


def test_a_step_follows_the_gradient(small_data):
    images = small_data.train.images[:8]
    trained, expected = new_model(), new_model()
    run(trained, iter([images]), Error(), steps=1, optimizer=partial(torch.optim.SGD, lr=0.1))
    Error()(expected, images)["loss"].backward()
    for parameter, other in zip(trained.parameters(), expected.parameters(), strict=True):
        gradient = torch.zeros_like(other) if other.grad is None else other.grad
        torch.testing.assert_close(parameter, other - 0.1 * gradient)


def test_the_parameters_of_an_objective_are_trained_with_the_models(small_data):
    objective = Learned()
    run(new_model(), small_data, objective)
    assert objective.log_variance.item() != 0
    assert abs(objective.log_variance.item()) == pytest.approx(12e-3, rel=0.1)  # twelve steps of Adam, one direction


def test_labels_are_never_looked_at(small_data):
    shuffled = small_data.train.labels.flip(0)
    models = [new_model(), new_model()]
    run(models[0], small_data)
    run(models[1], replace(small_data, train=Split(small_data.train.images, shuffled)))
    assert same_weights(*models)


@pytest.mark.parametrize("rate", [1e-3, 3e-4])
def test_the_first_step_of_adam_has_the_length_of_the_learning_rate(small_data, rate):
    model, before = new_model(), new_model()
    run(model, small_data, steps=1, learning_rate=rate)
    pairs = zip(model.parameters(), before.parameters(), strict=True)
    assert max((a - b).abs().max().item() for a, b in pairs) == pytest.approx(rate, rel=1e-3)


def test_bfloat16_autocast_trains_close_to_float32(small_data):
    exact, mixed = (run(new_model(), small_data, steps=40, precision=p) for p in ("32-true", "bf16-mixed"))
    np.testing.assert_allclose(mixed["reconstruction"][-10:].mean(), exact["reconstruction"][-10:].mean(), rtol=0.1)


def test_precision_decides_whether_products_are_in_bfloat16(small_data):
    noted = Noted(1.0)
    exact = run(new_model(), small_data, noted, steps=3)
    mixed = run(new_model(), small_data, noted, steps=3, precision="bf16-mixed")
    assert [enabled for _, enabled, _ in noted._seen] == [False] * 3 + [True] * 3
    assert not np.array_equal(exact["reconstruction"], mixed["reconstruction"])


def test_frozen_weights_stay_as_they_are_and_the_others_are_trained(small_data):
    model = new_model()
    model.decoder.requires_grad_(False)
    before = state(model)
    run(model, small_data)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {name for name, _ in model.named_parameters() if not name.startswith("decoder")}


def test_what_torch_has_compiled_is_trained_as_it_is(small_data):
    plain, compiled = new_model(), torch.compile(new_model())
    run(plain, small_data)
    run(compiled, small_data)
    assert same_weights(plain, compiled._orig_mod)


# Randomness


@pytest.mark.parametrize("new", [new_model, own_model], ids=["standard", "dropout"])
def test_the_same_seed_gives_the_same_weights_and_another_does_not(small_data, new):
    models = [new() for _ in range(3)]
    for model, seed, elsewhere in zip(models, (0, 0, 1), (5, 6, 7), strict=True):
        torch.manual_seed(elsewhere)  # what the reader does with torch's own generator is no part of the run
        run(model, small_data, seed=seed)
    assert same_weights(models[0], models[1])
    assert not same_weights(models[0], models[2])


@pytest.mark.parametrize("new", [new_model, own_model], ids=["standard", "dropout"])
def test_training_leaves_the_global_generator_alone(small_data, new):
    before = torch.get_rng_state()
    run(new(), small_data)
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(Stop):
        run(new(), small_data, callbacks=raise_stop)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_callback_that_draws_from_the_global_generator_changes_nothing(small_data):
    plain, watched = own_model(), own_model()
    run(plain, small_data)
    run(watched, small_data, callbacks=lambda run: torch.rand(3))
    assert same_weights(plain, watched)


def test_dropout_and_the_runs_own_samples_draw_different_numbers(small_data):
    run = Run(own_model(), WAE(1.0), small_data, steps=1, device="cpu")
    assert not torch.equal(run._ambient["cpu"], run.generator.get_state())


# Callbacks, and the mode of the model


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


def test_every_part_is_in_training_mode_inside_a_step_and_in_evaluation_mode_outside(small_data):
    model, noted = own_model(), Noted(1.0)
    outside = []
    run(model, small_data, noted, callbacks=lambda run: outside.append({part.training for part in run.model.modules()}))
    assert [modes for _, _, modes in noted._seen] == [{True}] * 12
    assert outside == [{False}] * 12
    assert not any(module.training for module in [*model.modules(), *noted.modules()])


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


# Interruptions


def test_ctrl_c_gives_the_history_back_after_the_step_that_is_being_taken(small_data):
    model, expected = own_model(), own_model()
    history = run(model, small_data, callbacks={5: lambda _: signal.raise_signal(signal.SIGINT)})
    assert (history.steps, history.stopped) == (5, "interrupted")
    assert not model.training
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    run(expected, small_data, steps=5)
    assert same_weights(model, expected)


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


def test_training_works_in_a_thread(small_data):
    model, expected = new_model(), new_model()
    thread = threading.Thread(target=run, args=(model, small_data))
    thread.start()
    thread.join()
    run(expected, small_data)
    assert same_weights(model, expected)


# The history, and what is not finite


def test_history_holds_every_step_and_adds_up(small_data):
    history = run(new_model(), small_data, VAE(beta=3.0))
    assert history.steps == 12
    assert list(history) == ["loss", "reconstruction", "kl_z", "kl_k"]
    assert dict(history) == history.terms
    total = history["reconstruction"] + 3 * (history["kl_z"] + history["kl_k"])
    np.testing.assert_allclose(history["loss"], total, rtol=1e-5)
    assert history.seconds > 0
    assert "12 steps on cpu" in repr(history)


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


class SpoilsTheGradient(Error):  # noqa: N818 (squared error, no exception)
    """A loss of zero, with a gradient that is not finite: that of a square root at zero."""

    def terms(self, model, batch, generator):
        loss = super().terms(model, batch, generator)["loss"]
        return {"loss": (loss - loss.detach()).sqrt()}


@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_weights_that_the_last_step_has_spoiled_are_noticed(small_data, clip_norm):
    with pytest.raises(FloatingPointError, match=r"model\.\w+.* is not finite after step 1"):
        run(new_model(), small_data, SpoilsTheGradient(), steps=1, clip_norm=clip_norm)


class Fickle(Error):  # noqa: N818
    """Gives another term now and then."""

    _calls = 0

    def terms(self, model, batch, generator):
        self._calls += 1
        loss = super().terms(model, batch, generator)["loss"]
        return {"loss": loss} | ({"extra": loss} if self._calls > 2 else {})


def test_terms_that_change_their_names_are_refused(small_data):
    with pytest.raises(ValueError, match="the same terms at each step, got loss, extra after loss"):
        run(new_model(), small_data, Fickle())


def gives(value):
    class Gives(Objective):
        def terms(self, model, batch, generator):
            return value(sum(parameter.sum() for parameter in model.parameters()))

    return Gives()


@pytest.mark.parametrize(
    ("objective", "error", "message"),
    [
        (gives(lambda loss: loss), TypeError, "terms by name, a mapping or a named tuple, got Tensor"),
        (gives(lambda loss: {"cost": loss}), ValueError, "scalar tensors by name, loss first"),
        (gives(lambda loss: {"loss": loss[None]}), ValueError, r"got shapes \{'loss': \(1,\)\}"),
        (gives(lambda loss: {"loss": 3.0}), ValueError, "scalar tensors by name"),
        (gives(lambda loss: {"loss": loss.detach()}), ValueError, "does not depend on any parameter that is trained"),
    ],
    ids=["tensor", "no loss", "not scalar", "number", "no gradient"],
)
def test_an_objective_that_gives_something_else_is_told_so(small_data, objective, error, message):
    with pytest.raises(error, match=message):
        run(new_model(), small_data, objective)


# Learning rate and optimiser


def test_cosine_falls_from_one_to_zero():
    values = [cosine(t) for t in np.linspace(0, 1, 20)]
    assert values[0] == 1
    assert values[-1] == pytest.approx(0)
    assert (np.diff(values) < 0).all()


def test_schedule_scales_the_learning_rate(small_data):
    still = new_model()
    run(still, small_data, schedule=lambda t: 0.0)
    assert same_weights(still, new_model())
    rates = []
    note = {step: lambda run: rates.append(run.optimizer.param_groups[0]["lr"]) for step in range(1, 5)}
    run(new_model(), small_data, steps=4, learning_rate=0.5, schedule=lambda t: 1 - t, callbacks=note)
    assert rates == [0.5, 0.375, 0.25, 0.125]


def test_the_schedule_sees_the_share_of_steps_that_are_done(small_data):
    seen = []
    run(new_model(), small_data, steps=5, schedule=lambda t: seen.append(t) or 1.0)
    assert seen == [0.0, 0.2, 0.4, 0.6, 0.8]


@pytest.mark.parametrize(
    "kind", [np.float32, np.float64, torch.tensor, lambda value: torch.tensor([[value]]), np.array], ids=str
)
def test_a_schedule_may_give_any_kind_of_number(small_data, tmp_path, kind):
    plain, other = new_model(), new_model()
    run(plain, small_data, schedule=lambda t: 0.5)
    run(other, small_data, schedule=lambda t: kind(0.5), checkpoint=tmp_path / "run.safetensors")
    assert same_weights(plain, other)


@pytest.mark.parametrize(
    ("schedule", "error", "message"),
    [
        (lambda t: None, TypeError, "what schedule gives at 0 must be a number, got None"),
        (lambda t: 0.5 - t, ValueError, r"what schedule gives at 0\.583333 must be a finite number .* got -0\.08"),
        (lambda t: np.nan, ValueError, "must be a finite number"),
        (lambda t: [1.0], TypeError, r"must be a number, got \[1\.0\]"),
        (lambda t: np.ones(2), TypeError, "must be a number"),
    ],
    ids=["none", "negative", "nan", "list", "several"],
)
def test_a_schedule_that_gives_no_factor_is_refused_before_the_first_step(small_data, schedule, error, message):
    model = new_model()
    with pytest.raises(error, match=message):
        run(model, small_data, schedule=schedule)
    assert same_weights(model, new_model())


def test_an_optimizer_is_a_function_of_the_parameters(small_data):
    given = []

    def optimizer(parameters):
        given.extend(parameters)
        return torch.optim.SGD(parameters, lr=0.01, momentum=0.9)

    model = new_model()
    model.decoder.requires_grad_(False)
    seen = []
    run(model, small_data, optimizer=optimizer, callbacks=lambda run: seen.append(run.optimizer))
    assert list(map(id, given)) == [id(p) for p in model.parameters() if p.requires_grad]
    assert isinstance(seen[0], torch.optim.SGD)


def test_weight_decay_reaches_the_weights(small_data):
    decayed = new_model()
    run(decayed, small_data, optimizer=partial(torch.optim.AdamW, lr=1e-8, weight_decay=1e7), steps=1)  # 1 - 0.1
    for parameter, before in zip(decayed.parameters(), new_model().parameters(), strict=True):
        torch.testing.assert_close(parameter, 0.9 * before, rtol=1e-4, atol=1e-6)


def step_length(data, **options):
    model = new_model()
    run(model, data, Error(), steps=1, optimizer=partial(torch.optim.SGD, lr=1.0), **options)
    change = [a - b for a, b in zip(model.parameters(), new_model().parameters(), strict=True)]
    return torch.cat([part.flatten() for part in change]).norm().item()


def test_clip_norm_is_the_largest_norm_of_the_gradient(small_data):
    length = step_length(small_data)
    assert step_length(small_data, clip_norm=length / 4) == pytest.approx(length / 4, rel=1e-3)
    assert step_length(small_data, clip_norm=length * 4) == length


def test_accumulated_batches_make_a_step_with_their_mean_gradient(small_data):
    images = small_data.train.images[:32]
    options = {"steps": 1, "optimizer": partial(torch.optim.SGD, lr=1.0)}
    whole, parts = new_model(), new_model()
    run(whole, iter([images]), Error(), **options)
    run(parts, iter(images.split(8)), Error(), accumulate=4, **options)
    for a, b, before in zip(whole.parameters(), parts.parameters(), new_model().parameters(), strict=True):
        torch.testing.assert_close(a - before, b - before, rtol=1e-4, atol=1e-6)


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


def test_a_model_of_frozen_weights_is_refused(small_data):
    with pytest.raises(ValueError, match="nothing to train: every parameter of the model is frozen"):
        run(new_model().requires_grad_(False), small_data)


# What users pass


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


def test_the_largest_seed_can_be_used(small_data):
    assert run(new_model(), small_data, steps=2, seed=2**64 - 1).steps == 2


def test_a_hundred_images_are_enough_for_the_default_batch(small_data):
    noted = Noted(1.0)
    images = small_data.train.images
    for count, size in ((100, 100), (400, 128)):
        fit(new_model(), noted, images[:count], steps=1, device="cpu", progress=False)
        assert len(noted._seen[-1][0]) == size


@pytest.mark.parametrize("device", ["cpu:0", torch.device("cpu"), torch.device("cpu", 0), "auto"], ids=str)
def test_a_device_can_be_named_as_torch_names_it(small_data, device):
    assert run(new_model(), small_data, device=device).steps == 12


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_training_works_where_gradients_are_off(small_data, tmp_path, mode):
    plain, other, resumed = own_model(), own_model(), own_model()
    objectives = Learned(), Learned(), Learned()
    images = small_data.train.images.float() / 255
    options = {"matched_start": True, "batch_size": 16}
    run(plain, images, objectives[0], **options)
    with mode():
        run(other, images, objectives[1], steps=8, checkpoint=tmp_path / "run", **options)
        run(resumed, images, objectives[2], checkpoint=tmp_path / "run", **options)
        assert not torch.is_grad_enabled()
    assert same_weights(plain, resumed)
    assert same_weights(objectives[0], objectives[2])


def test_a_model_made_in_inference_mode_is_refused(small_data):
    with torch.inference_mode():
        model = new_model()
    with pytest.raises(ValueError, match="must be made outside"):
        run(model, small_data)


# The matched start


def test_the_matched_start_is_made_before_the_first_step(small_data):
    model = new_model()
    run(model, small_data, schedule=lambda t: 0.0, matched_start=True)
    with torch.no_grad():
        loc = model.posterior(small_data.train.images).loc
    np.testing.assert_allclose(loc.mean(0), model.prior.loc, atol=0.25)  # fitted on 400 draws
    np.testing.assert_allclose(loc.std(0), model.prior.scale, rtol=0.2)


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


def test_a_matched_start_needs_images_as_a_whole(small_data):
    with pytest.raises(ValueError, match="a matched start needs images given as a whole"):
        run(new_model(), iter([small_data.train.images[:8]]), matched_start=True)


# The run itself, a step at a time


def test_a_run_taken_step_by_step_is_what_fit_does(small_data):
    looped, stepped = own_model(), own_model()
    options = {"steps": 12, "batch_size": 16, "schedule": cosine, "matched_start": True}
    expected = run(looped, small_data, **options)
    by_hand = Run(stepped, WAE(100.0), small_data, device="cpu", **options)
    losses = [by_hand.step()["loss"].item() for _ in range(12)]
    assert same_weights(looped, stepped)
    np.testing.assert_array_equal(losses, expected["loss"])
    assert by_hand.look() == {name: values[-1] for name, values in expected.items()}
    assert by_hand.history().terms.keys() == expected.terms.keys()
    np.testing.assert_array_equal(by_hand.history()["loss"], expected["loss"])
    assert by_hand.done == 12
    with pytest.raises(ValueError, match="all 12 planned steps are done"):
        by_hand.step()


def test_a_run_without_planned_steps_goes_on_as_long_as_it_is_asked_to(small_data):
    model = new_model()
    by_hand = Run(model, WAE(100.0), small_data, batch_size=16, device="cpu")
    assert by_hand.look() == {}
    for _ in range(12):
        by_hand.step()
    expected = new_model()
    run(expected, small_data)
    assert same_weights(model, expected)
    with pytest.raises(ValueError, match="a schedule goes by the share of steps done, so steps must be given"):
        Run(model, WAE(100.0), small_data, schedule=cosine, device="cpu")


def test_the_seconds_of_a_history_are_those_of_the_loop(small_data):
    history = run(new_model(), small_data, callbacks={1: lambda _: time.sleep(0.2)})
    assert 0.2 <= history.seconds < 60
