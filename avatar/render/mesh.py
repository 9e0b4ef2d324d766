"""Meshes to pictures: visibility, values on the visible surface, a preview shader, and the same in texture space."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from avatar.checks import check_shapes
from avatar.ops import mesh as ops
from avatar.types import Camera, Record, Rendering

Backend = Literal["cpu", "pytorch3d"]

CLAY = (0.80, 0.72, 0.66)
"""Colour of a mesh that has none, sRGB."""


@dataclass(frozen=True, repr=False)
class MeshRaster(Record):
    """What every pixel of C pictures sees of one mesh."""

    face_ids: Tensor
    """Visible face, -1 for background. [C, H, W] int32"""
    bary: Tensor
    """Perspective-correct weights of that face's corners, 0 on background. [C, H, W, 3]"""
    depth: Tensor
    """Camera z of the visible point, metres, 0 on background. [C, H, W]"""
    coverage: Tensor
    """Share of the pixel that the mesh covers, antialiased, 0..1. [C, H, W]"""

    def __post_init__(self) -> None:
        check_shapes(
            "MeshRaster",
            face_ids=(self.face_ids, "C H W"),
            bary=(self.bary, "C H W 3"),
            depth=(self.depth, "C H W"),
            coverage=(self.coverage, "C H W"),
        )

    @property
    def mask(self) -> Tensor:
        """Pixels whose centre sees the mesh. [C, H, W] bool"""
        return self.face_ids >= 0


@dataclass(frozen=True, repr=False)
class Texture(Record):
    """A picture wrapped around a mesh."""

    image: Tensor
    """Colours, sRGB 0..1; row 0 is the top, v = 1. [H, W, 3]"""
    uvs: Tensor
    """Texture coordinates, 0..1, origin at the bottom left. [U, 2]"""
    faces_uv: Tensor
    """Triangles into `uvs`, one per face of the mesh. [F, 3] int64"""

    def __post_init__(self) -> None:
        check_shapes("Texture", image=(self.image, "H W 3"), uvs=(self.uvs, "U 2"), faces_uv=(self.faces_uv, "F 3"))


