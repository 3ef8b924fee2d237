"""Sources of batches: independent draws from what is in memory, and loaders that can be taken up again."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_runs import SHAPE, Error, new_model, own_model, run, same_weights
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from gmlvm import WAE, Run, datasets
from gmlvm.batches import Batch, Batches, LoaderBatches, TensorBatches, as_batches

CPU = torch.device("cpu")


def numbered(count):
    """Images each of which has its number in every pixel."""
    return torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(count, *SHAPE)


def numbers(batch):
    return batch.images[:, 0, 0, 0].tolist()


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def draw(batches, count, g=None):
    g = g or generator()
    return [numbers(batches.draw(g)) for _ in range(count)]


# Images in memory


def test_batches_are_drawn_evenly_from_the_whole_training_split_alone():
    data = datasets.from_arrays(numbered(40), test_images=numbered(40) + 100)
    counts = np.bincount(np.concatenate(draw(as_batches(data, 16, CPU), 500)), minlength=40)
    assert counts.shape == (40,)
    # 8000 draws: each image about 200 times, with a standard deviation of 14.
    assert 130 < counts.min() <= counts.max() < 270


def test_batches_are_drawn_with_replacement_and_each_by_itself():
    batches = draw(TensorBatches(numbered(40), 40), 200)
    # Of 40 images drawn from 40 with replacement (1 - 1/40)^40, 36 %, stay out: 14.5, with a standard deviation of 1.9.
    missing = [40 - len(set(batch)) for batch in batches]
    assert np.mean(missing) == pytest.approx(14.5, abs=5 * 1.9 / 200**0.5)
    # An epoch's order would make a second batch the complement of a first one; these are independent.
    first, second = (
        np.array([set(b) for b in draw(TensorBatches(numbered(40), 20, CPU), 400)[part::2]]) for part in (0, 1)
    )
    shared = [len(a & b) for a, b in zip(first, second, strict=True)]
    expected = 40 * (1 - (39 / 40) ** 20) ** 2  # 6.3
    assert np.mean(shared) == pytest.approx(expected, abs=5 * 2 / 200**0.5)


def test_indices_are_the_places_of_the_images():
    batch = TensorBatches(numbered(40), 16).draw(generator())
    assert batch.indices.tolist() == numbers(batch)


def test_every_kind_of_images_is_taken_whole():
    images = numbered(20)
    expected = draw(TensorBatches(images, 8), 3)
    array = images.numpy()
    kinds = [
        images, array, list(images), list(array), [Image.fromarray(image[0]) for image in array],
        images.float() / 255, array / 255, datasets.from_arrays(images), datasets.from_arrays(images).train,
    ]  # fmt: skip
    for kind in kinds:
        assert draw(as_batches(kind, 8, CPU), 3) == expected


@pytest.mark.parametrize("count", [100, 128, 400])
def test_a_batch_is_128_images_or_all_there_are(count):
    assert TensorBatches(torch.zeros(count, *SHAPE, dtype=torch.uint8)).batch_size == min(count, 128)


@pytest.mark.parametrize(
    ("size", "message"), [(0, "at least 2, got 0"), (1, "at least 2"), (41, "at most the 40 training")]
)
def test_batch_sizes_out_of_range(size, message):
    with pytest.raises(ValueError, match=message):
        TensorBatches(numbered(40), size)


def test_one_pixel_or_another_shape_makes_other_data():
    images = numbered(40).clone()
    described = TensorBatches(images.clone()).describe()
    assert TensorBatches(images.clone()).describe() == described
    assert TensorBatches(images.view(40, 1, 5, 6)).describe() != described
    images[39, 0, 5, 4] += 1
    assert TensorBatches(images).describe() != described


@pytest.mark.skipif(sys.platform != "linux", reason="the limit of the address space that a process may write to")
def test_memory_mapped_images_are_not_copied_not_even_for_their_digest(tmp_path):
    import resource

    count, pixels = 200_000, (1, 32, 32)  # 200 MB, of which the file system stores nothing
    path = tmp_path / "images.npy"
    np.lib.format.open_memmap(path, "w+", np.uint8, (count, *pixels)).flush()
    images = np.load(path, mmap_mode="r")
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines())
    before = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (int(status["VmData"].split()[0]) * 1024 + 100_000_000, before[1]))
    try:
        batches = as_batches(images, 16, CPU)
        assert batches.describe()["digest"]
        assert batches.draw(generator()).images.shape == (16, *pixels)
        with pytest.raises((RuntimeError, MemoryError)):
            batches.images.clone()  # what the limit forbids
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def test_a_digest_is_taken_for_a_checkpoint_alone(small_data, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(TensorBatches, "describe", lambda self: calls.append(self) or {})
    run(new_model(), small_data)
    assert calls == []
    run(new_model(), small_data, checkpoint=tmp_path / "run")
    assert len(calls) == 1


# Loaders


class Stream(IterableDataset):
    """Data of which nobody knows how much there is."""

    def __init__(self, images):
        self.images = images

    def __iter__(self):
        return iter(self.images)


def sources(images):
    """What gives the images in batches of 8, in their order, again and again."""
    return {
        "loader": DataLoader(TensorDataset(images, torch.zeros(len(images))), batch_size=8),
        "stream": DataLoader(Stream(images), batch_size=8),
        "list of pairs": Restartable([(part, "labels") for part in images.split(8)]),
        "arrays": Restartable([part.numpy() for part in images.split(8)]),
        "arrays of grey": Restartable([part[:, 0].numpy() for part in images.split(8)]),
        "floats": Restartable([part.float() / 255 for part in images.split(8)]),
    }


class Restartable:
    """An iterable with nothing else."""

    def __init__(self, items):
        self.items = items

    def __iter__(self):
        return iter(self.items)


def first_batch(item):
    return as_batches(iter([item]), None, CPU).draw(generator()).images


@pytest.mark.parametrize("shape", [(1, 6, 5), (2, 6, 5), (3, 6, 5), (4, 6, 5), (1, 6, 1), (3, 6, 3)], ids=str)
def test_arrays_of_a_loader_are_what_its_tensors_would_be(shape):
    images = torch.randint(256, (8, *shape), generator=generator(), dtype=torch.uint8)
    assert torch.equal(first_batch(images.numpy()), images)
    assert torch.equal(first_batch(images), images)


@pytest.mark.parametrize("channels", [1, 3])
def test_arrays_of_a_loader_may_have_their_channels_last(channels):
    images = torch.randint(256, (8, channels, 6, 5), generator=generator(), dtype=torch.uint8)
    assert torch.equal(first_batch(images.numpy().transpose(0, 2, 3, 1)), images)


@pytest.mark.parametrize("kind", sources(numbered(8)))
def test_a_loader_is_begun_again_whenever_it_ends(kind):
    batches = as_batches(sources(numbered(24))[kind], None, CPU)
    drawn = [batches.draw(generator()).images for _ in range(7)]
    values = [(images * (255 if images.is_floating_point() else 1)).round()[:, 0, 0, 0].tolist() for images in drawn]
    assert values == [list(range(start, start + 8)) for start in (0, 8, 16, 0, 8, 16, 0)]
    assert all(images.shape == (8, *SHAPE) for images in drawn)


def test_a_generator_ends_the_training(small_data):
    images = small_data.train.images
    history = run(new_model(), iter(images.split(16)), steps=None)
    assert history.steps == 25
    assert history.stopped == "the data came to an end"
    assert run(new_model(), iter(images.split(16)), steps=5).steps == 5
    assert run(new_model(), iter(images.split(16)), steps=50).steps == 25


def test_a_loader_trains_as_its_images_do(small_data):
    images = small_data.train.images[:64]
    by_loader, by_generator = new_model(), new_model()
    run(by_loader, DataLoader(TensorDataset(images), batch_size=16), Error())
    run(by_generator, (batch for _ in range(3) for batch in images.split(16)), Error())
    assert same_weights(by_loader, by_generator)


def test_shuffling_is_seeded_by_the_run(small_data):
    loader = DataLoader(TensorDataset(small_data.train.images), batch_size=16, shuffle=True)
    models = [new_model() for _ in range(3)]
    for model, seed in zip(models, (0, 0, 1), strict=True):
        torch.manual_seed(torch.randint(100, ()))
        run(model, loader, Error(), seed=seed)
    assert same_weights(models[0], models[1])
    assert not same_weights(models[0], models[2])


class Noisy(torch.utils.data.Dataset):
    """Augmentation by torch's global generator."""

    def __init__(self, images):
        self.images = images.float() / 255

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index] * torch.rand(()), 0


