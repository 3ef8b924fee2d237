"""The model: its methods agree with one another, own networks fit in, and a saved one comes back bit for bit."""

import io
import json
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import asdict

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from gmlvm import GMLVM, FullGaussianMixturePrior, GaussianMixturePrior, fit_prior, storage
from gmlvm.inference import inference
from gmlvm.networks import (
    ComponentEncoder,
    conv_decoder,
    conv_discrete_encoder,
    deep_discrete_encoder,
    mlp_decoder,
    mlp_discrete_encoder,
)

SHAPE, K, D = (1, 6, 5), 4, 3


@pytest.fixture
def x(small_data):
    return small_data.test.images[:8]


class Heads(nn.Module):
    """A continuous encoder of one's own, on a trunk that it may share."""

    def __init__(self, trunk, width):
        super().__init__()
        self.trunk = trunk
        self.loc, self.log_scale = nn.Linear(width, K * D), nn.Linear(width, K * D)

    def forward(self, x):
        features = self.trunk(x)
        return self.loc(features).view(-1, K, D), self.log_scale(features).view(-1, K, D).exp()


class Moves(GaussianMixturePrior):
    """A prior of one's own, whose means are trained."""

    def __init__(self, loc):
        super().__init__(loc)
        del self.loc
        self.loc = nn.Parameter(loc.clone())


def decoder(*end, activation=nn.ReLU):
    return nn.Sequential(nn.Linear(D, 7), activation(), nn.Linear(7, 30), nn.Unflatten(1, SHAPE), *end)


