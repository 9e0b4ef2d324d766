"""Facts about the packaged head: what a person's head is like, whatever way it was built."""

from __future__ import annotations

import json
import math
import shutil

import pytest
import torch
from torch import Tensor

from avatar.head import open_head
from avatar.head.model import HeadModel

MILLIMETRE = 1e-3


@pytest.fixture(scope="module")
def head() -> HeadModel:
    return open_head.load()


def moved(head: HeadModel, **amounts: float) -> Tensor:
    """The template with some expressions added. [V, 3]"""
    expr = torch.zeros(len(head.expression_names))
    for name, amount in amounts.items():
        expr[head.expression_names.index(name)] = amount
    return head.template + head.expression_basis @ expr


def people(head: HeadModel, count: int = 40) -> Tensor:
    """Random identities. [count, V, 3]"""
    generator = torch.Generator().manual_seed(5)
    return head.template + torch.einsum(
        "vcs,bs->bvc", head.identity_basis, torch.randn(count, head.identity_basis.shape[2], generator=generator)
    )


def marks(head: HeadModel, verts: Tensor, name: str = "mediapipe478") -> Tensor:
    """Landmarks on a mesh. [L, 3]"""
    points = head.landmarks[name]
    return (verts[head.faces[points.face_ids]] * points.bary[:, :, None]).sum(1)


def joint(head: HeadModel, name: str, verts: Tensor) -> Tensor:
    return head.joint_regressor[head.joint_names.index(name)] @ verts


def rotation_x(angle: float) -> Tensor:
    c, s = math.cos(angle), math.sin(angle)
    return torch.tensor([[1.0, 0.0, 0.0], [0.0, c, -s], [0.0, s, c]])


def with_jaw(head: HeadModel, turn: Tensor) -> Tensor:
    """The template with the jaw joint turned by a rotation matrix: correctives, then linear blend skinning. [V, 3]"""
    assert head.pose_correctives is not None
    features = torch.zeros(head.pose_correctives.shape[2])
    index = head.joint_names.index("jaw")
    features[9 * (index - 1) : 9 * index] = (turn - torch.eye(3)).flatten()
    rest = head.template + head.pose_correctives @ features
    pivot = joint(head, "jaw", head.template)
    share = head.skin_weights[:, index, None]
    return (1 - share) * rest + share * ((rest - pivot) @ turn.T + pivot)


@pytest.fixture(scope="module")
def partner(head: HeadModel) -> Tensor:
    """Vertex at the mirrored place of every vertex. [V]"""
    return torch.cdist(head.template * torch.tensor([-1.0, 1.0, 1.0]), head.template).argmin(1)


def hidden_from_front(points: Tensor, verts: Tensor, faces: Tensor) -> Tensor:
    """Whether a ray from each point towards +Z meets a triangle. [P]"""
    a, b, c = (verts[faces[:, k]].double() for k in range(3))
    p = points.double()[:, None]

    def cross(u: Tensor, v: Tensor) -> Tensor:
        return u[..., 0] * v[..., 1] - u[..., 1] * v[..., 0]

    area = cross(b - a, c - a)
    u, v = cross(b - p, c - p) / area, cross(c - p, a - p) / area
    w = 1 - u - v
    depth = u * a[:, 2] + v * b[:, 2] + w * c[:, 2]
    return ((u >= 0) & (v >= 0) & (w >= 0) & (depth > p[..., 2] + 1e-5)).any(1)


def skin_faces(head: HeadModel) -> Tensor:
    inside = torch.zeros(len(head.template), dtype=torch.bool)
    inside[head.parts["skin"]] = True
    return head.faces[inside[head.faces].all(1)]


