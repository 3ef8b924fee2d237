"""Torch's global generators: what a run draws from them is its own, and they are left as they were."""

from contextlib import suppress

import pytest
import torch
from small_runs import Stop, new_model, own_model, raise_stop, run, same_weights

from gmlvm import WAE, Run
from gmlvm.ambient import Ambient

CPU = torch.device("cpu")
DEVICES = [CPU, *([torch.device("cuda")] if torch.cuda.is_available() else [])]


def drawn(ambient):
    """What dropout, say, gets inside."""
    with ambient.installed():
        return torch.rand(3, device=ambient.device)


@pytest.mark.parametrize("device", DEVICES, ids=str)
def test_a_seed_gives_the_same_numbers_whatever_was_drawn_outside(device):
    numbers = []
    for seed, elsewhere in ((0, 5), (0, 6), (1, 6)):
        torch.manual_seed(elsewhere)
        numbers.append(drawn(Ambient(seed, device)))
    assert torch.equal(numbers[0], numbers[1])
    assert not torch.equal(numbers[1], numbers[2])


@pytest.mark.parametrize("device", DEVICES, ids=str)
def test_each_time_goes_on_where_the_last_one_ended(device):
    ambient, whole = Ambient(0, device), Ambient(0, device)
    parts = []
    for _ in range(2):
        parts.append(drawn(ambient))
        torch.rand(1, device=device)
    with whole.installed():
        expected = [torch.rand(3, device=device) for _ in range(2)]
    assert torch.equal(torch.cat(parts), torch.cat(expected))


@pytest.mark.parametrize("device", DEVICES, ids=str)
def test_a_state_that_was_kept_can_be_taken_up(device):
    ambient, resumed = Ambient(0, device), Ambient(7, device)
    drawn(ambient)
    resumed.state = ambient.state
    assert torch.equal(drawn(resumed), drawn(ambient))


@pytest.mark.parametrize("device", DEVICES, ids=str)
def test_the_global_generators_are_left_as_they_were_also_by_an_error(device):
    torch.manual_seed(3)
    expected = torch.rand(2, device=device)
    torch.manual_seed(3)
    with suppress(Stop), Ambient(0, device).installed():
        torch.rand(4, device=device)
        raise Stop
    assert torch.equal(torch.rand(2, device=device), expected)


@pytest.mark.parametrize("seed", [0, 2**64 - 1])
def test_the_numbers_are_not_those_of_a_generator_with_the_seed(seed):
    assert not torch.equal(drawn(Ambient(seed, CPU)), torch.rand(3, generator=torch.Generator().manual_seed(seed)))


# In a run


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
    assert not torch.equal(run._ambient.state["cpu"], run.generator.get_state())
