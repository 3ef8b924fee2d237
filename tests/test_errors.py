"""Bad input: each gives the error that says what was expected and what came, before any work is done."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from gmlvm import GMLVM, MMD, VAE, WAE, GaussianMixturePrior, datasets, evaluate, fit, metrics, networks, plots
from gmlvm.enumeration import Resampled, TopM, Truncated
from gmlvm.kernels import InverseMultiquadratic
from gmlvm.kl import categorical_kl, gaussian_kl
from gmlvm.mmd import squared_mmd
from gmlvm.vat import Smoothness
from gmlvm_book.interactive import hover_map

nan, inf = float("nan"), float("inf")
GREY = np.zeros((4, 6, 5), dtype=np.uint8)
PRIOR = GaussianMixturePrior.simplex(4, 3)
MODEL = GMLVM.for_images((1, 6, 5), 4, 3, hidden_dim=4, component_hidden_dim=2)
DATA = datasets.from_arrays(GREY, [0, 1, 2, 3])
KERNEL = InverseMultiquadratic((1.0,))
X = torch.zeros(2, 1, 6, 5)
PIXELS, MAP = np.zeros((1, 1, 2, 2)), {"digit": [0]}


def train(**options):
    settings = {"steps": 1, "batch_size": 2, "progress": False, "device": "cpu"} | options
    model, objective, data = (settings.pop(n, d) for n, d in (("model", MODEL), ("objective", VAE()), ("data", DATA)))
    return fit(model, objective, data, **settings)


def mmd(probs=(5, 3), z=(5, 3, 2), prior_probs=(3,), prior_z=(3, 4, 2), on="pairs"):
    return squared_mmd(*map(torch.ones, (probs, z, prior_probs, prior_z)), KERNEL, on)


CASES = {
    # the prior
    "loc no tensor": (lambda: GaussianMixturePrior([[0.0]]), TypeError, r"loc must be a torch.Tensor, got list"),
    "loc rank": (lambda: GaussianMixturePrior(torch.zeros(3)), ValueError, r"loc must have shape \(\*, \*\).*got \(3,\)"),
    "loc integer": (lambda: GaussianMixturePrior(torch.zeros(3, 2).long()), TypeError, "floating point, got torch.int64"),
    "loc empty": (lambda: GaussianMixturePrior(torch.zeros(0, 2)), ValueError, "at least one component"),
    "loc nan": (lambda: GaussianMixturePrior(torch.full((2, 2), nan)), ValueError, "all finite"),
    "scale zero": (lambda: GaussianMixturePrior(torch.zeros(2, 2), 0.0), ValueError, "scale must be positive"),
    "scale nan": (lambda: GaussianMixturePrior(torch.zeros(2, 2), nan), ValueError, "scale must be positive"),
    "scale shape": (
        lambda: GaussianMixturePrior(torch.zeros(2, 2), torch.ones(3)), ValueError, r"broadcast to \(2, 2\), got shape \(3,\)"
    ),
    "logits shape": (
        lambda: GaussianMixturePrior(torch.zeros(2, 2), logits=torch.zeros(3)), ValueError, r"logits must have shape \(2\)"
    ),
    "logits infinite": (
        lambda: GaussianMixturePrior(torch.zeros(2, 2), logits=torch.tensor([0.0, inf])), ValueError, "logits must be finite"
    ),
    "simplex too many": (lambda: GaussianMixturePrior.simplex(10, 8), ValueError, "needs latent_dim >= 9, got 8"),
    "scattered K one": (lambda: GaussianMixturePrior.scattered(1, 2), ValueError, "num_components must be at least 2, got 1"),
    "scattered D one": (lambda: GaussianMixturePrior.scattered(3, 1), ValueError, "latent_dim must be at least 2, got 1"),
    "scattered edge": (lambda: GaussianMixturePrior.scattered(3, 2, edge=0.0), ValueError, r"edge must be .* in \(0, inf\], got 0"),
    "scattered seed": (lambda: GaussianMixturePrior.scattered(3, 2, seed=-1), ValueError, "seed must be at least 0, got -1"),
    "simplex K zero": (lambda: GaussianMixturePrior.simplex(0, 2), ValueError, "num_components must be at least 1, got 0"),
    "simplex K float": (lambda: GaussianMixturePrior.simplex(3.0, 2), TypeError, "num_components must be an integer, got 3.0"),
    "simplex D zero": (lambda: GaussianMixturePrior.simplex(3, 0), ValueError, "latent_dim must be at least 1, got 0"),
    "simplex edge": (lambda: GaussianMixturePrior.simplex(3, 2, edge=0.0), ValueError, r"edge must be .* in \(0, inf\], got 0"),
    "simplex scale": (lambda: GaussianMixturePrior.simplex(3, 2, scale=-1.0), ValueError, "scale must be .* got -1"),
    "log_prob shape": (lambda: PRIOR.log_prob(torch.zeros(5, 2)), ValueError, r"shape \(..., 3\), got \(5, 2\)"),
    "responsibilities shape": (
        lambda: PRIOR.log_responsibilities(torch.zeros(5, 2)), ValueError, r"shape \(..., 3\), got \(5, 2\)"
    ),
    "sample n": (lambda: PRIOR.sample(0), ValueError, "n must be at least 1, got 0"),
    "sample component": (lambda: PRIOR.sample(2, component=4), ValueError, r"component must lie in 0..3, got 4"),
    "sample component type": (lambda: PRIOR.sample(2, component=1.5), TypeError, "integer or an int64 tensor, got 1.5"),
    "sample components": (
        lambda: PRIOR.sample(2, component=torch.tensor([0])), ValueError, r"component must have shape \(2\).*got \(1,\)"
    ),
    "sample each": (lambda: PRIOR.sample_each(0), ValueError, "samples must be at least 1, got 0"),
    "sample temperature": (lambda: PRIOR.sample(2, temperature=-0.5), ValueError, "temperature must be .* got -0.5"),
    # divergences and expectations
    "kl shapes": (
        lambda: gaussian_kl(*map(torch.ones, [(2, 3), (2, 4), 3, 3])), ValueError, r"same shape, got \(2, 3\) and \(2, 4\)"
    ),
    "kl components": (lambda: categorical_kl(torch.zeros(2, 3), torch.zeros(4)), ValueError, "got 3 and 4"),
    "kernel none": (lambda: InverseMultiquadratic(()), ValueError, "at least one value, got none"),
    "kernel negative": (lambda: InverseMultiquadratic((1.0, -1.0)), ValueError, "constants must be .* got -1"),
    "mmd name": (lambda: mmd(on="both"), ValueError, "one of 'pairs', 'codes'; got 'both'"),
    "mmd probs": (lambda: mmd(probs=(5, 4)), ValueError, r"probs must have shape \(5, 3\).*got \(5, 4\)"),
    "mmd z": (lambda: mmd(z=(5, 3)), ValueError, r"z must have shape .*got \(5, 3\)"),
    "mmd prior": (lambda: mmd(prior_z=(3, 4, 1)), ValueError, r"prior_z must have shape \(3, \*, 2\).*got \(3, 4, 1\)"),
    "mmd one code": (lambda: mmd(probs=(1, 3), z=(1, 3, 2)), ValueError, "2 prior samples or more, got 1 and 4"),
    "mmd one sample": (lambda: mmd(prior_z=(3, 1, 2)), ValueError, "2 prior samples or more, got 5 and 1"),
    "mmd kept": (
        lambda: squared_mmd(*map(torch.ones, ((5, 3), (5, 3, 2), (3,), (3, 4, 2))), KERNEL, kept=torch.ones(5, 2).bool()),
        ValueError, r"kept must have shape \(5, 3\).*got \(5, 2\)",
    ),
    "tolerance": (lambda: Truncated(0.7), ValueError, r"tolerance must be .* in \[0, 0.5\], got 0.7"),
    "resampled m": (lambda: Resampled(0), ValueError, "m must be at least 1, got 0"),
    "resampled type": (lambda: Resampled(1.5), TypeError, "m must be an integer, got 1.5"),
    "top m": (lambda: TopM(0), ValueError, "m must be at least 1, got 0"),
    # objectives
    "beta negative": (lambda: VAE(beta=-1.0), ValueError, "beta must be .* got -1"),
    "beta text": (lambda: VAE(beta="1"), TypeError, "beta must be a number, got '1'"),
    "penalty nan": (lambda: WAE(nan), ValueError, "penalty_weight must be .* got nan"),
    "penalty none": (lambda: WAE(None), TypeError, "penalty_weight must be a number, got None"),
    "penalty name": (lambda: MMD("kl"), ValueError, "'pairs', 'codes'; got 'kl'"),
    "penalty type": (lambda: WAE(1.0, "codes"), TypeError, "penalty must be of type Divergence, got str"),
    "reconstruction weight": (lambda: WAE(1.0, reconstruction_weight=-1.0), ValueError, "reconstruction_weight must"),
    "prior samples": (lambda: MMD(prior_samples=1), ValueError, "prior_samples must be at least 2, got 1"),
    "bandwidths none": (lambda: MMD(bandwidths=[]), ValueError, "bandwidths must hold at least one value"),
    "bandwidths": (lambda: MMD(bandwidths=(0.0,)), ValueError, "bandwidths must be"),
    "kernel twice": (lambda: MMD(kernel=KERNEL, bandwidths=(1.0,)), ValueError, "either a kernel or the bandwidths"),
    "kernel type": (lambda: MMD(kernel=1.0), TypeError, "kernel must be a function of squared distances, got 1.0"),
    "kernel without a closed form": (
        lambda: MMD(kernel=torch.exp, estimator="closed"), ValueError, "'closed' needs a kernel with a closed form"
    ),
    "penalty tolerance": (lambda: MMD(tolerance=0.7), ValueError, r"tolerance must be .* in \[0, 0.5\], got 0.7"),
    "estimator": (lambda: MMD(estimator="exact"), ValueError, "'sampled', 'half-closed', 'closed'; got 'exact'"),
    "smoothness": (lambda: WAE(1.0, smoothness=1.0), TypeError, "smoothness must be of type Smoothness, got float"),
    "its weight": (lambda: Smoothness(-1.0), ValueError, "weight must be .* got -1"),
    "its share": (lambda: Smoothness(share=0.0), ValueError, "share must be .* got 0"),
    "consistency": (lambda: VAE(consistency_weight=-1.0), ValueError, "consistency_weight must be .* got -1"),
    "radius": (lambda: Smoothness(radius=0.0), ValueError, "radius must be .* got 0"),
    "enumeration": (lambda: VAE(enumeration=1e-3), TypeError, "enumeration must be an Enumeration"),
    # networks and the model
    "image shape": (lambda: GMLVM.for_images((28, 28)), ValueError, r"image_shape must be \(channels.*got \(28, 28\)"),
    "image shape zero": (lambda: GMLVM.for_images((1, 0, 28)), ValueError, "image_shape must be"),
    "networks name": (lambda: GMLVM.for_images((1, 6, 5), networks="cnn"), ValueError, "'mlp', 'deep', 'conv'; got 'cnn'"),
    "hidden": (lambda: GMLVM.for_images((1, 6, 5), hidden_dim=0), ValueError, "hidden_dim must be at least 1, got 0"),
    "seed": (lambda: GMLVM.for_images((1, 6, 5), seed=-1), ValueError, "seed must be at least 0, got -1"),
    "prior sizes": (
        lambda: GMLVM.for_images((1, 6, 5), 5, 3, prior=PRIOR), ValueError, "num_components=5 and latent_dim=3, got 4 and 3"
    ),
    "weight std": (lambda: GMLVM.for_images((1, 6, 5), weight_std=0.0), ValueError, "std must be"),
    "decoder size": (lambda: networks.mlp_decoder((1, 6, 5), 3, hidden_dim=0), ValueError, "hidden_dim must be at least 1"),
    "posterior shape": (
        lambda: MODEL.posterior(torch.zeros(2, 6, 5)), ValueError, r"x must have shape \(\*, 1, 6, 5\).*got \(2, 6, 5\)"
    ),
    "posterior channels": (lambda: MODEL.posterior(torch.zeros(2, 3, 6, 5)), ValueError, "x must have shape"),
    "posterior dtype": (lambda: MODEL.posterior(X.long()), TypeError, "uint8 in 0..255 or floating point .* got torch.int64"),
    "posterior range": (lambda: MODEL.posterior(X + 255), ValueError, r"lie in \[0, 1\] .* from 255 to 255"),
    "posterior nan": (lambda: MODEL.reconstruct(X + nan), ValueError, r"lie in \[0, 1\]"),
    "decode shape": (lambda: MODEL.decode(torch.zeros(2, 4)), ValueError, r"shape \(..., 3\), got \(2, 4\)"),
    "interpolate shapes": (lambda: MODEL.interpolate(X, X[:1]), ValueError, "same shape"),
    "interpolate codes": (lambda: MODEL.interpolate(*torch.zeros(2, 5, 4)), ValueError, r"codes must have shape \(\*, 3\)"),
    "interpolate steps": (lambda: MODEL.interpolate(X, X, steps=1), ValueError, "steps must be at least 2, got 1"),
    "match one image": (lambda: MODEL.match_prior(X[:1]), ValueError, "at least 2 images, got 1"),
    "match noise": (lambda: MODEL.match_prior(X, noise=0.0), ValueError, "noise must be"),
    # training and evaluation
    "fit model": (lambda: train(model=nn.Linear(2, 2)), TypeError, "model must be of type Clusterer, got Linear"),
    "fit objective": (lambda: train(objective="vae"), TypeError, "objective must be of type Objective, got str"),
    "fit data": (lambda: train(data=5, batch_size=None), TypeError, "data must be ImageData, images, or a loader of images, got int"),
    "fit data text": (lambda: train(data="mnist", batch_size=None), TypeError, "data must be ImageData, .*, got str"),
    "fit no steps": (lambda: train(steps=None), ValueError, "steps must be given"),
    "fit loader and batch size": (lambda: train(data=iter([X]), batch_size=2), ValueError, "batch size of their own, got batch_size=2"),
    "fit sizes": (
        lambda: train(data=datasets.from_arrays(np.zeros((4, 5, 5)))), ValueError, r"shape \(1, 6, 5\), the data has \(1, 5, 5\)"
    ),
    "fit steps": (lambda: train(steps=0), ValueError, "steps must be at least 1, got 0"),
    "fit batch": (lambda: train(batch_size=1), ValueError, "batch_size must be at least 2, got 1"),
    "fit batch too large": (lambda: train(batch_size=5), ValueError, "at most the 4 training images, got 5"),
    "fit seed": (lambda: train(seed=1.5), TypeError, "seed must be an integer, got 1.5"),
    "fit learning rate": (lambda: train(learning_rate=0.0), ValueError, "learning_rate must be"),
    "fit schedule": (lambda: train(schedule=0.5), TypeError, "schedule must be a function .*, got 0.5"),
    "fit schedule none": (lambda: train(schedule=lambda t: None), TypeError, "what schedule gives at 0 must be a number, got None"),
    "fit schedule negative": (lambda: train(schedule=lambda t: -1.0), ValueError, "what schedule gives at 0 must be .* got -1"),
    "fit optimizer": (lambda: train(optimizer=0.1), TypeError, "optimizer must be a function of the list of parameters, got 0.1"),
    "fit optimizer and rate": (lambda: train(optimizer=torch.optim.SGD, learning_rate=0.1), ValueError, "learning_rate is Adam's"),
    "fit clip": (lambda: train(clip_norm=0.0), ValueError, "clip_norm must be"),
    "fit accumulate": (lambda: train(accumulate=0), ValueError, "accumulate must be at least 1, got 0"),
    "fit large seed": (lambda: train(seed=2**64), ValueError, "seed must be below 2\\^64"),
    "fit callback step": (lambda: train(callbacks={2: print}), ValueError, "callbacks must be at steps 0 to 1, got 2"),
    "fit callback": (lambda: train(callbacks={1: "print"}), TypeError, "callback at step 1 must be callable, got 'print'"),
    "fit device": (lambda: train(device="tpu"), ValueError, "'auto', 'cpu', 'cuda', 'mps'; got 'tpu'"),
    "fit precision": (lambda: train(precision="16"), ValueError, "'32-true', 'bf16-mixed'; got '16'"),
    "fit checkpoint": (lambda: train(checkpoint="no/such/run.safetensors"), FileNotFoundError, "no folder no/such"),
    "fit checkpoint every": (lambda: train(checkpoint_every=0), ValueError, "checkpoint_every must be at least 1"),
    "evaluate model": (lambda: evaluate(networks, DATA), TypeError, "model must be of type GMLVM, got module"),
    "evaluate data": (lambda: evaluate(MODEL, X), TypeError, "data must be of type ImageData, got Tensor"),
    "evaluate one": (lambda: evaluate(MODEL, datasets.from_arrays(X[:1])), ValueError, "2 images or more, got 1"),
    "evaluate batch": (lambda: evaluate(MODEL, DATA, batch_size=0), ValueError, "batch_size must be at least 1, got 0"),
    "evaluate sizes": (lambda: evaluate(MODEL, datasets.from_arrays(np.zeros((4, 5, 5)))), ValueError, "shape"),
    "match lengths": (lambda: metrics.match_components(np.zeros(3, int), np.zeros(4, int), 2), ValueError, r"3 images, got \(4,\)"),
    "heatmap lengths": (
        lambda: metrics.mean_posterior_by_label(np.ones((3, 2)), np.zeros(4, int)), ValueError, r"3 images, got \(4,\)"
    ),
    "heatmap label": (
        lambda: metrics.mean_posterior_by_label(np.ones((2, 2)), np.array([0, 2])), ValueError, "every label up to 2"
    ),
    # data
    "images rank": (lambda: datasets.from_arrays(np.zeros(5)), ValueError, r"\(N, H, W\) or .*got \(5,\)"),
    "images channels": (lambda: datasets.from_arrays(np.zeros((5, 2, 4, 4))), ValueError, "C 1 or 3, got"),
    "images empty": (lambda: datasets.from_arrays(np.zeros((0, 4, 4))), ValueError, "at least one image"),
    "images integers": (lambda: datasets.from_arrays(np.full((5, 4, 4), 256)), ValueError, "0..255"),
    "images range": (lambda: datasets.from_arrays(np.full((5, 4, 4), 255.0)), ValueError, "from 255 to 255"),
    "images nan": (lambda: datasets.from_arrays(np.full((5, 4, 4), nan)), ValueError, r"lie in \[0, 1\]"),
    "images text": (lambda: datasets.from_arrays("images"), TypeError, "array or tensor of numbers, got str"),
    "labels length": (lambda: datasets.from_arrays(GREY, [0, 1]), ValueError, r"shape \(4,\), one label .* got \(2,\)"),
    "labels dtype": (lambda: datasets.from_arrays(GREY, [0.0] * 4), TypeError, "train_labels must be integers"),
    "labels of one split": (lambda: datasets.from_arrays(GREY, [0] * 4, GREY), ValueError, "both splits have labels or neither"),
    "labels alone": (lambda: datasets.from_arrays(GREY, [0] * 4, None, [0]), ValueError, "without test_images"),
    "test shape": (lambda: datasets.from_arrays(GREY, test_images=np.zeros((2, 4, 4))), ValueError, r"\(1, 6, 5\) of the"),
    "class names": (lambda: datasets.from_arrays(GREY, [0, 1, 2, 3], class_names=("a",)), ValueError, "name 4 labels, got 1"),
    "folder missing": (lambda: datasets.from_folder("no/such/folder"), FileNotFoundError, "no folder at no/such"),
    "folder fraction": (lambda: datasets.from_folder(".", test_fraction=0.0), ValueError, "test_fraction must be"),
    # plots
    "grid shape": (lambda: plots.image_grid(np.zeros((2, 3, 4, 4))), ValueError, r"\(rows, columns, C, H, W\)"),
    "pairs shape": (lambda: plots.reconstruction_grid(X, X[:1]), ValueError, "same shape"),
    "pairs columns": (lambda: plots.reconstruction_grid(X, X, columns=3), ValueError, "multiple of 3"),
    "map shape": (lambda: hover_map(np.zeros(3), X, MAP), ValueError, r"points must have shape \(N, 2\)"),
    "map nan": (lambda: hover_map([[0, nan]], PIXELS, MAP), ValueError, "points must be finite, got .*nan"),
    "map name": (lambda: hover_map([[0, 0]], X, MAP, name="a&b"), ValueError, "letters, digits and hyphens, got 'a&b'"),
    "map images": (lambda: hover_map([[0, 0]], np.zeros((1, 2, 2)), MAP), ValueError, r"\(N, 1, H, H\)"),
    "map none": (lambda: hover_map(np.zeros((0, 2)), np.zeros((0, 1, 2, 2)), MAP), ValueError, r"got \(0, 1, 2, 2\)"),
    "map range": (lambda: hover_map([[0, 0]], np.full((1, 1, 2, 2), 255), MAP), ValueError, r"in \[0, 1\], got 255 to 255"),
    "map no labels": (lambda: hover_map([[0, 0]], PIXELS, {}), ValueError, "mapping from names to labels, got {}"),
    "map bare labels": (lambda: hover_map([[0, 0]], PIXELS, [0]), ValueError, r"mapping from names to labels, got \[0\]"),
    "map labels": (lambda: hover_map([[0, 0]], PIXELS, {"a": [-1]}), ValueError, r"integers from 0, .*got 'a': array\(\[-1"),
    "map lengths": (lambda: hover_map([[0, 0]], PIXELS, {"a": [0, 1]}), ValueError, "equally many, got .*'a': 2"),
    "matrix shape": (lambda: plots.posterior_heatmap(np.zeros(3)), ValueError, r"matrix must have shape \(labels, K\)"),
    "curves none": (lambda: plots.learning_curves({}), ValueError, "at least one array, got none"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_bad_input(case):
    call, error, message = CASES[case]
    with pytest.raises(error, match=message):
        call()


def test_there_are_at_least_forty_cases():
    assert len(CASES) >= 40


class Constant(nn.Module):
    """A continuous encoder that has no start of its own."""

    def forward(self, x):
        return torch.zeros(len(x), 4, 3), torch.ones(len(x), 4, 3)


def test_an_encoder_without_a_matched_start():
    model = GMLVM(PRIOR, MODEL.discrete_encoder, Constant(), MODEL.decoder, (1, 6, 5))
    with pytest.raises(TypeError, match="Constant has no match method"):
        model.match_prior(X)


def test_files_that_are_no_saved_models(tmp_path):
    with pytest.raises(FileNotFoundError, match="no gmlvm model at"):
        GMLVM.load(tmp_path / "none.safetensors")
    with pytest.raises(FileNotFoundError, match="no folder"):
        MODEL.save(tmp_path / "none" / "model.safetensors")
    path = tmp_path / "model.safetensors"
    for content in (b"", b"pickle?" * 10):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="is not a gmlvm model"):
            GMLVM.load(path)
    MODEL.save(path)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(ValueError, match="is not a gmlvm model"):
        GMLVM.load(path)


def test_a_model_whose_weights_do_not_fit_its_header(tmp_path):
    path = tmp_path / "model.safetensors"
    MODEL.save(path)
    content = path.read_bytes()
    path.write_bytes(content.replace(rb"\"component_hidden_dim\": 2", rb"\"component_hidden_dim\": 3"))
    with pytest.raises(ValueError, match="is damaged"):
        GMLVM.load(path)


def test_a_checkpoint_of_another_run(tmp_path):
    path = tmp_path / "run.safetensors"
    train(checkpoint=path)
    with pytest.raises(ValueError, match=r"other settings \(seed: 0 there, 1 here\)"):
        train(checkpoint=path, seed=1)
    with pytest.raises(ValueError, match="must hold a gmlvm model, got 'gmlvm training run'"):
        GMLVM.load(path)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="is not a gmlvm training run"):
        train(checkpoint=path)


def test_folders_whose_images_do_not_fit(tmp_path):
    (tmp_path / "class").mkdir()
    with pytest.raises(FileNotFoundError, match="class"):
        datasets.from_folder(tmp_path)
    for index, size in enumerate([(4, 4), (5, 4)]):
        Image.new("L", size).save(tmp_path / "class" / f"{index}.png")
    with pytest.raises(ValueError, match=r"all images must share one size.*1.png has \(4, 5\), the first \(4, 4\)"):
        datasets.from_folder(tmp_path, test_fraction=0.5)
    with pytest.raises(ValueError, match="leaves an empty split of 2 images"):
        datasets.from_folder(tmp_path, image_size=4, test_fraction=0.01)
    (tmp_path / "class" / "0.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"cannot read .*0.png as an image"):
        datasets.from_folder(tmp_path, test_fraction=0.5)
