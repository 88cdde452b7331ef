"""Laws that a resampled base thins: given ones, and families whose parameters are learned."""

from __future__ import annotations

from functools import singledispatch
from typing import Any

import geoopt
import torch
from torch import Tensor, nn

from .. import geometry
from ..bases import on_device
from ..distributions import KernelDistribution
from ..geometry import Shape
from ..kernel import Kernel, kernel_for
from ..manifolds import Grassmann
from ..manifolds.product import split
from ..mixture import Mixture
from ..starts import bump_around, covering_law

SCOUTS = 4096  # points of a proposal that show where its coordinates are
Law = KernelDistribution | Mixture


@singledispatch
def coordinates(manifold: geoopt.Manifold, x: Tensor) -> Tensor:
    """Smooth real functions that tell points of the manifold apart, for networks; (*B,*E) -> (*B,k)."""
    return geometry.to_raw(manifold, x)


@coordinates.register(Grassmann)
def _(manifold: Grassmann, x: Tensor) -> Tensor:
    return (x @ x.mT).flatten(-2)  # of the subspace, not of its basis


@coordinates.register(geoopt.ProductManifold)
def _(manifold: geoopt.ProductManifold, x: Tensor) -> Tensor:
    parts = zip(manifold.manifolds, split(manifold, x), strict=True)
    return torch.cat([coordinates(part, own) for part, own in parts], dim=-1)


class Proposal(nn.Module):
    """A law with standardised coordinates of its points.

    Subclasses implement :meth:`law`; fits call :meth:`reset`, and :meth:`begin` where there are points.
    """

    kernel: Kernel
    center: Tensor
    width: Tensor

    def __init__(self, manifold: geoopt.Manifold, point_shape: Shape) -> None:
        super().__init__()
        self._place = manifold, point_shape
        self.register_buffer("center", torch.zeros(1))
        self.register_buffer("width", torch.ones(1))

    @property
    def size(self) -> int:
        """Number of coordinates."""
        return len(self.center)

    def law(self) -> Law:
        """The distribution, differentiable in what is learned."""
        raise NotImplementedError

    def reset(self) -> None:
        """Make what is learned as it was at first."""

    def begin(self, x: Tensor) -> None:
        """Start what is learned at points (n,*E)."""

    def propose(self, law: Law, n: int, generator: torch.Generator | None, pathwise: bool = False) -> Tensor:
        """Points of the law in the dtype and on the device of this module; (n,*E)."""
        params = list(law.params.values())
        device = params[0].device if params else torch.device("cpu")  # the uniform law knows neither
        draw = law.rsample if pathwise and isinstance(law, KernelDistribution) else law.sample
        return draw((n,), on_device(generator, device)).to(self.center)

    def features(self, x: Tensor) -> Tensor:
        """Coordinates with about zero mean and unit variance under the proposal; (*B,*E) -> (*B,k)."""
        return (coordinates(self._place[0], x) - self.center) / self.width

    @torch.no_grad()
    def standardise(self) -> None:
        """Read centre and width of the coordinates off points of the law."""
        found = coordinates(self._place[0], self.propose(self.law(), SCOUTS, torch.Generator().manual_seed(0)))
        self.center = found.mean(0)
        spread = found.std(0)
        self.width = torch.where(spread > 0, spread, torch.ones_like(spread))

    def config(self) -> dict[str, Any]:
        """JSON description of everything but the tensors."""
        raise NotImplementedError


class GivenProposal(Proposal):
    """A kernel with parameters, or a mixture, both fixed; a mixture's background stays part of it."""

    def __init__(self, law: Law) -> None:
        super().__init__(law.manifold, law.point_shape)
        if law.batch_shape:
            raise ValueError(f"Expected one proposal, got a batch of them of shape {tuple(law.batch_shape)}.")
        self.kernel, self.is_mixture = law.kernel, isinstance(law, Mixture)
        self.kept = _Tensors({name: value.detach() for name, value in law.params.items()})
        self.covering = None
        if isinstance(law, Mixture):
            equal = self.center.new_zeros(law.n_components)
            self.register_buffer("log_weights", equal if law.log_weights is None else law.log_weights.detach())
            self.register_buffer("share", law.background_weight.detach().clone())
            self.covering = None if law.background is None else GivenProposal(law.background)
        self.standardise()

    def law(self) -> Law:
        params = dict(self.kept.named_buffers())
        if not self.is_mixture:
            return KernelDistribution(self.kernel, params, validate_args=False)
        background: Any = None if self.covering is None else self.covering.law()
        options = {"background": background, "background_weight": self.share, "validate_args": False}
        return Mixture(self.kernel, params, self.log_weights, **options)  # type: ignore[arg-type]

    def features(self, x: Tensor) -> Tensor:
        if self.kernel.name == "normal" and not self.is_mixture and "scale" in dict(self.kept.named_buffers()):
            law: Any = self.law()
            return (coordinates(self._place[0], x) - law.loc.flatten()) / law.scale
        return super().features(x)

    def config(self) -> dict[str, Any]:
        found = {"kind": "given", "kernel": self.kernel.name, "options": self.kernel.options, "mixture": self.is_mixture}
        return {**found, "covering": None if self.covering is None else self.covering.config()}


