"""The estimators of ``mf-manifold fit``: which options each takes, and how it is made and fitted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from os import PathLike

    from torch import Tensor

    from ..coordinates import Coordinates
    from ..estimator import Estimator

FROZEN_COMPONENTS = 16384
MIXTURE_COMPONENTS, CLUSTERS = 50, 5
STEPS = 2000  # of the schedule of a model that gradients train
FIRST_STAGE = 0.75  # of a time limit, for a manifold flow before the law of its coordinates
PART_COMPONENTS = 512  # of each marginal flow in a variational mixture


class Choice(NamedTuple):
    """What an estimator takes beyond the data.

    Attributes:
        options: names of the options that mean something to it.
        trained: whether the common training loop fits it, so that a stopped run can be resumed.
    """

    options: frozenset[str]
    trained: bool = False


CHOICES = {
    "flow": Choice(frozenset({"kernel", "components", "latent-dim"}), trained=True),
    "anchored": Choice(frozenset({"kernel"})),
    "kde": Choice(frozenset({"kernel", "bandwidth"})),
    "mixture": Choice(frozenset({"kernel", "components"})),
    "normalizing-flow": Choice(frozenset(), trained=True),
    "variational": Choice(frozenset({"kernel", "components"}), trained=True),
    "resampled": Choice(frozenset({"kernel"}), trained=True),
    "manifold-flow": Choice(frozenset({"latent-dim"}), trained=True),
}


def check_options(estimator: str, given: dict[str, Any]) -> None:
    """Raise ``ValueError`` for an option that the estimator does not take."""
    for name, value in given.items():
        if value is not None and name not in CHOICES[estimator].options:
            takers = [other for other, choice in CHOICES.items() if name in choice.options]
            raise ValueError(f"Expected --{name} with --estimator {' or '.join(takers)} only, got --estimator {estimator}.")
    if estimator == "manifold-flow" and given["latent-dim"] is None:
        raise ValueError("Expected --latent-dim, the dimension of the manifold, with --estimator manifold-flow.")


def new_model(estimator: str, coordinates: Coordinates, given: dict[str, Any]) -> Estimator:
    """An estimator of that name that is not fitted yet."""
    import mf_manifold as mf

    place, kernel = (coordinates.manifold, coordinates.point_shape), given["kernel"]
    make: dict[str, Any] = {
        "flow": lambda: mf.MarginalFlow(*place, kernel, latent_dim=given["latent-dim"]),
        "anchored": lambda: mf.AnchoredFlow(*place, kernel=kernel),
        "kde": lambda: mf.KernelDensity(*place, kernel=kernel, bandwidth=given["bandwidth"] or "adaptive"),
        "mixture": lambda: mf.KernelMixture(*place, given["components"] or MIXTURE_COMPONENTS, kernel),
        "normalizing-flow": lambda: mf.models.Flow(*place),
        "variational": lambda: _variational(place, kernel, given["components"] or CLUSTERS),
        "resampled": lambda: mf.models.ResampledBase(*place, kernel or _proposal(*place)),
        "manifold-flow": lambda: mf.models.ManifoldFlow(*place, given["latent-dim"]),
    }
    model: Estimator = make[estimator]()
    return model


def _variational(place: tuple[Any, Any], kernel: str | None, count: int) -> Estimator:
    import geoopt

    import mf_manifold as mf

    def part() -> Any:
        if isinstance(place[0], geoopt.Euclidean) and kernel is None:
            return mf.models.Flow(*place)
        return mf.MarginalFlow(*place, kernel, n_components=PART_COMPONENTS)

    return mf.models.VariationalMixture([part() for _ in range(count)])


def _proposal(manifold: Any, point_shape: Any) -> str | None:
    """None, for the uniform law, on compact spaces; elsewhere the default kernel, fitted to the data."""
    import math

    from .. import geometry
    from ..kernel import kernel_for

    compact = math.isfinite(geometry.log_volume(manifold, point_shape))
    return None if compact else kernel_for(manifold, point_shape).name


def fit_model(model: Any, train: Tensor, checkpoint: str | PathLike[str], options: dict[str, Any]) -> None:
    """Fit, leaving the best model in the folder ``checkpoint``; a manifold flow also its law along the manifold."""
    from .. import models

    if not isinstance(model, models.ManifoldFlow):
        model.fit(train, checkpoint=checkpoint, **options)
        return
    limit = options["max_seconds"]
    first, second = (None, None) if limit is None else (FIRST_STAGE * limit, (1 - FIRST_STAGE) * limit)
    model.fit(train, checkpoint=checkpoint, **{**options, "max_seconds": first})
    both = {name: options[name] for name in ("seed", "progress", "validation_fraction")}
    model.fit_density(train, max_seconds=second, **both)
    model.save(checkpoint, overwrite=True)