def loaders(images):
    """Loaders that shuffle, by the global generator or their own, and one that augments as well."""
    return {
        "in order": lambda: DataLoader(TensorDataset(images), batch_size=16),
        "shuffled": lambda: DataLoader(TensorDataset(images), batch_size=16, shuffle=True),
        "own generator": lambda: DataLoader(TensorDataset(images), batch_size=16, shuffle=True, generator=generator(3)),
        "augmented": lambda: DataLoader(Noisy(images), batch_size=16, shuffle=True, drop_last=True),
        "one shot": lambda: (batch for _ in range(10) for batch in images.split(16)),
    }


@pytest.mark.parametrize("stop_at", [1, 4, 5, 7], ids="{} steps".format)
@pytest.mark.parametrize("kind", loaders(None))
def test_a_run_on_a_loader_goes_on_as_if_it_had_not_been_stopped(small_data, tmp_path, kind, stop_at):
    new = loaders(small_data.train.images[:64])[kind]  # four batches in an epoch
    whole, parts, resumed = own_model(), own_model(), own_model(5)
    expected = run(whole, new())
    path = tmp_path / "run.safetensors"
    run(parts, new(), callbacks={stop_at: lambda run: run.stop("interrupted")}, checkpoint=path)
    history = run(resumed, new(), checkpoint=path)
    assert same_weights(whole, resumed)
    np.testing.assert_array_equal(history["loss"], expected["loss"])


