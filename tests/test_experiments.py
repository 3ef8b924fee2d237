"""The longer runs, on a small data set: they write what a chapter reads."""

import copy
import dataclasses
import functools
import itertools
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import sparse
from scipy.stats import multivariate_normal
from torch import nn

from experiments import (
    ablations,
    choices,
    collapse,
    components,
    contest,
    digits,
    digits_vae,
    expectations,
    groupless,
    imbalance,
    measures,
    new_encoder,
    number,
    origin,
    other_data,
    penalties,
    pretrained,
    recipe,
    runner,
    seeds,
    shapes,
    vade,
    wae_start,
    widths,
)
from experiments import weights as penalty_weights
from gmlvm import (
    GMLVM,
    MMD,
    VAE,
    WAE,
    Clusterer,
    GaussianMixturePrior,
    embedding,
    learn_components,
    start_discrete_encoder,
    weights,
)
from gmlvm.enumeration import Dense, Truncated
from gmlvm.networks import mlp_decoder
from gmlvm.posterior import Posterior
from gmlvm.prior import LEARNABLE
from gmlvm_book.records import read_record


@pytest.fixture
def small_runs(monkeypatch, small_data):
    monkeypatch.setattr(seeds.datasets, "mnist", lambda: small_data)
    for name, value in {"num_components": 4, "latent_dim": 3, "steps": 2}.items():
        monkeypatch.setitem(seeds.SETTINGS, name, value)


def test_every_seed_has_the_figures_of_every_method(small_runs, tmp_path, monkeypatch):
    path = tmp_path / "out.json"
    monkeypatch.setattr(sys, "argv", ["seeds", "--output", str(path), "--seeds", "3", "5", "--jobs", "1"])
    runner.main("experiments.seeds", seeds.SETTINGS, seeds.METHODS, range(5))
    record = read_record(path)
    assert record["command"] == f"python -m experiments.seeds --output {path.as_posix()} --seeds 3 5"
    assert record["settings"] == seeds.SETTINGS
    assert [run["seed"] for run in record["runs"]] == [3, 5]
    for run in record["runs"]:
        assert set(run) == {"seed", *seeds.METHODS}
        assert len(run["smooth"]["component_shares"]) == 4
        assert run["smooth"]["reconstruction_error"] != run["plain"]["reconstruction_error"]
        assert run["plain"]["reconstruction_error"] != run["matched"]["reconstruction_error"]


def test_only_some_methods_can_be_run_and_the_command_says_so(small_runs, tmp_path, monkeypatch):
    path = tmp_path / "out.json"
    arguments = ["--output", str(path), "--seeds", "3", "--methods", "smooth", "marginal matched", "--jobs", "1"]
    monkeypatch.setattr(sys, "argv", ["seeds", *arguments])
    runner.main("experiments.seeds", seeds.SETTINGS, seeds.METHODS, range(5))
    record = read_record(path)
    assert record["command"].endswith("--seeds 3 --methods smooth 'marginal matched'")
    assert [set(run) for run in record["runs"]] == [{"seed", "smooth", "marginal matched"}]


def test_rules_for_the_sum_over_k_differ_in_nothing_else(small_runs):
    figures = {name: method(0)["reconstruction_error"] for name, method in expectations.METHODS.items()}
    assert list(figures) == list(expectations.RULES)
    assert figures["truncated"] == pytest.approx(figures["dense"], rel=1e-4)
    assert len(set(figures.values())) > 2


def test_k_means_finds_well_separated_classes(small_runs):
    best = max(seeds.k_means(seed)["accuracy"] for seed in range(5))
    assert best == 1.0


def test_the_course_of_a_collapse_ends_where_its_report_does(small_runs, monkeypatch):
    figures = collapse.run(collapse.VAE_1, "mlp", None, True, steps=20)(0)
    assert figures["steps"] == [0, 5, 10, 15, 20]
    for name, values in figures["course"].items():
        assert len(values) == 5
        assert values[-1] == pytest.approx(figures["report"][name], abs=1e-6)  # in batches of another size
    monkeypatch.setitem(collapse.SETTINGS, "learning_rate", 1e-2)
    others = {
        "learning rate": collapse.run(collapse.VAE_1, "mlp", None, True, steps=20)(0),
        "small weights": collapse.run(collapse.VAE_1, "mlp", 0.01, True, steps=20)(0),
        "not matched": collapse.run(collapse.VAE_1, "mlp", None, False, steps=20)(0),
        "another objective": collapse.run(collapse.PAPER_WAE, "mlp", None, True, steps=20)(0),
    }
    errors = {name: other["report"]["reconstruction_error"] for name, other in others.items()}
    errors["as it was"] = figures["report"]["reconstruction_error"]
    assert len(set(errors.values())) == 5


def test_a_vae_starts_where_the_wae_ended(small_runs, monkeypatch):
    monkeypatch.setitem(seeds.SETTINGS, "steps", 30)
    for name, value in {"num_components": 4, "latent_dim": 3, "vae_steps": 4}.items():
        monkeypatch.setitem(wae_start.SETTINGS, name, value)
    monkeypatch.setattr(wae_start, "LOOKS", (0, 4))
    monkeypatch.setattr(wae_start, "WINDOW", 2)
    figures = {name: method(0) for name, method in wae_start.METHODS.items()}
    first = {name: run["reports"][0] for name, run in figures.items()}
    assert first["wae, beta 1"] == first["wae, beta 10"] != first["scratch, beta 1"]
    assert figures["wae, beta 1"]["reports"][1] != figures["wae, beta 10"]["reports"][1]
    assert [len(values) for values in figures["wae, beta 1"]["curves"].values()] == [2] * 6
    monkeypatch.setitem(wae_start.SETTINGS, "learning_rate", 1e-2)
    faster = wae_start.METHODS["wae, beta 1"](0)["reports"]
    assert faster[0] == first["wae, beta 1"]
    assert faster[1] != figures["wae, beta 1"]["reports"][1]


