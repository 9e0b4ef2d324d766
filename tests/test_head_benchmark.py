from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

from avatar.head.model import HeadModel


@pytest.fixture
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("head_benchmark", Path(__file__).with_name("head.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_number_is_there_for_every_head(benchmark: ModuleType, generated_head: Callable[..., HeadModel]) -> None:
    threads = torch.get_num_threads()
    metrics = benchmark.run(True, {"open_head": generated_head(40), "flame": generated_head(50, correctives=False)})
    found = {metric["key"]: metric for metric in metrics}
    for head in ("open_head", "flame"):
        assert {f"head.{head}.fwd_ms", f"head.{head}.fwd_bwd_ms", f"head.{head}.x_torch"} <= set(found)
        assert found[f"head.{head}.x_torch"]["direction"] == "higher"
        assert found[f"head.{head}.fwd_ms"]["direction"] == "lower"
    assert all(metric["value"] > 0 for metric in metrics)
    assert torch.get_num_threads() == threads


def test_a_wrong_result_is_never_timed(benchmark: ModuleType) -> None:
    with pytest.raises(RuntimeError, match="differ by"):
        benchmark.same_result(torch.zeros(1, 2, 3), torch.full((1, 2, 3), 1e-3))
    with pytest.raises(RuntimeError, match="differ by nan"):
        benchmark.same_result(torch.zeros(1, 2, 3), torch.full((1, 2, 3), float("nan")))
