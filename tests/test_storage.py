"""Files of tensors and a header: whole or refused, and never half written."""

import errno
import json
import random
import sys

import pytest
import torch
from safetensors.torch import save_file
from small_runs import new_model, same_weights, state

from gmlvm import GMLVM, storage

KIND = "kind of test"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "file.safetensors"


def contents():
    """Tensors of every dtype, layout and number of axes that a file may have to hold."""
    generator = torch.Generator().manual_seed(0)
    numbers = torch.rand(3, 4, 5, 6, generator=generator)
    dtypes = {
        str(dtype).removeprefix("torch."): (10 * numbers[0, 0]).to(dtype)
        for dtype in (torch.float16, torch.bfloat16, torch.float64, torch.uint8, torch.int64, torch.bool)
    }
    layouts = {
        "channels last": numbers.to(memory_format=torch.channels_last), "transposed": numbers.mT, "view": numbers[1],
        "scalar": torch.tensor(2.5), "empty": torch.zeros(0, 4), "same memory": numbers,
        "not finite": torch.tensor([torch.nan, torch.inf, -0.0]),
    }  # fmt: skip
    return dtypes | layouts


def same_bits(a, b):
    return (a.dtype, a.shape) == (b.dtype, b.shape) and bytes(a.contiguous().view(-1).view(torch.uint8)) == bytes(
        b.contiguous().view(-1).view(torch.uint8)
    )


def test_what_is_written_is_read_bit_for_bit(path):
    tensors, header = contents(), {"text": "ä\n\"'", "list": [1, None, True], "nested": {"a": {"b": 0.1}}}
    storage.write(path, KIND, header, tensors)
    found, read = storage.read(path, KIND)
    assert found == header | {"kind": KIND}
    assert read.keys() == tensors.keys()
    assert all(same_bits(read[name], tensor) for name, tensor in tensors.items())


def test_nothing_at_all_can_be_written(path):
    storage.write(path, KIND, {}, {})
    assert storage.read(path, KIND) == ({"kind": KIND}, {})


def test_a_path_may_be_a_text_and_begin_with_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    storage.write("~/file", KIND, {}, contents())
    assert (tmp_path / "file").is_file()
    assert storage.read("~/file", KIND)[0] == {"kind": KIND}


def test_a_missing_file_or_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"no {KIND} at .*none"):
        storage.read(tmp_path / "none", KIND)
    with pytest.raises(FileNotFoundError, match=f"no {KIND} at"):
        storage.read(tmp_path, KIND)
    with pytest.raises(FileNotFoundError, match=f"no folder .*none to write the {KIND} file to"):
        storage.write(tmp_path / "none" / "file", KIND, {}, {})


def flipped(content, bit):
    content = bytearray(content)
    content[bit // 8] ^= 1 << bit % 8
    return bytes(content)


def test_every_bit_of_a_small_file_counts(path):
    storage.write(path, KIND, {"settings": {"a": [1, 2]}}, {"x": torch.arange(3.0), "y": torch.tensor(7)})
    whole = path.read_bytes()
    for bit in range(8 * len(whole)):
        path.write_bytes(flipped(whole, bit))
        with pytest.raises(ValueError, match=r"file\.safetensors"):
            storage.read(path, KIND)


def test_every_bit_of_a_model_counts(path):
    model = new_model()
    model.save(path)
    whole = path.read_bytes()
    header = 8 * (8 + int.from_bytes(whole[:8], "little"))
    rng = random.Random(0)
    bits = [
        *range(64),
        *(rng.randrange(64, header) for _ in range(200)),
        *(rng.randrange(header, 8 * len(whole)) for _ in range(200)),
    ]
    other = new_model(7)
    for bit in bits:
        path.write_bytes(flipped(whole, bit))
        for into in (None, other):
            with pytest.raises(ValueError, match=r"file\.safetensors"):
                GMLVM.load(path, into)
    assert same_weights(other, new_model(7))
    path.write_bytes(whole)
    assert same_weights(GMLVM.load(path), model)


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 200, -8, -1])
def test_a_file_that_was_cut_short_is_refused(path, length):
    storage.write(path, KIND, {}, contents())
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ValueError, match=f"is not a {KIND}, or is damaged"):
        storage.read(path, KIND)


def test_a_file_that_has_grown_is_refused(path):
    storage.write(path, KIND, {}, contents())
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(ValueError, match=f"is not a {KIND}, or is damaged"):
        storage.read(path, KIND)


