"""Surfaces made from functions, by name: what lets a checkpoint describe a manifold that holds a user's code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .. import geometry
from . import register_config
from .embedded import EmbeddedManifold

Builder = Callable[..., EmbeddedManifold]
_SURFACES: dict[str, Builder] = {}


def register_surface(name: str) -> Callable[[Builder], Builder]:
    """Decorator: let :func:`surface`, and so checkpoints, make a surface by ``name``.

    A checkpoint keeps the name and the options, never code: a program that loads it imports the file with the function first.
    """

    def decorate(build: Builder) -> Builder:
        _SURFACES[name] = build
        return build

    return decorate


def surface(name: str, **options: Any) -> EmbeddedManifold:
    """The surface that a registered function makes of ``options``, which must be what JSON can hold.

    Built in are ``circle``, ``helix``, ``cylinder``, ``swiss_roll``, ``sphere_cap`` and ``paraboloid``.

    Raises:
        ValueError: no surface has that name.

    >>> import mf_manifold as mf
    >>> mf.manifolds.surface("cylinder", radius=2.0).dim
    2
    """
    if name not in _SURFACES:
        raise ValueError(
            f"Expected a surface out of {', '.join(sorted(_SURFACES))}; got {name!r}. "
            "Import the file that registers it with mf_manifold.manifolds.register_surface."
        )
    made = _SURFACES[name](**options)
    made.origin = (name, options)
    return made


def config_of(manifold: EmbeddedManifold) -> dict[str, Any]:
    """Description of a surface that :func:`surface` made."""
    origin = manifold.origin
    if origin is None:
        raise ValueError(
            f"Expected a {type(manifold).__name__} that can be described, got one made from functions without a name. Make it "
            "in a function decorated with @mf_manifold.manifolds.register_surface('name'), and call "
            "mf_manifold.manifolds.surface('name')."
        )
    return {"type": "surface", "name": origin[0], "options": origin[1]}


register_config("surface", lambda config: surface(config["name"], **config["options"]))


@geometry.to_config.register(EmbeddedManifold)
def _(manifold: EmbeddedManifold) -> dict[str, Any]:
    return config_of(manifold)
