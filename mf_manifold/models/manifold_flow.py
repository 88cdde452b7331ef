"""A flow that learns the manifold near which data lie and the density along it, in one step."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any, Self

import geoopt
import torch
from torch import Tensor
from torch.nn.functional import huber_loss

from .. import checkpoint
from ..distributions import ManifoldDistribution
from ..estimator import LazyDistribution
from ..geometry import Shape
from ..losses import Batch, forward_kl
from ..manifolds import ChartManifold
from ..manifolds.chart import forward_jacobian, orthonormalise
from .flow import Flow, FlowDistribution, standard_normal
from .learned_manifold import LearnedManifoldDistribution, SplitLaw
from .manifold_start import intrinsic_coordinates, noise_scale

ROUNDING = 10  # times the precision of numbers: noise below that has no scale
START_BATCH, START_RATE = 256, 1e-2
START_SCALE = 0.003  # weight of the scale of v among least squares of standardised coordinates
TRIALS, TRIAL_SHARE, LENGTH = 4, 4, 2  # starts that are tried, for this part of the steps; steps of the best, relative


@checkpoint.register_model
class ManifoldFlow(LazyDistribution):
    r"""A flow f of R^D whose first m latent coordinates u follow a manifold, and whose others v the noise around it.

    .. math:: (u, v) = f(x), \quad g(u) = f^{-1}(u, 0), \quad \log p(x) = \log p_U(u) + \log p_V(v) + \log|\det J_f(x)|

    One objective learns both: the negative log-likelihood, plus a penalty on what the manifold does not reconstruct,

    .. math:: L = -\log p(x) + \lambda \sum_{j=1}^{D} \rho_\delta\left(x_j - g(u)_j\right), \quad
              \lambda = \frac{\text{weight}}{\sigma^2}, \quad
              \rho_\delta(r) = \begin{cases} r^2 / 2 & |r| \le \delta \\ \delta (|r| - \delta / 2) & |r| > \delta \end{cases}

    with the standard deviation sigma of the noise around the manifold. :meth:`fit_density` then learns another law of u with f
    held fixed, which takes the place of the normal one everywhere.

    **Measure**: two that are never comparable. :meth:`log_prob` is by Lebesgue measure of R^D; :meth:`log_prob_on_manifold` and
    the law :meth:`on_manifold` are by the Hausdorff measure of the learned manifold (arc length, area).

    The loss, its threshold, its weight and the stages are reconstructed from the abstract of the reference; they may differ
    from what its authors did.

    Args:
        manifold: ``geoopt.Euclidean(ndim=1)``.
        point_shape: (D,).
        latent_dim: m, less than D.
        layers, transforms, hidden, bins: of the flow, see :class:`mf_manifold.models.Flow`.
        noise: sigma, in the units of the data; None estimates it from them.
        weight: of the penalty relative to 1 / sigma^2, at which its quadratic part is a normal log-likelihood; 0 is maximum
            likelihood.
        delta: the threshold of the penalty in units of sigma.
        first: the weight at the beginning of a fit, relative to the final one, to which it rises or falls geometrically.
        anneal: share of the fit after which it has its final value.
        start: regress f onto coordinates that follow the data's turns before the first step; likelihood alone rarely finds
            them.

    Raises:
        ValueError: another manifold, a latent dimension out of range, numbers that are not positive; in a fit, data without
            noise of which it is to be estimated.
        ImportError: zuko is not installed.

    Reference: Razavi, Mehmanchi, Hosseini, Tavassolipour (2022), Joint manifold learning and density estimation using
        normalizing flows, arXiv 2206.03293.

    >>> import geoopt, torch, mf_manifold as mf
    >>> generator = torch.Generator().manual_seed(0)
    >>> t = torch.rand(500, 1, generator=generator)
    >>> x = torch.cat([t, t**2], -1) + 0.01 * torch.randn(500, 2, generator=generator)
    >>> flow = mf.models.ManifoldFlow(geoopt.Euclidean(ndim=1), (2,), 1, transforms=4, hidden=(16,))
    >>> flow = flow.fit(x, max_steps=200, progress=False)
    >>> bool((flow.project(x) - x).norm(dim=-1).mean() < 0.03)
    True
    >>> law = flow.on_manifold()
    >>> str(law.measure)
    'riemannian measure on ChartManifold'
    """

    noise: Tensor

    def __init__(
        self,
        manifold: geoopt.Manifold,
        point_shape: Shape,
        latent_dim: int,
        *,
        layers: str = "affine",
        transforms: int = 8,
        hidden: Sequence[int] = (64, 64),
        bins: int = 8,
        noise: float | None = None,
        weight: float = 1.0,
        delta: float = 5.0,
        first: float = 1.0,
        anneal: float = 0.6,
        start: bool = True,
    ) -> None:
        super().__init__(manifold, point_shape)
        self.flow = Flow(manifold, point_shape, layers=layers, transforms=transforms, hidden=hidden, bins=bins)
        if not 1 <= latent_dim < self.flow.dim:
            raise ValueError(f"Expected 1 <= latent_dim < D, got {latent_dim} for points of shape {self.point_shape}.")
        if not (weight >= 0 and min(delta, first) > 0 and 0 < anneal <= 1 and (noise is None or noise > 0)):
            raise ValueError(
                "Expected weight >= 0, positive delta and first, 0 < anneal <= 1 and a positive noise or None, "
                f"got {weight}, {delta}, {first}, {anneal} and {noise}."
            )
        self.latent_dim, self.density = latent_dim, None
        self.options: dict[str, Any] = {"noise": noise, "weight": weight, "delta": delta, "first": first, "anneal": anneal}
        self.options["start"] = start
        self.register_buffer("noise", torch.tensor(1.0 if noise is None else float(noise)))

    density: LazyDistribution | None

    def to_latent(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The noise ``z = (u, v)`` of points and ``log|det dz/dx|``; (*S,D) -> (*S,D), (*S)."""
        return self.flow.to_latent(x)

    def to_data(self, z: Tensor) -> Tensor:
        """The points with noise ``z = (u, v)``; (*S,D) -> (*S,D)."""
        return self.flow.to_data(z)

    def encode(self, x: Tensor) -> Tensor:
        """Coordinates ``u`` on the manifold of any points; (*S,D) -> (*S,m)."""
        return self.to_latent(x)[0][..., : self.latent_dim]

    def decode(self, u: Tensor) -> Tensor:
        """Points ``g(u)`` of the manifold; (*S,m) -> (*S,D)."""
        return _decode(self.flow, u)

    def project(self, x: Tensor) -> Tensor:
        """The points ``g(u)`` of the manifold that have the coordinates of ``x``: its reconstruction; (*S,D) -> (*S,D)."""
        return self.decode(self.encode(x))

    reconstruct = project

    def off_manifold_score(self, x: Tensor) -> Tensor:
        """``-log p_V(v)`` in nats, half the squared length of v but for a constant: large off the manifold; (*S,D) -> (*S)."""
        return -self._across().log_prob(self.to_latent(x)[0][..., self.latent_dim :])

    def _across(self) -> ManifoldDistribution:
        return standard_normal(self.flow.shift[self.latent_dim :])

    def coordinate_law(self, n_components: int | None = None, generator: torch.Generator | None = None) -> ManifoldDistribution:
        """The law p_U of the coordinates: normal, after :meth:`fit_density` the one that was fitted."""
        if self.density is None:
            return standard_normal(self.flow.shift[: self.latent_dim])
        return self.density(None, n_components, generator)

    def forward(
        self, context: Tensor | None = None, n_components: int | None = None, generator: torch.Generator | None = None
    ) -> FlowDistribution:
        """The law on R^D, by Lebesgue measure."""
        if context is not None:
            raise ValueError("Expected no context: flows of this class are unconditional.")
        return FlowDistribution(self.flow, SplitLaw(self.coordinate_law(n_components, generator), self._across()))

    def on_manifold(self, n_components: int | None = None, seed: int = 0) -> LearnedManifoldDistribution:
        """The law on the learned manifold, by its Hausdorff measure: a frozen copy that computes in float64."""
        model = copy.deepcopy(self).double().requires_grad_(False)
        flow, dim = model.flow, self.latent_dim
        chart = ChartManifold(lambda u: _decode(flow, u), dim, coordinates=lambda x: flow.to_latent(x)[0][..., :dim])
        return LearnedManifoldDistribution(chart, model.coordinate_law(n_components, torch.Generator().manual_seed(seed)))

    def log_prob_on_manifold(self, x: Tensor | None = None, *, u: Tensor | None = None) -> Tensor:
        r"""Log density by Hausdorff measure at ``g(u)``, or at :meth:`project` of points ``x``.

        .. math:: \log p_M(g(u)) = \log p_U(u) - \tfrac12 \log\det\left(J_g(u)^\top J_g(u)\right)

        Shapes: x (*S,D) or u (*S,m) -> (*S).
        """
        if (x is None) == (u is None):
            raise ValueError("Expected either points x or coordinates u, got both or none of them.")
        at = self.encode(x) if u is None else u  # type: ignore[arg-type]
        return self.coordinate_law().log_prob(at) - orthonormalise(forward_jacobian(self.decode, at))[1]

    def sample_on_manifold(self, sample_shape: Shape = (), generator: torch.Generator | None = None) -> Tensor:
        """Samples with v = 0, on the learned manifold; -> (*sample_shape,D). :meth:`sample` has the noise too."""
        with torch.no_grad():
            law: Any = self.coordinate_law(generator=generator)
            return self.decode(law.sample(sample_shape, generator))

    def penalty_weight(self, progress: float) -> float:
        """Lambda at a share of the run."""
        early = max(0.0, 1 - progress / self.options["anneal"])
        return float(self.options["first"] ** early * self.options["weight"] / float(self.noise) ** 2)

    def penalty(self, x: Tensor, u: Tensor) -> Tensor:
        """The Huber penalty of what ``g(u)`` leaves of ``x``, summed over coordinates; (n,D), (n,m) -> (n)."""
        threshold = self.options["delta"] * float(self.noise)
        return huber_loss(self.decode(u), x, reduction="none", delta=threshold).sum(-1)

    def objective(self, batch: Batch) -> Tensor:
        """Negative log-likelihood plus the weighted penalty, means over the batch."""
        weight = self.penalty_weight(batch.progress)
        if batch.x is None or not weight:
            return forward_kl(self, batch)
        z, log_det = self.to_latent(batch.x)
        law: FlowDistribution = batch.draw(self)
        log_q = law.base.log_prob(z) + log_det
        return (weight * self.penalty(batch.x, z[..., : self.latent_dim]) - log_q).mean()

    def fit_density(self, x: Tensor, density: LazyDistribution | None = None, **options: Any) -> Self:
        """Fit the law of the coordinates of ``x`` with f held fixed; :meth:`log_prob` and all other methods then use it.

        Args:
            x: data (n,D).
            density: a model on R^m, such as a :class:`mf_manifold.MarginalFlow`; None for a spline flow.
            options: of the fit, :func:`mf_manifold.training.fit`.

        Raises:
            ValueError: a density on another space.
        """
        manifold, shape = geoopt.Euclidean(ndim=1), (self.latent_dim,)
        model = Flow(manifold, shape, layers="spline", transforms=4, hidden=(32, 32)) if density is None else density
        if model.point_shape != shape or not isinstance(model.manifold, geoopt.Euclidean):
            raise ValueError(
                f"Expected a density on R^{self.latent_dim}, got one on {model.manifold.name} {model.point_shape}."
            )
        with torch.no_grad():
            u = self.encode(x.to(self.flow.shift))
        self.density = model.to(self.flow.shift).fit(u, **options)
        self.n_components = model.n_components
        return self

    def reset(self, x: Tensor | None, background: float) -> None:
        """New couplings, the standardisation of the data ``x`` (n,D), and the normal law of u."""
        self.density, self.n_components = None, 1
        self.flow.reset(x, background)

    def begin(
        self, x: Tensor | None, context: Tensor | None, generator: torch.Generator, steps: int, stop: Callable[[], bool]
    ) -> None:
        """Estimate the noise, and let f begin where u follows the data's turns."""
        if x is None or not self.options["weight"]:
            return
        u, rows = intrinsic_coordinates(x, self.latent_dim, generator)
        if self.options["noise"] is None:
            self.noise = self.noise.new_tensor(self._noise_of(x[rows], u))
        if self.options["start"]:
            self._find_start(x[rows], u, generator, steps, stop)

    def _noise_of(self, x: Tensor, u: Tensor) -> float:
        """The estimate of sigma, where it is more than rounding."""
        noise = noise_scale(x, u)
        if not noise > ROUNDING * torch.finfo(x.dtype).eps * float(self.flow.spread.max()):
            raise ValueError(
                f"Expected data with noise around a manifold of dimension {self.latent_dim}, got data that are {noise:.1e} off "
                "one: exactly on it, or mostly copies. Add noise to them, remove the copies, or pass noise=."
            )
        return noise

    def _find_start(self, x: Tensor, u: Tensor, generator: torch.Generator, steps: int, stop: Callable[[], bool]) -> None:
        """Regress from several fresh weights for a while, some of which get stuck, and from the best of them on."""
        trials = []
        for _ in range(TRIALS):
            error = self._regress(x, u, generator, steps // TRIAL_SHARE, stop)
            trials.append((error, copy.deepcopy(self.flow.state_dict())))
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(int(torch.randint(2**62, (), generator=generator)))
                self.flow.reset(None, 0.0)
        self.flow.load_state_dict(min(trials, key=lambda trial: math.inf if math.isnan(trial[0]) else trial[0])[1])
        self._regress(x, u, generator, LENGTH * steps, stop)

    def _regress(self, x: Tensor, u: Tensor, generator: torch.Generator, steps: int, stop: Callable[[], bool]) -> float:
        """Fit the coordinates of the data, and the points of the coordinates, both robustly; -> the last error."""
        optimizer, error = torch.optim.Adam(self.flow.parameters(), lr=START_RATE), torch.tensor(math.inf)
        for step in range(steps):
            if stop():
                break
            optimizer.param_groups[0]["lr"] = START_RATE * (0.51 + 0.5 * math.cos(math.pi * step / steps))
            rows = torch.randint(len(x), (min(START_BATCH, len(x)),), generator=generator).to(x.device)
            z, log_det = self.to_latent(x[rows])
            missed = huber_loss(self.decode(u[rows]) / self.flow.spread, x[rows] / self.flow.spread)
            along, across = z.tensor_split([self.latent_dim], dim=-1)
            scale = (across.square().sum(-1) / 2 - log_det).mean()  # of v, which the other terms say nothing about
            error = huber_loss(along, u[rows]) + missed
            optimizer.zero_grad()
            (error + START_SCALE * scale).backward()  # type: ignore[no-untyped-call]
            norm = torch.nn.utils.clip_grad_norm_(self.flow.parameters(), 1.0)
            if bool(torch.isfinite(norm)):  # scales of many couplings multiply, and may overflow for a batch
                optimizer.step()
        return float(error.detach())

    def config(self) -> dict[str, Any]:
        """JSON description of everything but the tensors."""
        return {
            "flow": checkpoint.describe(self.flow),
            "latent_dim": self.latent_dim,
            "options": self.options,
            "density": None if self.density is None else checkpoint.describe(self.density),
            "history": self.history,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], tensors: dict[str, Tensor]) -> ManifoldFlow:
        """Rebuild what :meth:`save` wrote."""
        flow = checkpoint.build(config["flow"], checkpoint.part(tensors, "flow"))
        model = cls(flow.manifold, flow.point_shape, config["latent_dim"], **flow.options, **config["options"])
        model.flow, model.noise, model.history = flow, tensors["noise"], config["history"]
        if config["density"] is not None:
            model.density = checkpoint.build(config["density"], checkpoint.part(tensors, "density"))
            model.n_components = model.density.n_components
        return model


