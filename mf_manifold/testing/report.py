"""What a failed conformance check says."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from torch.distributions import Distribution

from ..kernel import Kernel

F = TypeVar("F", bound=Callable[..., None])


class ConformanceError(AssertionError):
    """A named check found a law that is broken; the message holds the numbers."""

    def __init__(self, check: str, subject: str, detail: str) -> None:
        super().__init__(f"{check} of {subject}: {detail}")
        self.check = check


class Broken(AssertionError):
    """Raised inside a check; :func:`named_check` adds the name of the check and of its subject."""


def demand(condition: bool, detail: str) -> None:
    """Raise unless the condition holds."""
    if not condition:
        raise Broken(detail)


def describe(subject: Any) -> str:
    """One line that names a kernel, a distribution or a manifold."""
    if isinstance(subject, Kernel):
        return f"{type(subject).__name__} on {subject.manifold.name} with points of shape {subject.point_shape}"
    return repr(subject) if isinstance(subject, Distribution) else str(getattr(subject, "name", subject))


def named_check(name: str) -> Callable[[F], F]:
    """Turn every failure of the decorated check, exceptions of the code under test included, into a ConformanceError."""

    def decorate(function: F) -> F:
        @functools.wraps(function)
        def checked(subject: Any, *args: Any, **kwargs: Any) -> None:
            try:
                function(subject, *args, **kwargs)
            except Broken as broken:
                raise ConformanceError(name, describe(subject), str(broken)) from None
            except Exception as error:
                detail = f"raised {type(error).__name__}: {error}"
                raise ConformanceError(name, describe(subject), detail) from error

        return checked  # type: ignore[return-value]

    return decorate
