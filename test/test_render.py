# Copyright 2026 mvdust3r_ros maintainers
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""The renderer against closed-form answers, and views against each other."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mvdust3r_ros.geometry import backproject, invert_se3, pixel_grid, project
from mvdust3r_ros.synthetic.furniture import Kind, Part
from mvdust3r_ros.synthetic.paths import Rig, camera_pose, trajectory
from mvdust3r_ros.synthetic.render import Renderer, pinhole, render_view
from mvdust3r_ros.synthetic.scenes import Room, Scene, SceneError, sample_apartment, sample_room

HW = (96, 128)
K = pinhole(math.radians(70), HW)


def scene_of(*parts: Part) -> Scene:
    lights = np.array([[0.0, 0.0, 2.0, 1.0]], np.float32)
    return Scene(parts, (Room(-5, -5, 5, 5),), (), 2.5, lights, 0.4)


def rays() -> np.ndarray:
    uv = pixel_grid(*HW)
    return np.stack(
        [(uv[..., 0] - K[0, 2]) / K[0, 0], (uv[..., 1] - K[1, 2]) / K[1, 1], np.ones(HW)], -1
    )


def sphere_truth(center_cam: np.ndarray, radius: float) -> np.ndarray:
    """Depth of a sphere: the smaller root of |t d - c|^2 = r^2; 0 where there is none."""
    d = rays()
    a, b = (d * d).sum(-1), d @ center_cam
    disc = b * b - a * (center_cam @ center_cam - radius**2)
    return np.where(disc > 0, (b - np.sqrt(np.maximum(disc, 0))) / a, 0.0)


def test_sphere_depth_and_normals() -> None:
    T = camera_pose((0.0, 0.0, 0.3), 1.2, 0.1, 0.05)
    center_cam, radius = np.array([0.2, -0.1, 2.5]), 0.8
    center = T[:3, :3] @ center_cam + T[:3, 3]
    shot = render_view(scene_of(Part(Kind.SPHERE, center, np.full(3, radius), 0)), K, HW, T)
    truth = sphere_truth(center_cam, radius)
    inside = (truth > 0) & (shot.depth_m > 0)
    assert np.count_nonzero((truth > 0) != (shot.depth_m > 0)) <= 4  # the silhouette's rounding
    grazing = np.linalg.norm(rays() * truth[..., None] - center_cam, axis=-1)
    assert np.abs(grazing[inside] - radius).max() < 1e-9
    facing = inside & (sphere_truth(center_cam, 0.97 * radius) > 0)
    assert np.abs(shot.depth_m - truth)[facing].max() < 1e-3
    normals = (rays() * truth[..., None] - center_cam) / radius
    assert np.abs(shot.normals_cam - normals)[facing].max() < 1e-2


def test_cylinder_depth() -> None:
    T = camera_pose((0.0, 0.0, 0.0), 1.0, 0.0, 0.0)
    part = Part(Kind.CYLINDER, np.array([3.0, 0.0, 1.0]), np.array([0.5, 0.5, 5.0]), 0)
    shot = render_view(scene_of(part), K, HW, T)
    x = rays()[0, :, 0]
    disc = 9.0 - (1 + x * x) * (9.0 - 0.25)
    truth = np.where(disc > 0, (3.0 - np.sqrt(np.maximum(disc, 0))) / (1 + x * x), 0.0)
    seen = disc > 0.05
    assert np.count_nonzero(seen) > 20
    assert np.abs(shot.depth_m - truth)[:, seen].max() < 1e-3
    assert not shot.depth_m[:, disc < 0].any()


@pytest.mark.parametrize("yaw", [0.0, 0.4])
def test_plane_depth_and_normal(yaw: float) -> None:
    T = camera_pose((0.0, 0.0, 0.0), 1.1, 0.0, 0.0)
    wall = Part(Kind.BOX, np.array([3.0, 0.0, 0.0]), np.array([0.5, 50.0, 50.0]), 0, yaw=yaw)
    shot = render_view(scene_of(wall), K, HW, T)
    c, s = math.cos(yaw), math.sin(yaw)
    normal_world = np.array([-c, -s, 0.0])
    point_world = wall.center + 0.5 * normal_world
    normal_cam = T[:3, :3].T @ normal_world
    offset = normal_world @ (point_world - T[:3, 3])
    truth = offset / (rays() @ normal_cam)
    assert np.abs(shot.depth_m - truth).max() < 1e-3
    assert np.abs(shot.normals_cam - normal_cam).max() < 1e-5


