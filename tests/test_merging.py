"""Components that share a boundary: the flow over it in NumPy, the order of merging, and the merged encoder."""

import numpy as np
import pytest
import torch
from scipy.special import softmax
from torch import nn

from gmlvm import GMLVM, Clusterer
from gmlvm.merging import boundary_flow, keep_components, merge_components, merge_heights, merged_groups

SHAPE = (1, 1, 2)
#: Three groups of images in the plane, and six components of which two share each.
CENTRES = np.array([[0.2, 0.2], [0.8, 0.2], [0.5, 0.8]])


def blobs(count=300, seed=0):
    """Images of two pixels: points about the centres, and the group of each."""
    rng = np.random.default_rng(seed)
    groups = rng.integers(3, size=count)
    points = CENTRES[groups] + 0.06 * rng.normal(size=(count, 2))
    return torch.tensor(points.clip(0, 1)).view(-1, *SHAPE), groups


class Nearest(nn.Module):
    """Logits that fall with the squared distance from points, one for each component."""

    def __init__(self, points, sharpness):
        super().__init__()
        self.points, self.sharpness = nn.Parameter(torch.tensor(points)), sharpness

    def forward(self, x):
        return -self.sharpness * torch.cdist(x.flatten(1), self.points).square()


# Components 0 and 4 share the first group, 1 and 3 the second, 2 and 5 the third.
OFF = np.array([[0.04, 0.0]])
SPLIT = np.concatenate([CENTRES - OFF, CENTRES[[1, 0, 2]] + OFF])


def clusterer(sharpness=300.0):
    return Clusterer(Nearest(SPLIT, sharpness), SHAPE)


# The flow


def flow_of_a_linear_network(weight, x, share, seed, parts):
    """For softmax(W x), K = 2: the worst perturbation is along the difference of the rows, to where its probe lies."""
    generator, count = torch.Generator().manual_seed(seed), len(x)
    flow, here = np.zeros((2, 2)), []
    for part in np.array_split(np.arange(count), parts):
        points = x[part]
        distances = np.linalg.norm(points[:, None] - points, axis=-1) + np.diag(np.full(len(part), np.inf))
        noise = torch.randn((len(part), *SHAPE), generator=generator, dtype=torch.float64).numpy().reshape(-1, 2)
        way = weight[1] - weight[0]
        side = np.sign(noise @ way)
        r = share * distances.min(1)[:, None] * side[:, None] * way / np.linalg.norm(way)
        p, q = softmax(points @ weight.T, 1), softmax((points + r) @ weight.T, 1)
        here.append(p)
        for a in range(2):
            for b in range(2):
                flow[a, b] += (p[:, a] * q[:, b] + p[:, b] * q[:, a]).sum()
    mean = np.concatenate(here).mean(0)
    return flow / (2 * count * np.outer(mean, mean))


@pytest.mark.parametrize(("batch_size", "parts"), [(500, 1), (10, 2), (7, 3)])
def test_the_flow_is_what_it_says(batch_size, parts):
    weight = np.array([[1.0, -2.0], [-4.0, 3.0]])
    layer = nn.Linear(2, 2, bias=False).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weight))
    x, _ = blobs(21)
    flow = boundary_flow(Clusterer(nn.Sequential(nn.Flatten(), layer), SHAPE), x, 0.4, batch_size=batch_size, seed=3)
    expected = flow_of_a_linear_network(weight, x.flatten(1).numpy(), 0.4, 3, parts)
    np.testing.assert_allclose(flow, expected, rtol=1e-8)
    np.testing.assert_allclose(flow, flow.T, rtol=1e-12)


def test_where_the_component_says_nothing_of_the_image_the_flow_is_one():
    constant = nn.Linear(2, 3).double()
    nn.init.zeros_(constant.weight)
    flow = boundary_flow(Clusterer(nn.Sequential(nn.Flatten(), constant), SHAPE), blobs()[0])
    np.testing.assert_allclose(flow, np.ones((3, 3)), rtol=1e-10)


def test_no_batch_is_left_with_a_single_image():
    x, _ = blobs(21)
    assert np.isfinite(boundary_flow(clusterer(), x, batch_size=10)).all()
    assert np.isfinite(boundary_flow(clusterer(), x, batch_size=20)).all()
    with pytest.raises(ValueError, match="needs 2 images or more, got 1"):
        boundary_flow(clusterer(), x[:1])