def own(seed=0, **networks):
    """A model of networks of one's own, the encoders on one trunk; ``networks`` take the place of these."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        trunk = nn.Sequential(nn.Flatten(), nn.Linear(30, 9), nn.Tanh())
        parts = {
            "prior": GaussianMixturePrior.simplex(K, D),
            "discrete_encoder": nn.Sequential(trunk, nn.Linear(9, K)),
            "continuous_encoder": Heads(trunk, 9),
            "decoder": decoder(),
        }
        return GMLVM(**parts | networks, image_shape=SHAPE)


def standard(**settings):
    """A model of the standard networks."""
    return GMLVM.for_images(SHAPE, K, D, **{"hidden_dim": 7, "component_hidden_dim": 2, "seed": 1} | settings)


def noisy():
    """A model of whose networks it matters much in which mode they are."""

    def layers(*sizes):
        return nn.Sequential(nn.Linear(*sizes), nn.BatchNorm1d(sizes[1]), nn.Dropout(0.5), nn.ReLU())

    with torch.random.fork_rng():
        torch.manual_seed(0)
        return own(
            discrete_encoder=nn.Sequential(nn.Flatten(), layers(30, 9), nn.Linear(9, K)),
            continuous_encoder=Heads(nn.Sequential(nn.Flatten(), layers(30, 9)), 9),
            decoder=nn.Sequential(layers(D, 9), nn.Linear(9, 30)),
        )


def same(a, b):
    """Whether two states agree bit for bit."""
    return a.keys() == b.keys() and all(torch.equal(tensor, b[name]) for name, tensor in a.items())


def copied(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


class TestMethods:
    def test_posterior_is_that_of_the_encoders(self, small_model, x):
        posterior = small_model.posterior(x)
        loc, scale = small_model.continuous_encoder(x / 255)
        torch.testing.assert_close(posterior.logits, small_model.discrete_encoder(x / 255))
        torch.testing.assert_close(posterior.loc, loc)
        torch.testing.assert_close(posterior.scale, scale)
        assert posterior.logits.shape == (8, K)
        assert posterior.loc.shape == posterior.scale.shape == (8, K, D)

    def test_encode_takes_the_mean_of_the_most_probable_component(self, small_model, x):
        posterior = small_model.posterior(x)
        expected = torch.stack([posterior.loc[i, k] for i, k in enumerate(posterior.logits.argmax(1))])
        torch.testing.assert_close(small_model.encode(x), expected)
        torch.testing.assert_close(small_model.reconstruct(x), small_model.decode(expected))

    def test_decode_is_the_sigmoid_of_the_logits_for_any_leading_shape(self, small_model):
        z = torch.randn(2, 5, D)
        images = small_model.decode(z)
        assert images.shape == (2, 5, *SHAPE)
        torch.testing.assert_close(images, 1 / (1 + (-small_model.decoder_logits(z)).exp()))
        torch.testing.assert_close(images[1, 2], small_model.decode(z[1, 2]))
        assert not images.requires_grad

    def test_sample_decodes_the_priors_codes(self, small_model):
        images = small_model.sample(6, component=2, temperature=0.5, generator=torch.Generator().manual_seed(0))
        z = small_model.prior.sample(6, 2, 0.5, torch.Generator().manual_seed(0))
        torch.testing.assert_close(images, small_model.decode(z))

    def test_interpolation_is_straight_and_ends_at_its_ends(self, small_model, x):
        a, b = torch.randn(2, 3, D)
        images = small_model.interpolate(a, b, steps=5)
        assert images.shape == (3, 5, *SHAPE)
        torch.testing.assert_close(images[:, 0], small_model.decode(a))
        torch.testing.assert_close(images[:, 2], small_model.decode((a + b) / 2))
        torch.testing.assert_close(images[:, -1], small_model.decode(b))
        between_images = small_model.interpolate(x[:2], x[2:4], steps=3)
        torch.testing.assert_close(between_images[:, 0], small_model.reconstruct(x[:2]))
        from_code_to_image = small_model.interpolate(a[:2], x[:2], steps=2)
        torch.testing.assert_close(from_code_to_image[:, 1], small_model.reconstruct(x[:2]))

    def test_matched_start_fits_the_prior(self, small_model, small_data):
        small_model.match_prior(small_data.train.images, noise=0.2)
        posterior = small_model.posterior(small_data.train.images)
        torch.testing.assert_close(posterior.loc.mean(0), small_model.prior.loc, atol=1e-3, rtol=1e-3)
        variance = posterior.loc.var(0) + posterior.scale.square().mean(0)
        torch.testing.assert_close(variance, small_model.prior.scale.square(), atol=1e-2, rtol=1e-2)

    def test_posteriors_keep_the_priors_precision_under_autocast(self, small_model, x):
        with torch.autocast("cpu", torch.bfloat16):
            posterior = small_model.posterior(x)
            assert small_model.decoder_logits(posterior.loc).dtype == torch.bfloat16
        assert posterior.log_probs.dtype == posterior.probs.dtype == torch.float32
        assert posterior.sample().dtype == posterior.scale.dtype == torch.float32
        torch.testing.assert_close(posterior.probs.sum(1), torch.ones(len(x)))


class TestNumPy:
    """Arrays come out of what scikit-learn has too, and go in wherever images and codes do."""

    def test_predictions_are_the_posterior_as_arrays(self, small_model, small_data):
        images = small_data.test.images
        logits = small_model.posterior(images).logits.double().detach().numpy()
        probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        for batch_size in (7, 200, 1000):
            got = small_model.predict_proba(images, batch_size)
            assert got.dtype == np.float64
            np.testing.assert_allclose(got, probs, rtol=1e-5)
            np.testing.assert_allclose(got.sum(1), 1, rtol=1e-12)
            labels = small_model.predict(images, batch_size)
            assert labels.dtype == np.int64
            np.testing.assert_array_equal(labels, probs.argmax(1))
            codes = small_model.transform(images, batch_size)
            assert codes.dtype == np.float64
            np.testing.assert_allclose(codes, small_model.encode(images), rtol=1e-5)

    def test_predicting_does_not_run_the_continuous_encoder(self, small_model, x):
        expected = small_model.predict_proba(x)
        small_model.continuous_encoder = None
        np.testing.assert_array_equal(small_model.predict_proba(x), expected)

    @pytest.mark.parametrize(
        "as_user",
        [
            lambda images: images.numpy(),
            lambda images: images.numpy()[:, 0],
            lambda images: images.numpy().transpose(0, 2, 3, 1),
            lambda images: images.numpy().astype(np.int64),
            lambda images: images.numpy()[::-1].copy()[::-1],
            lambda images: images.numpy().astype(">f4") / 255,
            lambda images: list(images),
            lambda images: [Image.fromarray(image) for image in images[:, 0].numpy()],
        ],
        ids=["uint8", "grey", "channels last", "int64", "reversed", "big-endian", "tensors", "PIL"],
    )
    def test_images_may_be_arrays_or_lists(self, small_model, x, as_user):
        images = as_user(x)
        torch.testing.assert_close(small_model.posterior(images).loc, small_model.posterior(x).loc)
        torch.testing.assert_close(small_model.encode(images), small_model.encode(x))
        torch.testing.assert_close(small_model.reconstruct(images), small_model.reconstruct(x))
        torch.testing.assert_close(small_model.interpolate(images, images, 2), small_model.interpolate(x, x, 2))
        np.testing.assert_allclose(small_model.predict_proba(images), small_model.predict_proba(x), rtol=1e-6)
        np.testing.assert_allclose(small_model.transform(images), small_model.transform(x), rtol=1e-5)
        other = deepcopy(small_model)
        small_model.match_prior(images)
        other.match_prior(x)
        torch.testing.assert_close(small_model.state_dict(), other.state_dict())

    def test_a_shape_that_could_be_read_twice_is_read_as_the_models_own(self):
        model = GMLVM.for_images((3, 8, 3), 2, 2, hidden_dim=4)
        images = np.random.default_rng(0).random((5, 3, 8, 3), dtype=np.float32)
        torch.testing.assert_close(model.encode(images), model.encode(torch.tensor(images)))

    def test_codes_may_be_arrays_or_lists(self, small_model):
        z = np.random.default_rng(0).normal(size=(5, D))
        expected = small_model.decode(torch.tensor(z, dtype=torch.float32))
        frozen = z.copy()
        frozen.flags.writeable = False
        for codes in (z, z.tolist(), z[::-1].copy()[::-1], z.astype(">f8"), frozen, torch.tensor(z)):
            images = small_model.decode(codes)
            assert images.dtype == torch.float32
            torch.testing.assert_close(images, expected)
            torch.testing.assert_close(small_model.interpolate(codes, codes, 2)[:, 1], expected)

    def test_what_it_gives_goes_back_in(self, small_model, x):
        images = small_model.decode(small_model.transform(x))
        torch.testing.assert_close(images, small_model.reconstruct(x))
        assert small_model.predict(images.numpy()).shape == (len(x),)


class TestStart:
    def test_the_seed_decides_the_weights_and_leaves_the_global_generator_alone(self):
        before = torch.get_rng_state()
        first, again, other = (standard(seed=seed).state_dict() for seed in (0, 0, 1))
        assert same(first, again)
        assert not torch.equal(first["decoder.0.weight"], other["decoder.0.weight"])
        assert torch.equal(torch.get_rng_state(), before)

    def test_no_gpus_generator_is_touched(self, monkeypatch):
        touched = []
        for name in ("manual_seed", "manual_seed_all", "set_rng_state", "set_rng_state_all"):
            monkeypatch.setattr(torch.cuda, name, lambda *args, name=name: touched.append(name))
        standard(networks="conv", weight_std=0.01)
        assert touched == []

    @pytest.mark.parametrize("networks", ["mlp", "deep", "conv"])
    def test_the_seed_gives_the_same_weights_whatever_the_default_device_and_the_priors_precision(self, networks):
        prior = GaussianMixturePrior.simplex(K, D)
        expected = standard(prior=prior, networks=networks).state_dict()
        with torch.device("meta"):
            assert same(standard(prior=prior, networks=networks).state_dict(), expected)
        double = standard(prior=deepcopy(prior).double(), networks=networks).state_dict()
        assert double["decoder.0.weight"].dtype == torch.float64
        assert same({name: tensor.to(expected[name]) for name, tensor in double.items()}, expected)

    @pytest.mark.parametrize(
        ("kind", "encoder", "decoder"),
        [
            ("mlp", mlp_discrete_encoder(SHAPE, K, 7), mlp_decoder(SHAPE, D, 7)),
            ("deep", deep_discrete_encoder(SHAPE, K, 7), mlp_decoder(SHAPE, D, 7)),
            ("conv", conv_discrete_encoder(SHAPE, K), conv_decoder(SHAPE, D)),
        ],
        ids=["mlp", "deep", "conv"],
    )
    def test_networks_are_those_of_the_kind(self, kind, encoder, decoder):
        model = standard(networks=kind)
        assert repr(model.discrete_encoder) == repr(encoder)
        assert repr(model.decoder) == repr(decoder)
        assert model.architecture.networks == kind

    def test_the_largest_seed_is_that_of_torch(self):
        assert not same(standard(seed=2**64 - 1).state_dict(), standard().state_dict())
        with pytest.raises(ValueError, match=r"seed must be below 2\^64, got 18446744073709551616"):
            standard(seed=2**64)

    def test_weight_std_reaches_every_network(self):
        model = GMLVM.for_images((1, 28, 28), weight_std=0.01)
        for name, weight in model.named_parameters():
            if name.endswith("bias"):
                assert (weight == 0).all(), name
            else:
                assert weight.std().item() == pytest.approx(0.01, rel=0.05), name

    def test_sizes_may_be_numpys_also_in_a_saved_file(self, tmp_path):
        sizes = {"hidden_dim": np.int32(7), "component_hidden_dim": np.uint8(2), "seed": np.int64(1)}
        model = GMLVM.for_images(tuple(np.array(SHAPE)), np.int64(K), np.int64(D), **sizes)
        assert same(model.state_dict(), standard().state_dict())
        model.save(tmp_path / "model.safetensors")
        assert GMLVM.load(tmp_path / "model.safetensors").architecture == standard().architecture

    def test_a_prior_that_learns_nothing_is_each_models_own(self):
        prior = GaussianMixturePrior.simplex(K, D)
        a, b = standard(prior=prior), standard(prior=prior)
        b.double()
        b.prior.loc.mul_(2)
        assert a.prior.loc.dtype == prior.loc.dtype == torch.float32
        assert torch.equal(a.prior.loc, GaussianMixturePrior.simplex(K, D).loc)
        a.sample(2)

    def test_a_prior_that_learns_becomes_part_of_the_model(self):
        prior = GaussianMixturePrior(torch.randn(K, D), learn="loc")
        model = standard(prior=prior)
        assert any(parameter is prior.loc for parameter in model.parameters())

    def test_copies_are_models_of_their_own(self, x):
        for model in (
            own(),
            standard(prior=GaussianMixturePrior(torch.randn(K, D), learn=("loc", "scale", "weights"))),
        ):
            expected, copy = model.reconstruct(x), deepcopy(model)
            assert torch.equal(copy.reconstruct(x), expected)
            with torch.no_grad():
                for parameter in copy.parameters():
                    parameter.add_(1)
            assert torch.equal(model.reconstruct(x), expected)

    def test_states_pass_through_torchs_own_files(self, x):
        model, other = own(), own(seed=1)
        buffer = io.BytesIO()
        torch.save(model.state_dict(), buffer)
        buffer.seek(0)
        other.load_state_dict(torch.load(buffer, weights_only=True))
        assert torch.equal(other.reconstruct(x), model.reconstruct(x))


class Gives(nn.Module):
    """A network that gives what a function gives."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def pair(shape, scale=1.0):
    return Gives(lambda x: (torch.zeros(len(x), *shape), torch.full((len(x), *shape), scale)))


