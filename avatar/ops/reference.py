"""Plain-torch definitions of every native operator: slow, differentiable, in any floating type. The truth in tests."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from avatar.geometry.frames import Topology, face_edges, frames_from, sum_corners
from avatar.geometry.rotations import axis_angle_to_matrix, matrix_to_quat, quat_multiply, quat_to_matrix

# ---------------------------------------------------------------- rasteriser


def project(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
    near: float = 0.01,
    far: float = 1e10,
    blur: float = 0.3,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """EWA projection; arguments and results as `avatar.ops.raster.project`."""
    rotation = viewmats[:, None, :3, :3]
    p = (rotation @ means[..., None])[..., 0] + viewmats[:, None, :3, 3]
    fx, fy, cx, cy = (Ks[:, None, i, j] for i, j in ((0, 0), (1, 1), (0, 2), (1, 2)))
    z = p[..., 2]
    u, v = p[..., 0] / z, p[..., 1] / z
    u_in = torch.clamp(u, -cx / fx - 0.15 * width / fx, (width - cx) / fx + 0.15 * width / fx)
    v_in = torch.clamp(v, -cy / fy - 0.15 * height / fy, (height - cy) / fy + 0.15 * height / fy)
    zero = torch.zeros_like(z)
    jacobian = torch.stack(
        [torch.stack([fx / z, zero, -fx * u_in / z], -1), torch.stack([zero, fy / z, -fy * v_in / z], -1)], -2
    )
    spread = jacobian @ rotation @ quat_to_matrix(quats) * scales[..., None, :]
    cov = spread @ spread.transpose(-1, -2)
    var_x, var_y, xy = cov[..., 0, 0] + blur, cov[..., 1, 1] + blur, cov[..., 0, 1]
    det = var_x * var_y - xy * xy
    det_sharp = cov[..., 0, 0] * cov[..., 1, 1] - xy * xy
    x, y = fx * u + cx, fy * v + cy
    reach = 2 * torch.log((opacities * 255).clamp_min(1e-30)).detach()
    rx, ry = (reach.clamp_min(0) * var_x.detach()).sqrt(), (reach.clamp_min(0) * var_y.detach()).sqrt()
    seen = (z > near) & (z < far) & (opacities * 255 > 1) & (det > 0)
    seen &= (x + rx >= 0.5) & (x - rx <= width - 0.5) & (y + ry >= 0.5) & (y - ry <= height - 0.5)

    def only_seen(t: Tensor) -> Tensor:
        return torch.where(seen[..., None] if t.dim() > seen.dim() else seen, t, torch.zeros_like(t))

    return (
        only_seen(torch.stack([x, y], -1)),
        only_seen(torch.stack([var_y / det, -xy / det, var_x / det], -1)),
        only_seen(z),
        only_seen(torch.stack([rx, ry], -1)),
        only_seen((det_sharp / det).clamp_min(0).sqrt()),
    )


def blend(
    means2d: Tensor,
    conics: Tensor,
    opacities: Tensor,
    colors: Tensor,
    depths: Tensor,
    radii: Tensor,
    width: int,
    height: int,
    background: Tensor | None = None,
    rows: int = 16,
) -> tuple[Tensor, Tensor]:
    """Dense front-to-back compositing, `rows` picture rows at a time; arguments as `avatar.ops.raster.blend_boxes`.

    Memory grows with Gaussians x width x rows, which is what the kernels exist to avoid.
    """
    images, alphas = [], []
    for c in range(means2d.shape[0]):
        seen = torch.nonzero(radii[c, :, 0] > 0)[:, 0]
        order = seen[torch.sort(depths[c, seen].detach(), stable=True).indices]
        mean, conic = means2d[c, order], conics[c, order]
        opacity = opacities[min(c, len(opacities) - 1), order]
        color = colors[min(c, len(colors) - 1), order]
        strips, covers = [], []
        for top in range(0, height, rows):
            y = torch.arange(top, min(top + rows, height), dtype=mean.dtype, device=mean.device) + 0.5
            x = torch.arange(width, dtype=mean.dtype, device=mean.device) + 0.5
            dx = x[None, None, :] - mean[:, 0, None, None]
            dy = y[None, :, None] - mean[:, 1, None, None]
            a, b, cc = (conic[:, k, None, None] for k in range(3))
            alpha = (opacity[:, None, None] * torch.exp(-0.5 * (a * dx * dx + cc * dy * dy) - b * dx * dy)).clamp_max(
                0.99
            )
            alpha = torch.where(alpha * 255 < 1, torch.zeros_like(alpha), alpha)
            after = torch.cumprod(1 - alpha, 0)
            before = torch.cat([torch.ones_like(after[:1]), after[:-1]])
            drawn = after > 1e-4
            weight = torch.where(drawn, alpha * before, torch.zeros_like(alpha))
            left = torch.where(drawn, 1 - alpha, torch.ones_like(alpha)).prod(0)
            strip = torch.einsum("nhw,nd->dhw", weight, color)
            if background is not None:
                strip = strip + left * background[c][:, None, None]
            strips.append(strip)
            covers.append(1 - left)
        images.append(torch.cat(strips, 1))
        alphas.append(torch.cat(covers, 0))
    return torch.stack(images), torch.stack(alphas)


# ---------------------------------------------------------------- spherical harmonics

SH_C0 = 0.28209479177387814


def sh_basis(directions: Tensor, count: int) -> Tensor:
    """Real spherical harmonics of unit directions in the order and sign of 3D Gaussian splatting.

    directions [..., 3]; count is 1, 4, 9 or 16. Returns [..., count]. Sloan 2013, "Efficient spherical harmonic
    evaluation".
    """
    x, y, z = directions.unbind(-1)
    basis = [torch.full_like(x, SH_C0)]
    if count > 1:
        c1 = 0.4886025119029199
        basis += [-c1 * y, c1 * z, -c1 * x]
    if count > 4:
        basis += [
            1.0925484305920792 * x * y,
            -1.0925484305920792 * y * z,
            0.31539156525252005 * (3 * z * z - 1),
            -1.0925484305920792 * x * z,
            0.5462742152960396 * (x * x - y * y),
        ]
    if count > 9:
        basis += [
            -0.5900435899266435 * y * (3 * x * x - y * y),
            2.890611442640554 * x * y * z,
            -0.4570457994644658 * y * (5 * z * z - 1),
            0.3731763325901154 * z * (5 * z * z - 3),
            -0.4570457994644658 * x * (5 * z * z - 1),
            1.445305721320277 * z * (x * x - y * y),
            -0.5900435899266435 * x * (x * x - 3 * y * y),
        ]
    return torch.stack(basis, -1)


def sh_colors(sh: Tensor, means: Tensor, positions: Tensor) -> Tensor:
    """Colour seen from each camera; arguments as `avatar.ops.sh.sh_colors`."""
    directions = means - positions[:, None, :]
    directions = directions / directions.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    color = torch.einsum("cnk,cnkd->cnd", sh_basis(directions, sh.shape[2]), sh.expand(len(positions), -1, -1, -1))
    return (0.5 + color).clamp_min(0)


# ---------------------------------------------------------------- binding


def vertex_frames(verts: Tensor, topology: Topology) -> tuple[Tensor, Tensor]:
    """Turn and stretch around every vertex; arguments as `avatar.ops.bind.vertex_frames`."""
    count = verts.shape[1]
    e1, e2 = face_edges(verts, topology.faces)
    cross = torch.linalg.cross(e1, e2)[:, :, None]
    carried = topology.tangents[..., :1] * e1[:, :, None] + topology.tangents[..., 1:] * e2[:, :, None]
    normals = sum_corners(cross.expand(-1, -1, 3, -1), topology.faces, count)
    areas = sum_corners(0.5 * cross.norm(dim=-1, keepdim=True).expand(-1, -1, 3, -1), topology.faces, count)[..., 0]
    frames = frames_from(normals, sum_corners(carried, topology.faces, count))
    return frames @ topology.frames.transpose(1, 2), (areas / topology.areas).sqrt().clamp(0.5, 2)


def bind(
    verts: Tensor,
    rotations: Tensor,
    stretch: Tensor,
    topology: Topology,
    face_ids: Tensor,
    bary: Tensor,
    height: Tensor,
    offset: Tensor,
    quats: Tensor,
    log_scales: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gaussians carried by a posed mesh; arguments as `avatar.ops.bind.bind`."""
    corners = topology.faces[face_ids.long()].long()
    point = (bary[..., None] * verts[:, corners]).sum(2)
    blended = (bary[..., None, None] * rotations[:, corners]).sum(2)
    size = (bary * stretch[:, corners]).sum(2)
    frame = frames_from(blended[..., 0], blended[..., 1])
    normal = (bary[..., None] * topology.normals[corners]).sum(1)
    normal = normal / normal.norm(dim=-1, keepdim=True).clamp_min(1e-20)
    local = offset + height[:, None] * normal
    means = point + size[..., None] * (frame @ local[..., None])[..., 0]
    return means, quat_multiply(matrix_to_quat(frame), quats), log_scales.exp() * size[..., None]


