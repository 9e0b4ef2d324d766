"""The records that flow through the engine: what they accept, how they refuse, how they show themselves."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields

import pytest
import torch

from avatar.checks import check_float, check_shapes, shape_text
from avatar.types import (
    AudioClip,
    AudioFeatures,
    Camera,
    Frame,
    Gaussians,
    HeadPose,
    MeshState,
    Motion,
    Rendering,
    Scene,
    Step,
)


def cameras(count=2):
    return Camera(torch.eye(4).repeat(count, 1, 1), torch.eye(3).repeat(count, 1, 1), 64, 48)


class TestShapes:
    def test_names_bind_at_first_use(self):
        sizes = check_shapes("f", a=(torch.zeros(2, 5, 3), "B N 3"), b=(torch.zeros(2, 5), "B N"))
        assert sizes == {"B": 2, "N": 5}

    def test_a_name_must_keep_its_size(self):
        with pytest.raises(ValueError, match=r"f: b must be \[B, N\] with B = 2, N = 5, got \[2, 4\]"):
            check_shapes("f", a=(torch.zeros(2, 5, 3), "B N 3"), b=(torch.zeros(2, 4), "B N"))

    def test_a_number_must_match(self):
        with pytest.raises(ValueError, match=r"a must be \[N, 4\] with N = 7, got \[7, 3\]"):
            check_shapes("f", a=(torch.zeros(7, 3), "N 4"))

    def test_the_number_of_dimensions_must_match(self):
        with pytest.raises(ValueError, match=r"got \[7\]"):
            check_shapes("f", a=(torch.zeros(7), "N 1"))

    def test_dots_allow_anything_in_front(self):
        for shape in ((3,), (5, 3), (2, 5, 3)):
            assert check_shapes("f", a=(torch.zeros(shape), "... 3")) == {}
        with pytest.raises(ValueError, match="must be"):
            check_shapes("f", a=(torch.zeros(5, 4), "... 3"))

    def test_what_is_not_there_is_skipped(self):
        assert check_shapes("f", a=(None, "N 3"), b=(torch.zeros(4), "N")) == {"N": 4}

    def test_empty_tensors_have_shapes_too(self):
        assert check_shapes("f", a=(torch.zeros(0, 3), "N 3")) == {"N": 0}
        assert shape_text(torch.zeros(0, 3)) == "[0, 3]" and shape_text(torch.tensor(1.0)) == "[]"


class TestFloats:
    def test_whole_numbers_are_refused_by_name(self):
        with pytest.raises(TypeError, match=r"f: b must be a floating tensor, got torch\.int64"):
            check_float("f", a=torch.zeros(1), b=torch.zeros(1, dtype=torch.int64))

    def test_two_kinds_of_floats_are_refused_by_name(self):
        with pytest.raises(ValueError, match=r"f: c is torch.float64 .* but a is torch.float32"):
            check_float("f", a=torch.zeros(1), b=None, c=torch.zeros(1, dtype=torch.float64))


class TestCamera:
    def test_it_knows_where_it_stands(self):
        camera = cameras(2)
        camera.viewmats[1, :3, 3] = torch.tensor([0.0, 0.0, 3.0])
        torch.testing.assert_close(camera.positions, torch.tensor([[0.0, 0, 0], [0, 0, -3]]))
        assert len(camera) == 2

    def test_a_turned_camera_stands_where_it_was_put(self):
        turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0))).Q
        place = torch.tensor([0.3, -2.0, 5.0])
        view = torch.eye(4)
        view[:3, :3], view[:3, 3] = turn, -turn @ place
        camera = Camera(view[None], torch.eye(3)[None], 8, 8)
        torch.testing.assert_close(camera.positions[0], place)

    @pytest.mark.parametrize(("width", "height"), [(0, 5), (5, -1)])
    def test_pictures_have_a_size(self, width, height):
        with pytest.raises(ValueError, match="at least 1 pixel"):
            Camera(torch.eye(4)[None], torch.eye(3)[None], width, height)

    def test_each_view_has_its_intrinsics(self):
        with pytest.raises(ValueError, match=r"Ks must be \[C, 3, 3\] with C = 1, got \[2, 3, 3\]"):
            Camera(torch.eye(4)[None], torch.eye(3).repeat(2, 1, 1), 5, 5)

    def test_nothing_changes_it(self):
        with pytest.raises(FrozenInstanceError):
            cameras().width = 3  # type: ignore[misc]


class TestHeadPose:
    def test_rest_is_all_zeros(self):
        pose = HeadPose.rest(52, batch=3)
        assert len(pose) == 3 and pose.expr.shape == (3, 52)
        assert all((getattr(pose, f.name) == 0).all() for f in fields(pose))

    def test_moments_are_picked_together(self):
        pose = HeadPose.rest(4, batch=5)
        pose.expr[:, 0] = torch.arange(5.0)
        pose.jaw[:, 1] = torch.arange(5.0)
        for index, want in ((slice(1, 3), [1, 2]), (torch.tensor([4, 0]), [4, 0]), ([3], [3])):
            part = pose[index]
            assert part.expr[:, 0].tolist() == want and part.jaw[:, 1].tolist() == want

    def test_every_field_has_the_same_batch(self):
        rest = HeadPose.rest(4, batch=2)
        values = {f.name: getattr(rest, f.name) for f in fields(rest)}
        for name, value in values.items():
            if name != "expr":
                with pytest.raises(ValueError, match=rf"HeadPose: {name} must be"):
                    HeadPose(**{**values, name: value[:1]})


class TestOthers:
    def test_records_print_shapes_not_values(self):
        text = repr(
            Gaussians(
                torch.zeros(1, 9, 3),
                torch.zeros(1, 9, 4),
                torch.zeros(1, 9, 3),
                torch.zeros(1, 9),
                torch.zeros(1, 9, 1, 3),
            )
        )
        assert (
            text == "Gaussians(means=[1, 9, 3], quats=[1, 9, 4], scales=[1, 9, 3], opacities=[1, 9], sh=[1, 9, 1, 3])"
        )

    def test_moving_a_record_moves_its_floats_and_those_inside(self):
        frame = Frame(
            torch.zeros(4, 5, 3),
            cameras(1),
            0,
            0.0,
            regions=torch.zeros(4, 5, dtype=torch.uint8),
            pose=HeadPose.rest(3),
        )
        moved = frame.to(torch.float64)
        assert moved.image.dtype == moved.camera.viewmats.dtype == moved.pose.expr.dtype == torch.float64
        assert moved.regions.dtype == torch.uint8 and frame.image.dtype == torch.float32

    @pytest.mark.parametrize("field", ["quats", "scales", "opacities", "sh"])
    def test_gaussians_have_one_of_everything(self, field):
        values = {"means": torch.zeros(1, 9, 3), "quats": torch.zeros(1, 9, 4), "scales": torch.zeros(1, 9, 3),
                  "opacities": torch.zeros(1, 9), "sh": torch.zeros(1, 9, 4, 3)}  # fmt: skip
        assert len(Gaussians(**values)) == 9
        with pytest.raises(ValueError, match=f"Gaussians: {field} must be"):
            Gaussians(**{**values, field: values[field][:, :8]})

    def test_meshes_sounds_and_features_are_checked(self):
        assert MeshState(torch.zeros(2, 7, 3)).transforms is None
        with pytest.raises(ValueError, match=r"transforms must be \[B, J, 3, 4\]"):
            MeshState(torch.zeros(2, 7, 3), torch.zeros(1, 5, 3, 4))
        with pytest.raises(
            ValueError, match=r"samples must be \[T\], got \[2, 9\]|samples must be \[T\].*got \[2, 9\]"
        ):
            AudioClip(torch.zeros(2, 9), 16_000)
        with pytest.raises(ValueError, match=r"values must be \[T, F\]"):
            AudioFeatures(torch.zeros(9), 100.0)

    def test_a_mask_of_another_size_is_refused(self):
        with pytest.raises(ValueError, match=r"alpha must be \[H, W\] with H = 4, W = 5, got \[5, 4\]"):
            Frame(torch.zeros(4, 5, 3), cameras(1), 0, 0.0, alpha=torch.zeros(5, 4))

    def test_motion_is_as_long_as_its_poses(self):
        assert len(Motion(HeadPose.rest(3, batch=7), 25.0, "open_head-1")) == 7

    def test_steps_and_renderings_hold_what_they_are_given(self):
        rendering = Rendering(torch.zeros(1, 2, 2, 3), torch.zeros(1, 2, 2))
        step = Step(4, {"l1": 0.5}, rendering)
        assert step.losses["l1"] == 0.5 and step.rendering is rendering and Step(0).losses == {}

    def test_a_scene_is_whatever_behaves_like_one(self):
        class Still:
            fps, head_model, head_sha256, identity, audio = 25.0, "open_head-1", "", torch.zeros(3), None
            train, val, test = (0,), (), ()

            def __len__(self):
                return 1

            def __getitem__(self, index):
                return Frame(torch.zeros(4, 5, 3), cameras(1), index, 0.0)

        assert isinstance(Still(), Scene) and not isinstance(object(), Scene)