def test_looking_at_a_model_leaves_it_as_it_was_and_takes_images_in_any_form():
    model = GMLVM.for_images((1, 6, 5), 4, 3, networks="conv").train()
    images = torch.randint(256, (30, 1, 6, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    state, before = torch.get_rng_state(), [buffer.clone() for buffer in model.buffers()]
    flow = boundary_flow(model, images)
    for other in (images.numpy(), images.numpy()[:, 0], images / 255):
        np.testing.assert_allclose(boundary_flow(model, other), flow, rtol=1e-4)
    assert flow.shape == (4, 4)
    assert not np.array_equal(boundary_flow(model, images, seed=1), flow)
    assert all(map(torch.equal, model.buffers(), before))
    assert all(module.training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)


# Merging


@pytest.mark.parametrize("sharpness", [100.0, 300.0, 3000.0])
def test_three_groups_that_six_components_share_are_found_again(sharpness):
    x, groups = blobs()
    model = clusterer(sharpness)
    links = merge_heights(boundary_flow(model, x))
    found = merged_groups(links, 3)
    np.testing.assert_array_equal(found, [0, 1, 2, 1, 0, 2])
    heights = links[:, 2]
    assert np.diff(heights).argmax() == 2  # three merges, and then a wide step
    merged = Clusterer(merge_components(model.discrete_encoder, found), SHAPE)
    assert (merged.predict(x) == groups).all()
    assert (model.predict(x) == groups).mean() < 0.6


def test_heights_are_average_linkage_on_the_negative_logarithm():
    flow = np.exp(-np.array([[0.0, 1.0, 4.0, 5.0], [1.0, 0.0, 6.0, 7.0], [4.0, 6.0, 0.0, 2.0], [5.0, 7.0, 2.0, 0.0]]))
    expected = [[0, 1, 1.0, 2], [2, 3, 2.0, 2], [4, 5, (4 + 5 + 6 + 7) / 4, 4]]
    np.testing.assert_allclose(merge_heights(flow), expected)
    for name, groups in ((1, [0, 0, 0, 0]), (2, [0, 0, 1, 1]), (3, [0, 0, 1, 2]), (4, [0, 1, 2, 3])):
        got = merged_groups(merge_heights(flow), name)
        assert got.dtype == np.int64
        np.testing.assert_array_equal(got, groups)


def test_a_flow_above_one_moves_all_heights_alike():
    flow = np.exp(-np.array([[0.0, 1.0, 4.0], [1.0, 0.0, 6.0], [4.0, 6.0, 0.0]]))
    np.testing.assert_allclose(merge_heights(np.e**3 * flow)[:, 2], [0, 4])  # of -2, 1 and 3, less -2
    np.testing.assert_allclose(merge_heights(flow)[:, 2], [1, 5])


def test_components_that_touch_nowhere_have_a_finite_height():
    links = merge_heights(np.eye(3))
    assert np.isfinite(links).all()
    assert (links[:, 2] > 20).all()


@pytest.mark.parametrize("num_groups", range(1, 7))
def test_there_are_as_many_groups_as_asked_for_however_many_pairs_are_equally_far_apart(num_groups):
    flow = np.zeros((6, 6))
    for a in (0, 2, 4):
        flow[a, a + 1] = flow[a + 1, a] = 0.5
    groups = merged_groups(merge_heights(flow), num_groups)
    assert set(groups) == set(range(num_groups))
    first = [groups.tolist().index(group) for group in range(num_groups)]
    assert first == sorted(first)  # counted in the order in which they first occur


# The merged encoder


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_merged_encoder_adds_probabilities(dtype):
    logits = 3 * torch.randn(8, 5, generator=torch.Generator().manual_seed(0), dtype=dtype)
    got = merge_components(nn.Identity(), [2, 0, 1, 0, 2])(logits)
    probs = softmax(logits.double().numpy(), 1)
    expected = np.stack([probs[:, 1] + probs[:, 3], probs[:, 2], probs[:, 0] + probs[:, 4]], 1)
    assert got.dtype == dtype
    np.testing.assert_allclose(got.exp(), expected, rtol=1e-5)
    np.testing.assert_allclose(got.exp().sum(1), 1, rtol=1e-5)


def test_probabilities_that_are_rounded_to_zero_keep_their_logarithm_and_a_gradient():
    logits = torch.tensor([[0.0, -300.0, -301.0, -400.0]], requires_grad=True)
    got = merge_components(nn.Identity(), [0, 1, 1, 0])(logits)
    assert got[0, 1].item() == pytest.approx(-300 + np.log(1 + np.exp(-1)), rel=1e-6)
    got.sum().backward()
    assert logits.grad.isfinite().all()
    assert logits.grad.any()


def test_the_merged_encoder_holds_the_other_trains_it_and_is_saved_with_its_groups():
    encoder = nn.Linear(2, 4)
    merged = merge_components(encoder, np.array([0, 1, 1, 0]))
    assert merged.encoder is encoder
    merged(torch.ones(3, 2))[:, 0].sum().backward()
    assert encoder.weight.grad.any()
    other = merge_components(nn.Linear(2, 4), [0, 0, 1, 1])
    other.load_state_dict(merged.state_dict())
    torch.testing.assert_close(other(torch.ones(1, 2)), merged(torch.ones(1, 2)))
    assert "groups=[0, 1, 1, 0]" in repr(merged)


def test_a_model_takes_a_merged_encoder_and_knows_its_components():
    with torch.random.fork_rng():
        encoder = nn.Sequential(nn.Flatten(), nn.Linear(30, 8))
    model = GMLVM.for_images((1, 6, 5), 4, 3)
    parts = (model.prior, merge_components(encoder, [0, 1, 2, 3] * 2), model.continuous_encoder, model.decoder)
    merged = GMLVM(*parts, (1, 6, 5))
    x = torch.rand(5, 1, 6, 5)
    probs = encoder(x).softmax(1).detach().numpy()
    np.testing.assert_allclose(merged.predict_proba(x), probs[:, :4] + probs[:, 4:], rtol=1e-5)


# The encoder with fewer components


def test_what_is_kept_keeps_its_probabilities_among_themselves():
    logits = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))
    got = keep_components(nn.Identity(), [3, 0, 4])(logits).softmax(1)
    probs = softmax(logits.numpy(), 1)[:, [3, 0, 4]]
    np.testing.assert_allclose(got, probs / probs.sum(1, keepdims=True), rtol=1e-5)