def test_it_has_the_size_and_the_names_it_promises(head):
    assert 5000 <= len(head.template) <= 6500
    assert head.identity_basis.shape[2] == 100
    assert len(head.expression_names) == 52 == len(set(head.expression_names))
    assert list(head.expression_names) == sorted(head.expression_names)
    assert {"jawOpen", "mouthClose", "eyeBlinkLeft", "browInnerUp", "cheekPuff", "tongueOut"} <= set(
        head.expression_names
    )
    assert head.joint_names == ("root", "chest", "neck", "jaw", "eye_left", "eye_right")
    assert head.parents == (-1, 0, 1, 2, 2, 2)
    assert all(torch.isfinite(t).all() for t in (head.template, head.identity_basis, head.expression_basis, head.uvs))


def test_loading_twice_gives_the_same_object(head):
    assert open_head.load() is head


def test_a_person_looks_ahead_with_the_left_eye_on_the_left(head):
    left, right = joint(head, "eye_left", head.template), joint(head, "eye_right", head.template)
    nose, chin, crown = marks(head, head.template)[[4, 152, 10]]
    assert left[0] > 0 > right[0]
    assert 0.054 < left[0] - right[0] < 0.068  # adults: 54 to 68 mm between the pupils
    assert nose[2] > left[2] + 0.02
    assert crown[1] > left[1] > nose[1] > chin[1]
    assert 0.20 < head.template[:, 1].max() - chin[1] < 0.25  # chin to crown


def test_the_bust_has_shoulders(head):
    torso = head.template[head.parts["torso"]]
    assert torso[:, 0].max() - torso[:, 0].min() > 0.35
    assert torso[:, 1].min() < marks(head, head.template)[152, 1] - 0.12


def test_every_vertex_belongs_to_exactly_one_part(head):
    ids = torch.cat(list(head.parts.values()))
    assert torch.equal(ids.sort().values, torch.arange(len(head.template)))
    assert set(head.parts) == {
        "skin", "torso", "mouth_cavity", "eye_left", "eye_right", "teeth_upper", "teeth_lower", "tongue", "lashes",
    }  # fmt: skip


def test_regions_exist_and_lie_where_their_names_say(head):
    centre = {name: head.template[ids].mean(0) for name, ids in head.regions.items()}
    assert {
        "face", "lips", "upper_lip", "lower_lip", "nose", "forehead", "eye_region_left", "eye_region_right",
        "eyelid_left", "eyelid_right", "ears", "scalp", "neck", "torso", "shoulders", "mouth_inner", "gums",
    } <= set(head.regions)  # fmt: skip
    assert all(len(ids) == len(ids.unique()) for ids in head.regions.values())
    for name in ("eye_region", "eyelid", "ear"):
        assert centre[f"{name}_left"][0] > 0.02
        assert centre[f"{name}_left"][0] == pytest.approx(-float(centre[f"{name}_right"][0]), abs=1e-4)
    assert centre["scalp"][2] < centre["ears"][2] + 0.03
    assert centre["forehead"][1] > centre["nose"][1] > centre["upper_lip"][1]
    assert centre["upper_lip"][1] > centre["lower_lip"][1] > centre["neck"][1] > centre["shoulders"][1]
    assert not set(head.regions["scalp"].tolist()) & set(head.regions["ears"].tolist())
    corners = set(head.regions["upper_lip"].tolist()) & set(head.regions["lower_lip"].tolist())
    assert len(corners) == 2 * 8  # the two corners of each ring


def test_texture_coordinates_are_inside_the_picture_and_not_mirrored(head):
    assert head.uvs.min() >= 0 and head.uvs.max() <= 1
    corner = head.uvs[head.faces_uv[torch.isin(head.faces, head.parts["skin"]).all(1)]]
    a, b = corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0]
    area = a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]
    assert (area > 0).float().mean() > 0.9  # sockets and the inside of nostrils may fold


def test_eyeballs_are_closed_and_face_outwards(head):
    for eye in ("eye_left", "eye_right"):
        faces = head.faces[torch.isin(head.faces, head.parts[eye]).all(1)]
        edges = torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
        there = {tuple(edge) for edge in edges.tolist()}
        assert len(there) == len(edges)
        assert all((b, a) in there for a, b in there)
        corner = (head.template - joint(head, eye, head.template))[faces].double()
        assert torch.linalg.det(corner).sum() / 6 > 0.9 * 4 / 3 * math.pi * 0.0145**3 * 0.9


