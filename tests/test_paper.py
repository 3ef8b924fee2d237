"""The paper at its own length, on a small data set: what is stopped goes on, and each change is what it says."""

import json
import math
from dataclasses import fields

import pytest
import torch

from experiments import paper
from gmlvm import MMD, VAE, WAE
from gmlvm.batches import Batch
from gmlvm.enumeration import Dense, Resampled


@pytest.fixture
def small(monkeypatch, small_data, tmp_path):
    """Steps by which lengths, looks and all else differ from one another."""
    monkeypatch.setattr(paper.datasets, "mnist", lambda: small_data)
    monkeypatch.setattr(paper, "LENGTHS", {"short": 2, "third": 3, "early": 4, "late": 5, "whole": 6})
    monkeypatch.setattr(paper, "LOOKS", (0, 1, 3, 5))
    monkeypatch.setitem(paper.SETTINGS, "vae_steps", 2)
    monkeypatch.setattr(paper, "_CHECKPOINTS", tmp_path / "checkpoints")


def test_settings_are_the_same_in_every_process():
    """What a file was begun with is compared with what goes on: an address in memory would never be found again."""
    words = paper.described()
    assert not any(" at 0x" in text for text in words.values())
    assert len(set(words.values())) == len(words)


FIT = paper.fit


def looks(method, seed):
    """What is measured on the way, as a file holds it."""
    return json.loads(json.dumps(method(seed)["looks"]))


def test_a_longer_training_goes_on_from_a_shorter_one_as_if_it_had_never_stopped(small, tmp_path, monkeypatch):
    short = looks(paper.training("WAE", "short"), 0)
    assert list(short) == ["0", "1", "2"]
    steps = []
    step = paper.Run.step
    monkeypatch.setattr(paper.Run, "step", lambda run: (steps.append(run.done), step(run)))
    extended = looks(paper.training("WAE", "whole"), 0)
    assert steps == [2, 3, 4, 5]
    monkeypatch.setattr(paper, "_CHECKPOINTS", tmp_path / "others")
    whole = looks(paper.training("WAE", "whole"), 0)
    assert list(extended) == ["0", "1", "2", "3", "5", "6"]
    assert list(whole) == ["0", "1", "3", "5", "6"]
    assert {step: extended[step] for step in whole} == whole


def test_what_is_killed_between_its_looks_keeps_those_it_had(small, monkeypatch):
    method = paper.training("WAE", "whole")
    whole = looks(method, 1)
    monkeypatch.setattr(paper, "_CHECKPOINTS", paper._CHECKPOINTS / "killed")
    step = paper.Run.step

    def kill(run):
        if run.done == 4:
            raise KeyboardInterrupt
        step(run)

    with monkeypatch.context() as patched:
        patched.setattr(paper.Run, "step", kill)
        patched.setattr(paper, "fit", lambda *a, **k: FIT(*a, **k, checkpoint_every=2))
        with pytest.raises(KeyboardInterrupt):
            method(1)
    assert looks(method, 1) == whole


def test_a_vae_begins_with_the_wae_of_the_length_asked_for(small):
    found = {length: looks(paper.vae_after_wae(length, 10.0), 0) for length in ("short", "early")}
    for length, steps in (("short", 2), ("early", 4)):
        assert found[length]["0"] == looks(lambda seed, steps=steps: paper.train("WAE", steps, seed)[1], 0)[str(steps)]
    assert found["short"]["0"] != found["early"]["0"]
    assert found["early"]["2"] != looks(paper.vae_after_wae("early", 1.0), 0)["2"]


def test_other_code_goes_on_with_no_checkpoint_of_this(small, monkeypatch):
    first = paper._checkpoint("some")
    monkeypatch.setattr(paper.runner, "CODE", {**paper.runner.CODE, "code": "other"})
    assert paper._checkpoint("some") != first
    assert paper._checkpoint("some").name == first.name


def test_the_rate_falls_at_the_same_steps_whatever_the_length():
    whole, third = paper.rate(48_700), paper.rate(16_233)
    rates = {0: 1, 29.9: 1, 30.1: 0.5, 49.9: 0.5, 50.1: 0.1, 99.9: 0.1, 100.1: 0.01, 104: 0.01}
    assert {epoch: whole(epoch / 104) for epoch in rates} == rates
    for step in range(0, 16_233, 7):
        assert third(step / 16_233) == whole(step / 48_700)
    assert third(1) == 0.5


