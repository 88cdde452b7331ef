"""Real data sets on manifolds: airports on the sphere, torsions on the torus, covariance matrices.

Everything is read from this package or from installed packages; nothing is downloaded. The optional packages come with
``pip install 'mf-manifold[datasets]'``.
"""

from __future__ import annotations

import importlib.resources
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import geoopt
import numpy as np
import torch
from torch import Tensor

from .geometry import Shape
from .manifolds import Torus

EMG_CHANNELS = 8
CONNECTOME_REGIONS = 28
RESTART = 1000  # ms; time stamps go back by a few ms within a recording and by minutes where another one starts
TORSION_BLOCK = 400  # frames


@dataclass(frozen=True)
class Dataset:
    """Points on a manifold, with their units and origin.

    Attributes:
        name: short name.
        points: (N,*E) float64.
        manifold: geoopt manifold of the points.
        point_shape: the shape *E of one point.
        units: units of the coordinates.
        source: where the numbers come from.
        license: licence of the data.
        note: what was done to the raw data.
        groups: (N,) integers; rows of one group depend on each other and belong on one side of a split. None where rows
            are independent.
    """

    name: str
    points: Tensor
    manifold: geoopt.Manifold
    point_shape: Shape
    units: str
    source: str
    license: str
    note: str = ""
    groups: Tensor | None = None


