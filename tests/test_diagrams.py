"""Schematics draw on the axis they are given, and say what they should."""

import numpy as np
import pytest
from matplotlib.patches import Ellipse
from scipy.optimize import linear_sum_assignment

from gmlvm.plots import PALETTE
from gmlvm_book import diagrams


def words(ax):
    return {text.get_text() for text in ax.texts}


def test_the_graphical_model_names_variables_and_parameters(ax):
    assert diagrams.graphical_model(ax) is ax
    assert {"$k$", "$z$", "$x$", "$p_D$", "$m_k, s_k$", "$G$", "for each image"} <= words(ax)


def test_the_decoder_has_one_arrow_in(ax):
    assert diagrams.who_feeds_what(ax) is ax
    assert {"$q_D$", "$q_C$", "$G$", "$k$", "$z$"} <= words(ax)
    place = {text.get_text(): text.get_position() for text in ax.texts}
    ends = [text.xy for text in ax.texts if hasattr(text, "arrow_patch") and text.arrow_patch]

    def arrows_into(name, reach=0.9):
        return sum(bool(np.hypot(*np.subtract(end, place[name])) < reach) for end in ends)

    assert arrows_into("$G$") == 1  # from z
    assert arrows_into("$q_C$") == 2  # from the image and from k
    assert arrows_into("$q_D$") == 1
    assert any("sees $z$ alone" in word for word in words(ax))


def test_a_penalty_on_pairs_compares_a_component_at_a_time(ax):
    assert diagrams.compared_by_penalty(ax, "pairs") is ax
    assert {"$k=0$", "$k=1$", "$k=2$"} <= words(ax)
    drawn = [(line.get_color(), len(line.get_xdata())) for line in ax.lines]
    # Encoded images all in component 0; the prior's draws in each alike.
    assert drawn == [(color, count) for color, first in zip(PALETTE, (42, 0, 0), strict=False) for count in (first, 14)]


def test_a_penalty_on_codes_compares_two_clouds_without_components(ax):
    diagrams.compared_by_penalty(ax, "codes")
    assert len({line.get_color() for line in ax.lines}) == 1
    assert [len(line.get_xdata()) for line in ax.lines] == [42, 42]


def test_a_penalty_on_something_else_is_refused(ax):
    with pytest.raises(ValueError, match=r"on must be \"pairs\" or \"codes\", got 'k'"):
        diagrams.compared_by_penalty(ax, "k")


def test_a_plan_joins_each_point_to_its_partner(ax):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 6, 2))
    assert diagrams.plan(ax, x, y) is ax
    lines = [line.get_xydata() for line in ax.lines if len(line.get_xdata()) == 2]
    length = np.mean([((start - end) ** 2).sum() for start, end in lines])
    squared = ((x[:, None] - y) ** 2).sum(-1)
    assert len(lines) == 6
    assert length == pytest.approx(squared[linear_sum_assignment(squared)].mean())


def test_a_divergence_sees_two_clouds_and_no_partners(ax):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 50, 2)) * [3.0, 1.0] + [[[0.0, 0.0]], [[9.0, 0.0]]]
    assert diagrams.divergence(ax, x, y) is ax
    assert [len(line.get_xdata()) for line in ax.lines] == [50, 50]
    clouds = [patch for patch in ax.patches if isinstance(patch, Ellipse)]
    assert len(clouds) == 2
    for cloud, points in zip(clouds, (x, y), strict=True):
        np.testing.assert_allclose(cloud.center, points.mean(0))
        inside = cloud.contains_points(cloud.axes.transData.transform(points))
        assert inside.mean() > 0.9