class TestNetworksAreTriedWhenTheModelIsMade:
    @pytest.mark.parametrize(
        ("networks", "message"),
        [
            (
                {"discrete_encoder": nn.Sequential(nn.Flatten(), nn.Linear(30, K + 1))},
                r"discrete_encoder gives must have shape \(5, 4\) \(batch, num_components\), got \(5, 5\)",
            ),
            (
                {"discrete_encoder": nn.Sequential(nn.Flatten(), nn.Linear(30, K), nn.Softmax(1))},
                "discrete_encoder must give logits.* leave out the softmax",
            ),
            (
                {"discrete_encoder": Gives(lambda x: torch.full((len(x), K), torch.nan))},
                r"q_D\(k\|x\) must be finite",
            ),
            (
                {"continuous_encoder": pair((D, K))},
                r"loc that continuous_encoder gives must have shape \(5, 4, 3\) .*, got \(5, 3, 4\)",
            ),
            (
                {"continuous_encoder": Gives(lambda x: (torch.zeros(K, len(x), D),) * 2)},
                r"loc that continuous_encoder gives must have shape \(5, 4, 3\) .*, got \(4, 5, 3\)",
            ),
            (
                {"continuous_encoder": Gives(lambda x: (torch.zeros(len(x), K, D), torch.ones(len(x), 1, 1)))},
                r"scale that continuous_encoder gives must have shape \(5, 4, 3\) .*, got \(5, 1, 1\)",
            ),
            ({"continuous_encoder": pair((K, D), 0.0)}, "scales .* must be positive and finite"),
            ({"continuous_encoder": pair((K, D), torch.inf)}, "scales .* must be positive and finite"),
            ({"decoder": decoder(nn.Sigmoid())}, "decoder must give logits.* leave out the sigmoid"),
            ({"decoder": decoder(nn.Sigmoid(), activation=nn.Tanh)}, "leave out the sigmoid"),
            (
                {"decoder": decoder(Gives(lambda image: image.movedim(1, 3)))},
                r"decoder gives must have shape \(5, 1, 6, 5\) \(codes, channels.*, got \(5, 6, 5, 1\)",
            ),
            ({"decoder": nn.Linear(D, 31)}, r"must have shape \(5, 1, 6, 5\) .*, got \(5, 31\)"),
            ({"decoder": Gives(lambda z: z.new_full((len(z), *SHAPE), torch.inf))}, "decoder gives must be finite"),
            ({"decoder": nn.Linear(D + 1, 30)}, r"decoder failed on a batch of shape \(5, 3\): .*cannot be mult"),
            (
                {"discrete_encoder": nn.Sequential(nn.Flatten(), nn.Linear(30, K).double())},
                r"discrete_encoder failed on a batch of shape \(5, 1, 6, 5\): .*dtype",
            ),
            ({"continuous_encoder": nn.Conv2d(2, 2, 1)}, r"continuous_encoder failed on a batch of shape \(5, 1, 6"),
        ],
    )  # fmt: skip
    def test_what_cannot_be_what_it_stands_for_is_refused(self, networks, message):
        with pytest.raises(ValueError, match=message):
            own(**networks)

    def test_what_is_no_network_or_gives_no_tensor_is_refused(self):
        with pytest.raises(TypeError, match="decoder must be of type Module, got function"):
            own(decoder=lambda z: z)
        with pytest.raises(TypeError, match="prior must be of type Prior, got Normal"):
            own(prior=torch.distributions.Normal(0, 1))
        with pytest.raises(TypeError, match="must give a pair, loc and scale, got Tensor"):
            own(continuous_encoder=nn.Flatten())
        with pytest.raises(TypeError, match=r"what decoder gives must be a torch\.Tensor, got list"):
            own(decoder=Gives(list))

    @pytest.mark.parametrize("seed", range(5))
    def test_a_log_scale_in_the_place_of_a_scale_is_refused(self, seed):
        class Slip(Heads):
            def forward(self, x):
                loc, scale = super().forward(x)
                return loc, scale.log()

        with torch.random.fork_rng():
            torch.manual_seed(seed)
            slip = Slip(nn.Flatten(), 30)
        with pytest.raises(ValueError, match="is it a log-scale, give its exponential"):
            own(continuous_encoder=slip)

    def test_scales_that_are_not_positive_are_refused_later_too(self, x):
        model = own()
        with torch.no_grad():
            model.continuous_encoder.log_scale.bias[5] = -torch.inf
        for call in (model.posterior, model.encode, model.reconstruct, model.transform):
            with pytest.raises(ValueError, match="positive and finite, got values from 0 to"):
                call(x)

    def test_flat_images_from_the_decoder_are_folded(self, x):
        flat = nn.Linear(D, 30)
        model = own(decoder=flat)
        codes = torch.randn(2, 5, D)
        torch.testing.assert_close(model.decoder_logits(codes), flat(codes).reshape(2, 5, *SHAPE))
        assert model.reconstruct(x).shape == x.shape
        assert model(x / 255)[2].shape == x.shape

    def test_a_last_layer_of_zeros_and_a_constant_image_pass(self):
        start = decoder()
        for value in (0.0, 0.3):
            nn.init.zeros_(start[2].weight)
            nn.init.constant_(start[2].bias, value)
            own(decoder=start)

    @pytest.mark.parametrize("networks", ["mlp", "conv"])
    def test_logits_that_happen_to_lie_between_zero_and_one_pass(self, networks):
        # One pixel, or a shared bias that outweighs small weights: about half of these give such logits at their start.
        for seed in range(10):
            GMLVM.for_images((1, 1, 1), 2, 1, networks=networks, seed=seed)
            GMLVM.for_images((1, 6, 5), 3, 2, networks=networks, seed=seed, weight_std=0.01)

    def test_a_component_may_be_ruled_out(self, x):
        class Never(nn.Linear):
            def forward(self, features):
                return super().forward(features).index_fill(1, torch.tensor([2]), -torch.inf)

        probs = own(discrete_encoder=nn.Sequential(nn.Flatten(), Never(30, K))).predict_proba(x)
        assert (probs[:, 2] == 0).all()
        np.testing.assert_allclose(probs.sum(1), 1)

    def test_lazy_layers_get_their_shapes_and_weights_that_differ_each_time(self, x):
        first, second = (own(discrete_encoder=nn.Sequential(nn.Flatten(), nn.LazyLinear(K))) for _ in range(2))
        assert first.discrete_encoder[1].in_features == 30
        assert first.predict(x).shape == (8,)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            prior, codes = GaussianMixturePrior.simplex(K, D), ComponentEncoder(SHAPE, K, D)
            first, second = (
                GMLVM(prior, nn.Sequential(nn.Flatten(), nn.LazyLinear(K)), codes, decoder, SHAPE)
                for decoder in (first.decoder, second.decoder)
            )
        assert not torch.equal(first.discrete_encoder[1].weight, second.discrete_encoder[1].weight)

    def test_trying_leaves_no_trace(self):
        class Noise(nn.Module):
            def forward(self, features):
                return features + torch.randn_like(features)

        model = noisy().train()
        model.decoder.append(Noise())
        model.discrete_encoder.eval()
        modes = [module.training for module in model.modules()]
        state, before = copied(model), torch.get_rng_state()
        parts = (model.prior, model.discrete_encoder, model.continuous_encoder, model.decoder)
        again = GMLVM(*parts, SHAPE)
        assert torch.equal(torch.get_rng_state(), before)
        assert same(again.state_dict(), state)
        assert [module.training for module in model.modules()] == modes
        assert all(parameter.grad is None for parameter in model.parameters())


