"""Gaussian-mixture latent variable models, trained as variational or Wasserstein autoencoders."""

from gmlvm import closed_form, datasets, divergences, expectations, metrics, networks, plots, smoothness
from gmlvm.metrics import Report, evaluate
from gmlvm.model import GMLVM, Architecture, Posterior
from gmlvm.objectives import VAE, WAE, Objective
from gmlvm.prior import GaussianMixturePrior
from gmlvm.training import History, cosine, fit

__version__ = "0.1.0"

__all__ = [
    "GMLVM",
    "VAE",
    "WAE",
    "Architecture",
    "GaussianMixturePrior",
    "History",
    "Objective",
    "Posterior",
    "Report",
    "closed_form",
    "cosine",
    "datasets",
    "divergences",
    "evaluate",
    "expectations",
    "fit",
    "metrics",
    "networks",
    "plots",
    "smoothness",
]
