"""Neural spline flow with a context (Durkan, Bekasov, Murray, Papamakarios 2019, arXiv 1906.04032), by zuko."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .conditional import Standardised, train


class ConditionalSplineFlow:
    """q(theta | x) as an autoregressive flow of rational-quadratic splines in standardised coordinates.

    **Measure**: Lebesgue measure of the coordinates. Beyond five standard deviations its transformations are linear; nothing
    keeps its mass inside a box.
    """

    def __init__(self, *, transforms: int = 3, hidden: tuple[int, ...] = (64, 64), bins: int = 8) -> None:
        self.transforms, self.hidden, self.bins = transforms, hidden, bins

    def fit(
        self, theta: Tensor, x: Tensor, *, seed: int = 0, max_steps: int = 1000, batch_size: int = 256
    ) -> ConditionalSplineFlow:
        """Fit to pairs (n,d), (n,k) by maximum likelihood."""
        import zuko

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.flow: nn.Module = zuko.flows.NSF(
                theta.shape[1], x.shape[1], bins=self.bins, transforms=self.transforms, hidden_features=self.hidden
            ).to(theta)
        self.of_theta, self.of_x = Standardised(theta), Standardised(x)
        train(
            self.flow,
            lambda a, b: -self.log_prob(a, b),
            theta,
            x,
            seed=seed,
            max_steps=max_steps,
            batch_size=batch_size,
            learning_rate=1e-3,
        )
        return self

    def log_prob(self, theta: Tensor, x: Tensor) -> Tensor:
        """Log density of rows of parameters (n,d) given rows of contexts (n,k) or one context (k); -> (n)."""
        logs: Tensor = self.flow(self.of_x(x)).log_prob(self.of_theta(theta))
        return logs - self.of_theta.spread.log().sum()

    @torch.no_grad()
    def sample(self, n: int, x_o: Tensor, seed: int = 0) -> Tensor:
        """Independent draws given one context (k); -> (n,d)."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.of_theta.inverse(self.flow(self.of_x(x_o)).sample((n,)))
