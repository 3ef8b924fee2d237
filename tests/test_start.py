"""The start of the discrete encoder: taught, then refined; and nothing else of the model touched."""

import copy
import math
import signal

import numpy as np
import pytest
import torch
from small_runs import Stop, same_weights
from test_embedding import found, three_groups
from torch import nn

from gmlvm import (
    GMLVM,
    WAE,
    Clusterer,
    Distillation,
    GaussianMixturePrior,
    InformationMaximisation,
    Objective,
    Run,
    datasets,
    embedding,
    fit,
    start_discrete_encoder,
)

SETTINGS = {"teaching_steps": 40, "refining_steps": 20, "batch_size": 32, "device": "cpu", "progress": False}


@pytest.fixture(scope="module")
def images():
    return three_groups(300)[0]


@pytest.fixture(scope="module")
def groups():
    return three_groups(300)[1]


@pytest.fixture
def targets(groups):
    """A teacher that is right, and leaves a little doubt."""
    return 0.9 * nn.functional.one_hot(torch.tensor(groups), 3).float() + 0.1 / 3


def new_model(networks="deep"):
    return GMLVM.for_images((1, 8, 8), 3, 2, networks=networks, hidden_dim=16, component_hidden_dim=4)


def frozen():
    model = new_model()
    model.discrete_encoder.requires_grad_(False)
    return model


def encoder():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 3))


@pytest.mark.parametrize("model", [new_model, lambda: Clusterer(encoder(), (1, 8, 8))], ids=["GMLVM", "Clusterer"])
def test_components_become_the_teachers_groups(images, groups, targets, model):
    model = model()
    start = start_discrete_encoder(model, images, targets=targets, **SETTINGS)
    assert start.targets is targets
    assert (model.predict(images) == groups).all()
    assert (start.taught.steps, start.refined.steps) == (40, 20)
    assert list(start.taught.terms) == ["loss", "cross_entropy", "roughness"]
    assert list(start.refined.terms) == ["loss", "roughness", "conditional_entropy", "entropy"]
    assert start.taught["cross_entropy"][-1] < 0.7 < start.taught["cross_entropy"][0]
    assert start.refined["conditional_entropy"][-1] < start.refined["conditional_entropy"][0]  # surer than the teacher
    assert "targets" not in repr(start)


def test_it_is_distillation_and_then_information_maximisation(images, targets):
    model, by_hand = new_model(), Clusterer(new_model().discrete_encoder, (1, 8, 8))
    start = start_discrete_encoder(model, images, targets=targets, seed=5, learning_rate=1e-2, **SETTINGS)
    settings = {"batch_size": 32, "learning_rate": 1e-2, "device": "cpu", "progress": False}
    taught = fit(by_hand, Distillation(targets), images, steps=40, seed=5, **settings)
    refined = fit(by_hand, InformationMaximisation(), images, steps=20, seed=6, **settings)
    for name, tensor in by_hand.discrete_encoder.state_dict().items():
        assert torch.equal(model.discrete_encoder.state_dict()[name], tensor)
    np.testing.assert_array_equal(start.taught["loss"], taught["loss"])
    np.testing.assert_array_equal(start.refined["loss"], refined["loss"])


@pytest.mark.parametrize("balance", [0.0, 1.0])
def test_another_objective_may_follow_the_teacher(images, targets, balance):
    model = Clusterer(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), (1, 8, 8))
    by_hand, refining = copy.deepcopy(model), InformationMaximisation(balance=balance)
    start = start_discrete_encoder(model, images, targets=targets, refining=refining, seed=5, **SETTINGS)
    settings = {"batch_size": 32, "device": "cpu", "progress": False, "learning_rate": 2e-3}
    fit(by_hand, Distillation(targets), images, steps=40, seed=5, **settings)
    refined = fit(by_hand, refining, images, steps=20, seed=6, **settings)
    assert all(map(torch.equal, model.state_dict().values(), by_hand.state_dict().values()))
    np.testing.assert_array_equal(start.refined["loss"], refined["loss"])


def test_an_objective_that_is_none_is_refused_before_the_teacher_is_asked(images, monkeypatch):
    monkeypatch.setattr(embedding, "teacher", pytest.fail)
    with pytest.raises(TypeError, match="objective must be of type Objective, got float"):
        start_discrete_encoder(new_model(), images, refining=4.0)