def test_the_skin_faces_outwards(head):
    normal = torch.zeros_like(head.template)
    corner = head.template[head.faces]
    normal.index_add_(
        0,
        head.faces.flatten(),
        torch.linalg.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0]).repeat_interleave(3, 0),
    )
    for name, direction in (("forehead", (0, 0, 1)), ("scalp", (0, 1, 0)), ("ear_left", (1, 0, 0))):
        outwards = (normal[head.regions[name]] @ torch.tensor(direction).float()).sum()
        assert outwards > 0, name


def test_skin_weights_share_every_vertex_out(head):
    assert (head.skin_weights >= 0).all()
    assert torch.allclose(head.skin_weights.sum(1), torch.ones(len(head.template)), atol=1e-6)
    for part, name in (("teeth_lower", "jaw"), ("tongue", "jaw"), ("teeth_upper", "neck"), ("eye_left", "eye_left")):
        assert (head.skin_weights[head.parts[part], head.joint_names.index(name)] == 1).all()
    chest = head.skin_weights[:, head.joint_names.index("chest")]
    assert chest[head.regions["shoulders"]].min() > 0.9
    assert chest[head.regions["face"]].max() < 0.25
    assert 0.2 < chest[head.regions["neck"]].mean() < 0.8


def test_weights_change_smoothly_over_the_skin(head):
    """Neighbours differ by little per millimetre, or the neck would crease where it turns."""
    weights, faces = head.skin_weights[:, :3], skin_faces(head)
    edges = torch.cat([faces[:, [0, 1]], faces[:, [1, 2]]])
    change = (weights[edges[:, 0], 1] - weights[edges[:, 1], 1]).abs()
    length = (head.template[edges[:, 0]] - head.template[edges[:, 1]]).norm(dim=1)
    assert (change / length.clamp(min=0.002)).quantile(0.999) < 60  # per metre: 0.06 a millimetre


def test_joints_follow_the_shape(head):
    assert torch.allclose(head.joint_regressor.sum(1), torch.ones(6), atol=1e-5)
    for verts in people(head):
        for eye in ("eye_left", "eye_right"):
            distance = (verts[head.parts[eye]] - joint(head, eye, verts)).norm(dim=1)
            assert distance.max() / distance.min() < 1.12, eye
        hinge, ear, mouth = joint(head, "jaw", verts), verts[head.regions["ears"]].mean(0), marks(head, verts)[13]
        assert abs(hinge[0]) < 0.006
        assert ear[2] - 0.01 < hinge[2] < mouth[2] - 0.04
        neck, root = joint(head, "neck", verts), joint(head, "root", verts)
        assert 0.05 < neck[1] - root[1] < 0.15
        assert joint(head, "chest", verts)[1] < root[1]


def test_identities_are_people_not_monsters(head):
    for verts in people(head):
        points = marks(head, verts)
        assert 0.048 < points[473, 0] - points[468, 0] < 0.078
        assert 0.095 < points[10, 1] - points[152, 1] < 0.195
        assert points[4, 2] > points[1, 2] - 0.01 > points[152, 2] - 0.03


def test_identity_modes_are_ordered_and_independent(head):
    flat = head.identity_basis[head.regions["face"]].reshape(-1, 100).double()
    energy = (head.identity_basis.double() ** 2).sum((0, 1))
    assert energy[0] > 10 * energy[20] > 10 * energy[99] > 0
    gram = flat.T @ flat
    cosine = gram / (gram.diag().sqrt()[:, None] * gram.diag().sqrt())
    assert torch.linalg.matrix_rank(cosine) == 100


