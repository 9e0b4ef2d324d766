"""Writes the README's speed table from measured numbers: python tests/benchmarks/table.py (after avatar bench --json).

One row per workload; its keys in the JSON differ only after the last dot ("ms", "fwd_ms", "x_torch"). The README shows
the workloads and quantities named here; the JSON has the rest.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from avatar.files import atomic_write

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "tests" / "benchmarks" / "results" / "cpu.json"
README = ROOT / "README.md"
BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"

WORKLOADS = {
    "raster.head_15k_256": "draw 15,000 Gaussians at 256 x 256, with gradients",
    "raster.head_15k_512": "draw 15,000 Gaussians at 512 x 512, with gradients",
    "raster.head_50k_512": "draw 50,000 Gaussians at 512 x 512, with gradients",
    "loss.l1_ssim_256": "L1 + SSIM loss at 256 x 256, with gradient",
    "loss.l1_ssim_512": "L1 + SSIM loss at 512 x 512, with gradient",
    "loss.l1_ssim_1024": "L1 + SSIM loss at 1024 x 1024, with gradient",
    "loss.adam_15k": "Adam step over 15,000 Gaussians",
    "bind.15k": "bind 15,000 Gaussians to a head, with gradients, one thread",
    "bind.50k": "bind 50,000 Gaussians to a head, with gradients, one thread",
    "head.open_head": "pose the open head, one thread",
    "head.flame": "pose a FLAME-sized head, one thread",
    "mesh.10k_512": "draw a mesh of 10,000 faces at 512 x 512",
}
QUANTITIES = {
    "ms": "",
    "fwd_ms": "forward ",
    "bwd_ms": "backward ",
    "fwd_bwd_ms": "forward + backward ",
    "batch2_ms": "side by side ",
    "scalar_ms": "scalar ",
    "avx2_ms": "AVX2 ",
    "avx512_ms": "AVX-512 ",
}
PEERS = {
    "x_scalar": "scalar C++, no tiles",
    "x_torch": "plain torch",
    "x_naive": "naive C++",
    "x_torch_fused": "torch's fused",
    "x_gsplat": "gsplat",
}


def number(value: float) -> str:
    """Three significant digits, without an exponent."""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def table(rows: list[dict[str, object]]) -> str:
    """Markdown table of the rows of a benchmark JSON that have names here, in the order of their names."""
    times: dict[str, list[str]] = {}
    ratios: dict[str, list[str]] = {}
    for row in rows:
        workload, _, quantity = str(row["key"]).rpartition(".")
        value = number(float(str(row["value"])))
        if quantity in PEERS:
            ratios.setdefault(workload, []).append(f"**{value}x** {PEERS[quantity]}")
        elif quantity in QUANTITIES:
            times.setdefault(workload, []).append(f"{QUANTITIES[quantity]}{value} {row['unit']}")
    lines = ["| what | ours | faster than |", "|---|---|---|"]
    for workload, text in WORKLOADS.items():
        if workload in times or workload in ratios:
            cells = (text, ", ".join(times.get(workload, [])), ", ".join(ratios.get(workload, [])))
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def with_table(readme: str, rows: list[dict[str, object]]) -> str:
    """The README's text with the block between the two marks replaced. ValueError where the marks are missing."""
    if readme.count(BEGIN) != 1 or readme.count(END) != 1:
        raise ValueError(f"the README must hold {BEGIN} and {END} once each")
    before, _, rest = readme.partition(BEGIN)
    return f"{before}{BEGIN}\n{table(rows)}\n{END}{rest.partition(END)[2]}"


def main() -> None:
    """Rewrite the README's table from the committed results."""
    rows = json.loads(RESULTS.read_text(encoding="utf-8"))
    atomic_write(README, with_table(README.read_text(encoding="utf-8"), rows))
    sys.stderr.write(f"{README.name}: table of {len(rows)} numbers written\n")


if __name__ == "__main__":
    main()
