"""What follows the gradient: Adam unless another optimiser is given, at a rate that a schedule scales at every step."""

from functools import partial

import numpy as np
import pytest
import torch
from small_runs import new_model, run, same_weights
from torch import nn

from gmlvm import cosine
from gmlvm.optimisation import factors, optimizer_of

# The schedule


def test_cosine_falls_from_one_to_zero():
    values = [cosine(t) for t in np.linspace(0, 1, 20)]
    assert values[0] == 1
    assert values[-1] == pytest.approx(0)
    assert (np.diff(values) < 0).all()


def test_the_schedule_sees_the_share_of_steps_that_are_done(small_data):
    seen = []
    run(new_model(), small_data, steps=5, schedule=lambda t: seen.append(t) or 1.0)
    assert seen == [0.0, 0.2, 0.4, 0.6, 0.8]


def test_schedule_scales_the_learning_rate(small_data):
    still = new_model()
    run(still, small_data, schedule=lambda t: 0.0)
    assert same_weights(still, new_model())
    rates = []
    note = {step: lambda run: rates.append(run.optimizer.param_groups[0]["lr"]) for step in range(1, 5)}
    run(new_model(), small_data, steps=4, learning_rate=0.5, schedule=lambda t: 1 - t, callbacks=note)
    assert rates == [0.5, 0.375, 0.25, 0.125]


def test_without_a_schedule_the_rate_stays_as_it_is():
    assert factors(None, 3) == [1.0, 1.0, 1.0]
    assert factors(None, None) == []


@pytest.mark.parametrize(
    "kind",
    [np.float32, np.float64, torch.tensor, lambda value: torch.tensor([[value]]), np.array],
    ids=["float32", "float64", "tensor", "tensor with axes", "array"],
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


# The optimiser


@pytest.mark.parametrize("rate", [1e-3, 3e-4])
def test_the_first_step_of_adam_has_the_length_of_the_learning_rate(small_data, rate):
    model, before = new_model(), new_model()
    run(model, small_data, steps=1, learning_rate=rate)
    pairs = zip(model.parameters(), before.parameters(), strict=True)
    assert max((a - b).abs().max().item() for a, b in pairs) == pytest.approx(rate, rel=1e-3)


@pytest.mark.parametrize(("given", "rate"), [(None, 1e-3), (0.5, 0.5), (np.float32(0.25), 0.25)])
def test_adam_follows_unless_another_is_given(given, rate):
    optimizer = optimizer_of(None, given)([nn.Parameter(torch.zeros(2))])
    assert type(optimizer) is torch.optim.Adam
    assert optimizer.param_groups[0]["lr"] == rate


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
