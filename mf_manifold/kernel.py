"""Probability kernels q(dx | w): parametric families on manifolds, and the registry that finds them.

The word *kernel* means a conditional probability and nothing else. A kernel object is stateless: it knows the manifold, the
point shape and its own variant; the parameters ``w`` are a dictionary of tensors that broadcast over their batch
dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple, TypeVar

import geoopt
import torch
from torch import Tensor, nn
from torch.distributions import constraints

from . import geometry
from .backends.bilinear import Bilinear
from .backends.pairs import bilinear_pairs, by_blocks
from .geometry import Shape
from .measure import Measure, log_ratio
from .model import model_of

Params = dict[str, Tensor]


class OnManifold(constraints.Constraint):
    """Constraint of the points of a manifold, for ``support`` and ``arg_constraints``."""

    def __init__(self, manifold: geoopt.Manifold, point_shape: Shape) -> None:
        self.manifold, self.point_shape = manifold, point_shape
        self.event_dim = len(point_shape)
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        flat = value.flatten(value.ndim - self.event_dim)
        ok = torch.isfinite(flat).all(-1)
        for _, amount in geometry.violations(self.manifold, value):
            ok = ok & (amount <= 1e-4)
        return ok

    def __repr__(self) -> str:
        return f"OnManifold({self.manifold.name}, {self.point_shape})"


class Kernel(nn.Module):
    """A parametric family q(x | w) of exactly normalised densities on a manifold.

    A subclass states ``event_shapes`` (parameter names with their trailing shapes; a ``scale`` of size 1 broadcasts),
    ``base_measure`` (the measure that its formula uses), ``exactness``, and implements :meth:`_log_prob`, :meth:`rsample`
    and :meth:`centered`. Everything public is with respect to the Riemannian volume of the manifold's metric.

    Shapes: points (*B,*E); a parameter is (*B, its event shape); log densities (*B).
    """

    name: ClassVar[str]
    parameter_names: ClassVar[tuple[str, ...]]
    location: ClassVar[str] = "loc"  # the parameter that has the shape of a point
    has_location: bool = True  # whether centered() makes bumps; the uniform law, for one, has none
    exactness: ClassVar[str] = "closed form"
    base_measure: ClassVar[str] = "riemannian"
    mean_kind: str | None = None  # "frechet", or "extrinsic": the ambient mean projected to the manifold
    antipodal: bool = False  # whether q(x) = q(-x) on a sphere
    has_rsample: bool = True
    max_scale: float = math.inf  # the largest that centered() accepts
    needs_double: bool = False  # whether a network should train in float64
    log_scale_range: tuple[float, float] = (-7.0, 1.0)  # of the network's scales: a floor stops collapse on a datum

    def __init__(self, manifold: geoopt.Manifold, point_shape: Shape) -> None:
        super().__init__()
        geometry.check_manifold(manifold, tuple(point_shape))
        self.manifold = manifold
        self.point_shape = tuple(point_shape)
        self.dim = geometry.intrinsic_dim(manifold, self.point_shape)

    @property
    def event_shapes(self) -> Mapping[str, Shape]:
        """Trailing shape of each parameter; the names are those of the keyword arguments."""
        raise NotImplementedError

    @property
    def event_dims(self) -> Mapping[str, int]:
        """Number of trailing dimensions of each parameter."""
        return {name: len(shape) for name, shape in self.event_shapes.items()}

    @property
    def param_constraints(self) -> Mapping[str, constraints.Constraint]:
        """Constraint of each parameter."""
        raise NotImplementedError

    @classmethod
    def options_for(cls, names: set[str]) -> dict[str, Any]:
        """Constructor options of the variant whose parameters have these names."""
        return {}

    @classmethod
    def infer_point_shape(cls, manifold: geoopt.Manifold, params: Mapping[str, Any]) -> Shape:
        """The point shape that the keyword arguments of :func:`mf_manifold.distribution` imply."""
        ndim = geometry.point_ndim(manifold)
        value = torch.as_tensor(params.get(cls.location, 0.0))
        if value.ndim < ndim:
            raise ValueError(
                f"Expected parameters {', '.join(cls.parameter_names)} of {cls.name} with the tensor {cls.location} of "
                f"at least {ndim} dimension(s), got {', '.join(params) or 'none'}."
            )
        return tuple(value.shape[value.ndim - ndim :])

    @property
    def options(self) -> dict[str, Any]:
        """Constructor options of this variant, for checkpoints."""
        return {}

    @property
    def measure(self) -> Measure:
        """The measure of every log density of this class: the Riemannian volume."""
        return Measure(self.manifold)

    def log_prob(self, x: Tensor, w: Params) -> Tensor:
        """Log density at ``x`` under parameters ``w``, broadcasting their batch shapes; -> (*B)."""
        return self._log_prob(x, w) + self._base_ratio(x)

    def _base_ratio(self, x: Tensor) -> Tensor:
        return log_ratio(Measure(self.manifold, self.base_measure), self.measure, x)

    def _log_prob(self, x: Tensor, w: Params) -> Tensor:
        """Log density with respect to ``base_measure``."""
        raise NotImplementedError

    def rsample(self, w: Params, sample_shape: Shape = (), generator: torch.Generator | None = None) -> Tensor:
        """Independent points, pathwise differentiable where ``has_rsample``; -> (*sample_shape,*B,*E)."""
        raise NotImplementedError

    def centered(self, points: Tensor, scale: Tensor) -> Params:
        """Parameters of a bump at ``points`` (*B,*E) with standard deviation ``scale`` (*B) in units of the metric."""
        raise NotImplementedError

    def around(self, points: Tensor, covariance: Tensor) -> Params:
        """Parameters of bumps at ``points`` (*B,*E) with a ``covariance`` (*B,d,d) of the logarithms.

        The covariance refers to the orthonormal coordinates of :func:`mf_manifold.geometry.from_coords` at the points. A family
        whose variance is the same in all directions takes the mean variance; others have the covariance to first order, for
        narrow bumps. What exceeds ``max_scale`` is cut to it.
        """
        variance = covariance.diagonal(dim1=-2, dim2=-1).mean(-1)
        return self.centered(points, variance.sqrt().clamp_max(self.max_scale))

    def pairwise_log_prob(self, x: Tensor, w: Params) -> Tensor:
        """Log density of every point (N,*E) under every component (M,...); -> (N,M)."""
        form = self.bilinear(x, w)
        if form is not None:
            return bilinear_pairs(form)
        count = self.batch_shape(w)[0] if w else 1
        return by_blocks(lambda rows: self.log_prob(x[rows].unsqueeze(1), w), len(x), count, x)

    def bilinear(self, x: Tensor, w: Params) -> Bilinear | None:
        """The form ``log q = offset(x) + bias(w) + phi(x).psi(w)`` for one matrix product, where the family has one."""
        return None

    def mean(self, w: Params) -> Tensor:
        """The mean, a point of the manifold; which of the means is said by ``mean_kind``; -> (*B,*E)."""
        raise NotImplementedError(f"{self.name} on {self.manifold.name} has no mean in closed form; average samples instead.")

    def entropy(self, w: Params) -> Tensor:
        """Differential entropy ``-E log q`` with respect to the Riemannian volume, in nats; -> (*B)."""
        raise NotImplementedError(
            f"{self.name} on {self.manifold.name} has no entropy in closed form; average -log_prob over samples instead."
        )

    def mean_log_ratio(self, w: Params, kind: str) -> Tensor:
        """``E log d kind / d riemannian (X)``, which turns entropies from one measure to the other; -> (*B) or ()."""
        if kind == "riemannian":
            return torch.zeros(())
        if kind == "normalized":
            return torch.tensor(-geometry.log_volume(self.manifold, self.point_shape), dtype=torch.float64)
        raise NotImplementedError(
            f"{self.name} on {self.manifold.name} has no entropy by the {kind} measure in closed form; "
            "average -log_prob over samples instead."
        )

    def kl_divergence(self, w: Params, other: Kernel, v: Params) -> Tensor:
        """Kullback-Leibler divergence from the law at ``w`` to that of another kernel at ``v``, in nats; -> (*B)."""
        if other.name == "uniform":
            return geometry.log_volume(self.manifold, self.point_shape) - self.entropy(w)
        raise NotImplementedError(
            f"The divergence from {self.name} to {other.name} has no closed form; "
            "average p.log_prob(x) - q.log_prob(x) over samples x of p instead."
        )

    def fit(self, x: Tensor, weights: Tensor | None = None) -> Params:
        """Parameters of largest (weighted) likelihood for points (N,*E) and weights (N); without batch dimensions."""
        raise NotImplementedError(
            f"{self.name} on {self.manifold.name} has no maximum-likelihood fit; use MarginalFlow or an optimiser of your own."
        )

    def fit_many(self, x: Tensor, weights: Tensor) -> Params:
        """:meth:`fit` for every column of weights (N,M) at once, the M step of mixtures; parameters of batch shape (M)."""
        fits = [self.fit(x, column) for column in weights.mT]
        return {name: torch.stack([found[name] for found in fits]) for name in self.event_shapes}

    @property
    def num_raw(self) -> int:
        """Number of unconstrained reals per component that a network outputs."""
        return geometry.raw_dim(self.manifold, self.point_shape) + self.num_raw_shape

    @property
    def num_raw_shape(self) -> int:
        """How many of them describe the shape around the location."""
        return 1

    def params(self, raw: Tensor) -> Params:
        """Parameters from unconstrained reals (*B,num_raw), the only place where constraints live."""
        where, shape = raw.split([raw.shape[-1] - self.num_raw_shape, self.num_raw_shape], dim=-1)
        return self.shaped(geometry.from_raw(self.manifold, where, self.point_shape), shape)

    def shaped(self, points: Tensor, shape: Tensor) -> Params:
        """Parameters at given locations from the raw shape part (*B,num_raw_shape)."""
        return self.centered(points, self.scale_from_raw(shape[..., 0]))

    def scale_from_raw(self, raw: Tensor) -> Tensor:
        """A scale within ``exp(log_scale_range)`` from an unconstrained real."""
        low, high = self.log_scale_range
        return torch.exp(low + (high - low) * torch.sigmoid(raw))

    def raw_from_scale(self, scale: float) -> float:
        """Inverse of :meth:`scale_from_raw`, clipped into the range."""
        low, high = self.log_scale_range
        position = (torch.tensor(scale, dtype=torch.float64).log() - low) / (high - low)
        return float(torch.logit(position.clamp(0.01, 0.99)))

    def batch_shape(self, w: Params) -> torch.Size:
        """Broadcast batch shape of the parameters."""
        shapes = {k: tuple(w[k].shape[: w[k].ndim - dims]) for k, dims in self.event_dims.items()}
        try:
            return torch.broadcast_shapes(*shapes.values())
        except RuntimeError as error:
            raise ValueError(f"Expected parameters of {self.name} whose batch shapes broadcast, got {shapes}.") from error

    def expand(self, w: Params, batch_shape: Shape) -> Params:
        """The parameters with every batch shape expanded to ``batch_shape``, without copying."""
        return {k: w[k].expand((*batch_shape, *w[k].shape[w[k].ndim - dims :])) for k, dims in self.event_dims.items()}

    def extra_repr(self) -> str:
        options = "".join(f", {k}={v!r}" for k, v in self.options.items())
        return f"{self.name}, point_shape={self.point_shape}{options}"


class KernelInfo(NamedTuple):
    """One row of the registry."""

    manifold: str
    name: str
    default: bool
    parameters: tuple[str, ...]
    measure: str
    exactness: str


K = TypeVar("K", bound=type[Kernel])
_REGISTRY: dict[type, dict[str, type[Kernel]]] = {}
_DEFAULTS: dict[type, str] = {}


def register_kernel(manifold_class: type, name: str, *, default: bool = False) -> Callable[[K], K]:
    """Class decorator that registers a kernel for a manifold class and its subclasses."""

    def decorate(kernel_class: K) -> K:
        kernel_class.name = name
        _REGISTRY.setdefault(manifold_class, {})[name] = kernel_class
        if default:
            _DEFAULTS[manifold_class] = name
        return kernel_class

    return decorate


def _load_families() -> None:
    """Fill the registry, whichever module a program imports first."""
    from . import kernels  # noqa: F401


def kernel_families() -> list[tuple[str, type[Kernel], bool]]:
    """Every registered family: the name of the manifold class, the kernel class, and whether it is the default there."""
    _load_families()
    rows = [(m.__name__, c, _DEFAULTS.get(m) == n) for m, kernels in _REGISTRY.items() for n, c in kernels.items()]
    return sorted(rows, key=lambda row: (row[0], row[1].name))


def registered_kernels() -> list[KernelInfo]:
    """Every registered kernel with its parameters, reference measure and exactness.

    >>> import mf_manifold as mf
    >>> [k.name for k in mf.registered_kernels() if k.manifold == "Euclidean"]
    ['normal']
    """
    return [
        KernelInfo(manifold, c.name, default, c.parameter_names, c.base_measure, c.exactness)
        for manifold, c, default in kernel_families()
    ]


def _families_of(manifold: geoopt.Manifold) -> tuple[dict[str, type[Kernel]], str | None]:
    """The kernels registered for a manifold's class and its bases, by name, and the default's name."""
    _load_families()
    found: dict[str, type[Kernel]] = {}
    default = None
    for cls in type(manifold).__mro__:
        for key, kernel_class in _REGISTRY.get(cls, {}).items():
            found.setdefault(key, kernel_class)
        default = default or _DEFAULTS.get(cls)
    return found, default


def borrows(manifold: geoopt.Manifold, name: str | None) -> bool:
    """Whether a name means a kernel of the manifold's model, see :mod:`mf_manifold.model`."""
    return name is not None and model_of(manifold) is not None and name not in _families_of(manifold)[0]