def test_other_files_are_refused(path):
    for content in (b"pickle?" * 10, b"\x80\x04K\x01.", b"{}", b"PK\x03\x04" + bytes(30)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"is not a {KIND}"):
            storage.read(path, KIND)
    save_file({"x": torch.zeros(2)}, path)  # one of safetensors' own
    with pytest.raises(ValueError, match=f"must hold a {KIND}, got None"):
        storage.read(path, KIND)


@pytest.mark.parametrize("header", ["null", "[]", "3", '"text"', "{", "", "{}", '{"kind": null}', '{"kind": ["x"]}'])
def test_any_other_json_for_a_header_is_refused(path, header):
    save_file({"x": torch.zeros(2)}, path, metadata={"gmlvm": header})
    with pytest.raises(ValueError, match=KIND):
        storage.read(path, KIND)


def test_a_file_without_its_digest_is_refused(path):
    text = json.dumps({"kind": KIND})
    for metadata in (
        {"gmlvm": text, "digest": ""},
        {"gmlvm": text, "digest": "0" * 16},
        {"gmlvm": text, "dogest": "x"},
    ):
        save_file({"x": torch.zeros(2)}, path, metadata=metadata)
        with pytest.raises(ValueError, match="what it holds is not what was written"):
            storage.read(path, KIND)


def test_a_model_of_version_0_1_loads(path):
    model = new_model()
    architecture = {
        "image_shape": [1, 6, 5], "num_components": 4, "latent_dim": 3, "networks": "mlp", "hidden_dim": 12,
        "component_hidden_dim": 5,
    }  # fmt: skip
    header = {"kind": "gmlvm model", "architecture": architecture}  # as that version wrote it, without a digest
    save_file(model.state_dict(), path, metadata={"gmlvm": json.dumps(header)})
    assert same_weights(GMLVM.load(path), model)


# Whole or not at all


def written_again(path):
    storage.write(path, KIND, {"number": 2}, contents())


def assert_first_is_there(path, before):
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()], ids=str)
def test_a_write_that_fails_leaves_the_file_of_before_and_nothing_else(path, monkeypatch, step, error):
    def fail(*_):
        raise error

    storage.write(path, KIND, {"number": 1}, contents())
    before = path.read_bytes()
    monkeypatch.setattr(storage.os, step, fail)
    with pytest.raises(type(error)):
        written_again(path)
    assert_first_is_there(path, before)


@pytest.mark.skipif(sys.platform == "win32", reason="no limit of a file's size")
def test_a_disk_that_is_full_in_the_middle_of_a_write_leaves_the_file_of_before(path):
    import resource

    storage.write(path, KIND, {"number": 1}, contents())
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            written_again(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert_first_is_there(path, before)


def test_two_writers_of_one_file_do_not_meet(path, monkeypatch):
    sync, others = storage.os.fsync, iter([written_again])

    def another_writer_comes_between(descriptor):
        for other in others:
            other(path)
        sync(descriptor)

    monkeypatch.setattr(storage.os, "fsync", another_writer_comes_between)
    storage.write(path, KIND, {"number": 1}, contents())
    assert storage.read(path, KIND)[0]["number"] == 1  # the last to be ready
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_what_killed_writers_have_left_is_cleared_and_nothing_else(tmp_path, path):
    partial = [tmp_path / f".{path.name}.{digits}.partial" for digits in ("0123abcd", "89abcdef")]
    others = [
        tmp_path / name
        for name in (f".{path.name}.lock", ".other.safetensors.0123abcd.partial", f"{path.name}.partial")
    ]
    for file in (*partial, *others, path):
        file.write_bytes(b"")
    storage.remove_partial(path)
    assert not any(file.exists() for file in partial)
    assert all(file.exists() for file in (*others, path))


def test_an_odd_name_clears_no_other(tmp_path):
    """A name may hold what patterns read as "anything"."""
    for name in ("[a]", "*", "a?"):
        partial, other = tmp_path / f".{name}.0123abcd.partial", tmp_path / ".a.0123abcd.partial"
        partial.write_bytes(b"")
        other.write_bytes(b"")
        storage.remove_partial(tmp_path / name)
        assert other.exists()
        assert not partial.exists()


def test_a_write_does_not_change_the_tensors(path):
    model = new_model()
    before = state(model)
    storage.write(path, KIND, {}, model.state_dict())
    assert same_weights(model, before)
    assert [file.name for file in path.parent.iterdir()] == [path.name]
