"""Tiles of points x components, and parallelism over them.

An operation on one tile takes microseconds. To split each of them over the threads of a process costs a barrier per
operation, and milliseconds per barrier where another process has a core; so every thread gets its own tiles.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

import torch

Result = TypeVar("Result")
# A thread must have this many pairs to reduce before it is worth starting.
PAIRS_PER_THREAD = 2**20


class Tiles(NamedTuple):
    """Blocks of points and of components, and the number of threads that share the former."""

    rows: list[slice]
    columns: list[slice]
    threads: int

    @property
    def shape(self) -> tuple[int, int]:
        """Of the largest tile."""
        return self.rows[0].stop if self.rows else 0, self.columns[0].stop

    def map(self, work: Callable[[list[slice]], Result]) -> list[Result]:
        """work(a thread's blocks of points) on each thread, without gradients, one thread per operation."""
        with _one_thread_per_operation():
            if self.threads == 1:
                return [work(self.rows)]
            inference = torch.is_inference_mode_enabled()

            def share(first: int) -> Result:
                with torch.inference_mode(inference), torch.no_grad():  # both are settings of a thread
                    return work(self.rows[first :: self.threads])

            with ThreadPoolExecutor(self.threads) as pool:
                return list(pool.map(share, range(self.threads)))


def tile(n: int, m: int, chunk_size: int, pairs: int, device: torch.device) -> Tiles:
    """Tiles of N points x M components with chunk_size components and about `pairs` pairs each."""
    threads = 1
    if device.type == "cpu":
        threads = max(1, min(torch.get_num_threads(), n, n * m // PAIRS_PER_THREAD))
    columns = min(chunk_size, m)
    rows = max(1, min(pairs // columns, -(-n // threads)))
    return Tiles(_slices(n, rows), _slices(m, columns), threads)


def _slices(length: int, step: int) -> list[slice]:
    return [slice(start, min(start + step, length)) for start in range(0, length, step)]


@contextmanager
def _one_thread_per_operation() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