class TestInference:
    def test_uses_evaluation_mode_and_restores_training_mode(self, x):
        model = standard(networks="conv").train()
        statistics = model.discrete_encoder[1].running_mean.clone()
        alone, together = model.reconstruct(x[:1]), model.reconstruct(x)[:1]
        torch.testing.assert_close(alone, together)
        assert torch.equal(model.discrete_encoder[1].running_mean, statistics)
        assert model.training

    def test_a_part_in_evaluation_mode_stays_there(self, x):
        model = standard(networks="conv").train()
        model.discrete_encoder.eval()
        model.reconstruct(x)
        assert model.training
        assert not model.discrete_encoder.training

    def test_modes_and_gradients_are_restored_after_an_error_and_by_the_outermost_alone(self):
        model = noisy().train()

        def interrupted():
            with inference(model):
                with inference(model):
                    assert not model.training
                assert not model.training
                assert not torch.is_grad_enabled()
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            interrupted()
        assert all(module.training for module in model.modules())
        assert torch.is_grad_enabled()

    @pytest.mark.parametrize("training", [True, False])
    def test_threads_that_share_a_model_get_what_one_alone_gets(self, x, training):
        class Slow(nn.Module):
            def forward(self, features):
                time.sleep(0.003 * random.random())  # so that the threads overtake one another
                return features

        model = noisy()
        model.discrete_encoder.insert(0, Slow())
        model.decoder.insert(0, Slow())
        model.train(training)
        images, probs, state = model.reconstruct(x), model.predict_proba(x), copied(model)
        with ThreadPoolExecutor(4) as threads:
            results = list(threads.map(lambda _: (model.reconstruct(x), model.predict_proba(x)), range(12)))
        assert all(torch.equal(got, images) and np.array_equal(proba, probs) for got, proba in results)
        assert all(module.training is training for module in model.modules())
        assert same(model.state_dict(), state)

    def test_a_thread_that_leaves_does_not_take_another_back_to_training_mode(self):
        class Overtaken(nn.Module):
            """Lets the thread that comes first leave while the second is inside, if that can be."""

            def __init__(self):
                super().__init__()
                self.calls, self.second_is_inside, self.first_has_left = 0, threading.Event(), threading.Event()

            def forward(self, z):
                self.calls += 1
                if self.calls == 1:
                    self.second_is_inside.wait(timeout=0.2)
                else:
                    self.second_is_inside.set()
                    self.first_has_left.wait(timeout=10)
                return z

        model, z = noisy().train(), torch.randn(8, D)
        expected = model.decode(z)
        model.decoder.insert(0, Overtaken())
        with ThreadPoolExecutor(2) as threads:
            first = threads.submit(model.decode, z)
            first.add_done_callback(lambda _: model.decoder[0].first_has_left.set())
            second = threads.submit(model.decode, z)
        assert torch.equal(first.result(), expected)
        assert torch.equal(second.result(), expected)
        assert all(module.training for module in model.modules())

    def test_threads_use_a_model_in_evaluation_mode_at_once(self, x):
        class Meet(nn.Module):
            barrier = None

            def forward(self, features):
                if self.barrier:
                    self.barrier.wait(timeout=10)
                return features

        model = own(decoder=decoder(Meet())).eval()
        Meet.barrier = threading.Barrier(2)
        with ThreadPoolExecutor(2) as threads:
            first, second = threads.map(model.reconstruct, (x, x))
        assert torch.equal(first, second)


