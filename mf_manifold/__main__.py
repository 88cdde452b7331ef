"""``python -m mf_manifold``: the command line without the console script."""

from .cli import main

main()
