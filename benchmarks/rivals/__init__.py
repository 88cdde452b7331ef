"""Rival density estimators of the experiments: neural spline flows (zuko) and flow matching (torchdiffeq).

They are no part of the package ``mf_manifold``. Each is a module with ``fit(x, seed=, max_seconds=, validation=)``,
``log_prob(x)`` with respect to the Riemannian volume, ``sample(n, seed=)`` and ``parameter_count``.
"""

from torch.distributions import Distribution

# importing zuko switches the validation of all torch distributions off, in the whole process
_validation = Distribution._validate_args
import zuko  # noqa: E402, F401  the modules of this package take its transforms

Distribution.set_default_validate_args(_validation)

from .cholesky_flow import CholeskyFlow  # noqa: E402
from .flow_matching import FlowMatching  # noqa: E402
from .spline_flow import SplineFlow  # noqa: E402

__all__ = ["CholeskyFlow", "FlowMatching", "SplineFlow"]