# ---------------------------------------------------------------- skinning


def joint_transforms(matrices: Tensor, joints: Tensor, translation: Tensor, parents: Sequence[int]) -> Tensor:
    """Rest to posed transform of every joint of a tree.

    matrices [B, J, 3, 3] turn each joint relative to its parent, joints [B, J, 3] metres are their rest positions,
    translation [B, 3] metres moves the whole tree, parents[j] < j or -1. Returns [B, J, 3, 4].
    """
    identity = torch.eye(3, dtype=matrices.dtype, device=matrices.device).expand(len(matrices), 3, 3)
    rotations: list[Tensor] = []
    shifts: list[Tensor] = []
    for joint, parent in enumerate(parents):
        above, shift = (rotations[parent], shifts[parent]) if parent >= 0 else (identity, translation)
        own = above @ matrices[:, joint]
        rotations.append(own)
        shifts.append(shift + ((above - own) @ joints[:, joint, :, None])[..., 0])  # the joint itself moves with parent
    return torch.cat([torch.stack(rotations, 1), torch.stack(shifts, 1)[..., None]], -1)


def blend_transforms(shaped: Tensor, transforms: Tensor, weights: Tensor) -> Tensor:
    """Linear blend skinning. shaped [B, V, 3] metres, transforms [B, J, 3, 4], weights [V, J]. Returns [B, V, 3]."""
    blended = torch.einsum("vj,bjik->bvik", weights, transforms)
    return (blended[..., :3] @ shaped[..., None])[..., 0] + blended[..., 3]