def test_a_new_encoder_looks_for_the_components_of_a_trained_wae(small_runs, monkeypatch):
    monkeypatch.setitem(seeds.SETTINGS, "steps", 30)
    for name, value in {"num_components": 4, "latent_dim": 3}.items():
        monkeypatch.setitem(wae_start.SETTINGS, name, value)
    for name, value in {"steps": 4, "settling_steps": 3}.items():
        monkeypatch.setitem(new_encoder.SETTINGS, name, value)
    monkeypatch.setattr(new_encoder, "LOOKS", (0, 4))
    figures = new_encoder.method(0)
    ways = ("trained on", "held still", "settled, trained on")
    first, last = ({way: figures[way][look] for way in ways} for look in (0, -1))
    assert first["trained on"] == first["held still"] != figures["WAE"]
    assert first["settled, trained on"] != first["trained on"]
    assert len({str(report) for report in (*last.values(), figures["settled WAE"])}) == 4
    wae = wae_start.plain(0)
    before = {name: weights.clone() for name, weights in wae.state_dict().items()}
    new_encoder.found(wae, 0, held=True)
    assert all(torch.equal(weights, before[name]) for name, weights in wae.state_dict().items())
    assert all(weights.requires_grad for weights in wae.parameters())


def test_what_is_held_still_does_not_move_and_the_new_encoder_does(small_runs, monkeypatch):
    monkeypatch.setitem(new_encoder.SETTINGS, "steps", 3)
    monkeypatch.setattr(new_encoder, "LOOKS", (0, 3))
    model = GMLVM.for_images((1, 6, 5), 4, 3, seed=1)
    seen = []
    monkeypatch.setattr(new_encoder, "untrained", lambda seed: GMLVM.for_images((1, 6, 5), 4, 3, seed=seed))
    monkeypatch.setattr(new_encoder, "asdict", lambda report: {})
    evaluate = new_encoder.evaluate
    monkeypatch.setattr(
        new_encoder,
        "evaluate",
        lambda model, data: (seen.append({n: w.clone() for n, w in model.named_parameters()}), evaluate(model, data)),
    )
    new_encoder.found(model, 2, held=True)
    moved = {name.split(".")[0] for name, weights in seen[0].items() if not torch.equal(weights, seen[1][name])}
    assert moved == {"discrete_encoder"}
    new = GMLVM.for_images((1, 6, 5), 4, 3, seed=7).discrete_encoder
    assert all(torch.equal(seen[0][f"discrete_encoder.{name}"], w) for name, w in new.named_parameters())


# Components that mean digits.


