"""ICT Light from a generated file of its packing, and, where the data folder is there, from the real one."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

sys.path.insert(0, str(Path(__file__).parent))
from generated_files import ICT_HINGE_CM, ict_values, npz, write

from avatar.head import ict
from avatar.head.source_file import HeadFileError

DATA = Path(os.environ.get("AVATAR_DATA", Path(__file__).parents[3] / "shared" / "data"))
REAL = DATA / "ict_facekit" / "ict_light.npz"
CAPTURE = DATA / "ict_sim_capture" / "ground_truth.npz"
needs_real = pytest.mark.skipif(not REAL.is_file(), reason=f"no ICT model at {REAL}; set AVATAR_DATA")


@pytest.fixture(scope="module")
def values():
    return ict_values()


@pytest.fixture(scope="module")
def head(tmp_path_factory, values):
    return ict.load(write(tmp_path_factory.mktemp("ict") / "ict_light.npz", npz(values)))


@pytest.fixture(scope="module")
def real():
    return ict.load(REAL)


def joint(head, name):
    return (head.joint_regressor.double() @ head.template.double())[head.joint_names.index(name)].numpy()


def expression(head, name):
    return head.expression_basis[:, :, head.expression_names.index(name)]


def jaw_motion(head, degrees):
    """Displacement of every vertex when the jaw joint turns about +X."""
    turn = Rotation.from_rotvec([math.radians(degrees), 0, 0]).as_matrix() - np.eye(3)
    full = (head.template.double().numpy() - joint(head, "jaw")) @ turn.T
    return torch.from_numpy(full * head.skin_weights[:, 2:3].double().numpy())


def test_centimetres_become_metres_everywhere(head, values):
    np.testing.assert_allclose(head.template * 100, values["template_cm"], rtol=1e-5)
    np.testing.assert_allclose(head.identity_basis[:, :, 2] * 100, values["identity_basis_cm"][2], rtol=1e-5)
    np.testing.assert_allclose(expression(head, "jawOpen") * 100, values["expression_basis_cm"][2], rtol=1e-5)


def test_the_jaw_is_the_hinge_of_jaw_open(head):
    np.testing.assert_allclose(joint(head, "jaw") * 100, ICT_HINGE_CM, atol=1e-3)
    teeth = head.parts["teeth_lower"]
    torch.testing.assert_close(
        jaw_motion(head, 25.0)[teeth].float(), expression(head, "jawOpen")[teeth], atol=1e-5, rtol=0
    )
    assert len(teeth) == 30 and not expression(head, "jawOpen")[head.parts["teeth_upper"]].any()


def test_eyes_turn_about_the_centre_of_their_shells_and_only_they(head):
    np.testing.assert_allclose(joint(head, "eye_left") * 100, [3.0, 3.6, 8.0], atol=1e-3)
    np.testing.assert_allclose(joint(head, "eye_right") * 100, [-3.0, 3.6, 8.0], atol=1e-3)
    for side, column in (("left", 3), ("right", 4)):
        carried = head.skin_weights[:, column] > 0
        assert torch.equal(torch.nonzero(carried)[:, 0], head.parts[f"eye_{side}"])


def test_neck_and_root_are_invented_below_and_weights_sum_to_one(head):
    np.testing.assert_allclose(joint(head, "neck"), [0, -0.09, -0.01], atol=1e-5)
    np.testing.assert_allclose(joint(head, "root"), [0, -0.16, -0.01], atol=1e-5)
    assert torch.allclose(head.skin_weights.sum(1), torch.ones(len(head.template)), atol=1e-5)
    above, below = head.template[:, 1] > -0.09, head.template[:, 1] < -0.15
    assert float(head.skin_weights[above, 0].max()) == 0.0 and float(head.skin_weights[below, 0].min()) == 1.0


def test_shells_and_overlays_are_not_drawn(head, values):
    materials = values["materials"][values["face_material"]]
    hidden = np.isin(materials, ict.HIDDEN)
    assert len(head.faces) == (2 - (values["faces"][~hidden][:, 3] == -1)).sum()
    assert not torch.isin(head.faces, head.parts["eye_overlays"]).any()
    shell = np.unique(values["faces"][materials == "M_ScleraLeft"])
    assert not torch.isin(head.faces, torch.from_numpy(shell[shell >= 0])).any()
    assert torch.isin(head.faces, head.parts["eye_left"]).any()


def test_quads_are_split_along_one_diagonal_with_their_texture(head):
    assert head.faces.shape == head.faces_uv.shape
    assert float(head.uvs.min()) > 0.0 and float(head.uvs.max()) < 1.0
    face = torch.isin(head.faces, head.regions["face"]).all(1)
    teeth = torch.isin(head.faces, head.regions["teeth"]).all(1)
    assert float(head.uvs[head.faces_uv[face]].max()) < 0.75 < float(head.uvs[head.faces_uv[teeth]][..., 0].min())


def test_parts_cover_every_vertex_once(head):
    assert torch.equal(torch.cat(list(head.parts.values())).sort().values, torch.arange(len(head.template)))
    assert {"eyeball_left", "lashes_right", "face"} <= set(head.regions)


def test_lids_close_with_the_blinks(head):
    assert torch.equal(head.eyelid_basis[..., 0], expression(head, "eyeBlink_L"))
    assert torch.equal(head.eyelid_basis[..., 1], expression(head, "eyeBlink_R"))


def test_landmarks_are_the_published_vertices(head, values):
    points = head.landmarks["ibug68"]
    corners = head.template[head.faces[points.face_ids]]
    np.testing.assert_array_equal((corners * points.bary[..., None]).sum(1), head.template[values["landmark68"]])


@pytest.mark.parametrize(
    ("key", "change", "message"),
    [
        ("template_cm", lambda a: a[:-1], "V = 1035"),
        ("faces", lambda a: a + 5, "faces: expected vertex ids"),
        ("faces", lambda a: np.where(a == -1, -2, a), "faces: expected vertex ids"),
        ("faces_uv", lambda a: a * 7, "faces_uv: expected vertex ids"),
        ("uv", lambda a: a * np.nan, "uv: expected finite"),
        ("face_material", lambda a: a + 9, "face_material"),
        ("materials", lambda a: np.char.add(a, "x"), "materials: expected M_Face"),
        ("expression_names", lambda a: a[::-1].astype("U3"), "jawOpen"),
        ("region_names", lambda a: a[::-1], "region_names: expected face, head_neck"),
        ("region_first_last", lambda a: a + 1, "region_first_last"),
        ("landmark68", lambda a: a[:51], "landmark68"),
        ("landmark68", lambda a: a + 10**6, "landmark68"),
        ("landmark68", lambda a: a * 0 + 470 + 14 * 24 + 300, "landmark68"),
        ("identity_basis_cm", lambda a: a.astype(object), "objects are never built"),
    ],
)
def test_every_array_is_checked_before_use(tmp_path, values, key, change, message):
    path = write(tmp_path / "ict_light.npz", npz({**values, key: change(values[key])}))
    with pytest.raises(HeadFileError, match=message) as caught:
        ict.load(path)
    assert str(path) in str(caught.value)


def test_mutants_are_refused_or_keep_every_shape(tmp_path, values):
    data = npz(values)
    directory = data.rindex(b"PK\x01\x02", 0, len(data))
    for seed in range(150):
        rng = np.random.default_rng(seed)
        changed = bytearray(data)
        for _ in range(3):
            at = int(rng.integers(directory - 1500, len(data))) if seed % 2 else int(rng.integers(len(data)))
            changed[at] ^= 1 << int(rng.integers(8))
        try:
            head = ict.load(write(tmp_path / "ict_light.npz", bytes(changed)))
        except HeadFileError:
            continue
        assert head.template.shape == (1036, 3) and torch.isfinite(head.template).all(), seed


# --- the real model --------------------------------------------------------------------------------------------------


@needs_real
def test_real_model_has_its_known_sizes_and_joints(real):
    assert real.template.shape == (26719, 3)
    assert real.identity_basis.shape[2] == 100 and len(real.expression_names) == 57
    np.testing.assert_allclose(joint(real, "jaw") * 100, [0, -0.547, 1.819], atol=0.005)
    np.testing.assert_allclose(joint(real, "eye_left") * 100, [3.116, 3.602, 7.982], atol=0.001)
    np.testing.assert_allclose(joint(real, "eye_right") * 100, [-3.116, 3.602, 7.982], atol=0.001)


@needs_real
def test_real_jaw_pose_opens_the_teeth_as_jaw_open_does(real):
    off = (jaw_motion(real, 25.33) - expression(real, "jawOpen")).norm(dim=1) * 1000
    assert float(off[real.parts["teeth_lower"]].max()) < 0.25, "mm"
    assert float(off[real.parts["tongue"]].max()) < 0.3
    assert float(off[real.parts["skin"]].mean()) < 1.2


@needs_real
def test_real_lower_teeth_and_tongue_are_where_the_readme_says(real):
    assert int(real.parts["teeth_lower"].min()) == 19247 and int(real.parts["teeth_upper"].max()) == 19246
    tongue = real.template[real.parts["tongue"]]
    assert 300 < len(tongue) < 700 and float(tongue[:, 1].max()) < -0.02 and float(tongue[:, 2].max()) > 0.09


@needs_real
def test_real_left_is_plus_x_and_lids_close_downward(real):
    for column, sign in ((0, 1), (1, -1)):
        moved = real.eyelid_basis[..., column].norm(dim=1) > 0.003
        assert bool((real.template[moved, 0] * sign > 0).all())
        assert float(real.eyelid_basis[moved, 1, column].mean()) < -0.001


@needs_real
def test_real_iris_is_drawn_and_no_glassy_shell_in_front_of_it(real):
    drawn = real.faces.unique()
    assert torch.isin(torch.arange(22221, 23021), drawn).all()
    assert not torch.isin(torch.arange(21451, 22221), drawn).any()
    assert not torch.isin(torch.arange(24591, 25351), drawn).any()


@needs_real
@pytest.mark.skipif(not CAPTURE.is_file(), reason=f"no capture at {CAPTURE}; set AVATAR_DATA")
def test_real_model_gives_the_ground_truth_of_the_synthetic_capture(real):
    truth = np.load(CAPTURE)
    assert tuple(truth["expression_names"]) == real.expression_names
    pivot = truth["neck_pivot_cm"] * 0.01
    neutral = real.template.double().numpy() + real.identity_basis.double().numpy() @ truth["identity"]
    points = real.landmarks["ibug68"]
    for step in (0, 27, 50):
        verts = neutral + real.expression_basis.double().numpy() @ truth["expression"][step]
        turn = Rotation.from_euler("YXZ", truth["head_euler_YXZ_rad"][step]).as_matrix()
        posed = (verts - pivot) @ turn.T + pivot
        landmarks = (posed[real.faces[points.face_ids]] * points.bary[..., None].numpy()).sum(1)
        assert np.abs(landmarks - truth["landmarks68_m"][step]).max() < 2e-4
        high = verts[:9409, 1] > -0.05  # below, the capture blends its neck in its own way
        off = np.linalg.norm(posed[:9409] - truth["vertices_face_m"][step], axis=1)[high]
        assert off.max() < 4e-4, "metres; the truth is stored in half precision"
