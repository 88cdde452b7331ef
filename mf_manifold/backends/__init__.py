"""The reduction over components, logsumexp_c [log pi_c + log q(x_n | w_c)], one way of doing it a file."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType

import torch
from torch import Tensor

from . import chunked, dense
from .bilinear import Bilinear
from .problem import PairwiseKernel, Problem, count_components

__all__ = ["Bilinear", "PairwiseKernel", "mixture_log_prob"]

BACKENDS = {"dense": dense, "chunked": chunked}
# Below this many pairs the overhead of the tiles exceeds what they save.
SMALL = 2**16


def mixture_log_prob(
    kernel: PairwiseKernel,
    x: Tensor,
    w: dict[str, Tensor],
    log_weights: Tensor | None = None,
    *,
    backend: str = "auto",
    chunk_size: int | None = None,
    power: float = 1.0,
) -> Tensor:
    """Log-density of a mixture of M kernel components at N points.

    L_n = logsumexp_c [power * (log pi_c + log q(x_n | w_c))]

    With power = 1 it is the log-density of the mixture; exp(2 L^(1) - L^(2)), with L^(2) taken at power = 2,
    is the effective number of components behind each point (Kish, Survey Sampling, 1965, section 11.7).

    **Measure**: the kernel's (for power = 1).
    **Shapes**: x (N, *E); every w[name] (M, ...), or (1, ...) if all components share it; log_weights (M,),
    normalised log pi, uniform if None; result (N,). A point that no component covers has -inf and a zero gradient.

    backend: "dense" holds all pairs, O(N M) memory, and can be differentiated twice; "chunked" streams over tiles
    of chunk_size components, O(N + M) memory, and can be differentiated once; "auto" takes dense for few pairs and
    chunked otherwise.

    **Raises** ValueError for inconsistent shapes, or if the named backend cannot run (the message says why).

    >>> import torch
    >>> class Normal(torch.nn.Module):
    ...     def pairwise_log_prob(self, x, w):
    ...         return torch.distributions.Normal(w["loc"][:, 0], 1.0).log_prob(x)
    ...     def bilinear(self, x, w):
    ...         return None
    >>> x, loc = torch.tensor([[0.0], [3.0]]), torch.tensor([[-1.0], [1.0]])
    >>> mixture_log_prob(Normal(), x, {"loc": loc})
    tensor([-1.4189, -3.6096])
    """
    problem = _problem(kernel, x, w, log_weights, power, chunk_size)
    module = _choose(problem, backend)
    with _full_precision(x.device.type):
        result: Tensor = module.reduce(problem)
    return result


def _problem(
    kernel: PairwiseKernel,
    x: Tensor,
    w: dict[str, Tensor],
    log_weights: Tensor | None,
    power: float,
    chunk_size: int | None,
) -> Problem:
    m = count_components(w)
    if log_weights is None:
        log_weights = torch.full((m,), -math.log(m), dtype=x.dtype, device=x.device)
    if log_weights.shape != (m,):
        raise ValueError(f"Expected log_weights of shape ({m},), got {tuple(log_weights.shape)}.")
    if x.dim() == 0:
        raise ValueError("Expected points x of shape (N, ...), got a scalar. Unsqueeze it.")
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"Expected chunk_size >= 1 components per tile (or None), got {chunk_size}.")
    if not power > 0:
        raise ValueError(f"Expected power > 0, got {power}.")
    return Problem(kernel, x, w, log_weights, power, chunk_size)


def _choose(problem: Problem, backend: str) -> ModuleType:
    if backend == "auto":
        order = (dense, chunked) if problem.n_pairs < SMALL else (chunked, dense)
        return next(module for module in order if not module.reasons_not(problem))
    if backend not in BACKENDS:
        raise ValueError(f"Unknown backend {backend!r}. Choose 'auto' or one of {sorted(BACKENDS)}.")
    reasons = BACKENDS[backend].reasons_not(problem)
    if reasons:
        raise ValueError(f"Backend {backend!r} cannot run here: {'; '.join(reasons)}. Use backend='auto'.")
    return BACKENDS[backend]


def _full_precision(device_type: str) -> AbstractContextManager[object]:
    """Autocast would take the products in bfloat16, which costs several nats at concentrations above 1000."""
    if torch.amp.is_autocast_available(device_type):
        return torch.autocast(device_type, enabled=False)
    return nullcontext()
