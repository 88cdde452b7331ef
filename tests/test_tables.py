"""Tables: what is read is what the file says, and what is wrong with it is told by its row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mf_manifold.tables import Table, check_output, read_table, write_table


def _csv(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    path = folder / "data.csv"
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize("suffix", [".csv", ".npy", ".parquet"])
def test_values_survive_a_round_trip(tmp_path: Path, suffix: str) -> None:
    values = np.random.default_rng(0).normal(size=(200, 2)) * 10.0 ** np.arange(-100, 100).reshape(200, 1)
    path = tmp_path / f"data{suffix}"
    write_table(path, {"a": values[:, 0], "b": values[:, 1]}, values)
    table = read_table(path)
    np.testing.assert_allclose(table.values, values, rtol=4e-16)
    assert table.columns == (("0", "1") if suffix == ".npy" else ("a", "b"))
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_columns_come_in_the_order_asked_for(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"data{suffix}"
    write_table(path, {"a": np.zeros(2), "b": np.ones(2), "c": np.full(2, 2)}, np.empty(0))
    table = read_table(path, ["c", "a"])
    assert table.columns == ("c", "a")
    assert table.values.tolist() == [[2, 0], [2, 0]]


def test_rows_of_csv_are_those_of_an_editor_and_blank_lines_count(tmp_path: Path) -> None:
    table = read_table(_csv(tmp_path, "a,b\n1,2\n\n3,\n5,6\nnan,inf\n\n\n"))
    assert table.rows.tolist() == [2, 3, 4, 5, 6]
    assert table.rows[table.missing()].tolist() == [3, 4, 6]
    assert table.describe(table.missing()) == f"3 of 5 rows of {table.path} (rows 3, 4, 6)"
    assert table.where(~table.missing()).rows.tolist() == [2, 5]


def test_text_columns_may_stand_beside_the_named_ones(tmp_path: Path) -> None:
    table = read_table(_csv(tmp_path, "name,a\nx,1\ny,2\n"), ["a"])
    assert table.values.tolist() == [[1], [2]]


def test_copies_are_the_later_ones(tmp_path: Path) -> None:
    table = read_table(_csv(tmp_path, "a,b\n1,2\n3,4\n1,2\n1,2\n"))
    assert table.rows[table.copies()].tolist() == [4, 5]


def test_columns_of_arrays(tmp_path: Path) -> None:
    path = tmp_path / "data.npy"
    np.save(path, np.arange(3))
    assert read_table(path).values.tolist() == [[0], [1], [2]]
    np.save(path, np.arange(6).reshape(2, 3))
    assert read_table(path, ["2", "0"]).values.tolist() == [[2, 0], [5, 3]]
    assert read_table(path, ["x", "y", "z"]).columns == ("x", "y", "z")
    np.save(path, np.arange(8).reshape(2, 2, 2))
    table = read_table(path)
    assert table.columns == ("x_0_0", "x_0_1", "x_1_0", "x_1_1")
    assert table.values.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    with pytest.raises(ValueError, match=r"column\(s\) a, b, c, d .* which has x_0_0"):
        read_table(path, ["a", "b", "c", "d"])


@pytest.mark.parametrize(
    ("text", "columns", "message"),
    [
        ("", None, "is an empty file"),
        ("a,b\n", None, "at least one row"),
        ("a,b\n1,2\n", ["a", "c"], r"column\(s\) c in .*data.csv, which has a, b"),
        ("a,b\n1,2\n", ["a", "a"], "each column once"),
        ("a,b\n1,2\n3,north\n4,south\n", None, r"numbers in column b .* got north in row 3 \(2 such rows\)"),
        ("a,b\nTrue,2\nFalse,3\n", None, "numbers in column a"),
        ("a,b\n1,2\n3,4,5\n", None, "readable CSV"),
        ("a,b\n1,2,3\n4,5,6\n", None, "readable CSV"),
    ],
)
def test_bad_csv_is_one_clear_sentence(tmp_path: Path, text: str, columns: list[str] | None, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        read_table(_csv(tmp_path, text), columns)
    assert "\n" not in str(caught.value)


def test_other_encodings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="readable CSV"):
        read_table(_csv(tmp_path, "é,b\n1,2\n", "latin-1"))


@pytest.mark.parametrize("suffix", [".npy", ".parquet"])
@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"garbage" + b, lambda b: b[:3]])
def test_damaged_binary_files_are_refused(tmp_path: Path, suffix: str, damage: object) -> None:
    path = tmp_path / f"data{suffix}"
    write_table(path, {"a": np.arange(1000.0)}, np.arange(1000.0))
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
    with pytest.raises(ValueError, match=r"Expected a readable (NPY|Parquet) file") as caught:
        read_table(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "array",
    [
        np.array(["a", "b"]),
        np.array([1 + 2j]),
        np.array([True, False]),
        np.zeros((2, 2, 3)),
        np.zeros((2, 2, 2, 2)),
        np.array(3.0),
    ],
)
def test_arrays_without_rows_of_real_numbers_are_refused(tmp_path: Path, array: np.ndarray) -> None:
    np.save(tmp_path / "data.npy", array)
    with pytest.raises(ValueError, match="Expected an array"):
        read_table(tmp_path / "data.npy")


def test_pickled_objects_are_never_loaded(tmp_path: Path) -> None:
    np.save(tmp_path / "data.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="readable NPY"):
        read_table(tmp_path / "data.npy")


def test_dates_in_parquet_are_no_numbers(tmp_path: Path) -> None:
    path = tmp_path / "data.parquet"
    pd.DataFrame({"when": pd.to_datetime(["2024-01-01", "2024-01-02"])}).to_parquet(path)
    with pytest.raises(ValueError, match="numbers in column when"):
        read_table(path)


def test_nulls_in_parquet_are_missing(tmp_path: Path) -> None:
    path = tmp_path / "data.parquet"
    pd.DataFrame({"a": pd.array([1, None, 3], dtype="Int64"), "b": ["1", None, "3"]}).to_parquet(path)
    table = read_table(path)
    assert table.rows[table.missing()].tolist() == [1]


@pytest.mark.parametrize("name", ["data.txt", "data", "data.xlsx"])
def test_unknown_extensions_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"ends in \.csv or \.npy or \.parquet"):
        read_table(tmp_path / name)


def test_missing_files_and_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        read_table(tmp_path / "none.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(ValueError, match="is a folder"):
        read_table(tmp_path / "folder.csv")


def test_outputs_are_checked_before_work(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    check_output(path, [".csv"], force=False)
    path.write_text("kept")
    with pytest.raises(ValueError, match="--force"):
        check_output(path, [".csv"], force=False)
    check_output(path, [".csv"], force=True)
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(ValueError, match="is a folder"):
        check_output(tmp_path / "folder.csv", [".csv"], force=True)


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".npy"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, suffix: str) -> None:
    class Broken:
        def __array__(self, *_: object, **__: object) -> np.ndarray:
            raise OSError("disk full")

    path = tmp_path / f"out{suffix}"
    path.write_text("kept")
    with pytest.raises((OSError, ValueError)):
        write_table(path, {"a": np.zeros(3), "b": np.zeros(2)}, Broken())  # type: ignore[arg-type]
    assert path.read_text() == "kept"
    assert list(tmp_path.iterdir()) == [path]


def test_table_methods_agree_on_shapes() -> None:
    table = Table(Path("x.npy"), ("a",), np.array([[1.0], [2.0]]), np.array([0, 1]))
    assert table.where(np.array([False, True])).values.tolist() == [[2.0]]
    assert table.describe(np.array([True, False])) == "1 of 2 rows of x.npy (row 0)"