def kernel_class_for(manifold: geoopt.Manifold, name: str | None = None) -> type[Kernel]:
    """The kernel class of a manifold, found through the MRO of its class.

    Raises:
        ValueError: no kernel of that name, or none at all, is registered for the manifold.
    """
    found, default = _families_of(manifold)
    chosen = name or default
    if chosen is None or chosen not in found:
        manifolds = ", ".join(sorted(cls.__name__ for cls in _REGISTRY))
        known = f"its kernels are {', '.join(sorted(found))}" if found else f"kernels exist for {manifolds}"
        raise ValueError(f"Expected a registered kernel, got {name!r} on {type(manifold).__name__}: {known}.")
    return found[chosen]


def kernel_for(manifold: geoopt.Manifold, point_shape: Shape, name: str | None = None, **options: Any) -> Kernel:
    """A kernel on ``manifold`` by its registry name; without a name the manifold's default.

    Where a manifold borrows kernels (``geoopt.Scaled`` from its base, stereographic projections from spheres and hyperboloids),
    the names and options of the other manifold's kernels are understood too.

    Raises:
        ValueError: the name is not registered for the manifold, or the point shape does not fit.

    >>> import geoopt, mf_manifold as mf
    >>> mf.kernel_for(geoopt.Sphere(), (3,), "von_mises_fisher")
    VonMisesFisher(
      von_mises_fisher, point_shape=(3,)
      (manifold): Sphere manifold
    )
    """
    if borrows(manifold, name):
        name, options = None, {"base": name, "base_options": options}
    return kernel_class_for(manifold, name)(manifold, tuple(point_shape), **options)
