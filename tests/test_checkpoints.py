"""Interrupted training: taken up again bit for bit, by the same run alone, and never from a file that is not whole."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from small_runs import SHAPE, Error, Learned, Stop, new_model, own_model, raise_stop, run, same_weights, state
from torch import nn

from gmlvm import GMLVM, MMD, VAE, WAE, GaussianMixturePrior, Run, cosine, storage
from gmlvm.datasets import Split
from gmlvm.vat import Smoothness

KIND = "gmlvm training run"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.safetensors"


def interrupt(_):
    signal.raise_signal(signal.SIGINT)


def assert_goes_on(data, path, new, options, stop_at=8, new_objective=None, end=raise_stop):
    """Train whole, and in two parts with a checkpoint every four steps; the results must be the same bit for bit."""
    whole, resumed = new(), new(7)  # whatever weights stood there before, the checkpoint decides
    objectives = [new_objective() if new_objective else WAE(100.0) for _ in range(3)]
    expected = run(whole, data, objectives[0], **options)
    with suppress(Stop):
        run(new(), data, objectives[1], checkpoint=path, checkpoint_every=4, callbacks={stop_at: end}, **options)
    lost = stop_at - storage.read(path, KIND)[0]["done"]
    assert lost == 0 if end is interrupt else 0 <= lost <= 4
    history = run(resumed, data, objectives[2], checkpoint=path, checkpoint_every=4, **options)
    assert same_weights(whole, resumed)
    assert same_weights(objectives[0], objectives[2])
    assert history.stopped == ""
    assert history.terms.keys() == expected.terms.keys()
    for name in expected:
        np.testing.assert_array_equal(history[name], expected[name])
    assert sorted(file.name for file in path.parent.iterdir()) == [f".{path.name}.lock", path.name]
    assert path.with_name(f".{path.name}.lock").stat().st_size == 0


def shared_trunk(seed=1):
    """Two encoders with one trunk, and a decoder with a weight tied to it."""

    class Head(nn.Module):
        def __init__(self, trunk):
            super().__init__()
            self.trunk, self.head = trunk, nn.Linear(12, 24)

        def forward(self, x):
            loc, log_scale = self.head(self.trunk(x)).view(-1, 4, 6).chunk(2, 2)
            return loc, log_scale.exp()

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        trunk = nn.Sequential(nn.Flatten(), nn.Linear(30, 12), nn.Tanh(), nn.Linear(12, 12))
        decoder = nn.Sequential(nn.Linear(3, 12), nn.Tanh(), nn.Linear(12, 12), nn.Linear(12, 30))
        decoder[2].weight = trunk[3].weight
        prior = GaussianMixturePrior.simplex(4, 3)
        return GMLVM(prior, nn.Sequential(trunk, nn.Linear(12, 4)), Head(trunk), decoder, SHAPE)


def learned_prior(seed=1):
    prior = GaussianMixturePrior.simplex(4, 3, learn=("loc", "scale", "weights"))
    return new_model(seed, prior=prior)


# Taken up again


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize("end", [raise_stop, interrupt], ids=["exception", "ctrl-c"])
@pytest.mark.parametrize("stop_at", [0, 1, 5, 8, 11])
def test_an_interrupted_run_ends_with_the_weights_of_one_that_was_not(small_data, path, stop_at, end):
    options = {"schedule": cosine, "matched_start": True}
    assert_goes_on(small_data, path, new_model, options, stop_at, end=end)


@pytest.mark.usefixtures("terminal")
def test_ctrl_c_in_the_middle_of_a_write_lets_it_come_to_its_end(small_data, path, monkeypatch):
    whole, resumed, writes, sync = own_model(), own_model(7), [], os.fsync
    run(whole, small_data)

    def sync_and_interrupt(descriptor):
        writes.append(descriptor)
        if len(writes) == 3:  # after the first one, and that after the first step
            interrupt(None)
        sync(descriptor)

    monkeypatch.setattr(storage.os, "fsync", sync_and_interrupt)
    history = run(own_model(), small_data, checkpoint=path, checkpoint_every=4)
    monkeypatch.undo()
    assert (history.steps, history.stopped) == (4, "interrupted")
    run(resumed, small_data, checkpoint=path)
    assert same_weights(whole, resumed)


@pytest.mark.parametrize(
    "new", [own_model, partial(new_model, networks="conv"), shared_trunk, learned_prior],
    ids=["dropout", "conv", "shared trunk", "learned prior"],
)  # fmt: skip
def test_any_model_can_be_taken_up_again(small_data, path, new):
    assert_goes_on(small_data, path, new, {})


@pytest.mark.parametrize(
    "new_objective",
    [VAE, partial(WAE, 10.0, MMD("codes")), partial(WAE, 1.0, smoothness=Smoothness()), Learned],
    ids=["vae", "codes", "smoothness", "learned weight"],
)
def test_any_objective_can_be_taken_up_again(small_data, path, new_objective):
    assert_goes_on(small_data, path, new_model, {}, new_objective=new_objective)


def two_groups(parameters):
    return torch.optim.Adam([{"params": parameters[:3], "lr": 1e-2}, {"params": parameters[3:]}], amsgrad=True)


class CountsInItsGroup(torch.optim.SGD):
    """Keeps a number with its group, as optimisers that find their own learning rate do."""

    def __init__(self, parameters):
        super().__init__(parameters, lr=1e-3)
        self.param_groups[0]["count"] = 0

    def step(self, closure=None):
        group = self.param_groups[0]
        group["count"] += 1
        group["lr"] /= group["count"]
        return super().step(closure)


@pytest.mark.parametrize(
    "optimizer",
    [
        partial(torch.optim.SGD, lr=1e-3), partial(torch.optim.SGD, lr=1e-3, momentum=0.9, nesterov=True),
        partial(torch.optim.AdamW, weight_decay=0.1), partial(torch.optim.RMSprop, momentum=0.5), torch.optim.NAdam,
        torch.optim.ASGD, torch.optim.Rprop, torch.optim.Adafactor, two_groups, CountsInItsGroup,
    ],
    ids=lambda given: getattr(given, "func", given).__name__ + str(getattr(given, "keywords", "")),
)  # fmt: skip
def test_any_optimizer_can_be_taken_up_again(small_data, path, optimizer):
    options = {"optimizer": optimizer, "clip_norm": 10.0, "accumulate": 2, "schedule": cosine}
    assert_goes_on(small_data, path, partial(new_model, networks="conv"), options)


def test_an_optimizer_that_no_file_can_hold_shows_after_the_first_step(small_data, path):
    class KeepsAList(torch.optim.SGD):
        def step(self, closure=None):
            self.state[self.param_groups[0]["params"][0]]["past"] = [1, 2]
            return super().step(closure)

    steps = []
    with pytest.raises(TypeError, match=r"cannot hold state.0.past of KeepsAList, a list; .*without a checkpoint"):
        run(
            new_model(), small_data, optimizer=KeepsAList, checkpoint=path, callbacks=lambda run: steps.append(run.done)
        )
    assert steps == [1]


def test_a_partial_function_as_schedule_can_be_resumed(small_data, path):
    first, second = new_model(), new_model()
    for model in (first, second):
        run(model, small_data, checkpoint=path, schedule=partial(pow, 0.5))
    assert same_weights(first, second)


def test_the_time_of_a_resumed_run_holds_that_of_its_first_part(small_data, path):
    run(new_model(), small_data, checkpoint=path, callbacks={1: lambda _: time.sleep(0.3)})
    first = storage.read(path, KIND)[0]["seconds"]
    assert run(new_model(), small_data, checkpoint=path).seconds >= first >= 0.3


def test_a_path_may_begin_with_the_home_folder(small_data, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    run(new_model(), small_data, checkpoint="~/run.safetensors")
    assert (tmp_path / "run.safetensors").is_file()
    assert run(new_model(), small_data, checkpoint=Path("~/run.safetensors"), callbacks=raise_stop).steps == 12


def test_a_run_by_hand_is_saved_and_taken_up(small_data, path):
    options = {"steps": 12, "batch_size": 16, "device": "cpu"}
    expected, model = own_model(), own_model(7)
    run(expected, small_data)
    first = Run(own_model(), WAE(100.0), small_data, **options)
    for _ in range(5):
        terms = first.step()
    first.save(path, seconds=3.0)
    second = Run(model, WAE(100.0), small_data, **options)
    second.step()  # whatever it has done, it is the other run from now on
    assert second.resume(path) == 3.0
    assert second.done == 5
    assert second.look() == {name: float(term) for name, term in terms.items()}
    assert {name: float(term) for name, term in second.terms.items()} == second.look()
    while second.done < 12:
        second.step()
    assert same_weights(model, expected)
    assert second.history().steps == 12


def test_saving_changes_nothing(small_data, path):
    plain, saved = own_model(), own_model()
    run(plain, small_data, Learned())
    run(saved, small_data, Learned(), checkpoint=path, checkpoint_every=1)
    assert same_weights(plain, saved)


# Finished, stopped, extended


def test_a_finished_run_is_not_run_again(small_data, path):
    first, second = new_model(), new_model()
    run(first, small_data, checkpoint=path)
    content, calls = path.read_bytes(), []
    history = run(second, small_data, checkpoint=path, callbacks={0: calls.append, 12: calls.append})
    assert same_weights(first, second)
    assert history.steps == 12
    assert calls == []
    assert path.read_bytes() == content


def test_a_run_that_a_callback_has_stopped_stays_stopped_until_it_is_extended(small_data, path):
    whole, model = own_model(), own_model()
    run(whole, small_data, steps=20)
    run(model, small_data, checkpoint=path, callbacks={7: lambda run: run.stop("good enough")})
    again = run(own_model(7), small_data, checkpoint=path, callbacks=raise_stop)
    assert (again.steps, again.stopped) == (7, "good enough")
    extended = own_model(7)
    history = run(extended, small_data, checkpoint=path, steps=20)
    assert (history.steps, history.stopped) == (20, "")
    assert same_weights(extended, whole)


@pytest.mark.parametrize("schedule", [None, lambda t: 0.5], ids=["none", "constant"])
def test_a_finished_run_is_extended_by_more_steps(small_data, path, schedule):
    whole, extended = own_model(), own_model()
    options = {"schedule": schedule}
    expected = run(whole, small_data, steps=20, **options)
    run(extended, small_data, checkpoint=path, **options)
    history = run(extended, small_data, steps=20, checkpoint=path, **options)
    assert same_weights(whole, extended)
    np.testing.assert_array_equal(history["loss"], expected["loss"])


def test_a_run_with_a_prior_that_a_callback_changes_is_extended_where_it_stands(small_data, path):
    def shift(run):
        run.model.prior.loc.mul_(1.1)

    whole, extended = new_model(), new_model()
    run(whole, small_data, steps=20, callbacks=shift)
    run(extended, small_data, checkpoint=path, callbacks=shift)
    run(extended, small_data, steps=20, checkpoint=path, callbacks=shift)
    assert same_weights(whole, extended)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schedule": cosine, "steps": 20}, "schedule: its factors for 12 steps are not those that the 20 steps here"),
        ({"schedule": cosine, "steps": 8}, "steps: 12 there, 8 here"),
    ],
    ids=["cosine extended", "shortened"],
)
def test_what_cannot_be_extended_says_why(small_data, path, options, message):
    run(new_model(), small_data, checkpoint=path, schedule=cosine)
    with pytest.raises(ValueError, match=message):
        run(new_model(), small_data, checkpoint=path, **options)


# The same run


class Config:
    pass


@dataclass
class Scale:
    """A kernel with a setting."""

    scale: float = 1.0

    def __call__(self, squared_distance):
        return (-squared_distance / self.scale).exp()


class Weighted(WAE):
    """An objective with a setting that its class holds, one in a tensor, and one in a plain object."""

    power = 1.0

    def __init__(self, weight=1.0, hidden=1.0):
        super().__init__(100.0)
        self.register_buffer("weight", torch.tensor(weight))
        self.config = Config()
        self.config.hidden = hidden

    def terms(self, model, batch, generator):
        terms = super().terms(model, batch, generator)._asdict()
        return {"loss": (terms["loss"] * self.weight * self.config.hidden).abs() ** self.power}


class Squared(Weighted):
    power = 2.0


Squared.__qualname__ = "Weighted"  # as if the reader had changed the class and run the cell again


class Edited(nn.Sequential):
    """Own code: what it computes is in no setting."""

    factor = None

    def forward(self, x):
        return super().forward(x) * (1.0 if self.factor is None else 2.0)


class Edits(Edited):
    def forward(self, x):
        return super().forward(x) * 2.0


Edits.__qualname__ = "Edited"


def encoder(kind=Edited):
    torch.manual_seed(3)
    return kind(nn.Flatten(), nn.Linear(30, 4))


def frozen(part, seed=1):
    model = new_model(seed)
    getattr(model, part).requires_grad_(False)
    return model


def one_frozen(value=0.1):
    """Of whose discrete encoder one weight is frozen, and the others are trained."""
    model = new_model()
    torch.nn.init.constant_(model.discrete_encoder[-1].bias.requires_grad_(False), value)
    return model


def frozen_norm(mean=0.1):
    """Whose discrete encoder is frozen with a batch norm that has seen images of a certain mean."""
    model = own_model()
    model.discrete_encoder.requires_grad_(False)[2].running_mean.fill_(mean)
    return model


def drop(at, factor=0.1):
    return lambda t: factor if t >= at else 1.0


def warm_up(share):
    return lambda t: min(1.0, (t + 0.001) / share)


def swapped(parameters):
    return torch.optim.Adam([{"params": parameters[3:], "lr": 1e-2}, {"params": parameters[:3]}], amsgrad=True)


#: What a run is begun with, what it must not go on with, and what the message names.
OTHERS = {
    "objective": ({}, {"objective": WAE(99.0)}, "objective : WAE"),
    "another objective": ({}, {"objective": VAE()}, "objective : WAE.* there, VAE"),
    "divergence": ({}, {"objective": WAE(100.0, MMD("codes"))}, "objective penalty: MMD"),
    "kernel": (
        {"objective": WAE(100.0, MMD(kernel=Scale(9.0)))}, {"objective": WAE(100.0, MMD(kernel=Scale(8.0)))},
        r"objective penalty: .*Scale\(scale=9",
    ),
    "kernel of no setting": (
        {"objective": WAE(100.0, MMD(kernel=lambda d: (-d).exp()))},
        {"objective": WAE(100.0, MMD(kernel=lambda d: (-d / 2).exp()))}, "compute something else",
    ),
    "subclass attribute": (
        {"objective": Weighted()}, {"objective": Squared()}, r"objective : .*power=1\.0.* there, .*power=2\.0"
    ),
    "value of a buffer": ({"objective": Weighted()}, {"objective": Weighted(2.0)}, r"values objective\.weight: "),
    "plain object": ({"objective": Weighted()}, {"objective": Weighted(1.0, 1.1)}, "compute something else"),
    "steps": ({}, {"steps": 10}, "steps: 12 there, 10 here"),
    "batch_size": ({}, {"batch_size": 17}, "data batch_size: 16 there, 17 here"),
    "seed": ({}, {"seed": 3}, "seed: 0 there, 3 here"),
    "learning_rate": ({}, {"learning_rate": 2e-3}, r"optimizer group 0 lr: 0\.001 there, 0\.002 here"),
    "optimizer": ({}, {"optimizer": torch.optim.AdamW}, "optimizer class: Adam there, AdamW here"),
    "momentum": (
        {"optimizer": partial(torch.optim.SGD, lr=1e-3, momentum=0.9)},
        {"optimizer": partial(torch.optim.SGD, lr=1e-3, momentum=0.8)}, r"momentum: 0\.9 there, 0\.8 here",
    ),
    "groups": ({"optimizer": two_groups}, {"optimizer": swapped}, "optimizer group 0 parameters: 3 there, 11 here"),
    "clip_norm": ({}, {"clip_norm": 1.0}, r"clip_norm: nothing there, 1\.0 here"),
    "accumulate": ({}, {"accumulate": 2}, "accumulate: 1 there, 2 here"),
    "matched_start": ({}, {"matched_start": True}, "matched_start: False there, True here"),
    "precision": ({}, {"precision": "bf16-mixed"}, "precision: 32-true there, bf16-mixed here"),
    "one pixel": ({}, {"data": 1}, "data digest: "),
    "schedule": ({"schedule": lambda t: 1 - t}, {"schedule": lambda t: 1 - t * t}, "schedule: its factors for 12"),
    "schedule left out": ({"schedule": cosine}, {}, "schedule: its factors"),
    "schedule between tenths": (
        {"schedule": lambda t: 1.0, "steps": 20},
        {"schedule": lambda t: 1 + 0.5 * (round(20 * t) % 2), "steps": 20}, "schedule: its factors",
    ),
    "drop at .55 for .58": (
        {"schedule": drop(0.58), "steps": 100}, {"schedule": drop(0.55), "steps": 100}, "schedule: its factors"
    ),
    "warm-up over 5 % for 9 %": (
        {"schedule": warm_up(0.05), "steps": 100}, {"schedule": warm_up(0.09), "steps": 100}, "schedule: its factors"
    ),
    "factors below 1e-6": ({"schedule": lambda t: 1e-7}, {"schedule": lambda t: 3e-7}, "schedule: its factors"),
    "hidden units": ({}, {"model": lambda: new_model(hidden_dim=13)}, r"model discrete_encoder\.1: Linear\(.*12"),
    "prior": (
        {}, {"model": lambda: new_model(prior=GaussianMixturePrior.simplex(4, 3, edge=9.0))},
        r"values model\.prior\.loc: ",
    ),
    "learned prior": ({}, {"model": learned_prior}, "model prior"),
    "frozen part": ({}, {"model": lambda: frozen("decoder")}, r"model decoder\.\d\.\w+: .* here.*frozen here"),
    "other frozen part": (
        {"model": lambda: frozen("decoder")}, {"model": lambda: frozen("discrete_encoder")}, "frozen"
    ),
    "frozen weights": (
        {"model": lambda: frozen("decoder")}, {"model": lambda: frozen("decoder", seed=2)}, r"values model\.decoder\."
    ),
    "one frozen weight": (
        {"model": one_frozen}, {"model": lambda: one_frozen(0.2)}, r"values model\.discrete_encoder\.\d\.bias: "
    ),
    "what a frozen batch norm has seen": (
        {"model": frozen_norm}, {"model": lambda: frozen_norm(0.2)}, r"values model\.discrete_encoder\.2\.running_mean"
    ),
    "tanh for relu": (
        {"model": own_model}, {"model": lambda: own_model(activation=nn.Tanh)},
        r"model discrete_encoder\.3: ReLU.* there, Tanh",
    ),
    "dropout": (
        {"model": own_model}, {"model": lambda: own_model(dropout=0.4)}, r"Dropout\(p=0\.3.* there, Dropout\(p=0\.4"
    ),
    "standard for own": ({}, {"model": own_model}, "model discrete_encoder"),
    "edited forward": (
        {"model": lambda: own_model(encoder=encoder())}, {"model": lambda: own_model(encoder=encoder(Edits))},
        "compute something else than they did when it was saved",
    ),
}  # fmt: skip


@pytest.mark.parametrize("changed", OTHERS)
def test_a_checkpoint_of_another_run_is_refused_and_everything_left_alone(small_data, path, changed):
    begun, other, message = OTHERS[changed]

    def start(model=new_model, objective=None, data=0, *, end=None, **options):
        images = small_data.train.images.clone()
        images[0, 0, 0, 0] += data  # the same name and size
        changed_data = replace(small_data, train=Split(images, small_data.train.labels))
        model, objective = model(), deepcopy(objective or WAE(100.0))
        before = state(model), state(objective)
        try:
            run(
                model,
                changed_data,
                objective,
                checkpoint=path,
                callbacks={3: lambda run: run.stop("enough")},
                **options,
            )
        finally:
            after = model, objective
            assert end is None or all(map(same_weights, before, after))

    start(**begun)
    start(**begun)  # goes on
    with pytest.raises(ValueError, match=message):
        start(**other, end="refused")


# Files that are not whole


def test_every_bit_of_a_checkpoint_counts(small_data, path):
    run(new_model(), small_data, checkpoint=path, steps=3)
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    rng = random.Random(0)
    bits = [
        *range(64),
        *(rng.randrange(64, 8 * header) for _ in range(150)),
        *(rng.randrange(8 * header, 8 * len(whole)) for _ in range(150)),
    ]
    model = new_model(7)
    fresh = Run(model, WAE(100.0), small_data, steps=3, batch_size=16, device="cpu")
    for bit in bits:
        content = bytearray(whole)
        content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"run\.safetensors"):
            fresh.resume(path)
    assert same_weights(model, new_model(7))
    path.write_bytes(whole)
    fresh.resume(path)


@pytest.mark.parametrize("length", [0, 7, 8, 100, -100, -1])
def test_a_checkpoint_that_was_cut_short_is_refused(small_data, path, length):
    run(new_model(), small_data, checkpoint=path, steps=3)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ValueError, match="is not a gmlvm training run, or is damaged"):
        run(new_model(), small_data, checkpoint=path, steps=3)


def without(*prefixes):
    return lambda header, tensors: (
        header, {name: tensor for name, tensor in tensors.items() if not name.startswith(prefixes)}
    )  # fmt: skip


def with_header(**entries):
    return lambda header, tensors: (header | entries, tensors)


def with_tensor(name, change):
    return lambda header, tensors: (header, tensors | {name: change(tensors[name])})


def renamed(old, new):
    def change(header, tensors):
        tensors = {name.replace(old, new): tensor for name, tensor in tensors.items()}
        return header | {"shapes": {name.replace(old, new): text for name, text in header["shapes"].items()}}, tensors

    return change


MOMENT, WEIGHT = "optimizer.state.0.exp_avg", "module.model.decoder.0.weight"
#: What is done to header and tensors of a whole checkpoint before it is written again, with a digest that is right.
DAMAGES = {
    "no optimiser state": without("optimizer."),
    "no state of one parameter": without("optimizer.state.3."),
    "moment missing": without(MOMENT),
    "moment of another shape": with_tensor(MOMENT, lambda t: t[:-1]),
    "moment of another dtype": with_tensor(MOMENT, lambda t: t.double()),
    "moment too many": lambda h, t: (h, t | {"optimizer.state.99.exp_avg": torch.zeros(2)}),
    "state of no parameter": renamed("optimizer.state.3.", "optimizer.state.99."),
    "state of a name": renamed("optimizer.state.3.", "optimizer.state.x."),
    "state of nothing": renamed("optimizer.state.3.", "optimizer.else.3."),
    "record one row short": with_tensor("record", lambda t: t[:-1]),
    "record one column short": with_tensor("record", lambda t: t[:, :-1]),
    "no record": without("record"),
    "record of no rows": with_tensor("record", lambda t: torch.zeros(())),
    "record of another name": renamed("record", "records"),
    "plan of another name": renamed("plan", "plans"),
    "generator of another name": renamed("generator", "generators"),
    "global state of another name": renamed("ambient.cpu", "ambient.gpu"),
    "plan too short": with_tensor("plan", lambda t: t[:-1]),
    "no plan": without("plan"),
    "no probe": without("probe"),
    "probe of another length": with_tensor("probe", lambda t: t[:-1]),
    "probe not finite": with_tensor("probe", lambda t: t * torch.nan),
    "no generator": without("generator"),
    "generator cut": with_tensor("generator", lambda t: t[:-1]),
    "generator spoiled": with_tensor("generator", lambda t: t * 0 + 255),
    "no global state": without("ambient."),
    "no state of the data": without("batches."),
    "weight missing": without(WEIGHT),
    "weight of another shape": with_tensor(WEIGHT, lambda t: t[:-1]),
    "weight of another name": renamed(WEIGHT, WEIGHT + "s"),
    "other weights": with_tensor(WEIGHT, lambda t: t + 1),
    "done one more": with_header(done=6),
    "done more than steps": with_header(done=600),
    "done of another kind": with_header(done=[5]),
    "settings null": with_header(settings=None),
    "settings a list": with_header(settings=[1, 2]),
    "settings of other kinds": lambda h, t: (h | {"settings": h["settings"] | {"values": None, "model": [1]}}, t),
    "values of other kinds": lambda h, t: (h | {"settings": h["settings"] | {"values": [1]}}, t),
    "names null": with_header(names=None),
    "names of other kinds": with_header(names=[None, [], {}, 1]),
    "one name less": lambda h, t: (h | {"names": h["names"][1:]}, t),
    "optimizer null": with_header(optimizer=None),
    "optimizer a list": with_header(optimizer=[]),
    "optimizer of other kinds": with_header(optimizer={"state.0.step": [], "group.0.": None}),
    "optimizer group of no number": with_header(optimizer={"group.7.eps": 0.1}),
    "seconds a text": with_header(seconds="long"),
    "stopped null": with_header(stopped=None),
    "steps a text": with_header(steps="12"),
    "shapes null": with_header(shapes=None),
    "empty": lambda h, t: ({}, {}),
    "header alone": lambda h, t: (h, {}),
    "tensors alone": lambda h, t: ({}, t),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_an_incomplete_checkpoint_is_refused_and_everything_left_alone(small_data, path, damage):
    run(own_model(), small_data, Learned(), checkpoint=path, callbacks={5: lambda run: run.stop("interrupted")})
    header, tensors = storage.read(path, KIND)
    header.pop("kind")
    loader_like = {"batches.taken": torch.tensor(0)}  # of images in memory there is no state to miss
    header["shapes"] |= {"batches.taken": "() int64"}
    header, tensors = DAMAGES[damage](header, tensors | loader_like)
    storage.write(path, KIND, header, tensors)
    model, objective = own_model(7), Learned()
    fresh = Run(model, objective, small_data, steps=12, batch_size=16, device="cpu")
    optimizer = deepcopy(fresh.optimizer.state_dict())
    with pytest.raises(ValueError, match=r"run\.safetensors"):
        fresh.resume(path)
    assert same_weights(model, own_model(7))
    assert same_weights(objective, Learned())
    assert fresh.optimizer.state_dict() == optimizer
    assert fresh.done == 0
    expected = own_model(7)  # the run can still be begun
    run(expected, small_data, Learned())
    for _ in range(12):
        fresh.step()
    assert same_weights(model, expected)


def test_a_run_that_has_a_state_keeps_it_if_another_does_not_fit(small_data, path):
    run(new_model(), small_data, checkpoint=path)
    header, tensors = storage.read(path, KIND)
    header.pop("kind")
    storage.write(path, KIND, header, tensors | {WEIGHT: tensors[WEIGHT] + 1})
    models = new_model(), new_model()
    runs = [Run(model, WAE(100.0), small_data, steps=12, batch_size=16, device="cpu") for model in models]
    for _ in range(5):
        for each in runs:
            each.step()
    with pytest.raises(ValueError, match="compute something else"):
        runs[0].resume(path)
    for each in runs:
        each.step()
    assert same_weights(*models)


def test_lists_and_null_for_a_header(small_data, path):
    for header in ("null", "[]", "3", "{", '{"kind": null}', '{"kind": ["gmlvm training run"]}'):
        save_file({"x": torch.zeros(2)}, path, metadata={"gmlvm": header})
        with pytest.raises(ValueError, match=r"run\.safetensors"):
            run(new_model(), small_data, checkpoint=path)


def test_a_checkpoint_of_version_0_1_says_what_to_do(small_data, path):
    # What version 0.1 wrote, by its code: terms in float32, weights under "model.", no digest.
    model = new_model()
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {"generator": torch.Generator().get_state(), "record": torch.zeros(3, 4)}
    header = {
        "kind": KIND,
        "seconds": 0.4,
        "settings": {"objective": "WAE(penalty_weight=100.0)", "steps": 3, "seed": 0},
    }
    save_file(tensors, path, metadata={"gmlvm": json.dumps(header)})
    with pytest.raises(
        ValueError, match=r"written by version 0\.1; finish it with that, or start again with another file"
    ):
        run(model, small_data, checkpoint=path)
    assert same_weights(model, new_model())


def test_a_checkpoint_is_no_model_and_a_model_no_checkpoint(small_data, path):
    run(new_model(), small_data, checkpoint=path)
    with pytest.raises(ValueError, match="must hold a gmlvm model, got 'gmlvm training run'"):
        GMLVM.load(path)
    new_model().save(path)
    with pytest.raises(ValueError, match="must hold a gmlvm training run, got 'gmlvm model'"):
        run(new_model(), small_data, checkpoint=path)


def test_weights_that_are_not_finite_are_never_written(small_data, path):
    def poison(run):
        with torch.no_grad():
            run.model.decoder[0].weight.fill_(torch.nan)

    with pytest.raises(FloatingPointError, match="not finite"):
        run(new_model(), small_data, checkpoint=path, checkpoint_every=4, callbacks={8: poison})
    _, tensors = storage.read(path, KIND)
    assert all(tensor.isfinite().all() for tensor in tensors.values())
    again = Run(new_model(), WAE(100.0), small_data, steps=12, batch_size=16, device="cpu")
    again.resume(path)
    assert again.done == 4


def test_a_full_disk_leaves_the_file_of_before(small_data, path, monkeypatch):
    whole, model, resumed = own_model(), own_model(), own_model(7)
    run(whole, small_data)
    write, writes = os.fsync, []

    def full(descriptor):
        writes.append(descriptor)
        if len(writes) > 3:  # at the start, after the first step, and after the fourth
            raise OSError(errno.ENOSPC, "No space left on device")
        write(descriptor)

    monkeypatch.setattr(storage.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        run(model, small_data, checkpoint=path, checkpoint_every=4)
    assert not model.training
    monkeypatch.undo()
    assert sorted(file.name for file in path.parent.iterdir()) == [f".{path.name}.lock", path.name]
    seen = []
    run(resumed, small_data, checkpoint=path, callbacks=lambda run: seen.append(run.done))
    assert seen[0] == 5
    assert same_weights(whole, resumed)


# Other processes


def python(script, *arguments):
    """Run a script in another process, with one thread and this folder's modules."""
    here = Path(__file__).parent
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(here), str(here.parent)])}
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


