"""GNM head 3 from a generated file of its layout: joints, the invented jaw, textures, refusals."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from generated_files import gnm_values, npz, write

from avatar.head import gnm
from avatar.head.source_file import HeadFileError


@pytest.fixture(scope="module")
def values():
    return gnm_values()[0]


@pytest.fixture(scope="module")
def head(tmp_path_factory, values):
    return gnm.load(write(tmp_path_factory.mktemp("gnm") / "gnm_head.npz", npz(values)))


def group(values, name):
    return torch.from_numpy(
        np.flatnonzero(values["vertex_groups"][list(values["vertex_group_names"]).index(name)] > 0.5)
    )


def test_bases_are_transposed_and_otherwise_untouched(head, values):
    np.testing.assert_array_equal(head.template, values["template_vertex_positions"])
    np.testing.assert_array_equal(head.identity_basis[:, :, 3], values["vertex_identity_basis"][3])
    np.testing.assert_array_equal(head.expression_basis[:, :, 1], values["expression_basis"][1])
    assert head.expression_names == tuple(values["expression_names"])
    assert head.model_id == "gnm-3" and "Apache-2.0" in head.licence and not head.eyelid_basis.any()


def test_their_neck_is_our_root_and_their_head_our_neck(head, values):
    joints = dict(zip(head.joint_names, head.joint_regressor @ head.template, strict=True))
    theirs = dict(zip(values["joint_names"], values["template_joint_positions"], strict=True))
    for ours, name in (("root", "neck"), ("neck", "head"), ("eye_left", "left_eye"), ("eye_right", "right_eye")):
        np.testing.assert_allclose(joints[ours], theirs[name], atol=1e-6)
    assert head.parents == (-1, 0, 1, 1, 1)


def test_regressor_rows_sum_to_one_and_stay_near_the_published_ones(head, values):
    assert torch.allclose(head.joint_regressor.sum(1), torch.ones(5), atol=1e-5)
    published = values["joint_regressor"][1]
    assert np.abs(published @ values["template_vertex_positions"] - values["template_joint_positions"][1]).max() > 1e-5
    assert np.abs(head.joint_regressor[1].numpy() - published).max() < 0.01 * published.max()


def test_the_jaw_stands_on_the_hinge_that_the_lower_face_turns_about(tmp_path):
    for degrees in (2.0, 6.0):
        values, hinge = gnm_values(degrees)
        head = gnm.load(write(tmp_path / "gnm_head.npz", npz(values)))
        np.testing.assert_allclose(head.joint_regressor[2] @ head.template, hinge, atol=1e-4)


def test_jaw_takes_lower_teeth_tongue_and_chin_and_nothing_above(head, values):
    jaw = head.skin_weights[:, 2]
    for part in ("teeth_lower", "tongue"):
        assert float(jaw[head.parts[part]].min()) == pytest.approx(1.0, abs=1e-6)
    for part in ("teeth_upper", "eye_left", "eye_right"):
        assert float(jaw[head.parts[part]].max()) == 0.0
    opening = torch.from_numpy(values["expression_basis"][3])
    chin = opening[head.parts["skin"]].norm(dim=1) > 1e-4
    assert float(jaw[head.parts["skin"]][chin].min()) > 0.6, "less than all: smiles of the file mix in"
    assert float(jaw[head.parts["skin"]][~chin].max()) < 0.05


def test_weights_sum_to_one_and_eyes_ride_on_their_joints(head):
    assert torch.allclose(head.skin_weights.sum(1), torch.ones(len(head.template)), atol=1e-6)
    assert float(head.skin_weights.min()) >= 0
    assert bool((head.skin_weights[head.parts["eye_left"]] == torch.eye(5)[3]).all())
    assert bool((head.skin_weights[head.parts["eye_right"]] == torch.eye(5)[4]).all())


def test_a_lower_face_that_only_slides_gets_a_jaw_inside_the_head(tmp_path, values):
    basis = values["expression_basis"].copy()
    basis[1:5] = 0
    basis[1:5, :, 1] = -0.01
    head = gnm.load(write(tmp_path / "gnm_head.npz", npz({**values, "expression_basis": basis})))
    joint = head.joint_regressor[2] @ head.template
    assert bool((joint > head.template.amin(0)).all()) and bool((joint < head.template.amax(0)).all())
    assert float(joint[0]) == pytest.approx(0.0, abs=1e-5)


def test_parts_cover_every_vertex_once_and_regions_have_the_side_last(head, values):
    everything = torch.cat(list(head.parts.values()))
    assert torch.equal(everything.sort().values, torch.arange(len(head.template)))
    assert torch.equal(head.parts["mouth_cavity"], group(values, "mouth_sock"))
    assert torch.equal(head.regions["ear_left"], group(values, "left_ear"))


def test_the_glassy_front_of_the_eyes_is_not_drawn(head, values):
    glass = group(values, "eye_exteriors")
    assert bool(torch.isin(torch.from_numpy(values["triangles"]).long(), glass).all(1).any())
    assert not bool(torch.isin(head.faces, glass).all(1).any())


def test_every_component_has_a_place_of_its_own_in_one_texture(head):
    assert float(head.uvs.min()) > 0.0 and float(head.uvs.max()) < 1.0
    boxes = {}
    for part in ("skin", "eye_left", "eye_right", "teeth_upper", "teeth_lower", "tongue"):
        corners = head.uvs[head.faces_uv[torch.isin(head.faces, head.parts[part]).all(1)]].reshape(-1, 2)
        boxes[part] = (corners.amin(0), corners.amax(0))
    names = list(boxes)
    for i, one in enumerate(names):
        for two in names[i + 1 :]:
            apart = (boxes[one][1] < boxes[two][0]) | (boxes[two][1] < boxes[one][0])
            assert bool(apart.any()), (one, two)


def test_corners_that_agree_share_a_texture_vertex(tmp_path, values):
    same = np.full_like(values["triangle_uvs"], 0.5)
    head = gnm.load(write(tmp_path / "gnm_head.npz", npz({**values, "triangle_uvs": same})))
    assert len(head.uvs) == 6


def test_zero_pose_correctives_are_left_out_and_others_reordered(tmp_path, head, values):
    assert head.pose_correctives is None
    verts = len(values["template_vertex_positions"])
    rows = np.zeros((4, 9, verts, 3), "f4")
    rows[1, 2, 7, 1], rows[3, 0, 5, 0] = 0.25, 0.5
    changed = {**values, "pose_correctives_regressor": rows.reshape(36, -1)}
    directions = gnm.load(write(tmp_path / "gnm_head.npz", npz(changed))).pose_correctives
    assert directions.shape == (verts, 3, 36) and int((directions != 0).sum()) == 2
    assert float(directions[7, 1, 2]) == 0.25, "the head joint, ours first after the root"
    assert float(directions[5, 0, 27]) == 0.5, "the right eye, after the jaw's zeros and the left eye"
    rows[0, 0, 0, 0] = 1.0
    with pytest.raises(HeadFileError, match="neck joint"):
        gnm.load(write(tmp_path / "gnm_head.npz", npz(changed)))


def test_half_floats_booleans_and_packed_archives_are_accepted(tmp_path, head, values):
    small = {
        **values,
        "vertex_identity_basis": values["vertex_identity_basis"].astype("f2"),
        "vertex_groups": values["vertex_groups"] > 0.5,
    }
    again = gnm.load(write(tmp_path / "gnm_head.npz", npz(small, compressed=True)))
    torch.testing.assert_close(again.identity_basis, head.identity_basis, atol=1e-5, rtol=1e-2)
    assert torch.equal(again.parts["skin"], head.parts["skin"])


@pytest.mark.parametrize(
    ("key", "change", "message"),
    [
        ("expression_basis", lambda a: a[:, :-1], r"expression_basis: expected \[E, V, 3\] with V = 560"),
        ("expression_names", lambda a: a[:-1], "expression_names: expected"),
        ("expression_names", lambda a: np.array([f"x{i}" for i in range(len(a))]), "directions lower_face"),
        ("expression_names", lambda a: np.arange(len(a)), "expression_names: expected text"),
        ("joint_names", lambda a: a[::-1].astype("U3"), "joint_names: expected neck, head"),
        ("joint_parent_indices", lambda a: a * 0, "joint_parent_indices"),
        ("triangles", lambda a: a + 3, "triangles: expected vertex ids"),
        ("triangle_uvs", lambda a: a * np.inf, "triangle_uvs: expected finite"),
        ("skinning_weights", lambda a: a * 2, "skinning_weights: expected rows that sum to one"),
        ("mesh_component_names", lambda a: a[:-1], "a component tongue"),
        ("vertex_groups", lambda a: a * 0, "a component skin"),
        ("pose_correctives_regressor", lambda a: a[:-9], "pose_correctives_regressor"),
    ],
)
def test_every_array_is_checked_before_use(tmp_path, values, key, change, message):
    path = write(tmp_path / "gnm_head.npz", npz({**values, key: change(values[key])}))
    with pytest.raises(HeadFileError, match=message) as caught:
        gnm.load(path)
    assert str(path) in str(caught.value)


def test_a_missing_array_and_another_file_are_named(tmp_path, values):
    without = {key: value for key, value in values.items() if key != "triangles"}
    with pytest.raises(HeadFileError, match="triangles: expected these arrays"):
        gnm.load(write(tmp_path / "gnm_head.npz", npz(without)))
    with pytest.raises(HeadFileError, match=r"a \.npz file"):
        gnm.load(write(tmp_path / "gnm_head.npz", b"not an archive"))
    with pytest.raises(FileNotFoundError, match="gnm_head"):
        gnm.load(tmp_path / "none" / "gnm_head.npz")