def pose_features(matrices: Tensor) -> Tensor:
    """vec(R - I), row by row, of every joint but the first. [B, J, 3, 3] to [B, 9 (J - 1)]."""
    identity = torch.eye(3, dtype=matrices.dtype, device=matrices.device)
    return (matrices[:, 1:] - identity).flatten(1)


def skin(
    rest: Tensor,
    joints: Tensor,
    coeffs: Tensor,
    rotations: Tensor,
    translation: Tensor,
    basis: Tensor,
    joint_basis: Tensor,
    weights: Tensor,
    parents: Sequence[int],
) -> tuple[Tensor, Tensor]:
    """Pose a mesh: blendshapes, pose correctives, joint chain, linear blend skinning.

    rest [V, 3] and joints [J, 3] metres; coeffs [B, C]; rotations [B, J, 3] axis-angle radians relative to the parent;
    translation [B, 3] metres; basis [V, 3, C + 9 (J - 1)] metres, blendshapes then pose correctives;
    joint_basis [J, 3, C] metres; weights [V, J], rows sum to one; parents J joint ids, -1 for the root.
    Returns verts [B, V, 3] metres and transforms [B, J, 3, 4] from rest to posed.
    """
    matrices = axis_angle_to_matrix(rotations)
    features = torch.cat([coeffs, pose_features(matrices)], -1)
    shaped = rest + torch.einsum("bk,vdk->bvd", features, basis)
    moved = joints + torch.einsum("bc,jdc->bjd", coeffs, joint_basis)
    transforms = joint_transforms(matrices, moved, translation, parents)
    return blend_transforms(shaped, transforms, weights), transforms


