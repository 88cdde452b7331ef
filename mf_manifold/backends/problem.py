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
    """M, the common leading dimension of the parameters; components share a parameter that has 1 there."""
    shapes = {name: tuple(value.shape) for name, value in w.items()}
    flat = [name for name, shape in shapes.items() if not shape]
    if flat:
        raise ValueError(f"Expected a leading dimension of components on every parameter, {flat} have none.")
    sizes = {shape[0] for shape in shapes.values()}
    if len(sizes - {1}) > 1 or 0 in sizes:
        raise ValueError(f"Expected parameters with one leading dimension M >= 1 (1 if shared), got {shapes}.")
    return max(sizes, default=1)
