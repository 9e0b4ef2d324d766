"""FLAME from generated files of the published layout: content, teeth, what lies beside the model, refusals."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from generated_files import (
    embedding,
    flame_pickle,
    flame_resaved,
    flame_values,
    npy,
    npz,
    py2_pickle,
    write,
)

from avatar.head import flame
from avatar.head.flame_teeth import LIP_LOWER, LIP_UPPER, make_teeth, teeth_faces
from avatar.head.source_file import HeadFileError

pytestmark = pytest.mark.filterwarnings("ignore:.*directions instead of 400")


@pytest.fixture(scope="module")
def values():
    return flame_values(dtype="f4")


@pytest.fixture
def model_file(tmp_path, values):
    return write(tmp_path / "flame2023_Open.pkl", flame_pickle(values))


def load(path: Path, **arguments):
    return flame.load(path, identity_count=6, **arguments)


def test_a_full_sized_file_gives_300_identities_and_100_expressions(tmp_path):
    values = flame_values(shapes=300, expressions=100)
    head = flame.load(write(tmp_path / "flame2023.pkl", flame_pickle(values)))
    assert head.identity_basis.shape == (5143, 3, 300) and head.expression_basis.shape == (5143, 3, 100)
    expected = torch.from_numpy(values["shapedirs"]).float()
    assert torch.equal(head.identity_basis[:5023], expected[:, :, :300])
    assert torch.equal(head.expression_basis[:5023], expected[:, :, 300:])
    assert len(head.expression_names) == 100 and head.faces.shape == (10144, 3)


def test_every_form_of_a_file_gives_the_same_head(tmp_path, values):
    dense = {**values, "J_regressor": values["J_regressor"].toarray()}
    forms = {
        "flame2023.pkl": flame_pickle(values),
        "a/flame2023.pkl": flame_resaved(values),
        "flame2023.npz": npz(values),
        "b/flame2023.npz": npz(dense),
    }
    heads = [load(write(tmp_path / name, data)) for name, data in forms.items()]
    for head in heads[1:]:
        for name in ("template", "faces", "identity_basis", "expression_basis", "joint_regressor", "pose_correctives"):
            assert torch.equal(getattr(head, name), getattr(heads[0], name)), name
    assert len({head.sha256 for head in heads}) == 4


def test_joints_weights_and_correctives_are_the_files(model_file, values):
    head = load(model_file, teeth=False)
    assert head.joint_names == ("root", "neck", "jaw", "eye_left", "eye_right") and head.parents == (-1, 0, 1, 1, 1)
    assert torch.equal(head.pose_correctives, torch.from_numpy(values["posedirs"]))
    joints = head.joint_regressor @ head.template
    expected = values["J_regressor"].toarray() @ values["v_template"]
    np.testing.assert_allclose(joints, expected, atol=1e-5)
    assert torch.equal(head.skin_weights, torch.from_numpy(values["weights"]))
    assert not head.eyelid_basis.any()


def test_a_loaded_head_can_be_written_to_and_does_not_hold_the_file(model_file):
    head = load(model_file, teeth=False)
    head.template.add_(1.0)
    assert float(head.template.mean()) > 1.0


def test_parts_cover_every_vertex_once(model_file):
    head = load(model_file)
    everything = torch.cat(list(head.parts.values()))
    assert torch.equal(everything.sort().values, torch.arange(5143))
    assert set(head.parts) == {"skin", "eye_left", "eye_right", "teeth_upper", "teeth_lower"}
    assert (
        float(head.template[head.parts["eye_left"], 0].min())
        > 0
        > float(head.template[head.parts["eye_right"], 0].max())
    )


def test_versions_are_told_apart_by_name_folder_or_argument():
    names = {"flame2023.pkl": "flame-2023", "flame2023_no_jaw.pkl": "flame-2023-no-jaw",
             "flame2023_Open.pkl": "flame-2023-open", "FLAME2020/generic_model.pkl": "flame-2020"}  # fmt: skip
    for name, version in names.items():
        assert flame.version_of(Path(name)) == version
    assert flame.version_of(Path("x/generic_model.pkl"), "flame-2023") == "flame-2023"
    with pytest.raises(HeadFileError, match="pass version="):
        flame.version_of(Path("x/generic_model.pkl"))
    with pytest.raises(HeadFileError, match="flame-2023-open"):
        flame.version_of(Path("flame2023_Open.pkl"), "flame-2020")
    with pytest.raises(ValueError, match="flame-1999"):
        flame.version_of(Path("flame.pkl"), "flame-1999")


def test_identifier_hash_and_licence_belong_to_the_file(model_file):
    head = load(model_file)
    assert head.model_id == "flame-2023-open" and "CC-BY-4.0" in head.licence and len(head.sha256) == 64


def test_fewer_directions_are_taken_with_a_statement(model_file):
    with pytest.warns(UserWarning, match="10 directions instead of 400: taking the first 6 as identity and 4 as"):
        load(model_file)
    with pytest.raises(HeadFileError, match="pass identity_count="):
        flame.load(model_file)


# --- teeth -----------------------------------------------------------------------------------------------------------


def test_teeth_add_120_vertices_and_168_faces_in_the_documented_order(model_file):
    bare, head = load(model_file, teeth=False), load(model_file)
    assert bare.template.shape == (5023, 3) and bare.faces.shape == (9976, 3)
    assert head.template.shape == (5143, 3) and head.faces.shape == (10144, 3)
    assert torch.equal(head.template[:5023], bare.template) and torch.equal(head.faces[:9976], bare.faces)
    rings = head.template[5023:].reshape(8, 15, 3)
    upper_root, lower_root, upper_edge, lower_edge, *back = rings
    upper_root_back, upper_edge_back, lower_root_back, lower_edge_back = back
    heights = [ring[:, 1].mean() for ring in (upper_root, upper_edge, lower_edge, lower_root)]
    assert heights == sorted(heights, reverse=True)
    for front, behind in ((upper_root, upper_root_back), (upper_edge, upper_edge_back), (lower_root, lower_root_back),
                          (lower_edge, lower_edge_back)):  # fmt: skip
        assert torch.allclose(front[:, :2], behind[:, :2]) and bool((behind[:, 2] < front[:, 2]).all())
    lips = bare.template[list(LIP_UPPER + LIP_LOWER)]
    assert float(rings[..., 2].max()) < float(lips[:, 2].max())
    for ring in rings:
        assert bool((ring[:-1, 0] > ring[1:, 0]).all()), "rings run from the subject's left to the right"


# Corners of GaussianAvatars' faces at both ends and on both sides of the middle of every strip, numbered from the
# first added vertex and face: a binding stores nothing but these numbers.
KNOWN_FACES = {
    0: (0, 31, 30), 1: (0, 1, 31), 13: (6, 7, 37), 14: (7, 8, 37), 15: (8, 38, 37), 27: (14, 44, 43),
    28: (60, 75, 76), 29: (60, 76, 61), 42: (67, 82, 68), 55: (74, 88, 89),
    56: (75, 30, 76), 57: (76, 30, 31), 70: (82, 37, 38), 83: (88, 44, 89),
    84: (45, 46, 15), 85: (46, 16, 15), 98: (52, 23, 22), 111: (58, 59, 29),
    112: (90, 106, 105), 113: (90, 91, 106), 126: (97, 98, 112), 139: (104, 119, 118),
    140: (105, 106, 45), 141: (106, 46, 45), 154: (112, 53, 52), 167: (118, 119, 59),
}  # fmt: skip


def test_teeth_faces_have_the_numbers_that_gaussian_avatars_files_refer_to():
    faces = teeth_faces()
    assert faces.shape == (168, 3)
    for index, corners in KNOWN_FACES.items():
        assert tuple(faces[index]) == corners, index


def test_teeth_fronts_face_forward_and_backs_backward(values):
    teeth = make_teeth(values["v_template"], values["shapedirs"])
    a, b, c = (teeth.verts[teeth.faces[:, i]] for i in range(3))
    normals = np.cross(b - a, c - a)
    assert (normals[0:28, 2] > 0).all() and (normals[84:112, 2] > 0).all()
    assert (normals[28:56, 2] < 0).all() and (normals[112:140, 2] < 0).all()
    assert (normals[56:84, 1] < 0).all() and (normals[140:168, 1] > 0).all()


def test_teeth_follow_identity_with_the_lips_and_no_expression(model_file):
    head = load(model_file)
    lips = (head.identity_basis[list(LIP_UPPER)] + head.identity_basis[list(LIP_LOWER)]) / 2
    assert torch.allclose(head.identity_basis[5023:].reshape(8, 15, 3, 6), lips.expand(8, -1, -1, -1))
    for still in (head.expression_basis, head.pose_correctives, head.eyelid_basis, head.joint_regressor.T):
        assert not still[5023:].any()


def test_upper_teeth_ride_on_the_neck_joint_and_lower_ones_on_the_jaw(model_file):
    head = load(model_file)
    weights = head.skin_weights
    assert bool((weights[head.parts["teeth_upper"]] == torch.eye(5)[1]).all())
    assert bool((weights[head.parts["teeth_lower"]] == torch.eye(5)[2]).all())
    assert len(head.parts["teeth_upper"]) == len(head.parts["teeth_lower"]) == 60


def test_every_tooth_face_has_texels_of_its_own(model_file):
    head = load(model_file)
    corners = head.uvs[head.faces_uv[9976:]]
    a, b = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    area = (a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).abs() / 2
    assert float(area.min()) > 0
    span = corners.reshape(-1, 2).amax(0) - corners.reshape(-1, 2).amin(0)
    lost = 1 / 7  # the row of texels between the two bands belongs to no face
    assert float(area.sum()) == pytest.approx(float(span.prod()) * (1 - lost), rel=1e-4), "no two faces overlap"


# --- what lies beside the model --------------------------------------------------------------------------------------


def test_masks_become_regions_with_the_side_last(model_file):
    masks = {"lips": np.array([5, 7]), "left_ear": np.array([1, 2, 3]), "right_eye_region": np.array([9])}
    write(model_file.parent / "FLAME_masks.pkl", py2_pickle(masks))
    regions = load(model_file).regions
    assert regions["ear_left"].tolist() == [1, 2, 3] and regions["eye_region_right"].tolist() == [9]
    assert regions["lips"].tolist() == [5, 7] and len(regions["teeth_upper"]) == 60
    write(model_file.parent / "FLAME_masks.pkl", py2_pickle({"lips": np.array([5, 5023])}))
    with pytest.raises(HeadFileError, match=r"FLAME_masks\.pkl: lips: expected vertex ids 0 \.\. 5022"):
        load(model_file)


def test_eyelids_are_zero_until_their_files_lie_beside_the_model(model_file):
    closing = np.zeros((5023, 3), dtype="f4")
    closing[100, 1] = -0.008
    write(model_file.parent / "blendshapes" / "l_eyelid.npy", npy(closing[None]))
    write(model_file.parent / "r_eyelid.npy", npy(2 * closing))
    lids = load(model_file).eyelid_basis
    assert lids.shape == (5143, 3, 2) and lids[100, 1].tolist() == pytest.approx([-0.008, -0.016])
    assert int((lids != 0).sum()) == 2


def landmark_points(head, name):
    points = head.landmarks[name]
    return (head.template[head.faces[points.face_ids]] * points.bary[..., None]).sum(1)


def test_static_and_dynamic_embeddings_make_68_landmarks_and_79_contours(model_file):
    faces, bary = embedding(51)
    rows, rows_bary = embedding(79, 17)
    folder = model_file.parent
    write(folder / "flame_static_embedding.pkl", py2_pickle({"lmk_face_idx": faces, "lmk_b_coords": bary}))
    head = load(model_file)
    assert head.landmarks["ibug68"].ids.tolist() == list(range(17, 68)), "the inner points alone"
    with pytest.raises(ValueError, match="flame_dynamic_embedding"):
        flame.contour(head, 0.0)
    write(folder / "flame_dynamic_embedding.npy", npy({"lmk_face_idx": list(rows), "lmk_b_coords": rows_bary}))
    head = load(model_file)
    assert head.landmarks["ibug68"].ids.tolist() == list(range(68))
    assert head.landmarks["ibug68"].face_ids[:17].tolist() == rows[0].tolist()
    assert head.landmarks["ibug68"].face_ids[17:].tolist() == faces.tolist()
    turned = flame.contour(head, -12.4)
    assert turned.face_ids.tolist() == rows[51].tolist() and turned.ids.tolist() == list(range(17))
    assert torch.isfinite(landmark_points(head, "ibug68")).all()


@pytest.mark.parametrize("tensors", [False, True])
def test_the_one_file_embedding_is_read_with_its_torch_tensors(model_file, tensors):
    faces, bary = embedding(51)
    rows, rows_bary = embedding(79, 17)
    full, full_bary = embedding(1, 68)
    kept = torch.from_numpy if tensors else np.asarray
    values = {
        "static_lmk_faces_idx": faces, "static_lmk_bary_coords": bary, "dynamic_lmk_faces_idx": kept(rows),
        "dynamic_lmk_bary_coords": kept(rows_bary), "full_lmk_faces_idx": full, "full_lmk_bary_coords": full_bary,
    }  # fmt: skip
    write(model_file.parent / "landmark_embedding.npy", npy(values))
    head = load(model_file)
    assert head.landmarks["ibug68"].face_ids.tolist() == [*rows[0].tolist(), *faces.tolist()]
    torch.testing.assert_close(flame.contour(head, 39).bary, torch.from_numpy(rows_bary[39]).float())


def test_an_embedding_with_eyes_gives_its_first_68_points(model_file):
    full, full_bary = embedding(1, 70)
    write(model_file.parent / "landmark_embedding_with_eyes.npy",
          npy({"full_lmk_faces_idx": full, "full_lmk_bary_coords": full_bary}))  # fmt: skip
    assert load(model_file).landmarks["ibug68"].face_ids.tolist() == full[0, :68].tolist()


def test_mediapipe_landmarks_carry_their_numbers(model_file):
    faces, bary = embedding(105)
    ids = np.random.default_rng(5).permutation(468)[:105]
    path = model_file.parent / "mediapipe_landmark_embedding" / "mediapipe_landmark_embedding.npz"
    write(path, npz({"lmk_face_idx": faces, "lmk_b_coords": bary, "landmark_indices": ids}))
    points = load(model_file).landmarks["mediapipe478"]
    assert points.ids.tolist() == ids.tolist() and points.face_ids.tolist() == faces.tolist()
    write(path, npz({"lmk_face_idx": faces + flame.FACES, "lmk_b_coords": bary, "landmark_indices": ids}))
    with pytest.raises(HeadFileError, match="lmk_face_idx: expected face ids"):
        load(model_file)


def test_contour_rows_run_outward_from_straight_ahead():
    yaw = torch.tensor([0.0, 0.4, 1.0, 38.6, 39.0, 80.0, -1.0, -38.0, -39.0, -90.0])
    assert flame.contour_row(yaw).tolist() == [0, 0, 1, 39, 39, 39, 40, 77, 78, 78]
    assert int(flame.contour_row(-3.0)) == 42


def obj_text(faces: np.ndarray, uvs: np.ndarray, faces_uv: np.ndarray) -> bytes:
    lines = [f"vt {u} {v}" for u, v in uvs]
    lines += ["f " + " ".join(f"{a + 1}/{b + 1}/1" for a, b in zip(*pair, strict=True))
              for pair in zip(faces, faces_uv, strict=True)]  # fmt: skip
    return "\n".join(["# template", *lines]).encode()


def test_texture_coordinates_come_from_an_obj_or_npz_beside_the_model(model_file, values):
    rng = np.random.default_rng(6)
    uvs, faces_uv = rng.random((5118, 2)).round(6), rng.integers(0, 5118, (9976, 3))
    texture = write(model_file.parent / "FLAME_texture.npz", npz({"vt": uvs, "ft": faces_uv}))
    from_npz = load(model_file, teeth=False)
    texture.unlink()
    obj = write(model_file.parent / "head_template_mesh.obj", obj_text(values["f"], uvs, faces_uv))
    from_obj = load(model_file, teeth=False)
    for head in (from_npz, from_obj):
        np.testing.assert_allclose(head.uvs, uvs, atol=1e-6)
        assert head.faces_uv.tolist() == faces_uv.tolist()
    obj.write_bytes(obj_text(values["f"][::-1], uvs, faces_uv))
    with pytest.raises(HeadFileError, match="the triangles of the model file"):
        load(model_file)
    obj.write_bytes(b"vt 0 zero\n")
    with pytest.raises(HeadFileError, match="line 1"):
        load(model_file)


def test_without_texture_coordinates_a_cylinder_is_unrolled_without_smears(model_file, values):
    head = load(model_file)
    assert torch.equal(head.uvs, load(model_file).uvs)
    assert float(head.uvs.min()) >= 0.0 and float(head.uvs.max()) <= 1.0
    eyes = torch.cat([head.parts["eye_left"], head.parts["eye_right"]])
    skin = ~torch.isin(head.faces, eyes).any(1)
    u = head.uvs[head.faces_uv[skin]][..., 0]
    assert float((u.amax(1) - u.amin(1)).max()) < 0.55, "no face runs around the whole picture"
    assert bool((head.uvs[head.parts["eye_left"], 1] >= 0.95).all())


# --- refusals --------------------------------------------------------------------------------------------------------


def broken(values, **changes):
    return {**values, **changes}


@pytest.mark.parametrize(
    ("key", "change", "message"),
    [
        ("v_template", lambda a: a[:-1], r"v_template: expected \[V, 3\] with V = 5023, got \[5022, 3\]"),
        ("v_template", lambda a: a * np.nan, "v_template: expected finite numbers"),
        ("v_template", lambda a: a.astype("f8") * 1e300, "v_template: expected finite numbers"),
        ("v_template", lambda a: a.astype("i4"), "v_template: expected floating numbers, got int32"),
        ("f", lambda a: a + 10, "f: expected vertex ids"),
        ("f", lambda a: a.astype("f4"), "f: expected integers"),
        ("f", lambda a: a.T, r"f: expected \[F, 3\]"),
        ("shapedirs", lambda a: a.reshape(5023, -1), "shapedirs: expected"),
        ("posedirs", lambda a: a[..., :27], "posedirs: expected"),
        ("weights", lambda a: a * 0.5, "weights: expected rows that sum to one"),
        ("J_regressor", lambda a: a * 3, "J_regressor: expected rows that sum to one"),
        ("J_regressor", lambda a: a.tocsc()[:4], "J_regressor: expected"),
        ("kintree_table", lambda a: a[:, ::-1], "kintree_table: expected parents"),
    ],
)
def test_every_array_is_checked_before_use(tmp_path, values, key, change, message):
    path = write(tmp_path / "flame2023.pkl", flame_pickle(broken(values, **{key: change(values[key])})))
    with pytest.raises(HeadFileError, match=message) as caught:
        load(path)
    assert str(path) in str(caught.value) and caught.value.key == key


def test_missing_keys_are_listed(tmp_path, values):
    partial = {key: value for key, value in values.items() if key not in ("weights", "f")}
    with pytest.raises(HeadFileError, match=r"f, weights: expected these keys, got only .*J_regressor"):
        load(write(tmp_path / "flame2023.npz.pkl", flame_resaved(partial)))
    with pytest.raises(HeadFileError, match="f, weights"):
        load(write(tmp_path / "flame2023.npz", npz(partial)))


def test_missing_empty_and_unreadable_paths_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="flame2023"):
        load(tmp_path / "flame2023.pkl")
    with pytest.raises(HeadFileError, match="0 bytes"):
        load(write(tmp_path / "flame2023.pkl", b""))
    with pytest.raises(HeadFileError, match="regular file"):
        load(tmp_path, version="flame-2023")


def test_mutants_of_a_full_file_are_refused_or_keep_5143_vertices(tmp_path, values):
    data = bytearray(flame_pickle(values))
    rng = np.random.default_rng(7)
    # places that say something, rather than the millions of bytes that are numbers
    places = [at for at in range(len(data)) if data[at : at + 1] in b"ctbR(qUTKJu" and rng.random() < 0.0003][:150]
    refused = 0
    for at in [*range(40), *places]:
        mutant = bytearray(data)
        mutant[at] ^= 1 << int(rng.integers(8))
        path = write(tmp_path / "flame2023.pkl", bytes(mutant))
        try:
            head = load(path)
        except HeadFileError:
            refused += 1
            continue
        assert head.template.shape == (5143, 3) and torch.isfinite(head.template).all(), at
    assert refused > 10