class TestExport:
    """``forward`` is what one exports: for any batch size it gives what the methods give."""

    def check(self, exported, model):
        for count in (1, 2, 9):
            x = torch.rand(count, *SHAPE)
            probs, code, image = exported(x)
            np.testing.assert_allclose(probs.detach(), model.predict_proba(x), atol=1e-6)
            torch.testing.assert_close(code, model.encode(x))
            torch.testing.assert_close(image, model.reconstruct(x))

    @pytest.fixture(params=["mlp", "deep", "conv", "own", "full"])
    def model(self, request):
        if request.param == "full":
            return standard(prior=full_prior()).eval()
        return (own() if request.param == "own" else standard(networks=request.param)).eval()

    def test_forward_gives_probabilities_code_and_image(self, model):
        self.check(model, model)

    def test_torch_export(self, model):
        batch = torch.export.Dim("batch")
        program = torch.export.export(model, (torch.rand(3, *SHAPE),), dynamic_shapes=({0: batch},))
        self.check(program.module(), model)

    @pytest.mark.filterwarnings("ignore:.torch.jit.trace:FutureWarning", "ignore:.torch.jit.trace:DeprecationWarning")
    def test_tracing(self, model):
        self.check(torch.jit.trace(model, torch.rand(3, *SHAPE)), model)

    def test_onnx(self, model, tmp_path):
        pytest.importorskip("onnxscript")
        runtime = pytest.importorskip("onnxruntime")
        shapes = ({0: torch.export.Dim("batch")},)
        path = tmp_path / "model.onnx"
        torch.onnx.export(model, (torch.rand(3, *SHAPE),), path, dynamic_shapes=shapes, dynamo=True, verbose=False)
        session = runtime.InferenceSession(path)
        (name,) = (argument.name for argument in session.get_inputs())
        self.check(lambda x: map(torch.tensor, session.run(None, {name: x.numpy()})), model)


PRIORS = {
    "fixed": lambda: GaussianMixturePrior(torch.randn(K, D), torch.rand(K, D) + 0.1, torch.randn(K)),
    "learned": lambda: GaussianMixturePrior(
        torch.randn(K, D), torch.rand(K, D) + 0.1, torch.randn(K), learn=("loc", "scale", "weights")
    ),
    "partly learned": lambda: GaussianMixturePrior(torch.randn(K, D), torch.rand(K, D) + 0.1, learn="scale"),
    "float64": lambda: GaussianMixturePrior(torch.randn(K, D, dtype=torch.float64)),
    "full": lambda: full_prior(),
    "full, learned": lambda: full_prior(learn=("loc", "scale", "weights")),
    "full, partly learned": lambda: full_prior(learn="scale"),
    "full, float64": lambda: full_prior(torch.float64),
}


def full_prior(dtype=torch.float32, learn=()):
    factor = torch.rand(K, D, D, dtype=dtype).tril() + 0.1 * torch.eye(D, dtype=dtype)
    return FullGaussianMixturePrior(torch.randn(K, D, dtype=dtype), factor, torch.randn(K), learn=learn)


