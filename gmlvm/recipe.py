"""From images to a model whose components are groups of them, in one call: the setting to start with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gmlvm.clustering import InformationMaximisation
from gmlvm.datasets import ImageData
from gmlvm.generation import own_samples
from gmlvm.history import History
from gmlvm.identity import digest
from gmlvm.merging import keep_components
from gmlvm.model import GMLVM
from gmlvm.objectives import WAE
from gmlvm.optimisation import cosine
from gmlvm.prior import GaussianMixturePrior, Prior
from gmlvm.prior_fit import fit_prior
from gmlvm.run import Run
from gmlvm.start import start_discrete_encoder
from gmlvm.training import fit
from gmlvm.validation import check_folder, check_number, check_positive_int, check_seed, check_type


@dataclass(frozen=True)
class Learned:
    """What :func:`learn_components` made.

    Attributes:
        model: The model, its discrete encoder frozen and its prior fitted to the codes.
        history: The terms of its training as a WAE; ``history.stopped`` says whether that was interrupted.
        shares: Share of the training images in each component that was asked for, shape (K,).
        kept: Those of them that the model has, in order, G of them.
        training_prior: The prior before it was fitted, that of the training.
        own_samples: With that prior, the share of each component's samples that are sent back to it, shape (G,); see
            :func:`gmlvm.generation.own_samples`. Low where the training has not filled a component's Gaussian.
    """

    model: GMLVM = field(repr=False)
    history: History = field(repr=False)
    shares: NDArray[np.float64]
    kept: tuple[int, ...]
    training_prior: Prior = field(repr=False)
    own_samples: NDArray[np.float64]


def learn_components(
    data: ImageData,
    num_components: int,
    *,
    even: bool = False,
    targets: Tensor | None = None,
    build: Callable[[GaussianMixturePrior], GMLVM] | None = None,
    latent_dim: int = 9,
    least_share: float = 0.005,
    relative_weight: float = 2.0,
    teaching_steps: int = 500,
    refining_steps: int = 5000,
    steps: int = 3000,
    batch_size: int | None = None,
    precision: str = "32-true",
    seed: int = 0,
    checkpoints: str | Path | None = None,
    device: str | torch.device = "auto",
    progress: bool = True,
) -> Learned:
    """Find groups of images, and train a model that has a component for each; no label is looked at.

    Five steps, each a function of the library: the discrete encoder gets its start
    (:func:`gmlvm.start_discrete_encoder`); components with hardly an image are left out
    (:func:`gmlvm.merging.keep_components`); the prior gets the shares of the others; the rest is trained as a
    :class:`gmlvm.WAE` with q_D frozen; and the prior moves to the codes (:func:`gmlvm.fit_prior`).

    Ctrl-C in the start ends it with a ``KeyboardInterrupt``; in the training it ends that after its step, and the model
    as it is then comes back, with its prior fitted, and ``history.stopped`` says so.

    Args:
        data: Images; those of the training split are used.
        num_components: Number of components K that is asked for, at least 1.
        even: Whether groups are of equal size. If not, an even use is not asked for, and components may end empty.
        targets: Probabilities of another teacher, in the order of the images, shape (N, K).
        build: Makes a model around a prior, called once for the start, with K components, and once for the training,
            with those that are kept. Its prior may be another, with as many components and the same weights. The
            ``"deep"`` networks of :meth:`GMLVM.for_images` if left out.
        latent_dim: Dimension D of a code, at least 1; one less than the components where that is more.
        least_share: Components with at most this share of the images are left out, in [0, 1).
        relative_weight: Weight of the penalty in units of the data's total variance, at least 0.
        teaching_steps: See :func:`gmlvm.start_discrete_encoder`.
        refining_steps: Likewise.
        steps: Of the training as a WAE, at least 1.
        batch_size: Images in a step of that training, 128 or as many as there are if left out; the start has its own.
        precision: Of that training, see :func:`gmlvm.fit`; the start looks at small perturbations, in 32 bits.
        seed: Seed of everything, below 2^64 - 1.
        checkpoints: A folder, made if it is not there, to keep what is done in; called again after an interruption it
            goes on from there, with the weights that the folder has, whatever ``build`` gives. See
            :func:`gmlvm.start_discrete_encoder` and :func:`gmlvm.fit`.
        device: See :func:`gmlvm.fit`.
        progress: Show bars.

    Returns:
        The model, and what was seen on the way.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If one is out of range or does not fit, what ``build`` gives has another prior's weights, or no
            component is kept; or if the checkpoints are damaged or of another training.
        ImportError: If no targets are given and umap-learn is not there.
        KeyboardInterrupt: If Ctrl-C was pressed in the start.
        BlockingIOError: If another process works in the folder of the checkpoints.
        OSError: If that folder can't be made or written to.
        FloatingPointError: See :func:`gmlvm.fit`.

    Source: chapter "Choices".
    """
    check_type("data", data, ImageData)
    k = check_positive_int("num_components", num_components)
    d, steps = check_positive_int("latent_dim", latent_dim), check_positive_int("steps", steps)
    if check_number("least_share", least_share) >= 1:
        raise ValueError(f"least_share must be below 1, or no component is left, got {least_share}")
    objective = WAE(check_number("relative_weight", relative_weight) * data.total_variance)
    seed = check_seed("seed", seed)

    def standard(prior: GaussianMixturePrior) -> GMLVM:
        shape, left, dim = data.image_shape, prior.num_components, prior.latent_dim
        return GMLVM.for_images(shape, left, dim, prior=prior, networks="deep", seed=seed)

    def built(components: int, logits: Tensor) -> GMLVM:
        prior = GaussianMixturePrior.simplex(components, max(components - 1, d), logits=logits)
        model = (build or standard)(prior)
        check_type("what build gives", model, GMLVM)
        found = model.prior.logits.softmax(0).to(prior.probs)
        if found.shape != prior.probs.shape or not torch.allclose(found, prior.probs):
            # q_D is frozen with these shares, and a penalty on pairs would ask for others.
            weights = ", ".join(f"{weight:.2g}" for weight in found.tolist())
            raise ValueError(
                f"what build gives must have the {components} weights of the prior that it is given, got {weights}"
            )
        return model

    # Weights that are not all alike, so that a build which ignores them shows before the start.
    finder = built(k, torch.linspace(0.0, 0.1, k))
    training: dict[str, Any] = {
        "steps": steps,
        "schedule": cosine,
        "batch_size": batch_size,
        "precision": precision,
        "seed": seed,
        "device": device,
    }
    # What cannot be trained shows before the start, which takes minutes.
    Run(finder, objective, data, **training).rehearse()
    folder = None if checkpoints is None else check_folder(checkpoints, "checkpoints")
    refining = InformationMaximisation() if even else InformationMaximisation(balance=0.0)
    start_discrete_encoder(
        finder,
        data,
        targets=targets,
        refining=refining,
        teaching_steps=teaching_steps,
        refining_steps=refining_steps,
        seed=seed,
        checkpoints=folder,
        device=device,
        progress=progress,
    )
    shares = finder.predict_proba(data.train.images).mean(0)
    kept = tuple(np.flatnonzero(shares > least_share).tolist())
    if len(kept) == 0:
        raise ValueError(
            f"no component has more than least_share={least_share} of the images, the largest {max(shares):.2g}"
        )
    model = built(len(kept), torch.tensor(np.log(shares[list(kept)])))
    encoder = finder.discrete_encoder if len(kept) == k else keep_components(finder.discrete_encoder, kept)
    model.discrete_encoder = encoder.requires_grad_(False)
    checkpoint = None
    if folder is not None:  # after another start there is another training
        begun = digest(*encoder.state_dict().values(), model.prior.logits)
        checkpoint = folder / f"training-{begun}.safetensors"
    history = fit(model, objective, data, checkpoint=checkpoint, progress=progress, **training)
    training_prior, own = model.prior, own_samples(model, seed=seed)
    fit_prior(model, data)
    return Learned(model, history, shares, kept, training_prior, own)
