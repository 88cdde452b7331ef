"""Checkpoints: atomic, never code, and one sentence for every way a file can be wrong."""

from __future__ import annotations

import json
from pathlib import Path

import geoopt
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import mf_manifold as mf
from mf_manifold import checkpoint

FILE = checkpoint.FILE_NAME


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    x = mf.geometry.sample_uniform(geoopt.Sphere(), (3,), (60,), generator=torch.Generator().manual_seed(0))
    mf.KernelDensity(geoopt.Sphere(), (3,)).fit(x, progress=False).save(tmp_path / "model")
    return tmp_path / "model"


def rewrite(folder: Path, **changes: object) -> None:
    with checkpoint.safetensors.safe_open(folder / FILE, framework="pt") as file:
        header = json.loads(file.metadata()["mf_manifold"])
    header.update(changes)
    save_file(load_file(folder / FILE), folder / FILE, metadata={"mf_manifold": json.dumps(header)})


def test_existing_checkpoint_is_not_overwritten(saved: Path) -> None:
    before = (saved / FILE).read_bytes()
    model = mf.load(saved)
    with pytest.raises(FileExistsError, match="overwrite=True"):
        model.save(saved)
    assert (saved / FILE).read_bytes() == before
    model.save(saved, overwrite=True)


def test_failed_write_leaves_the_old_file_and_no_debris(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, model = (saved / FILE).read_bytes(), mf.load(saved)

    def fail(*args: object, **options: object) -> None:
        Path(str(args[1])).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(checkpoint, "save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        model.save(saved, overwrite=True)
    assert (saved / FILE).read_bytes() == before
    assert [p.name for p in saved.iterdir()] == [FILE]


@pytest.mark.parametrize("keep", [0, 5, 100, -10])
def test_truncated(saved: Path, keep: int) -> None:
    content = (saved / FILE).read_bytes()
    (saved / FILE).write_bytes(content[:keep])
    with pytest.raises(ValueError, match="truncated, corrupted"):
        mf.load(saved)


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="found none"):
        mf.load(tmp_path / "nowhere")


def test_newer_format(saved: Path) -> None:
    rewrite(saved, format=checkpoint.FORMAT + 1)
    with pytest.raises(ValueError, match="Upgrade mf-manifold"):
        mf.load(saved)


def test_unknown_class_and_manifold(saved: Path) -> None:
    rewrite(saved, **{"class": "os.system"})
    with pytest.raises(ValueError, match=r"got 'os.system'"):
        mf.load(saved)
    rewrite(saved, **{"class": "KernelDensity", "config": {"manifold": {"type": "Nowhere"}}})
    with pytest.raises(ValueError, match=r"'Nowhere'|parts do not fit"):
        mf.load(saved)


@pytest.mark.parametrize("header", ["[]", "null", '{"format": 1, "class": []}', "7"])
def test_damaged_header(saved: Path, header: str) -> None:
    save_file(load_file(saved / FILE), saved / FILE, metadata={"mf_manifold": header})
    with pytest.raises(ValueError, match="Expected a checkpoint"):
        mf.load(saved)


@pytest.mark.parametrize("change", ["short", "nan", "shape"])
def test_tensors_that_are_no_density(saved: Path, change: str) -> None:
    with checkpoint.safetensors.safe_open(saved / FILE, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(saved / FILE)
    damaged = {"short": {"scales": tensors["scales"][:3]}, "nan": {"points": tensors["points"] * float("nan")}}
    damaged["shape"] = {"points": torch.ones(60, 7)}
    save_file({**tensors, **damaged[change]}, saved / FILE, metadata=metadata)
    with pytest.raises(ValueError, match="Expected"):
        mf.load(saved)


def test_file_of_another_program(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2)}, tmp_path / FILE)
    with pytest.raises(ValueError, match="of another program"):
        mf.load(tmp_path)


def test_wrong_tensors_in_a_flow(tmp_path: Path) -> None:
    flow = mf.MarginalFlow(geoopt.Sphere(), (3,), hidden=(8,), n_frequencies=4)
    flow.save(tmp_path)
    with checkpoint.safetensors.safe_open(tmp_path / FILE, framework="pt") as file:
        metadata = file.metadata()
    save_file({"network.0.frequencies": torch.zeros(1, 1)}, tmp_path / FILE, metadata=metadata)
    with pytest.raises(ValueError, match="do not fit"):
        mf.load(tmp_path)


@pytest.mark.parametrize(
    "manifold",
    [
        geoopt.Sphere(),
        mf.manifolds.Torus(),
        geoopt.SymmetricPositiveDefinite(),
        geoopt.Euclidean(ndim=2),
        geoopt.Scaled(geoopt.Sphere(), 2.5),
        geoopt.ProductManifold((geoopt.Sphere(), 3), (geoopt.SymmetricPositiveDefinite(), (2, 2))),
    ],
    ids=lambda m: m.name,
)
def test_manifold_descriptions_round_trip(manifold: geoopt.Manifold) -> None:
    config = json.loads(json.dumps(mf.geometry.to_config(manifold)))
    assert mf.geometry.same_manifold(mf.manifolds.from_config(config), manifold)


def test_numbers_that_are_none(tmp_path: Path) -> None:
    """Weights of a network that are NaN fit in every shape, and would make every density NaN."""
    mf.MarginalFlow(geoopt.Sphere(), (3,), n_components=4, hidden=(4,)).save(tmp_path)
    tensors = load_file(tmp_path / FILE)
    tensors["network.1.bias"][0] = torch.nan
    with safe_open(tmp_path / FILE, framework="pt") as file:
        header = file.metadata()
    save_file(tensors, tmp_path / FILE, metadata=header)
    with pytest.raises(ValueError, match=r"got NaN in network\.1\.bias"):
        mf.load(tmp_path)
