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

"""A cost-volume network: estimates a view's inverse depth from its neighbours, with known poses.

In a plane sweep, source features are warped onto the view for each of `planes` inverse depths and
compared by cosine. A small 3-D hourglass, gated channel by channel by the image, reads the volume.
A second, finer sweep around its result gives half the image size. All scale-dependent quantities
are relative to the caller's inverse depth range, so the network depends neither on metres nor on a
camera and learns only geometry.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

SOFTEST_SHARE = 0.1
"""Planes are evenly spaced in log(q + q0), with q0 this fraction of the largest inverse depth q.
The weights are trained with it, and with the next two constants."""
LOCAL_PLANES = 2
"""Number of planes on each side of the best one that are used to refine it."""
CONTRAST_PX = 9
"""Side of the neighbourhood whose mean and contrast are removed from the grey image."""
BEHIND = 1e-4
"""Points less than this in front of the other camera are not in its image; dividing by less
overflows."""


@dataclass(frozen=True)
class SweepConfig:
    """Sizes of the network.

    Attributes:
        planes: number of inverse depths of the sweep at a quarter of the image size.
        channels: feature channels compared in that sweep.
        groups: number of channel groups that are compared separately.
        fine_channels: feature channels at half the image size.
        fine_planes: number of inverse depths of the second sweep; odd.
        fine_step: spacing of these, in planes of the first sweep.
        sources: maximum number of source views in a sweep.
    """

    planes: int = 32
    channels: int = 16
    groups: int = 4
    fine_channels: int = 8
    fine_planes: int = 7
    fine_step: float = 0.4
    sources: int = 4


class Features(NamedTuple):
    """Features kept for one view.

    Attributes:
        match: (B, C, H/4, W/4) unit vectors to compare.
        fine: (B, F, H/2, W/2) unit vectors to compare.
        guide: (B, 32, H/4, W/4) image features.
        fine_guide: (B, 16, H/2, W/2) finer image features.
    """

    match: Tensor
    fine: Tensor
    guide: Tensor
    fine_guide: Tensor


class Depth(NamedTuple):
    """Prediction for one view; places count planes from the farthest, 0.

    Attributes:
        place: (B, H/2, W/2) place of the surface.
        log_error: (B, H/2, W/2) logarithm of the expected error of its log depth.
        coarse: (B, H/4, W/4) place from the first sweep alone.
        logits: (B, D, H/4, W/4) over the planes of the first sweep.
        fine_logits: (B, F, H/2, W/2) over the planes of the second sweep.
        fine_centre: (B, H/2, W/2) place that the second sweep is centred on.
    """

    place: Tensor
    log_error: Tensor
    coarse: Tensor
    logits: Tensor
    fine_logits: Tensor
    fine_centre: Tensor


def _conv(i: int, o: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    layer = nn.Conv2d(i, o, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(o), nn.ReLU(inplace=True))


def _conv3(i: int, o: int, stride: int = 1) -> nn.Sequential:
    layer = nn.Conv3d(i, o, 3, stride, 1, bias=False)
    return nn.Sequential(layer, nn.BatchNorm3d(o), nn.ReLU(inplace=True))


def cosine_waves(count: int, size: int = 8) -> Tensor:
    """Return (count, 1, size, size) lowest waves of a cosine transform, without the constant."""
    n = torch.arange(size)
    wave = torch.cos(math.pi / size * (n[None] + 0.5) * n[:, None]) * math.sqrt(2 / size)
    wave[0] /= math.sqrt(2)
    order = sorted((i + j, abs(i - j), i, j) for i in range(size) for j in range(size))[1:]
    kernels = [torch.outer(wave[i], wave[j]) for _, _, i, j in order[:count]]
    return torch.stack(kernels)[:, None]


class Encoder(nn.Module):
    """Encoder for one view, from its image alone."""

    waves: Tensor
    fine_waves: Tensor

    def __init__(self, config: SweepConfig) -> None:
        super().__init__()
        self.to_half = nn.Sequential(_conv(4, 16, 5, 2), _conv(16, 16))
        self.to_quarter = nn.Sequential(_conv(16, 32, 3, 2), _conv(32, 32), _conv(32, 32))
        self.to_eighth = nn.Sequential(_conv(32, 48, 3, 2), _conv(48, 48))
        self.to_sixteenth = nn.Sequential(_conv(48, 64, 3, 2), _conv(64, 64), _conv(64, 64))
        self.up8 = _conv(64 + 48, 48)
        self.up4 = _conv(48 + 32, 32)
        self.match = nn.Conv2d(64, config.channels, 3, 1, 1)
        self.fine = nn.Conv2d(16, config.fine_channels, 3, 1, 1)
        for head in (self.match, self.fine):
            nn.init.normal_(head.weight, std=1e-3)
            _fill(head.bias, 0.0)
        self.register_buffer("waves", cosine_waves(config.channels))
        self.register_buffer("fine_waves", cosine_waves(config.fine_channels))

    def forward(self, images: Tensor) -> Features:
        """Encode (B, 3, H, W) images in [0, 1]."""
        flat = _without_lighting(images.mean(1, keepdim=True))
        half = self.to_half(torch.cat([images * 2 - 1, flat], 1))
        quarter = self.to_quarter(half)
        eighth = self.to_eighth(quarter)
        deep = self.up8(torch.cat([_double(self.to_sixteenth(eighth)), eighth], 1))
        guide = self.up4(torch.cat([_double(deep), quarter], 1))
        waves = functional.conv2d(flat, self.waves, stride=4, padding=2)
        fine_waves = functional.conv2d(flat, self.fine_waves, stride=2, padding=3)
        match = waves + self.match(torch.cat([quarter, guide], 1))
        fine = fine_waves + self.fine(half)
        return Features(_unit(match), _unit(fine), guide, half)


def _fill(bias: Tensor | None, value: float) -> None:
    assert bias is not None
    nn.init.constant_(bias, value)


def _without_lighting(gray: Tensor) -> Tensor:
    """Remove the mean and contrast of each neighbourhood from a grey image."""
    pad = CONTRAST_PX // 2
    wide = functional.pad(gray, (pad,) * 4, mode="replicate")
    mean = functional.avg_pool2d(wide, CONTRAST_PX, 1)
    square = functional.avg_pool2d(wide * wide, CONTRAST_PX, 1)
    contrast = (square - mean * mean).clamp_min(0).sqrt()
    return (gray - mean) / (contrast + 0.03)


def _unit(x: Tensor) -> Tensor:
    return x * torch.rsqrt((x * x).sum(1, keepdim=True) + 1e-3)


def _double(x: Tensor) -> Tensor:
    """Double the length of each of the last dimensions, without interpolation.

    By stacking: ONNX Runtime's Resize takes 15 times as long on volumes.
    """
    for dim in range(x.dim() - 1, 1, -1):
        x = torch.stack([x, x], dim + 1).flatten(dim, dim + 1)
    return x


class Hourglass(nn.Module):
    """3-D convolutions over (plane, row, column), down to an eighth of the volume and back."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.start = _conv3(inputs, 8)
        self.down1 = nn.Sequential(_conv3(8, 16, 2), _conv3(16, 16))
        self.down2 = nn.Sequential(_conv3(16, 24, 2), _conv3(24, 24))
        self.down3 = nn.Sequential(_conv3(24, 32, 2), _conv3(32, 32), _conv3(32, 32))
        self.up2 = _conv3(32 + 24, 24)
        self.up1 = _conv3(24 + 16, 16)
        self.lift0 = nn.Conv3d(16, 8, 1)
        self.up0 = _conv3(8, 8)
        self.answer = nn.Conv3d(8, 1, 3, 1, 1)
        self.gate0 = nn.Conv2d(32, 8, 1)
        self.context1 = _conv(32, 32, 3, 2)
        self.gate1 = nn.Conv2d(32, 16, 1)
        self.context2 = _conv(32, 48, 3, 2)
        self.gate2 = nn.Conv2d(48, 24, 1)
        self.context3 = _conv(48, 64, 3, 2)
        self.gate3 = nn.Conv2d(64, 32, 1)
        self.gate_up = nn.Conv2d(32, 8, 1)
        nn.init.normal_(self.answer.weight, std=1e-3)

    def forward(self, volume: Tensor, guide: Tensor) -> Tensor:
        """Return corrections (B, D, h, w) to the logits of the planes."""
        c1 = self.context1(guide)
        c2 = self.context2(c1)
        c3 = self.context3(c2)
        if self.training:  # twice as fast on a CPU
            volume = volume.contiguous(memory_format=torch.channels_last_3d)
        x0 = _opened(self.start(volume), self.gate0(guide))
        x1 = _opened(self.down1(x0), self.gate1(c1))
        x2 = _opened(self.down2(x1), self.gate2(c2))
        x3 = _opened(self.down3(x2), self.gate3(c3))
        x2 = self.up2(torch.cat([_double(x3), x2], 1))
        x1 = self.up1(torch.cat([_double(x2), x1], 1))
        x0 = self.up0(_double(self.lift0(x1)) + x0)
        x0 = _opened(x0, self.gate_up(guide))
        answer: Tensor = self.answer(x0)[:, 0]
        return answer