def rasterize_mesh(
    verts: Tensor,
    faces: Tensor,
    camera: Camera,
    *,
    near: float = 0.01,
    cull_backfaces: bool = False,
    samples: int = 16,
    backend: Backend = "cpu",
) -> MeshRaster:
    """Draw a mesh into the pictures of `camera`. See `avatar.ops.mesh.rasterize_mesh` for the exact rules.

    Args:
        verts: vertices, metres, world frame; B is the number of cameras, or 1. [B, V, 3]
        faces: triangles, counter-clockwise from outside. [F, 3]
        camera: C pinhole cameras without distortion.
        near: nothing closer than this is drawn, metres.
        cull_backfaces: leave out faces seen from behind.
        samples: coverage samples per pixel, 16, or 1 for coverage = mask.
        backend: "cpu" is ours; "pytorch3d" runs where that package is installed (also on a GPU).

    Returns:
        The record; bary and depth carry gradients to verts at fixed visibility.

    Raises:
        ValueError: a lens with distortion, an unknown backend, shapes that do not fit. ImportError: the backend is
            missing. RuntimeError: sizes or vertex ids out of range.
    """
    if camera.distortion is not None:
        raise ValueError(
            "rasterize_mesh: camera.distortion must be None, straight edges stay straight only in a pinhole; "
            "undistort the pictures first and pass their Ks"
        )
    if backend not in BACKENDS:
        raise ValueError(f"rasterize_mesh: backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
    return BACKENDS[backend](verts, faces, camera, near, cull_backfaces, samples)


def _rasterize_cpu(
    verts: Tensor, faces: Tensor, camera: Camera, near: float, cull_backfaces: bool, samples: int
) -> MeshRaster:
    if verts.device.type not in ("cpu", "meta"):
        raise ValueError(
            f'rasterize_mesh: the "cpu" backend needs verts on the CPU, got {verts.device}; move them with .cpu()'
        )
    return MeshRaster(
        *ops.rasterize_mesh(
            verts,
            faces,
            camera.viewmats,
            camera.Ks,
            camera.width,
            camera.height,
            near=near,
            cull_backfaces=cull_backfaces,
            samples=samples,
        )
    )


def _rasterize_pytorch3d(
    verts: Tensor, faces: Tensor, camera: Camera, near: float, cull_backfaces: bool, samples: int
) -> MeshRaster:
    """PyTorch3D looks along +z with x to the left and y up; the shorter side of the picture spans -1..1."""
    try:
        rasterize = importlib.import_module("pytorch3d.renderer.mesh.rasterize_meshes").rasterize_meshes
        meshes = importlib.import_module("pytorch3d.structures").Meshes
    except ImportError as error:
        raise ImportError(
            'rasterize_mesh: backend "pytorch3d" was asked for, but it cannot be imported here; '
            'install PyTorch3D for this torch, or use backend="cpu"'
        ) from error
    width, height, cameras = camera.width, camera.height, len(camera)
    points = verts @ camera.viewmats[:, :3, :3].transpose(1, 2) + camera.viewmats[:, None, :3, 3]
    pixels = points @ camera.Ks[:, :2].transpose(1, 2)
    # Behind the camera the quotient means nothing; the clipping at `near` works on z alone.
    uv = pixels / torch.where(points[..., 2:].abs() < 1e-8, 1e-8, points[..., 2:])
    centre = uv.new_tensor([width / 2, height / 2])
    ndc = torch.cat([(centre - uv) * (2 / min(width, height)), points[..., 2:]], dim=-1)
    batch = meshes(verts=list(ndc), faces=[faces.long().to(ndc.device)] * cameras)

    def draw(scale: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        out: tuple[Tensor, Tensor, Tensor, Tensor] = rasterize(
            batch,
            image_size=(height * scale, width * scale),
            blur_radius=0.0,
            faces_per_pixel=1,
            bin_size=0,
            perspective_correct=True,
            clip_barycentric_coords=False,
            cull_backfaces=cull_backfaces,
            z_clip_value=near,
        )
        return out

    packed_ids, zbuf, bary, _ = draw(1)
    seen = packed_ids[..., 0] >= 0
    face_ids = torch.where(seen, packed_ids[..., 0] % max(len(faces), 1), -1).to(torch.int32)
    coverage = seen.to(verts.dtype)
    if samples > 1:
        side = math.isqrt(samples)
        fine = (draw(side)[0][..., 0] >= 0).to(verts.dtype)
        coverage = F.avg_pool2d(fine[:, None], side)[:, 0]
    return MeshRaster(
        face_ids, torch.where(seen[..., None], bary[..., 0, :], 0.0), torch.where(seen, zbuf[..., 0], 0.0), coverage
    )


BACKENDS: dict[str, Callable[[Tensor, Tensor, Camera, float, bool, int], MeshRaster]] = {
    "cpu": _rasterize_cpu,
    "pytorch3d": _rasterize_pytorch3d,
}
"""Mesh rasterisers by name."""


def interpolate(attributes: Tensor, faces: Tensor, raster: MeshRaster) -> Tensor:
    """Values of vertex attributes on the visible surface, 0 on background.

    attributes [V, D], or [A, V, D] with A = C or 1; faces [F, 3] may index other rows than the drawn triangles (uv
    seams). Returns [C, H, W, D] with gradients to attributes and to raster.bary.
    """
    rows = attributes[None] if attributes.dim() == 2 else attributes
    return ops.interpolate_mesh(rows, faces, raster.face_ids, raster.bary)


def vertex_normals(verts: Tensor, faces: Tensor) -> Tensor:
    """Unit normals of the vertices, area-weighted means of their faces'. verts [B, V, 3] metres, faces [F, 3].

    Faces that are not finite do not count. Vertices without a face of any area get a zero normal. Returns [B, V, 3].
    """
    check_shapes("vertex_normals", verts=(verts, "B V 3"), faces=(faces, "F 3"))
    faces = ops.vertex_ids("vertex_normals", faces)
    a, b, c = verts[:, faces].unbind(2)
    doubled = torch.cross(b - a, c - a, dim=-1)
    doubled = torch.where(doubled.isfinite().all(-1, keepdim=True), doubled, 0.0)
    total = torch.zeros_like(verts)
    for corner in range(3):
        total = total.index_add(1, faces[:, corner], doubled)
    return F.normalize(total, dim=-1, eps=torch.finfo(verts.dtype).tiny)


def pixel_normals(verts: Tensor, faces: Tensor, raster: MeshRaster) -> Tensor:
    """Smooth unit normals of the visible surface, world frame, 0 on background. verts [B, V, 3] -> [C, H, W, 3]."""
    return F.normalize(interpolate(vertex_normals(verts, faces), faces, raster), dim=-1, eps=1e-12)


def pixel_uvs(uvs: Tensor, faces_uv: Tensor, raster: MeshRaster) -> Tensor:
    """Texture coordinates of the visible surface, 0..1, origin at the bottom left. uvs [U, 2] -> [C, H, W, 2]."""
    return interpolate(uvs, faces_uv, raster)


def sample_texture(image: Tensor, uvs: Tensor) -> Tensor:
    """Bilinear look-up, edges repeated. image [Ht, Wt, D] with row 0 at v = 1; uvs [..., 2], 0..1. Returns [..., D]."""
    check_shapes("sample_texture", image=(image, "H W D"), uvs=(uvs, "... 2"))
    grid = torch.stack([2 * uvs[..., 0] - 1, 1 - 2 * uvs[..., 1]], dim=-1).reshape(1, -1, 1, 2)
    texels = image.permute(2, 0, 1)[None]
    found = F.grid_sample(texels, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return found[0, :, :, 0].T.reshape(*uvs.shape[:-1], image.shape[2])


def rasterize_uv(uvs: Tensor, faces_uv: Tensor, width: int, height: int) -> MeshRaster:
    """Which face every texel of a texture belongs to, and where on it: the start of any bake.

    `interpolate(verts, faces, raster)` then is the surface point of every texel. Where islands overlap the lowest face
    id wins. uvs [U, 2] 0..1, origin at the bottom left; faces_uv [F, 3]. Returns a record with C = 1, row 0 at v = 1
    and depth 1 on every texel that is used.
    """
    check_shapes("rasterize_uv", uvs=(uvs, "U 2"), faces_uv=(faces_uv, "F 3"))
    # A camera of unit focal length sees the plane z = 1 in pixels.
    texels = torch.stack([uvs[:, 0] * width, (1 - uvs[:, 1]) * height, torch.ones_like(uvs[:, 0])], dim=-1)
    camera = Camera(torch.eye(4).to(texels)[None], torch.eye(3).to(texels)[None], width, height)
    return rasterize_mesh(texels[None], faces_uv, camera)


def fill_gutter(image: Tensor, known: Tensor, texels: int) -> Tensor:
    """Grow the known texels outwards, so that filtering across the rim of an island finds colour.

    Every step sets the unknown neighbours of known texels to their mean. image [H, W, D], known [H, W] bool, `texels`
    is how far to grow. Returns [H, W, D].
    """
    check_shapes("fill_gutter", image=(image, "H W D"), known=(known, "H W"))
    weight = known.to(image.dtype)[None, None]
    values = image.permute(2, 0, 1)[None] * weight
    for _ in range(texels):
        near = F.avg_pool2d(weight, 3, 1, 1)
        fresh = (weight == 0) & (near > 0)
        mean = F.avg_pool2d(values, 3, 1, 1) / torch.where(fresh, near, 1.0)
        values = torch.where(fresh, mean, values)
        weight = torch.where(fresh, 1.0, weight)
    return torch.where(weight[0, 0, ..., None] > 0, values[0].permute(1, 2, 0), image)


def srgb_to_linear(colors: Tensor) -> Tensor:
    """Display values 0..1 to light (IEC 61966-2-1). Any shape."""
    return torch.where(colors <= 0.04045, colors / 12.92, ((colors.clamp(min=0.04045) + 0.055) / 1.055) ** 2.4)


def linear_to_srgb(light: Tensor) -> Tensor:
    """Light to display values, cut to 0..1 (IEC 61966-2-1). Any shape."""
    light = light.clamp(0, 1)
    return torch.where(light <= 0.0031308, light * 12.92, 1.055 * light.clamp(min=0.0031308) ** (1 / 2.4) - 0.055)


# The preview's studio. Directions point towards the light in camera axes (x right, y down, z forward); light is linear.
KEY_DIRECTION = (-0.50, -0.62, -0.60)  # a large lamp above the camera's left
KEY_LIGHT = (0.95, 0.91, 0.85)
KEY_WRAP = (0.32, 0.22, 0.18)  # how far each colour's light reaches past the terminator: skin scatters red farthest
FILL_DIRECTION = (0.80, -0.05, -0.60)
FILL_LIGHT = (0.10, 0.115, 0.14)
RIM_DIRECTION = (0.65, -0.55, 0.55)  # from behind: separates the head from a dark background
RIM_LIGHT = (0.75, 0.78, 0.85)
SKY_LIGHT = (0.24, 0.26, 0.29)  # hemisphere about the world's +Y
GROUND_LIGHT = (0.10, 0.085, 0.075)
GLOSS, SHININESS = 0.16, 28.0  # strength and Blinn-Phong exponent of a soft skin highlight


def shade_mesh(
    verts: Tensor,
    faces: Tensor,
    camera: Camera,
    *,
    colors: Tensor | None = None,
    texture: Texture | None = None,
    background: tuple[float, float, float] = (0.0, 0.0, 0.0),
    near: float = 0.01,
    cull_backfaces: bool = False,
    supersample: int = 2,
) -> Rendering:
    """A preview: smooth normals under a studio of key, fill, rim and hemisphere light that moves with the camera.

    Light is added in linear space and shown as sRGB. Edges are antialiased by drawing `supersample` times larger each
    way, and the outline by 16 coverage samples on top of that. Surfaces seen from behind are lit as if they faced the
    camera.

    Args:
        verts: vertices, metres, world frame; B is the number of cameras, or 1. [B, V, 3]
        faces: triangles, counter-clockwise from outside. [F, 3]
        camera: C pinhole cameras without distortion.
        colors: vertex colours, sRGB 0..1; a light clay where neither they nor a texture are given. [V, 3]
        texture: a picture to wrap around the mesh, instead of vertex colours.
        background: what shows behind, sRGB 0..1.
        near: nothing closer than this is drawn, metres.
        cull_backfaces: leave out faces seen from behind.
        supersample: subpixels each way.

    Returns:
        rgb over the background, alpha the antialiased outline, depth times alpha (metres). No gradients.
    """
    sizes = check_shapes("shade_mesh", verts=(verts, "B V 3"), faces=(faces, "F 3"), colors=(colors, "V 3"))
    if colors is not None and texture is not None:
        raise ValueError("shade_mesh: give colors or texture, not both; multiply them into one texture first")
    if sizes["B"] not in (1, len(camera)):
        raise ValueError(f"shade_mesh: verts must have B = {len(camera)} cameras or B = 1, got B = {sizes['B']}")
    if supersample < 1:
        raise ValueError(f"shade_mesh: supersample must be at least 1, got {supersample}")
    with torch.no_grad():
        albedo = srgb_to_linear(verts.new_tensor(CLAY).expand(sizes["V"], 3) if colors is None else colors.to(verts))
        normals = vertex_normals(verts, faces)
        surface = torch.cat([normals, verts, albedo.expand(sizes["B"], -1, -1)], dim=-1)
        pictures = []
        for c in range(len(camera)):  # one at a time: the enlarged picture of one camera is what memory holds
            b = min(c, sizes["B"] - 1)
            view = Camera(
                camera.viewmats[c : c + 1].to(verts),
                camera.Ks[c : c + 1].to(verts) * verts.new_tensor([[supersample], [supersample], [1]]),
                camera.width * supersample,
                camera.height * supersample,
                None if camera.distortion is None else camera.distortion[c : c + 1],
            )
            raster = rasterize_mesh(verts[b : b + 1], faces, view, near=near, cull_backfaces=cull_backfaces)
            pictures.append(_shade_picture(surface[b], faces, texture, view, raster, background, supersample))
    rgb, alpha, depth = (torch.stack(images) for images in zip(*pictures, strict=True))
    return Rendering(rgb=rgb, alpha=alpha, depth=depth)


def _shade_picture(
    surface: Tensor,
    faces: Tensor,
    texture: Texture | None,
    view: Camera,
    raster: MeshRaster,
    background: tuple[float, float, float],
    supersample: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """rgb [H, W, 3], alpha [H, W] and depth [H, W] of one camera from its enlarged raster. surface [V, 9] is normal,
    position and linear colour."""
    hits = raster.mask[0]
    values = interpolate(surface, faces, raster)[0][hits]
    albedo = values[:, 6:]
    if texture is not None:
        uvs = pixel_uvs(texture.uvs.to(values), texture.faces_uv, raster)[0][hits]
        albedo = srgb_to_linear(sample_texture(texture.image.to(values), uvs))
    front = _facing(surface[:, 3:6], faces, view)[raster.face_ids[0][hits].long()]
    light = light_surface(values[:, :3] * front[:, None], values[:, 3:6], albedo, view)

    # Premultiplied by coverage and averaged; subpixels on the rim without a hit take the mean colour of their pixel,
    # and pixels without any hit that of their neighbours.
    weight = raster.coverage[0] * hits
    layers = torch.zeros(5, *hits.shape, dtype=surface.dtype)
    layers[:3, hits] = (light * weight[hits][:, None]).T
    layers[3] = weight
    layers[4] = raster.depth[0] * weight
    pooled = F.avg_pool2d(layers[None], supersample)[0]
    alpha = F.avg_pool2d(raster.coverage[None], supersample)[0, 0]
    around = F.avg_pool2d(pooled[None], 3, 1, 1)[0]
    pooled = torch.where(pooled[3] > 0, pooled, around)
    mean = torch.where(pooled[3] > 0, pooled / torch.where(pooled[3] > 0, pooled[3], 1.0), 0.0)
    behind = srgb_to_linear(surface.new_tensor(background))
    rgb = mean[:3].permute(1, 2, 0) * alpha[..., None] + behind * (1 - alpha[..., None])
    return linear_to_srgb(rgb), alpha, mean[4] * alpha


def _facing(verts: Tensor, faces: Tensor, view: Camera) -> Tensor:
    """1 for faces that show their outside to the camera (C = 1), -1 for the others. verts [V, 3] -> [F].

    Smooth normals of an outline lean away from the camera on either side, so the face decides which side is seen.
    """
    a, b, c = verts[faces].unbind(1)
    outside = (torch.cross(b - a, c - a, dim=-1) * (view.positions - a)).sum(-1)
    return torch.where(outside < 0, -1.0, 1.0).to(verts)


def light_surface(normals: Tensor, points: Tensor, albedo: Tensor, view: Camera) -> Tensor:
    """Linear light that surface points send to one camera (C = 1) in the preview's studio.

    normals [P, 3] of any length on the side that is seen, points [P, 3] metres, both in the world frame; albedo [P, 3]
    linear. Returns [P, 3].
    """
    to_eye = F.normalize(view.positions - points, dim=-1)
    normals = F.normalize(normals, dim=-1)
    lamps = F.normalize(normals.new_tensor([KEY_DIRECTION, FILL_DIRECTION, RIM_DIRECTION]), dim=-1)
    lamps = lamps @ view.viewmats[0, :3, :3]  # camera to world
    key, fill, rim = (normals @ lamps.T)[..., None].unbind(1)
    wrap = normals.new_tensor(KEY_WRAP)
    facing = (normals * to_eye).sum(-1, keepdim=True)
    sky = normals.new_tensor(SKY_LIGHT)
    diffuse = sky + (normals.new_tensor(GROUND_LIGHT) - sky) * (0.5 - 0.5 * normals[:, 1:2])
    diffuse += normals.new_tensor(KEY_LIGHT) * ((key + wrap) / (1 + wrap)).clamp(min=0) ** 1.5
    diffuse += normals.new_tensor(FILL_LIGHT) * fill.clamp(min=0)
    half = F.normalize(to_eye + lamps[0], dim=-1)
    highlight = GLOSS * (normals * half).sum(-1, keepdim=True).clamp(min=0) ** SHININESS * key.clamp(min=0).sqrt()
    edge = normals.new_tensor(RIM_LIGHT) * rim.clamp(min=0) * (1 - facing.clamp(0, 1)) ** 2
    return albedo * (diffuse + edge) + highlight * normals.new_tensor(KEY_LIGHT) + 0.1 * edge
