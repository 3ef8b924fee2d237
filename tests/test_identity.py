"""What makes two pieces of work the same: nothing that could change what is computed may be left out."""

import enum
import math
import subprocess
import sys
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from gmlvm import MMD, VAE, WAE, GaussianMixturePrior
from gmlvm.enumeration import TopM, Truncated
from gmlvm.identity import FROZEN, describe, differences, digest, name_of, structure

# Digests


def test_a_digest_is_that_of_the_values_and_not_of_where_they_are():
    values = torch.arange(24.0).view(2, 3, 4)
    assert digest(values) == digest(values.clone())
    assert digest(values) == digest(values.transpose(0, 2).contiguous().transpose(0, 2))
    assert digest(values) == digest(torch.arange(48.0).view(2, 2, 3, 4)[0])
    assert len(digest(values)) == 16
    assert int(digest(values), 16) >= 0


def test_any_value_shape_and_dtype_makes_another_digest():
    values = torch.zeros(2, 3)
    others = [
        values, values.view(3, 2), values.view(6), values.double(), values.int(), values.bfloat16(), values.half(),
        -values, torch.zeros(2, 4), torch.zeros(0, 3), torch.zeros(3, 0), torch.tensor(0.0), values.bool(),
        values + torch.nan, values.index_fill(1, torch.tensor([2]), 1e-45), torch.zeros(2, 3, dtype=torch.complex64),
    ]  # fmt: skip
    assert len({digest(other) for other in others}) == len(others)
    assert digest(values, values) != digest(values)
    assert digest(b"a", values) != digest(values, b"a")


def test_a_digest_tells_where_one_part_ends_and_the_next_begins():
    values = torch.arange(3, dtype=torch.uint8)
    others = [
        (b"abc",), (b"ab", b"c"), (b"a", b"bc"), (b"abc", b""), (b"", b"abc"), (), (b"",), (b"", b""),
        (b"a", b"b"), (b"abytesb",), (b"abytes 1 b",), (values,), (b"\0\1\2",), (b"torch.uint8(3,)\0\1\2",),
        (b"torch.uint8(3,)", b"\0\1\2"), (b"torch.uint8(3,) 3 \0\1\2",), (values[:2], values[2:]),
        (values[:1], values[1:]),
    ]  # fmt: skip
    assert len({digest(*parts) for parts in others}) == len(others)


# Modules


class Own(nn.Module):
    """A part of a reader's own."""

    power = 2

    def __init__(self, slope=0.1, sizes=(1, 2)):
        super().__init__()
        self.slope, self.sizes = slope, list(sizes)
        self.names = {"a": 1}
        self.unit = np.float64(0.5)
        self._cache = object()

    @property
    def derived(self):
        raise AssertionError("nothing is computed")


class Child(Own):
    power = 3


def elsewhere(module):
    """An instance of a class of the same name and settings in another module."""
    cls = type(module)
    return type(cls.__name__, (cls,), {"__module__": "parts", "__qualname__": cls.__qualname__})()


class LinearWithScale(nn.Linear):
    def __init__(self, scale):
        super().__init__(2, 3)
        self.scale = scale


class Holder(nn.Module):
    """Holds anything."""

    def __init__(self, value):
        super().__init__()
        self.value = value


@dataclass
class Setting:
    rate: float


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


def changed(module, **values):
    for name, value in values.items():
        setattr(module, name, value)
    return module


def frozen(module):
    return module.requires_grad_(False)


