"""Coordinates: columns and units become the right points and back; what cannot be right is told by its row."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from mf_manifold import geometry
from mf_manifold.coordinates import Coordinates, coordinates_for
from mf_manifold.tables import Floats, Table, matrix_columns, read_table, write_table


def _table(values: object, columns: tuple[str, ...] | None = None) -> Table:
    array = np.asarray(values, dtype=float)
    names = columns or tuple(f"c{i}" for i in range(array.shape[1]))
    return Table(Path("data.csv"), names, array, np.arange(len(array)) + 2)


def _spd(n: int, p: int) -> Floats:
    root = np.random.default_rng(0).normal(size=(n, p, p + 3))
    return root @ root.transpose(0, 2, 1)


def _names(n: int) -> tuple[str, ...]:
    return tuple(f"c{i}" for i in range(n))


LAT_LON = np.array([[0, 0], [0, 90], [90, 0], [-33.9, 151.2], [51.5, -0.1], [12, 180]])
EXAMPLES = [
    (coordinates_for("sphere", _names(2), "degrees"), LAT_LON[:-1]),
    (coordinates_for("sphere", _names(2), "radians"), np.deg2rad(LAT_LON)),
    (coordinates_for("sphere", _names(5), "cartesian"), np.eye(5)),
    (coordinates_for("sphere", _names(2), "cartesian"), np.array([[0.6, 0.8]])),
    (coordinates_for("torus", _names(3), "degrees"), np.array([[-179.0, 0, 12.5]])),
    (coordinates_for("torus", _names(1), "radians"), np.array([[-3.1], [3.1]])),
    (coordinates_for("euclidean", _names(2)), np.array([[-1e6, 3e-9]])),
    (coordinates_for("spd", _names(9)), _spd(4, 3).reshape(4, 9)),
    (coordinates_for("spd", ("a_1_1", "a_0_0", "a_1_0")), np.array([[2.0, 3.0, -1.0]])),
]


def test_known_points_of_latitude_and_longitude() -> None:
    points = coordinates_for("sphere", ("latitude", "longitude"), "degrees").to_points(_table(LAT_LON))
    expected = [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    np.testing.assert_allclose(points[:3].numpy(), expected, atol=1e-15)
    lat, lon = np.deg2rad(LAT_LON[3])
    np.testing.assert_allclose(
        points[3].numpy(), [np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], rtol=1e-14
    )


@pytest.mark.parametrize(("coordinates", "values"), EXAMPLES, ids=lambda v: getattr(v, "name", ""))
def test_points_are_on_the_manifold_and_columns_come_back(coordinates: Coordinates, values: Floats) -> None:
    points = coordinates.to_points(_table(values, coordinates.columns))
    assert points.dtype == torch.float64
    assert points.shape == (len(values), *coordinates.point_shape)
    geometry.check_points(coordinates.manifold, points, coordinates.point_shape)
    np.testing.assert_allclose(coordinates.from_points(points), values, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(coordinates.from_points(points.float()), values, rtol=1e-6, atol=2e-5)
    assert coordinates_for(**coordinates.to_config()) == coordinates


def test_angles_wrap_and_rounded_vectors_are_normalised() -> None:
    points = coordinates_for("torus", ("phi",), "degrees").to_points(_table([[270], [725], [-180]]))
    np.testing.assert_allclose(points.numpy()[:, 0], np.deg2rad([-90, 5, -180]), rtol=1e-12)
    points = coordinates_for("sphere", _names(3)).to_points(_table([[0.5774, 0.5774, 0.5773]]))
    assert abs(float(points.norm()) - 1) < 1e-15


@pytest.mark.parametrize(
    ("columns", "order"),
    [
        (_names(4), [0, 1, 2, 3]),
        (_names(3), [0, 2, 3]),
        (("k_1_1", "k_0_1", "k_0_0"), [3, 1, 0]),
        (("s_1_0", "s_0_0", "s_1_1"), [2, 0, 3]),
    ],
)
def test_every_layout_of_matrices(columns: tuple[str, ...], order: list[int]) -> None:
    matrices = _spd(5, 2)
    coordinates = coordinates_for("spd", columns)
    points = coordinates.to_points(_table(matrices.reshape(5, 4)[:, order], columns))
    np.testing.assert_allclose(points.numpy(), matrices, rtol=1e-14)


def test_a_lower_triangle_is_read_row_by_row() -> None:
    points = coordinates_for("spd", _names(6)).to_points(_table([[4, 1, 5, 2, 3, 6]]))
    assert points[0].tolist() == [[4, 1, 2], [1, 5, 3], [2, 3, 6]]


@pytest.mark.parametrize("suffix", [".npy", ".csv", ".parquet"])
@pytest.mark.parametrize("layout", [matrix_columns(3), _names(6)])
def test_sampled_matrices_can_be_read_again(tmp_path: Path, suffix: str, layout: tuple[str, ...]) -> None:
    coordinates, points = coordinates_for("spd", layout), torch.from_numpy(_spd(5, 3))
    path = tmp_path / f"samples{suffix}"
    columns = dict(zip(layout, coordinates.from_points(points).T, strict=True))
    write_table(path, columns, coordinates.to_array(points))
    if suffix == ".npy":
        assert np.load(path).shape == ((5, 3, 3) if len(layout) == 9 else (5, 6))
    torch.testing.assert_close(coordinates.to_points(read_table(path, coordinates.columns)), points)


@pytest.mark.parametrize(
    ("manifold", "columns", "units", "message"),
    [
        ("plane", _names(2), None, "manifold out of sphere, torus, spd, euclidean"),
        ("sphere", _names(2), None, "--units degrees or radians or cartesian for 2 column.* no default units"),
        ("torus", _names(3), None, "--units degrees or radians .* no default units"),
        ("torus", _names(3), "cartesian", "--units degrees or radians for torus, got 'cartesian'"),
        ("spd", _names(4), "degrees", "--units matrix for spd"),
        ("sphere", _names(3), "degrees", "2 columns latitude,longitude"),
        ("sphere", ("lon", "lat"), "degrees", "latitude before longitude"),
        ("sphere", ("y", " Latitude"), "radians", "latitude before longitude"),
        ("sphere", _names(1), "cartesian", "D >= 2"),
        ("spd", _names(5), None, r"p\*p or p\(p\+1\)/2 columns of SPD matrices, got 5"),
        ("spd", _names(36), None, "6x6 matrices or the triangles of 8x8"),
        ("spd", ("x_0_0", "x_1_1", "x_2_2"), None, r"the entry \(1, 0\) is missing"),
        ("spd", ("x_0_0", "y_0_0", "x_1_0", "x_1_1"), None, "an entry comes twice"),
    ],
)
def test_columns_that_do_not_fit(manifold: str, columns: tuple[str, ...], units: str | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        coordinates_for(manifold, columns, units)


def test_names_tell_36_columns_apart() -> None:
    assert coordinates_for("spd", matrix_columns(6)).point_shape == (6, 6)
    lower = tuple(f"c_{i}_{j}" for i in range(8) for j in range(i + 1))
    assert coordinates_for("spd", lower).point_shape == (8, 8)


BAD_ROWS = [
    ("sphere", "degrees", [[1, 2], [math.nan, 2], [1, math.inf]], r"rows 3, 4\) have empty, NaN or infinite"),
    ("sphere", "degrees", [[1, 2], [120, 2]], r"latitudes within 90 degrees .* \(row 3\) .* swapped"),
    ("sphere", "degrees", [[1, 2], [2, 361]], r"longitudes within 360 degrees .* \(row 3\)"),
    ("sphere", "radians", [[1, 2], [2, 1]], r"latitudes within 1.5708 radians .* \(row 3\)"),
    ("sphere", "radians", [[1, 2], [40, 100]], r"radians, but .* \(row 3\) exceed 2 pi.* --units degrees"),
    ("torus", "radians", [[1, 2], [1, -180]], r"\(row 3\) exceed 2 pi.* --units degrees"),
    ("sphere", "cartesian", [[1, 0, 0], [1, 1, 0]], r"Sphere, but 1 of 2 rows .* \(row 3\) .* worst 4.1e-01"),
    ("sphere", "cartesian", [[0, 0, 0]], r"Normalise the vectors"),
    ("spd", "matrix", [[1, 0, 0, 1], [1, 0.5, 0.2, 1]], r"\(row 3\) are not symmetric"),
    ("spd", "matrix", [[1, 2, 2, 1]], r"\(row 2\) are not positive definite .* singular"),
    ("spd", "matrix", [[0, 0, 0, 0]], r"\(row 2\) are not positive definite"),
]


@pytest.mark.parametrize(("manifold", "units", "values", "message"), BAD_ROWS)
def test_bad_rows_are_named(manifold: str, units: str, values: list[list[float]], message: str) -> None:
    coordinates = coordinates_for(manifold, _names(len(values[0])), units)
    with pytest.raises(ValueError, match=message):
        coordinates.to_points(_table(values))


def test_degrees_that_look_like_radians_are_noted() -> None:
    torus = coordinates_for("torus", _names(2), "degrees")
    assert "--units radians" in torus.notes(np.array([[1, 6.28], [-3, 0]]))[0]
    assert torus.notes(np.array([[1, 6.28], [-30, 0]])) == []
    assert coordinates_for("torus", _names(2), "radians").notes(np.array([[1, 6.28]])) == []
    assert coordinates_for("euclidean", _names(2)).notes(np.array([[1, 6.28]])) == []