def test_landmarks_lie_on_the_surface(head):
    for name, count in (("mediapipe478", 478), ("ibug68", 68)):
        points = head.landmarks[name]
        assert len(points.face_ids) == count and torch.equal(points.ids, torch.arange(count))
        assert points.face_ids.min() >= 0 and points.face_ids.max() < len(head.faces)
        assert (points.bary >= 0).all() and torch.equal(points.bary.sum(1), torch.ones(count))


def test_landmarks_lie_on_what_they_are_named_after(head):
    faces = head.faces[head.landmarks["mediapipe478"].face_ids]

    def share(ids: list[int], region: str) -> float:
        return float(torch.isin(faces[ids], head.regions[region]).all(1).float().mean())

    def touch(ids: list[int], region: str) -> bool:
        return bool(torch.isin(faces[ids], head.regions[region]).any(1).all())

    assert share([82, 13, 312, 38, 12, 268], "upper_lip") == 1
    assert share([87, 14, 317, 86, 15, 316], "lower_lip") == 1
    assert touch([40, 39, 37, 0, 267, 269, 270], "upper_lip")  # the outer points lie on the border itself
    assert touch([91, 181, 84, 17, 314, 405, 321], "lower_lip")
    assert share([1, 4, 5, 195, 197, 45, 275], "nose") == 1
    assert share([159, 145, 158, 153, 160, 144], "eyelid_right") == 1
    assert share([386, 374, 385, 380, 387, 373], "eyelid_left") == 1
    for ids, part in ((range(468, 473), "eye_right"), (range(473, 478), "eye_left")):
        assert torch.isin(faces[list(ids)], head.parts[part]).all()


def test_landmarks_are_in_the_order_of_their_sets(head):
    points, ibug = marks(head, head.template), marks(head, head.template, "ibug68")
    assert points[33, 0] < points[133, 0] < 0 < points[362, 0] < points[263, 0]  # eye corners from right to left
    assert points[61, 0] < points[13, 0] < points[291, 0]
    assert points[10, 1] > points[168, 1] > points[4, 1] > points[0, 1] > points[17, 1] > points[152, 1]
    assert (ibug[:17, 0].diff() > -0.002).all() and ibug[8, 1] == ibug[:17, 1].min()
    assert (ibug[17:27, 0].diff() > 0).all() and (ibug[27:31, 1].diff() < 0).all()
    assert (ibug[48:55, 0].diff() > 0).all() and (ibug[60:65, 0].diff() > 0).all()
    assert ibug[36:42, 0].max() < 0 < ibug[42:48, 0].min()
    assert ibug[[37, 38], 1].min() > ibug[[40, 41], 1].max() + 0.005
    assert ibug[17:27, 1].min() > ibug[36:48, 1].max()


def test_brow_landmarks_lie_above_the_lids_and_below_the_hair(head):
    points = marks(head, head.template)
    brows = points[[70, 63, 105, 66, 107, 336, 296, 334, 293, 300]]
    assert 0.008 < brows[:, 1].min() - points[[159, 386], 1].max() < 0.03
    assert brows[:, 1].max() < points[10, 1] - 0.02


def test_left_and_right_landmarks_mirror_each_other(head):
    points = marks(head, head.template)
    pairs = torch.tensor([[33, 263], [133, 362], [61, 291], [105, 334], [234, 454], [172, 397], [159, 386], [78, 308]])
    other = points[pairs[:, 1]] * torch.tensor([-1.0, 1.0, 1.0])
    assert (points[pairs[:, 0]] - other).norm(dim=1).max() < 1.0 * MILLIMETRE


def test_irises_look_straight_ahead(head):
    points = marks(head, head.template)
    for first, eye in ((468, "eye_right"), (473, "eye_left")):
        gaze = points[first] - joint(head, eye, head.template)
        assert torch.allclose(gaze / gaze.norm(), torch.tensor([0.0, 0.0, 1.0]), atol=1e-3)
        radius = (points[first + 1 : first + 5] - points[first])[:, :2].norm(dim=1)
        assert 0.0050 < radius.min() <= radius.max() < 0.0070  # human irises: 5.5 to 6.5 mm