class TestSavedModels:
    @pytest.fixture
    def path(self, tmp_path):
        return tmp_path / "model.safetensors"

    @pytest.mark.parametrize("prior", PRIORS)
    @pytest.mark.parametrize("networks", ["mlp", "deep", "conv"])
    def test_a_saved_model_comes_back_bit_for_bit(self, path, networks, prior, x):
        model = standard(prior=PRIORS[prior](), networks=networks).eval()
        assert model.can_be_rebuilt
        model.save(path)
        loaded = GMLVM.load(path)
        assert loaded.architecture == model.architecture
        assert loaded.can_be_rebuilt
        assert same(loaded.state_dict(), model.state_dict())
        trained, wanted = ({n for n, p in m.named_parameters() if p.requires_grad} for m in (loaded, model))
        assert trained == wanted
        for name in ("logits", "loc", "scale"):
            assert torch.equal(getattr(loaded.prior, name), getattr(model.prior, name))
        assert loaded.prior.learn == model.prior.learn
        draws = [m.prior.sample_each(3, torch.Generator().manual_seed(0)) for m in (loaded, model)]
        assert torch.equal(*draws)  # of a full covariance scales are not all
        assert loaded.sample(2).dtype == model.prior.loc.dtype
        assert torch.equal(loaded.reconstruct(x), model.reconstruct(x))
        assert not loaded.training

    def test_a_saved_file_is_tensors_and_json_without_pickle(self, path, small_model):
        small_model.save(path)
        content = path.read_bytes()
        length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + length])
        assert json.loads(header["__metadata__"]["gmlvm"])["architecture"]["num_components"] == 4
        tensors = [entry for name, entry in header.items() if name != "__metadata__"]
        assert max(entry["data_offsets"][1] for entry in tensors) == len(content) - 8 - length

    def test_reading_leaves_the_global_generator_alone_whatever_the_default_device(self, path, small_model):
        small_model.train().save(path)
        assert small_model.training
        before = torch.get_rng_state()
        with torch.device("meta"):
            loaded = GMLVM.load(path)
        assert same(loaded.state_dict(), small_model.state_dict())
        assert torch.equal(torch.get_rng_state(), before)

    def test_a_tilde_is_the_home_folder(self, tmp_path, monkeypatch, small_model):
        monkeypatch.setenv("HOME", str(tmp_path))
        small_model.save("~/model.safetensors")
        assert (tmp_path / "model.safetensors").is_file()
        assert same(GMLVM.load("~/model.safetensors").state_dict(), small_model.state_dict())

    def test_own_networks_on_a_shared_trunk_load_into_a_model_that_the_reader_builds(self, path, x):
        model, other = own(seed=0), own(seed=1)
        assert not model.can_be_rebuilt
        assert model.discrete_encoder[0] is model.continuous_encoder.trunk
        model.save(path)
        with pytest.raises(ValueError, match=r"networks or a prior of its own.*GMLVM.load\(path, into=model\)"):
            GMLVM.load(path)
        assert not torch.equal(other.reconstruct(x), model.reconstruct(x))
        assert GMLVM.load(path, into=other) is other
        assert torch.equal(other.reconstruct(x), model.reconstruct(x))
        assert other.discrete_encoder[0] is other.continuous_encoder.trunk
        assert not other.training

    def test_tied_weights_stay_tied(self, path, x):
        def tied(seed):
            layer = nn.Linear(30, 30)
            model = own(seed, discrete_encoder=nn.Sequential(nn.Flatten(), layer, nn.Linear(30, K)))
            model.decoder.append(nn.Sequential(nn.Flatten(), nn.Linear(30, 30), nn.Unflatten(1, SHAPE)))
            model.decoder[-1][1].weight = layer.weight
            return model

        model, other = tied(0), tied(1)
        model.save(path)
        GMLVM.load(path, into=other)
        assert torch.equal(other.reconstruct(x), model.reconstruct(x))
        assert other.decoder[-1][1].weight is other.discrete_encoder[1].weight

    def test_a_decoder_that_was_replaced(self, path, x):
        model, other = standard(), standard(seed=2)
        model.decoder, other.decoder = decoder(), decoder()
        assert not model.can_be_rebuilt
        model.save(path)
        with pytest.raises(ValueError, match="networks or a prior of its own"):
            GMLVM.load(path)
        assert torch.equal(GMLVM.load(path, into=other).reconstruct(x), model.reconstruct(x))

    def test_a_layer_that_was_replaced(self, path, x):
        model = standard()
        model.decoder[1] = nn.Tanh()
        assert not model.can_be_rebuilt
        model.save(path)
        with pytest.raises(ValueError, match="networks or a prior of its own"):
            GMLVM.load(path)
        other = standard(seed=2)
        before = copied(other)
        with pytest.raises(
            ValueError, match=r"does not fit .*decoder.1: Tanh\(.*\) there, ReLU\(.*\) here.*strict=False"
        ):
            GMLVM.load(path, into=other)
        assert same(other.state_dict(), before)
        GMLVM.load(path, into=other, strict=False)
        assert same(other.state_dict(), model.state_dict())
        assert not torch.equal(other.reconstruct(x), model.reconstruct(x))
        other.decoder[1] = nn.Tanh()
        assert torch.equal(GMLVM.load(path, into=other).reconstruct(x), model.reconstruct(x))

    def test_a_setting_without_a_weight_that_differs_is_noticed(self, path):
        model, other = own(decoder=decoder(nn.Dropout(0.1))), own(decoder=decoder(nn.Dropout(0.2)))
        model.save(path)
        with pytest.raises(ValueError, match=r"decoder.4: Dropout\(p=0.1.* there, Dropout\(p=0.2.* here"):
            GMLVM.load(path, into=other)

    def test_a_part_that_was_added_is_noticed(self, path):
        model = standard()
        model.critic = nn.Linear(D, 1)
        assert not model.can_be_rebuilt
        model.save(path)
        with pytest.raises(ValueError, match="networks or a prior of its own"):
            GMLVM.load(path)
        with pytest.raises(ValueError, match=r"critic.weight: \(1, 3\) there, nothing here"):
            GMLVM.load(path, into=standard())

    def test_standard_networks_load_into_the_same_however_they_were_made(self, path):
        model, other = standard(), standard(seed=2)
        model.save(path)
        parts = (other.prior, other.discrete_encoder, other.continuous_encoder, other.decoder)
        by_hand = GMLVM(*parts, SHAPE)
        assert not by_hand.can_be_rebuilt
        assert same(GMLVM.load(path, into=by_hand).state_dict(), model.state_dict())

    def test_a_prior_of_ones_own_with_a_trainable_mean(self, path):
        model, other = (standard(prior=Moves(torch.randn(K, D))) for _ in range(2))
        assert not model.can_be_rebuilt
        model.save(path)
        with pytest.raises(ValueError, match="networks or a prior of its own"):
            GMLVM.load(path)
        GMLVM.load(path, into=other)
        assert torch.equal(other.prior.loc, model.prior.loc)
        assert other.prior.loc.requires_grad
        with pytest.raises(ValueError, match=r"prior: test_model\.Moves\(.* there, GaussianMixturePrior\(.* here"):
            GMLVM.load(path, into=standard())

    def test_a_prior_fitted_afterwards_is_saved_with_the_model(self, path, small_model, small_data):
        fit_prior(small_model, small_data)
        small_model.save(path)
        loaded = GMLVM.load(path)
        assert isinstance(loaded.prior, FullGaussianMixturePrior)
        assert torch.equal(loaded.prior.scale_tril, small_model.prior.scale_tril)
        with pytest.raises(ValueError, match=r"prior.scale_tril: \(4, 3, 3\) there, nothing here"):
            GMLVM.load(path, into=standard(hidden_dim=12, component_hidden_dim=5))

    def test_a_prior_of_a_kind_that_is_not_known_is_named(self, path):
        model = standard()
        header = {"architecture": asdict(model.architecture), "prior": "spherical", "learn": []}
        storage.write(path, "gmlvm model", header, model.state_dict())
        with pytest.raises(ValueError, match="cannot be built: no prior of kind 'spherical'"):
            GMLVM.load(path)

    def test_what_another_version_describes_in_other_words_is_built_by_its_sizes(self, path):
        model = standard()
        header = {"architecture": asdict(model.architecture), "learn": [], "structure": {"decoder.1": "Rectifier()"}}
        storage.write(path, "gmlvm model", header, model.state_dict())
        assert same(GMLVM.load(path).state_dict(), model.state_dict())
        with pytest.raises(ValueError, match=r"decoder.1: Rectifier\(\) there, ReLU\(.* here"):
            GMLVM.load(path, into=model)

    def test_a_subclass_loads_its_own_files(self, path):
        class Mine(GMLVM):
            def brightness(self):
                return self.sample(2).mean()

        model = Mine.for_images(SHAPE, K, D, hidden_dim=7)
        model.save(path)
        loaded = Mine.load(path)
        assert isinstance(loaded, Mine)
        assert same(loaded.state_dict(), model.state_dict())

    @pytest.mark.parametrize("strict", [True, False])
    @pytest.mark.parametrize(
        ("other", "message"),
        [
            (lambda: own(decoder=nn.Linear(D, 30)), r"decoder.0.bias: \(7,\) there, nothing here"),
            (
                lambda: own(decoder=nn.Sequential(nn.Linear(D, 8), nn.ReLU(), nn.Linear(8, 30))),
                r"decoder.0.bias: \(7,\) there, \(8,\) here; decoder.0.weight: \(7, 3\) there, \(8, 3\) here",
            ),
        ],
    )
    def test_a_model_whose_weights_do_not_fit_is_left_as_it_was(self, path, other, message, strict):
        own().save(path)
        model = other().train()
        before = copied(model)
        with pytest.raises(ValueError, match=r"does not fit the model to load into \(" + message):
            GMLVM.load(path, into=model, strict=strict)
        assert same(model.state_dict(), before)
        assert model.training

    def test_frozen_weights_are_loaded_and_stay_frozen(self, path):
        model, other = own(), own(seed=1)
        other.decoder.requires_grad_(False)
        model.save(path)
        assert same(GMLVM.load(path, into=other).state_dict(), model.state_dict())
        assert not any(parameter.requires_grad for parameter in other.decoder.parameters())

    def test_what_to_load_into_is_a_model(self, path):
        own().save(path)
        with pytest.raises(TypeError, match="into must be of type GMLVM, got Sequential"):
            GMLVM.load(path, into=decoder())

    def test_a_state_that_is_no_tensor_cannot_be_saved(self, path):
        class Counts(nn.Identity):
            def get_extra_state(self):
                return {"calls": 3}

        model = own(decoder=decoder(Counts()))
        with pytest.raises(TypeError, match=r"decoder.4._extra_state .* must be of type Tensor, got dict"):
            model.save(path)
        assert not path.exists()


