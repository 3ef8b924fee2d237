"""The trained models inside the package: there, small, and as good as they are said to be."""

from __future__ import annotations

import re
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from experiments.pretrained import SHARE
from gmlvm import FullGaussianMixturePrior, GaussianMixturePrior, evaluate, pretrained, weights
from gmlvm.generation import evaluate_samples
from gmlvm_book.instrument import load_classifier

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
DATA = ROOT / "gmlvm" / "data"
FOLDER = DATA / "pretrained"
#: How far a figure may be from what was written where the files were made: absolute, and as a share of it.
TOLERANCES = {
    "accuracy": (0.002, 0), "component_entropy": (1e-3, 0), "mutual_information": (2e-3, 0),
    "reconstruction_error": (0, 0.01), "purity": (0.005, 0), "least_purity": (0.01, 0),
    "frechet": (0, 0.03), "kernel": (0, 0.03),
}  # fmt: skip


@pytest.fixture(scope="module", params=weights.NAMES)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def model(name):
    return pretrained(name)


class TestModels:
    def test_they_are_ready_to_be_used(self, model, mnist):
        assert not any(module.training for module in model.modules())
        assert {tensor.device.type for tensor in model.state_dict().values()} == {"cpu"}
        assert model.dtype == torch.float32
        assert model.can_be_rebuilt
        assert (model.num_components, model.latent_dim, model.image_shape) == (10, 9, mnist.image_shape)

    def test_each_call_gives_a_model_of_its_own(self, name, model):
        other = pretrained(name)
        with torch.no_grad():
            other.decoder[0].bias += 1
        assert not torch.equal(other.decoder[0].bias, model.decoder[0].bias)

    def test_reading_one_leaves_the_global_generator_alone(self, name):
        before = torch.get_rng_state()
        pretrained(name)
        assert torch.equal(torch.get_rng_state(), before)

    def test_it_takes_at_most_three_megabytes(self, name):
        assert (FOLDER / f"{name}.safetensors").stat().st_size <= 3_000_000

    def test_its_matrices_of_q_d_and_the_decoder_are_multiples_of_a_power_of_two(self, model):
        for network in (model.discrete_encoder, model.decoder):
            for matrix in (parameter for parameter in network.parameters() if parameter.ndim > 1):
                steps = 2.0 ** torch.arange(-20, 0)
                coarsest = max(step for step in steps if torch.equal((matrix / step).round() * step, matrix))
                assert 0.7 * SHARE <= coarsest / matrix.std() <= 1.5 * SHARE

    def test_it_has_the_figures_of_its_components(self, name, model, mnist):
        self.agree(asdict(evaluate(model, mnist)), weights.origin(name).figures, 4)

    def test_it_has_the_figures_of_its_samples(self, name, model, mnist):
        reader = load_classifier(ROOT / "results" / "classifier.safetensors")
        self.agree(asdict(evaluate_samples(model, reader, mnist)), weights.origin(name).figures, 4)

    @staticmethod
    def agree(found, said, count):
        names = TOLERANCES.keys() & found.keys() & said.keys()
        assert len(names) == count
        for name in names:
            absolute, share = TOLERANCES[name]
            assert found[name] == pytest.approx(said[name], abs=absolute, rel=share), name

    def test_samples_are_repeatable(self, model):
        draws = [model.sample(8, generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
        assert torch.equal(draws[0], draws[1])
        assert not torch.equal(draws[0], draws[2])


def test_two_models_share_a_start_and_the_others_have_none():
    wae, vae, plain, collapsed = (pretrained(name) for name in weights.NAMES)
    ours, theirs = wae.state_dict(), vae.state_dict()
    shared = {name for name in ours if torch.equal(ours[name], theirs[name])}
    assert shared == {name for name in ours if name.startswith("discrete_encoder.")} | {"prior.logits"}  # mean q_D
    assert isinstance(wae.prior, FullGaussianMixturePrior)
    assert isinstance(vae.prior, FullGaussianMixturePrior)
    for model in (plain, collapsed):
        assert torch.equal(model.prior.loc, GaussianMixturePrior.simplex(10, 9).loc)
        assert torch.equal(model.prior.scale, torch.ones(10, 9))


def test_components_mean_digits_after_the_start_alone():
    figures = {name: weights.origin(name).figures for name in weights.NAMES}
    for name in ("gm-wae-digits", "gm-vae-digits"):
        assert figures[name]["accuracy"] > 0.98
        assert figures[name]["purity"] > 0.95
        assert figures[name]["least_purity"] > 0.88
    assert figures["gm-wae"]["accuracy"] < 0.6
    assert figures["gm-wae"]["purity"] < 0.5


def test_components_are_all_in_use_but_for_the_vae_that_collapsed():
    entropies = {name: weights.origin(name).figures["component_entropy"] for name in weights.NAMES}
    assert entropies.pop("gm-vae") < 0.1
    assert min(entropies.values()) > 2.29


def test_each_says_how_it_was_made(name):
    origin = weights.origin(name)
    assert origin.command == "python -m experiments.pretrained --output gmlvm/data/pretrained"
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", origin.date)
    assert origin.machine
    assert {"python", "gmlvm", "torch", "numpy"} <= set(origin.versions)
    assert origin.seed == 0
    assert origin.figures.keys() == TOLERANCES.keys()


@pytest.mark.parametrize("read", [pretrained, weights.origin])
@pytest.mark.parametrize("name", ["gm-wae-letters", "", "../mnist", "GM-WAE", None])
def test_a_name_that_is_not_known_is_answered_by_those_that_are(read, name):
    known = ", ".join(map(repr, weights.NAMES))
    with pytest.raises(ValueError, match=re.escape(f"name must be one of {known}; got {name!r}")):
        read(name)


def test_the_folder_holds_these_files_and_no_others():
    assert {path.name for path in FOLDER.iterdir()} == {f"{name}.safetensors" for name in weights.NAMES} | {
        weights.RECORD
    }


def test_the_package_carries_all_of_its_data():
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    carried = {
        path
        for package, patterns in tools["package-data"].items()
        if package in tools["packages"]
        for pattern in patterns
        for path in (ROOT / package.replace(".", "/")).glob(pattern)
    }
    there = {path for path in DATA.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert there <= carried
    assert {"mnist.tar.xz", "gm-wae.safetensors", weights.RECORD} <= {path.name for path in there}
