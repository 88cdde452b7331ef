"""Pictures of fitted densities with matplotlib (``pip install 'mf-manifold[plot]'``), one manifold a file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import geoopt
from torch import Tensor

from ..checkpoint import atomic_path
from ..distributions import ManifoldDistribution
from ..manifolds import Torus
from .histogram import plot_log_density
from .spd import plot_spd
from .sphere import plot_sphere
from .torus import plot_torus

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["plot", "plot_log_density", "plot_spd", "plot_sphere", "plot_torus", "save_figure"]

N_SAMPLES = 2000  # how many samples suit a picture


def plot(
    mixture: ManifoldDistribution,
    points: Tensor | None = None,
    samples: Tensor | None = None,
    *,
    names: Sequence[str] | None = None,
    title: str | None = None,
    held_out: float | None = None,
) -> Figure:
    """The picture that suits the mixture's manifold.

    Spheres S^1 and S^2, tori T^1 and T^2 and SPD matrices have maps of their own; any other manifold gets the distribution
    of the log density over data and samples.

    Args:
        points: data (N,*E).
        samples: points of the model (N,*E).
        names: names of the angles of a torus.
        title: put above the picture.
        held_out: mean held-out log-likelihood in nats, for the title.

    Raises:
        ImportError: matplotlib is not installed.

    >>> import geoopt, torch, mf_manifold as mf
    >>> kernel = mf.kernel_for(geoopt.Sphere(), (2,))
    >>> mix = mf.Mixture(kernel, {"loc": torch.eye(2), "concentration": torch.full((2,), 9.0)})
    >>> plot(mix, title="two places").get_suptitle()
    'two places'
    """
    manifold, dimension = mixture.manifold, mixture.dim
    if isinstance(manifold, geoopt.Sphere) and dimension <= 2:
        return plot_sphere(mixture, points, samples, title=title, held_out=held_out)
    if isinstance(manifold, Torus) and dimension <= 2:
        return plot_torus(mixture, points, samples, names=names, title=title, held_out=held_out)
    if isinstance(manifold, geoopt.SymmetricPositiveDefinite):
        return plot_spd(mixture, points, samples, title=title, held_out=held_out)
    return plot_log_density(mixture, points, samples, title=title, held_out=held_out)


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Write a figure whole or not at all, in the format of the path's suffix (.png, .pdf, .svg).

    Raises:
        ValueError: matplotlib does not know the suffix.
    """
    target = Path(path)
    known = figure.canvas.get_supported_filetypes()
    if target.suffix.lstrip(".").lower() not in known:
        raise ValueError(f"Expected a picture whose suffix is one of {', '.join(sorted(known))}; got {target.name!r}.")
    with atomic_path(target) as temporary:
        figure.savefig(temporary)
    return target
