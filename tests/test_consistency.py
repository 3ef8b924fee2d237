"""Whether drawn images are taken for their component: the value in NumPy, and whom its gradient reaches."""

import numpy as np
import oracles
import pytest
import torch
from slopes import assert_gradients
from torch import nn
from torch.nn import functional as F

from gmlvm import GMLVM, VAE, WAE, FullGaussianMixturePrior, GaussianMixturePrior
from gmlvm.consistency import inconsistency


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def drawn(model, each):
    """Codes and components as they are drawn from a generator of seed 0."""
    z = model.prior.sample_each(each, seeded()).flatten(0, 1)
    return z, torch.arange(model.num_components).repeat_interleave(each)


@pytest.mark.parametrize(("count", "each"), [(12, 4), (14, 4), (2, 1)])
def test_it_is_the_cross_entropy_of_the_components_that_images_were_drawn_from(double_model, count, each):
    p = {name: tensor.detach().numpy() for name, tensor in double_model.state_dict().items()}
    noise = torch.randn(3, each, 2, generator=seeded(), dtype=torch.float64).numpy()
    z = (p["prior.loc"][:, None] + p["prior.scale"][:, None] * noise).reshape(-1, 2)
    images = 1 / (1 + np.exp(-oracles.decoder(z, p)))
    log_q = oracles.discrete_encoder(images.reshape(-1, 1, 4, 3), p)
    expected = -np.mean([log_q[i, i // each] for i in range(3 * each)])
    assert inconsistency(double_model, count, seeded()).item() == pytest.approx(expected, rel=1e-10)


def test_the_decoder_gets_the_gradient_of_the_cross_entropy(double_model):
    assert_gradients(lambda: inconsistency(double_model, 12, seeded()), double_model.decoder.parameters())
    z, component = drawn(double_model, 4)
    loss = F.cross_entropy(double_model.discrete_encoder(double_model.decoder_logits(z).sigmoid()), component)
    expected = torch.autograd.grad(loss, list(double_model.decoder.parameters()))
    inconsistency(double_model, 12, seeded()).backward()
    for parameter, gradient in zip(double_model.decoder.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


@pytest.mark.parametrize(
    "prior",
    [
        GaussianMixturePrior.simplex(4, 3, learn=("loc", "scale", "weights")),
        FullGaussianMixturePrior(torch.eye(4)[:, :3], torch.eye(3).expand(4, 3, 3), learn=("loc", "scale", "weights")),
    ],
    ids=["diagonal", "full"],
)
def test_nothing_else_gets_any(prior):
    model = GMLVM.for_images((1, 6, 5), 4, 3, prior=prior, hidden_dim=12)
    inconsistency(model, 12, seeded()).backward()
    assert all(parameter.grad.any() for parameter in model.decoder.parameters())
    for part in (model.prior, model.discrete_encoder, model.continuous_encoder):
        assert list(part.parameters())
        assert all(parameter.grad is None for parameter in part.parameters())


def test_batch_norms_use_their_batch_and_remember_nothing_drawn():
    model = GMLVM.for_images((1, 6, 5), 4, 3, networks="conv").train()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    value = inconsistency(model, 12, seeded())
    value.backward()
    assert len(before) > 3
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, before[name]), name
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    assert all(norm.track_running_stats for norm in norms)
    z, component = drawn(model, 3)
    by_hand = F.cross_entropy(model.discrete_encoder(model.decoder_logits(z).sigmoid()), component)
    assert value.item() == pytest.approx(by_hand.item(), rel=1e-5)
    assert value.item() != pytest.approx(inconsistency(model.eval(), 12, seeded()).item(), rel=1e-3)


def test_frozen_parts_and_a_place_without_gradients_change_no_value(double_model):
    expected = inconsistency(double_model, 12, seeded())
    with torch.no_grad():
        without = inconsistency(double_model, 12, seeded())
    double_model.discrete_encoder.requires_grad_(False)
    frozen = inconsistency(double_model, 12, seeded())
    assert frozen.requires_grad
    double_model.decoder.requires_grad_(False)
    assert not inconsistency(double_model, 12, seeded()).requires_grad
    assert expected == without == frozen
    assert not without.requires_grad


def test_the_generator_decides_and_the_global_one_is_left_alone(double_model):
    before = torch.get_rng_state()
    first, same, other = (inconsistency(double_model, 12, seeded(seed)) for seed in (0, 0, 1))
    assert first == same
    assert first != other
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("make", [VAE, lambda **settings: WAE(10.0, **settings)], ids=["VAE", "WAE"])
def test_both_objectives_take_it_with_its_weight(double_model, make):
    x = torch.rand(6, 1, 4, 3, dtype=torch.float64, generator=seeded(9))
    plain, with_it = (make(**settings)(double_model, x, seeded()) for settings in ({}, {"consistency_weight": 3.0}))
    assert plain.inconsistency == 0
    assert with_it.inconsistency > 0
    assert with_it.loss.item() == pytest.approx(plain.loss.item() + 3 * with_it.inconsistency.item(), rel=1e-12)


def test_training_the_decoder_by_it_makes_drawn_images_their_components(small_data):
    """An encoder that knows the four classes, and a decoder that has seen nothing."""
    model = GMLVM.for_images((1, 6, 5), 4, 3, hidden_dim=12, seed=1)
    optimizer = torch.optim.Adam(model.discrete_encoder.parameters(), lr=0.02)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(model(small_data.train.images / 255)[0].log(), small_data.train.labels).backward()
        optimizer.step()
    read = lambda: [(model.predict(model.sample(50, k, generator=seeded())) == k).mean() for k in range(4)]  # noqa: E731
    before = np.mean(read())
    optimizer = torch.optim.Adam(model.decoder.parameters(), lr=0.02)
    for step in range(150):
        optimizer.zero_grad()
        inconsistency(model, 64, seeded(step)).backward()
        optimizer.step()
    assert before < 0.5
    assert min(read()) > 0.75