def reconstruction(model: LazyDistribution, batch: Batch) -> Tensor:
    """Objective of manifold learning alone: the mean squared error of the projection, relative to the noise.

    A :class:`ManifoldFlow` fitted by it, and then by :meth:`ManifoldFlow.fit_density`, is trained in two phases, as in Brehmer,
    Cranmer (2020), Flows for simultaneous manifold learning and density estimation, arXiv 2003.13913. What it says off the
    manifold, :meth:`ManifoldFlow.log_prob` among it, then means nothing.
    """
    if not isinstance(model, ManifoldFlow) or batch.x is None:
        raise ValueError("Expected data and a ManifoldFlow for the error of its projection. Pass another objective.")
    return ((model.project(batch.x) - batch.x) / model.noise).square().sum(-1).mean()


def charts(model: LazyDistribution, batch: Batch) -> Tensor:
    r"""Objective of a :class:`mf_manifold.models.VariationalMixture` of manifold flows, each a chart of a part of the manifold.

    .. math:: L = -\mathrm{ELBO}(x) + \sum_k q(k \mid x) \, \lambda_k \sum_j \rho_{\delta_k}\left(x_j - g_k(u_k)_j\right)

    The mixture's own objective, plus the penalty of every chart at the data that the network q gives to it.
    """
    mixture: Any = model
    if batch.x is None or not all(isinstance(part, ManifoldFlow) for part in getattr(mixture, "components", [None])):
        raise ValueError("Expected data and a VariationalMixture of ManifoldFlows. Pass another objective.")
    shares = mixture.encoder(batch.x, mixture.temperature_at(batch.progress)).exp()
    penalties = [
        part.penalty_weight(batch.progress) * part.penalty(batch.x, part.encode(batch.x)) for part in mixture.components
    ]
    return mixture.objective(batch) + (shares * torch.stack(penalties, dim=-1)).sum(-1).mean()


def _decode(flow: Flow, u: Tensor) -> Tensor:
    return flow.to_data(torch.cat([u, u.new_zeros(*u.shape[:-1], flow.dim - u.shape[-1])], dim=-1))
