"""One step after another: what a step does, to what, with which randomness, and what an objective must give it."""

from functools import partial

import numpy as np
import pytest
import torch
from small_runs import Error, Learned, Noted, new_model, own_model, run, same_weights, state
from torch import nn

from gmlvm import WAE, Clusterer, Distillation, InformationMaximisation, Objective, Run, Smoothness, cosine
from gmlvm import run as run_module

# Step by step


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


# What a step does


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


def test_frozen_weights_stay_as_they_are_and_the_others_are_trained(small_data):
    model = new_model()
    model.decoder.requires_grad_(False)
    before = state(model)
    run(model, small_data)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {name for name, _ in model.named_parameters() if not name.startswith("decoder")}


def modes(run):
    """Inside a step: which parts are in training mode, by name."""
    seen = {}

    class Looks(WAE):
        def terms(self, model, batch, generator):
            seen.update({name: part.training for name, part in model.named_modules() if name})
            return super().terms(model, batch, generator)

    run(Looks(100.0, smoothness=Smoothness(20.0), consistency_weight=10.0))
    return seen


def test_a_part_that_is_frozen_altogether_is_left_as_it_was_batch_norms_and_dropout_too(small_data):
    """Of an encoder with both, in a run that perturbs its images and has it judge what is drawn."""
    model, other = own_model(dropout=0.5), own_model(dropout=0.5)
    model.discrete_encoder.requires_grad_(False)
    before = state(model)
    seen = modes(lambda objective: run(model, small_data, objective))
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert not any(training for name, training in seen.items() if name.startswith("discrete_encoder"))
    assert all(training for name, training in seen.items() if not name.startswith("discrete_encoder"))
    before = state(other)
    run(other, small_data)  # where nothing is frozen these are in training mode, and remember
    changed = {name for name, tensor in other.state_dict().items() if not torch.equal(tensor, before[name])}
    assert "discrete_encoder.2.running_mean" in changed


def test_a_part_of_which_some_weights_are_frozen_is_in_training_mode(small_data):
    model = own_model()
    model.discrete_encoder[1].requires_grad_(False)
    seen = modes(lambda objective: run(model, small_data, objective))
    assert all(seen.values())
    assert model.discrete_encoder[2].num_batches_tracked == 12


def test_a_trunk_that_is_frozen_with_one_encoder_stays_in_evaluation_mode_in_the_other(small_data):
    class Heads(nn.Module):
        def __init__(self, trunk):
            super().__init__()
            self.trunk, self.head = trunk, nn.Linear(8, 24)

        def forward(self, x):
            loc, log_scale = self.head(self.trunk(x)).view(-1, 4, 6).chunk(2, 2)
            return loc, log_scale.exp()

    with torch.random.fork_rng():
        trunk = nn.Sequential(nn.Flatten(), nn.Linear(30, 8), nn.BatchNorm1d(8), nn.Dropout(0.5))
        model = own_model(encoder=nn.Sequential(trunk, nn.Linear(8, 4)))
        model.continuous_encoder = Heads(trunk)
    model.discrete_encoder.requires_grad_(False)
    before = state(model)
    seen = modes(lambda objective: run(model, small_data, objective))
    assert seen["continuous_encoder"]
    assert not seen["discrete_encoder.0.3"]  # a dropout of both
    assert same_weights(state(trunk), {n.removeprefix("discrete_encoder.0."): t for n, t in before.items()
                                       if n.startswith("discrete_encoder.0.")})  # fmt: skip
    assert not torch.equal(model.continuous_encoder.head.weight, before["continuous_encoder.head.weight"])


def test_a_run_with_a_frozen_part_goes_on_from_its_checkpoint(small_data, tmp_path):
    models = [own_model() for _ in range(2)]
    for model in models:
        model.discrete_encoder.requires_grad_(False)
    run(models[0], small_data)
    half = own_model()
    half.discrete_encoder.requires_grad_(False)
    run(half, small_data, checkpoint=tmp_path / "run", callbacks={5: lambda run: run.stop("interrupted")})
    run(models[1], small_data, checkpoint=tmp_path / "run")
    assert same_weights(*models)
    with pytest.raises(ValueError, match="frozen there"):
        run(own_model(), small_data, checkpoint=tmp_path / "run")


# A discrete encoder by itself


def new_clusterer():
    return Clusterer(own_model().discrete_encoder, (1, 6, 5))


def labels(small_data):
    return nn.functional.one_hot(small_data.train.labels, 4).float()


@pytest.mark.parametrize(
    "objective",
    [lambda data: InformationMaximisation(), lambda data: Distillation(labels(data))],
    ids=["information", "distillation"],
)
def test_a_clusterer_is_trained_and_goes_on_from_its_checkpoint(small_data, tmp_path, objective):
    whole, resumed = new_clusterer(), new_clusterer()
    before = state(whole)
    history = run(whole, small_data, objective(small_data))
    assert history.steps == 12
    assert all(not torch.equal(tensor, before[name]) for name, tensor in whole.state_dict().items())
    run(
        new_clusterer(), small_data, objective(small_data), checkpoint=tmp_path / "run",
        callbacks={5: lambda run: run.stop("interrupted")},
    )  # fmt: skip
    run(resumed, small_data, objective(small_data), checkpoint=tmp_path / "run")
    assert same_weights(whole, resumed)
    assert not any(module.training for module in whole.modules())


