"""Plots draw the arrays they are given, on the axis they are given."""

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest

from gmlvm import plots


@pytest.fixture
def ax():
    figure, axis = plt.subplots()
    yield axis
    plt.close(figure)


def test_image_grid_places_every_image(ax):
    images = np.random.default_rng(0).uniform(size=(2, 3, 1, 4, 5))
    assert plots.image_grid(images, ax, gap=1) is ax
    canvas = np.asarray(ax.images[0].get_array())
    assert canvas.shape == (2 * 5 - 1, 3 * 6 - 1)
    np.testing.assert_array_equal(canvas[5:9, 12:17], images[1, 2, 0])
    assert (canvas[4] == 1).all()  # the gap is white
    assert list(ax.get_xticks()) == [2, 8, 14]


def test_image_grid_in_colour(ax):
    images = np.random.default_rng(0).uniform(size=(1, 2, 3, 4, 4))
    canvas = np.asarray(plots.image_grid(images, ax, gap=0).images[0].get_array())
    np.testing.assert_array_equal(canvas[:, 4:], images[0, 1].transpose(1, 2, 0))


def test_reconstructions_stand_below_their_data(ax):
    x = np.arange(4)[:, None, None, None] * np.full((4, 1, 2, 2), 0.1)
    plots.reconstruction_grid(x, x + 0.5, columns=2, ax=ax)
    canvas = np.asarray(ax.images[0].get_array())
    np.testing.assert_allclose(canvas[::4, ::4], [[0.0, 0.1], [0.5, 0.6], [0.2, 0.3], [0.7, 0.8]])
    assert [label.get_text() for label in ax.get_yticklabels()] == ["data", "model"] * 2


def test_heatmap_shows_the_matrix_and_writes_its_larger_values(ax):
    matrix = np.array([[0.9, 0.1, 0.0], [0.04, 0.0, 0.96]])
    plots.posterior_heatmap(matrix, ax, label_names=("a", "b"))
    np.testing.assert_array_equal(np.asarray(ax.images[0].get_array()), matrix)
    assert sorted(text.get_text() for text in ax.texts) == [".10", ".90", ".96"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b"]


def test_learning_curves_are_running_means(ax):
    values = np.arange(10.0)
    plots.learning_curves({"loss": values, "other": values + 1}, ax, smooth=3)
    line = ax.lines[0]
    np.testing.assert_allclose(line.get_ydata(), values[1:-1])
    np.testing.assert_array_equal(line.get_xdata(), np.arange(3, 11))
    assert len({line.get_linestyle() for line in ax.lines}) == 2  # told apart without colour
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["loss", "other"]


def test_style_sets_the_palette():
    with mpl.rc_context():
        plots.use_style()
        assert mpl.rcParams["axes.prop_cycle"].by_key()["color"] == list(plots.PALETTE)
        assert len(set(plots.PALETTE)) == len(plots.PALETTE) == 10


def test_line_styles_tell_curves_apart():
    styles = [plots.line_style(index) for index in range(10)]
    assert len({style["color"] for style in styles}) == 10
    assert len({str(style["linestyle"]) for style in styles[:5]}) == 5
    assert plots.line_style(10) == plots.line_style(0)
