"""The documentation holds: its code runs, prints what it says, and names only files, links and tests that exist.

``python tests/test_docs.py docs/quickstart.md`` runs the blocks of one document in the current folder.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [path for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))) if path.exists()]
BLOCK = re.compile(
    r"^```python(?P<flags>[^\n]*)\n(?P<code>.*?)^```\n(?:\n?```text output\n(?P<output>.*?)^```\n)?", re.MULTILINE | re.DOTALL
)
LINK = re.compile(r"\]\((?!https?:|#)(?P<target>[^)#\s]+)")
NAMED_TEST = re.compile(r"(?P<file>tests/\w+\.py)(?:::(?P<test>\w+))?")
NAMED_FILE = re.compile(r"`(?P<file>(?:mf_manifold|benchmarks|scripts|docs|tests)/[\w/.-]*)`")


def blocks(document: Path) -> list[re.Match[str]]:
    return [block for block in BLOCK.finditer(document.read_text()) if block["flags"].strip() != "no-run"]


def run(document: Path) -> None:
    """Execute the python blocks one after the other in one namespace, and compare output where it is shown."""
    names: dict[str, Any] = {"__name__": "documentation"}
    for block in blocks(document):
        line = block.string.count("\n", 0, block.start("code"))
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile("\n" * line + block["code"], str(document), "exec"), names)
        expected = block["output"]
        if expected is not None and printed.getvalue() != expected:
            raise SystemExit(f"{document}:{line + 1}: expected\n{expected}got\n{printed.getvalue()}")


def run_apart(document: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """A process of its own: what a document registers must not reach the other tests."""
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
    command = [sys.executable, "-W", "ignore", __file__, str(document)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("document", [d for d in DOCUMENTS if blocks(d)], ids=lambda d: d.name)
def test_python_blocks_run(document: Path, tmp_path: Path) -> None:
    done = run_apart(document, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


WRONG = {
    "```python\n1 / 0\n```\n": "ZeroDivisionError",
    "```python\nprint(2)\n```\n\n```text output\n3\n```\n": "wrong.md:2: expected\n3\ngot\n2",
    "```python\nx = 1\n```\n```python no-run\ny = 2\n```\n```python\nx + y\n```\n": "line 8.*NameError: name 'y'",
}


@pytest.mark.parametrize(("text", "message"), WRONG.items(), ids=["error", "output", "not run"])
def test_wrong_documents_are_caught(text: str, message: str, tmp_path: Path) -> None:
    document = tmp_path / "wrong.md"
    document.write_text(text)
    done = run_apart(document, tmp_path)
    assert done.returncode != 0
    assert re.search(message, done.stderr, re.DOTALL)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: d.name)
def test_links_files_and_tests_exist(document: Path) -> None:
    text = document.read_text()
    missing = [link["target"] for link in LINK.finditer(text) if not (document.parent / link["target"]).exists()]
    missing += [named["file"] for named in NAMED_FILE.finditer(text) if not (ROOT / named["file"]).exists()]
    for named in NAMED_TEST.finditer(text):
        file = ROOT / named["file"]
        if not file.exists() or (named["test"] and f"def {named['test']}(" not in file.read_text()):
            missing.append(named[0])
    assert not missing


if __name__ == "__main__":
    run(Path(sys.argv[1]))