#: Pairs that compute with something else.
PAIRS = {
    "activation": (nn.ReLU(), nn.Tanh()),
    "slope": (nn.LeakyReLU(0.1), nn.LeakyReLU(0.2)),
    "dropout": (nn.Dropout(0.1), nn.Dropout(0.2)),
    "norm": (nn.BatchNorm1d(3), nn.BatchNorm1d(3, momentum=0.2)),
    "padding": (nn.Conv2d(1, 1, 3, padding=1), nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular")),
    "heads, which torch does not print": (nn.MultiheadAttention(8, 2), nn.MultiheadAttention(8, 4)),
    "norm first": (nn.TransformerEncoderLayer(8, 2), nn.TransformerEncoderLayer(8, 2, norm_first=True)),
    "activation function": (nn.TransformerEncoderLayer(8, 2), nn.TransformerEncoderLayer(8, 2, activation="gelu")),
    "parametrisation": (nn.Linear(2, 3), nn.utils.parametrizations.weight_norm(nn.Linear(2, 3))),
    "order": (nn.Sequential(nn.ReLU(), nn.Tanh()), nn.Sequential(nn.Tanh(), nn.ReLU())),
    "inner part": (nn.Sequential(nn.Sequential(nn.ReLU())), nn.Sequential(nn.Sequential(nn.ELU()))),
    "size": (nn.Linear(2, 3), nn.Linear(3, 2)),
    "bias": (nn.Linear(2, 3), nn.Linear(2, 3, bias=False)),
    "dtype": (nn.Linear(2, 3), nn.Linear(2, 3).double()),
    "frozen": (nn.Linear(2, 3), frozen(nn.Linear(2, 3))),
    "own setting": (Own(0.1), Own(0.2)),
    "own list": (Own(sizes=(1, 2)), Own(sizes=(1, 3))),
    "own dictionary": (Own(), changed(Own(), names={"a": 2})),
    "own NumPy scalar": (Own(), changed(Own(), unit=np.float64(0.6))),
    "subclass": (Own(), Child()),
    "a class of the same name in another module": (Own(), elsewhere(Own())),
    "a class named as one of torch's": (nn.ReLU(), elsewhere(nn.ReLU())),
    "attribute of a class": (Own(), changed(Own(), power=5)),
    "attribute of a subclass of torch's": (LinearWithScale(1.0), LinearWithScale(2.0)),
    "new attribute": (Own(), changed(Own(), extra=None)),
    "data class": (Holder(Setting(0.1)), Holder(Setting(0.2))),
    "enumeration": (Holder(Colour.RED), Holder(Colour.BLUE)),
    "tensor": (Holder(torch.zeros(3)), Holder(torch.ones(3))),
    "array": (Holder(np.zeros(3)), Holder(np.ones(3))),
    "array of the same bytes": (Holder(np.zeros((2, 3))), Holder(np.zeros((3, 2)))),
    "set": (Holder({1, 2}), Holder({1, 3})),
    "type": (Holder(int), Holder(float)),
    "function": (Holder(torch.sin), Holder(torch.cos)),
    "NumPy's function": (Holder(np.mean), Holder(np.sum)),
    "number and text": (Holder(1), Holder("1")),
    "whole number and float": (Holder(1), Holder(1.0)),
    "partial": (Holder(partial(pow, 2)), Holder(partial(pow, 3))),
    "method": (Holder("a".upper), Holder("a".lower)),
    "beta": (VAE(1.0), VAE(2.0)),
    "enumerated terms": (VAE(enumeration=TopM(1)), VAE(enumeration=TopM(2))),
    "tolerance": (VAE(enumeration=Truncated(1e-4)), VAE(enumeration=Truncated(1e-3))),
    "penalty": (WAE(1.0), WAE(1.0, MMD("codes"))),
    "bandwidths": (WAE(1.0, MMD(bandwidths=(1.0,))), WAE(1.0, MMD(bandwidths=(2.0,)))),
    "what a prior learns": (
        GaussianMixturePrior(torch.zeros(2, 2), learn=("loc",)),
        GaussianMixturePrior(torch.zeros(2, 2), learn=("scale",)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("pair", PAIRS)
def test_modules_that_compute_with_something_else_differ(pair):
    a, b = PAIRS[pair]
    assert differences(structure(a), structure(b))
    assert not differences(structure(a), structure(a))


def test_weights_and_modes_make_no_difference():
    a, b = (nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), Own(), nn.Dropout()) for _ in range(2))
    assert not torch.equal(a[0].weight, b[0].weight)
    a[1](torch.rand(5, 3))  # its running means move
    assert structure(a.eval()) == structure(b.train())


def test_tied_parts_are_named_at_each_of_their_places():
    linear = nn.Linear(2, 2)
    tied, apart = (
        nn.Sequential(linear, nn.Sequential(linear)),
        nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2))),
    )
    assert "1.0.weight" in structure(tied)
    assert structure(tied)["1.0.weight"] == structure(apart)["1.0.weight"] == "(2, 2) float32"


