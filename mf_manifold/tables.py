"""Tables of numbers in CSV, NPY and Parquet files: read with every problem named by its row, written atomically."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .checkpoint import atomic_path

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]
SUFFIXES = (".csv", ".npy", ".parquet")
MAX_LISTED = 20


@dataclass(frozen=True)
class Table:
    """Numeric columns of a file, and the rows of the file that they came from.

    ``rows`` counts as a person would in that format: CSV from 2, because the header is row 1; NPY and Parquet from 0.

    Shapes: ``values`` (N, number of columns), ``rows`` (N,).
    """

    path: Path
    columns: tuple[str, ...]
    values: Floats
    rows: NDArray[np.int64]

    def where(self, mask: NDArray[np.bool_]) -> Table:
        """The rows at which ``mask`` is true."""
        return replace(self, values=self.values[mask], rows=self.rows[mask])

    def describe(self, mask: NDArray[np.bool_]) -> str:
        """The marked rows in words, such as ``2 of 9 rows of angles.csv (rows 4, 7)``."""
        found = self.rows[mask]
        shown = ", ".join(str(row) for row in found[:5]) + (", ..." if len(found) > 5 else "")
        return f"{len(found)} of {len(self.rows)} rows of {self.path} (row{'s' * (len(found) > 1)} {shown})"

    def missing(self) -> NDArray[np.bool_]:
        """Rows with a NaN, infinite or empty entry; (N,)."""
        return np.asarray(~np.isfinite(self.values).all(axis=1))

    def copies(self) -> NDArray[np.bool_]:
        """Rows that repeat an earlier row exactly; (N,)."""
        _, first = np.unique(self.values, axis=0, return_index=True)
        mask = np.ones(len(self.rows), dtype=bool)
        mask[first] = False
        return mask


def read_table(path: Path, columns: Sequence[str] | None = None) -> Table:
    """Read numeric columns, all of them without ``columns``, in the order asked for.

    The columns of an (N, C) or (N,) NPY array are called 0, 1, ..., or, given exactly C other names, by those; the entries of
    an (N, p, p) array are the columns x_0_0, x_0_1, ..., x_1_0, ....

    Raises:
        ValueError: unknown extension, unreadable or empty file, missing column, or cells that are no numbers.
    """
    suffix = check_suffix(path)
    if not path.is_file():
        raise ValueError(f"Expected a data file, got {path}, which {'is a folder' if path.exists() else 'does not exist'}.")
    if path.stat().st_size == 0:
        raise ValueError(f"Expected rows of data, but {path} is an empty file.")
    if columns is not None and len(set(columns)) < len(columns):
        raise ValueError(f"Expected each column once, got {', '.join(columns)}.")
    read = {".csv": _read_csv, ".npy": _read_npy, ".parquet": _read_parquet}[suffix]
    names, values = read(path, columns)
    if len(values) == 0:
        raise ValueError(f"Expected at least one row of data, but {path} has none.")
    return Table(path, names, values, np.arange(len(values)) + _first_row(path))


def _first_row(path: Path) -> int:
    return 2 if path.suffix.lower() == ".csv" else 0


def check_suffix(path: Path, suffixes: Sequence[str] = SUFFIXES) -> str:
    """The extension of a path in lower case.

    Raises:
        ValueError: it is none of ``suffixes``.
    """
    suffix = path.suffix.lower()
    if suffix not in suffixes:
        raise ValueError(f"Expected a file name that ends in {' or '.join(suffixes)}, got {path}.")
    return suffix


def _select(path: Path, available: Sequence[str], columns: Sequence[str] | None) -> list[int]:
    """Positions of the wanted columns among those of the file."""
    wanted = available if columns is None else columns
    absent = [name for name in wanted if name not in available]
    if absent:
        listed = ", ".join(available[:MAX_LISTED]) + (", ..." if len(available) > MAX_LISTED else "")
        raise ValueError(f"Expected the column(s) {', '.join(absent)} in {path}, which has {listed}.")
    return [available.index(name) for name in wanted]


def _read_npy(path: Path, columns: Sequence[str] | None) -> tuple[tuple[str, ...], Floats]:
    try:
        with path.open("rb") as file:
            array = np.lib.format.read_array(file, allow_pickle=False)  # type: ignore[no-untyped-call]
    except (ValueError, EOFError, OSError) as error:
        raise _unreadable(path, "NPY", error) from error
    if array.dtype.kind not in "fiu":
        raise ValueError(f"Expected an array of real numbers in {path}, got dtype {array.dtype}.")
    if not 1 <= array.ndim <= 3 or (array.ndim == 3 and array.shape[1] != array.shape[2]):
        raise ValueError(f"Expected an array (N,), (N, columns) or (N, p, p) in {path}, got shape {array.shape}.")
    values = array.reshape(len(array), int(np.prod(array.shape[1:]))).astype(np.float64)
    available = matrix_columns(array.shape[1]) if array.ndim == 3 else tuple(map(str, range(values.shape[1])))
    if columns is not None and array.ndim < 3 and len(columns) == len(available) and not set(columns) <= set(available):
        available = tuple(columns)
    index = _select(path, available, columns)
    return tuple(available[i] for i in index), values[:, index]


def matrix_columns(p: int) -> tuple[str, ...]:
    """Column names of the entries of a (p, p) matrix, row by row.

    >>> matrix_columns(2)
    ('x_0_0', 'x_0_1', 'x_1_0', 'x_1_1')
    """
    return tuple(f"x_{i}_{j}" for i in range(p) for j in range(p))


def _read_csv(path: Path, columns: Sequence[str] | None) -> tuple[tuple[str, ...], Floats]:
    import pandas as pd

    try:
        # only line ends at the very end are no data: blank lines elsewhere stay, so that row numbers are those of the file
        content = io.BytesIO(path.read_bytes().rstrip(b"\r\n"))
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # pandas warns where it cuts off fields of long rows
            frame = pd.read_csv(content, index_col=False, skip_blank_lines=False)
    except (ValueError, OSError, pd.errors.ParserWarning) as error:
        raise _unreadable(path, "CSV", error) from error
    return _from_frame(path, frame, columns)


def _read_parquet(path: Path, columns: Sequence[str] | None) -> tuple[tuple[str, ...], Floats]:
    import pandas as pd
    import pyarrow as pa

    try:
        frame = pd.read_parquet(path)
    except (ValueError, OSError, pa.ArrowException) as error:
        raise _unreadable(path, "Parquet", error) from error
    return _from_frame(path, frame, columns)


def _unreadable(path: Path, kind: str, error: Exception) -> ValueError:
    reason = " ".join(str(error).split())[:200]
    return ValueError(f"Expected a readable {kind} file, got {path}: {reason.rstrip('.')}.")


def _from_frame(path: Path, frame: pd.DataFrame, columns: Sequence[str] | None) -> tuple[tuple[str, ...], Floats]:
    available = [str(name) for name in frame.columns]
    index = _select(path, available, columns)
    names = tuple(available[i] for i in index)
    values = [_numbers(path, name, frame.iloc[:, i]) for name, i in zip(names, index, strict=True)]
    return names, np.stack(values, axis=1) if values else np.empty((0, 0))


def _numbers(path: Path, name: str, series: pd.Series[Any]) -> Floats:
    import pandas as pd

    kind = pd.api.types
    if kind.is_float_dtype(series) or kind.is_integer_dtype(series):
        return series.to_numpy(dtype=np.float64, na_value=np.nan)
    numbers = pd.to_numeric(series.astype("string"), errors="coerce")
    bad = (numbers.isna() & series.notna()).to_numpy(dtype=bool)
    if bad.any():
        first = int(bad.argmax())
        raise ValueError(
            f"Expected numbers in column {name} of {path}, got {series.iloc[first]!s:.50} in row {first + _first_row(path)} "
            f"({int(bad.sum())} such rows); name the numeric columns with --columns."
        )
    return numbers.to_numpy(dtype=np.float64, na_value=np.nan)


def check_output(path: Path, suffixes: Sequence[str], force: bool) -> None:
    """Check an output file before the work that fills it.

    Raises:
        ValueError: an extension that cannot be written, a folder, or a file that exists without ``force``.
    """
    check_suffix(path, suffixes)
    if path.is_dir():
        raise ValueError(f"Expected the name of an output file, got {path}, which is a folder.")
    if path.exists() and not force:
        raise ValueError(f"The output {path} exists: give another name, or --force to overwrite it.")


def write_table(path: Path, columns: Mapping[str, NDArray[Any]], array: NDArray[Any]) -> None:
    """Write named columns to CSV or Parquet, or ``array`` to NPY, which has no names; atomically."""
    suffix = check_suffix(path)
    with atomic_path(path) as temporary:
        if suffix == ".npy":
            with temporary.open("wb") as file:
                np.save(file, array)
            return
        import pandas as pd

        frame = pd.DataFrame(dict(columns))
        if suffix == ".csv":
            frame.to_csv(temporary, index=False)
        else:
            frame.to_parquet(temporary, index=False)
