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

"""Ray casting of synthetic scenes, with the same torch code on CPU and GPU.

Exact geometry comes from one ray through the centre of each pixel; colour is averaged over
`supersample`^2 rays per pixel. Integer pixel coordinates are pixel centres.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mvdust3r_ros.datatypes import FloatArray, ImageArray
from mvdust3r_ros.synthetic.furniture import Kind
from mvdust3r_ros.synthetic.scenes import Scene, SceneError
from mvdust3r_ros.synthetic.textures import BANK_SIZE, SIDE, texture_bank

NEAR_M = 0.02
"""Nothing closer to the camera is rendered: paths stay farther away, and dividing by less
overflows."""
MIP_LEVELS = 6
"""From 64 texels per side down to 2."""
BAND_RAYS = 16384
"""Number of rays shaded together on a CPU: their values stay in the processor's cache."""


class Rendering(NamedTuple):
    """The image and geometry of one camera.

    Attributes:
        rgb: (H, W, 3) uint8.
        depth_m: (H, W) float32 along the optical axis; 0 where a ray leaves the scene.
        normals_cam: (H, W, 3) float32 unit normals in the camera frame, towards the camera.
        points_cam: (H, W, 3) float32 in the camera frame.
    """

    rgb: ImageArray
    depth_m: FloatArray
    normals_cam: FloatArray
    points_cam: FloatArray


@dataclass(frozen=True)
class _Table:
    """The parts of a scene as columns, (N, ...) each."""

    kind: FloatArray
    center: FloatArray
    half: FloatArray
    cos_sin: FloatArray
    corners: FloatArray
    rows: Tensor  # (N, 19) all data of a part needed to shade a pixel