def test_the_rest_of_the_model_is_left_as_it_was(images, targets):
    prior = GaussianMixturePrior.simplex(3, 2, learn=("loc", "scale", "weights"))
    model = GMLVM.for_images((1, 8, 8), 3, 2, networks="conv", prior=prior)
    before = copy.deepcopy(model.state_dict())
    start_discrete_encoder(model, images, targets=targets, **SETTINGS | {"teaching_steps": 2, "refining_steps": 2})
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {name for name in before if name.startswith("discrete_encoder")}
    assert not any(module.training for module in model.discrete_encoder.modules())


def test_images_may_come_in_any_form_and_labels_are_not_looked_at(images, groups, targets):
    models, settings = [], SETTINGS | {"teaching_steps": 3, "refining_steps": 3}
    data = datasets.from_arrays(images, np.roll(groups, 1), images[:5], groups[:5])
    for given in (images, images.numpy()[:, 0], images / 255, data, data.train):
        models.append(new_model())
        start_discrete_encoder(models[-1], given, targets=targets, **settings)
    for model in models[1:]:
        assert all(map(torch.equal, model.state_dict().values(), models[0].state_dict().values()))


def test_what_torch_has_compiled_is_started_as_it_is(images, targets):
    plain, compiled, settings = new_model(), torch.compile(new_model()), SETTINGS | {"teaching_steps": 3}
    for model in (plain, compiled):
        start_discrete_encoder(model, images, targets=targets, **settings)
    assert all(map(torch.equal, plain.state_dict().values(), compiled._orig_mod.state_dict().values()))


def test_without_targets_umap_and_a_mixture_are_the_teacher(images, groups):
    model = new_model()
    start = start_discrete_encoder(model, images[:90], seed=3, **SETTINGS)
    assert torch.equal(start.targets, embedding.teacher(images[:90], 3, seed=3))
    order = found(start.targets.numpy(), groups[:90])
    assert (model.predict(images) == np.array(order)[groups]).all()


def test_the_teacher_is_asked_with_the_images_as_uint8_their_number_of_groups_and_the_seed(
    images, targets, monkeypatch
):
    asked = []
    monkeypatch.setattr(embedding, "teacher", lambda *arguments: asked.append(arguments) or targets)
    start = start_discrete_encoder(new_model(), images / 255, seed=3, **SETTINGS | {"teaching_steps": 1})
    ((given, *others),) = asked
    assert torch.equal(given, images)
    assert others == [3, 3]
    assert start.targets is targets


# A start takes minutes: what is done of it is kept.


@pytest.fixture
def asked(targets, monkeypatch):
    """Counts how often the teacher is asked."""
    asked = []
    monkeypatch.setattr(embedding, "teacher", lambda *arguments: asked.append(arguments) or targets)
    return asked


def cut_off(monkeypatch, after):
    """The power fails after so many steps."""
    steps, whole = [], Run.step

    def step(run):
        if len(steps) == after:
            raise Stop
        steps.append(run)
        return whole(run)

    monkeypatch.setattr(Run, "step", step)
    return steps


@pytest.mark.parametrize("after", [0, 1, 39, 40, 41, 59])
def test_a_start_that_was_cut_off_ends_with_the_weights_of_one_that_was_not(
    images, asked, tmp_path, monkeypatch, after
):
    whole, model = new_model(), new_model()
    once = start_discrete_encoder(whole, images, seed=3, **SETTINGS)
    with monkeypatch.context() as patch:
        cut_off(patch, after)
        with pytest.raises(Stop):
            start_discrete_encoder(new_model(), images, seed=3, checkpoints=tmp_path / "start", **SETTINGS)
    with monkeypatch.context() as patch:
        steps = cut_off(patch, math.inf)
        start = start_discrete_encoder(model, images, seed=3, checkpoints=tmp_path / "start", **SETTINGS)
    assert len(asked) == 2  # once by each of the two starts
    assert len(steps) == (60 - after if after in (0, 1, 40, 41) else 59 if after == 39 else 19)
    assert same_weights(model, whole)
    np.testing.assert_array_equal(start.taught["loss"], once.taught["loss"])
    np.testing.assert_array_equal(start.refined["loss"], once.refined["loss"])
    assert torch.equal(start.targets, once.targets)