class TestModelsSavedInFewerBits:
    """The networks' values are rounded in the file, and nothing else is."""

    @pytest.fixture
    def path(self, tmp_path):
        return tmp_path / "model.safetensors"

    @staticmethod
    def expected(model, dtype):
        """The state that comes back: rounded, in the dtypes of the model."""
        state = model.state_dict()
        return {
            name: tensor if name.startswith("prior.") or tensor.dtype == torch.int64 else tensor.to(dtype).to(tensor)
            for name, tensor in state.items()
        }

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
    @pytest.mark.parametrize("prior", ["fixed", "full, learned", "float64"])
    def test_the_networks_come_back_rounded_and_the_prior_bit_for_bit(self, path, prior, dtype):
        model = standard(prior=PRIORS[prior](), networks="deep").eval()
        model.save(path, dtype=dtype)
        header, tensors = storage.read(path, "gmlvm model")
        assert header["stored"] == str(dtype).removeprefix("torch.")
        assert tensors["decoder.0.weight"].dtype == tensors["discrete_encoder.2.running_var"].dtype == dtype
        assert tensors["discrete_encoder.2.num_batches_tracked"].dtype == torch.int64
        loaded = GMLVM.load(path)
        assert loaded.dtype == model.dtype
        for name, tensor in loaded.state_dict().items():
            assert tensor.dtype == model.state_dict()[name].dtype, name
        assert same(loaded.state_dict(), self.expected(model, dtype))
        assert same(loaded.prior.state_dict(), model.prior.state_dict())
        if dtype is torch.float64:
            assert same(loaded.state_dict(), model.state_dict())

    def test_sixteen_bits_take_half_the_room(self, path):
        model = standard(hidden_dim=300)
        model.save(path)
        whole = path.stat().st_size
        model.save(path, dtype=torch.float16)
        assert path.stat().st_size < 0.52 * whole

    def test_what_was_rounded_once_stays_as_it_is(self, path):
        standard().save(path, dtype=torch.float16)
        header, tensors = storage.read(path, "gmlvm model")
        GMLVM.load(path).save(path, dtype=torch.float16)
        again, same_tensors = storage.read(path, "gmlvm model")
        assert again == header
        assert same(same_tensors, tensors)

    def test_they_load_into_networks_of_ones_own(self, path, x):
        model, other = own(), own(seed=1)
        model.save(path, dtype=torch.bfloat16)
        assert GMLVM.load(path, into=other) is other
        assert other.dtype == torch.float32
        assert same(other.state_dict(), self.expected(model, torch.bfloat16))
        torch.testing.assert_close(other.reconstruct(x), model.reconstruct(x), rtol=0, atol=0.02)
        assert other.discrete_encoder[0] is other.continuous_encoder.trunk

    @pytest.mark.parametrize(
        ("dtype", "value"), [(torch.float16, 65520.0), (torch.float16, -1e5), (torch.bfloat16, 3.4e38)]
    )
    def test_a_value_that_is_too_large_is_named(self, path, dtype, value):
        path.write_bytes(b"what was there")
        model = standard()
        with torch.no_grad():
            model.decoder[2].bias[3] = value
        with pytest.raises(
            ValueError, match=rf"must lie within ±[\d.e+]+ to be written in {dtype}, .* decoder.2.bias$"
        ):
            model.save(path, dtype=dtype)
        assert path.read_bytes() == b"what was there"

    def test_a_large_value_of_the_prior_is_no_hindrance(self, path):
        model = standard(prior=GaussianMixturePrior(1e6 * torch.randn(K, D)))
        model.save(path, dtype=torch.float16)
        assert torch.equal(GMLVM.load(path).prior.loc, model.prior.loc)

    @pytest.mark.parametrize(
        ("dtype", "error", "message"),
        [
            ("float16", TypeError, "dtype must be of type dtype, got str"),
            (torch.int8, ValueError, "dtype must be one of torch.float16, .*; got torch.int8"),
            (torch.complex64, ValueError, "dtype must be one of .*; got torch.complex64"),
            (torch.float8_e4m3fn, ValueError, "dtype must be one of .*; got torch.float8_e4m3fn"),
        ],
    )
    def test_another_dtype_is_refused(self, path, small_model, dtype, error, message):
        with pytest.raises(error, match=message):
            small_model.save(path, dtype=dtype)
        assert not path.exists()

    def test_without_a_dtype_the_file_is_as_it_was(self, path):
        standard().save(path)
        header, tensors = storage.read(path, "gmlvm model")
        assert set(header) == {"kind", "structure", "architecture", "prior", "learn"}
        assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}


