"""Variational mixtures: several densities and a network that guesses which of them a point is of."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from .. import checkpoint, geometry, training
from ..clustering import cluster_labels
from ..estimator import LazyDistribution
from ..losses import Batch
from .component_mixture import ComponentMixture
from .labelled import LabelledBound, checked_labels, named_clusters, split_rows, spread_labels
from .variational import Encoder, evidence_lower_bound, log_prob_of_own

STARTS = ("clusters", "random")
FEWEST = 16  # points that a component begins with
RESTARTS = 10  # of k-means
BATCH, RATE = 512, 3e-3  # of the warm start
UNUSED = 0.1  # of an equal share of the data
ROWS = 4096  # that tell which components are used


@checkpoint.register_model
class VariationalMixture(LazyDistribution):
    r"""A mixture of K trainable densities, trained by a bound in which a network guesses the component of each point.

    .. math:: p(x) = \sum_{k=1}^{K} \pi_k \, p_k(x), \qquad
              \log p(x) \ge \sum_k q(k \mid x) \, [\log \pi_k p_k(x) - \log q(k \mid x)]

    Training maximises the bound; ``log_prob`` is the exact mixture, and does not depend on the network q. Components are any
    models of the library with points of one shape on one manifold: flows, marginal flows, mixtures of them.

    A fit with ``start="clusters"`` begins with k-means on the manifold: every component is made for the points of a cluster,
    then components and network are fitted to the clusters for up to 400 steps, and only then the bound takes over. From random
    starts components share and split modes. With labels for every component, each datum begins at that of the labelled one that
    is nearest along the data; with labels for some, clusters are given to the components that the labels in them name.

    **Measure**: Riemannian volume of the manifold's metric.

    Args:
        components: K models without contexts; the mixture owns them, and its fit makes all their weights anew.
        hidden: widths of the hidden layers of q.
        learn_weights: train the weights pi; otherwise all are 1/K, as in the author's code.
        temperature: of q at the start of a fit; it falls (or rises) geometrically to ``floor``.
        floor: temperature from the share ``anneal`` of the run on, and of a fitted q. Well below 1 it makes q one-hot, and its
            gradients vanish.
        anneal: see there.
        start: ``"clusters"`` or ``"random"``.

    Raises:
        ValueError: no components, the same one twice, other manifolds or points, contexts, temperatures that are not positive.

    Reference: Variational mixture of normalizing flows, arXiv 2009.00585. Start, learned weights and manifolds are additions
        of this library.

    >>> import geoopt, torch, mf_manifold as mf
    >>> generator = torch.Generator().manual_seed(0)
    >>> poles = torch.tensor([[0.0, 0, 1], [0.0, 0, -1]])
    >>> law = mf.distribution(geoopt.Sphere(), "von_mises_fisher", loc=poles, concentration=20.0)
    >>> x = law.sample((200,), generator=generator).flatten(0, 1)
    >>> parts = [mf.MarginalFlow(geoopt.Sphere(), (3,), n_components=16, hidden=(16,)) for _ in poles]
    >>> model = mf.models.VariationalMixture(parts).fit(x, max_steps=30, progress=False)
    >>> north = model.predict(x)[0]
    >>> bool((model.predict(x) == torch.where(x[:, 2] > 0, north, 1 - north)).all())
    True
    """

    def __init__(
        self,
        components: Sequence[LazyDistribution],
        *,
        hidden: Sequence[int] = (64, 64),
        learn_weights: bool = True,
        temperature: float = 1.0,
        floor: float = 1.0,
        anneal: float = 0.5,
        start: str = "clusters",
    ) -> None:
        _check_components(components)
        super().__init__(components[0].manifold, components[0].point_shape)
        if min(temperature, floor) <= 0 or not 0 < anneal <= 1:
            raise ValueError(
                f"Expected a positive temperature and floor and 0 < anneal <= 1, got {temperature}, {floor} and {anneal}."
            )
        if start not in STARTS or min(hidden, default=1) < 1:
            raise ValueError(
                f"Expected start in {', '.join(STARTS)} and positive widths of layers, got {start!r} and {tuple(hidden)}."
            )
        self.hidden, self.learn_weights, self.start = tuple(hidden), learn_weights, start
        self.temperature, self.floor, self.anneal = temperature, floor, anneal
        self.components = nn.ModuleList(components)
        self.logits = nn.Parameter(torch.zeros(len(components)), requires_grad=learn_weights)
        self.encoder = Encoder(self.manifold, self.point_shape, self.hidden, len(components))
        self.n_components = max(component.n_components for component in components)
        self.known: tuple[Tensor, Tensor] | None = None  # points with labels, while a fit begins
        self.assigned: Tensor | None = None  # components of the data that a fit begins with
        like = [next(component.parameters()).dtype for component in components]
        self.to(torch.float64 if torch.float64 in like else like[0])

    @property
    def parts(self) -> list[LazyDistribution]:
        """The components, typed."""
        return list(self.components)  # type: ignore[arg-type]

    def forward(
        self, context: Tensor | None = None, n_components: int | None = None, generator: torch.Generator | None = None
    ) -> ComponentMixture:
        """The mixture; components that draw any of their own, such as marginal flows, draw them afresh."""
        if context is not None:
            raise ValueError("Expected no context: mixtures of this class are unconditional.")
        return self._mixture([part(None, n_components, generator) for part in self.parts])

    @torch.no_grad()
    def freeze(self, n_components: int | None = None, seed: int = 0, context: Tensor | None = None) -> ComponentMixture:
        """The mixture of the frozen components: exact, deterministic, normalised."""
        if context is not None:
            raise ValueError("Expected no context: mixtures of this class are unconditional.")
        return self._mixture([part.freeze(n_components, seed) for part in self.parts])

    def _mixture(self, components: Sequence[Any]) -> ComponentMixture:
        for component in components:
            component._validate_args = False  # the mixture checks points once for all
        return ComponentMixture(components, self.logits)

    def temperature_at(self, progress: float) -> float:
        """Temperature of q at a share of a fit."""
        return float(self.temperature * (self.floor / self.temperature) ** min(1.0, progress / self.anneal))

    def elbo(self, x: Tensor, seed: int = 0) -> Tensor:
        """The bound of ``log_prob`` by the fitted q, for the frozen components of a seed; (*S,*E) -> (*S)."""
        return evidence_lower_bound(self.freeze(seed=seed).component_log_prob(x), self.encoder(x, self.floor))

    def loss(self, mixture: ComponentMixture, batch: Batch) -> Tensor:
        """Minus the mean bound of a batch.

        Raises:
            ValueError: a fit without data.
        """
        if batch.x is None:
            raise ValueError("Expected data x for the bound of their likelihood. Pass fit(x), or another objective.")
        mixture._validate_args = False  # the data were checked once
        log_q = self.encoder(batch.x, self.temperature_at(batch.progress))
        return -evidence_lower_bound(mixture.component_log_prob(batch.x), log_q).mean()

    def objective(self, batch: Batch) -> Tensor:
        """What a fit minimises by default: minus the mean bound."""
        return self.loss(batch.draw(self), batch)

    def fit(  # type: ignore[override]
        self, x: Tensor | None = None, labels: Tensor | None = None, *, label_weight: float = 1.0, **options: Any
    ) -> Self:
        """Fit to data, of which some may have labels; warns where a component is left without data.

        Args:
            x: data (n,*E).
            labels: the component of each (n), -1 where it is unknown; None where all are. Unless ``validation`` is given, data
                without labels are held out before ones with labels.
            label_weight: of the encoder's cross-entropy at labelled points.
            options: see :func:`mf_manifold.training.fit`.

        Raises:
            ValueError: as there; labels of another shape or type or outside -1 to K - 1, or with an objective of your own.
        """
        try:
            if labels is None:
                training.fit(self, x, **options)
            else:
                self._fit_with_labels(x, labels, label_weight, options)
        finally:
            self.known = self.assigned = None
        if x is not None:
            self._warn_of_unused(x)
        return self

    def _fit_with_labels(self, x: Tensor | None, labels: Tensor, weight: float, options: dict[str, Any]) -> None:
        if x is None or options.pop("objective", None) is not None:
            raise ValueError("Expected data and no objective with the labels, which make their own.")
        geometry.check_points(self.manifold, x, self.point_shape)
        labels = checked_labels(labels, len(x), len(self.components)).to(x.device)
        if options.get("validation") is None:
            fraction, seed = options.pop("validation_fraction", 0.1), options.get("seed", 0)
            rows, held = split_rows(labels, fraction, seed)
            x, labels, options = x[rows], labels[rows], {**options, "validation": x[held]}
        chosen = labels >= 0
        like = next(self.parameters())
        self.known = geometry.project(self.manifold, x[chosen].detach()).to(like), labels[chosen].to(like.device)
        training.fit(self, x, objective=LabelledBound(*self.known, len(x), weight), **options)

    @torch.no_grad()
    def usage(self, x: Tensor) -> Tensor:
        """The share of points (n,*E) that each component is responsible for; (K)."""
        return self.freeze().responsibilities(x).mean(0)

    def _warn_of_unused(self, x: Tensor) -> None:
        rows = torch.linspace(0, len(x) - 1, min(ROWS, len(x)), device=x.device).long()
        shares = self.usage(geometry.project(self.manifold, x[rows].detach()).to(self.logits)).tolist()
        unused = [f"{k} ({share:.1e})" for k, share in enumerate(shares) if share < UNUSED / len(shares)]
        if unused:
            warnings.warn(
                f"Components without data, and their shares: {', '.join(unused)} of {len(shares)}. Use fewer components, "
                'start="clusters", another seed or a higher temperature.',
                stacklevel=3,
            )

    @torch.no_grad()
    def predict_proba(self, x: Tensor, *, encoder: bool = False) -> Tensor:
        """Probabilities of the components: exact ones of the mixture, or those that q guesses; (*S,*E) -> (*S,K)."""
        return self.encoder(x, self.floor).exp() if encoder else self.freeze().responsibilities(x)

    def predict(self, x: Tensor, *, encoder: bool = False) -> Tensor:
        """The likeliest component of each point, see :meth:`predict_proba`; (*S,*E) -> (*S)."""
        return self.predict_proba(x, encoder=encoder).argmax(-1)

    def reset(self, x: Tensor | None, background: float) -> None:
        """New components and a new encoder; with clusters each component is made for the points of one."""
        like = next(self.parameters())
        self.encoder = Encoder(self.manifold, self.point_shape, self.hidden, len(self.components)).to(like)
        self.logits.data.zero_()
        if x is not None:
            self.encoder.standardise(x)
        self.assigned = self._assign(x) if x is not None and self.start == "clusters" else None
        for k, part in enumerate(self.parts):
            part.reset(self._own(x, k), background)
        self.n_components = max(part.n_components for part in self.parts)

    def _assign(self, x: Tensor) -> Tensor:
        """The component that each datum begins at."""
        count = len(self.components)
        if self.known is not None and len(self.known[1].unique()) == count:
            return spread_labels(self._features(x), self._features(self.known[0]), self.known[1])
        clusters = cluster_labels(self.manifold, x, count, seed=int(torch.randint(2**31, ())), restarts=RESTARTS)
        if self.known is None:
            return clusters
        return named_clusters(clusters, self._features(x), self._features(self.known[0]), self.known[1], count)

    def _features(self, x: Tensor) -> Tensor:
        return geometry.to_raw(self.manifold, x)

    def _own(self, x: Tensor | None, k: int) -> Tensor | None:
        """The data that component k begins with: those assigned to it, and where these are few their neighbours too."""
        if x is None or self.assigned is None:
            return x
        own = self.assigned == k
        if int(own.sum()) >= min(FEWEST, len(x)):
            return x[own]
        flat = self._features(x)
        center = flat[own].mean(0) if bool(own.any()) else flat[int(torch.randint(len(x), ()))]
        return x[(flat - center).square().sum(-1).argsort()[:FEWEST]]

    def begin(
        self, x: Tensor | None, context: Tensor | None, generator: torch.Generator, steps: int, stop: Callable[[], bool]
    ) -> None:
        """Let every component begin at its data, then fit components and encoder to the clusters."""
        for k, part in enumerate(self.parts):
            part.begin(self._own(x, k), context, generator, steps, stop)
        if x is not None and self.assigned is not None:
            shares = self.assigned.bincount(minlength=len(self.components)).clamp_min(1).to(self.logits)
            if self.learn_weights:
                self.logits.data.copy_((shares / shares.sum()).log())
            self._fit_to_clusters(x, self.assigned, generator, steps, stop)

    def _fit_to_clusters(
        self, x: Tensor, labels: Tensor, generator: torch.Generator, steps: int, stop: Callable[[], bool]
    ) -> None:
        optimizer = torch.optim.Adam(self.parameters(), lr=RATE)
        for _ in range(steps):
            if stop():
                break
            for member in self.members():
                member.track(generator)
            rows = torch.randint(len(x), (min(BATCH, len(x)),), generator=generator).to(x.device)
            mixture = self(None, self.n_components, generator)
            guessed = self.encoder(x[rows], self.temperature).gather(1, labels[rows].unsqueeze(1)).mean()
            loss = -log_prob_of_own(mixture, x[rows], labels[rows]) - guessed
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(self.parameters(), training.run.CLIP)
            optimizer.step()

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The weights of the mixture and its encoder, and what each component asks for its own."""
        own = {"params": [self.logits, *self.encoder.parameters()]}
        return [own, *(group for part in self.parts for group in part.parameter_groups())]

    def cover(self, batch: Batch, few: int) -> dict[str, float]:
        """Exact log-likelihood, bound and gap of a batch, and how evenly its points use the components.

        ``usage_entropy`` is relative to that of equal shares, and 1 for these; ``least_share`` is that of the component with
        the fewest points.
        """
        assert batch.x is not None
        mixture = batch.draw(self)
        mixture._validate_args = False
        log_joint = mixture.component_log_prob(batch.x).double()
        log_likelihood = float(log_joint.logsumexp(-1).mean())
        bound = float(evidence_lower_bound(log_joint, self.encoder(batch.x, self.floor).double()).mean())
        shares = log_joint.softmax(-1).mean(0)
        entropy = float(torch.special.entr(shares).sum()) / max(math.log(len(shares)), 1e-300)
        return {
            "log_likelihood": log_likelihood,
            "elbo": bound,
            "gap": log_likelihood - bound,
            "usage_entropy": entropy if len(shares) > 1 else 1.0,
            "least_share": float(shares.min()),
        }

    def config(self) -> dict[str, Any]:
        """JSON description of everything but the tensors."""
        names = ("hidden", "learn_weights", "temperature", "floor", "anneal", "start")
        return {
            "components": [checkpoint.describe(part) for part in self.parts],
            "options": {name: getattr(self, name) for name in names},
            "history": self.history,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], tensors: dict[str, Tensor]) -> VariationalMixture:
        """Rebuild what :meth:`save` wrote."""
        parts = [
            checkpoint.build(description, checkpoint.part(tensors, f"components.{k}"))
            for k, description in enumerate(config["components"])
        ]
        model = cls(parts, **config["options"])
        model.to(tensors["logits"].dtype).load_state_dict(tensors)
        model.history = config["history"]
        return model


def _check_components(components: Sequence[LazyDistribution]) -> None:
    if not components:
        raise ValueError("Expected at least one component, got none.")
    if len({id(component) for component in components}) < len(components):
        raise ValueError("Expected components that are models of their own, got the same one twice. Make each anew.")
    first = components[0]
    for component in components:
        if component.context_shape is not None:
            raise ValueError(f"Expected components without contexts, got one with context_shape={component.context_shape}.")
        same = geometry.same_manifold(component.manifold, first.manifold)
        if not same or component.point_shape != first.point_shape:
            raise ValueError(
                f"Expected components on one manifold, got {first.manifold.name} with points {first.point_shape} and "
                f"{component.manifold.name} with points {component.point_shape}."
            )
