"""The map that recorded depth and poses would have given, to hold the real one against."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mvdust3r_ros.config import MapSettings
from mvdust3r_ros.datatypes import FloatArray, Frame, MvDust3rError, OccupancyGrid
from mvdust3r_ros.floor import fit_floor
from mvdust3r_ros.geometry import Sim3, backproject
from mvdust3r_ros.occupancy import OccupancyMap
from mvdust3r_ros.preprocess import view_from_frame

MAX_VIEWS = 300
FLOOR_TILT_DEG = 10.0


@dataclass(frozen=True)
class TrueView:
    """What one frame really saw.

    Attributes:
        T_world_cam: (4, 4) true pose.
        points_world: (N, 3) float32.
    """

    T_world_cam: FloatArray
    points_world: FloatArray


class TrueMapBuilder:
    """Collects true points as the frames go by; keeps an even choice of at most 300 frames."""

    def __init__(self, settings: MapSettings, image_hw: tuple[int, int]) -> None:
        """Nothing yet.

        Args:
            settings: of the grid, and which pixels it is made of.
            image_hw: size of the views, as the engine takes them.
        """
        self._settings = settings
        self._image_hw = image_hw
        self._stride = 1
        self._seen = 0
        self.views: list[TrueView] = []

    def add(self, frame: Frame) -> None:
        """Take in a frame; one without depth, true pose or intrinsics is passed over."""
        if frame.depth_m is None or frame.T_world_cam is None or frame.camera is None:
            return
        self._seen += 1
        if (self._seen - 1) % self._stride:
            return
        try:
            view = view_from_frame(frame, self._image_hw)
        except MvDust3rError:
            return
        assert view.depth_m is not None and view.K is not None
        thin = slice(self._settings.pixel_stride // 2, None, self._settings.pixel_stride)
        depth = np.nan_to_num(view.depth_m)
        known = ((depth > 0) & (depth < self._settings.max_depth_m))[thin, thin]
        cam = backproject(depth.astype(np.float64), view.K)[thin, thin][known]
        T = frame.T_world_cam
        points = (cam @ T[:3, :3].T + T[:3, 3]).astype(np.float32)
        self.views.append(TrueView(T, points))
        if len(self.views) > MAX_VIEWS:
            self.views, self._stride = self.views[::2], 2 * self._stride

    def grid(self, S_map_world: Sim3, floor_z_m: float) -> OccupancyGrid | None:
        """The grid of the true points.

        Args:
            S_map_world: where the true world lies in the map.
            floor_z_m: height of the floor in the map where the true points show none.

        Returns:
            The grid in the map frame, or None without true points.
        """
        placed = [
            (S_map_world.apply(v.T_world_cam[:3, 3]), S_map_world.apply(v.points_world))
            for v in self.views
            if len(v.points_world)
        ]
        if not placed:
            return None
        floors = [(fit_floor(p, c, FLOOR_TILT_DEG), c) for c, p in placed]
        heights = [f.height_at(c[:2]) for f, c in floors if f is not None]
        grid = OccupancyMap(self._settings, float(np.median(heights)) if heights else floor_z_m)
        for camera, points in placed:
            grid.add_view(camera, points)
        return grid.grid()