# Processes train with one checkpoint: twenty are killed after a random time, five after a random part of a write.
KILLED = """
import os, random, signal, sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
from small_runs import own_model, run, same_weights
from gmlvm import WAE, storage
from gmlvm.networks import mlp_decoder

path, rng = Path(sys.argv[1]), random.Random(0)
data = torch.randint(256, (64, 1, 6, 5), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)

def new(seed=1):
    model = own_model(seed)  # with dropout
    torch.manual_seed(seed)
    model.decoder = mlp_decoder((1, 6, 5), 3, 400)  # 2 MB with Adam's moments
    return model

def train(model, **options):
    return run(model, data, WAE(1.0), steps=100_000, batch_size=16, **options)

def die_in_write(number, share):
    def fsync(descriptor):
        nonlocal number
        number -= 1
        if number == 0:
            os.ftruncate(descriptor, int(share * os.fstat(descriptor).st_size))
            os.kill(os.getpid(), signal.SIGKILL)
    storage.os.fsync = fsync

def killed(after, **options):
    pid = os.fork()
    if pid == 0:
        if "share" in options:
            die_in_write(**options)
        train(new(), checkpoint=path, checkpoint_every=1)
        os._exit(1)
    if after is not None:
        time.sleep(after)
        os.kill(pid, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    return len(list(path.parent.glob(f".{path.name}.*.partial")))

in_write = 0
for _ in range(5):
    in_write += killed(None, number=rng.randrange(1, 8), share=rng.random())
    for _ in range(4):
        killed(rng.uniform(0.02, 0.25))
done = storage.read(path, "gmlvm training run")[0]["done"]
resumed, whole, stop = new(99), new(), {done + 5: lambda run: run.stop()}
resumed_history, history = train(resumed, checkpoint=path, callbacks=stop), train(whole, callbacks=stop)
assert same_weights(resumed, whole)
assert (resumed_history["loss"] == history["loss"]).all()
print(done, in_write, *sorted(file.name for file in path.parent.iterdir()))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that begin where this one is")
def test_a_run_survives_twenty_kills_and_leaves_nothing_behind(path):
    killed = python(KILLED, path)
    assert killed.returncode == 0, killed.stderr
    done, in_write, *files = killed.stdout.split()
    assert int(done) > 20  # they got on, from one kill to the next
    assert int(in_write) == 5  # each left a part of a file, which the next cleared away
    assert files == [f".{path.name}.lock", path.name]


SECOND = """
import sys
import torch
from small_runs import new_model, run
images = torch.load(sys.argv[2])
try:
    run(new_model(), images, batch_size=16, checkpoint=sys.argv[1])