def test_of_a_model_such_an_objective_trains_the_discrete_encoder_alone(small_data):
    model, clusterer = own_model(), new_clusterer()
    before = state(model)
    run(model, small_data, InformationMaximisation())
    run(clusterer, small_data, InformationMaximisation())
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {name for name in before if name.startswith("discrete_encoder")}
    assert same_weights(model.discrete_encoder, clusterer.discrete_encoder)


def test_other_targets_are_another_run(small_data, tmp_path):
    run(new_clusterer(), small_data, Distillation(labels(small_data)), checkpoint=tmp_path / "run", steps=3)
    other = Distillation(labels(small_data).roll(1, 1))
    with pytest.raises(ValueError, match=r"other settings \(values objective\.targets"):
        run(new_clusterer(), small_data, other, checkpoint=tmp_path / "run", steps=3)


def test_a_clusterer_has_no_matched_start_and_images_must_fit_it(small_data):
    with pytest.raises(TypeError, match="model must be of type GMLVM, got Clusterer"):
        run(new_clusterer(), small_data, InformationMaximisation(), matched_start=True)
    with pytest.raises(ValueError, match=r"for images of shape \(1, 6, 5\), the data has \(1, 5, 6\)"):
        run(new_clusterer(), small_data.train.images.mT, InformationMaximisation(), batch_size=16)


def test_a_model_of_frozen_weights_is_refused(small_data):
    with pytest.raises(ValueError, match="nothing to train: every parameter of the model is frozen"):
        run(new_model().requires_grad_(False), small_data)


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


def test_every_part_is_in_training_mode_inside_a_step_and_in_evaluation_mode_outside(small_data):
    model, noted = own_model(), Noted(1.0)
    outside = []
    run(model, small_data, noted, callbacks=lambda run: outside.append({part.training for part in run.model.modules()}))
    assert [modes for _, _, modes in noted._seen] == [{True}] * 12
    assert outside == [{False}] * 12
    assert not any(module.training for module in [*model.modules(), *noted.modules()])


# Randomness


@pytest.mark.parametrize("new", [new_model, own_model], ids=["standard", "dropout"])
def test_the_same_seed_gives_the_same_weights_and_another_does_not(small_data, new):
    models = [new() for _ in range(3)]
    for model, seed, elsewhere in zip(models, (0, 0, 1), (5, 6, 7), strict=True):
        torch.manual_seed(elsewhere)  # what the reader does with torch's own generator is no part of the run
        run(model, small_data, seed=seed)
    assert same_weights(models[0], models[1])
    assert not same_weights(models[0], models[2])


def test_the_largest_seed_can_be_used(small_data):
    assert run(new_model(), small_data, steps=2, seed=2**64 - 1).steps == 2


# The matched start


def test_the_matched_start_is_made_before_the_first_step(small_data):
    model = new_model()
    run(model, small_data, schedule=lambda t: 0.0, matched_start=True)
    with torch.no_grad():
        loc = model.posterior(small_data.train.images).loc
    np.testing.assert_allclose(loc.mean(0), model.prior.loc, atol=0.25)  # fitted on 400 draws
    np.testing.assert_allclose(loc.std(0), model.prior.scale, rtol=0.2)


def test_the_matched_start_is_fitted_on_images_that_the_seed_draws(small_data, monkeypatch):
    monkeypatch.setattr(run_module, "_START_IMAGES", 50)
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


# Where and how it computes


@pytest.mark.parametrize("device", ["cpu:0", torch.device("cpu"), torch.device("cpu", 0), "auto"], ids=str)
def test_a_device_can_be_named_as_torch_names_it(small_data, device):
    assert run(new_model(), small_data, device=device).steps == 12


def test_bfloat16_autocast_trains_close_to_float32(small_data):
    exact, mixed = (run(new_model(), small_data, steps=40, precision=p) for p in ("32-true", "bf16-mixed"))
    np.testing.assert_allclose(mixed["reconstruction"][-10:].mean(), exact["reconstruction"][-10:].mean(), rtol=0.1)


def test_precision_decides_whether_products_are_in_bfloat16(small_data):
    noted = Noted(1.0)
    exact = run(new_model(), small_data, noted, steps=3)
    mixed = run(new_model(), small_data, noted, steps=3, precision="bf16-mixed")
    assert [enabled for _, enabled, _ in noted._seen] == [False] * 3 + [True] * 3
    assert not np.array_equal(exact["reconstruction"], mixed["reconstruction"])


def test_what_torch_has_compiled_is_trained_as_it_is(small_data):
    plain, compiled = new_model(), torch.compile(new_model())
    run(plain, small_data)
    run(compiled, small_data)
    assert same_weights(plain, compiled._orig_mod)


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


# What an objective must give


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


class SpoilsTheGradient(Error):  # noqa: N818 (squared error, no exception)
    """A loss of zero, with a gradient that is not finite: that of a square root at zero."""

    def terms(self, model, batch, generator):
        loss = super().terms(model, batch, generator)["loss"]
        return {"loss": (loss - loss.detach()).sqrt()}


@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_weights_that_the_last_step_has_spoiled_are_noticed(small_data, clip_norm):
    with pytest.raises(FloatingPointError, match=r"model\.\w+.* is not finite after step 1"):
        run(new_model(), small_data, SpoilsTheGradient(), steps=1, clip_norm=clip_norm)
