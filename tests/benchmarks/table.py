"""Writes the README's speed table from measured numbers: python tests/benchmarks/table.py (after avatar bench --json).

One row per workload; its keys in the JSON differ only after the last dot ("ms", "fwd_ms", "x_torch").
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
    "head.open_head": "pose the open head",
    "mesh.10k_512": "draw a mesh of 10,000 faces at 512 x 512",
    "train.adam_15k": "Adam step over 15,000 Gaussians",
    "train.adam_50k": "Adam step over 50,000 Gaussians",
}
QUANTITIES = {
    "ms": "",
    "fwd_ms": "forward ",
    "bwd_ms": "backward ",
    "fwd_bwd_ms": "forward + backward ",
    "batch2_ms": "in pairs ",
    "scalar_ms": "scalar ",
    "avx2_ms": "AVX2 ",
    "avx512_ms": "AVX-512 ",
}
PEERS = {
    "x_scalar": "scalar C++, no tiles",
    "x_torch": "plain torch",
    "x_naive": "naive C++",
    "x_gsplat": "gsplat",
}


def number(value: float) -> str:
    """Three significant digits, without an exponent."""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def table(rows: list[dict[str, object]]) -> str:
    """Markdown table of the rows of a benchmark JSON, workloads in the order of first appearance."""
    times: dict[str, list[str]] = {}
    ratios: dict[str, list[str]] = {}
    for row in rows:
        workload, _, quantity = str(row["key"]).rpartition(".")
        value = number(float(str(row["value"])))
        times.setdefault(workload, [])
        ratios.setdefault(workload, [])
        if quantity.startswith("x_"):
            ratios[workload].append(f"**{value}x** {PEERS.get(quantity, quantity.removeprefix('x_'))}")
        else:
            times[workload].append(f"{QUANTITIES.get(quantity, quantity + ' ')}{value} {row['unit']}")
    lines = ["| what | ours | faster than |", "|---|---|---|"]
    for workload in times:
        cells = (WORKLOADS.get(workload, f"`{workload}`"), ", ".join(times[workload]), ", ".join(ratios[workload]))
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