except BlockingIOError as error:
    print(error)
"""


def test_a_second_process_with_the_same_checkpoint_is_refused_and_the_first_loses_nothing(small_data, path, tmp_path):
    images = small_data.train.images
    torch.save(images, tmp_path / "images.pt")
    answers = []
    whole, first = own_model(), own_model()
    run(whole, images, batch_size=16)
    start_second = {5: lambda _: answers.append(python(SECOND, path, tmp_path / "images.pt"))}
    run(first, images, batch_size=16, checkpoint=path, checkpoint_every=4, callbacks=start_second)
    assert answers[0].stdout == f"another process works with {path}; wait for it, or name another file\n"
    assert same_weights(whole, first)
    assert run(own_model(), images, batch_size=16, checkpoint=path, callbacks=raise_stop).steps == 12


def test_a_second_run_clears_nothing_of_what_the_first_is_writing(small_data, path, monkeypatch):
    whole, first, writes = own_model(), own_model(), []
    run(whole, small_data)

    def a_second_comes(descriptor):
        writes.append(len(list(path.parent.glob("*.partial"))))
        with pytest.raises(BlockingIOError, match="another process works with"):
            run(own_model(), small_data, checkpoint=path)

    monkeypatch.setattr(storage.os, "fsync", a_second_comes)
    run(first, small_data, checkpoint=path, checkpoint_every=4)
    monkeypatch.undo()
    assert writes == [1] * 5  # before the first step, after the first, fourth and eighth, and at the end
    assert same_weights(whole, first)
    assert run(own_model(), small_data, checkpoint=path, callbacks=raise_stop).steps == 12


def test_the_checkpoint_is_free_again_however_training_ends(small_data, path):
    for end in (raise_stop, lambda run: run.stop()):
        for _ in range(2):
            with suppress(Stop):
                run(new_model(), small_data, Error(), checkpoint=path, callbacks={3: end})
        path.unlink()