class Pressed(InformationMaximisation):
    """Ctrl-C is pressed while the fifth step is being taken, once."""

    _calls = 0

    def terms(self, model, batch, generator):
        Pressed._calls += 1
        if Pressed._calls == 8:  # three calls are for the rehearsal and the checkpoints around the first step
            signal.raise_signal(signal.SIGINT)
        return super().terms(model, batch, generator)


@pytest.mark.usefixtures("terminal", "asked")
def test_ctrl_c_ends_a_start_with_nothing_lost(images, tmp_path):
    whole, model = new_model(), new_model()
    Pressed._calls = 10
    start_discrete_encoder(whole, images, refining=Pressed(), **SETTINGS)
    settings = SETTINGS | {"refining": Pressed(), "checkpoints": tmp_path}
    Pressed._calls = 0
    with pytest.raises(KeyboardInterrupt, match="the refining was interrupted after 5 of 20 steps"):
        start_discrete_encoder(new_model(), images, **settings)
    start_discrete_encoder(model, images, **settings)
    assert same_weights(model, whole)


@pytest.mark.usefixtures("terminal", "asked")
@pytest.mark.parametrize("checkpoints", [False, True])
def test_ctrl_c_leaves_the_model_as_it_was_and_ends_a_start_even_in_its_last_step(images, tmp_path, checkpoints):
    class PressedLast(InformationMaximisation):
        def terms(self, model, batch, generator):
            PressedLast._steps += model.training and torch.is_grad_enabled()
            if PressedLast._steps == last:
                signal.raise_signal(signal.SIGINT)
            return super().terms(model, batch, generator)

    # Besides the steps there are the rehearsal, and the checkpoints before and after the first.
    last = 20 + (3 if checkpoints else 1)
    PressedLast._steps = 0
    model = new_model().train()
    before = copy.deepcopy(model.state_dict())
    settings = SETTINGS | {"refining": PressedLast(), "checkpoints": tmp_path if checkpoints else None}
    with pytest.raises(KeyboardInterrupt, match="the refining was interrupted after 20 of 20 steps"):
        start_discrete_encoder(model, images, **settings)
    assert same_weights(model, before)
    assert model.discrete_encoder.training


@pytest.mark.usefixtures("asked")
def test_a_longer_teaching_is_followed_by_a_refining_of_its_own(images, tmp_path):
    whole, model, longer = new_model(), new_model(), SETTINGS | {"teaching_steps": 45}
    start_discrete_encoder(whole, images, **longer)
    for settings in (SETTINGS, longer):
        start_discrete_encoder(model, images, checkpoints=tmp_path, **settings)
    assert same_weights(model, whole)


def test_checkpoints_of_another_start_are_refused(images, asked, tmp_path):
    start_discrete_encoder(new_model(), images, checkpoints=tmp_path, **SETTINGS)
    with pytest.raises(ValueError, match=r"teacher.safetensors belongs to another start \(images: .* there"):
        start_discrete_encoder(new_model(), 255 - images, checkpoints=tmp_path, **SETTINGS)
    with pytest.raises(ValueError, match=r"teacher.safetensors belongs to another start \(seed: 0 there, 1 here\)"):
        start_discrete_encoder(new_model(), images, seed=1, checkpoints=tmp_path, **SETTINGS)
    assert len(asked) == 1


def test_a_second_process_is_refused_while_the_teacher_is_asked_and_the_first_loses_nothing(
    images, targets, tmp_path, monkeypatch
):
    def teacher(*arguments):
        with pytest.raises(BlockingIOError, match=r"another process works with .*teacher\.safetensors"):
            start_discrete_encoder(new_model(), images, seed=1, checkpoints=tmp_path, **SETTINGS)
        return targets

    (tmp_path / ".teacher.safetensors.killed.partial").touch()
    monkeypatch.setattr(embedding, "teacher", teacher)
    model, whole = new_model(), new_model()
    start_discrete_encoder(model, images, checkpoints=tmp_path, **SETTINGS)
    start_discrete_encoder(whole, images, targets=targets, **SETTINGS)
    assert same_weights(model, whole)
    assert not list(tmp_path.glob("*.partial"))


