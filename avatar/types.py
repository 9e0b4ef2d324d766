"""The values that flow through the engine: frozen records of tensors, checked where they are born.

Axes: the head's +Y is up, +Z forward, +X the subject's left. Cameras are OpenCV (x right, y down, z forward).
Lengths are metres, angles radians, times seconds, pictures 0..1 sRGB, quaternions (w, x, y, z).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from avatar.checks import check_float, check_shapes, shape_text

R = TypeVar("R", bound="Record")


class Record:
    """Behaviour shared by all types here: a repr that prints shapes, and moving every tensor at once."""

    def __repr__(self) -> str:
        parts = []
        for f in fields(self):  # type: ignore[arg-type]
            value = getattr(self, f.name)
            parts.append(f"{f.name}={shape_text(value) if isinstance(value, Tensor) else repr(value)}")
        return f"{type(self).__name__}({', '.join(parts)})"

    def to(self: R, *args: Any, **kwargs: Any) -> R:
        """The same record with every floating tensor moved as `Tensor.to` does."""
        changed = {}
        for f in fields(self):  # type: ignore[arg-type]
            value = getattr(self, f.name)
            if isinstance(value, Record) or (isinstance(value, Tensor) and value.is_floating_point()):
                changed[f.name] = value.to(*args, **kwargs)
        return replace(self, **changed)  # type: ignore[type-var]


@dataclass(frozen=True, repr=False)
class Camera(Record):
    """One or several pinhole cameras of one picture size."""

    viewmats: Tensor
    """World to camera, OpenCV axes, metres. [C, 4, 4]"""
    Ks: Tensor
    """Intrinsics, pixels; pixel centres lie at +0.5. [C, 3, 3]"""
    width: int
    """Picture width, pixels."""
    height: int
    """Picture height, pixels."""
    distortion: Tensor | None = None
    """Brown radial-tangential coefficients (k1, k2, p1, p2, k3); None means none. [C, 5]"""

    def __post_init__(self) -> None:
        check_shapes(
            "Camera", viewmats=(self.viewmats, "C 4 4"), Ks=(self.Ks, "C 3 3"), distortion=(self.distortion, "C 5")
        )
        check_float("Camera", viewmats=self.viewmats, Ks=self.Ks, distortion=self.distortion)
        if self.width < 1 or self.height < 1:
            raise ValueError(f"Camera: width and height must be at least 1 pixel, got {self.width} x {self.height}")

    def __len__(self) -> int:
        return self.viewmats.shape[0]

    @property
    def positions(self) -> Tensor:
        """Camera centres, metres, world frame. [C, 3]"""
        rotation, translation = self.viewmats[:, :3, :3], self.viewmats[:, :3, 3]
        return -(rotation.transpose(1, 2) @ translation[..., None])[..., 0]


@dataclass(frozen=True, repr=False)
class HeadPose(Record):
    """Everything that moves a head, for a batch of moments. Identity is not part of it."""

    expr: Tensor
    """Expression coefficients of the head model. [B, E]"""
    jaw: Tensor
    """Jaw rotation relative to the head, axis-angle radians. [B, 3]"""
    neck: Tensor
    """Head rotation relative to the chest, axis-angle radians. [B, 3]"""
    eyes: Tensor
    """Left then right eyeball rotation, axis-angle radians. [B, 6]"""
    eyelids: Tensor
    """Closing of the left and right lid, 0 open .. 1 closed. [B, 2]"""
    rotation: Tensor
    """Rotation of the whole model about its root joint, axis-angle radians, world frame. [B, 3]"""
    translation: Tensor
    """Translation of the whole model, metres, world frame. [B, 3]"""

    def __post_init__(self) -> None:
        check_shapes(
            "HeadPose",
            expr=(self.expr, "B E"),
            jaw=(self.jaw, "B 3"),
            neck=(self.neck, "B 3"),
            eyes=(self.eyes, "B 6"),
            eyelids=(self.eyelids, "B 2"),
            rotation=(self.rotation, "B 3"),
            translation=(self.translation, "B 3"),
        )

    def __len__(self) -> int:
        return self.expr.shape[0]

    def __getitem__(self, index: slice | Tensor | Sequence[int]) -> HeadPose:
        """Some of the moments, in the given order."""
        return HeadPose(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    @staticmethod
    def rest(expressions: int, batch: int = 1, device: torch.device | str | None = None) -> HeadPose:
        """The neutral face, looking ahead, at the origin: all zeros. `expressions` is E, `batch` is B."""
        sizes = {"expr": expressions, "jaw": 3, "neck": 3, "eyes": 6, "eyelids": 2, "rotation": 3, "translation": 3}
        return HeadPose(**{name: torch.zeros(batch, size, device=device) for name, size in sizes.items()})


@dataclass(frozen=True, repr=False)
class MeshState(Record):
    """A head posed for a batch of moments."""

    verts: Tensor
    """Posed vertices, metres, world frame. [B, V, 3]"""
    transforms: Tensor | None = None
    """Rest to posed transform of every joint, rotation and translation, metres. [B, J, 3, 4]"""

    def __post_init__(self) -> None:
        check_shapes("MeshState", verts=(self.verts, "B V 3"), transforms=(self.transforms, "B J 3 4"))


@dataclass(frozen=True, repr=False)
class Gaussians(Record):
    """Activated Gaussians in the world frame, ready to draw."""

    means: Tensor
    """Centres, metres. [B, N, 3]"""
    quats: Tensor
    """Rotations (w, x, y, z); normalised by the renderer. [B, N, 4]"""
    scales: Tensor
    """Standard deviations along the three own axes, metres. [B, N, 3]"""
    opacities: Tensor
    """Peak opacity, 0..1. [B, N]"""
    sh: Tensor
    """Colour as spherical harmonics in the world frame, K = (degree + 1)^2; rgb = 0.5 + sum. [B, N, K, 3]"""

    def __post_init__(self) -> None:
        check_shapes(
            "Gaussians",
            means=(self.means, "B N 3"),
            quats=(self.quats, "B N 4"),
            scales=(self.scales, "B N 3"),
            opacities=(self.opacities, "B N"),
            sh=(self.sh, "B N K 3"),
        )

    def __len__(self) -> int:
        return self.means.shape[1]


@dataclass(frozen=True, repr=False)
class Rendering(Record):
    """What one render call returns."""

    rgb: Tensor
    """Colour over the background. [C, H, W, 3]"""
    alpha: Tensor
    """Coverage, 0..1. [C, H, W]"""
    depth: Tensor | None = None
    """Expected camera depth, metres, weighted by coverage and not divided by alpha. [C, H, W]"""
    extra: Tensor | None = None
    """Further per-Gaussian channels blended like colour, without background. [C, H, W, D]"""
    means2d: Tensor | None = None
    """Projected centres, pixels; its gradient steers densification. [C, N, 2]"""
    radii: Tensor | None = None
    """Half extents of each splat's box, pixels; 0 where it was not drawn. [C, N, 2]"""


