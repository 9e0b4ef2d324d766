"""The suites' contract: the keys that others read, and that a wrong kernel is not timed."""

from __future__ import annotations

import pytest
import torch

from avatar.bench import Metric, bind, raster, runner
from avatar.ops.raster import project

KEYS = {
    "raster": [
        f"raster.head_{size}.{what}" for size in ("15k_256", "15k_512", "50k_512") for what in ("ms", "x_scalar")
    ],
    "loss": ["loss.l1_ssim_256.ms", "loss.l1_ssim_256.x_torch"],
    "head": ["head.open_head.fwd_ms", "head.open_head.fwd_bwd_ms", "head.open_head.x_torch"],
    "mesh": ["mesh.10k_512.ms", "mesh.10k_512.x_naive"],
    "bind": ["bind.15k.ms", "bind.15k.x_torch"],
}


def test_every_suite_of_the_contract_is_there():
    assert set(KEYS) <= set(runner.built_suites())


def test_the_committed_results_have_the_keys_of_the_contract():
    import json

    rows = json.loads((runner.checkout() / "tests" / "benchmarks" / "results" / "cpu.json").read_text())
    found = {row["key"]: row for row in rows}
    for keys in KEYS.values():
        for key in keys:
            assert key in found, key
            assert set(found[key]) == {"key", "value", "unit", "direction"}


def test_the_baseline_of_every_instruction_set_covers_every_suite():
    folder = runner.checkout() / "tests" / "benchmarks" / "baseline"
    for isa in ("scalar", "avx2", "avx512"):
        baseline = runner.read_baseline(folder / f"cpu-{isa}.json")
        assert {key.split(".")[0] for key in baseline} >= set(KEYS)


def test_the_scene_fills_the_picture_as_the_contract_says():
    (means, quats, scales, opacities, _), viewmats, Ks = raster.head_scene(15_000, 256)
    splats = project(means, quats, scales, opacities, viewmats, Ks, 256, 256)
    seen = splats.means2d[splats.radii[..., 0] > 0]
    tall = float(seen[:, 1].max() - seen[:, 1].min()) / 256
    assert 0.88 < tall < 1.0
    assert float(scales[..., 0].min()) >= 0.01 * 2 and float(scales[..., 0].max()) <= 0.015 * 2


def test_the_rasteriser_is_checked_before_it_is_timed(monkeypatch):
    work = raster.Workload(300, 64)
    raster.check(work)
    monkeypatch.setattr(raster, "blend", lambda *a: (torch.zeros(1, 3, 64, 64, requires_grad=True) * 1, None))
    with pytest.raises(RuntimeError, match="differs from the reference"):
        raster.check(work)


def test_reference_and_ours_leave_the_same_gradients():
    work = raster.Workload(500, 64)
    work.step()
    ours = [p.grad.clone() for p in work.parameters]
    work.reference_step()
    for a, p in zip(ours, work.parameters, strict=True):
        assert (a - p.grad).norm() < 0.05 * p.grad.norm()  # its boxes end at three sigmas


def test_binding_is_measured_at_three_sizes(monkeypatch):
    monkeypatch.setattr(bind, "COUNTS", {"a": 50, "b": 100})
    metrics = bind.run(True)
    assert [m.key for m in metrics] == ["bind.a.ms", "bind.a.x_torch", "bind.b.ms", "bind.b.x_torch"]
    assert all(isinstance(m, Metric) and m.value > 0 for m in metrics)