def test_that_nothing_can_be_written_shows_before_the_teacher_is_asked(images, tmp_path, monkeypatch):
    monkeypatch.setattr(embedding, "teacher", pytest.fail)

    def refuse(*_, **__):
        raise PermissionError("no place to write")

    monkeypatch.setattr("filelock.FileLock.acquire", refuse)  # who runs the tests may write everywhere
    with pytest.raises(PermissionError, match="no place to write"):
        start_discrete_encoder(new_model(), images, checkpoints=tmp_path, **SETTINGS)


def test_of_fewer_images_than_a_batch_all_are_taken(images, targets):
    settings = SETTINGS | {"teaching_steps": 2, "refining_steps": 2}
    models = [new_model(), new_model()]
    start_discrete_encoder(models[0], images[:90], targets=targets[:90], **settings | {"batch_size": None})
    start_discrete_encoder(models[1], images[:90], targets=targets[:90], **settings | {"batch_size": 90})
    assert same_weights(*models)


# Bad input shows before the teacher, which takes minutes, has begun.


class Idle(Objective):
    """Has nothing to do with the model."""

    def terms(self, model, batch, generator):
        return {"loss": torch.zeros(())}


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"model": nn.Flatten()}, TypeError, "model must be of type Clusterer, got Flatten"),
        ({"data": iter([torch.zeros(4, 1, 8, 8)])}, TypeError, "ImageData or images, not a loader"),
        ({"data": 5}, TypeError, "data must be ImageData, images, or a loader of images, got int"),
        ({"data": torch.zeros(40, 1, 8, 7)}, ValueError, r"images of shape \(1, 8, 8\), the data has \(1, 8, 7\)"),
        ({"batch_size": 301}, ValueError, "batch_size must be at most the 300 training images, got 301"),
        ({"teaching_steps": 0}, ValueError, "teaching_steps must be at least 1, got 0"),
        ({"refining_steps": 1.5}, TypeError, "refining_steps must be an integer, got 1.5"),
        ({"seed": -1}, ValueError, "seed must be at least 0, got -1"),
        ({"seed": 2**64 - 1}, ValueError, r"seed must be below 2\^64"),
        ({"seed": "0"}, TypeError, "seed must be an integer, got '0'"),
        ({"device": "tpu"}, ValueError, "'auto', 'cpu', 'cuda', 'mps'; got 'tpu'"),
        ({"model": frozen()}, ValueError, "nothing to train: every parameter .* is frozen"),
        ({"learning_rate": 0.0}, ValueError, "learning_rate must be .* got 0"),
        ({"targets": torch.full((300, 4), 0.25)}, ValueError, r"targets must have shape \(300, 3\) .*, got \(300, 4\)"),
        (
            {"targets": torch.full((299, 3), 1 / 3)},
            ValueError,
            r"targets must have shape .*, got \(299, 3\)",
        ),
        ({"targets": torch.ones(300, 3)}, ValueError, "targets must be probabilities, with rows that sum to one"),
        ({"checkpoints": "no/start"}, FileNotFoundError, "no folder no to write the checkpoints start to"),
        ({"checkpoints": __file__}, FileExistsError, "checkpoints must be in a folder, .*test_start.py is none"),
        ({"refining": WAE(1.0)}, AttributeError, "Clusterer"),
        ({"refining": Idle()}, ValueError, "the loss does not depend on any parameter that is trained"),
        ({"refining": InformationMaximisation(shares=torch.tensor([0.5, 0.5]))}, ValueError, "shares must have shape"),
        ({"targets": [[1.0, 0.0, 0.0]] * 300}, TypeError, "targets must be a torch.Tensor, got list"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_bad_input_is_refused_before_any_work(images, tmp_path, monkeypatch, arguments, error, message):
    def work(*arguments, **settings):
        raise AssertionError("the teacher was asked")

    monkeypatch.setattr(embedding, "teacher", work)
    model = arguments.get("model", new_model())
    before = copy.deepcopy(model.state_dict())
    settings = {"model": model, "data": images, "checkpoints": tmp_path / "start"} | SETTINGS | arguments
    with pytest.raises(error, match=message):
        start_discrete_encoder(**settings)
    assert not list(tmp_path.iterdir())
    assert all(map(torch.equal, model.state_dict().values(), before.values()))