@pytest.mark.parametrize("count", [0, 16])
def test_data_that_hold_less_than_was_taken_are_refused_and_nothing_is_changed(small_data, tmp_path, count):
    path = tmp_path / "run.safetensors"
    run(new_model(), iter(small_data.train.images.split(16)), steps=5, checkpoint=path)
    model = new_model(5)
    with pytest.raises(ValueError, match=f"must hold the 5 batches that were taken already, got {count // 16}"):
        run(model, iter(small_data.train.images[:count].split(16)) if count else iter(()), steps=5, checkpoint=path)
    assert same_weights(model, new_model(5))


@pytest.mark.parametrize(
    ("loader", "error", "message"),
    [
        (iter(()), ValueError, "the data hold no batch"),
        (Restartable([]), ValueError, "the data hold no batch"),
        (iter([{"image": 0}]), TypeError, "tuples that begin with images, got dict"),
        (iter([[]]), TypeError, "got list"),
        (iter([[[0.0]]]), TypeError, "got list"),
        (iter([numbered(1)]), ValueError, "at least 2 images, got 1; does the loader leave out an incomplete last one"),
        (iter([torch.zeros(4, 6, 5)]), ValueError, r"x must have shape .*got \(4, 6, 5\)"),
        (iter([torch.full((4, *SHAPE), 255.0)]), ValueError, r"must lie in \[0, 1\]"),
    ],
    ids=["empty", "empty again", "dict", "nothing", "nested", "one image", "no channels", "range"],
)
def test_what_a_loader_must_not_give(loader, error, message):
    model = new_model()
    with pytest.raises(error, match=message):
        run(model, loader, WAE(1.0))
    assert same_weights(model, new_model())


def test_a_file_that_is_cut_short_is_no_end_of_the_data():
    def cut_short():
        yield numbered(8)
        raise EOFError("Compressed file ended before the end-of-stream marker was reached")

    with pytest.raises(RuntimeError, match="the data failed after 1 batches: Compressed file ended"):
        run(new_model(), cut_short())


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (5, TypeError, "data must be ImageData, images, or a loader of images, got int"),
        ("mnist", TypeError, "got str"),
        ({"images": numbered(4)}, TypeError, "got dict"),
        (np.full((4, 6, 5), 255.0), ValueError, r"data must lie in \[0, 1\]"),
    ],
    ids=["number", "text", "dict", "range"],
)
def test_what_is_no_data(data, error, message):
    with pytest.raises(error, match=message):
        as_batches(data, None, CPU)


def test_what_comes_in_batches_has_a_batch_size_of_its_own():
    with pytest.raises(ValueError, match="a batch size of their own, got batch_size=8"):
        as_batches(iter([numbered(8)]), 8, CPU)


def test_steps_are_needed_unless_the_data_end():
    for data in (numbered(8), DataLoader(TensorDataset(numbered(8)), batch_size=4)):
        with pytest.raises(ValueError, match="steps must be given: the data never come to an end"):
            run(new_model(), data, steps=None, batch_size=None)


# Sources of one's own


class InTurn(Batches):
    """Every image in its turn."""

    def __init__(self, images, batch_size):
        self.images, self.batch_size, self.next = images, batch_size, 0

    def draw(self, generator):
        index = torch.arange(self.next, self.next + self.batch_size) % len(self.images)
        self.next += self.batch_size
        return Batch(self.images[index], index)

    def describe(self):
        return {"in turn": len(self.images)}

    def state(self):
        return {"next": torch.tensor(self.next)}

    def restore(self, state):
        self.next = int(state["next"])


def test_a_source_of_ones_own_can_be_left_and_taken_up_again(small_data, tmp_path):
    images, path = small_data.train.images, tmp_path / "run.safetensors"
    whole, resumed = new_model(), new_model(5)
    run(whole, InTurn(images, 24), Error())
    run(new_model(), InTurn(images, 24), Error(), steps=7, checkpoint=path)
    run(resumed, InTurn(images, 24), Error(), checkpoint=path)
    assert same_weights(whole, resumed)


def test_an_objective_sees_the_indices(small_data):
    seen = []

    class Indexed(Error):  # noqa: N818 (squared error, no exception)
        def terms(self, model, batch, generator):
            seen.append(batch)
            return super().terms(model, batch, generator)

    Run(new_model(), Indexed(), small_data, device="cpu").step()
    assert torch.equal(seen[0].images, small_data.train.images[seen[0].indices])
    assert LoaderBatches([numbered(8)]).draw(generator()).indices is None