def _opened(volume: Tensor, gate: Tensor) -> Tensor:
    return volume * (2 * torch.sigmoid(gate))[:, :, None]


class Reader(nn.Module):
    """Estimates the inverse depth of one view from its features and those of its sources."""

    def __init__(self, config: SweepConfig) -> None:
        super().__init__()
        self.config = config
        self.hourglass = Hourglass(config.groups + 3)
        self.gain = nn.Parameter(torch.tensor(10.0))
        self.weights = nn.Sequential(_conv(32 + 4, 32), nn.Conv2d(32, 4 * 9, 1))
        width = 2 * config.fine_planes + 16 + 3
        self.refine = nn.Sequential(_conv(width, 32), _conv(32, 32), _conv(32, 32))
        self.offsets = nn.Conv2d(32, config.fine_planes, 1)
        self.error = nn.Conv2d(32, 1, 1)
        nn.init.zeros_(self.offsets.weight)
        _fill(self.offsets.bias, 0.0)
        nn.init.zeros_(self.error.weight)
        _fill(self.error.bias, -2.5)
        self.fine_gain = nn.Parameter(torch.tensor(10.0))

    def forward(
        self,
        view: Features,
        sources: tuple[Tensor, Tensor],
        projection: Tensor,
        weight: Tensor,
        range_q: Tensor,
    ) -> Depth:
        """Sweep twice.

        Args:
            view: features of the view.
            sources: match (B, S, C, h, w) and fine (B, S, F, 2h, 2w) features of the sources.
            projection: (B, S, 3, 4) from (x, y, 1, q) of the view to homogeneous (x, y) of the
                source, both in [-1, 1] over the image, in `grid_sample`'s convention without
                aligned corners.
            weight: (B, S) 1 for a source, 0 for an empty slot.
            range_q: (B, 2) smallest and largest inverse depth.
        """
        config = self.config
        height, width = view.match.shape[-2:]
        places = torch.arange(config.planes, device=view.match.device, dtype=view.match.dtype)
        q = place_to_q(places[None, :, None, None], range_q[:, :, None, None, None], config.planes)
        q = q.expand(-1, -1, height, width)
        grouped, best, second, seen = self._compare(
            view.match, sources[0], projection, weight, q, config.groups
        )
        matched = 0.5 * (best + second)
        volume = torch.cat([grouped, torch.stack([best, second, seen], 1)], 1)
        logits = self.gain * matched + self.hourglass(volume, view.guide)
        coarse, sharp = _peak(logits, places)
        stats = torch.stack([coarse / config.planes, sharp], 1)
        stats = torch.cat([stats, matched.amax(1, True), seen.mean(1, True)], 1)
        centre = self._finer(coarse, torch.cat([view.guide, stats], 1))
        place, log_error, fine_logits = self._refined(
            centre, view, sources[1], projection, weight, range_q, stats
        )
        return Depth(place, log_error, coarse, logits, fine_logits, centre)

    def _compare(
        self,
        match: Tensor,
        sources: Tensor,
        projection: Tensor,
        weight: Tensor,
        q: Tensor,
        groups: int,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Compute the cosines of the features over all sources, at inverse depths q (B, D, h, w).

        Returns:
            (B, groups, D, h, w) mean of each group; (B, D, h, w) each: the best source, the second
            best, and the fraction of sources with the point in their image.
        """
        b, channels, h, w = match.shape
        planes = q.shape[1]
        base = match.view(b, groups, channels // groups, 1, h, w)
        xy = _normalised_grid(h, w, match)
        total = match.new_zeros(b, groups, planes, h, w)
        seen = match.new_zeros(b, planes, h, w)
        best, second = seen - 1.0, seen - 1.0
        for s in range(self.config.sources):
            rotated = (projection[:, s, :, :3] @ xy).view(b, 3, h, w)
            at = rotated[:, :, None] + projection[:, s, :, 3, None, None, None] * q[:, None]
            z = at[:, 2]
            grid = at[:, :2] / z.clamp_min(BEHIND)[:, None]
            inside = (z > BEHIND) & (grid.abs().amax(1) < 1.0)
            there = inside.to(q.dtype) * weight[:, s, None, None, None]
            grid = grid.clamp(-2, 2).permute(0, 2, 3, 4, 1).reshape(b, planes * h, w, 2)
            warped = functional.grid_sample(sources[:, s], grid, align_corners=False)
            warped = warped.view(b, groups, channels // groups, planes, h, w)
            cosine = (warped * base).sum(2) * there[:, None]
            total = total + cosine
            seen = seen + there
            whole = cosine.sum(1) + (there - 1.0)
            second = torch.maximum(second, torch.minimum(best, whole))
            best = torch.maximum(best, whole)
        mean = total / seen.clamp_min(1.0)[:, None]
        # -1: only one source sees the point
        second = torch.where(second > -0.999, second, best)
        return mean * groups, best, second, seen / self.config.sources

    def _finer(self, coarse: Tensor, guide: Tensor) -> Tensor:
        """Upsample to (B, 2h, 2w), mixing the nine coarse neighbours so that edges stay sharp."""
        b, h, w = coarse.shape
        mix = self.weights(guide).view(b, 9, 4, h, w).softmax(1)
        padded = functional.pad(coarse[:, None], (1, 1, 1, 1), mode="replicate")
        near = torch.stack(
            [padded[:, 0, i : i + h, j : j + w] for i in range(3) for j in range(3)], 1
        )
        return functional.pixel_shuffle((mix * near[:, :, None]).sum(1), 2)[:, 0]

    def _refined(
        self,
        centre: Tensor,
        view: Features,
        sources: Tensor,
        projection: Tensor,
        weight: Tensor,
        range_q: Tensor,
        stats: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        config = self.config
        steps = torch.arange(config.fine_planes, device=centre.device, dtype=centre.dtype)
        steps = (steps - config.fine_planes // 2) * config.fine_step
        places = centre.detach()[:, None] + steps[None, :, None, None]
        q = place_to_q(places, range_q[:, :, None, None, None], config.planes).clamp_min(0)
        grouped, best, second, _ = self._compare(view.fine, sources, projection, weight, q, 1)
        matched = 0.5 * (best + second)
        wide = _double(stats[:, 1:])
        x = self.refine(torch.cat([grouped[:, 0], matched, view.fine_guide, wide], 1))
        logits = self.fine_gain * matched + self.offsets(x)
        weights = logits.softmax(1)
        place = centre + (weights * steps[None, :, None, None]).sum(1)
        return place, self.error(x)[:, 0], logits


class SweepNetwork(nn.Module):
    """Encoder and reader together."""

    def __init__(self, config: SweepConfig | None = None) -> None:
        """Initialise random weights, except for filters that compare plain patches."""
        super().__init__()
        self.config = config or SweepConfig()
        self.encoder = Encoder(self.config)
        self.reader = Reader(self.config)


def place_to_q(place: Tensor, range_q: Tensor, planes: int) -> Tensor:
    """Return the inverse depth at a plane index; `range_q` (B, 2, ...) broadcasts with it."""
    low, high = range_q[:, 0], range_q[:, 1]
    soft = SOFTEST_SHARE * high
    step = torch.log((high + soft) / (low + soft)) / (planes - 1)
    return (low + soft) * torch.exp(step * place) - soft


def q_to_place(q: Tensor, range_q: Tensor, planes: int) -> Tensor:
    """Return the plane index of an inverse depth."""
    low, high = range_q[:, 0], range_q[:, 1]
    soft = SOFTEST_SHARE * high
    step = torch.log((high + soft) / (low + soft)) / (planes - 1)
    return torch.log((q + soft) / (low + soft)) / step


def _normalised_grid(h: int, w: int, like: Tensor) -> Tensor:
    """Return (3, h * w) homogeneous pixel centres, from -1 to 1 over the image."""
    y = (2 * torch.arange(h, device=like.device, dtype=like.dtype) + 1) / h - 1
    x = (2 * torch.arange(w, device=like.device, dtype=like.dtype) + 1) / w - 1
    ones = like.new_ones(h, w)
    return torch.stack([x * ones, y[:, None] * ones, ones]).flatten(1)


def _peak(logits: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean place near the best plane, and the probability mass there."""
    probability = logits.softmax(1)
    top = probability.argmax(1, keepdim=True).to(logits.dtype)
    near = (places[None, :, None, None] - top).abs() <= LOCAL_PLANES
    local = probability * near.to(logits.dtype)
    share = local.sum(1)
    return (local * places[None, :, None, None]).sum(1) / share.clamp_min(1e-6), share
