"""What a backend is asked to reduce."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor
from torch.nn import Parameter

from .bilinear import Bilinear


class PairwiseKernel(Protocol):
    """The part of a kernel that a reduction uses."""

    def pairwise_log_prob(self, x: Tensor, w: dict[str, Tensor]) -> Tensor: ...

    def bilinear(self, x: Tensor, w: dict[str, Tensor]) -> Bilinear | None: ...

    def parameters(self) -> Iterator[Parameter]: ...


@dataclass(frozen=True)
class Problem:
    """L_n = logsumexp_c power * (log_weights_c + log q(x_n | w_c)) for N points and M components."""

    kernel: PairwiseKernel
    x: Tensor
    w: dict[str, Tensor]
    log_weights: Tensor
    power: float
    chunk_size: int | None

    @property
    def n_pairs(self) -> int:
        return self.x.shape[0] * self.log_weights.shape[0]


def count_components(w: Mapping[str, Tensor]) -> int:
    """M, the common leading dimension of the parameters; a leading dimension of 1 is shared by all components."""
    flat = [name for name, value in w.items() if value.dim() == 0]
    if flat:
        raise ValueError(f"Expected a leading component dimension on every parameter; {flat} have none. Unsqueeze them.")
    sizes = {value.shape[0] for value in w.values()}
    if len(sizes - {1}) > 1 or 0 in sizes:
        shapes = {name: tuple(value.shape) for name, value in w.items()}
        raise ValueError(f"Expected parameters with one common leading dimension M >= 1 (or 1, shared), got {shapes}.")
    return max(sizes, default=1)