def split(
    points: Tensor, seed: int, fractions: Sequence[float] = (0.8, 0.1, 0.1), groups: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Row numbers of a training, a validation and a test part, by one seeded permutation of rows or of whole groups.

    The parts are consecutive pieces of ``torch.randperm(N)``, the last two of ``floor(fraction N)`` entries. With ``groups``
    (N,) the distinct groups are permuted instead, and the row numbers of a part are in increasing order.

    Raises:
        ValueError: fractions that are not three shares of 1, groups of another length, or too few rows for a part.

    >>> import torch
    >>> [part.tolist() for part in split(torch.zeros(10, 3), seed=0)]
    [[4, 1, 7, 5, 3, 9, 0, 8], [6], [2]]
    """
    if len(fractions) != 3 or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-9:
        raise ValueError(f"Expected three fractions that add up to 1, got {tuple(fractions)}.")
    if groups is not None and groups.shape != points.shape[:1]:
        raise ValueError(f"Expected groups of shape ({len(points)},), one per point, got {tuple(groups.shape)}.")
    units = torch.arange(len(points)) if groups is None else torch.from_numpy(np.unique(groups.numpy()))
    permutation = units[torch.randperm(len(units), generator=torch.Generator().manual_seed(seed))]
    validation, test = (int(round(share * len(units), 6)) for share in fractions[1:])
    parts = permutation.split([len(units) - validation - test, validation, test])
    if any(len(part) == 0 and share > 0 for part, share in zip(parts, fractions, strict=True)):
        raise ValueError(f"Expected enough rows or groups for the fractions {tuple(fractions)}, got {len(units)}.")
    if groups is None:
        return parts[0], parts[1], parts[2]
    rows = [torch.isin(groups, part).nonzero().squeeze(-1) for part in parts]
    return rows[0], rows[1], rows[2]


def _missing(package: str) -> ImportError:
    return ImportError(f"This data set needs the package {package}: pip install 'mf-manifold[datasets]'")


def _import(package: str) -> ModuleType:
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise _missing(package) from error


def _geomstats_file(*parts: str) -> Path:
    """A data file of geomstats, found without importing it: the import has side effects and needs numpy < 2.4."""
    spec = importlib.util.find_spec("geomstats")
    if spec is None or not spec.submodule_search_locations:
        raise _missing("geomstats")
    path = Path(spec.submodule_search_locations[0], "datasets", "data", *parts)
    if not path.is_file():
        raise FileNotFoundError(f"Expected the data file {'/'.join(parts)} inside geomstats >= 2.8, found none there.")
    return path


def airports() -> Dataset:
    """Distinct positions of 28 thousand airports on the sphere S^2.

    Latitude and longitude become ``(cos lat cos lon, cos lat sin lon, sin lat)``. Positions that agree to 12 decimals are one
    row; rows are in lexicographic order of the unit vectors.

    Raises:
        ImportError: the package airportsdata is not installed.

    >>> airports().points.shape[1:]
    torch.Size([3])
    """
    rows = list(_import("airportsdata").load("ICAO").values())
    lat, lon = np.deg2rad([[row["lat"], row["lon"]] for row in rows]).T
    vectors = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)
    _, first = np.unique(vectors.round(12), axis=0, return_index=True)
    return Dataset(
        name="airports",
        points=torch.from_numpy(vectors[first]),
        manifold=geoopt.Sphere(),
        point_shape=(3,),
        units="unit vectors (latitude and longitude in degrees in the source)",
        source="Python package airportsdata: airports of the world with an ICAO or local code",
        license="MIT",
        note=f"{len(rows)} airports at {len(first)} distinct positions.",
    )


def alanine_dipeptide(every: int = 1) -> Dataset:
    """Backbone torsions (phi, psi) of alanine dipeptide in water-like solvent at 300 K, on the torus T^2, in time order.

    The frames are those of one trajectory of a replica-exchange simulation and correlated over about 10 frames, so ``groups``
    numbers blocks of 400 consecutive frames.

    Args:
        every: keep each ``every``-th frame only.

    Raises:
        ValueError: ``every`` is below 1.

    >>> alanine_dipeptide().point_shape
    (2,)
    """
    if every < 1:
        raise ValueError(f"Expected every >= 1 frames, got {every}.")
    with (importlib.resources.files(__package__) / "data" / "alanine_dipeptide.npz").open("rb") as stream:
        table = np.load(stream)
        angles, interval = torch.from_numpy(table["angles"]).double(), float(table["interval_ps"])
        source = f"simulated for this package with OpenMM {table['openmm_version']}, force field {table['force_field']}"
        temperature = float(table["temperature_K"])
    return Dataset(
        name="alanine dipeptide",
        points=angles[::every],
        manifold=Torus(),
        point_shape=(2,),
        units="radians (phi, psi)",
        source=f"{source}, {temperature:g} K",
        license="that of mf-manifold",
        note=f"{len(angles[::every])} frames, one every {every * interval:g} ps; "
        f"blocks of {TORSION_BLOCK * interval / 1000:.2g} ns stay together.",
        groups=(torch.arange(len(angles)) // TORSION_BLOCK)[::every],
    )


def _window_starts(label: np.ndarray, recording: np.ndarray, time: np.ndarray, window: int) -> tuple[np.ndarray, np.ndarray]:
    """First rows of the windows, and the number of the hold (one gesture held without a break) of each."""
    new = (label[1:] != label[:-1]) | (recording[1:] != recording[:-1]) | (np.diff(time) < -RESTART)
    edges = np.concatenate([[0], np.flatnonzero(new) + 1, [len(label)]])
    starts = [np.arange(low, high - window + 1, window) for low, high in zip(edges[:-1], edges[1:], strict=True)]
    return np.concatenate(starts), np.repeat(np.arange(len(starts)), [len(s) for s in starts])


def _regular(matrices: np.ndarray) -> np.ndarray:
    """Which matrices are positive definite beyond rounding."""
    eigenvalues = np.linalg.eigvalsh(matrices)
    return np.asarray(eigenvalues[:, 0] > matrices.shape[-1] * np.finfo(matrices.dtype).eps * eigenvalues[:, -1])


def emg_covariances(window: int = 300, channels: Sequence[int] | None = None) -> Dataset:
    """Covariance matrices of surface-EMG windows, on SPD(8) or SPD of the chosen channels, in time order.

    Eight electrodes recorded five hand gestures at about 240 Hz. A window is ``window`` consecutive samples (300: about 1.2 s)
    of one gesture held without a break; windows do not overlap, and the covariance divides by ``window - 1``. Nothing is
    regularised: singular windows are left out and counted in ``note``. Windows of one hold are alike, so ``groups`` numbers
    the holds.

    Args:
        window: samples per window, more than the number of channels.
        channels: indices 0..7 of the electrodes; None for all.

    Raises:
        ImportError: geomstats (whose data file is read; it is not imported) or pandas is not installed.
        ValueError: unknown channels, or a window so short that every covariance is singular or so long that none fits.

    >>> emg_covariances(channels=(0, 4)).point_shape
    (2, 2)
    """
    chosen = list(range(EMG_CHANNELS)) if channels is None else list(channels)
    if not chosen or len(set(chosen)) < len(chosen) or not set(chosen) <= set(range(EMG_CHANNELS)):
        raise ValueError(f"Expected distinct channels out of 0..{EMG_CHANNELS - 1}, got {chosen}.")
    if window <= len(chosen):
        raise ValueError(f"Expected a window of more than {len(chosen)} samples (the channels), got {window}.")
    table = _import("pandas").read_csv(_geomstats_file("emg", "emg.csv"))
    label, recording, time = (table[column].to_numpy() for column in ("label", "exp", "time"))
    starts, hold = _window_starts(label, recording, time, window)
    if len(starts) == 0:
        raise ValueError(f"Expected a window that fits into a hold of one gesture (about 6000 samples), got {window}.")
    signal = table[[f"c{i}" for i in chosen]].to_numpy(dtype=np.float64)[starts[:, None] + np.arange(window)]
    centred = signal - signal.mean(1, keepdims=True)
    covariances = np.einsum("nti,ntj->nij", centred, centred) / (window - 1)
    keep = _regular(covariances)
    return Dataset(
        name=f"EMG covariances ({len(chosen)} channels)",
        points=torch.from_numpy(covariances[keep]),
        manifold=geoopt.SymmetricPositiveDefinite(),
        point_shape=(len(chosen), len(chosen)),
        units="squared steps of the 8-bit converter",
        source="file emg.csv of the Python package geomstats: eight-electrode surface EMG of five hand gestures",
        license="MIT (geomstats)",
        note=(
            f"{len(starts)} windows of {window} samples in {hold[-1] + 1} holds; {int((~keep).sum())} singular windows "
            f"left out; channels {', '.join(map(str, chosen))}; whole holds stay together."
        ),
        groups=torch.from_numpy(hold[keep]),
    )


def connectomes() -> Dataset:
    """Correlation matrices of the resting-state activity of 28 brain regions of 86 people, on SPD(28).

    The 378 correlations of a row fill the upper triangle row by row and the diagonal is 1. The matrices are the plain
    correlations, positive definite as they stand; geomstats' own loader halves the off-diagonal entries, which is the same as
    averaging with the identity. Unit diagonals confine them to a submanifold of dimension 378 of the 406-dimensional
    SPD(28), so that the likelihood of densities on SPD(28) has no upper bound on them: a set for geometry, not for scores.

    Raises:
        ImportError: geomstats, whose data file is read, is not installed.

    >>> connectomes().points.shape
    torch.Size([86, 28, 28])
    """
    table = np.loadtxt(_geomstats_file("connectomes", "train_FNC.csv"), delimiter=",", skiprows=1)
    upper = np.triu_indices(CONNECTOME_REGIONS, 1)
    half = np.zeros((len(table), CONNECTOME_REGIONS, CONNECTOME_REGIONS))
    half[:, upper[0], upper[1]] = table[:, 1:]
    matrices = half + half.transpose(0, 2, 1) + np.eye(CONNECTOME_REGIONS)
    if not _regular(matrices).all():
        raise ValueError("Expected positive definite correlation matrices in train_FNC.csv, found a singular one.")
    return Dataset(
        name="connectomes",
        points=torch.from_numpy(matrices),
        manifold=geoopt.SymmetricPositiveDefinite(),
        point_shape=(CONNECTOME_REGIONS, CONNECTOME_REGIONS),
        units="correlations (no unit)",
        source="file train_FNC.csv of the Python package geomstats: MLSP 2014 schizophrenia challenge",
        license="MIT (geomstats)",
        note="Correlation matrices as they stand, without geomstats' averaging with the identity.",
    )
