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

"""Drives that fool stereo: rotation in place, a covered lens, a poster, a mirror, people.

All drives pass through one furnished room, without the furniture on the path. Depth is exact: the
surface of a mirror, and people where they are at that moment. Sizes are chosen as in a furnished
room.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mvdust3r_ros.datatypes import CameraModel, FloatArray, Frame, ImageArray, Trajectory
from mvdust3r_ros.geometry import backproject
from mvdust3r_ros.synthetic.furniture import Kind, Part
from mvdust3r_ros.synthetic.paths import Planar, Rig, camera_pose
from mvdust3r_ros.synthetic.render import Renderer, pinhole
from mvdust3r_ros.synthetic.scenes import SceneError, sample_room
from mvdust3r_ros.synthetic.sequence import CAMERA_NAME, START_NS, SequenceConfig, odometry
from mvdust3r_ros.synthetic.sequence import Sequence as Drive
from mvdust3r_ros.synthetic.textures import pick_texture

PACE_M, TURN_RAD = 0.1, math.radians(5)
"""Translation and rotation between two frames: at 10 Hz, 1 m/s and 50 deg/s, as fast as indoor
robots move."""
TURN_AFTER_M = 2.0
"""Distance before the turn: enough keyframes for a map that the turn must fit."""
RATE_HZ = 10.0
"""Frame rate, matching the pace above."""
LANE_LENGTH_M, WALL_AHEAD_M = 3.0, 1.1
"""Length of the path, and the distance left to the wall at its end."""
LANE_M = 0.8
"""Furniture closer to the path than this is removed from the room."""
ON_WALL_M = 0.08
"""Parts whose centre is closer to a wall than this are the wall, or hang on it."""
SURFACE_M = 5e-3
"""Points this close to the front of the glass belong to it: far above the rounding of depth, far
below its thickness."""
CLOTH_M = (0.6, 0.6)
"""Size of one repeat of the pattern on people."""
TOP_M = 2.0
"""Upper edge of the mirror."""


@dataclass(frozen=True)
class AdversarialDrive:
    """A drive, and what alters its images.

    Attributes:
        drive: scene, camera and true poses.
        mirror: index of the part that is a mirror, on the wall at the largest x; -1 for none.
        covered: (frames,) fraction of the image that is covered, from below.
    """

    drive: Drive
    mirror: int = -1
    covered: FloatArray | None = None

    def frames(self) -> Iterator[Frame]:
        """Yield the frames with exact depth, exact `T_world_cam`, and drifting odometry."""
        T_odom, truth = odometry(self.drive), self.drive.truth
        for k, (stamp, T) in enumerate(zip(truth.stamps_ns, truth.T_world_cam, strict=True)):
            rgb, depth_m = self._seen(k, T)
            yield Frame(
                int(stamp), rgb, self.drive.camera, T_odom[k], depth_m, CAMERA_NAME, T_world_cam=T
            )

    def _seen(self, index: int, T_world_cam: FloatArray) -> tuple[ImageArray, FloatArray]:
        rendering = self.drive.rendering(index)
        rgb, hw = rendering.rgb, self.drive.config.hw
        if self.mirror >= 0:
            rgb = self._with_mirror(rgb, rendering.depth_m, T_world_cam)
        if self.covered is not None:
            rgb = rgb.copy()
            rgb[round(hw[0] * (1 - self.covered[index])) :] = 3
        return rgb, rendering.depth_m

    def _with_mirror(
        self, rgb: ImageArray, depth_m: FloatArray, T_world_cam: FloatArray
    ) -> ImageArray:
        """Draw the room's reflection into the mirror in the image."""
        scene, config = self.drive.scene, self.drive.config
        glass = scene.parts[self.mirror]
        plane_x = float(glass.center[0] - glass.half[0])
        before = tuple(p for p in scene.parts if p.center[0] < plane_x - ON_WALL_M)
        other_side = np.diag([-1.0, 1.0, 1.0, 1.0])
        other_side[0, 3] = 2 * plane_x
        seen = Renderer(replace(scene, parts=before, walker=-1)).render(
            self.drive.camera.K, config.hw, other_side @ T_world_cam, config.supersample
        )
        points = backproject(depth_m, self.drive.camera.K) @ T_world_cam[:3, :3].T
        off = points + T_world_cam[:3, 3] - glass.center
        on_glass = np.abs(off[..., 0] + glass.half[0]) < SURFACE_M
        on_glass &= (np.abs(off[..., 1:]) < glass.half[1:]).all(-1)
        return np.where(on_glass[..., None], seen.rgb, rgb)


def turn_on_the_spot(seed: int) -> AdversarialDrive:
    """Drive ahead, turn half around in place, and drive back."""
    x, y, _ = _lane(seed)
    there = _ahead(x, x + TURN_AFTER_M, y)
    at, side, yaw = there[-1]
    around = [(at, side, yaw + a) for a in np.arange(TURN_RAD, math.pi, TURN_RAD)]
    back = [(p[0], p[1], p[2] + math.pi) for p in reversed(there)]
    return AdversarialDrive(_drive(seed, [*there, *around, *back]))


def covered_lens(seed: int) -> AdversarialDrive:
    """Cover half of the lens with a hand, then all, then none, while the robot keeps moving."""
    x, y, x1 = _lane(seed)
    drive = _drive(seed, _ahead(x, x1, y))
    covered = np.zeros(len(drive.truth.stamps_ns))
    middle = len(covered) // 2
    covered[middle - 5 : middle + 5] = 0.5
    covered[middle - 2 : middle + 2] = 1.0
    return AdversarialDrive(drive, covered=covered)


