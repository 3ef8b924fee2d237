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
    weights,
)
from gmlvm.architecture import Architecture
from gmlvm.clusterer import Clusterer
from gmlvm.clustering import Distillation, InformationMaximisation
from gmlvm.divergences import MMD, Divergence
from gmlvm.full_prior import FullGaussianMixturePrior
from gmlvm.history import History
from gmlvm.metrics import Report, evaluate
from gmlvm.model import GMLVM
from gmlvm.objectives import VAE, WAE, Objective
from gmlvm.optimisation import cosine
from gmlvm.posterior import Posterior
from gmlvm.prior import GaussianMixturePrior, Prior
from gmlvm.prior_fit import fit_prior
from gmlvm.recipe import Learned, learn_components
from gmlvm.run import Run
from gmlvm.start import Start, start_discrete_encoder
from gmlvm.training import fit
from gmlvm.vat import Smoothness
from gmlvm.weights import pretrained

__version__ = "0.2.0"

__all__ = [
    "GMLVM",
    "MMD",
    "VAE",
    "WAE",
    "Architecture",
    "Clusterer",
    "Distillation",
    "Divergence",
    "FullGaussianMixturePrior",
    "GaussianMixturePrior",
    "History",
    "InformationMaximisation",
    "Learned",
    "Objective",
    "Posterior",
    "Prior",
    "Report",
    "Run",
    "Smoothness",
    "Start",
    "batches",
    "closed_form",
    "cosine",
    "datasets",
    "divergences",
    "enumeration",
    "evaluate",
    "fit",
    "fit_prior",
    "kernels",
    "kl",
    "learn_components",
    "metrics",
    "mmd",
    "networks",
    "plots",
    "pretrained",
    "start_discrete_encoder",
    "vat",
    "weights",
]