def test_the_settings_are_the_authors():
    objective = paper.PAPER.objective
    assert objective.penalty_weight / objective.reconstruction_weight == 200
    prior = paper.PAPER.prior()
    assert torch.equal(prior.loc, torch.eye(10))
    # What the authors write as C is 20 times each scale.
    unit = 2 * prior.latent_dim * prior.scale[0, 0].item() ** 2
    assert [unit * factor for factor in paper.PAPER_KERNELS] == pytest.approx([2, 4, 10, 20, 40, 100, 200])
    later = paper.TRAININGS["2018-09"]
    prior = later.prior()
    assert torch.pdist(prior.loc).tolist() == pytest.approx([math.sqrt(2)] * 45)
    unit = 2 * prior.latent_dim * prior.scale[0, 0].item() ** 2
    scales = [unit * factor / (2 * prior.latent_dim) for factor in later.objective.penalty.bandwidths]
    assert len(scales) == 15
    assert [scales[0], scales[-1]] == pytest.approx([0.01, 500])


def test_each_training_but_the_first_changes_something_and_the_levers_one_thing():
    levers = [name for name in paper.TRAININGS if not name.startswith(("WAE", "20"))]
    for name in levers:
        how = paper.TRAININGS[name]
        changed = {field.name for field in fields(how) if _of(how, field.name) != _of(paper.PAPER, field.name)}
        # The arithmetic is the machine's matter, and a lever only by itself.
        assert len(changed - {"precision"} or changed) == 1, name
    assert len({repr(how) for how in paper.TRAININGS.values()}) == len(paper.TRAININGS)


def _of(how, name):
    return repr(getattr(how, name))


@pytest.mark.parametrize("rule", [Resampled(), Dense()])
def test_all_are_decoded_and_weigh_what_another_rule_says(rule):
    generator = torch.Generator().manual_seed(0)
    log_probs = (3 * torch.randn(40, 5, generator=generator)).log_softmax(1)
    values = torch.randn(40, 5, generator=generator)
    ours, other = (each.select(log_probs, torch.Generator().manual_seed(1)) for each in (paper.AllDecoded(rule), rule))
    assert len(ours.weight) == 200
    means = [chosen.mean(values[chosen.image, chosen.component], 40) for chosen in (ours, other)]
    torch.testing.assert_close(*means)


def test_several_codes_are_a_mean_of_as_many(small_data, small_model):
    batch = Batch(small_data.train.images[:50])
    objective = WAE(3.0, MMD("codes"), reconstruction_weight=0.5)
    several = paper.SeveralCodes(objective, 3)
    generator = torch.Generator().manual_seed(0)
    each = [objective(small_model, batch, generator) for _ in range(3)]
    mean = several(small_model, batch, torch.Generator().manual_seed(0))
    for name in mean._fields:
        torch.testing.assert_close(getattr(mean, name), sum(getattr(terms, name) for terms in each) / 3)
    assert "samples=3" in repr(several)


def test_the_authors_kl_of_z_is_from_a_standard_normal_and_all_else_is_the_vae_s(small_data, small_model):
    batch = Batch(small_data.train.images[:50])
    terms = {
        how: how(beta=10.0, enumeration=Dense())(small_model, batch, torch.Generator().manual_seed(0))
        for how in (VAE, paper.StandardNormalVAE)
    }
    ours, other = terms[paper.StandardNormalVAE], terms[VAE]
    for name in ("reconstruction", "kl_k", "roughness", "inconsistency"):
        torch.testing.assert_close(getattr(ours, name), getattr(other, name))
    posterior = small_model.posterior(batch.images)
    normal = torch.distributions.Normal
    each = torch.distributions.kl_divergence(normal(posterior.loc, posterior.scale), normal(0.0, 1.0)).sum(-1)
    kl_z = (posterior.probs * each).sum(1).mean()
    torch.testing.assert_close(ours.kl_z, kl_z)
    assert abs(kl_z - other.kl_z) > 0.01
    torch.testing.assert_close(ours.loss, ours.reconstruction + 10 * (ours.kl_z + ours.kl_k))