def test_what_is_frozen_ends_so():
    lines = structure(frozen(nn.Linear(2, 3)))
    assert lines["weight"] == "(3, 2) float32" + FROZEN


# In each process at another place in memory, and with another order of sets of texts.
DESCRIBE = """
import numpy as np
import torch
from torch import nn
from gmlvm import MMD, WAE
from gmlvm.identity import structure

class Config: pass

class Holder(nn.Module):
    def __init__(self):
        super().__init__()
        self.config, self.function, self.names = Config(), lambda x: x, {"a", "b", "c", "d", "e"}
        self.objects = [Config(), {"inner": Config()}, torch.Generator(), np.array([Config(), None])]
    def extra_repr(self):
        return f"config={self.config}"

text = str(structure(nn.ModuleList([Holder(), WAE(1.0, MMD(kernel=lambda d: -d))])))
"""


def test_a_description_is_the_same_in_every_process():
    here = {"__name__": "__main__"}
    exec(DESCRIBE, here)
    there = subprocess.run(
        [sys.executable, "-c", f"{DESCRIBE}\nprint(text)"], capture_output=True, text=True, check=True
    )
    assert there.stdout == here["text"] + "\n"


# Values


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "None"), (True, "True"), (0.1, "0.1"), ("a", "'a'"), (b"a", "b'a'"), (np.float32(0.5), "0.5"),
        (np.int8(3), "3"), (np.bool_(True), "True"), (torch.float32, "torch.float32"), (Colour.RED, "<Colour.RED: 1>"),
        (torch.device("cpu"), "device(type='cpu')"), ((1, (2, 3)), "[1, [2, 3]]"), ({2, 1}, "{1, 2}"),
        ({"a": [1]}, "{'a': [1]}"), (Setting(0.1), "test_identity.Setting(rate=0.1)"), (torch.Size([2, 3]), "[2, 3]"),
        (partial(pow, 2, mod=3), "pow with [2], {'mod': 3}"), (Own, "test_identity.Own"), (nn.ReLU(), "ReLU"),
        (nn.functional.relu, "relu"), (WAE, "WAE"), (math.exp, "math.exp"), (np.mean, "numpy.mean"),
        ("a".upper, "str.upper"), (np.array([None, "a"]), "[None, 'a']"), (range(3), "range(0, 3)"),
    ],
    ids=lambda value: str(value).partition(" at 0x")[0],  # an address differs from run to run
)  # fmt: skip
def test_values_are_described_by_what_they_hold(value, text):
    assert describe(value) == text


@pytest.mark.parametrize("module", ["__main__", "__mp_main__"])
def test_what_a_script_or_notebook_defines_has_one_name_in_all_of_its_processes(module):
    own = type("Encoder", (nn.Module,), {"__module__": module})
    assert name_of(own) == "__main__.Encoder"
    assert structure(own())[""] == "__main__.Encoder()"


# Differences


def test_what_differs_is_named_with_both_values():
    there = {"a": 1, "b": {"c": 1.0, "d": None}, "e": "x"}
    here = {"a": 1, "b": {"c": 2.0, "d": None}, "f": [1]}
    assert differences(there, here) == "b c: 1.0 there, 2.0 here; e: x there, nothing here; f: nothing there, [1] here"
    assert differences(there, there) == ""
    assert differences({}, {}) == ""


def test_what_stands_for_a_mapping_and_is_none_differs():
    assert differences({"a": {"b": 1}}, {"a": None}) == "a: {'b': 1} there, nothing here"
    assert differences({"a": [1]}, {"a": {"b": 1}}) == "a: [1] there, {'b': 1} here"


def test_many_differences_are_counted():
    text = differences(dict.fromkeys("abcde", 1), dict.fromkeys("abcde", 2))
    assert text == "a: 1 there, 2 here; b: 1 there, 2 here; c: 1 there, 2 here; and 2 more"


def test_nothing_and_none_are_not_the_same_as_something():
    assert differences({"a": None}, {"a": 0}) == "a: nothing there, 0 here"
    assert differences({"a": 0}, {}) == "a: 0 there, nothing here"
