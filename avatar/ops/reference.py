"""Every operator in plain torch: the definition that the kernels are tested against. Slow, and meant to be read."""

from __future__ import annotations

import torch
from torch import Tensor

# ---- mesh

MESH_SAMPLE_X = (-15, -13, -11, -9, -7, -5, -3, -1, 1, 3, 5, 7, 9, 11, 13, 15)
MESH_SAMPLE_Y = (-15, 1, -7, 9, -11, 5, -3, 13, -13, 3, -5, 11, -9, 7, -1, 15)
"""Coverage samples of a pixel from its centre, 1/32 pixel: one in each of 16 rows and 16 columns."""


def rasterize_mesh(
    verts: Tensor,
    faces: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
    near: float = 0.01,
    cull_backfaces: bool = False,
    samples: int = 16,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`avatar.ops.mesh.rasterize_mesh` by intersecting every ray with every face, in memory pixels x faces.

    Rays are exact: no pixel grid, no clipping, and a ray through a shared edge meets both faces. Verdicts within 1/512
    pixel of an edge may therefore differ from the kernels.
    """
    cameras = viewmats.shape[0]
    verts = verts.expand(cameras, -1, -1)
    v, u = torch.meshgrid(
        torch.arange(height, dtype=verts.dtype) + 0.5, torch.arange(width, dtype=verts.dtype) + 0.5, indexing="ij"
    )
    face_ids, bary, depth, coverage = [], [], [], []
    for c in range(cameras):
        camera_verts = verts[c] @ viewmats[c, :3, :3].T + viewmats[c, :3, 3]
        pixels = torch.cat([camera_verts @ Ks[c, :2].T, camera_verts[:, 2:]], dim=-1)
        corners = pixels[faces]
        hit, weights, z = _meet_faces(corners, u.flatten(), v.flatten(), near, cull_backfaces)
        if len(faces) == 0:
            ids = torch.full((height * width,), -1)
            bary.append(verts.new_zeros(height, width, 3))
            depth.append(verts.new_zeros(height, width))
        else:
            nearest, ids = torch.where(hit, z, torch.inf).min(-1)
            ids = (z == nearest[:, None]).logical_and(hit).int().argmax(-1)  # the lowest id among equals
            ids = torch.where(nearest.isfinite(), ids, -1)
            seen = (ids >= 0)[:, None]
            at = ids.clamp(min=0)[:, None]
            bary.append(torch.where(seen, weights[torch.arange(len(ids)), at[:, 0]], 0.0).reshape(height, width, 3))
            depth.append(torch.where(seen, z.gather(1, at), 0.0).reshape(height, width))
        face_ids.append(ids.to(torch.int32).reshape(height, width))
        cover = (face_ids[-1] >= 0).to(verts.dtype)
        if samples > 1:
            cover = torch.zeros_like(cover)
            for dx, dy in zip(MESH_SAMPLE_X, MESH_SAMPLE_Y, strict=True):
                hit, _, _ = _meet_faces(corners, u.flatten() + dx / 32, v.flatten() + dy / 32, near, cull_backfaces)
                cover += hit.any(-1).to(verts.dtype).reshape(height, width) / samples
        coverage.append(cover)
    return torch.stack(face_ids), torch.stack(bary), torch.stack(depth), torch.stack(coverage)


def _meet_faces(
    corners: Tensor, u: Tensor, v: Tensor, near: float, cull_backfaces: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Rays through (u, v) [P] pixels against faces with corners [F, 3, 3], homogeneous pixels.

    Returns whether they meet [P, F], the corner weights [P, F, 3] and the depth [P, F]. Olano & Greer 1997.
    """
    p, q, r = corners.unbind(1)
    planes = torch.stack([torch.cross(q, r, dim=-1), torch.cross(r, p, dim=-1), torch.cross(p, q, dim=-1)], dim=1)
    volume = (p * planes[:, 0]).sum(-1)
    finite = corners.isfinite().all(-1).all(-1) & (volume != 0)
    rays = torch.stack([u, v, torch.ones_like(u)], dim=-1)
    over_depth = torch.einsum("fkd,pd->pfk", planes / torch.where(finite, volume, 1.0)[:, None, None], rays)
    depth = 1 / over_depth.sum(-1)
    hit = (over_depth >= 0).all(-1) & (depth >= near) & depth.isfinite() & finite
    if cull_backfaces:
        hit = hit & (volume < 0)  # counter-clockwise from outside turns the other way where y points down
    return hit, over_depth * depth[..., None], depth


def interpolate_mesh(attributes: Tensor, faces: Tensor, face_ids: Tensor, bary: Tensor) -> Tensor:
    """`avatar.ops.mesh.interpolate_mesh` by gathering three rows per pixel."""
    picture = torch.arange(face_ids.shape[0])[:, None, None, None] if attributes.shape[0] > 1 else torch.tensor(0)
    corners = attributes[picture, faces[face_ids.clamp(min=0).long()]]
    return torch.where((face_ids >= 0)[..., None], (bary[..., None] * corners).sum(-2), 0.0)