@pytest.fixture
def small_path(small_runs, monkeypatch):
    """The path, its peers and its ablations on four quadrants, read by a classifier that looks at their brightness."""
    sizes = {"num_components": 4, "latent_dim": 3, "steps": 2, "refining_steps": 2, "teaching_steps": 1}
    sizes |= {"autoencoder_steps": 2, "many_components": 6, "window": 2, "start_batch_size": 64, "hidden_dim": 8}
    for settings in (digits.SETTINGS, contest.SETTINGS, ablations.SETTINGS, components.SETTINGS, other_data.SETTINGS):
        for name in set(sizes) & set(settings):
            monkeypatch.setitem(settings, name, sizes[name])
    brief = functools.partial(start_discrete_encoder, teaching_steps=80)
    for module in (digits, ablations, imbalance, pretrained):
        monkeypatch.setattr(module, "start_discrete_encoder", brief)
    last = nn.Linear(30, 4)
    with torch.no_grad():
        last.bias.zero_()
        for label in range(4):
            quadrant = torch.zeros(6, 5)
            row, column = 3 * (label // 2), 2 * (label % 2)
            quadrant[row : row + 3, column : column + 3] = 1
            last.weight[label] = quadrant.flatten()
    reader = Clusterer(nn.Sequential(nn.Flatten(), last), (1, 6, 5))
    monkeypatch.setattr(measures, "classifier", lambda: reader)
    return reader


def test_agreement_fits_the_map_on_one_split_and_counts_on_the_other(small_runs, small_data):
    train, test = (split.labels.numpy() for split in (small_data.train, small_data.test))
    turned = np.array([2, 0, 3, 1])
    assert measures.agreement(small_data, turned[train], turned[test], 4) == 1
    assert measures.agreement(small_data, turned[train], train[: len(test)] * 0, 4) == (test == 1).mean()
    train_pixels, test_pixels = measures.pixels(small_data)
    np.testing.assert_allclose(train_pixels, small_data.train.images.flatten(1).numpy() / 255)
    np.testing.assert_allclose(test_pixels, small_data.test.images.flatten(1).numpy() / 255)


@pytest.mark.parametrize("name", ["k-means", "PCA + mixture", "UMAP + mixture"])
def test_groups_that_are_well_apart_are_found_without_a_model(name, small_path):
    found = contest.METHODS[name](0)
    assert found["accuracy"] == 1
    assert found["seconds"] >= 0


def test_an_autoencoder_s_codes_are_grouped_in_three_ways(small_path, monkeypatch):
    monkeypatch.setitem(contest.SETTINGS, "autoencoder_steps", 300)
    found = contest.autoencoder(0)
    assert [found[name]["accuracy"] for name in ("k-means", "mixture", "UMAP + mixture")] == pytest.approx([1] * 3)
    assert found["reconstruction_error"] < 2  # of 30 pixels


def test_a_mixture_fitted_afterwards_draws_what_its_components_hold(small_path, monkeypatch):
    monkeypatch.setitem(contest.SETTINGS, "steps", 600)
    found = contest.one_gaussian(WAE(penalty_weight=0.1))(0)
    assert len(found["one Gaussian"]["model"]["component_shares"]) == 1
    assert found["mixture"]["accuracy"] > 0.95
    samples = found["mixture"]["samples"]
    assert samples["labels_recalled"] == 4
    assert samples["purity"] > 0.9
    assert samples["frechet"] < found["one Gaussian"]["samples"]["frechet"]


def test_codes_that_a_mixture_drew_are_decoded_in_random_order_each_at_most_once(small_model):
    codes = np.random.default_rng(0).normal(size=(2400, 3))
    mixture = SimpleNamespace(random_state=np.random.RandomState(0))
    images = measures.decoded(small_model.double(), mixture, codes, 2100)
    distance = torch.cdist(images.flatten(1), small_model.decode(codes).flatten(1))
    places = distance.argmin(1)
    assert len(places.unique()) == len(images) == 2100
    assert 900 < (places.diff() > 0).sum() < 1200  # in the order they came in, all would rise


def test_groups_given_afterwards_draw_what_they_hold(small_path, monkeypatch):
    started = SimpleNamespace(discrete_encoder=small_path.discrete_encoder)
    monkeypatch.setattr(origin, "pretrained", lambda _: started)
    for name, value in {"num_components": 4, "steps": 600, "penalty_weight": 0.1}.items():
        monkeypatch.setitem(origin.SETTINGS, name, value)
    found = origin.afterwards(WAE(penalty_weight=0.1))(0)
    one, groups = found["one Gaussian"], found["groups of the path"]
    assert groups["model"]["accuracy"] == 1
    assert groups["model"]["reconstruction_error"] == pytest.approx(one["model"]["reconstruction_error"], rel=0.02)
    assert groups["samples"]["labels_recalled"] == 4
    assert groups["samples"]["purity"] > 0.9
    assert groups["samples"]["frechet"] < one["samples"]["frechet"]


def test_more_gaussians_afterwards_draw_nearer_to_the_images(small_path, monkeypatch):
    monkeypatch.setitem(contest.SETTINGS, "steps", 600)
    for name, value in {"steps": 600, "many": [1, 4]}.items():
        monkeypatch.setitem(origin.SETTINGS, name, value)
    found = origin.many_gaussians(0)
    assert list(found) == ["1 Gaussians", "4 Gaussians"]
    assert all(set(figures) == {"seconds", "frechet", "kernel"} for figures in found.values())
    assert found["4 Gaussians"]["frechet"] < found["1 Gaussians"]["frechet"]
    assert found["4 Gaussians"]["kernel"] < found["1 Gaussians"]["kernel"]


@pytest.fixture
def small_vade(small_path, monkeypatch):
    sizes = {"num_components": 4, "latent_dim": 3, "hidden_dim": 16, "pretraining_steps": 300, "steps": 200}
    for name, value in sizes.items():
        monkeypatch.setitem(vade.SETTINGS, name, value)


def fresh_vade(data, seed):
    """Untrained, with weights and a prior of its own for each seed."""
    torch.manual_seed(seed)
    prior = GaussianMixturePrior(torch.randn(4, 3), torch.rand(4, 3) + 0.5, torch.randn(4), learn=LEARNABLE)
    return vade.new_model(prior, vade.Encoder(data.image_shape, 3, 16), mlp_decoder(data.image_shape, 3, 16), data)


def test_vade_takes_components_by_bayes_rule_at_the_code(small_data):
    model = fresh_vade(small_data, 0)
    x = small_data.test.images[:50]
    codes = model.transform(x)
    probs, loc, scale = (value.detach().numpy() for value in (model.prior.probs, model.prior.loc, model.prior.scale))
    density = [probs[k] * multivariate_normal(loc[k], np.diag(scale[k] ** 2)).pdf(codes) for k in range(4)]
    expected = np.transpose(density) / np.sum(density, axis=0)[:, None]
    np.testing.assert_allclose(model.predict_proba(x), expected, rtol=1e-4)
    assert (np.ptp(expected, axis=0) > 0.1 * expected.mean(0)).sum() > 1  # not the same for every image


def test_vade_has_the_elbo_s_gradient_in_every_part(small_data):
    """Against finite differences in float64, all of them through one and the same parameters."""
    model = fresh_vade(small_data, 0).double()
    assert model.discrete_encoder.prior is model.prior
    assert model.discrete_encoder.encoder is model.continuous_encoder.encoder
    x, objective = small_data.train.images[:20], VAE(enumeration=Truncated(0.5))

    def loss():
        return objective(model, x, torch.Generator().manual_seed(1)).loss

    loss().backward()
    names = [name for name, _ in model.named_parameters()]
    assert len([name for name in names if "prior" in name]) == 3  # each once
    for name, parameter in model.named_parameters():
        flat, index = parameter.data.view(-1), int(parameter.grad.abs().argmax())
        ends = []
        for step in (1e-5, -1e-5):
            flat[index] += step
            ends.append(loss().item())
            flat[index] -= step
        assert parameter.grad.view(-1)[index].item() == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-4), name
        assert parameter.grad.abs().max() > 0, name


