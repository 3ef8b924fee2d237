"""The model: its methods agree with one another, and a saved one comes back bit for bit."""

import json

import pytest
import torch

from gmlvm import GMLVM, GaussianMixturePrior


@pytest.fixture
def x(small_data):
    return small_data.test.images[:8]


def test_posterior_shapes_and_ranges(small_model, x):
    posterior = small_model.posterior(x)
    assert posterior.logits.shape == (8, 4)
    assert posterior.loc.shape == posterior.scale.shape == (8, 4, 3)
    torch.testing.assert_close(posterior.probs.sum(1), torch.ones(8))
    torch.testing.assert_close(posterior.probs.log(), posterior.log_probs)
    assert (posterior.scale > 0).all()


def test_posterior_samples_have_its_mean_and_scale(small_model, x):
    posterior = small_model.posterior(x[:1])
    generator = torch.Generator().manual_seed(0)
    z = torch.stack([posterior.sample(generator) for _ in range(4000)])
    standard = ((z - posterior.loc) / posterior.scale).flatten(1)
    assert standard.mean(0).abs().max() < 4 / 4000**0.5
    assert (standard.std(0) - 1).abs().max() < 4 / (2 * 4000) ** 0.5


def test_encode_takes_the_mean_of_the_most_probable_component(small_model, x):
    posterior = small_model.posterior(x)
    expected = torch.stack([posterior.loc[i, k] for i, k in enumerate(posterior.logits.argmax(1))])
    torch.testing.assert_close(small_model.encode(x), expected)
    torch.testing.assert_close(small_model.reconstruct(x), small_model.decode(expected))


def test_decode_is_the_sigmoid_of_the_logits_for_any_leading_shape(small_model):
    z = torch.randn(2, 5, 3)
    images = small_model.decode(z)
    assert images.shape == (2, 5, 1, 6, 5)
    torch.testing.assert_close(images, small_model.decoder_logits(z).sigmoid())
    assert not images.requires_grad


def test_sample_decodes_the_priors_codes(small_model):
    images = small_model.sample(6, component=2, temperature=0.5, generator=torch.Generator().manual_seed(0))
    z = small_model.prior.sample(6, 2, 0.5, torch.Generator().manual_seed(0))
    torch.testing.assert_close(images, small_model.decode(z))


def test_interpolation_is_straight_and_ends_at_its_ends(small_model, x):
    a, b = torch.randn(2, 3, 3)
    images = small_model.interpolate(a, b, steps=5)
    assert images.shape == (3, 5, 1, 6, 5)
    torch.testing.assert_close(images[:, 0], small_model.decode(a))
    torch.testing.assert_close(images[:, 2], small_model.decode((a + b) / 2))
    torch.testing.assert_close(images[:, -1], small_model.decode(b))
    between_images = small_model.interpolate(x[:2], x[2:4], steps=3)
    torch.testing.assert_close(between_images[:, 0], small_model.reconstruct(x[:2]))


@pytest.mark.parametrize("networks", ["mlp", "conv"])
def test_a_saved_model_comes_back_bit_for_bit(tmp_path, networks, x):
    prior = GaussianMixturePrior(torch.randn(4, 3), torch.rand(4, 3) + 0.1, torch.randn(4))
    model = GMLVM.for_images((1, 6, 5), 4, 3, prior=prior, networks=networks, hidden_dim=7, component_hidden_dim=2)
    model.save(tmp_path / "model.safetensors")
    loaded = GMLVM.load(tmp_path / "model.safetensors")
    assert loaded.architecture == model.architecture
    state = model.state_dict()
    assert loaded.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.state_dict().items())
    assert torch.equal(loaded.reconstruct(x), model.reconstruct(x))


def test_a_saved_file_is_tensors_and_json_without_pickle(tmp_path, small_model):
    small_model.save(tmp_path / "model.safetensors")
    content = (tmp_path / "model.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    assert json.loads(header["__metadata__"]["gmlvm"])["architecture"]["num_components"] == 4
    tensors = [entry for name, entry in header.items() if name != "__metadata__"]
    assert max(entry["data_offsets"][1] for entry in tensors) == len(content) - 8 - length


def test_the_seed_decides_the_weights_and_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    first, same, other = (GMLVM.for_images((1, 4, 4), 3, 2, seed=seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not torch.equal(first["decoder.0.weight"], other["decoder.0.weight"])
    assert torch.equal(torch.get_rng_state(), before)


def test_inference_uses_evaluation_mode_and_restores_training_mode(x):
    model = GMLVM.for_images((1, 6, 5), 4, 3, networks="conv")
    model.train()
    statistics = model.discrete_encoder[1].running_mean.clone()
    alone, together = model.reconstruct(x[:1]), model.reconstruct(x)[:1]
    torch.testing.assert_close(alone, together)
    assert torch.equal(model.discrete_encoder[1].running_mean, statistics)
    assert model.training


def test_matched_start_fits_the_prior(small_model, small_data):
    small_model.match_prior(small_data.train.images, noise=0.2)
    posterior = small_model.posterior(small_data.train.images)
    torch.testing.assert_close(posterior.loc.mean(0), small_model.prior.loc, atol=1e-3, rtol=1e-3)
    variance = posterior.loc.var(0) + posterior.scale.square().mean(0)
    torch.testing.assert_close(variance, small_model.prior.scale.square(), atol=1e-2, rtol=1e-2)


def test_weight_std_reaches_every_network():
    model = GMLVM.for_images((1, 28, 28), weight_std=0.01)
    for name, weight in model.named_parameters():
        if name.endswith("bias"):
            assert (weight == 0).all(), name
        else:
            assert weight.std().item() == pytest.approx(0.01, rel=0.05), name


def test_reading_a_model_leaves_the_global_generator_alone(tmp_path, small_model):
    small_model.train().save(tmp_path / "model.safetensors")
    before = torch.get_rng_state()
    assert not GMLVM.load(tmp_path / "model.safetensors").training
    assert torch.equal(torch.get_rng_state(), before)


def test_a_frozen_part_stays_frozen_through_inference(x):
    model = GMLVM.for_images((1, 6, 5), 4, 3, networks="conv").train()
    model.discrete_encoder.eval()
    model.reconstruct(x)
    assert model.training
    assert not model.discrete_encoder.training


@pytest.mark.parametrize("networks", ["mlp", "conv"])
def test_a_prior_in_float64_makes_a_model_in_float64_that_can_be_saved(tmp_path, networks, x):
    prior = GaussianMixturePrior(torch.randn(4, 3, dtype=torch.float64))
    model = GMLVM.for_images((1, 6, 5), 4, 3, prior=prior, networks=networks).eval()
    assert model.sample(2).dtype == torch.float64
    model.save(tmp_path / "model.safetensors")
    loaded = GMLVM.load(tmp_path / "model.safetensors")
    assert torch.equal(loaded.reconstruct(x), model.reconstruct(x))


def test_posteriors_keep_the_priors_precision_under_autocast(small_model, x):
    with torch.autocast("cpu", torch.bfloat16):
        posterior = small_model.posterior(x)
        assert small_model.decoder_logits(posterior.loc).dtype == torch.bfloat16
    assert posterior.log_probs.dtype == posterior.probs.dtype == torch.float32
    assert posterior.sample().dtype == posterior.scale.dtype == torch.float32
    torch.testing.assert_close(posterior.probs.sum(1), torch.ones(len(x)))