def poster_close_by(seed: int, speed_m_s: float = 0.0) -> AdversarialDrive:
    """Pass a board with a picture that fills the image; the board is fixed or carried along."""
    x, y, x1 = _lane(seed)
    path: list[Planar] = [(at, y, math.pi / 2) for at in np.arange(x, x1, PACE_M)]
    board = Part(
        Kind.BOX, np.array([(x + x1) / 2, y + 0.65, 0.9]), np.array([1.1, 0.02, 0.9]),
        _texture(seed, "books"), (1.1, 0.9), (0.5, 0.5),
    )  # fmt: skip
    if speed_m_s:
        board = replace(board, center=np.array([x + 1.1, y + 0.65, 0.9]))
    return AdversarialDrive(
        _drive(seed, path, [board], walks=speed_m_s != 0, velocity=(speed_m_s, 0.0))
    )


def mirror_on_the_wall(seed: int, bottom_m: float = 0.0) -> AdversarialDrive:
    """Approach a mirror that reaches down to the floor, or to a height above it."""
    x, y, x1 = _lane(seed)
    room = sample_room(seed).rooms[0]
    middle, half = (bottom_m + TOP_M) / 2, (TOP_M - bottom_m) / 2
    glass = Part(Kind.BOX, np.array([room.x1 - 0.05, y, middle]), np.array([0.05, 0.8, half]), 0)
    path = [
        (at, y + 0.4 * math.sin(2.5 * (at - x)), math.atan(math.cos(2.5 * (at - x))) / 2)
        for at in np.arange(x, x1, PACE_M)
    ]
    drive = _drive(seed, path, [glass])
    return AdversarialDrive(drive, mirror=len(drive.scene.parts) - 1)


def people_walking(seed: int, velocity: tuple[float, float] = (0.0, 0.8)) -> AdversarialDrive:
    """Add two people in front of the robot, who cross its path or walk ahead of it."""
    x, y, x1 = _lane(seed)
    person = sample_room(seed, walker=True).parts[-2:]
    start = person[0].center[:2]
    people = [
        replace(
            p,
            center=p.center + np.array([*(to - start), 0.0]),
            repeat_m=CLOTH_M,
            texture=_texture(seed, "noise"),
        )
        for to in (np.array([x + 1.6, y - 1.0]), np.array([x + 3.0, y + 0.3]))
        for p in person
    ]
    return AdversarialDrive(_drive(seed, _ahead(x, x1, y), people, walks=True, velocity=velocity))


def plain_drive(seed: int) -> AdversarialDrive:
    """Drive through the same room with nothing deceptive."""
    x, y, x1 = _lane(seed)
    return AdversarialDrive(_drive(seed, _ahead(x, x1, y)))


DRIVES: dict[str, Callable[[int], AdversarialDrive]] = {
    "nothing that fools": plain_drive,
    "turn on the spot": turn_on_the_spot,
    "covered lens": covered_lens,
    "poster close by": poster_close_by,
    "poster carried along": lambda seed: poster_close_by(seed, 0.4),
    "poster carried against": lambda seed: poster_close_by(seed, -0.4),
    "mirror down to the floor": mirror_on_the_wall,
    "mirror at eye level": lambda seed: mirror_on_the_wall(seed, 0.5),
    "people who cross": people_walking,
    "people ahead": lambda seed: people_walking(seed, (0.7, 0.0)),
}
"""Name -> function that creates the drive of a seed."""


def _lane(seed: int) -> tuple[float, float, float]:
    """Return start x, y and end x of the path through the room of a seed."""
    room = sample_room(seed).rooms[0]
    x1 = room.x1 - WALL_AHEAD_M
    if x1 - LANE_LENGTH_M < room.x0 + LANE_M:
        raise SceneError(f"seed {seed}: a room of {room.size[0]:.1f} m is too short")
    return x1 - LANE_LENGTH_M, room.center[1], x1


def _ahead(x: float, x1: float, y: float) -> list[Planar]:
    """Move along x in curves, like a robot that avoids obstacles."""
    return [
        (at, y + 0.15 * math.sin(2 * (at - x)), 0.3 * math.cos(2 * (at - x)))
        for at in np.arange(x, x1, PACE_M)
    ]


def _texture(seed: int, kind: str) -> int:
    return pick_texture(np.random.default_rng([seed, 31]), kind)


def _drive(
    seed: int,
    path: Sequence[Planar],
    more: Sequence[Part] = (),
    walks: bool = False,
    velocity: tuple[float, float] = (0.0, 0.0),
) -> Drive:
    """Create a drive through a seed's room, with obstructing furniture removed and parts added."""
    rig = Rig()
    config = SequenceConfig(
        seed=seed, frames=len(path), hw=(288, 384), rate_hz=RATE_HZ, step_m=PACE_M, supersample=1,
        walker=walks, rig=rig,
    )  # fmt: skip
    room = sample_room(seed)
    # floor, ceiling and four walls come first
    kept = tuple(p for i, p in enumerate(room.parts) if i < 6 or not _in_the_way(p, path))
    scene = replace(
        room, parts=(*kept, *more), walker=len(kept) if walks else -1, walker_velocity=velocity
    )
    T = np.stack([camera_pose(p, rig.height_m, rig.pitch_rad, 0.0) for p in path])
    stamps = START_NS + np.arange(len(path), dtype=np.int64) * round(1e9 / RATE_HZ)
    camera = CameraModel(pinhole(rig.fov_rad, config.hw), config.hw[1], config.hw[0])
    return Drive(config, scene, camera, Trajectory(stamps, T))


def _in_the_way(part: Part, path: Sequence[Planar]) -> bool:
    """Whether a piece of furniture stands closer to the path than `LANE_M`."""
    off = np.abs(np.array(path)[:, :2] - part.center[:2]) - np.hypot(*part.half[:2])
    return bool((np.hypot(*np.maximum(off, 0).T) < LANE_M).any())