def test_pupils_sit_between_the_lids_at_rest(head):
    points = marks(head, head.template)
    for pupil, upper, lower in ((468, 159, 145), (473, 386, 374)):
        above, below = points[upper, 1] - points[pupil, 1], points[pupil, 1] - points[lower, 1]
        assert 0.002 < above < 0.006
        assert 0.002 < below < 0.006


def lid_gap(head: HeadModel, verts: Tensor, side: str) -> float:
    """Largest angle between the margins of one eye's lids as seen from the ball, times its radius, metres."""
    sets = {
        "right": ((161, 160, 159, 158, 157), (163, 144, 145, 153, 154)),
        "left": ((388, 387, 386, 385, 384), (390, 373, 374, 380, 381)),
    }
    centre = joint(head, f"eye_{side}", verts)
    radius = (verts[head.parts[f"eye_{side}"]] - centre).norm(dim=1).mean()
    points = marks(head, verts) - centre
    elevation = torch.atan2(points[:, 1], points[:, [0, 2]].norm(dim=1))
    upper, lower = (elevation[list(ids)] for ids in sets[side])
    return float((upper - lower).max() * radius)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_blink_closes_the_lids(head, side):
    assert lid_gap(head, head.template, side) > 6 * MILLIMETRE
    blink = moved(head, **{f"eyeBlink{side.capitalize()}": 1.0})
    assert lid_gap(head, blink, side) < 0.3 * MILLIMETRE
    other = "right" if side == "left" else "left"
    assert lid_gap(head, blink, other) > 6 * MILLIMETRE


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_blink_closes_the_lids_of_other_people(head, side):
    closing = head.eyelid_basis[:, :, ["left", "right"].index(side)]
    gaps = torch.tensor([lid_gap(head, verts + closing, side) for verts in people(head)])
    assert gaps.median() < 0.0
    assert gaps.max() < 1.5 * MILLIMETRE


@pytest.mark.parametrize("amount", [0.0, 0.25, 0.5, 0.75, 1.0])
def test_closing_lids_slide_over_the_eyeball_not_through_it(head, amount):
    for side in ("Left", "Right"):
        verts = moved(head, **{f"eyeBlink{side}": amount})
        eye = f"eye_{side.lower()}"
        centre = joint(head, eye, verts)
        radius = (verts[head.parts[eye][0]] - centre).norm()
        points = marks(head, verts)
        ring = [386, 387, 385, 374, 373, 380] if side == "Left" else [159, 160, 158, 145, 144, 153]
        assert ((points[ring] - centre).norm(dim=1) - radius).min() > -0.1 * MILLIMETRE


def test_a_closed_eye_hides_the_eyeball(head):
    verts = moved(head, eyeBlinkLeft=1.0)
    ball = verts[head.parts["eye_left"]]
    front = ball[ball[:, 2] > ball[:, 2].max() - 0.005]
    assert hidden_from_front(front, verts, skin_faces(head)).all()
    assert not hidden_from_front(front, head.template, skin_faces(head)).all()


def test_eyelid_basis_is_the_blink(head):
    for column, name in enumerate(("eyeBlinkLeft", "eyeBlinkRight")):
        blink = head.expression_basis[:, :, head.expression_names.index(name)]
        assert torch.equal(head.eyelid_basis[:, :, column], blink)


def test_jaw_open_opens_the_mouth(head):
    closed, opened = marks(head, head.template), marks(head, moved(head, jawOpen=1.0))
    assert closed[13, 1] - closed[14, 1] < 2 * MILLIMETRE
    assert 0.025 < opened[13, 1] - opened[14, 1] < 0.055
    assert (opened[152, 1] - closed[152, 1]) < -0.02
    teeth = moved(head, jawOpen=1.0)[head.parts["teeth_upper"]] - head.template[head.parts["teeth_upper"]]
    assert teeth.abs().max() < 1e-5