def test_vade_decodes_one_code_an_image_for_the_sum_over_all_components(small_data):
    model = fresh_vade(small_data, 0)
    x = small_data.train.images[:64]

    def mean(rule):
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            return np.mean([VAE(enumeration=rule)(model, x, generator).loss.item() for _ in range(400)])

    assert mean(Truncated(0.5)) == pytest.approx(mean(Dense()), rel=1e-3)
    assert len(Truncated(0.5).select(model.posterior(x).log_probs).image) == len(x)


def test_a_saved_vade_comes_back_and_still_shares_its_prior(small_data, tmp_path):
    model, other = fresh_vade(small_data, 0), fresh_vade(small_data, 1)
    x = small_data.test.images
    assert not np.allclose(model.predict_proba(x), other.predict_proba(x))
    model.save(tmp_path / "vade.safetensors")
    GMLVM.load(tmp_path / "vade.safetensors", into=other)
    np.testing.assert_array_equal(model.predict_proba(x), other.predict_proba(x))
    torch.testing.assert_close(model.prior.scale, other.prior.scale)
    with torch.no_grad():
        other.prior.loc += torch.randn(4, 3, generator=torch.Generator().manual_seed(2))
    assert not np.allclose(model.predict_proba(x), other.predict_proba(x))


def test_vade_starts_from_an_autoencoder_and_a_mixture_and_moves_both(small_vade, small_data):
    pretrained, _ = vade.autoencoder(small_data, 0)
    codes = pretrained.transform(small_data.train.images)
    model = vade.started(pretrained, small_data, 0)
    np.testing.assert_array_equal(model.transform(small_data.train.images), codes)
    posterior = model.posterior(small_data.train.images[:9])
    expected = torch.from_numpy(vade.SETTINGS["noise"] * codes.std(0)).float().expand(9, 4, 3)
    torch.testing.assert_close(posterior.scale, expected)
    groups = model.predict(small_data.train.images)
    for k in range(4):  # of a mixture whose components share next to nothing
        np.testing.assert_allclose(model.prior.loc[k].detach(), codes[groups == k].mean(0), atol=0.05, rtol=0.05)
    found = vade.vade(0)
    assert found["start"]["model"]["accuracy"] > 0.95
    assert found["fixed prior"]["model"]["accuracy"] > 0.9
    assert found["fixed prior"]["model"]["accuracy"] == found["fitted prior"]["model"]["accuracy"]
    assert found["start"]["samples"] != found["fixed prior"]["samples"] != found["fitted prior"]["samples"]
    assert set(found["seconds"]) == {"pretraining", "mixture", "training"}


def test_models_with_components_are_measured_before_and_after_their_prior_moves(small_path):
    one, ten, plain = (contest.METHODS[name](0) for name in ("GM-VAE, beta 1", "GM-VAE, beta 10", "GM-WAE"))
    for found in (one, ten, plain):
        assert found["fixed prior"]["model"]["accuracy"] == found["fitted prior"]["model"]["accuracy"]
        assert found["fixed prior"]["samples"] != found["fitted prior"]["samples"]
    errors = {run["fixed prior"]["model"]["reconstruction_error"] for run in (one, ten, plain)}
    assert len(errors) == 3


def test_where_no_prior_can_be_fitted_the_reason_stands(small_path, small_data):
    model = GMLVM.for_images(small_data.image_shape, 4, 3)
    model.discrete_encoder = nn.Sequential(nn.Flatten(), nn.Linear(30, 4))
    with torch.no_grad():
        model.discrete_encoder[1].bias[0] = 1e4
    found = measures.with_fitted_prior(model)
    assert found["fitted prior"] is None
    assert "every component needs images enough" in found["reason"]


def test_the_path_is_timed_part_by_part(small_path):
    found = digits.path(0)
    assert set(found["seconds"]) == {"teacher", "distillation", "refinement", "training"}
    assert len(found["fitted prior"]["model"]["component_shares"]) == 4


def test_what_follows_the_start_differs_from_one_and_the_same(small_path, monkeypatch):
    for settings in (digits.SETTINGS, ablations.SETTINGS):
        monkeypatch.setitem(settings, "steps", 30)
    found = ablations.after(0)
    assert list(found) == ["start", *ablations.AFTER]
    reports = [found[name]["fixed prior"]["model"] for name in ablations.AFTER]
    assert all(one != other for one, other in itertools.combinations(reports, 2))
    frozen = [name for name, how in ablations.AFTER.items() if how.frozen]
    assert {found[name]["fixed prior"]["model"]["accuracy"] for name in frozen} == {found["start"]["accuracy"]}
    path = digits.path(0)["fixed prior"]
    assert found["path"]["fixed prior"] == path


def test_a_vae_takes_up_the_path_with_every_part_free(small_path, monkeypatch):
    for name, value in {"num_components": 4, "latent_dim": 3, "vae_steps": 4}.items():
        monkeypatch.setitem(wae_start.SETTINGS, name, value)
    monkeypatch.setattr(wae_start, "LOOKS", (0, 4))
    monkeypatch.setattr(wae_start, "WINDOW", 2)
    model = digits_vae.from_digits(0)
    networks = (model.discrete_encoder, model.continuous_encoder, model.decoder)
    assert all(parameter.requires_grad for network in networks for parameter in network.parameters())
    found = digits_vae.both(0)
    first, last = ([found[f"beta {beta}"]["reports"][i] for beta in (1, 10)] for i in (0, 1))
    assert first[0] == first[1] == digits.path(0)["fixed prior"]["model"]
    assert last[0] != last[1]


