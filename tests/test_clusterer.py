"""A discrete encoder by itself: what it gives, in which form images come, and what is no such encoder."""

import numpy as np
import pytest
import torch
from scipy.special import softmax
from torch import nn

from gmlvm import Clusterer

SHAPE, K = (1, 6, 5), 4


@pytest.fixture
def x(small_data):
    return small_data.test.images


def encoder(*end, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(30, 8), nn.ReLU(), nn.Linear(8, K), *end)


def noisy():
    """An encoder of which it matters much in which mode it is."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(30, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, K))


def test_probabilities_are_the_softmax_of_the_encoders_logits(x):
    clusterer = Clusterer(encoder(), SHAPE)
    layers = [
        (layer.weight.detach().numpy(), layer.bias.detach().numpy()) for layer in clusterer.discrete_encoder[1::2]
    ]
    pixels = x.numpy().reshape(len(x), 30) / 255
    logits = np.maximum(pixels @ layers[0][0].T + layers[0][1], 0) @ layers[1][0].T + layers[1][1]
    np.testing.assert_allclose(clusterer(x / 255).detach(), logits, atol=1e-5)
    for batch_size in (7, 200, 1000):
        probs = clusterer.predict_proba(x, batch_size)
        assert probs.dtype == np.float64
        np.testing.assert_allclose(probs, softmax(logits, 1), atol=1e-5)
        np.testing.assert_allclose(probs.sum(1), 1, rtol=1e-12)
        components = clusterer.predict(x, batch_size)
        assert components.dtype == np.int64
        np.testing.assert_array_equal(components, logits.argmax(1))


def test_a_model_is_one_with_more_parts(small_model, x):
    clusterer = Clusterer(small_model.discrete_encoder, SHAPE)
    assert isinstance(small_model, Clusterer)
    np.testing.assert_array_equal(clusterer.predict_proba(x), small_model.predict_proba(x))
    assert clusterer.num_components == small_model.num_components
    assert clusterer.image_shape == small_model.image_shape
    assert {name for name, _ in clusterer.named_parameters()} < {name for name, _ in small_model.named_parameters()}


def test_it_is_where_its_weights_are_and_in_their_precision(x):
    clusterer = Clusterer(encoder(), SHAPE)
    assert (clusterer.device, clusterer.dtype) == (torch.device("cpu"), torch.float32)
    single = clusterer.predict_proba(x)
    clusterer.double()
    assert clusterer.dtype == clusterer.pixels(x).dtype == torch.float64
    np.testing.assert_allclose(clusterer.predict_proba(x), single, rtol=1e-5)
    assert clusterer.to("meta").device.type == clusterer.pixels(x).device.type == "meta"


def test_an_encoder_may_have_no_weights():
    class Thirds(nn.Module):
        """The mean brightness of each third of the rows."""

        def forward(self, x):
            return 10 * x.flatten(1).unflatten(1, (3, -1)).mean(2)

    clusterer = Clusterer(Thirds(), SHAPE)
    assert clusterer.num_components == 3
    assert (clusterer.device, clusterer.dtype) == (torch.device("cpu"), torch.float32)
    images = torch.zeros(3, *SHAPE)
    for i, image in enumerate(images):
        image[0, 2 * i : 2 * i + 2] = 1
    np.testing.assert_array_equal(clusterer.predict(images), [0, 1, 2])


@pytest.mark.parametrize(
    "as_user",
    [
        lambda images: images / 255,
        lambda images: images.numpy(),
        lambda images: images.numpy()[:, 0],
        lambda images: images.numpy().transpose(0, 2, 3, 1),
        lambda images: list(images),
    ],
    ids=["floating point", "uint8", "grey", "channels last", "tensors"],
)
def test_images_may_come_in_any_form(x, as_user):
    clusterer = Clusterer(encoder(), SHAPE)
    np.testing.assert_allclose(clusterer.predict_proba(as_user(x)), clusterer.predict_proba(x), rtol=1e-5)


def test_predicting_is_done_in_evaluation_mode_and_leaves_the_mode(x):
    clusterer = Clusterer(noisy(), SHAPE).train()
    statistics = clusterer.discrete_encoder[2].running_mean.clone()
    first = clusterer.predict_proba(x)
    np.testing.assert_array_equal(clusterer.predict_proba(x), first)
    np.testing.assert_allclose(clusterer.predict_proba(x[:1]), first[:1], rtol=1e-5)
    assert torch.equal(clusterer.discrete_encoder[2].running_mean, statistics)
    assert all(module.training for module in clusterer.modules())


def test_trying_the_encoder_leaves_no_trace():
    network = noisy().train()
    network[3].eval()
    modes, before = [module.training for module in network.modules()], torch.get_rng_state()
    Clusterer(network, SHAPE)
    assert [module.training for module in network.modules()] == modes
    assert network[2].num_batches_tracked == 0
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("network", "error", "message"),
    [
        (lambda: len, TypeError, "discrete_encoder must be of type Module, got builtin_function_or_method"),
        (lambda: encoder(nn.Unflatten(1, (2, 2))), ValueError, r"must have shape \(4, \*\) .* got \(4, 2, 2\)"),
        (lambda: encoder(nn.Softmax(1)), ValueError, "must give logits, .* leave out the softmax"),
        (lambda: nn.Linear(7, K), ValueError, r"discrete_encoder failed on a batch of shape \(4, 1, 6, 5\)"),
        (lambda: nn.LSTM(5, 3), ValueError, "discrete_encoder failed"),
        (lambda: nn.Sequential(nn.Flatten(0, 2), nn.LSTM(5, 3)), TypeError, r"must be a torch.Tensor, got tuple"),
    ],
    ids=["function", "rank", "softmax", "size", "rank of input", "tuple"],
)
def test_what_is_no_discrete_encoder_is_refused(network, error, message):
    with pytest.raises(error, match=message):
        Clusterer(network(), SHAPE)


def test_what_is_no_image_shape_is_refused():
    with pytest.raises(ValueError, match=r"image_shape must be \(channels, height, width\).*got \(6, 5\)"):
        Clusterer(encoder(), (6, 5))


def test_what_are_no_images_of_its_size_is_refused(x):
    clusterer = Clusterer(encoder(), SHAPE)
    for call in (clusterer.predict, clusterer.predict_proba):
        with pytest.raises(ValueError, match=r"x must have shape \(\*, 1, 6, 5\).*got \(200, 1, 5, 6\)"):
            call(x.transpose(2, 3))
        with pytest.raises(ValueError, match=r"lie in \[0, 1\]"):
            call(x.float())
        with pytest.raises(TypeError, match=r"got torch.int64"):
            call(x.long())
        with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
            call(x, 0)


def test_weights_that_are_not_finite_are_told(x):
    clusterer = Clusterer(encoder(), SHAPE)
    with torch.no_grad():
        clusterer.discrete_encoder[3].bias[0] = torch.nan
    with pytest.raises(ValueError, match=r"q_D\(k\|x\) must be finite"):
        clusterer.predict(x)