class TestFilesOfVersion01:
    """They have no digest and no structure: the architecture, and tensors under the same names."""

    NAMES = (
        "prior.logits", "prior.loc", "prior.scale",
        "discrete_encoder.1.weight", "discrete_encoder.1.bias", "discrete_encoder.3.weight", "discrete_encoder.3.bias",
        "continuous_encoder.weight", "continuous_encoder.bias",
        "continuous_encoder.hidden.weight", "continuous_encoder.hidden.bias",
        "decoder.0.weight", "decoder.0.bias", "decoder.2.weight", "decoder.2.bias",
        "decoder.4.weight", "decoder.4.bias",
    )  # fmt: skip

    def write(self, path, model, **changes):
        header = {"kind": "gmlvm model", "architecture": asdict(model.architecture)} | changes
        save_file(model.state_dict(), path, {"gmlvm": json.dumps(header)})

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_load(self, tmp_path, x, dtype):
        model = standard(prior=GaussianMixturePrior(torch.randn(K, D, dtype=dtype), torch.rand(K, D) + 0.1))
        assert set(model.state_dict()) == set(self.NAMES)
        self.write(tmp_path / "old.safetensors", model)
        for loaded in (
            GMLVM.load(tmp_path / "old.safetensors"),
            GMLVM.load(tmp_path / "old.safetensors", into=standard(prior=model.prior, seed=2)),
        ):
            assert same(loaded.state_dict(), model.state_dict())
            assert torch.equal(loaded.reconstruct(x), model.reconstruct(x))

    @pytest.mark.parametrize(
        "architecture",
        [
            None,
            [],
            "mlp",
            3,
            {},
            {"image_shape": [1, 6]},
            {"image_shape": [1, 6, 5], "layers": 2},
            {"image_shape": None},
        ],
    )
    def test_a_header_that_is_no_architecture_is_refused(self, tmp_path, architecture):
        self.write(tmp_path / "old.safetensors", standard(), architecture=architecture)
        with pytest.raises(
            ValueError, match=r"old.safetensors (names an architecture that cannot be built|holds a model)"
        ):
            GMLVM.load(tmp_path / "old.safetensors")

    def test_weights_of_another_size_are_refused(self, tmp_path):
        sizes = asdict(standard().architecture)
        self.write(tmp_path / "old.safetensors", standard(), architecture=sizes | {"hidden_dim": 8})
        with pytest.raises(ValueError, match=r"does not fit .*decoder.0.bias: \(7,\) there, \(8,\) here"):
            GMLVM.load(tmp_path / "old.safetensors")
        self.write(tmp_path / "old.safetensors", standard(), architecture=sizes | {"latent_dim": 4})
        with pytest.raises(ValueError, match=r"cannot be built: prior must have .*latent_dim=4, got 4 and 3"):
            GMLVM.load(tmp_path / "old.safetensors")


class TestWeightsThatAreNotFinite:
    """A model that has them says so, whatever it is asked for."""

    @pytest.fixture(params=["discrete_encoder.1.weight", "continuous_encoder.bias", "decoder.4.bias", "prior.loc"])
    def name(self, request):
        return request.param

    @pytest.fixture
    def model(self, name):
        model = standard()
        with torch.no_grad():
            model.state_dict()[name].view(-1)[0] = torch.nan
        return model

    def test_it_is_not_saved(self, tmp_path, model, name):
        path = tmp_path / "model.safetensors"
        path.write_bytes(b"what was there")
        with pytest.raises(ValueError, match=f"weights must be finite, got NaN or infinity in {name}"):
            model.save(path)
        assert path.read_bytes() == b"what was there"

    def test_it_is_not_loaded(self, tmp_path, model, name):
        path = tmp_path / "model.safetensors"
        TestFilesOfVersion01().write(path, model)
        other = standard()
        before = copied(other)
        for into in (None, other):
            with pytest.raises(ValueError, match=f"weights must be finite, got NaN or infinity in {name}"):
                GMLVM.load(path, into=into)
        assert same(other.state_dict(), before)

    def test_it_gives_no_images_codes_or_predictions(self, model, name, x):
        calls = {
            "discrete_encoder": (model.posterior, model.encode, model.transform, model.predict, model.predict_proba),
            "continuous_encoder": (model.posterior, model.encode, model.transform, model.reconstruct),
            "decoder": (model.reconstruct, lambda x: model.decode(torch.zeros(2, D)), lambda x: model.sample(2)),
            "prior": (lambda x: model.sample(8, component=0),),
        }
        for call in calls[name.partition(".")[0]]:
            with pytest.raises(ValueError, match="must be finite"):
                call(x)

    def test_weights_of_the_prior_are_looked_at_before_they_are_drawn_from(self):
        model = standard()
        model.prior.logits[0] = torch.nan
        with pytest.raises(ValueError, match="the prior's weights must be finite"):
            model.sample(2)

    def test_codes_that_are_not_finite_are_refused(self, small_model):
        with pytest.raises(ValueError, match="z must be finite"):
            small_model.decode(np.full((2, D), np.nan))
