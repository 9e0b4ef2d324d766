from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from avatar.bench import head
from avatar.head.model import HeadModel


def test_every_number_is_there_for_every_head(generated_head: Callable[..., HeadModel]) -> None:
    threads = torch.get_num_threads()
    metrics = head.run_heads(True, {"open_head": generated_head(40), "flame": generated_head(50, correctives=False)})
    found = {metric["key"]: metric for metric in metrics}
    for name in ("open_head", "flame"):
        assert {f"head.{name}.fwd_ms", f"head.{name}.fwd_bwd_ms", f"head.{name}.x_torch"} <= set(found)
        assert found[f"head.{name}.x_torch"]["direction"] == "higher"
        assert found[f"head.{name}.fwd_ms"]["direction"] == "lower"
    assert all(metric["value"] > 0 for metric in metrics)
    assert torch.get_num_threads() == threads


def test_a_wrong_result_is_never_timed() -> None:
    with pytest.raises(RuntimeError, match="differ by"):
        head.same_result(torch.zeros(1, 2, 3), torch.full((1, 2, 3), 1e-3))
    with pytest.raises(RuntimeError, match="differ by nan"):
        head.same_result(torch.zeros(1, 2, 3), torch.full((1, 2, 3), float("nan")))
