"""How nbval compares, wherever in the repository it is called."""

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Give nbval the places that numbers are compared to, unless the call has others."""
    if config.option.nbval_sanitize_with is None:
        config.option.nbval_sanitize_with = str(config.rootpath / "tests" / "nbval.cfg")
