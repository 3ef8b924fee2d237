"""Two processes that share a batch equal one that has all of it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_runs import Learned, new_model, own_model, run, same_weights

from gmlvm import MMD, VAE, WAE, GaussianMixturePrior, InformationMaximisation, distributed
from gmlvm.posterior import Posterior
from gmlvm.vat import Smoothness


class Informed(WAE):
    """The WAE, and information maximisation besides."""

    information = InformationMaximisation()

    def terms(self, model, batch, generator):
        terms, information = super().terms(model, batch, generator), self.information.terms(model, batch, generator)
        extra = {"conditional": information.conditional_entropy, "entropy": information.entropy}
        return terms._asdict() | {"loss": terms.loss + information.loss} | extra


#: Objectives by name, of which each process makes its own.
OBJECTIVES = {
    "vae": VAE,
    "pairs": lambda: WAE(100.0),
    "codes": lambda: WAE(100.0, MMD("codes")),
    "smoothness": lambda: WAE(100.0, smoothness=Smoothness()),
    "consistency": lambda: VAE(consistency_weight=10.0),
    "information": lambda: Informed(100.0),
    "learned weight": Learned,
}
OPTIONS = {"steps": 20, "batch_size": 128, "learning_rate": 1e-3}


def learning_model():
    return new_model(prior=GaussianMixturePrior.simplex(4, 3, learn=("loc", "scale", "weights")))


def images():
    """Four classes: a bright quadrant each, with noise."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(50, (400, 1, 6, 5), generator=generator)
    for index, image in enumerate(noise):
        row, column = 3 * (index % 4 // 2), 2 * (index % 2)
        image[0, row : row + 3, column : column + 3] += 170
    return noise.to(torch.uint8)


def train(name, **options):
    """Train a model, and give its weights, the gradients of the first step, and the history."""
    gradients = {}

    def keep(run):
        modules = torch.nn.ModuleList([run.model, run.objective])
        gradients.update({n: p.grad.clone() for n, p in modules.named_parameters()})

    model, objective = learning_model(), OBJECTIVES[name]()
    history = run(model, images(), objective, callbacks={1: keep}, **OPTIONS | options)
    weights = model.state_dict() | {f"objective.{n}": t for n, t in objective.state_dict().items()}
    return {"weights": weights, "gradients": gradients, "terms": {n: torch.tensor(v) for n, v in history.items()}}


# What a reader's script with two processes does; Fabric starts the second one.
SCRIPT = """
import os, sys, time
import torch
torch.set_num_threads(1)
import test_distributed as here
from small_runs import new_model, own_model, run
from gmlvm import WAE, Run, distributed, storage

folder, two = sys.argv[1], {"devices": 2, "strategy": "ddp"}
results = {name: here.train(name, **two) for name in here.OBJECTIVES}
assert distributed.world_size() == 2

# A checkpoint: stopped after seven steps, taken up again.
path = f"{folder}/run.safetensors"
stop = {7: lambda run: run.stop("interrupted")}
run(here.learning_model(), here.images(), checkpoint=path, callbacks=stop, **here.OPTIONS, **two)
resumed = here.learning_model()
run(resumed, here.images(), checkpoint=path, **here.OPTIONS, **two)
results["resumed"] = {"weights": resumed.state_dict()}

# A checkpoint on a slow disk.
writes, write = [], storage.write
def slow_write(*arguments):
    writes.append(arguments)
    time.sleep(0.5)
    write(*arguments)
storage.write = slow_write
run(new_model(), here.images(), steps=2, checkpoint=f"{folder}/slow.safetensors", **two)
done = storage.read(f"{folder}/slow.safetensors", "gmlvm training run")[0]["done"]
results["slow"] = {"writes": len(writes), "done": done}
storage.write = write

# A trunk that is frozen, accumulated batches, a clipped gradient, and a loader; dropout and batch norms.
frozen = new_model()
frozen.decoder.requires_grad_(False)
run(frozen, here.images(), accumulate=2, clip_norm=1.0, **here.OPTIONS, **two)
results["frozen"] = {"weights": frozen.state_dict()}
loaded = new_model()
run(loaded, iter(here.images().split(100)), steps=4, **two)
results["loader"] = {"weights": loaded.state_dict()}
norms = own_model()
run(norms, here.images(), WAE(1.0), **here.OPTIONS, **two)
results["norms"] = {"weights": norms.state_dict()}

for options in ({"batch_size": 127, **two}, {"batch_size": 128}):
    try:
        Run(new_model(), WAE(1.0), here.images(), steps=2, device="cpu", **options)
    except ValueError as error:
        results[str(error)] = None
try:
    run(new_model(), iter([here.images()[:5]]), steps=1, **two)
except ValueError as error:
    results[str(error)] = None
torch.save(results, f"{folder}/{distributed.rank()}.pt")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What two processes have computed: a file of each."""
    folder = tmp_path_factory.mktemp("two")
    script = folder / "script.py"
    script.write_text(SCRIPT)
    here = Path(__file__).parent
    environment = {
        name: value for name, value in os.environ.items() if name not in ("LOCAL_RANK", "WORLD_SIZE", "RANK")
    }
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(here), str(here.parent)])}
    command = [sys.executable, str(script), str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def results(folder):
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


def assert_close(found, expected, tolerance):
    """Whether all tensors together are as close, relative to their length, and each by itself ten times as far."""
    assert found.keys() == expected.keys()
    whole = torch.cat([(found[name] - expected[name]).flatten() for name in found]).norm()
    assert whole <= tolerance * torch.cat([tensor.flatten() for tensor in expected.values()]).norm()
    for name, tensor in expected.items():
        assert (found[name] - tensor).norm() <= 10 * tolerance * tensor.norm() + 1e-9, name


@pytest.mark.parametrize("name", OBJECTIVES)
def test_two_processes_equal_one_with_the_whole_batch(results, name):
    expected = train(name)
    assert_close(results[0][name]["gradients"], expected["gradients"], 1e-5)
    assert_close(results[0][name]["weights"], expected["weights"], 1e-4)
    assert_close(results[0][name]["terms"], expected["terms"], 1e-4)


def test_both_processes_have_the_same_weights_and_history(results):
    assert results[0].keys() == results[1].keys()
    for name in results[0]:
        for part in ("weights", "terms"):
            if results[0][name] and part in results[0][name] and name != "norms":
                assert same_weights(results[0][name][part], results[1][name][part])


def test_two_processes_go_on_as_if_they_had_not_been_stopped(results):
    assert same_weights(results[0]["resumed"]["weights"], results[0]["pairs"]["weights"])


def test_one_process_goes_on_with_what_two_have_begun(folder, results):
    model = learning_model()
    history = run(model, images(), checkpoint=folder / "run.safetensors", **OPTIONS | {"steps": 25})
    assert history.steps == 25
    expected = learning_model()
    run(expected, images(), **OPTIONS | {"steps": 25})
    assert_close(model.state_dict(), expected.state_dict(), 1e-4)


def test_files_are_written_by_one_process_and_the_other_waits_for_it(folder, results):
    assert [results[rank]["slow"] for rank in (0, 1)] == [{"writes": 3, "done": 2}, {"writes": 0, "done": 2}]
    assert sorted(file.name for file in folder.glob("*run*")) == [".run.safetensors.lock", "run.safetensors"]


def test_frozen_parts_accumulated_batches_and_clipping(results):
    expected = new_model()
    expected.decoder.requires_grad_(False)
    run(expected, images(), accumulate=2, clip_norm=1.0, **OPTIONS)
    assert_close(results[0]["frozen"]["weights"], expected.state_dict(), 1e-4)


def test_a_loader_is_shared(results):
    expected = new_model()
    run(expected, iter(images().split(100)), steps=4)
    assert_close(results[0]["loader"]["weights"], expected.state_dict(), 1e-4)


def test_batch_norms_and_dropout_train(results):
    assert all(tensor.isfinite().all() for tensor in results[0]["norms"]["weights"].values())
    parameters = dict(own_model().named_parameters())
    assert all(torch.equal(results[0]["norms"]["weights"][n], results[1]["norms"]["weights"][n]) for n in parameters)


def test_what_cannot_be_shared_evenly_is_refused(results):
    errors = {name for name, value in results[0].items() if value is None}
    assert errors == {
        "batch_size must be a multiple of devices=2, got 127",
        "devices must be the 2 processes that train together, got 1",
        "2 processes must share a batch evenly, got 5 images",
    }


def test_one_process_has_everything_and_draws_all_of_its_noise():
    posterior = Posterior(torch.zeros(4, 2), torch.zeros(4, 2, 3), torch.ones(4, 2, 3))
    assert distributed.world_size() == 1
    assert distributed.rank() == 0
    assert distributed.own_rows(7) == slice(0, 7)
    assert distributed.whole_batch(posterior) is posterior
    noise = distributed.noise_like(posterior.loc, torch.Generator().manual_seed(0))
    assert torch.equal(noise, torch.randn(4, 2, 3, generator=torch.Generator().manual_seed(0)))
