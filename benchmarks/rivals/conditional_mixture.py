"""Mixture density network (Bishop 1994): a context gives the parameters of all components of a mixture at once."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mf_manifold import geometry
from mf_manifold.kernel import Kernel
from mf_manifold.mixture import Mixture
from mf_manifold.nets import mlp

from .conditional import Standardised, train


class ConditionalMixture:
    """q(theta | x) as a mixture of a fixed number of components of any kernel, each with outputs of its own in the network.

    Locations start at points of the data, drawn at random.

    **Measure**: Riemannian volume of the kernel's manifold.
    """

    def __init__(self, kernel: Kernel, *, n_components: int = 32, hidden: tuple[int, ...] = (128, 128)) -> None:
        self.kernel, self.n_components, self.hidden = kernel, n_components, hidden

    def fit(
        self, theta: Tensor, x: Tensor, *, seed: int = 0, max_steps: int = 1000, batch_size: int = 256
    ) -> ConditionalMixture:
        """Fit to pairs (n,*E), (n,k) by maximum likelihood."""
        kernel, count = self.kernel, self.n_components
        raw = geometry.to_raw(kernel.manifold, theta)
        self.of_raw, self.of_x = Standardised(raw), Standardised(x)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network: nn.Module = mlp(x.shape[1], self.hidden, count * (kernel.num_raw + 1)).to(theta)
            head = self.network[-1]
            with torch.no_grad():
                bias = head.bias.view(count, -1).zero_()
                bias[:, : raw.shape[1]] = self.of_raw(raw[torch.randint(len(raw), (count,))])
        train(
            self.network,
            lambda a, b: -self.log_prob(a, b),
            theta,
            x,
            seed=seed,
            max_steps=max_steps,
            batch_size=batch_size,
        )
        return self

    def mixture(self, x: Tensor) -> Mixture:
        """The mixtures given contexts (*B,k)."""
        outputs = self.network(self.of_x(x)).unflatten(-1, (self.n_components, -1))
        where = len(self.of_raw.shift)
        located = self.of_raw.inverse(outputs[..., :where])
        params = self.kernel.params(torch.cat([located, outputs[..., where:-1]], -1))
        return Mixture(self.kernel, params, outputs[..., -1], validate_args=False)

    def log_prob(self, theta: Tensor, x: Tensor) -> Tensor:
        """Log density of rows of parameters (n,*E) given rows of contexts (n,k); -> (n)."""
        return self.mixture(x).log_prob(theta)

    @torch.no_grad()
    def sample(self, n: int, x_o: Tensor, seed: int = 0) -> Tensor:
        """Independent draws given one context (k); -> (n,*E)."""
        return self.mixture(x_o).sample((n,), torch.Generator().manual_seed(seed))
