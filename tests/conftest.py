"""Options and fixtures of all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run tests marked slow")
    parser.addoption("--device", default="cpu", help="device of the tests marked gpu, such as cuda (skipped on cpu)")


def pytest_configure(config: pytest.Config) -> None:
    if "PYTEST_XDIST_WORKER" in os.environ:
        torch.set_num_threads(1)  # the workers share the cores already


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    reasons = {
        "slow": None if config.getoption("--slow") else "slow: run with --slow",
        "gpu": None if config.getoption("--device") != "cpu" else "needs an accelerator: run with --device cuda",
    }
    for item in items:
        for mark, reason in reasons.items():
            if reason and mark in item.keywords:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture
def device(request: pytest.FixtureRequest) -> str:
    """The device named by ``--device``."""
    return str(request.config.getoption("--device"))


@pytest.fixture(autouse=True)
def process_state() -> Iterator[None]:
    """Every test starts from one seed, and none may leave another default dtype or device behind."""
    torch.manual_seed(0)
    yield
    assert torch.get_default_dtype() == torch.float32
    assert torch.get_default_device() == torch.device("cpu")
