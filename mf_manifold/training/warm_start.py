"""Where a fit begins: locations regressed onto matched noise, scales at what that leaves open."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from scipy.spatial import cKDTree
from torch import Tensor

from .. import bases, geometry

if TYPE_CHECKING:
    from ..marginal import MarginalFlow

CONTEXTS = 4  # a step
MATCHED = 2**15  # data, at most: matching takes some seconds by then, which no time limit cuts short


def warm_start(model: MarginalFlow, x: Tensor, generator: torch.Generator, steps: int, stop: Callable[[], bool]) -> None:
    """Regress the network of a flow onto matched noise for the data ``x``, and set its scales to what that left open."""
    target = geometry.to_raw(model.manifold, _some(x, generator))
    model.shift, model.spread = center_and_spread(target)
    # fewer dimensions than the manifold has: a curve or a surface, whose turns halving has to follow
    features = bases.unfold(target, generator) if model.latent_dim < model.kernel.dim else target
    noise = _as_base(model.base, bases.match(features, model.latent_dim, generator))
    _regress(model, target, noise, None, generator, steps, stop)
    model.set_scale(max(_gap(model, target, generator), _miss(model, target, noise, generator)))


def spread_out(
    model: MarginalFlow, x: Tensor, context: Tensor, generator: torch.Generator, steps: int, stop: Callable[[], bool]
) -> None:
    """Let the components of every context begin all over the data, at a third of the data's spread.

    Locations are regressed onto noise matched to the data of all contexts together, so that some component is near whatever a
    context will need; which ones it takes is left to the fit.
    """
    target = geometry.to_raw(model.manifold, _some(x, generator))
    model.shift, model.spread = center_and_spread(target)
    noise = _as_base(model.base, bases.match(target, model.latent_dim, generator))
    _regress(model, target, noise, context, generator, steps, stop)
    model.set_scale(float(target.std(0).mean()) / 3)


def _some(x: Tensor, generator: torch.Generator) -> Tensor:
    """As many of the data as are matched, at random where there are more."""
    return x if len(x) <= MATCHED else x[torch.randperm(len(x), generator=generator)[:MATCHED].to(x.device)]


def _regress(
    model: MarginalFlow,
    target: Tensor,
    noise: Tensor,
    context: Tensor | None,
    generator: torch.Generator,
    steps: int,
    stop: Callable[[], bool],
) -> None:
    """Fit raw locations at the noise of every datum to the datum, whatever the context."""
    wanted, where = (target - model.shift) / model.spread, len(model.shift)
    count = 4096 if context is None else 4096 // CONTEXTS
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for step in range(steps):
        if stop():
            break
        optimizer.param_groups[0]["lr"] = 3e-3 * (1 - step / steps) + 1e-4
        rows = torch.randint(len(noise), (min(count, len(noise)),), generator=generator).to(noise.device)
        given: tuple[Tensor, ...] = ()
        if context is not None:
            given = (context[torch.randint(len(context), (CONTEXTS,), generator=generator).to(noise.device)],)
        error = (model.network(noise[rows], *given)[..., :where] - wanted[rows]).square().mean()
        optimizer.zero_grad()
        error.backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def center_and_spread(target: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each coordinate of data (n,k), the latter above what rounding makes of a constant."""
    rounding = max(1e-6 * float(target.abs().max()), torch.finfo(target.dtype).tiny ** 0.5)
    return target.mean(0), target.std(0).clamp_min(rounding)


def _as_base(base: str | bases.WeightedNoise, noise: Tensor) -> Tensor:
    """Noise matched on the cube as noise of the base; of a learned one as if it were standard normal, which it begins as."""
    if base in ("sobol", "uniform"):
        return noise
    edge = torch.finfo(noise.dtype).eps  # rounding puts noise on the cube's faces, which are at infinity for the normal law
    return torch.special.ndtri(((noise + 1) / 2).clamp(edge, 1 - edge))


@torch.no_grad()
def _miss(model: MarginalFlow, target: Tensor, noise: Tensor, generator: torch.Generator) -> float:
    """The typical miss of the regression, per dimension."""
    rows = torch.randperm(len(noise), generator=generator)[:4096].to(noise.device)
    found = model.shift + model.spread * model.network(noise[rows])[:, : len(model.shift)]
    return float((found - target[rows]).square().sum(-1).median() / model.kernel.dim) ** 0.5


@torch.no_grad()
def _gap(model: MarginalFlow, target: Tensor, generator: torch.Generator) -> float:
    """Median distance within which a datum has its share of neighbours, or a component has, whichever is less.

    Between data of many dimensions noise outweighs the distance along what they lie around; between components it does not.
    """
    count = min(model.n_components, 4096)
    noise = bases.draw(model.base, count, model.latent_dim, generator).to(target)
    found = model.shift + model.spread * model.network(noise)[:, : len(model.shift)]
    return max(min(_neighbor_distance(target[:5000], model.n_components), _neighbor_distance(found, count)), 1e-4)


def _neighbor_distance(points: Tensor, n_components: int) -> float:
    embedded = points.double().cpu().numpy()
    count = min(len(embedded) - 1, 1 + max(8, round(8 * len(embedded) / n_components)))
    if count < 1:
        return 0.0
    distances, _ = cKDTree(embedded).query(embedded, k=[count + 1])
    return float(torch.as_tensor(distances).median())
