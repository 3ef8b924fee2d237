"""The toy is what its docstrings say, and its pictures show it."""

import numpy as np
import torch
from matplotlib.colors import to_hex
from matplotlib.patches import Circle

from gmlvm import VAE, WAE
from gmlvm.enumeration import Dense
from gmlvm.plots import PALETTE
from gmlvm.testing import check_divergence, check_model
from gmlvm_book import toy


def test_the_decoder_turns_by_half_the_length_and_shrinks():
    z = torch.tensor([[0.0, 0.0], [torch.pi, 0.0]])  # half of pi is a quarter turn: to the upper side
    torch.testing.assert_close(toy.decode(z), torch.tensor([[0.5, 0.5], [0.5, 0.5 + 0.075 * torch.pi]]))


def test_draws_lie_around_what_their_codes_are_decoded_to():
    points, k = toy.draw(4000, seed=3)
    assert points.shape == (4000, *toy.SHAPE)
    assert points.min() >= 0
    assert points.max() <= 1
    prior = toy.new_prior()
    # The inverse of the decoder: the length stays but for a factor, so the turn can be taken back.
    turned = (points.view(-1, 2) - 0.5) / 0.075
    angle = -turned.norm(dim=1) / 2
    x, y = turned.T
    z = torch.stack([angle.cos() * x - angle.sin() * y, angle.sin() * x + angle.cos() * y], 1)
    for component in range(3):
        # Noise of 0.02 is 0.27 in units of z, and more across, where the decoder turns.
        torch.testing.assert_close(z[k == component].mean(0), prior.loc[component], atol=0.2, rtol=0)
    assert torch.bincount(k).min() > 1200


def test_the_same_seed_draws_the_same_points():
    torch.testing.assert_close(toy.draw(50, seed=1), toy.draw(50, seed=1))
    assert not torch.equal(toy.draw(50, seed=1)[0], toy.draw(50, seed=2)[0])


def test_the_model_is_a_whole_one_and_its_seed_its_own():
    state = torch.get_rng_state()
    model, same, other = toy.new_model(1), toy.new_model(1), toy.new_model(2)
    assert torch.equal(torch.get_rng_state(), state)
    points, _ = toy.draw(20)
    np.testing.assert_array_equal(model.transform(points), same.transform(points))
    assert not np.array_equal(model.transform(points), other.transform(points))
    check_model(model)


def test_the_penalty_makes_a_vae_of_a_wae():
    check_divergence(toy.KLOfEachImage(), toy.new_prior())
    model, (points, _) = toy.new_model(), toy.draw(64)
    with torch.no_grad():
        elbo = VAE(enumeration=Dense())(model, points)
        penalty = WAE(1.0, toy.KLOfEachImage(), enumeration=Dense())(model, points).divergence
    torch.testing.assert_close(penalty, elbo.kl_z + elbo.kl_k)


def test_a_sure_component_has_its_own_colour_and_an_unsure_one_a_mixture():
    sure = toy.blend(np.eye(3))
    assert [to_hex(color).upper() for color in sure] == list(PALETTE[:3])
    np.testing.assert_allclose(toy.blend([0.5, 0.5, 0.0]), sure[:2].mean(0))


def test_codes_have_the_colours_of_their_components_and_rings_the_priors(ax):
    prior, z = toy.new_prior(), torch.tensor([[0.0, 0.0], [1.0, 2.0], [3.0, 4.0]])
    assert toy.draw_codes(ax, z, torch.tensor([0, 2, 2]), prior) is ax
    assert [line.get_color() for line in ax.lines] == list(PALETTE[:3])
    assert [len(line.get_xdata()) for line in ax.lines] == [1, 0, 2]
    rings = [patch for patch in ax.patches if isinstance(patch, Circle)]
    np.testing.assert_allclose([ring.center for ring in rings], prior.loc, rtol=1e-6)
    assert [ring.radius for ring in rings] == [2.0, 2.0, 2.0]


def test_the_picture_of_a_posterior_has_boundaries_only_where_the_first_component_changes(ax):
    model, (points, _) = toy.new_model(), toy.draw(10)
    model.eval()
    last = model.discrete_encoder[1][-1]
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(torch.tensor([0.0, 9.0, 0.0]))
    assert toy.draw_posterior(ax, model, points) is ax
    shown = np.asarray(ax.images[0].get_array())
    np.testing.assert_allclose(shown, np.broadcast_to(toy.blend(np.eye(3)[1]), shown.shape), atol=1e-3)
    assert not ax.collections  # no lines
    assert len(ax.lines[0].get_xdata()) == 10

    class Halves(torch.nn.Module):
        """Component 0 on the left, component 2 on the right."""

        def forward(self, x):
            side = 20 * (x.flatten(1)[:, :1] - 0.5)
            return torch.cat([-side, torch.full_like(side, -9), side], 1)

    model.discrete_encoder = Halves()
    toy.draw_posterior(ax, model, points)
    shown = np.asarray(ax.images[1].get_array())  # rows go up, columns to the right
    np.testing.assert_allclose(shown[:, 10], np.broadcast_to(toy.blend(np.eye(3)[0]), (101, 3)), atol=1e-3)
    np.testing.assert_allclose(shown[:, 90], np.broadcast_to(toy.blend(np.eye(3)[2]), (101, 3)), atol=1e-3)
    edges = np.concatenate([path.vertices for lines in ax.collections for path in lines.get_paths()])
    np.testing.assert_allclose(edges[:, 0], 0.5, atol=1e-6)
