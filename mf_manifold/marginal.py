"""Marginal flow: a network draws the components of a mixture on a manifold."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, cast

import geoopt
import torch
from torch import Tensor, nn

from . import bases, checkpoint, geometry, manifolds, training
from .diagnose import GROUPS, ROWS, Diagnosis, diagnose
from .geometry import Shape
from .kernel import Kernel, kernel_for
from .measure import Measure
from .mixture import Mixture
from .nets import FourierFeatures, mlp


@checkpoint.register_model
class MarginalFlow(nn.Module):
    r"""A density whose components are drawn by a network, fresh at every call.

    .. math:: q(x) = \sum_{c=1}^{M} \pi_c \, q(x \mid w_c), \quad (w_c, \log \pi_c) = f_\theta(z_c),
              \quad z_c \sim U([-1, 1]^m)

    For the drawn components the density is exact and normalised; :meth:`freeze` keeps one draw, and every reported number
    should come from a frozen mixture. As an estimate of the infinite mixture, its log is biased low
    (:meth:`mf_manifold.Mixture.log_prob_interval` says by how much).

    **Measure**: Riemannian volume of the manifold's metric.

    Args:
        manifold: a geoopt manifold.
        point_shape: shape of a point, such as (3,) on S^2.
        kernel: registry name; None takes the manifold's default.
        n_components: M, drawn at every call.
        latent_dim: m, dimension of the noise; None takes the manifold's dimension, at most 3. The number of components
            that a given sharpness needs grows exponentially with it.
        hidden: widths of the network's hidden layers.
        n_frequencies, bandwidth: random Fourier features of the noise, see :class:`mf_manifold.nets.FourierFeatures`.
        learn_weights: let the network weight the components; otherwise all weigh the same, as in the paper.
        kernel_options: constructor options of the kernel, such as ``{"covariance": "full"}``.

    The network has torch's default dtype, and float64 on SPD matrices, whose small eigenvalues float32 loses.

    Reference: Negri, Aellen, Jahn, Khorashadizadeh, Roth (2025), Marginal Flow, arXiv 2509.26221, eqs. (1)-(3).
        Weights, Fourier features and a scale per component are additions of this library.

    >>> import geoopt, torch, mf_manifold as mf
    >>> x = mf.geometry.sample_uniform(geoopt.Sphere(), (3,), (200,), generator=torch.Generator().manual_seed(0))
    >>> flow = mf.MarginalFlow(geoopt.Sphere(), (3,), n_components=64).fit(x, max_steps=10, progress=False)
    >>> flow.freeze(128, seed=0)
    Mixture(128 x von_mises_fisher; riemannian measure on Sphere)
    """

    shift: Tensor
    spread: Tensor

    def __init__(
        self,
        manifold: geoopt.Manifold,
        point_shape: Shape,
        kernel: str | None = None,
        *,
        n_components: int = 4096,
        latent_dim: int | None = None,
        hidden: Sequence[int] = (128, 128, 128),
        n_frequencies: int = 64,
        bandwidth: float = 2.5,
        learn_weights: bool = True,
        kernel_options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.kernel: Kernel = kernel_for(manifold, point_shape, kernel, **(kernel_options or {}))
        if n_components < 1 or (latent_dim is not None and latent_dim < 1):
            raise ValueError(f"Expected positive n_components and latent_dim, got {n_components} and {latent_dim}.")
        self.n_components = n_components
        self.latent_dim = latent_dim or min(3, self.kernel.dim)
        self.hidden, self.n_frequencies, self.bandwidth = tuple(hidden), n_frequencies, bandwidth
        self.learn_weights = learn_weights
        self.history: list[dict[str, float]] = []
        self.build_network()
        if self.kernel.needs_double:
            self.double()

    def build_network(self) -> None:
        """Make the network anew, from torch's global random state.

        Raw locations are ``shift + spread * output``; training sets both to the data's mean and standard deviation.
        """
        where = self.kernel.num_raw - self.kernel.num_raw_shape
        self.register_buffer("shift", torch.zeros(where))
        self.register_buffer("spread", torch.ones(where))
        features = FourierFeatures(self.latent_dim, self.n_frequencies, self.bandwidth)
        self.network = nn.Sequential(features, *mlp(features.out_features, self.hidden, self.kernel.num_raw + 1))

    @property
    def head(self) -> nn.Linear:
        """The last layer, whose outputs are the raw location, the raw shape and the log weight."""
        return cast(nn.Linear, self.network[-1])

    @property
    def manifold(self) -> geoopt.Manifold:
        """The manifold of the points."""
        return self.kernel.manifold

    @property
    def point_shape(self) -> Shape:
        """Shape of a point."""
        return self.kernel.point_shape

    def components(self, z: Tensor) -> Mixture:
        """The mixture of the components at noise ``z`` (M,latent_dim)."""
        like = next(self.parameters())
        sizes = [len(self.shift), self.kernel.num_raw_shape, 1]
        where, shape, log_weights = self.network(z.to(like)).split(sizes, dim=-1)
        params = self.kernel.params(torch.cat([self.shift + self.spread * where, shape], dim=-1))
        return Mixture(self.kernel, params, log_weights.squeeze(-1) if self.learn_weights else None)

    def forward(self, n_components: int | None = None, generator: torch.Generator | None = None) -> Mixture:
        """A mixture of freshly drawn components, differentiable in the network's weights."""
        return self.components(bases.uniform(self._count(n_components), self.latent_dim, generator))

    def _count(self, n_components: int | None) -> int:
        count = self.n_components if n_components is None else n_components
        if count < 1:
            raise ValueError(f"Expected at least one component, got n_components={count}.")
        return count

    @torch.no_grad()
    def freeze(self, n_components: int | None = None, seed: int = 0) -> Mixture:
        """One draw of the components, kept: an exact, deterministic, normalised density.

        The noise is a scrambled Sobol sequence of that seed, which represents the flow with fewer components than independent
        draws. Powers of two suit it.
        """
        return self.components(bases.sobol(self._count(n_components), self.latent_dim, seed))

    def log_prob(self, x: Tensor, measure: Measure | str | None = None) -> Tensor:
        """Log density at ``x`` under freshly drawn components, the same for all rows; (*S,*E) -> (*S)."""
        return self().log_prob(x, measure)

    def sample(self, sample_shape: Shape = (), generator: torch.Generator | None = None) -> Tensor:
        """Samples of freshly drawn components; -> (*sample_shape,*E)."""
        with torch.no_grad():
            return self(generator=generator).sample(sample_shape, generator)

    def diagnose(self, x: Tensor | None = None, n_components: int | None = None, seed: int = 0) -> Diagnosis:
        """How well so many components stand for the infinite mixture at points ``x`` (N,*E), by default at own samples.

        Draws 16 times as many components to compare with; ``print`` the result. See :func:`mf_manifold.diagnose.diagnose`.
        """
        count, generator = self._count(n_components), torch.Generator().manual_seed(seed)
        if x is None:
            x = self.sample((ROWS,), generator=generator)
        with torch.no_grad():
            pool = self(n_components=GROUPS * count, generator=generator)
        return diagnose(pool, x.to(next(self.parameters())), count, partial(self.freeze, seed=seed), seed)

    def fit(self, x: Tensor, **options: Any) -> MarginalFlow:
        """Fit to data by forward Kullback-Leibler divergence; the options are those of :func:`mf_manifold.training.fit`."""
        training.fit(self, x, **options)
        return self

    def config(self) -> dict[str, Any]:
        """JSON description of everything but the tensors."""
        return {
            "manifold": geometry.to_config(self.manifold),
            "point_shape": list(self.point_shape),
            "kernel": self.kernel.name,
            "options": {
                "n_components": self.n_components,
                "latent_dim": self.latent_dim,
                "hidden": list(self.hidden),
                "n_frequencies": self.n_frequencies,
                "bandwidth": self.bandwidth,
                "learn_weights": self.learn_weights,
                "kernel_options": self.kernel.options,
            },
            "history": self.history,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], tensors: dict[str, Tensor]) -> MarginalFlow:
        """Rebuild what :meth:`save` wrote."""
        manifold = manifolds.from_config(config["manifold"])
        flow = cls(manifold, tuple(config["point_shape"]), config["kernel"], **config["options"])
        flow.to(next(iter(tensors.values())).dtype).load_state_dict(tensors)
        flow.history = config["history"]
        return flow

    def save(self, path: str | PathLike[str], *, overwrite: bool = False) -> Path:
        """Write the checkpoint ``path/model.safetensors``; :func:`mf_manifold.load` reads it back."""
        return checkpoint.save(self, path, overwrite=overwrite)
