"""The page of all kernels is what the registry says."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from mf_manifold.kernel import Kernel, kernel_families

ROOT = Path(__file__).resolve().parent.parent
EXACTNESS = {"closed form", "series", "quadrature", "numeric normaliser", "approximate"}
COMPOSITES = {"product", "scaled", "stereographic"}


@pytest.fixture(scope="module")
def catalogue() -> ModuleType:
    spec = importlib.util.spec_from_file_location("kernel_catalogue", ROOT / "scripts" / "kernel_catalogue.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_page_is_up_to_date(catalogue: ModuleType) -> None:
    assert catalogue.PAGE.read_text() == catalogue.page(), "run python scripts/kernel_catalogue.py"


FAMILIES = sorted({cls for _, cls, _ in kernel_families() if cls.name not in COMPOSITES}, key=lambda cls: cls.__name__)


@pytest.mark.parametrize("cls", FAMILIES, ids=lambda cls: cls.__name__)
def test_docstring_says_everything(cls: type[Kernel]) -> None:
    text = re.sub(r"\s+", " ", cls.__doc__ or "")
    wanted = (".. math::", "**Measure**: ", "**Exactness**: ", "**Range**: ", "**Mean**: ", "**Sampler**: ", "Shapes: ")
    missing = [part for part in (*wanted, "Raises:", "References:", ">>> ") if part not in text]
    assert not missing
    assert cls.exactness in EXACTNESS


def test_readme_names_every_kernel() -> None:
    table = (ROOT / "README.md").read_text()
    assert not {cls.name for _, cls, _ in kernel_families() if f"`{cls.name}`" not in table} - {"stereographic"}


def test_nothing_approximate_is_a_default() -> None:
    assert not [cls.name for _, cls, default in kernel_families() if default and cls.exactness == "approximate"]


MARKDOWN = {
    ".. math:: a\n          b\n\nrest": "$$\na\nb\n$$\n\nrest\n",
    "A :math:`x` of ``y``, (*B,D).": "A $x$ of `y`, `(*B,D)`.\n",
    "Raises:\n    ValueError: no\n        x.\n    TypeError: no.": "**Raises**:\n\n- ValueError: no x.\n- TypeError: no.\n",
    "One.\n\n>>> 1\n1": "One.\n\n```pycon\n>>> 1\n1\n```\n",
}


@pytest.mark.parametrize(("docstring", "markdown"), MARKDOWN.items(), ids=["math", "inline", "raises", "examples"])
def test_docstrings_become_markdown(catalogue: ModuleType, docstring: str, markdown: str) -> None:
    assert catalogue.to_markdown(docstring) == markdown
