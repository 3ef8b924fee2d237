"""The plain version that the library is measured against does the same; the clock is fair."""

import json
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import __main__ as command
from benchmarks import sections, steps, timing
from benchmarks.plain import PlainWAE, SeparatePerceptrons
from gmlvm import WAE, closed_form
from gmlvm.enumeration import Dense, Resampled
from gmlvm.kernels import DEFAULT_BANDWIDTHS, InverseMultiquadratic
from gmlvm_book.records import read_record


@pytest.fixture
def plain(small_model):
    return PlainWAE(small_model, 30.0, DEFAULT_BANDWIDTHS, 16)


def test_the_plain_version_has_the_librarys_loss_and_gradient(small_model, small_data, plain):
    x = small_data.train.images[:20]
    loss, reconstruction, data, cross, _ = plain(x / 255, torch.Generator().manual_seed(0))
    terms = WAE(30.0, enumeration=Dense())(small_model, x, torch.Generator().manual_seed(0))
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
    assert sum("times plain" in line for line in lines) == 3 * 11 + 8 * 2 + 4


class Noted(WAE):
    """The chapters' objective, which notes what it is given."""

    def terms(self, model, batch, generator):
        self.seen.append((batch.images.dtype, torch.is_autocast_enabled("cpu")))
        return super().terms(model, batch, generator)


@pytest.mark.parametrize(
    ("option", "changed"), [({}, set()), ({"loader": True}, {0}), ({"bfloat16": True}, {1})], ids=repr
)
def test_a_step_without_a_part_is_without_that_part_alone(small_model, small_data, monkeypatch, option, changed):
    monkeypatch.setattr(Noted, "seen", [], raising=False)
    steps.library_step(small_model, small_data.train.images, Noted(1.0), **option)()
    usual = (torch.uint8, False)
    assert {place for place in range(2) if Noted.seen[0][place] != usual[place]} == changed


@pytest.mark.parametrize("fused", [True, False])
def test_the_optimiser_of_a_step_is_fused_or_not(small_model, small_data, fused):
    run = steps.library_step(small_model, small_data.train.images, fused=fused).__self__
    assert bool(run.optimizer.defaults["fused"]) == fused


def test_each_variant_has_the_rule_or_estimator_of_its_name(small_model, small_data, monkeypatch):
    asked = {}
    monkeypatch.setattr(steps, "library_step", lambda model, images, loss=None, **options: (loss, options))
    for name, made in steps.variants(small_model, small_data.train.images).items():
        if name != "plain":
            asked[name] = made
    changes = {
        name: (repr(loss.enumeration), loss.penalty.estimator, loss.penalty.tolerance)
        for name, (loss, options) in asked.items()
        if loss is not None
    }
    assert changes == {
        "without resampling: all K decoded": ("Dense()", "sampled", 1e-3),
        "without resampling: those above 0.0001": ("Truncated(tolerance=0.0001)", "sampled", 1e-3),
        "without resampling: the largest and one drawn": ("TopM(m=1)", "sampled", 1e-3),
        "without leaving codes out of the penalty": ("Resampled(m=2)", "sampled", 0.0),
        "penalty half in closed form": ("Resampled(m=2)", "half-closed", 1e-3),
    }
    assert [options for _, options in asked.values() if options] == [
        {"fused": False},
        {"loader": True},
        {"bfloat16": True},
    ]


@pytest.fixture
def quick(monkeypatch, mnist):
    """Sections that take seconds: few images, small batches, short runs. The models are the true ones."""
    few = {"train": replace(mnist.train, images=mnist.train.images[:600], labels=mnist.train.labels[:600])}
    few["test"] = replace(mnist.test, images=mnist.test.images[:300], labels=mnist.test.labels[:300])
    monkeypatch.setattr(steps, "BATCH_SIZE", 8)
    monkeypatch.setattr(sections, "_RACE_STEPS", 4)
    monkeypatch.setattr(sections, "_RACE_LAP", 2)
    monkeypatch.setattr(sections, "_COMPONENTS", (10, 12))
    monkeypatch.setattr(sections, "side_by_side", lambda made, rounds, turn=1: timing.side_by_side(made, 2, 1))
    monkeypatch.setattr(sections, "trained", lambda model, data, steps: model)
    monkeypatch.setattr(sections, "_peak_memory", lambda name: 0.5)
    monkeypatch.setattr(sections, "in_new_process", lambda call, *arguments: call(*arguments))
    monkeypatch.setattr(sections.noise, "__defaults__", (2,))
    monkeypatch.setattr(command.datasets, "mnist", lambda: replace(mnist, **few))


def test_all_sections_run_and_make_the_table(quick):
    figures = command.measure()
    assert json.loads(json.dumps(figures)) == figures
    assert sum("times plain" in line for line in command.table(figures)) == 2 * 11 + 4 * 2 + 4
    assert figures["race"]["steps"] == [0, 2, 4]
    for name in ("plain", "library"):
        assert len(figures["race"][name]["accuracy"]) == 3
        assert figures["race"][name]["seconds"][0] == 0
    assert set(figures["noise"]) == {"0", "4"}
    assert figures["noise"]["0"]["Dense()"]["extra"] == 0
    assert "share_of_peak" not in figures["original"]["library, with bfloat16 products"]
    dense, few = (figures["original"][name]["gigaflop"] for name in ("library, all K decoded", "library"))
    assert few < dense < 1.01 * figures["original"]["plain"]["gigaflop"]


def test_gradients_for_the_noise_share_their_batches_and_not_their_draws(small_model, small_data):
    def gradients(rule):
        step = steps.gradient_step(deepcopy(small_model), small_data.train.images, WAE(0.0, enumeration=rule))
        return torch.stack([step() for _ in range(300)])

    dense, drawn = gradients(Dense()), gradients(Resampled(1))
    assert not torch.equal(dense[0], drawn[0])
    # What the draws add averages out, batch by batch.
    apart = (drawn - dense).mean(0).norm()
    assert apart < 3 * ((drawn - dense).var(0).sum() / 300).sqrt()
    assert apart < 0.3 * dense.mean(0).norm()