def skin_unfolded(
    template: Tensor,
    shape_basis: Tensor,
    coeffs: Tensor,
    pose_correctives: Tensor | None,
    joint_regressor: Tensor,
    matrices: Tensor,
    translation: Tensor,
    weights: Tensor,
    parents: Sequence[int],
) -> tuple[Tensor, Tensor]:
    """The same mesh as published torch code computes it: identity in every call, joints regressed from every mesh.

    template [V, 3]; shape_basis [V, 3, L] metres, identity and blendshapes; coeffs [B, L]; pose_correctives
    [V, 3, 9 (J - 1)]; joint_regressor [J, V]; matrices [B, J, 3, 3] turn each joint relative to its parent; the rest as
    in `skin`. It checks the folding and is what benchmarks compare against.
    """
    shaped = template + torch.einsum("bl,vdl->bvd", coeffs, shape_basis)
    joints = torch.einsum("jv,bvd->bjd", joint_regressor, shaped)
    if pose_correctives is not None:
        directions = pose_correctives.flatten(0, 1).T
        shaped = shaped + (pose_features(matrices) @ directions).view_as(shaped)
    transforms = joint_transforms(matrices, joints, translation, parents)
    return blend_transforms(shaped, transforms, weights), transforms


# ---------------------------------------------------------------- loss and optimiser

SSIM_SIGMA = 1.5
SSIM_RADIUS = 5
SSIM_C1 = 0.01**2
SSIM_C2 = 0.03**2


def ssim_map(pred: Tensor, target: Tensor) -> Tensor:
    """SSIM of every pixel and channel (Wang et al. 2004) as 3D Gaussian splatting uses it. [C, H, W, D]

    11 x 11 Gaussian window of sigma 1.5 pixels, zero padding, values 0..1. pred, target [C, H, W, D].
    """
    offsets = torch.arange(-SSIM_RADIUS, SSIM_RADIUS + 1, dtype=pred.dtype, device=pred.device)
    taps = torch.exp(-0.5 * (offsets / SSIM_SIGMA) ** 2)
    taps = taps / taps.sum()
    x, y = pred.permute(0, 3, 1, 2), target.permute(0, 3, 1, 2)
    channels = x.shape[1]
    window = (taps[:, None] * taps[None, :]).expand(channels, 1, -1, -1)

    def blur(picture: Tensor) -> Tensor:
        return torch.nn.functional.conv2d(picture, window, padding=SSIM_RADIUS, groups=channels)

    mean_x, mean_y = blur(x), blur(y)
    var_x, var_y, cov = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2, blur(x * y) - mean_x * mean_y
    likeness = (2 * mean_x * mean_y + SSIM_C1) * (2 * cov + SSIM_C2)
    similarity = likeness / ((mean_x**2 + mean_y**2 + SSIM_C1) * (var_x + var_y + SSIM_C2))
    return similarity.permute(0, 2, 3, 1)


def l1_ssim(pred: Tensor, target: Tensor, weight: Tensor | None = None, ssim_weight: float = 0.2) -> Tensor:
    """Sum of weight * ((1 - s) |pred - target| + s (1 - ssim)) over the number of values, s = ssim_weight. []

    pred [C, H, W, D], target likewise or uint8 0..255, weight [C, H, W].
    """
    if target.dtype == torch.uint8:
        target = target.to(pred.dtype) / 255
    loss = (1 - ssim_weight) * (pred - target).abs() + ssim_weight * (1 - ssim_map(pred, target))
    return (loss if weight is None else loss * weight[..., None]).mean()


# ---- adam


def adam_(
    params: list[Tensor],
    grads: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    steps: list[Tensor],
    lrs: list[float],
    beta1s: list[float],
    beta2s: list[float],
    epss: list[float],
) -> None:
    """One Adam step in place (Kingma & Ba 2015, algorithm 1). The lists have one entry for each parameter."""
    for i, param in enumerate(params):
        steps[i] += 1
        exp_avgs[i].mul_(beta1s[i]).add_(grads[i], alpha=1 - beta1s[i])
        exp_avg_sqs[i].mul_(beta2s[i]).addcmul_(grads[i], grads[i], value=1 - beta2s[i])
        mean = exp_avgs[i] / (1 - beta1s[i] ** steps[i].item())
        square = exp_avg_sqs[i] / (1 - beta2s[i] ** steps[i].item())
        param -= lrs[i] * mean / (square.sqrt() + epss[i])


def finite(tensors: list[Tensor]) -> bool:
    """Whether no value is NaN or infinite."""
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors)


# ---------------------------------------------------------------- meshes

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
