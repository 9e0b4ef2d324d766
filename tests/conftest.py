"""Fixtures for every test."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest

from avatar.head.model import HeadModel


@pytest.fixture(scope="session")
def generated_head() -> Callable[..., HeadModel]:
    """Builder of random valid heads; see tests/head/generated.py for its arguments."""
    spec = importlib.util.spec_from_file_location("generated", Path(__file__).parent / "head" / "generated.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    builder: Callable[..., HeadModel] = module.generated_head
    return builder