def test_mouth_close_undoes_the_opening_of_the_lips(head):
    opened = marks(head, moved(head, jawOpen=1.0, mouthClose=1.0))
    assert abs(opened[13, 1] - opened[14, 1]) < 4 * MILLIMETRE
    assert opened[152, 1] < marks(head, head.template)[152, 1] - 0.015


@pytest.mark.parametrize(
    "pose",
    [
        {},
        {"mouthSmileLeft": 1.0, "mouthSmileRight": 1.0},
        {"mouthPucker": 1.0},
        {"jawOpen": 1.0, "mouthClose": 1.0},
        {"mouthRollUpper": 1.0, "mouthRollLower": 1.0},
    ],
    ids=["rest", "smile", "pucker", "closed over an open jaw", "rolled"],
)
def test_closed_lips_hide_teeth_and_tongue(head, pose):
    verts = moved(head, **pose)
    inside = torch.cat([head.parts["teeth_upper"], head.parts["teeth_lower"], head.parts["tongue"]])
    hidden = hidden_from_front(verts[inside], verts, skin_faces(head))
    assert hidden.float().mean() > 0.985


def test_the_tongue_rests_inside_and_sticks_out_on_demand(head):
    tongue, lips = head.parts["tongue"], marks(head, head.template)[13]
    assert head.template[tongue, 2].max() < head.template[head.parts["teeth_lower"], 2].max()
    assert moved(head, tongueOut=1.0)[tongue, 2].max() > lips[2] + 0.005


def test_expressions_of_the_two_sides_mirror_each_other(head, partner):
    flip = torch.tensor([-1.0, 1.0, 1.0])
    exact = (head.template[partner] * flip - head.template).norm(dim=1) < 1e-6
    assert exact.float().mean() > 0.99
    names = head.expression_names
    for name in names:
        other = name[:-4] + "Right" if name.endswith("Left") else name[:-5] + "Left" if name.endswith("Right") else name
        here, there = (head.expression_basis[:, :, names.index(n)] for n in (name, other))
        assert (here - there[partner] * flip)[exact].abs().max() < 0.05 * MILLIMETRE, name


def test_every_expression_moves_something_and_none_moves_the_torso(head):
    size = head.expression_basis.norm(dim=1)
    assert (size.max(0).values > 0.8 * MILLIMETRE).all()
    assert size.max() < 0.05
    assert size[head.regions["shoulders"]].max() == 0


def test_left_expressions_stay_on_the_left(head):
    right_cheek = head.template[:, 0] < -0.03
    for name in ("eyeBlinkLeft", "mouthSmileLeft", "browDownLeft", "cheekSquintLeft", "noseSneerLeft"):
        column = head.expression_basis[:, :, head.expression_names.index(name)]
        assert column[right_cheek].norm(dim=1).max() < 1.5 * MILLIMETRE, name


def test_expressions_leave_the_eyeballs_to_the_joints(head):
    for eye in ("eye_left", "eye_right"):
        assert head.expression_basis[head.parts[eye]].abs().max() == 0


def test_gaze_follows_the_look_units(head):
    names = head.expression_names
    expr = torch.zeros(4, 52)
    for row, direction in enumerate(("Up", "Down", "In", "Out")):
        expr[row, names.index(f"eyeLook{direction}Left")] = 1.0
    gaze = open_head.gaze_from_expression(expr, names)
    ahead = torch.tensor([0.0, 0.0, 1.0])
    looks = torch.stack([torch.linalg.cross(rotation, ahead) for rotation in gaze[:, :3]])  # to first order
    assert looks[0, 1] > 0.2 and looks[1, 1] < -0.2  # up and down
    assert looks[2, 0] < -0.2 and looks[3, 0] > 0.2  # the left eye's nose side is -X
    assert gaze[:, 3:].abs().max() == 0
    with pytest.raises(ValueError, match="gaze_from_expression: expr must be"):
        open_head.gaze_from_expression(torch.zeros(2, 51), names)


