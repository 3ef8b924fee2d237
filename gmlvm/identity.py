"""What makes two pieces of work the same: digests of values, descriptions of modules, and what differs between two."""

from __future__ import annotations

import enum
import hashlib
import re
from collections.abc import Iterator, Mapping
from functools import partial
from types import FunctionType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

#: How the description of a parameter that is not trained ends.
FROZEN = ", frozen"
# Where an object is in memory, as Python prints it: in each process elsewhere.
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
# Differences that a message names; more would hide them.
_NAMED = 3
# Whose names are known without their module, which may be another one in the next version.
_KNOWN = ("torch", "gmlvm", "builtins")


def digest(*parts: bytes | Tensor) -> str:
    """A few hexadecimal digits that differ if any value, shape or dtype does, or the place where a part ends.

    Args:
        parts: Bytes, or tensors of any shape, dtype and device; those on the CPU are not copied.

    Returns:
        Sixteen hexadecimal digits, 64 bits of a SHA-256 sum.

    Example:
        >>> digest(b"a") == digest(b"a"), digest(torch.zeros(2)) == digest(torch.zeros(1, 2))
        (True, False)
        >>> digest(b"ab", b"c") == digest(b"a", b"bc")
        False
    """
    content = hashlib.sha256()
    for part in parts:
        if isinstance(part, Tensor):
            kind = f"{part.dtype}{tuple(part.shape)}"
            # As bytes, since NumPy doesn't know every dtype of torch.
            values = part.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data
        else:
            kind, values = "bytes", memoryview(part)
        content.update(f"{kind} {values.nbytes} ".encode())
        content.update(values)
    return content.hexdigest()[:16]


def structure(module: nn.Module) -> dict[str, str]:
    """What a module computes with, apart from the values of its weights: an entry for each part and each tensor.

    A part is described by its class and what it prints of itself; and, unless it is one of torch's that prints
    something, by the plain values that it holds. A tensor is described by its shape and dtype, and whether it is
    frozen. Code is not looked at.

    Args:
        module: The module.

    Returns:
        Descriptions by the names of :meth:`torch.nn.Module.named_modules` and of the state.

    Example:
        >>> structure(nn.Sequential(nn.ReLU()))
        {'': 'Sequential()', '0': 'ReLU(inplace=False)'}
    """
    lines = {}
    for name, part in module.named_modules():
        printed = _ADDRESS.sub("", part.extra_repr())
        settings = [printed, *(f"{key}={text}" for key, text in _settings(part).items())]
        lines[name] = f"{name_of(type(part))}({', '.join(filter(None, settings))})"
    parameters = dict(module.named_parameters(remove_duplicate=False))
    for name, text in shapes(parameters).items():
        lines[name] = text + ("" if parameters[name].requires_grad else FROZEN)
    return lines | shapes(dict(module.named_buffers(remove_duplicate=False)))


def name_of(value: Any) -> str:
    """The name of a class or function; with its module, unless it is torch's or this package's.

    What a script or notebook defines is in ``__main__`` whenever it runs, in the processes that it starts as well.

    Args:
        value: A class or function.

    Example:
        >>> name_of(nn.Linear), name_of(np.mean)
        ('Linear', 'numpy.mean')
    """
    module = getattr(value, "__module__", None) or "builtins"
    if module.partition(".")[0] in _KNOWN:
        return str(value.__qualname__)
    return f"{'__main__' if module == '__mp_main__' else module}.{value.__qualname__}"


def shapes(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Shape and dtype of each tensor.

    Args:
        tensors: Tensors by name.

    Example:
        >>> shapes({"loc": torch.zeros(10, 9)})
        {'loc': '(10, 9) float32'}
    """
    return {name: f"{tuple(t.shape)} {str(t.dtype).removeprefix('torch.')}" for name, t in tensors.items()}


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """Name what differs between two descriptions.

    Args:
        there: Entries that JSON can hold, some of them mappings again.
        here: Entries to compare with.

    Returns:
        The differing entries with both values, in words; empty if there are none.

    Example:
        >>> differences({"seed": 0, "model": {"decoder.1": "ReLU()"}}, {"seed": 0, "model": {"decoder.1": "Tanh()"}})
        'model decoder.1: ReLU() there, Tanh() here'
    """
    found = list(_differing(there, here))
    more = f"; and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return "; ".join(found[:_NAMED]) + more


def _differing(there: Mapping[str, Any], here: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name in dict.fromkeys([*there, *here]):
        a, b = there.get(name), here.get(name)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            yield from _differing(a, b, f"{prefix}{name} ")
        elif a != b:
            yield f"{prefix}{name}: {_or_missing(a)} there, {_or_missing(b)} here"


def _or_missing(value: Any) -> str:
    return "nothing" if value is None else str(value)


def _settings(part: nn.Module) -> dict[str, str]:
    """Plain values that a module, and classes of it that are not torch's, hold under public names."""
    own = [cls for cls in reversed(type(part).__mro__) if cls.__module__.partition(".")[0] not in ("torch", "builtins")]
    found: dict[str, Any] = {}
    for cls in own:
        methods = (FunctionType, property, classmethod, staticmethod)
        found |= {name: value for name, value in vars(cls).items() if not isinstance(value, methods)}
    if own or not part.extra_repr():  # most parts of torch's own print what they hold
        found |= vars(part)
    public = {name: value for name, value in found.items() if not name.startswith("_") and name != "training"}
    return {name: describe(value) for name, value in sorted(public.items())}


def describe(value: Any) -> str:
    """Say what a value is, the same in every process: never by its address.

    Args:
        value: Anything; numbers, texts, collections, tensors, arrays, functions and data classes by what they hold,
            everything else by its class.

    Example:
        >>> describe([1, 2.0, nn.functional.relu])
        '[1, 2.0, relu]'
    """
    if value is None or isinstance(
        value, (bool, int, float, complex, str, bytes, range, torch.dtype, torch.device, enum.Enum)
    ):
        return repr(value)
    if isinstance(value, np.generic):
        return repr(value.item())
    if isinstance(value, Tensor):
        return f"values {digest(value)}"
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        return f"{value.dtype} {value.shape} values {digest(np.ascontiguousarray(value).tobytes())}"
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(describe, value))}]"
    if isinstance(value, (set, frozenset)):
        return f"{{{', '.join(sorted(map(describe, value)))}}}"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{describe(key)}: {describe(item)}' for key, item in value.items())}}}"
    if isinstance(value, partial):
        return f"{describe(value.func)} with {describe(value.args)}, {describe(value.keywords)}"
    if hasattr(value, "__qualname__"):  # classes, and functions of every kind
        return name_of(value)
    if hasattr(value, "__dataclass_fields__"):
        fields = (f"{name}={describe(getattr(value, name))}" for name in value.__dataclass_fields__)
        return f"{name_of(type(value))}({', '.join(fields)})"
    return name_of(type(value))
