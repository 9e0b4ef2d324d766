"""Gaussians to pictures: one function, and the one place that chooses a backend."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from avatar.checks import check_shapes
from avatar.types import Camera, Gaussians, Rendering

Backend = Literal["auto", "cpu", "torch", "gsplat", "cuda"]


def available_backends() -> dict[str, str]:
    """Backends that can run here, and for the others why not: {name: "ok" or a sentence}."""
    from importlib.util import find_spec

    gpu = torch.cuda.is_available()
    found = {"cpu": "ok", "torch": "ok"}
    if not gpu:
        found["gsplat"] = "needs a CUDA GPU, none is visible to torch"
    else:
        found["gsplat"] = "ok" if find_spec("gsplat") else "not installed: pip install 'avatar-engine[gpu]'"
    found["cuda"] = "this version has no CUDA kernels of its own yet; use gsplat on a GPU"
    return found


def choose_backend(backend: Backend, device: torch.device) -> str:
    """The backend that will run for tensors on `device`. "auto" takes the fastest one there.

    Raises RuntimeError naming what is missing and the way out when a backend is asked for that cannot run.
    """
    if backend == "auto":
        if device.type == "cpu":
            return "cpu"
        backend = "gsplat"
    reasons = available_backends()
    if backend not in reasons:
        raise ValueError(f"render: backend must be one of auto, {', '.join(reasons)}, got {backend!r}")
    if reasons[backend] != "ok":
        raise RuntimeError(f"render: backend {backend!r} cannot run here: {reasons[backend]}")
    if backend == "cpu" and device.type != "cpu":
        raise RuntimeError(
            f"render: backend 'cpu' draws tensors on the CPU, these are on {device}; move them or use gsplat"
        )
    if backend == "gsplat" and device.type != "cuda":
        raise RuntimeError(
            f"render: backend 'gsplat' draws tensors on a GPU, these are on {device}; move them or use cpu"
        )
    return backend


def render(
    gaussians: Gaussians,
    camera: Camera,
    background: Tensor | None = None,
    *,
    extra: Tensor | None = None,
    depth: bool = False,
    antialiased: bool = False,
    backend: Backend = "auto",
    near: float = 0.01,
    far: float = 1e10,
) -> Rendering:
    """Draw Gaussians into cameras. A picture depends on these arguments and nothing else.

    gaussians: B sets; camera: C cameras, B = C (frame by frame) or B = 1 (one moment seen by all).
    background: [3] or [C, 3] colour, 0..1; None is black. extra: [B, N, D] further channels to blend (branch weights,
    labels), returned in `Rendering.extra`. depth: also blend camera depth. antialiased: dim splats thinner than a pixel
    (Mip-Splatting's compensation). near, far: metres. Differentiable in every Gaussian value, extra, the background and
    the camera's viewmats. Frames of a batch are drawn side by side on the processor's cores.
    Raises ValueError for shapes that do not fit, RuntimeError for values that are not finite or a missing backend.
    """
    B, C = gaussians.means.shape[0], len(camera)
    if B not in (1, C):
        raise ValueError(f"render: one set of Gaussians per camera, or one for all; got {B} sets for {C} cameras")
    if camera.distortion is not None and bool(camera.distortion.any()):
        raise ValueError("render: the camera has lens distortion; undistort the pictures and pass distortion=None")
    check_shapes("render", means=(gaussians.means, "B N 3"), extra=(extra, "B N D"))
    if background is not None:
        if background.dim() == 1:
            background = background.expand(C, -1)
        check_shapes("render", camera=(camera.viewmats, "C 4 4"), background=(background, "C 3"))
    chosen = choose_backend(backend, gaussians.means.device)
    if chosen == "cpu":
        from avatar.render.backend_cpu import rasterize
    elif chosen == "torch":
        from avatar.render.backend_torch import rasterize
    else:
        from avatar.render.backend_gsplat import rasterize
    return rasterize(gaussians, camera, background, extra, depth, antialiased, near, far)
