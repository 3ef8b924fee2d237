"""Gaussian-mixture latent variable models, trained as variational or Wasserstein autoencoders."""

from gmlvm import (
    batches,
    closed_form,
    datasets,
    divergences,
    enumeration,
    kernels,
    kl,
    metrics,
    mmd,
    networks,
    plots,
    vat,
)
from gmlvm.architecture import Architecture
from gmlvm.divergences import MMD, Divergence
from gmlvm.metrics import Report, evaluate
from gmlvm.model import GMLVM
from gmlvm.objectives import VAE, WAE, Objective
from gmlvm.posterior import Posterior
from gmlvm.prior import GaussianMixturePrior, Prior
from gmlvm.training import History, Run, cosine, fit

__version__ = "0.2.0"

__all__ = [
    "GMLVM",
    "MMD",
    "VAE",
    "WAE",
    "Architecture",
    "Divergence",
    "GaussianMixturePrior",
    "History",
    "Objective",
    "Posterior",
    "Prior",
    "Report",
    "Run",
    "batches",
    "closed_form",
    "cosine",
    "datasets",
    "divergences",
    "enumeration",
    "evaluate",
    "fit",
    "kernels",
    "kl",
    "metrics",
    "mmd",
    "networks",
    "plots",
    "vat",
]
