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

"""The renderer of Gaussians: against one pixel at a time, and its gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from mvdust3r_ros.datatypes import MvDust3rError
from mvdust3r_ros.model import splatting
from mvdust3r_ros.model.gsplat_splatting import render_gsplat
from mvdust3r_ros.model.splatting import Gaussians3d, RenderOptions, render

K = torch.tensor([[30.0, 0, 13.2], [0, 32, 9.4], [0, 0, 1]], dtype=torch.float64)
HW = (21, 29)
BACKGROUND = (0.2, 0.5, 0.9)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def scene(count: int, seed: int = 0, largest: float = 0.3) -> Gaussians3d:
    rng = np.random.default_rng(seed)
    values = (
        rng.normal((0, 0, 2.5), (1.0, 0.7, 1.0), (count, 3)),
        rng.uniform(0.01, largest, (count, 3)),
        rng.normal(size=(count, 4)),
        rng.uniform(0, 1, count),
        rng.uniform(0, 1, (count, 3)),
    )
    return Gaussians3d(*(torch.from_numpy(v) for v in values))


def pose() -> torch.Tensor:
    T = np.eye(4)
    T[:3, :3] = Rotation.from_rotvec((0.1, -0.2, 0.3)).as_matrix()
    T[:3, 3] = 0.1, -0.2, 0.3
    return torch.from_numpy(T)


def naive(
    g: Gaussians3d, T_cam: torch.Tensor, hw: tuple[int, int], blur_px2: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every pixel by itself, every Gaussian in a loop: the formulae of Kerbl et al. 2023."""
    height, width = hw
    k, T = K.numpy(), T_cam.numpy()
    flat = []
    for mean, scale, quat, opacity, rgb in zip(*(t.detach().numpy() for t in g), strict=True):
        p = T[:3, :3] @ mean + T[:3, 3]
        if p[2] <= 0.01:
            continue
        R = Rotation.from_quat(quat[[1, 2, 3, 0]]).as_matrix()
        sigma = T[:3, :3] @ R @ np.diag(scale**2) @ R.T @ T[:3, :3].T
        u, v = np.clip((k @ (p / p[2]))[:2] + 0.5, -0.15 * np.array([width, height]),
                       1.15 * np.array([width, height])) - 0.5  # fmt: skip
        tx, ty = (u - k[0, 2]) / k[0, 0], (v - k[1, 2]) / k[1, 1]
        J = np.array([[k[0, 0], 0, -k[0, 0] * tx], [0, k[1, 1], -k[1, 1] * ty]]) / p[2]
        inverse = np.linalg.inv(J @ sigma @ J.T + blur_px2 * np.eye(2))
        uv = (k @ (p / p[2]))[:2]
        flat.append((p[2], uv, inverse, opacity, rgb))
    flat.sort(key=lambda item: item[0])
    image, alphas, depths = np.zeros((*hw, 3)), np.zeros(hw), np.zeros(hw)
    for v in range(height):
        for u in range(width):
            through = 1.0
            for depth, uv, inverse, opacity, rgb in flat:
                d = np.array([u, v]) - uv
                alpha = min(0.99, opacity * math.exp(-0.5 * d @ inverse @ d))
                if alpha < 1 / 255:
                    continue
                image[v, u] += through * alpha * rgb
                depths[v, u] += through * alpha * depth
                through *= 1 - alpha
            image[v, u] += through * np.array(BACKGROUND)
            alphas[v, u] = 1 - through
    return image, alphas, depths / np.maximum(alphas, 1 / 255)


@pytest.mark.parametrize("blur_px2", [0.1, 0.3])
@pytest.mark.parametrize(("count", "largest"), [(1, 0.3), (60, 0.05), (40, 0.5)])
def test_tiles_give_what_one_pixel_at_a_time_gives(
    count: int, largest: float, blur_px2: float
) -> None:
    g, T = scene(count, largest=largest), pose()
    made = render(g, K, T, HW, RenderOptions(BACKGROUND, blur_px2))
    for ours, theirs in zip(made, naive(g, T, HW, blur_px2), strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-12)