def test_a_model_takes_it_trains_it_and_is_saved_with_its_choice():
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(30, 8), nn.Identity())
    model = GMLVM.for_images((1, 6, 5), 3, 3)
    fewer = keep_components(encoder, np.array([7, 1, 2]))
    assert fewer.encoder is encoder
    assert GMLVM(model.prior, fewer, model.continuous_encoder, model.decoder, (1, 6, 5)).num_components == 3
    fewer(torch.ones(3, 1, 6, 5))[:, 0].sum().backward()
    assert encoder[1].weight.grad[7].any()
    assert not encoder[1].weight.grad[:7].any()
    other = keep_components(nn.Sequential(nn.Flatten(), nn.Linear(30, 8), nn.Identity()), [0, 1, 2])
    other.load_state_dict(fewer.state_dict())
    torch.testing.assert_close(other(torch.ones(1, 1, 6, 5)), fewer(torch.ones(1, 1, 6, 5)))
    assert "components=[7, 1, 2]" in repr(fewer)


@pytest.mark.parametrize("bias", [True, False])
def test_a_last_layer_that_is_linear_loses_rows_and_the_encoder_it_came_from_keeps_them(bias):
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(30, 6), nn.BatchNorm1d(6), nn.Linear(6, 8, bias=bias).double())
    encoder[:3].double()
    encoder[3].weight.requires_grad_(False)
    fewer, x = keep_components(encoder, [7, 1, 2]), torch.rand(9, 1, 6, 5).double()
    assert str(fewer[3]) == f"Linear(in_features=6, out_features=3, bias={bias})"
    assert [p.requires_grad for p in fewer.parameters()] == [p.requires_grad for p in encoder.parameters()]
    torch.testing.assert_close(fewer.eval()(x), encoder.eval()(x)[:, [7, 1, 2]])
    before = encoder(x)
    nn.init.zeros_(fewer[1].weight)
    nn.init.zeros_(fewer[3].weight)
    torch.testing.assert_close(encoder(x), before)


