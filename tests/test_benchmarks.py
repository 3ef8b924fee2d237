"""The plain version that the library is measured against does the same; the clock is fair."""

from pathlib import Path

import pytest
import torch

from benchmarks import __main__ as command
from benchmarks import steps, timing
from benchmarks.plain import PlainWAE, SeparatePerceptrons
from gmlvm import WAE, closed_form
from gmlvm.divergences import DEFAULT_FACTORS, InverseMultiquadratic
from gmlvm.expectations import Dense
from gmlvm.records import read_record


@pytest.fixture
def plain(small_model):
    return PlainWAE(small_model, 30.0, DEFAULT_FACTORS, 16)


def test_the_plain_version_has_the_librarys_loss_and_gradient(small_model, small_data, plain):
    x = small_data.train.images[:20]
    loss, reconstruction, data, cross, _ = plain(x / 255, torch.Generator().manual_seed(0))
    terms = WAE(30.0, expectation=Dense())(small_model, x, torch.Generator().manual_seed(0))
    torch.testing.assert_close(reconstruction, terms.reconstruction)
    # What the prior has to itself is a constant, which the plain version estimates and the library knows.
    prior = closed_form.prior_prior(small_model.prior, InverseMultiquadratic.for_prior(small_model.prior))
    torch.testing.assert_close(data - 2 * cross + prior, terms.divergence, rtol=1e-4, atol=1e-5)
    loss.backward()
    terms.loss.backward()
    for part in ("discrete_encoder", "decoder"):
        ours, theirs = (dict(getattr(m, part).named_parameters()) for m in (small_model, plain))
        for name, parameter in ours.items():
            torch.testing.assert_close(theirs[name].grad, parameter.grad, rtol=1e-4, atol=1e-5)
    hidden = torch.cat([p.hidden.weight.grad for p in plain.continuous_encoder.perceptrons])
    torch.testing.assert_close(hidden, small_model.continuous_encoder.hidden.weight.grad, rtol=1e-4, atol=1e-5)


def test_the_plain_estimate_of_the_priors_own_part_averages_to_the_constant(small_model, small_data, plain):
    x, generator = small_data.train.images[:2] / 255, torch.Generator().manual_seed(0)
    with torch.no_grad():
        values = torch.stack([plain(x, generator)[4] for _ in range(400)])
    constant = closed_form.prior_prior(small_model.prior, InverseMultiquadratic.for_prior(small_model.prior))
    assert (values.mean() - constant).abs() < 4 * values.std() / 20


def test_separate_perceptrons_are_the_librarys_encoder(small_model, small_data):
    x = small_data.train.images[:5] / 255
    for ours, theirs in zip(small_model.continuous_encoder(x), SeparatePerceptrons(small_model)(x), strict=True):
        torch.testing.assert_close(theirs, ours)
    with pytest.raises(TypeError, match="library's continuous encoder, got SeparatePerceptrons"):
        SeparatePerceptrons(steps.separate(small_model))


def test_every_variant_takes_a_step_and_leaves_the_model_as_it_was(small_model, small_data):
    before = {name: tensor.clone() for name, tensor in small_model.state_dict().items()}
    for step in steps.variants(small_model, small_data.train.images).values():
        step()
    assert all(torch.equal(tensor, before[name]) for name, tensor in small_model.state_dict().items())


def test_contestants_take_turns():
    calls = []
    seconds = timing.side_by_side({name: lambda n=name: calls.append(n) for name in "ab"}, rounds=3, turn=2)
    assert "".join(calls) == "aaabbb" * 4
    assert {name: len(times) for name, times in seconds.items()} == {"a": 3, "b": 3}


def test_ratios_are_taken_round_by_round():
    figures = timing.summary([0.010, 0.020, 0.030], [0.020, 0.080, 0.090])
    assert figures["milliseconds"] == pytest.approx(20)
    assert figures["times_faster"] == pytest.approx(3)  # the median of 2, 4 and 3


def test_the_output_folder_is_looked_for_before_any_work(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("sys.argv", ["benchmarks", "--json", str(tmp_path / "no" / "file.json")])
    with pytest.raises(SystemExit):
        command.main()
    assert "no folder" in capsys.readouterr().err


def test_the_committed_figures_make_the_table():
    figures = read_record(Path(__file__).parents[1] / "results" / "benchmarks.json")
    lines = list(command.table(figures))
    assert sum("times plain" in line for line in lines) >= 40
