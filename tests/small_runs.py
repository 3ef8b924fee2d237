"""Small models and objectives, and short runs of them, for the tests of training and of its files."""

import torch
from torch import nn

from gmlvm import GMLVM, WAE, GaussianMixturePrior, Objective, fit
from gmlvm.networks import ComponentEncoder, mlp_decoder

SHAPE = (1, 6, 5)


def new_model(seed=1, networks="mlp", **sizes):
    sizes = {"hidden_dim": 12, "component_hidden_dim": 5} | sizes
    return GMLVM.for_images(SHAPE, 4, 3, networks=networks, seed=seed, **sizes)


def own_model(seed=1, activation=nn.ReLU, dropout=0.3, encoder=None):
    """A model with a discrete encoder of the reader's own: with dropout and a batch norm, unless given."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        hidden = [nn.Linear(30, 12), nn.BatchNorm1d(12), activation(), nn.Dropout(dropout), nn.Linear(12, 4)]
        discrete = encoder or nn.Sequential(nn.Flatten(), *hidden)
        continuous, decoder = ComponentEncoder(SHAPE, 4, 3, 5), mlp_decoder(SHAPE, 3, 12)
    return GMLVM(GaussianMixturePrior.simplex(4, 3), discrete, continuous, decoder, SHAPE)


def run(model, data, objective=None, **options):
    settings = {"steps": 12, "device": "cpu", "progress": False} | options
    if hasattr(data, "train"):
        settings.setdefault("batch_size", 16)
    return fit(model, objective or WAE(100.0), data, **settings)


def state(module):
    """A copy of all weights and buffers."""
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def same_weights(a, b):
    """Whether two modules, or copies of their state, are the same bit for bit."""
    a, b = (x if isinstance(x, dict) else x.state_dict() for x in (a, b))
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class Stop(Exception):  # noqa: N818 (stands for any interruption)
    """Interrupts a run."""


def raise_stop(_):
    """A callback that interrupts."""
    raise Stop


class Error(Objective):
    """Squared error of the first component's reconstruction: no randomness, and a mean over images alone."""

    def terms(self, model, batch, generator):
        x = model.pixels(batch.images)
        codes = model.posterior_of_pixels(x).loc[:, 0]
        return {"loss": (model.decoder_logits(codes).sigmoid() - x).square().sum((1, 2, 3)).mean()}


class Noted(WAE):
    """The WAE, which notes each batch, whether products are in bfloat16, and whether all parts are in training mode."""

    def __init__(self, *args, **settings):
        super().__init__(*args, **settings)
        self._seen = []

    def terms(self, model, batch, generator):
        modes = {module.training for module in model.modules()}
        self._seen.append((batch.images, torch.is_autocast_enabled("cpu"), modes))
        return super().terms(model, batch, generator)


class Learned(WAE):
    """The WAE with a weight of the reconstruction that is learned: uncertainty weighting."""

    def __init__(self):
        super().__init__(1.0)
        self.log_variance = nn.Parameter(torch.zeros(()))

    def terms(self, model, batch, generator):
        terms = super().terms(model, batch, generator)._asdict()
        terms["loss"] = terms["loss"] * (-self.log_variance).exp() + self.log_variance
        return terms
