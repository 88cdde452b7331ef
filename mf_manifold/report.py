"""The report of the demonstration: one HTML page with inlined pictures, and its table as CSV, Markdown and JSON."""

from __future__ import annotations

import base64
import csv
import html
import io
import json
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import geoopt
import torch

from . import __version__
from .checkpoint import atomic_path


@dataclass(frozen=True)
class Row:
    """One fit: the columns of the table."""

    data_set: str
    manifold: str
    estimator: str
    kernel: str
    components: int
    n_fit: int
    n_held_out: int
    log_likelihood: float
    standard_error: float
    measure: str
    total_mass: float
    total_mass_error: float
    total_mass_method: str
    fit_seconds: float
    picture: str
    model: str


@dataclass(frozen=True)
class Section:
    """One data set: where it comes from, what to know of it, and its fits."""

    title: str
    source: str
    units: str
    note: str
    notes: list[str]
    rows: list[Row]


COLUMNS: dict[str, Callable[[Row], str]] = {
    "data set": lambda row: row.data_set,
    "manifold": lambda row: row.manifold,
    "estimator": lambda row: row.estimator,
    "kernel": lambda row: row.kernel,
    "components": lambda row: str(row.components),
    "rows fitted / held out": lambda row: f"{row.n_fit} / {row.n_held_out}",
    "held-out log-likelihood (nats per datum)": lambda row: f"{row.log_likelihood:.3f} ± {row.standard_error:.3f}",
    "reference measure": lambda row: row.measure,
    "total mass (should be 1)": lambda row: f"{row.total_mass:.5f} ± {row.total_mass_error:.5f}",
    "seconds": lambda row: f"{row.fit_seconds:.1f}",
}

