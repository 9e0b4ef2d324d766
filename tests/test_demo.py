"""The demo's parts: motion, pictures, video files."""

from __future__ import annotations

from dataclasses import replace

import av
import pytest
import torch

from avatar.contact_sheet import contact_sheet, head_colors, portrait_camera, save_picture, tile
from avatar.demo import Puppet, talking
from avatar.head import load
from avatar.types import HeadPose
from avatar.video import write_video


@pytest.fixture(scope="module")
def head():
    return load("open_head")


def test_the_motion_talks_blinks_and_turns(head):
    motion = talking(head, 8.0, 25.0)
    names = list(head.expression_names)
    assert len(motion) == 200
    assert motion.expr.min() >= 0 and motion.expr.max() <= 1
    assert motion.expr[:, names.index("jawOpen")].max() > 0.4 and motion.expr[:, names.index("jawOpen")].min() < 0.02
    assert motion.eyelids.max() > 0.8 and motion.neck[:, 1].abs().max() > 0.5
    assert motion.expr.diff(dim=0).abs().max() < 0.6  # no jumps
    assert torch.equal(motion.expr, talking(head, 8.0, 25.0).expr)


def test_another_head_is_refused_by_name(head):
    other = replace(head, expression_names=tuple(f"e{k}" for k in range(len(head.expression_names))))
    with pytest.raises(ValueError, match=r"lacks the expressions .*jawOpen"):
        talking(other, 1.0, 25.0)


def test_gaussians_and_mesh_cover_the_same_pixels(head):
    from avatar.render import render
    from avatar.render.mesh import rasterize_mesh

    puppet, camera = Puppet(head, torch.zeros(100), count=20_000), portrait_camera(head, 256, 256)
    pose = HeadPose.rest(52)
    cover = render(puppet.gaussians(pose, camera), camera).alpha[0] > 0.5
    verts = puppet.folded.pose(pose).verts
    mask = rasterize_mesh(verts, head.faces, camera).coverage[0] > 0.5
    assert (cover & mask).sum() / (cover | mask).sum() > 0.93  # splats reach half their width over the outline


def test_the_mouth_opens_in_the_picture_and_the_forehead_stays(head):
    puppet, camera = Puppet(head, torch.zeros(100), count=20_000), portrait_camera(head, 160, 160)
    rest = HeadPose.rest(52)
    expr = torch.zeros(1, 52)
    expr[0, head.expression_names.index("jawOpen")] = 1
    change = (puppet.draw(replace(rest, expr=expr), camera) - puppet.draw(rest, camera)).abs().sum(-1)
    assert change[95:].max() > 0.3 and change[:60].max() < 0.05


def test_colours_are_colours(head):
    colors = head_colors(head)
    assert colors.shape == head.template.shape and colors.min() >= 0 and colors.max() <= 1


def test_the_contact_sheet_shows_every_expression(head, tmp_path):
    sheet = contact_sheet(head, cell=32, columns=8)
    assert sheet.shape == (40 * 10, 32 * 8, 3)
    save_picture(tmp_path / "a" / "sheet.png", sheet)
    assert (tmp_path / "a" / "sheet.png").stat().st_size > 10_000


def test_tiles_stand_in_reading_order():
    cells = [(str(k), torch.full((20, 30, 3), k / 10)) for k in range(5)]
    sheet = tile(cells, 2)
    assert sheet.shape == (60, 60, 3)
    assert sheet[5, 5, 0].item() == pytest.approx(0, abs=0.01) and sheet[25, 35, 0].item() == pytest.approx(
        0.3, abs=0.01
    )


def test_a_video_comes_back_as_it_was_written(tmp_path):
    frames = [torch.full((32, 48, 3), k / 10) for k in range(10)]
    assert write_video(tmp_path / "v.mp4", frames, 25) == 10
    with av.open(str(tmp_path / "v.mp4")) as container:
        stream = container.streams.video[0]
        back = [f.to_ndarray(format="rgb24").mean() / 255 for f in container.decode(stream)]
        assert float(stream.average_rate) == 25
    assert len(back) == 10 and all(abs(value - k / 10) < 0.02 for k, value in enumerate(back))


def test_a_video_that_cannot_be_written_leaves_nothing(tmp_path):
    path = tmp_path / "v.mp4"
    for frames, message in (
        ([], "no frames"),
        ([torch.zeros(31, 48, 3)], "must be even, got 48 x 31"),
        ([torch.zeros(32, 48, 3), torch.zeros(32, 32, 3)], "frame 1 is 32 x 32, the first was 48 x 32"),
    ):
        with pytest.raises(ValueError, match=message):
            write_video(path, frames, 25)
        assert list(tmp_path.iterdir()) == []