def test_starts_are_compared_with_what_shows_without_labels(small_path, monkeypatch):
    monkeypatch.setitem(ablations.SETTINGS, "refining_steps", 40)
    alone, merged = ablations.no_teacher(0), ablations.merged(0)
    assert set(alone["terms"]) == set(merged["terms"]) == {"loss", "roughness", "conditional_entropy", "entropy"}
    assert len(merged["heights"]) == 5
    assert merged["heights"] == sorted(merged["heights"])
    assert merged["accuracy"] <= merged["unmerged_accuracy"] + 0.05
    assert merged["terms"]["entropy"] > np.log(4)  # of six components


def test_each_part_of_the_start_is_left_out_by_itself(small_path, monkeypatch):
    monkeypatch.setattr(embedding, "teacher", lambda images, k, seed: torch.full((len(images), k), 1 / k))
    monkeypatch.setitem(ablations.SETTINGS, "refining_steps", 40)
    found = ablations.without(0)
    assert found["no smoothness"]["terms"]["roughness"] < 1e-6
    assert found["no even use"]["terms"]["roughness"] > 1e-6
    assert set(found["no refinement"]["terms"]) == {"loss", "cross_entropy", "roughness"}


def test_codes_that_lie_as_the_prior_draws_mix_with_its_draws(small_path, small_data):
    model = GMLVM.for_images(small_data.image_shape, 4, 3)
    apart = measures.mixing(small_data, model, seed=0)  # untrained: codes lie near the origin
    # Of one component that draws what the encoder gives for every image.
    one = GMLVM(
        GaussianMixturePrior(torch.zeros(1, 3)), Constant((1,)), Standard(), mlp_decoder((1, 6, 5), 3), (1, 6, 5)
    )
    assert apart < 0.3
    assert measures.mixing(small_data, one, seed=0) == pytest.approx(0.5, abs=0.1)


class Constant(nn.Module):
    """The same logits for every image."""

    def __init__(self, shape):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(shape))

    def forward(self, x):
        return self.logits.expand(len(x), -1)


class Standard(Constant):
    """A standard normal posterior, for every image."""

    def __init__(self):
        super().__init__((1, 3))

    def forward(self, x):
        loc = self.logits.expand(len(x), 1, 3)
        return loc, torch.ones_like(loc)


@pytest.fixture
def small_choices(small_path, small_data, monkeypatch):
    for name, value in {"num_components": 4, "steps": [2, 4], "hidden_dims": [3, 5, 6]}.items():
        monkeypatch.setitem(choices.SETTINGS, name, value)
    shipped = GMLVM.for_images(small_data.image_shape, 4, 3, networks="deep", seed=9)
    monkeypatch.setattr(choices, "pretrained", lambda _: copy.deepcopy(shipped))
    return shipped


