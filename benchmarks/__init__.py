"""Experiments and measurements of speed; run from a checkout of the repository."""