@pytest.mark.parametrize("tile", [3, 16, 64])
def test_neither_tiles_nor_portions_change_the_image(
    monkeypatch: pytest.MonkeyPatch, tile: int
) -> None:
    g, T = scene(80), pose()
    before = render(g, K, T, HW)
    monkeypatch.setattr(splatting, "TILE_PX", tile)
    monkeypatch.setattr(splatting, "PRODUCTS_AT_ONCE", 5000)
    for a, b in zip(before, render(g, K, T, HW), strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


def test_the_order_of_the_gaussians_does_not_matter() -> None:
    g, T = scene(50), pose()
    shuffled = torch.randperm(50, generator=torch.Generator().manual_seed(3))
    other = Gaussians3d(*(part[shuffled] for part in g))
    torch.testing.assert_close(render(g, K, T, HW).rgb, render(other, K, T, HW).rgb)


def test_a_gaussian_is_brightest_where_its_centre_is_projected() -> None:
    g = Gaussians3d(
        torch.tensor([[0.2, -0.1, 2.0]], dtype=torch.float64),
        torch.full((1, 3), 0.02, dtype=torch.float64),
        torch.tensor([[1.0, 0, 0, 0]], dtype=torch.float64),
        torch.ones(1, dtype=torch.float64),
        torch.ones(1, 3, dtype=torch.float64),
    )
    made = render(g, K, torch.eye(4, dtype=torch.float64), HW, RenderOptions((0, 0, 0)))
    v, u = np.unravel_index(int(made.alpha.argmax()), HW)
    assert (u, v) == (round(30 * 0.1 + 13.2), round(32 * -0.05 + 9.4))
    assert float(made.depth[v, u]) == pytest.approx(2.0)


def test_an_empty_view_is_background() -> None:
    behind = scene(20)._replace(means=scene(20).means - torch.tensor([0.0, 0, 100]))
    for g in (behind, Gaussians3d(*(part[:0] for part in scene(1)))):
        made = render(g, K, pose(), HW, RenderOptions(BACKGROUND))
        assert (made.rgb == torch.tensor(BACKGROUND, dtype=torch.float64)).all()
        assert not made.alpha.any() and not made.depth.any()


def test_an_opaque_wall_hides_what_is_behind_it() -> None:
    """What shows through is the 1 % that the least transparency leaves, of each layer."""
    y, x = torch.meshgrid(torch.linspace(-3, 3, 61), torch.linspace(-3, 3, 61), indexing="ij")
    wall = torch.stack((x, y, torch.full_like(x, 2)), -1).view(-1, 3).double()
    means = torch.cat((wall + torch.tensor([0, 0, 1.0]), wall))
    n = len(means)
    rgb = torch.zeros(n, 3, dtype=torch.float64)
    rgb[: n // 2, 0], rgb[n // 2 :, 1] = 1, 1  # red behind green
    g = Gaussians3d(
        means, torch.full((n, 3), 0.1, dtype=torch.float64),
        torch.tensor([[1.0, 0, 0, 0]]).double().expand(n, 4), torch.ones(n).double(), rgb,
    )  # fmt: skip
    made = render(g, K, torch.eye(4, dtype=torch.float64), HW)
    assert made.rgb[..., 1].min() > 0.99 and made.rgb[..., 0].max() < 0.01


def loss_of(parts: tuple[torch.Tensor, ...], T: torch.Tensor) -> torch.Tensor:
    made = render(Gaussians3d(*parts), K, T, (9, 11), RenderOptions(BACKGROUND, 0.3))
    weights = torch.linspace(-1, 1, made.rgb.numel(), dtype=torch.float64).view(made.rgb.shape)
    return (made.rgb * weights).sum() + made.depth.mean() + (made.alpha**2).mean()


@pytest.mark.parametrize("part", range(5))
def test_gradients_are_finite_differences(part: int) -> None:
    """Opacities keep off the ends, where the image has a kink."""
    g, T = scene(12, seed=4), pose()
    g = g._replace(opacity=g.opacity * 0.8 + 0.1)
    parts = [p.clone().requires_grad_(i == part) for i, p in enumerate(g)]
    loss_of(tuple(parts), T).backward()
    gradient = parts[part].grad
    assert gradient is not None and (gradient != 0).any()
    rng, step = np.random.default_rng(5), 1e-7
    for _ in range(12):
        at = tuple(int(rng.integers(n)) for n in g[part].shape)
        values = []
        for sign in (1, -1):
            moved = g[part].clone()
            moved[at] += sign * step
            others = [moved if i == part else p for i, p in enumerate(g)]
            values.append(float(loss_of(tuple(others), T)))
        found = (values[0] - values[1]) / (2 * step)
        assert float(gradient[at]) == pytest.approx(found, abs=2e-5, rel=1e-4)


def test_gaussians_can_be_fitted_to_an_image() -> None:
    """Colours and places that are off come back by descent alone."""
    g, T = scene(15, seed=7, largest=0.2), torch.eye(4, dtype=torch.float64)
    target = render(g, K, T, HW).rgb
    means = (g.means + 0.05).requires_grad_()
    rgb = torch.full_like(g.rgb, 0.5).requires_grad_()
    optimizer = torch.optim.Adam([means, rgb], lr=0.02)
    errors = []
    for _ in range(40):
        made = render(g._replace(means=means, rgb=rgb), K, T, HW).rgb
        loss = (made - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        errors.append(float(loss.detach()))
    assert errors[-1] < 0.1 * errors[0]


def test_float32_and_float64_agree() -> None:
    g, T = scene(60), pose()
    single = Gaussians3d(*(p.float() for p in g))
    low = render(single, K.float(), T.float(), HW).rgb
    assert float((low.double() - render(g, K, T, HW).rgb).abs().max()) < 2e-2


def test_gsplat_needs_cuda() -> None:
    with pytest.raises(MvDust3rError, match=r"needs a CUDA device; splatting\.render runs on any"):
        render_gsplat(scene(3), K, pose(), HW)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_gsplat_renders_the_same() -> None:
    """It cuts off at 3.33 sigmas at most, and where no more than 1e-4 comes through."""
    pytest.importorskip("gsplat", reason="gsplat is not installed")
    on_gpu = Gaussians3d(*(p.float().cuda() for p in scene(60)))
    arguments = (on_gpu, K.float().cuda(), pose().float().cuda(), HW, RenderOptions(BACKGROUND))
    for theirs, ours in zip(render_gsplat(*arguments), render(*arguments), strict=True):
        assert float((theirs - ours).abs().max()) < 0.05
        assert float((theirs - ours).abs().mean()) < 2e-3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_cuda_device_renders_the_same() -> None:
    g, T = scene(60), pose()
    on_gpu = Gaussians3d(*(p.cuda() for p in g))
    made = render(on_gpu, K.cuda(), T.cuda(), HW).rgb.cpu()
    torch.testing.assert_close(made, render(g, K, T, HW).rgb, atol=1e-10, rtol=0)