def test_a_standard_model_with_fewer_components_is_one_that_can_be_built_again(tmp_path):
    many, few = (GMLVM.for_images((1, 6, 5), k, 9, networks="deep", seed=k) for k in (5, 3))
    few.discrete_encoder = keep_components(many.discrete_encoder, [4, 0, 1])
    few.save(tmp_path / "few.safetensors")
    x = torch.rand(5, 1, 6, 5)
    got = GMLVM.load(tmp_path / "few.safetensors").predict_proba(x)
    probs = many.predict_proba(x)[:, [4, 0, 1]]
    np.testing.assert_allclose(got, probs / probs.sum(1, keepdims=True), rtol=1e-5)


# Bad input


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x: boundary_flow(nn.Flatten(), x), TypeError, "model must be of type Clusterer, got Flatten"),
        (lambda x: boundary_flow(clusterer(), x, 0.0), ValueError, "share must be .* got 0"),
        (lambda x: boundary_flow(clusterer(), x, batch_size=1), ValueError, "batch_size must be at least 2, got 1"),
        (lambda x: boundary_flow(clusterer(), x, seed=-1), ValueError, "seed must be at least 0, got -1"),
        (lambda x: boundary_flow(clusterer(), x[:, :, :, :1]), ValueError, r"x must have shape \(\*, 1, 1, 2\)"),
        (lambda x: boundary_flow(clusterer(), 3 * x), ValueError, r"lie in \[0, 1\]"),
        (lambda x: merge_heights(np.ones((2, 3))), ValueError, r"flow must be symmetric, \(K, K\) with K at least 2"),
        (lambda x: merge_heights(np.ones((1, 1))), ValueError, "K at least 2"),
        (lambda x: merge_heights(np.ones(3)), ValueError, "flow must be symmetric"),
        (lambda x: merge_heights(np.arange(4.0).reshape(2, 2)), ValueError, "flow must be symmetric"),
        (lambda x: merge_heights(-np.ones((2, 2))), ValueError, "finite and at least 0"),
        (lambda x: merge_heights(np.diag([1, np.inf])), ValueError, "finite and at least 0"),
        (lambda x: merged_groups(merge_heights(np.ones((3, 3))), 4), ValueError, "3 components cannot be merged to 4"),
        (
            lambda x: merged_groups(merge_heights(np.ones((3, 3))), 0),
            ValueError,
            "num_groups must be at least 1, got 0",
        ),
        (lambda x: merged_groups(merge_heights(np.ones((3, 3))), 2.0), TypeError, "num_groups must be an integer"),
        (
            lambda x: merge_components(nn.Identity(), [0, 2]),
            ValueError,
            r"none without any; got \[0, 2\]",
        ),
        (lambda x: merge_components(nn.Identity(), [-1, 0]), ValueError, r"got \[-1, 0\]"),
        (lambda x: merge_components(nn.Identity(), [0.5, 0]), ValueError, r"got \[0.5, 0\]"),
        (lambda x: merge_components(nn.Identity(), []), ValueError, r"got \[\]"),
        (lambda x: keep_components(nn.Identity(), []), ValueError, r"one or more, each once; got \[\]"),
        (lambda x: keep_components(nn.Identity(), [1, 1]), ValueError, r"each once; got \[1, 1\]"),
        (lambda x: keep_components(nn.Identity(), [0.0]), ValueError, r"must be integers, .* got \[0.0\]"),
        (lambda x: keep_components(nn.Identity(), [-1]), ValueError, r"counted from 0, got \[-1\]"),
        (
            lambda x: keep_components(nn.Sequential(nn.Linear(2, 3)), [0, 3]),
            ValueError,
            r"below the encoder's 3, got \[0, 3\]",
        ),
        (lambda x: merge_components(nn.Identity(), [[0], [1]]), ValueError, "groups must name one for each component"),
    ],
)
def test_bad_input_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call(blobs(10)[0])
