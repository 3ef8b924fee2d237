"""Plots draw the arrays they are given, on the axis they are given."""

import matplotlib as mpl
import numpy as np
import pytest
import torch

from gmlvm import History, plots


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


@pytest.mark.parametrize("columns", [3, 0])
def test_columns_that_the_images_do_not_fill_are_refused(ax, columns):
    with pytest.raises(ValueError, match=f"with N a multiple of {columns}, got"):
        plots.reconstruction_grid(np.zeros((4, 1, 2, 2)), np.zeros((4, 1, 2, 2)), columns, ax)


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


@pytest.mark.parametrize(
    ("steps", "smooth", "window"),
    [(1, 50, 1), (2, 50, 1), (7, 50, 3), (40, 50, 20), (99, 50, 49), (100, 50, 50), (300, 50, 50)],
)
def test_a_run_of_few_steps_has_a_curve_too(ax, steps, smooth, window):
    """The running mean takes no more than half of the steps: over all of them it would leave a point."""
    plots.learning_curves({"loss": np.arange(float(steps))}, ax, smooth=smooth)
    x, y = ax.lines[0].get_data()
    np.testing.assert_array_equal(x, np.arange(window, steps + 1))
    np.testing.assert_allclose(y, x - (window + 1) / 2)  # step t has the value t - 1


def test_learning_curves_of_a_history(ax):
    history = History({"loss": np.full(60, 2.0), "kl_z": np.ones(60)}, 1.0, "cpu")
    plots.learning_curves(history, ax)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["loss", "kl_z"]
    assert [line.get_ydata()[-1] for line in ax.lines] == pytest.approx([2, 1])


@pytest.mark.parametrize(
    ("terms", "smooth", "error", "message"),
    [
        (np.zeros(60), 1, TypeError, "must be a mapping from names to arrays, such as a History; got ndarray"),
        ({}, 1, ValueError, "at least one array, got none"),
        ({"loss": []}, 1, ValueError, r"loss must have shape \(steps,\), one step or more, got \(0,\)"),
        ({"loss": np.zeros((2, 3))}, 1, ValueError, r"loss must have shape \(steps,\), one step or more, got \(2, 3\)"),
        ({"loss": np.zeros(3)}, 0, ValueError, "smooth must be at least 1, got 0"),
        ({"loss": np.zeros(3)}, 2.5, TypeError, r"smooth must be an integer, got 2\.5"),
    ],
)
def test_what_has_no_learning_curve_is_refused(ax, terms, smooth, error, message):
    with pytest.raises(error, match=message):
        plots.learning_curves(terms, ax, smooth=smooth)
    assert not ax.lines


DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.mark.parametrize(
    "wrap",
    [
        lambda array: torch.tensor(array, device=DEVICE, requires_grad=True),
        lambda array: torch.tensor(array, device=DEVICE, dtype=torch.bfloat16),
        lambda array: [torch.tensor(row, device=DEVICE, requires_grad=True) for row in array],
        lambda array: array.tolist(),
    ],
    ids=["gradients", "bfloat16", "list of tensors", "list"],
)
def test_tensors_and_lists_are_drawn_as_arrays_are(ax, wrap):
    """The values are multiples of 1/8, which all of these hold exactly."""
    images = np.arange(8.0).reshape(2, 1, 1, 2, 2) / 8

    for array, draw in [
        (images, plots.image_grid),
        (images[:, 0], lambda x, ax: plots.reconstruction_grid(x, x, 2, ax)),
        (images[0, 0, 0], plots.posterior_heatmap),
    ]:
        expected = np.asarray(draw(array, ax).images[-1].get_array())
        np.testing.assert_array_equal(np.asarray(draw(wrap(array), ax).images[-1].get_array()), expected)
    plots.learning_curves({"array": images.ravel(), "wrapped": wrap(images.ravel())}, ax, smooth=2)
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), ax.lines[1].get_ydata())


def test_data_of_eight_bits_lie_beside_reconstructions_in_the_unit_interval(ax):
    x = torch.tensor([0, 51, 255, 102], dtype=torch.uint8).reshape(1, 1, 2, 2)
    plots.reconstruction_grid(x, x / 255, 1, ax)
    canvas = np.asarray(ax.images[0].get_array())
    np.testing.assert_allclose(canvas[:2], [[0, 0.2], [1, 0.4]])
    np.testing.assert_allclose(canvas[4:], canvas[:2], rtol=1e-6)


def test_every_seed_is_a_point_and_the_mean_a_bar(ax):
    values = {"one": torch.tensor([1.0, 2.0, 6.0]), "two": [5.0]}
    assert plots.seed_strip(values, ax, color={"two": "#000000"}) is ax
    points, bar, lone, lone_bar = ax.lines
    np.testing.assert_array_equal(points.get_xdata(), [1, 2, 6])
    assert len(set(points.get_ydata())) == 3  # no point hides another
    assert np.abs(points.get_ydata()).max() < 0.5
    np.testing.assert_array_equal(bar.get_xdata(), [3, 3])
    np.testing.assert_array_equal(lone.get_ydata(), [1])
    np.testing.assert_array_equal(lone_bar.get_xdata(), [5, 5])
    assert (points.get_color(), lone.get_color()) == (plots.PALETTE[0], "#000000")
    assert bar.get_color() == lone_bar.get_color() == "black"
    plots.seed_strip({"one": [4.0]}, ax, color={"one": "#0000ff"}, bar=None)
    assert ax.lines[-1].get_color() == "#0000ff"
    plots.seed_strip(values, ax)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["one", "two"]
    assert ax.get_ylim() == (1.5, -0.5)  # the first row on top


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ([1.0], TypeError, "values must be a mapping from names to figures of each seed, got list"),
        ({}, ValueError, "values must name at least one row, got none"),
        ({"one": [[1.0]]}, ValueError, r"one must have shape \(seeds,\), one seed or more, got \(1, 1\)"),
        ({"one": []}, ValueError, r"one must have shape \(seeds,\), one seed or more, got \(0,\)"),
    ],
)
def test_what_is_no_figure_of_seeds_is_refused(ax, values, error, message):
    with pytest.raises(error, match=message):
        plots.seed_strip(values, ax)


def test_names_may_be_an_array(ax):
    plots.posterior_heatmap(np.eye(2), ax, label_names=np.array(["a", "b"]), component_names=np.array(["c", "d"]))
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["c", "d"]


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
