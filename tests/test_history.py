"""The terms of every step: a mapping that shows what training did, and the check that they are finite."""

import numpy as np
import pytest
from small_runs import new_model, run

from gmlvm import VAE, History
from gmlvm.history import check_terms
from gmlvm.objectives import VAETerms

TERMS = {"loss": np.array([3.0, 2.0]), "reconstruction": np.array([2.5, 1.75])}


def test_history_holds_every_step_and_adds_up(small_data):
    history = run(new_model(), small_data, VAE(beta=3.0))
    assert history.steps == 12
    assert list(history) == list(VAETerms._fields)
    assert dict(history) == history.terms
    total = history["reconstruction"] + 3 * (history["kl_z"] + history["kl_k"])
    np.testing.assert_allclose(history["loss"], total, rtol=1e-5)
    assert history.seconds > 0
    assert "12 steps on cpu" in repr(history)


def test_a_history_is_a_mapping_from_names_to_values():
    history = History(TERMS, 1.0, "cpu")
    assert dict(history) == TERMS
    assert (list(history), len(history), history.steps) == (["loss", "reconstruction"], 2, 2)
    assert history["loss"] is TERMS["loss"]
    assert "kl_z" not in history
    with pytest.raises(KeyError):
        history["kl_z"]


def test_a_history_of_no_steps_is_empty():
    assert History({}, 0.0, "cpu").steps == History({"loss": np.array([])}, 0.0, "cpu").steps == 0
    assert "0 steps on cpu" in repr(History({"loss": np.array([])}, 0.0, "cpu"))


def test_a_history_says_how_long_where_how_it_ended_and_why():
    text = repr(History(TERMS, 61.4, "cuda:1", stopped="good enough"))
    assert text == ("History(2 steps on cuda:1 in 61 s, stopped: good enough;\n  last: loss=2, reconstruction=1.75)")
    assert "stopped" not in repr(History(TERMS, 61.4, "cpu"))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [[1.0, 1.0], [np.nan, np.nan], [np.inf, 1.0]],
            r"divergence is not finite at step 8 \(loss = nan, divergence = nan\)",
        ),
        ([[1.0, 1.0], [1.0, 1.0], [-np.inf, 1.0]], r"loss is not finite at step 9 \(loss = -inf\)"),
        ([[1.0, np.inf], [np.nan, 1.0], [1.0, 1.0]], r"divergence is not finite at step 7 \(divergence = inf\)"),
    ],
    ids=["term and loss", "loss alone", "term alone"],
)
def test_the_first_step_that_is_not_finite_is_named_with_the_term(rows, message):
    with pytest.raises(FloatingPointError, match=message):
        check_terms(np.array(rows), 7, ("loss", "divergence"))


@pytest.mark.parametrize(
    "rows", [np.zeros((3, 2)), np.zeros((0, 2)), np.full((1, 2), 1e300)], ids=["zero", "none", "large"]
)
def test_what_is_finite_passes(rows):
    check_terms(rows, 1, ("loss", "divergence"))
