"""Real data sets: on their manifolds, made as documented, split without leaks."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import torch

import mf_manifold as mf
from mf_manifold import datasets
from mf_manifold.datasets import Dataset, split

LOADERS: dict[str, tuple[Callable[[], Dataset], int, int]] = {
    "airports": (datasets.airports, 20_000, 40_000),
    "alanine": (datasets.alanine_dipeptide, 10_000, 100_000),
    "emg": (datasets.emg_covariances, 2000, 2500),
    "emg2": (lambda: datasets.emg_covariances(channels=(1, 2)), 2000, 2500),
    "connectomes": (datasets.connectomes, 86, 86),
}


@pytest.mark.parametrize("name", LOADERS)
def test_points_are_on_their_manifold(name: str) -> None:
    load, low, high = LOADERS[name]
    data = load()
    assert data.points.dtype == torch.float64
    assert low <= len(data.points) <= high
    assert tuple(data.points.shape[1:]) == data.point_shape
    mf.geometry.check_points(data.manifold, data.points, data.point_shape)
    assert data.units and data.source and data.license and data.note
    assert data.groups is None or data.groups.shape == (len(data.points),)


def test_airports_are_distinct_and_where_they_should_be() -> None:
    points = datasets.airports().points
    assert len(torch.unique(points, dim=0)) == len(points)
    lat, lon = np.deg2rad([51.4775, -0.461389])  # London Heathrow
    heathrow = torch.tensor([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)])
    assert float((points - heathrow).norm(dim=-1).min()) < 1e-3
    assert float(points[:, 2].min()) < -0.999  # Amundsen-Scott at the south pole


def test_alanine_visits_the_known_conformations() -> None:
    phi, psi = torch.rad2deg(datasets.alanine_dipeptide().points).T
    alpha = (phi > -110) & (phi < -30) & (psi > -70) & (psi < 30)
    beta = (phi < -30) & ((psi > 90) | (psi < -150))
    assert 0.1 < float(alpha.double().mean()) < 0.8
    assert 0.1 < float(beta.double().mean()) < 0.8
    assert 0 < float(((phi > 30) & (phi < 100)).double().mean()) < 0.1  # left-handed: rare but reached


def test_alanine_can_be_thinned() -> None:
    data, every4 = datasets.alanine_dipeptide(), datasets.alanine_dipeptide(every=4)
    assert torch.equal(every4.points, data.points[::4])
    assert torch.equal(every4.groups, data.groups[::4])
    with pytest.raises(ValueError, match="every >= 1"):
        datasets.alanine_dipeptide(every=0)


def _raw_emg() -> pd.DataFrame:
    return pd.read_csv(datasets._geomstats_file("emg", "emg.csv"))


def test_emg_covariances_agree_with_numpy() -> None:
    data, table = datasets.emg_covariances(window=300), _raw_emg()
    first = table[[f"c{i}" for i in range(8)]].to_numpy()[:300]
    assert np.allclose(data.points[0], np.cov(first.T), rtol=1e-12, atol=0)
    pair = datasets.emg_covariances(channels=(5, 2))
    assert torch.allclose(pair.points, data.points[:, [5, 2]][:, :, [5, 2]])


def test_no_emg_window_crosses_a_boundary() -> None:
    table = _raw_emg()
    label, recording, time = (table[c].to_numpy() for c in ("label", "exp", "time"))
    starts, hold = datasets._window_starts(label, recording, time, 300)
    rows = starts[:, None] + np.arange(300)
    for column in (label, recording):
        assert (column[rows] == column[rows[:, :1]]).all()
    assert (np.diff(time[rows], axis=1) > -1000).all()
    assert (np.diff(starts)[np.diff(hold) == 0] == 300).all()
    assert hold[-1] + 1 == 120  # 4 sessions of 6 recordings of 5 gestures


def test_windows_of_a_small_table() -> None:
    label = np.array(list("aaaaabbbbbbaaaaaaa"))
    recording = np.array([0] * 14 + [1] * 4)
    time = np.array([0, 5, 4, 9, 12, 20, 25, 30, 5, 10, 15, 20, 25, 30, 35, 40, 45, 50]) * 100
    starts, hold = datasets._window_starts(label, recording, time, 3)
    assert starts.tolist() == [0, 5, 8, 11, 14]
    assert hold.tolist() == [0, 1, 2, 3, 4]


def test_singular_windows_are_counted_not_repaired() -> None:
    data = datasets.emg_covariances(window=4, channels=(0, 3))
    skipped = int(data.note.split(" singular")[0].split()[-1])
    assert skipped > 0
    assert len(data.points) + skipped == int(data.note.split()[0])
    assert float(torch.linalg.eigvalsh(data.points)[:, 0].min()) > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": (0, 8)}, "distinct channels"),
        ({"channels": (1, 1)}, "distinct channels"),
        ({"channels": ()}, "distinct channels"),
        ({"window": 8}, "more than 8 samples"),
        ({"window": 100_000}, "fits into a hold"),
    ],
)
def test_emg_arguments_are_checked(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        datasets.emg_covariances(**options)  # type: ignore[arg-type]


def test_connectomes_are_correlations() -> None:
    points = datasets.connectomes().points
    assert torch.equal(points, points.mT)
    assert torch.equal(points.diagonal(dim1=1, dim2=2), torch.ones(86, 28, dtype=torch.float64))
    assert float(torch.linalg.eigvalsh(points)[:, 0].min()) > 1e-3


def test_geomstats_is_not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "geomstats"]:
        monkeypatch.delitem(sys.modules, name)
    datasets.connectomes()
    assert "geomstats" not in sys.modules


def test_missing_packages_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "airportsdata", None)
    with pytest.raises(ImportError, match=r"airportsdata: pip install 'mf-manifold\[datasets\]'"):
        datasets.airports()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"geomstats: pip install 'mf-manifold\[datasets\]'"):
        datasets.connectomes()


@pytest.mark.parametrize("count", [10, 97, 28293])
def test_split_is_the_usual_protocol(count: int) -> None:
    train, validation, test = split(torch.zeros(count, 1), seed=3)
    permutation = torch.randperm(count, generator=torch.Generator().manual_seed(3))
    n = count // 10
    assert torch.equal(train, permutation[: count - 2 * n])
    assert torch.equal(validation, permutation[count - 2 * n : count - n])
    assert torch.equal(test, permutation[count - n :])


def test_split_keeps_groups_together() -> None:
    groups = torch.arange(1000) // 25 + 7
    parts = split(torch.zeros(1000, 2), seed=1, groups=groups)
    assert [len(groups[part].unique()) for part in parts] == [32, 4, 4]
    assert sorted(torch.cat(parts).tolist()) == list(range(1000))
    members = [set(groups[part].tolist()) for part in parts]
    assert not (members[0] & members[1] or members[0] & members[2] or members[1] & members[2])


def test_split_checks_its_arguments() -> None:
    with pytest.raises(ValueError, match="add up to 1"):
        split(torch.zeros(10, 1), 0, (0.5, 0.1, 0.1))
    with pytest.raises(ValueError, match="one per point"):
        split(torch.zeros(10, 1), 0, groups=torch.zeros(9))
    with pytest.raises(ValueError, match="enough rows or groups"):
        split(torch.zeros(5, 1), 0)