class Renderer:
    """Renders one scene; reuse it for several views."""

    def __init__(self, scene: Scene, device: str | torch.device = "cpu") -> None:
        """Put the scene's parts and textures on a device."""
        self._device = torch.device(device)
        self._table = _tabulate(scene, self._device)
        self._texels, self._level_start = _mip_bank(scene.bank_seed, str(device))
        self._lights = torch.tensor(scene.lights, dtype=torch.float32, device=self._device)
        self._ambient = scene.ambient

    @torch.no_grad()
    def render(
        self, K: FloatArray, hw: tuple[int, int], T_world_cam: FloatArray, supersample: int = 2
    ) -> Rendering:
        """Render one view.

        Args:
            K: (3, 3) pinhole matrix.
            hw: height and width in pixels.
            T_world_cam: (4, 4) camera-to-world pose, x right, y down, z forward.
            supersample: rays along each side of a pixel for the colour.

        Raises:
            SceneError: a size or `supersample` below 1.
        """
        if min(hw) < 1 or supersample < 1:
            raise SceneError(f"cannot render {hw} pixels with supersample {supersample}")
        with _one_thread():
            return self._render(K, hw, T_world_cam, supersample)

    def _render(
        self, K: FloatArray, hw: tuple[int, int], T_world_cam: FloatArray, supersample: int
    ) -> Rendering:
        rays = _Rays(K, hw, T_world_cam, 1, self._device)
        depth, index = _trace(rays, self._table)
        hit = depth < math.inf
        z = torch.where(hit, depth, 0.0)
        points = torch.stack([rays.x * z, rays.y[:, None] * z, z], -1)
        normals = _surface(rays, z, index, self._table.rows, slice(None)).normal
        R_cam_world = torch.tensor(T_world_cam[:3, :3].T, dtype=torch.float32, device=self._device)
        normals = torch.where(hit[..., None], normals @ R_cam_world.T, 0.0)
        if supersample > 1:
            rays = _Rays(K, hw, T_world_cam, supersample, self._device)
            depth, index = _trace(rays, self._table)
        rgb = self._shade(rays, depth, index)
        if supersample > 1:
            rgb = functional.avg_pool2d(rgb.permute(2, 0, 1), supersample).permute(1, 2, 0)
        image = (rgb * 255 + 0.5).to(torch.uint8)
        return Rendering(*(t.cpu().numpy() for t in (image, z, normals, points)))

    @torch.no_grad()
    def depth(self, K: FloatArray, hw: tuple[int, int], T_world_cam: FloatArray) -> FloatArray:
        """Render only exact depth, (H, W) float32, metres; 0 where a ray leaves the scene."""
        with _one_thread():
            depth, _ = _trace(_Rays(K, hw, T_world_cam, 1, self._device), self._table)
        return np.asarray(torch.where(depth < math.inf, depth, 0.0).cpu().numpy())

    def _shade(self, rays: _Rays, depth: Tensor, index: Tensor) -> Tensor:
        """Shade (h, w, 3) display colours in [0, 1], in bands of rows that fit the CPU cache."""
        band = len(depth) if self._device.type != "cpu" else max(1, BAND_RAYS // depth.shape[1])
        bands = [slice(k, k + band) for k in range(0, len(depth), band)]
        return torch.cat([self._shade_band(rays, depth[b], index[b], b) for b in bands])

    def _shade_band(self, rays: _Rays, depth: Tensor, index: Tensor, rows: slice) -> Tensor:
        """Apply texture, point lights without shadows, and gamma 2."""
        hit = depth < math.inf
        z = torch.where(hit, depth, 1.0)
        s = _surface(rays, z, index, self._table.rows, rows)
        d = rays.world[rows]
        facing = (s.normal * d).sum(-1).abs() * torch.rsqrt((d * d).sum(-1))
        albedo = self._albedo(s, z / facing.clamp_min(0.15) * rays.pixel_rad)
        light = self._ambient * (0.85 + 0.15 * s.normal[..., 2])
        for *position, power in self._lights.tolist():
            if power == 0.0:
                continue
            to = torch.tensor(position, device=self._device) - s.world
            r2 = (to * to).sum(-1)
            lambert = (s.normal * to).sum(-1).clamp_min(0) * torch.rsqrt(r2)
            light = light + power * lambert / (1 + 0.25 * r2)
        light = torch.maximum(light, s.row[..., 17])
        color = (albedo * light[..., None]).clamp_(0, 1).sqrt_()
        return torch.where(hit[..., None], color, 0.0)

    def _albedo(self, surface: _Surface, footprint_m: Tensor) -> Tensor:
        """Look up the albedo bilinearly at the mip level of the pixel's footprint."""
        row, local = surface.row, surface.local
        a = surface.local_normal.abs()
        on_top = (a[..., 2] >= a[..., 0]) & (a[..., 2] >= a[..., 1])
        on_x = ~on_top & (a[..., 0] >= a[..., 1])
        u = torch.where(on_x, local[..., 1], local[..., 0]) / row[..., 10] + row[..., 12]
        v = torch.where(on_top, local[..., 1], -local[..., 2]) / row[..., 11] + row[..., 13]
        texels = footprint_m * SIDE / torch.minimum(row[..., 10], row[..., 11])
        level = torch.log2(texels.clamp_min(1.0)).round_().clamp_(0, MIP_LEVELS - 1).long()
        size = SIDE >> level
        base = self._level_start[level] + row[..., 9].long() * size * size
        fu, fv = (u - u.floor()) * size - 0.5, (v - v.floor()) * size - 0.5
        u0, v0 = fu.floor(), fv.floor()
        wu, wv = (fu - u0)[..., None], (fv - v0)[..., None]
        mask = size - 1
        u0i, v0i = u0.long(), v0.long()
        top, bottom = base + (v0i & mask) * size, base + ((v0i + 1) & mask) * size
        left, right = u0i & mask, (u0i + 1) & mask
        upper = torch.lerp(self._fetch(top + left), self._fetch(top + right), wu)
        lower = torch.lerp(self._fetch(bottom + left), self._fetch(bottom + right), wu)
        return torch.lerp(upper, lower, wv)[..., :3] * row[..., 14:17]

    def _fetch(self, index: Tensor) -> Tensor:
        return self._texels.index_select(0, index.reshape(-1)).view(*index.shape, 4)


def render_view(
    scene: Scene,
    K: FloatArray,
    hw: tuple[int, int],
    T_world_cam: FloatArray,
    *,
    supersample: int = 2,
    device: str = "cpu",
) -> Rendering:
    """Render one view of a scene; see `Renderer.render`."""
    return Renderer(scene, device).render(K, hw, T_world_cam, supersample)


def pinhole(fov_rad: float, hw: tuple[int, int]) -> FloatArray:
    """Return a (3, 3) pinhole matrix with square pixels and the principal point in the middle.

    Args:
        fov_rad: horizontal field of view, from the left edge to the right edge of the image.
        hw: height and width in pixels.
    """
    f = hw[1] / 2 / math.tan(fov_rad / 2)
    return np.array([[f, 0, (hw[1] - 1) / 2], [0, f, (hw[0] - 1) / 2], [0, 0, 1.0]])


@contextmanager
def _one_thread() -> Iterator[None]:
    """Use one thread: the tensors are small, and more threads cost a lot on a busy processor."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Rays:
    """Directions of all rays of a view, camera z = 1, so that depth is the ray parameter."""

    def __init__(
        self,
        K: FloatArray,
        hw: tuple[int, int],
        T_world_cam: FloatArray,
        supersample: int,
        device: torch.device,
    ) -> None:
        n = supersample
        u, v = ((np.arange(s * n) + 0.5) / n - 0.5 for s in (hw[1], hw[0]))
        self.T_world_cam = np.asarray(T_world_cam, float)
        self.x_np, self.y_np = (u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1]
        self.x = torch.tensor(self.x_np, dtype=torch.float32, device=device)
        self.y = torch.tensor(self.y_np, dtype=torch.float32, device=device)
        self.pixel_rad = 1.0 / (float(K[0, 0]) * n)
        self.origin = torch.tensor(self.T_world_cam[:3, 3], dtype=torch.float32, device=device)
        self.world = self.directions(self.T_world_cam[:3, :3], slice(None), slice(None))

    def directions(self, R: FloatArray, rows: slice, cols: slice) -> Tensor:
        """Return (h, w, 3) R @ (x, y, 1) for a block of rays."""
        return torch.stack(self.components(R, rows, cols), -1)

    def components(self, R: FloatArray, rows: slice, cols: slice) -> list[Tensor]:
        """Return the three (h, w) components of `directions`."""
        x, y = self.x[cols][None], self.y[rows][:, None]
        return [float(r[0]) * x + (float(r[1]) * y + float(r[2])) for r in R]


def _tabulate(scene: Scene, device: torch.device) -> _Table:
    parts = scene.parts
    center, half = np.stack([p.center for p in parts]), np.stack([p.half for p in parts])
    cos_sin = np.array([[math.cos(p.yaw), math.sin(p.yaw)] for p in parts])
    kind = np.array([int(p.kind) for p in parts])
    signs = np.array([[i, j, k] for i in (-1, 1) for j in (-1, 1) for k in (-1, 1)])
    local = half[:, None] * signs  # (N, 8, 3)
    c, s = cos_sin[:, None, 0], cos_sin[:, None, 1]
    x, y = c * local[..., 0] - s * local[..., 1], s * local[..., 0] + c * local[..., 1]
    corners = center[:, None] + np.stack([x, y, local[..., 2]], -1)
    look = [[p.texture, *p.repeat_m, *p.offset, *p.tint, p.emission, 0.0] for p in parts]
    rows = np.concatenate([kind[:, None], center, half, cos_sin, np.array(look)], 1)
    tensor = torch.tensor(rows, dtype=torch.float32, device=device)
    return _Table(kind, center, half, cos_sin, corners, tensor)


@lru_cache(maxsize=2)
def _mip_bank(seed: int, device: str) -> tuple[Tensor, Tensor]:
    """Return all texels of all levels, (T, 4), and where each level starts."""
    level = torch.from_numpy(texture_bank(seed)).permute(0, 3, 1, 2)
    flat, start, total = [], [], 0
    for _ in range(MIP_LEVELS):
        start.append(total)
        flat.append(functional.pad(level.permute(0, 2, 3, 1).reshape(-1, 3), (0, 1)))
        total += len(flat[-1])
        level = functional.avg_pool2d(level, 2)
    if start[1] != BANK_SIZE * SIDE * SIDE:
        raise SceneError(f"texture bank has {start[1]} texels, expected {BANK_SIZE} of {SIDE}^2")
    return torch.cat(flat).to(device), torch.tensor(start, device=device)


def _trace(rays: _Rays, table: _Table) -> tuple[Tensor, Tensor]:
    """Find every ray's nearest hit: (h, w) depth, inf for none, and (h, w) index of the part."""
    h, w = len(rays.y), len(rays.x)
    depth = torch.full((h, w), math.inf, device=rays.x.device)
    index = torch.zeros((h, w), dtype=torch.int32, device=rays.x.device)
    R_world_cam, position = rays.T_world_cam[:3, :3], rays.T_world_cam[:3, 3]
    for k, rows, cols in _visible_blocks(rays, table):
        c, s = table.cos_sin[k]
        R_local_world = np.array([[c, s, 0.0], [-s, c, 0.0], [0.0, 0.0, 1.0]])
        origin = R_local_world @ (position - table.center[k])
        d = rays.components(R_local_world @ R_world_cam, rows, cols)
        intersect = (_hit_box, _hit_cylinder, _hit_sphere)[int(table.kind[k])]
        t, hit = intersect(d, origin, table.half[k])
        best = depth[rows, cols]
        closer = hit & (t > NEAR_M) & (t < best)
        best.copy_(torch.where(closer, t, best))
        index[rows, cols].masked_fill_(closer, k)
    return depth, index


def _visible_blocks(rays: _Rays, table: _Table) -> list[tuple[int, slice, slice]]:
    """Return parts that may be visible, each with the image block around its projected corners."""
    R, t = rays.T_world_cam[:3, :3], rays.T_world_cam[:3, 3]
    p = (table.corners - t) @ R  # (N, 8, 3) in the camera frame
    x, y, z = p[..., 0], p[..., 1], p[..., 2]
    xs, ys = rays.x_np, rays.y_np
    outside = (
        (z < NEAR_M).all(1)
        | (x < xs[0] * z).all(1)
        | (x > xs[-1] * z).all(1)
        | (y < ys[0] * z).all(1)
        | (y > ys[-1] * z).all(1)
    )
    blocks = []
    for k in np.flatnonzero(~outside):
        rows, cols = slice(0, len(ys)), slice(0, len(xs))
        if z[k].min() > NEAR_M:
            px, py = x[k] / z[k], y[k] / z[k]
            cols = slice(*_index_range(xs, px.min(), px.max()))
            rows = slice(*_index_range(ys, py.min(), py.max()))
        if rows.start < rows.stop and cols.start < cols.stop:
            blocks.append((int(k), rows, cols))
    return blocks


def _index_range(coords: FloatArray, low: float, high: float) -> tuple[int, int]:
    """Return the slice of an increasing array that covers [low, high], with one extra per side."""
    first, last = np.searchsorted(coords, [low, high])
    return max(int(first) - 1, 0), min(int(last) + 1, len(coords))


def _slab(d: Tensor, origin: float, half: float) -> tuple[Tensor, Tensor]:
    """Return the ray parameters at which one coordinate enters and leaves [-half, half]."""
    inverse = torch.reciprocal(d + 1e-9)
    middle, reach = inverse * -origin, inverse.abs() * half
    return middle - reach, middle + reach


def _hit_box(d: list[Tensor], origin: FloatArray, half: FloatArray) -> tuple[Tensor, Tensor]:
    enter, leave = _slab(d[0], float(origin[0]), float(half[0]))
    for k in (1, 2):
        low, high = _slab(d[k], float(origin[k]), float(half[k]))
        enter, leave = torch.maximum(enter, low), torch.minimum(leave, high)
    return enter, enter < leave


def _hit_cylinder(d: list[Tensor], origin: FloatArray, half: FloatArray) -> tuple[Tensor, Tensor]:
    ox, oy = float(origin[0]), float(origin[1])
    a = d[0] * d[0] + d[1] * d[1] + 1e-12
    b = d[0] * ox + d[1] * oy
    disc = b * b - a * (ox * ox + oy * oy - float(half[0]) ** 2)
    root = disc.clamp_min(0).sqrt()
    low, high = _slab(d[2], float(origin[2]), float(half[2]))
    enter, leave = torch.maximum((-b - root) / a, low), torch.minimum((root - b) / a, high)
    return enter, (disc > 0) & (enter < leave)


def _hit_sphere(d: list[Tensor], origin: FloatArray, half: FloatArray) -> tuple[Tensor, Tensor]:
    a = d[0] * d[0] + d[1] * d[1] + d[2] * d[2]
    b = d[0] * float(origin[0]) + d[1] * float(origin[1]) + d[2] * float(origin[2])
    disc = b * b - a * (float(origin @ origin) - float(half[0]) ** 2)
    return (-b - disc.clamp_min(0).sqrt()) / a, disc > 0


class _Surface(NamedTuple):
    """Surface hit per pixel: the part's row; hit and normal in the part's and in the world frame.

    The world normal faces the camera.
    """

    row: Tensor
    local: Tensor
    local_normal: Tensor
    world: Tensor
    normal: Tensor


def _surface(rays: _Rays, depth: Tensor, index: Tensor, rows: Tensor, band: slice) -> _Surface:
    """Return the surface at finite depths (h, w) of a band of image rows."""
    row = rows.index_select(0, index.reshape(-1)).view(*index.shape, rows.shape[1])
    directions = rays.world[band]
    world = rays.origin + depth[..., None] * directions
    q = world - row[..., 1:4]
    c, s = row[..., 7], row[..., 8]
    local = torch.stack(
        [c * q[..., 0] + s * q[..., 1], c * q[..., 1] - s * q[..., 0], q[..., 2]], -1
    )
    n = _local_normal(row, local)
    normal = torch.stack(
        [c * n[..., 0] - s * n[..., 1], s * n[..., 0] + c * n[..., 1], n[..., 2]], -1
    )
    away = (normal * directions).sum(-1, keepdim=True) > 0
    return _Surface(row, local, n, world, torch.where(away, -normal, normal))


def _local_normal(row: Tensor, local: Tensor) -> Tensor:
    """Return unit normals in the parts' frames."""
    unit = local / row[..., 4:7]
    kind = row[..., 0]
    a = unit.abs()
    face = (a >= a.amax(-1, keepdim=True)).to(unit.dtype) * unit.sign()
    cap = (kind == Kind.CYLINDER) & (row[..., 6] - local[..., 2].abs() < 1e-3 * row[..., 6])
    cap &= (unit[..., 0] ** 2 + unit[..., 1] ** 2) < 0.999
    flat = torch.tensor([0.0, 0.0, 1.0], device=unit.device) * unit.sign()
    side = unit * torch.tensor([1.0, 1.0, 0.0], device=unit.device)
    round_ = torch.where(cap[..., None], flat, side)
    round_ = torch.where((kind == Kind.SPHERE)[..., None], unit, round_)
    return functional.normalize(torch.where((kind == Kind.BOX)[..., None], face, round_), dim=-1)