def test_corner_of_a_room_seen_from_inside() -> None:
    T = camera_pose((0.0, 0.0, math.pi / 4), 1.3, 0.1, 0.0)
    thick = 0.1
    walls = [
        Part(Kind.BOX, np.array([2.0 + thick, 0, 0]), np.array([thick, 9, 9]), 0),
        Part(Kind.BOX, np.array([0, 3.0 + thick, 0]), np.array([9, thick, 9]), 0),
        Part(Kind.BOX, np.array([0, 0, -thick]), np.array([9, 9, thick]), 0),
        Part(Kind.BOX, np.array([0, 0, 2.5 + thick]), np.array([9, 9, thick]), 0),
    ]
    shot = render_view(scene_of(*walls), K, HW, T)
    d = rays() @ T[:3, :3].T
    planes = [(0, 2.0), (1, 3.0), (2, 0.0), (2, 2.5)]
    with np.errstate(divide="ignore"):
        hits = np.stack([(at - T[axis, 3]) / d[..., axis] for axis, at in planes])
    truth = np.where(hits > 1e-9, hits, np.inf).min(0)
    assert np.abs(shot.depth_m - truth).max() < 1e-3
    assert len({int(k) for k in np.where(hits > 1e-9, hits, np.inf).argmin(0).ravel()}) == 4


def test_points_are_depth_backprojected() -> None:
    shot = render_view(sample_room(5), K, HW, trajectory(sample_room(5), 5, 1)[0])
    assert (shot.depth_m > 0).all()
    assert np.abs(shot.points_cam - backproject(shot.depth_m, K)).max() < 1e-5


@pytest.mark.parametrize(("seed", "sample"), [(11, sample_room), (12, sample_apartment)])
def test_pointmaps_reproject_between_views(seed: int, sample: object) -> None:
    """A point of view a, cast into the pixel of view b where it projects, is the same point."""
    scene = sample(seed)  # type: ignore[operator]
    T_a, T_b = trajectory(scene, seed, 8)[[0, 7]]
    renderer = Renderer(scene)
    a = renderer.render(K, HW, T_a, 1)
    points = a.points_cam[8:-8:8, 8:-8:8].reshape(-1, 3).astype(float)
    T_b_a = np.linalg.inv(T_b) @ T_a
    in_b = points @ T_b_a[:3, :3].T + T_b_a[:3, 3]
    uv = project(in_b, K)
    seen = np.isfinite(uv).all(1) & (uv > 0).all(1) & (uv < [HW[1] - 1, HW[0] - 1]).all(1)
    checked = 0
    T_a_b = invert_se3(T_b_a)
    for original, p, (u, v) in zip(points[seen], in_b[seen], uv[seen], strict=True):
        shifted = K.copy()
        shifted[:2, 2] = K[:2, 2] - (u, v)  # a camera whose pixel (0, 0) lies exactly there
        b = renderer.render(shifted, (1, 1), T_b, 1)
        if b.depth_m[0, 0] < p[2] - 5e-3:
            continue  # something stands in between
        in_a = T_a_b[:3, :3] @ b.points_cam[0, 0].astype(float) + T_a_b[:3, 3]
        assert np.abs(project(in_a, K) - project(original, K)).max() < 0.01
        checked += 1
    assert checked > 20


def test_the_same_seed_gives_the_same_pixels() -> None:
    pose = trajectory(sample_apartment(4), 4, 3)[2]
    a, b = (render_view(sample_apartment(4), K, HW, pose) for _ in range(2))
    assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))
    other = render_view(sample_apartment(5), K, HW, pose)
    assert np.abs(a.rgb.astype(int) - other.rgb).mean() > 5


def test_supersampling_changes_colour_but_not_geometry() -> None:
    scene = sample_room(9)
    pose = trajectory(scene, 9, 1)[0]
    one, two = (render_view(scene, K, HW, pose, supersample=n) for n in (1, 2))
    assert np.array_equal(one.depth_m, two.depth_m)
    assert 0 < np.abs(one.rgb.astype(int) - two.rgb).mean() < 10


def test_light_falls_off_and_colours_are_not_clipped() -> None:
    shot = render_view(sample_room(2), K, HW, trajectory(sample_room(2), 2, 1)[0])
    assert 20 < shot.rgb.mean() < 235
    assert shot.rgb.std() > 5


def test_an_impossible_size_is_named() -> None:
    with pytest.raises(SceneError, match=r"\(0, 128\)"):
        render_view(sample_room(0), K, (0, 128), np.eye(4))


def test_field_of_view_reaches_the_image_edges() -> None:
    half = math.tan(Rig(fov_rad=1.2).fov_rad / 2)
    K_wide = pinhole(1.2, HW)
    edge = (HW[1] - 0.5 - K_wide[0, 2]) / K_wide[0, 0]
    assert edge == pytest.approx(half)