@dataclass(frozen=True, repr=False)
class Frame(Record):
    """One picture of a scene with what is known about it."""

    image: Tensor
    """The picture, sRGB 0..1. [H, W, 3]"""
    camera: Camera
    """The camera that took it (C = 1)."""
    index: int
    """Position in the scene."""
    time: float
    """Seconds since the scene began."""
    alpha: Tensor | None = None
    """Foreground coverage, 0..1. [H, W]"""
    regions: Tensor | None = None
    """Region label of every pixel. [H, W] uint8"""
    pose: HeadPose | None = None
    """The head at that moment (B = 1); None where not tracked."""

    def __post_init__(self) -> None:
        check_shapes("Frame", image=(self.image, "H W 3"), alpha=(self.alpha, "H W"), regions=(self.regions, "H W"))


@runtime_checkable
class Scene(Protocol):
    """Calibrated or tracked frames of one person. Frames are decoded when asked for, within a byte budget."""

    fps: float
    """Frames per second of the capture."""
    head_model: str
    """Identifier of the head model the coefficients belong to."""
    head_sha256: str
    """Hash of that model's source."""
    identity: Tensor
    """Identity coefficients. [S]"""
    audio: AudioClip | None
    """The sound of the capture."""
    train: Sequence[int]
    """Frame indices to fit on."""
    val: Sequence[int]
    """Frame indices from held-out cameras."""
    test: Sequence[int]
    """Frame indices from held-out times."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Frame: ...


@dataclass(frozen=True, repr=False)
class AudioClip(Record):
    """Mono sound."""

    samples: Tensor
    """Amplitude, -1..1. [T]"""
    sample_rate: int
    """Samples per second, Hz."""

    def __post_init__(self) -> None:
        check_shapes("AudioClip", samples=(self.samples, "T"))


@dataclass(frozen=True, repr=False)
class AudioFeatures(Record):
    """Features of a clip at an even rate."""

    values: Tensor
    """One row per feature frame. [T, F]"""
    fps: float
    """Rows per second, Hz."""

    def __post_init__(self) -> None:
        check_shapes("AudioFeatures", values=(self.values, "T F"))


@dataclass(frozen=True, repr=False)
class Motion(Record):
    """A head moving: poses at an even rate, for the head model they belong to."""

    pose: HeadPose
    """The pose of every frame (B = T)."""
    fps: float
    """Frames per second."""
    model_id: str
    """Head model the coefficients belong to; another model refuses them."""
    code: Tensor | None = None
    """Residual audio code for the avatar's deformation. [T, D]"""

    def __len__(self) -> int:
        return len(self.pose)


@dataclass(frozen=True)
class Step:
    """What fitting yields after every optimisation step."""

    index: int
    """Steps done so far."""
    losses: Mapping[str, float] = field(default_factory=dict)
    """Weighted loss terms by name."""
    rendering: Rendering | None = None
    """The pictures of this step."""
    avatar: Any = None
    """The avatar being fitted; live, not a copy."""