class _Tensors(nn.Module):
    """Named buffers."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        super().__init__()
        for name, value in tensors.items():
            self.register_buffer(name, value.clone())


class NormalProposal(Proposal):
    """A normal law of R^d whose mean and scales are learned; coordinates are standardised by them."""

    def __init__(self, manifold: geoopt.Manifold, point_shape: Shape) -> None:
        super().__init__(manifold, point_shape)
        self.kernel = kernel_for(manifold, point_shape, "normal")
        self.center = torch.zeros(self.kernel.dim)
        self.loc, self.log_scale = nn.Parameter(torch.zeros(point_shape)), nn.Parameter(torch.zeros(self.kernel.dim))

    def law(self) -> KernelDistribution:
        return KernelDistribution(self.kernel, {"loc": self.loc, "scale": self.log_scale.exp()}, validate_args=False)

    @torch.no_grad()
    def reset(self) -> None:
        self.loc.zero_()
        self.log_scale.zero_()

    @torch.no_grad()
    def begin(self, x: Tensor) -> None:
        self.loc.copy_(x.mean(0))
        spread = x.std(0).flatten()
        self.log_scale.copy_(torch.where(spread > 0, spread, torch.ones_like(spread)).log())

    def features(self, x: Tensor) -> Tensor:
        return (x - self.loc).flatten(x.ndim - self.loc.ndim) * torch.exp(-self.log_scale)

    def config(self) -> dict[str, Any]:
        return {"kind": "normal"}


class LearnedProposal(Proposal):
    """One bump of a kernel whose raw parameters are learned."""

    def __init__(self, kernel: Kernel) -> None:
        super().__init__(kernel.manifold, kernel.point_shape)
        self.kernel = kernel
        self.raw = nn.Parameter(torch.zeros(kernel.num_raw))
        self.reset()

    def law(self) -> KernelDistribution:
        return KernelDistribution(self.kernel, self.kernel.params(self.raw), validate_args=False)

    @torch.no_grad()
    def reset(self) -> None:
        self.raw.zero_()
        self.raw[self.kernel.num_raw - self.kernel.num_raw_shape :] = self.kernel.raw_from_scale(1.0)
        law = covering_law(self.kernel.manifold, self.kernel.point_shape, 1.0)
        self.begin(law.sample((SCOUTS,), torch.Generator().manual_seed(0)))

    @torch.no_grad()
    def begin(self, x: Tensor) -> None:
        if self.kernel.has_location:
            self.raw.copy_(bump_around(self.kernel, x))
        self.standardise()

    def config(self) -> dict[str, Any]:
        return {"kind": "learned", "kernel": self.kernel.name, "options": self.kernel.options}


def proposal_for(manifold: geoopt.Manifold, point_shape: Shape, proposal: Law | str | None) -> Proposal:
    """The proposal that an argument means: a law, the name of a family that is learned, None for the covering law.

    Raises:
        ValueError: a law on another space.
    """
    if isinstance(proposal, str):
        kernel = kernel_for(manifold, point_shape, proposal)
        plain = isinstance(manifold, geoopt.Euclidean) and kernel.name == "normal"
        return NormalProposal(manifold, point_shape) if plain else LearnedProposal(kernel)
    law = covering_law(manifold, point_shape, 1.0) if proposal is None else proposal
    if not geometry.same_manifold(law.manifold, manifold) or tuple(law.point_shape) != tuple(point_shape):
        raise ValueError(
            f"Expected a proposal with points of shape {tuple(point_shape)} on {manifold.name}, "
            f"got one with points of shape {tuple(law.point_shape)} on {law.manifold.name}."
        )
    return GivenProposal(law)


def from_config(manifold: geoopt.Manifold, point_shape: Shape, config: dict[str, Any], tensors: dict[str, Tensor]) -> Proposal:
    """The proposal of a description; ``tensors`` tell the sizes of a given law's parameters."""
    if config["kind"] == "normal":
        return NormalProposal(manifold, point_shape)
    kernel = kernel_for(manifold, point_shape, config["kernel"], **config["options"])
    if config["kind"] == "learned":
        return LearnedProposal(kernel)
    params = {name: tensors[f"kept.{name}"] for name in kernel.event_shapes}
    if not config["mixture"]:
        return GivenProposal(KernelDistribution(kernel, params, validate_args=False))
    covering: Any = None
    if config["covering"] is not None:
        inner = {name.removeprefix("covering."): value for name, value in tensors.items() if name.startswith("covering.")}
        covering = from_config(manifold, point_shape, config["covering"], inner).law()
    options = {"background": covering, "background_weight": tensors["share"], "validate_args": False}
    return GivenProposal(Mixture(kernel, params, tensors["log_weights"], **options))
