"""Markov chains for densities known up to a constant: on any manifold, and in the latent space of a trained flow."""

from __future__ import annotations

from .chains import Chains
from .diagnostics import bulk_ess, ess, rhat
from .latent import latent_mala
from .riemannian import mala

__all__ = ["Chains", "bulk_ess", "ess", "latent_mala", "mala", "rhat"]