def test_every_choice_is_another_training(small_choices):
    found = {}
    for name, choice in choices.CHOICES.items():
        size = {"steps": choice.steps // 300 + 1, "batch_size": choice.batch_size // 10}
        found[name] = choices.run(dataclasses.replace(choice, **size))(0)["model"]
    assert len({report["accuracy"] for report in found.values()}) == 1
    assert len({tuple(map(str, report.values())) for report in found.values()}) == len(choices.METHODS)


def test_the_given_q_d_is_what_is_shipped_and_stays(small_choices):
    model = choices.new_model(choices.Choice(latent_dim=3), 0)
    shipped = small_choices.discrete_encoder.state_dict()
    assert all(torch.equal(value, shipped[name]) for name, value in model.discrete_encoder.state_dict().items())
    trained = {name.split(".")[0] for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {"continuous_encoder", "decoder"}


def test_components_of_unequal_width_are_measured_apart(small_choices, small_data, monkeypatch):
    for name, value in {"narrow_components": [1, 3], "steps": 2}.items():
        monkeypatch.setitem(widths.SETTINGS, name, value)
    found = {name: method(0) for name, method in widths.METHODS.items()}
    errors = {figures["model"]["reconstruction_error"] for figures in found.values()}
    assert len(errors) == len(found)
    assert all({"wide", "narrow", "model", "samples"} == set(figures) for figures in found.values())
    assert widths.unequal_prior().scale[:, 0].tolist() == [1, 0.25, 1, 0.25]


def test_a_half_has_its_own_components_alone(small_choices, small_data, monkeypatch):
    seen = {}

    def mixing(model, images, seed):
        seen["groups"], seen["drawn"] = model.predict(images), model.prior.sample_component(500)
        return 0.5

    def judged(draw, count, *rest):
        seen["count"], seen["second"] = count, draw(3, 1)
        return SimpleNamespace(purity=1.0)

    monkeypatch.setattr(widths, "prior_mixing", mixing)
    monkeypatch.setattr(widths, "judge_samples", judged)
    model = choices.new_model(choices.Choice(), 0)
    kept = [*sorted(set(model.predict(small_data.test.images)))[:1], 3]
    assert widths.half(model, kept, seed=5) == {"mixing": 0.5, "purity": 1.0}
    assert set(seen["drawn"].tolist()) == set(kept)
    assert set(seen["groups"]) == set(kept) & set(model.predict(small_data.test.images))
    assert seen["count"] == len(kept)
    assert torch.equal(seen["second"], model.sample(3, 3, generator=torch.Generator().manual_seed(5)))


def test_in_its_own_units_no_component_s_place_and_width_matter():
    prior = GaussianMixturePrior(torch.tensor([[0.0, 4], [3, 0]]), torch.tensor([[1.0, 0.5], [0.1, 2]]))
    standard = GaussianMixturePrior(torch.zeros(2, 2), 1.0)
    e, logits = torch.randn(20, 2, 2), torch.randn(20, 2)
    divergence = widths.OwnUnits(MMD())
    z = prior.loc + prior.scale * e
    scale = torch.full_like(e, 0.1)
    found = divergence(Posterior(logits, z, prior.scale * scale), z, prior, torch.Generator().manual_seed(0))
    expected = MMD()(Posterior(logits, e, scale), e, standard, torch.Generator().manual_seed(0))
    torch.testing.assert_close(found, expected)
    # Where all are alike, it is the divergence itself.
    alike = GaussianMixturePrior(prior.loc, 0.5)
    z = prior.loc + 0.5 * e
    found = divergence(Posterior(logits, z, 0.5 * scale), z, alike, torch.Generator().manual_seed(0))
    plain = MMD()(Posterior(logits, z, 0.5 * scale), z, alike, torch.Generator().manual_seed(0))
    torch.testing.assert_close(found, plain)


def test_other_numbers_of_components_are_merged_to_the_path_s(small_path):
    few, many = components.many(3)(0), components.many(6)(0)
    assert "merged" not in few
    assert len(few["fixed prior"]["model"]["component_shares"]) == 3
    assert len(many["merged"]["heights"]) == 5
    assert sorted(set(many["merged"]["groups"])) == [0, 1, 2, 3]
    assert many["merged"]["heights"] == sorted(many["merged"]["heights"])


def test_other_data_are_measured_as_mnist_is(small_path, small_data):
    found = other_data.compared(lambda: small_data)(0)
    assert found["k-means"] == {"accuracy": 1, "nmi": pytest.approx(1)}
    assert found["teacher"] == {"accuracy": 1, "nmi": pytest.approx(1)}
    assert found["path"]["accuracy"] > 0.9


def test_rare_digits_are_started_for_by_each_rule(small_path, small_data, monkeypatch):
    sizes = {"refining_steps": 40, "num_components": 4, "many_components": 6, "groups_left": [3, 4]}
    for name, value in sizes.items():
        monkeypatch.setitem(imbalance.SETTINGS, name, value)
    monkeypatch.setattr(imbalance, "imbalanced", lambda: small_data)
    rules = ["even", "teacher's shares", "free"]
    found = imbalance.as_many(lambda: small_data)(0)
    assert list(found) == ["k-means", "teacher", *rules]
    for name in rules:
        counts = np.array(found[name]["counts"])
        assert counts.shape == (4, 4)
        assert (counts.sum(0) == np.bincount(small_data.test.labels.numpy())).all()
        assert found[name]["accuracy"] == pytest.approx(counts.max(1).sum() / counts.sum())
    some = imbalance.by_rules(lambda: small_data, "free")(0)
    assert some["teacher"] == found["teacher"]
    assert some["free"].pop("training split")["accuracy"] > 0.9
    assert some == {"teacher": found["teacher"], "free": found["free"]}
    merged = imbalance.many(0)["teacher's shares"]["merged"]
    assert {left: len(set(figures["groups"])) for left, figures in merged.items()} == {"3": 3, "4": 4}


def test_rare_digits_are_a_tenth_and_the_rest_is_whole(small_runs, small_data, monkeypatch):
    monkeypatch.setitem(imbalance.SETTINGS, "rare", [0, 2])
    monkeypatch.setitem(imbalance.SETTINGS, "rare_share", 0.25)
    thinned = imbalance.imbalanced()
    for split, whole in ((thinned.train, small_data.train), (thinned.test, small_data.test)):
        counts, all_counts = (np.bincount(part.labels.numpy()) for part in (split, whole))
        assert (counts[[1, 3]] == all_counts[[1, 3]]).all()
        np.testing.assert_allclose(counts[[0, 2]] / all_counts[[0, 2]], 0.25, atol=0.12)
        assert len(split.images) == len(split.labels)
    counts, all_counts = (np.bincount(each.train.labels.numpy()) for each in (imbalance.imbalanced([1]), small_data))
    assert (counts < all_counts).tolist() == [False, True, False, False]


def test_unequal_shapes_have_the_shares_that_were_asked_for():
    labels = imbalance.unequal_shapes().train.labels.numpy()
    np.testing.assert_allclose(np.bincount(labels) / len(labels), imbalance.SETTINGS["shape_shares"], atol=0.01)


def test_scikit_learn_s_digits_come_with_no_file():
    data = other_data.small_digits()
    assert len(data.train) + len(data.test) == 1797
    assert data.image_shape == (1, 8, 8)
    assert data.train.images.max() == 255


def test_the_path_s_networks_are_trained_with_no_start_as_well(small_path, monkeypatch):
    for settings in (digits.SETTINGS, ablations.SETTINGS):
        monkeypatch.setitem(settings, "steps", 30)
    runs = (ablations.no_start(0), digits.path(0), digits.plain(0))
    assert len({run["fixed prior"]["model"]["reconstruction_error"] for run in runs}) == 3


def test_the_ceiling_is_trained_on_labels(small_path, monkeypatch):
    monkeypatch.setitem(ablations.SETTINGS, "refining_steps", 60)
    assert all(run["accuracy"] > 0.95 for run in ablations.supervised(0).values())


def test_what_is_shipped_is_measured_as_it_is_shipped_and_written_when_all_of_it_is_there(
    small_path, tmp_path, monkeypatch
):
    monkeypatch.setattr(embedding, "teacher", lambda images, k, seed: torch.full((len(images), k), 1 / k))
    monkeypatch.setattr(sys, "argv", ["pretrained", "--output", str(tmp_path / "none")])
    with pytest.raises(SystemExit):
        pretrained.main()
    monkeypatch.setattr(sys, "argv", ["pretrained", "--output", str(tmp_path)])
    with monkeypatch.context() as patch:
        found = iter([{"accuracy": 1.0}])  # the second model fails
        patch.setattr(pretrained, "figures", lambda model: next(found))
        with pytest.raises(StopIteration):
            pretrained.main()
    assert not list(tmp_path.iterdir())
    pretrained.main()
    record = read_record(tmp_path / weights.RECORD)
    assert record["command"] == f"python -m experiments.pretrained --output {tmp_path.as_posix()}"
    assert tuple(record["models"]) == weights.NAMES
    models = {name: GMLVM.load(tmp_path / f"{name}.safetensors") for name in weights.NAMES}
    for name, model in models.items():
        assert pretrained.figures(model) == record["models"][name]
    states = [model.state_dict() for model in models.values()]
    layer = "discrete_encoder.1.weight"
    assert torch.equal(states[0][layer], states[1][layer])
    assert not torch.equal(states[0]["decoder.0.weight"], states[1]["decoder.0.weight"])
    trained = seeds.train(0)[0].state_dict()[layer]
    step = 2 ** (trained.std() * pretrained.SHARE).log2().round()
    torch.testing.assert_close(states[2][layer], trained, rtol=0, atol=float(step / 2))
    assert torch.equal((states[2][layer] / step).round() * step, states[2][layer])
    assert not torch.equal(states[2][layer], trained)
    assert states[3][layer].std() < 2 * pretrained.COLLAPSE["weight_std"]  # after two steps


# A weight that travels.


def test_shapes_are_what_their_label_says_in_the_shares_asked_for():
    data = shapes.coloured_shapes(300, 200, shares=(0.6, 0.1, 0.1, 0.1, 0.1))
    assert data.image_shape == (3, 16, 16)
    assert data.class_names == shapes.KINDS
    shares = np.bincount(data.train.labels.numpy()) / 300
    np.testing.assert_allclose(shares, (0.6, 0.1, 0.1, 0.1, 0.1), atol=0.06)
    # What is lighter than the ground: a ring has a hole, a disc has most of its square, and so on.
    lit = data.train.images.float().amax(1) > 80
    row, column = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    centre = torch.stack([(lit * axis).sum((1, 2)) / lit.sum((1, 2)) for axis in (row, column)], 1).round().long()
    hole = ~lit[torch.arange(300), centre[:, 0], centre[:, 1]]
    labels = data.train.labels
    assert hole[labels == shapes.KINDS.index("ring")].all()
    assert not hole[labels != shapes.KINDS.index("ring")].any()
    boxes = torch.stack([lit.any(1).sum(1), lit.any(2).sum(1)], 1).prod(1)
    full = lit.sum((1, 2)) / boxes
    assert (full[labels == shapes.KINDS.index("square")] == 1).all()
    assert full[labels == shapes.KINDS.index("triangle")].mean() < full[labels == shapes.KINDS.index("disc")].mean()
    assert torch.equal(data.train.images, shapes.coloured_shapes(300, 10, (0.6, 0.1, 0.1, 0.1, 0.1)).train.images)


def test_a_weight_is_taken_in_units_of_the_total_variance(small_data, monkeypatch):
    monkeypatch.setitem(penalty_weights.SETTINGS, "steps", 3)
    monkeypatch.setitem(penalty_weights.SETTINGS, "relative_weights", [0.5, 4.0])
    seen = []
    monkeypatch.setattr(penalty_weights, "WAE", lambda weight: (seen.append(weight), WAE(weight))[1])
    found = penalty_weights.weighed(lambda: small_data)(0)
    assert found["total_variance"] == small_data.total_variance
    assert seen == [0.5 * small_data.total_variance, 4 * small_data.total_variance]
    assert [run["relative_weight"] for run in found["trainings"]] == [0.5, 4.0]
    assert found["trainings"][0]["reconstruction_error"] != found["trainings"][1]["reconstruction_error"]


def test_penalties_on_z_and_on_pairs_differ_in_nothing_else(small_runs, small_data):
    names = [f"{on}, weight {w:g}" for on, weights in penalties.SETTINGS["relative_weights"].items() for w in weights]
    assert list(penalties.METHODS) == names
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(penalties.SETTINGS, "steps", 3)
        patch.setitem(penalties.SETTINGS, "num_components", 4)
        patch.setitem(penalties.SETTINGS, "latent_dim", 3)
        seen = []
        patch.setattr(penalties, "WAE", lambda weight, penalty: (seen.append((weight, penalty.on)), WAE(weight))[1])
        first, second = (penalties.weighed(on, 0.5)(0) for on in ("codes", "pairs"))
    assert seen == [(0.5 * small_data.total_variance, on) for on in ("codes", "pairs")]
    assert first | {"seconds": 0} == second | {"seconds": 0}  # the same objective was put in the place of both
    assert len(first["component_shares"]) == 4


def test_groups_that_are_there_are_found_again(small_data, monkeypatch):
    for name, value in {"numbers": [4, 5], "runs": 3, "refining_steps": 2, "steps": 5}.items():
        monkeypatch.setitem(groupless.SETTINGS, name, value)
    asked = []

    def taught(data, k, **settings):
        asked.append((k, settings["seed"]))
        targets = nn.functional.one_hot(data.train.labels, k).float()
        return learn_components(data, k, targets=targets, teaching_steps=60, **settings)

    monkeypatch.setattr(groupless, "learn_components", taught)
    found = groupless.learned_again(lambda: small_data)(1)
    assert asked == [(k, seed) for k in (4, 5) for seed in (3, 4, 5)]
    for k in ("4", "5"):
        assert found[k]["left"] == [4, 4, 4]
        assert found[k]["agreement"] > 0.9
        assert [numbers["accuracy"] > 0.9 for numbers in found[k]["numbers"]] == [True] * 3


def test_what_has_no_groups_is_of_one_kind():
    assert set(groupless.one_digit().train.labels.tolist()) == {1}
    discs = groupless.discs()
    assert set(discs.test.labels.tolist()) == {0}
    assert discs.class_names[0] == "disc"
    means = [
        data.train.images.double().mean(0).flatten() for data in (groupless.one_gaussian(), other_data.small_digits())
    ]
    assert torch.corrcoef(torch.stack(means))[0, 1] > 0.98  # not one: it is cut off at black and white


def test_the_recipe_is_measured_before_and_after_its_prior_moves(small_data, monkeypatch):
    for name, value in {"refining_steps": 3, "steps": 60}.items():
        monkeypatch.setitem(recipe.SETTINGS, name, value)
    figures = recipe.followed(lambda: small_data, 5)(0)
    assert len(figures["shares"]) == 5
    left = len(figures["own_samples"])
    assert figures["most_information"] == pytest.approx(np.log(left))
    assert np.mean(figures["own_samples"]) == figures["before"]["own_samples"] != figures["after"]["own_samples"]
    assert figures["before"]["accuracy"] == figures["after"]["accuracy"]
    assert figures["after"]["error"] == figures["after"]["reconstruction_error"] / small_data.total_variance


def test_what_is_faint_has_the_square_of_its_contrast_for_its_variance(small_data):
    pale = penalty_weights.faint(small_data)
    assert pale.total_variance == pytest.approx(0.2**2 * small_data.total_variance, rel=0.02)
    assert torch.equal(pale.test.labels, small_data.test.labels)
    assert abs(pale.train.images.float().mean() - 127.5) < 0.2 * 127.5


# How many components.


@pytest.fixture
def small_numbers(small_data, monkeypatch):
    monkeypatch.setitem(number.SETTINGS, "numbers", [2, 3, 4, 5, 6])
    return small_data


def test_groups_that_are_well_apart_are_counted_without_labels(small_numbers):
    found = number.numbered(lambda: small_numbers)(0)
    curves, four = found["curves"], 2  # place of K = 4
    assert found["num_labels"] == 4
    for name in ("stability", "accuracy", "nmi"):
        assert curves[name][four] == pytest.approx(1)
        assert len(curves[name]) == 5
    assert curves["accuracy"][0] < 0.7  # two groups of four
    assert curves["stability"][four + 1] < 0.95
    assert found["picks"]["silhouette"] == found["picks"]["merge heights"] == 4
    blind = dataclasses.replace(small_numbers.train, labels=small_numbers.train.labels % 2)
    again = number.numbered(lambda: dataclasses.replace(small_numbers, train=blind))(0)
    assert again["picks"] == found["picks"]
    assert again["curves"]["nmi"] != curves["nmi"]


def test_halves_share_no_image_and_are_tried_on_others(small_data, monkeypatch):
    marked = dataclasses.replace(small_data.train, labels=torch.arange(400))
    data = dataclasses.replace(small_data, train=marked)
    one, other = number.halves(data, 0)
    parts = [one.train.labels, other.train.labels, one.test.labels]
    assert [len(part) for part in parts] == [160, 160, 80]
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(400))
    assert torch.equal(one.test.labels, other.test.labels)
    assert torch.equal(one.train.images, small_data.train.images[one.train.labels])
    assert not torch.equal(number.halves(data, 1)[0].train.labels, one.train.labels)
    monkeypatch.setitem(number.SETTINGS, "images", 100)
    monkeypatch.setitem(number.SETTINGS, "held_out", 10)
    assert [len(split) for half in number.halves(data, 0) for split in (half.train, half.test)] == [45, 10, 45, 10]


def test_neighbours_in_other_components_bring_these_together():
    # Two pairs of neighbours. One is cut by two components; the other is a component, with half of all edges.
    graph = sparse.csr_array([[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]])
    probs = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 1]], dtype=float)
    np.testing.assert_allclose(number.neighbour_flow(graph, probs), [[0, 4, 0], [4, 0, 0], [0, 0, 2]])
    np.testing.assert_allclose(number.neighbour_flow(graph, np.full((4, 2), 0.5)), np.ones((2, 2)))


def test_each_rule_takes_the_end_of_its_own_curve(monkeypatch):
    monkeypatch.setitem(number.SETTINGS, "numbers", [2, 3, 4, 5])
    curves = {
        "stability": [0, 1, 0, 0],
        "silhouette": [0, 0, 1, 0],
        "held-out likelihood": [0, 0, 0, 1],
        "bic": [-1, 0, 0, 0],
        "merge heights": [0, 1, 9, 10],  # five are merged to four, then to three; two would be far
    }
    expected = {"stability": 3, "silhouette": 4, "held-out likelihood": 5, "bic": 2, "merge heights": 3}
    assert number.picks(curves) == expected
