"""Numbers of a chapter's run, put into its text."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any


def glue(name: str, value: Any, display: bool = False) -> None:
    """Give a value of this run a name, by which the text of the book shows it.

    Where the book isn't built, as on Colab, there is no such text, and nothing happens.

    Args:
        name: Its name, for the role ``glue:text``.
        value: The value.
        display: Whether the cell shows it as well.
    """
    if find_spec("myst_nb"):
        from myst_nb import glue as put

        put(name, value, display=display)