def test_jaw_rotation_lands_on_jaw_open(head):
    turned = with_jaw(head, rotation_x(open_head.JAW_OPEN))
    distance = (turned - moved(head, jawOpen=1.0)).norm(dim=1)
    assert distance.max() < 0.1 * MILLIMETRE


def test_jaw_rotation_keeps_the_lower_teeth_rigid(head):
    teeth = head.parts["teeth_lower"]
    turned = with_jaw(head, rotation_x(open_head.JAW_OPEN / 2))[teeth]
    assert (torch.cdist(turned, turned) - torch.cdist(head.template[teeth], head.template[teeth])).abs().max() < 1e-3
    half = (turned - moved(head, jawOpen=0.5)[teeth]).norm(dim=1)
    assert half.max() < 2.5 * MILLIMETRE  # an arc against its chord


def test_turning_the_jaw_sideways_needs_no_corrective(head):
    c, s = math.cos(0.2), math.sin(0.2)
    turn = torch.tensor([[c, 0.0, s], [0.0, 1.0, 0.0], [-s, 0.0, c]])
    features = (turn - torch.eye(3)).flatten()
    index = head.joint_names.index("jaw")
    assert (head.pose_correctives[:, :, 9 * (index - 1) : 9 * index] @ features).abs().max() == 0


def test_constants_agree_with_the_card(head):
    card = json.loads((open_head.ASSETS / "open_head.json").read_text())
    assert card["jaw_open_radians"] == open_head.JAW_OPEN
    assert math.radians(card["pupil_degrees"]) == pytest.approx(open_head.PUPIL_ANGLE)
    assert math.radians(card["iris_degrees"]) == pytest.approx(open_head.IRIS_ANGLE)
    assert card["sha256"] == head.sha256 and card["model_id"] == head.model_id
    assert card["identity_residual_rms_mm"] < 0.5
    assert (open_head.ASSETS / "open_head.LICENSE.txt").exists()
    assert (open_head.ASSETS / "open_head.safetensors").stat().st_size < 6_000_000


def test_a_damaged_asset_is_named(tmp_path):
    for name in ("open_head.safetensors", "open_head.json"):
        shutil.copy(open_head.ASSETS / name, tmp_path / name)
    content = bytearray((tmp_path / "open_head.safetensors").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "open_head.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=r"open_head.safetensors is damaged: expected sha256 \w+, got \w+"):
        open_head.read(tmp_path)


def test_a_missing_asset_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"open_head.safetensors is missing; reinstall"):
        open_head.read(tmp_path)


def test_preview_colors_look_like_a_person(head):
    colors = open_head.preview_colors(head)
    assert colors.shape == head.template.shape and colors.min() >= 0 and colors.max() <= 1

    def mean(ids: Tensor) -> Tensor:
        return colors[ids].mean(0)

    skin, lips = mean(head.regions["nose"]), mean(head.regions["lips"])
    assert (skin[0] > skin[1] > skin[2]) and skin[0] > 0.7
    assert lips[0] - lips[1] > skin[0] - skin[1] + 0.05  # redder than skin
    assert mean(head.regions["scalp"]).max() < 0.4
    assert mean(head.parts["teeth_upper"]).min() > 0.45
    for eye in ("eye_left", "eye_right"):
        assert colors[head.parts[eye][0]].max() < 0.1  # the pupil
        assert colors[head.parts[eye][-1]].min() > 0.8  # the white


def test_preview_colors_belong_to_the_left_and_the_right_alike(head, partner):
    colors = open_head.preview_colors(head)
    exact = (head.template[partner] * torch.tensor([-1.0, 1.0, 1.0]) - head.template).norm(dim=1) < 1e-6
    difference = (colors - colors[partner]).abs()[exact].max(1).values
    assert (difference < 0.1).float().mean() > 0.98