GLOSSARY = {
    "held-out log-likelihood": "The mean, over rows that the fit never saw, of the natural logarithm of the density. Higher is "
    "better; a difference of 0.1 nats means 10 % more density at a typical new datum. It may be positive, because a density is "
    "no probability. Numbers compare only within one data set and one reference measure.",
    "± after it": "One standard error of that mean over the held-out rows. Where rows come in groups (blocks of a trajectory, "
    "holds of a gesture), it is computed over groups, since rows of one group are no independent evidence. It does not include "
    "what another split or another seed of the fit would change.",
    "reference measure": "What the density is per unit of. Riemannian measure means: the area of the unit sphere (4π in total) "
    "for positions on the earth; radians for each torsion angle ((2π)² in total); for covariance matrices the affine-invariant "
    "volume, which does not change when the channels are rescaled or mixed by any invertible matrix.",
    "total mass": "The integral of the fitted density over its manifold, which must be 1. It is computed, not assumed: by "
    "adaptive quadrature over the whole sphere or torus (± estimates a bound of its error), or by importance sampling of "
    "covariance matrices (± is a standard error), whose sampler, density and Jacobian share no code with those under test. An "
    "anchored flow, which has the most components, is integrated by samples of the kernel density of the same data, a fifth of "
    "which are replaced by uniform ones.",
    "MarginalFlow": "A neural network draws the components of a mixture. Scores belong to one frozen draw, an exact density.",
    "AnchoredFlow": "Several components around every datum, whose widths and directions are learned from its neighbours; here "
    "with the same parameters for all data (``networks=0``).",
    "KernelDensity": "One component at every datum, whose scales maximise the leave-one-out likelihood: the rival that every "
    "learned density should beat.",
    "components": "Number of components of the frozen mixture that was scored, integrated, sampled and drawn.",
    "seconds": "Time of the fit on this machine. A fit that reaches its time limit stops with its best model so far, so slow "
    "machines score a little lower.",
}

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1, h2 { line-height: 1.2; } h2 { margin-top: 3rem; border-bottom: 1px solid #ccc; }
table { border-collapse: collapse; font-size: 0.85rem; } .wide { overflow-x: auto; }
th, td { border-bottom: 1px solid #ddd; padding: 0.4rem 0.7rem; text-align: left; vertical-align: top; }
td.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
img { max-width: 100%; margin: 1rem 0; } dt { font-weight: 600; margin-top: 0.6rem; } dd { margin-left: 1.2rem; }
.warning { background: #fff3cd; padding: 0.6rem 1rem; } footer { margin-top: 3rem; color: #666; font-size: 0.85rem; }
"""


def write_report(output: Path, sections: list[Section], *, seed: int, quick: bool, seconds: float) -> Path:
    """Write ``report.html`` and ``table.csv``, ``table.md``, ``table.json`` into ``output``, each whole or not at all.

    The pictures that the rows name must be there already; they are copied into the page.
    """
    rows = [row for section in sections for row in section.rows]
    facts = {
        "mf_manifold": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "geoopt": geoopt.__version__,
    }
    record = {
        "seed": seed,
        "quick": quick,
        "seconds": round(seconds, 1),
        "versions": facts,
        "rows": [asdict(row) for row in rows],
    }
    _write(output / "table.csv", _csv(rows))
    _write(output / "table.md", _markdown(rows))
    _write(output / "table.json", json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    about = ", ".join(f"{name} {version}" for name, version in facts.items())
    footer = f"Seed {seed}; {seconds:.0f} seconds in all; {torch.get_num_threads()} thread(s); {about}."
    return _write(output / "report.html", _page(output, sections, rows, footer, quick))


def _write(path: Path, text: str) -> Path:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def _csv(rows: list[Row]) -> str:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, [field.name for field in fields(Row)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    return stream.getvalue()


def _markdown(rows: list[Row]) -> str:
    lines = [list(COLUMNS), ["---"] * len(COLUMNS), *([cell(row) for cell in COLUMNS.values()] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _tag(name: str, content: str, attributes: str = "") -> str:
    return f"<{name}{attributes}>{content}</{name}>"


def _paragraphs(texts: list[str]) -> str:
    return "".join(_tag("p", html.escape(text)) for text in texts)


def _table(rows: list[Row]) -> str:
    head = _tag("tr", "".join(_tag("th", html.escape(name)) for name in COLUMNS))
    body = "".join(_tag("tr", "".join(_cell(cell(row)) for cell in COLUMNS.values())) for row in rows)
    return _tag("div", _tag("table", head + body), ' class="wide"')


def _cell(text: str) -> str:
    number = text.lstrip("-")[:1].isdigit()
    return _tag("td", html.escape(text), ' class="number"' if number else "")


def _image(path: Path, alt: str) -> str:
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    return f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{data}">'


def _section(output: Path, section: Section) -> str:
    origin = [f"Source: {section.source} Units: {section.units}. {section.note}"]
    pictures = "".join(_image(output / row.picture, f"{row.data_set}, {row.estimator}") for row in section.rows)
    return _tag("h2", html.escape(section.title)) + _paragraphs(origin + section.notes) + _table(section.rows) + pictures


def _page(output: Path, sections: list[Section], rows: list[Row], footer: str, quick: bool) -> str:
    """The page; everything it shows is inside it."""
    warning = "This was a quick run on a few hundred rows: it shows that everything works, its scores mean nothing."
    intro = (
        "Densities on a sphere, a torus and symmetric positive definite matrices, fitted to real data by this package and "
        "scored on data that the fits never saw. Every density is exact and normalised with respect to the stated measure."
    )
    terms = "".join(_tag("dt", html.escape(term)) + _tag("dd", html.escape(text)) for term, text in GLOSSARY.items())
    body = [
        _tag("h1", "mf-manifold: demonstration"),
        _tag("p", warning, ' class="warning"') if quick else "",
        _paragraphs([intro]),
        _table(rows),
        _tag("h2", "What the numbers mean"),
        _tag("dl", terms),
        *(_section(output, section) for section in sections),
        _tag("footer", html.escape(footer)),
    ]
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    head += _tag("title", "mf-manifold demonstration") + _tag("style", STYLE)
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>{"".join(body)}</body></html>\n'
