"""What a clone and a wheel hold."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import mf_manifold

ROOT = Path(__file__).parents[1]


def test_links_at_the_root_lead_into_the_package() -> None:
    for name in ("kernels", "manifolds"):
        link = ROOT / name
        assert link.is_symlink()
        assert link.resolve() == ROOT / "mf_manifold" / name
        assert (link / "__init__.py").is_file()


def test_wheel_holds_the_package_alone(tmp_path: Path) -> None:
    source = tmp_path / "source"
    keep = shutil.ignore_patterns(".*", "runs", "build", "dist", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, source, symlinks=True, ignore=keep)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"mf_manifold", f"mf_manifold-{mf_manifold.__version__}.dist-info"}
    for needed in ("py.typed", "data/alanine_dipeptide.npz", "kernels/__init__.py", "manifolds/torus.py", "cli/__init__.py"):
        assert f"mf_manifold/{needed}" in names


def test_every_public_name_exists() -> None:
    for name in mf_manifold.__all__:
        assert getattr(mf_manifold, name) is not None


def test_import_loads_no_torch() -> None:
    """The command line answers --help before torch is needed."""
    code = "import sys, mf_manifold; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
