"""Writing pictures as an H.264 video through PyAV; no ffmpeg program is needed."""

from __future__ import annotations

import os
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
from torch import Tensor


def to_bytes(image: Tensor) -> Tensor:
    """A picture 0..1 as 8-bit values, rounded. [..., 3] -> [..., 3] uint8"""
    return (image.detach().clamp(0, 1) * 255 + 0.5).byte()


def write_video(path: Path, frames: Iterable[Tensor], fps: float, quality: int = 20) -> int:
    """Write sRGB pictures [H, W, 3], 0..1, of one even size as H.264 in mp4; returns how many were written.

    `quality` is x264's constant rate factor, lower is better. The file appears under its name only when it is complete.
    Raises ValueError for an odd or changing size or no frames.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".part")
    count, size = 0, (0, 0)
    try:
        with av.open(str(unfinished), "w", format="mp4", options={"movflags": "+faststart"}) as container:
            stream = None
            for frame in frames:
                height, width = frame.shape[:2]
                if stream is None:
                    if width % 2 or height % 2:
                        raise ValueError(f"write_video: width and height must be even, got {width} x {height}")
                    size = (width, height)
                    stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
                    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
                    stream.options = {"crf": str(quality), "preset": "veryfast"}
                if (width, height) != size:
                    raise ValueError(
                        f"write_video: frame {count} is {width} x {height}, the first was {size[0]} x {size[1]}"
                    )
                picture = av.VideoFrame.from_ndarray(to_bytes(frame).contiguous().numpy(), format="rgb24")
                container.mux(stream.encode(picture))
                count += 1
            if stream is None:
                raise ValueError("write_video: there are no frames to write")
            container.mux(stream.encode())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    return count
