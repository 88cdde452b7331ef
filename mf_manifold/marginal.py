"""Marginal flow: a network draws the components of a mixture on a manifold."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import geoopt
import torch
from torch import Tensor, nn

from . import bases, checkpoint, geometry, manifolds
from .background import Background
from .diagnosis import GROUPS, ROWS, Diagnosis, diagnose
from .estimator import LazyDistribution
from .geometry import Shape
from .kernel import kernel_for
from .losses import Batch
from .mixture import Mixture
from .nets import CONDITIONING, Conditional, FourierFeatures, Unconditional
from .training.warm_start import spread_out, warm_start

FEWEST, MOST = 256, 4096  # components, where the caller does not say how many
SHAPE_FACTOR = 10.0  # of the learning rate of a shared shape


@checkpoint.register_model
class MarginalFlow(LazyDistribution):
    r"""A density whose components are drawn by a network, fresh at every call.

    .. math:: q(x \mid y) = \sum_{c=1}^{M} \pi_c \, q(x \mid w_c), \quad (w_c, \log \pi_c) = f_\theta(z_c, y),
              \quad z_c \sim \text{base}

    For the drawn components the density is exact and normalised; :meth:`freeze` keeps one draw, and every reported number
    should come from a frozen mixture. As an estimate of the infinite mixture, its log is biased low
    (:meth:`mf_manifold.Mixture.log_prob_interval` says by how much).

    **Measure**: Riemannian volume of the manifold's metric.

    Args:
        manifold: a geoopt manifold.
        point_shape: shape of a point, such as (3,) on S^2.
        kernel: registry name; None takes the manifold's default.
        base: law of the noise, ``"sobol"`` (a scrambled Sobol sequence on [-1, 1]^m), ``"uniform"`` (independent, there) or
            ``"gaussian"`` (independent, standard normal); or a learned law on R^m such as
            :class:`mf_manifold.models.ResampledBase`: components are then drawn from its proposal and carry its weights.
        n_components: M, drawn at every call; None takes, once fitted, the power of two nearest to half the number of data,
            within 256 and 4096; 256 where there are contexts, and 4096 in a fit without data.
        latent_dim: m, dimension of the noise; None takes the manifold's dimension, at most 3. The number of components
            that a given sharpness needs grows exponentially with it; fewer dimensions than the manifold has make the flow
            concentrate near a submanifold, see :meth:`decode`.
        hidden: widths of the network's hidden layers.
        n_frequencies, bandwidth: random Fourier features of the noise, see :class:`mf_manifold.nets.FourierFeatures`.
        learn_weights: let the network weight the components; otherwise all weigh the same, as in the paper.
        shared_shape: let all components share one learned shape (scale, covariance, ...), as in the paper; otherwise the
            network gives each its own.
        context_shape: shape of what the density is conditional on, such as (k,); None for no contexts.
        conditioning: how the context enters the network: ``"film"`` scales and shifts the hidden layers, ``"concat"`` makes it
            a further input, ``"hyper"`` lets it make the weights of the hidden layers, ``"readout"`` those of the last layer
            only, at a fraction of the cost.
        kernel_options: constructor options of the kernel, such as ``{"covariance": "full"}``.

    Shapes: a context is (*C) or a batch (B,*C), which makes a batch of mixtures; NaN entries of a context are missing ones.
    The network has torch's default dtype, and float64 on SPD matrices, whose small eigenvalues float32 loses.

    Raises:
        ValueError: an unknown base or conditioning, numbers that are not positive, contexts of another shape.

    Reference: Negri, Aellen, Jahn, Khorashadizadeh, Roth (2025), Marginal Flow, arXiv 2509.26221, eqs. (1)-(3).
        Weights, Fourier features and a scale per component are additions of this library.

    >>> import geoopt, torch, mf_manifold as mf
    >>> x = mf.geometry.sample_uniform(geoopt.Sphere(), (3,), (200,), generator=torch.Generator().manual_seed(0))
    >>> flow = mf.MarginalFlow(geoopt.Sphere(), (3,), n_components=64).fit(x, max_steps=10, progress=False)
    >>> flow.freeze(128, seed=0)
    Mixture(128 x von_mises_fisher + uniform; riemannian measure on Sphere)
    """

    shift: Tensor
    spread: Tensor

    def __init__(
        self,
        manifold: geoopt.Manifold,
        point_shape: Shape,
        kernel: str | None = None,
        *,
        base: str | bases.WeightedNoise = "sobol",
        n_components: int | None = None,
        latent_dim: int | None = None,
        hidden: Sequence[int] = (128, 128, 128),
        n_frequencies: int = 64,
        bandwidth: float = 2.5,
        learn_weights: bool = True,
        shared_shape: bool = False,
        context_shape: Shape | None = None,
        conditioning: str = "film",
        kernel_options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(manifold, point_shape)
        self.kernel = kernel_for(manifold, point_shape, kernel, **(kernel_options or {}))
        self.sized_by_data = n_components is None and context_shape is None
        if n_components is None:
            n_components = MOST if context_shape is None else FEWEST
        if n_components < 1 or (latent_dim is not None and latent_dim < 1):
            raise ValueError(f"Expected positive n_components and latent_dim, got {n_components} and {latent_dim}.")
        if any(width < 1 for width in hidden) or (context_shape is not None and not hidden):
            raise ValueError(f"Expected positive widths of hidden layers, with contexts at least one, got {tuple(hidden)}.")
        self.latent_dim = latent_dim or min(3, self.kernel.dim)
        known = base in bases.BASES if isinstance(base, str) else base.point_shape == (self.latent_dim,)
        if not known or conditioning not in CONDITIONING:
            raise ValueError(
                f"Expected base in {', '.join(bases.BASES)}, or a model on R^{self.latent_dim}, and conditioning in "
                f"{', '.join(CONDITIONING)}, got {base!r} and {conditioning!r}."
            )
        self.base, self.n_components = base, n_components
        self.hidden, self.n_frequencies, self.bandwidth = tuple(hidden), n_frequencies, bandwidth
        self.learn_weights, self.shared_shape = learn_weights, shared_shape
        self.context_shape = None if context_shape is None else tuple(context_shape)
        self.conditioning = conditioning
        self.background = Background(manifold, self.point_shape)
        self.build_network()
        if self.kernel.needs_double:
            self.double()

    def reset(self, x: Tensor | None, background: float) -> None:
        """A new network; as many components as the data need, where the caller has not said; the background of the data."""
        like = next(self.parameters())
        self.build_network()
        self.to(like)
        if isinstance(self.base, LazyDistribution):
            self.base.reset(None, background)
        if x is None:
            self.background.remove()  # of an earlier fit
            return
        if self.sized_by_data:
            self.n_components = min(MOST, max(FEWEST, 2 ** round(math.log2(max(len(x), 2) / 2))))
        self.background.fit(x, background)

    def begin(
        self, x: Tensor | None, context: Tensor | None, generator: torch.Generator, steps: int, stop: Callable[[], bool]
    ) -> None:
        """Regress the locations onto points, so that the components begin where something is."""
        if context is not None:
            assert isinstance(self.network, Conditional)
            context = context.reshape(len(context), -1)
            self.network.standardise(context)
        if x is None or not self.kernel.has_location:
            return
        if context is None:
            warm_start(self, x, generator, steps, stop)
        else:
            spread_out(self, x, context, generator, steps, stop)

    def build_network(self) -> None:
        """Make the network anew, from torch's global random state.

        Raw locations are ``shift + spread * output``; training sets both to the data's mean and standard deviation.
        """
        where, shape = self.kernel.num_raw - self.kernel.num_raw_shape, self.kernel.num_raw_shape
        self.register_buffer("shift", torch.zeros(where))
        self.register_buffer("spread", torch.ones(where))
        features = FourierFeatures(self.latent_dim, self.n_frequencies, self.bandwidth)
        outputs = where + 1 + (0 if self.shared_shape else shape)
        self.network: Unconditional | Conditional
        if self.context_shape is None:
            self.network = Unconditional(features, self.hidden, outputs)
        else:
            self.network = CONDITIONING[self.conditioning](features, self.hidden, outputs, math.prod(self.context_shape))
        if self.shared_shape:
            self.shape = nn.Parameter(torch.zeros(shape))

    def set_scale(self, scale: float) -> None:
        """Let every component have this scale, and equal weights."""
        head, where, raw = self.network.head, len(self.shift), self.kernel.raw_from_scale(scale)
        with torch.no_grad():
            for part in (head.weight[where:], head.bias[where:], *self.network.own_parts(where)):
                part.zero_()
            (self.shape if self.shared_shape else head.bias[where:-1]).fill_(raw)

    def _contexts(self, context: Tensor | None) -> Tensor | None:
        """Contexts (*B,*C) as vectors (*B,k); a flow with contexts takes None as one whose entries are all missing."""
        if self.context_shape is None:
            if context is not None:
                raise ValueError("Expected no context: this flow was made without context_shape.")
            return None
        if context is None:
            return self.shift.new_full((math.prod(self.context_shape),), math.nan)
        ndim = len(self.context_shape)
        if context.ndim < ndim or tuple(context.shape[context.ndim - ndim :]) != self.context_shape:
            raise ValueError(f"Expected contexts of shape (..., {self.context_shape}), got {tuple(context.shape)}.")
        context = context.reshape(*context.shape[: context.ndim - ndim], -1).to(self.shift)
        if not context.is_meta and bool(context.isinf().any()):
            raise ValueError(
                f"Expected contexts that are finite in {context.dtype}, or NaN where an entry is missing, got inf."
            )
        return context

    def _raw(self, z: Tensor, context: Tensor | None) -> list[Tensor]:
        """Raw locations, raw shapes and log weights at noise (M,m); -> (*B,M,...) each."""
        contexts, z = self._contexts(context), z.to(self.shift)
        output = self.network(z) if contexts is None else self.network(z, contexts)
        shape = 0 if self.shared_shape else self.kernel.num_raw_shape
        where, shapes, log_weights = output.split([len(self.shift), shape, 1], dim=-1)
        if self.shared_shape:
            shapes = self.shape.expand(*where.shape[:-1], -1)
        return [self.shift + self.spread * where, shapes, log_weights.squeeze(-1)]

    def components(self, z: Tensor, context: Tensor | None = None) -> Mixture:
        """The mixture of the components at noise ``z`` (M,latent_dim), or a batch of mixtures for a batch of contexts."""
        where, shape, log_weights = self._raw(z, context)
        params = self.kernel.params(torch.cat([where, shape], dim=-1))
        weights = log_weights if self.learn_weights else None
        if not isinstance(self.base, str):
            resampled = self.base.log_weight(z).to(log_weights)
            weights = resampled.expand_as(log_weights) if weights is None else weights + resampled
        return Mixture(self.kernel, params, weights, **self.background.options())

    def decode(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Location of the component at noise ``z``: where m is below the manifold's dimension, the learned submanifold.

        The density stays one by the volume of the whole manifold; it concentrates near these points.

        Shapes: (M,latent_dim), and a context (*B,*C) -> (*B,M,*E).
        """
        where = self._raw(z, context)[0]
        return geometry.from_raw(self.manifold, where, self.point_shape)

    def forward(
        self, context: Tensor | None = None, n_components: int | None = None, generator: torch.Generator | None = None
    ) -> Mixture:
        """A mixture of freshly drawn components, differentiable in the network's weights; contexts share the noise."""
        return self.components(bases.draw(self.base, self._count(n_components), self.latent_dim, generator), context)

    def _count(self, n_components: int | None) -> int:
        count = self.n_components if n_components is None else n_components
        if count < 1:
            raise ValueError(f"Expected at least one component, got n_components={count}.")
        return count

    @torch.no_grad()
    def freeze(self, n_components: int | None = None, seed: int = 0, context: Tensor | None = None) -> Mixture:
        """One draw of the components, kept: an exact, deterministic, normalised density.

        A scrambled Sobol sequence represents the flow with fewer components than independent draws; powers of two suit it.
        Without ``context``, a flow with contexts gives the density of an unknown context that it learned from missing ones.
        """
        if self.base == "sobol":
            return self.components(bases.sobol(self._count(n_components), self.latent_dim, seed), context)
        return self(context, n_components, torch.Generator().manual_seed(seed))

    @torch.no_grad()
    def marginal(self, contexts: Tensor, n_components: int | None = None, seed: int = 0) -> Mixture:
        r"""The average of the densities at contexts (n,*C), such as those of the data: what is known without a context.

        .. math:: q(x) = \frac1n \sum_{i=1}^{n} q(x \mid y_i)

        Every context has ``n_components`` components (by default 16) of the same noise.
        """
        count = self._count(16 if n_components is None else n_components)
        z = bases.draw(self.base, count, self.latent_dim, torch.Generator().manual_seed(seed))
        each = self.components(z, contexts)
        if len(each.batch_shape) != 1:
            raise ValueError(f"Expected contexts of shape (n, {self.context_shape}), got {tuple(contexts.shape)}.")
        whole = self.kernel.expand(each.params, (len(contexts), count))
        params = {name: value.flatten(0, 1) for name, value in whole.items()}
        log_weights = None if each.log_weights is None else each.log_weights.flatten()
        return Mixture(self.kernel, params, log_weights, **self.background.options())

    def diagnose(
        self, x: Tensor | None = None, n_components: int | None = None, seed: int = 0, context: Tensor | None = None
    ) -> Diagnosis:
        """How well so many components stand for the infinite mixture at points ``x`` (N,*E), by default at own samples.

        Draws 16 times as many independent components to compare with; ``print`` the result. See
        :func:`mf_manifold.diagnose`.
        """
        count, generator = self._count(n_components), torch.Generator().manual_seed(seed)
        independent = "uniform" if self.base == "sobol" else self.base
        if x is None:
            x = self.sample((ROWS,), generator=generator, context=context)
        with torch.no_grad():
            pool = self.components(bases.draw(independent, GROUPS * count, self.latent_dim, generator), context)
        return diagnose(pool, x.to(self.shift), count, partial(self.freeze, seed=seed, context=context), seed)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The network, and the shape that all components share: few numbers, which have far to go."""
        if not self.shared_shape:
            return super().parameter_groups()
        network = [parameter for name, parameter in self.named_parameters() if name != "shape"]
        return [{"params": network}, {"params": [self.shape], "factor": SHAPE_FACTOR, "weight_decay": 0.0}]

    def cover(self, batch: Batch, few: int) -> dict[str, float]:
        """Shares of a batch's points with fewer effective components than ``few``, and where the background outweighs them."""
        assert batch.x is not None
        mixture = batch.draw(self)
        log_q, effective = mixture.components_log_prob(batch.x)
        behind = (mixture.log_prob(batch.x) > log_q + math.log(2)) | (log_q == -math.inf)
        return {
            "few_components": float((effective < few).double().mean()),
            "uncovered": float(behind.double().mean()),
        }

    def config(self) -> dict[str, Any]:
        """JSON description of everything but the tensors."""
        names = ("n_components", "latent_dim", "hidden", "n_frequencies", "bandwidth", "learn_weights", "shared_shape")
        return {
            "manifold": geometry.to_config(self.manifold),
            "point_shape": list(self.point_shape),
            "kernel": self.kernel.name,
            "options": {
                **{name: getattr(self, name) for name in (*names, "context_shape", "conditioning")},
                "base": checkpoint.describe(self.base) if isinstance(self.base, nn.Module) else self.base,
                "kernel_options": self.kernel.options,
            },
            "history": self.history,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], tensors: dict[str, Tensor]) -> MarginalFlow:
        """Rebuild what :meth:`save` wrote."""
        manifold = manifolds.from_config(config["manifold"])
        options = dict(config["options"])
        if isinstance(options["base"], dict):
            options["base"] = checkpoint.build(options["base"], checkpoint.part(tensors, "base"))
        flow = cls(manifold, tuple(config["point_shape"]), config["kernel"], **options)
        # files of format 1 have no background
        fresh = {name: value for name, value in flow.state_dict().items() if name.startswith("background.")}
        flow.to(next(iter(tensors.values())).dtype).load_state_dict({**fresh, **tensors})
        flow.history = config["history"]
        return flow
