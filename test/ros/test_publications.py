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

"""What Nav2 makes of the node's clouds and grids, over DDS in one process."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")
pytest.importorskip("tf2_msgs.msg", reason="tf2_msgs is not installed")
pytest.importorskip("mvdust3r_ros.msg", reason="the messages are not built: make build")

import rclpy
from nav_msgs.msg import OccupancyGrid as OccupancyGridMsg
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data
from sensor_msgs.msg import PointCloud2

from mvdust3r_ros.config import with_values
from mvdust3r_ros.datatypes import (
    FloatArray,
    Keyframe,
    MapSnapshot,
    MapUpdate,
    OccupancyGrid,
    ScaleEstimate,
    Trajectory,
    Verdict,
    View,
    Window,
)
from mvdust3r_ros.ros.health.degradation import ServiceLevel
from mvdust3r_ros.ros.pipeline import PipelineCounters
from mvdust3r_ros.ros.publications import Publications
from mvdust3r_ros.ros.settings import NodeConfig

LIMIT_S = 20.0
SECOND_NS = 1_000_000_000
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
Cells = npt.NDArray[np.int8]
IMAGE = np.zeros((4, 4, 3), np.uint8)


class Rig:
    """An active node with the publications of the mapper, and a node of others."""

    def __init__(self, domain: int) -> None:
        self.context = rclpy.Context()
        rclpy.init(context=self.context, domain_id=domain)
        self.node = LifecycleNode("mapper", context=self.context)
        config = with_values(NodeConfig(), {"ros.map_period_s": 60.0})
        self.node.trigger_configure()
        self.out = Publications(self.node, config)
        self.node.trigger_activate()
        self.other = Node("other", context=self.context)
        executor = SingleThreadedExecutor(context=self.context)
        for node in (self.node, self.other):
            executor.add_node(node)
        self._thread = threading.Thread(target=self._spin, args=(executor,))
        self._thread.start()
        self._pause = threading.Event()
        self.grid: OccupancyGrid | None = None

    def _spin(self, executor: SingleThreadedExecutor) -> None:
        with contextlib.suppress(ExternalShutdownException):
            executor.spin()

    def sleep(self, seconds: float) -> None:
        self._pause.wait(seconds)

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        for _ in range(round(LIMIT_S / 0.02)):
            if condition():
                return
            self.sleep(0.02)
        raise AssertionError(what)

    def snapshot(self) -> MapSnapshot:
        """In the place of the mapper: a map of the present grid."""
        points = np.zeros((0, 3), np.float32)
        path = Trajectory(np.array([SECOND_NS]), np.eye(4)[None])
        return MapSnapshot(
            points, points.astype(np.uint8), points[:, 0], self.grid, path, None, ScaleEstimate(),
            gate_open=True,
        )  # fmt: skip

    def map_changes(self, cells: Cells) -> None:
        """A window has changed the grid to these cells."""
        self.grid = OccupancyGrid(cells.copy(), 0.05, (-1.0, 2.0))
        view = Keyframe(1, SECOND_NS, View(IMAGE), "camera")
        self.send(MapUpdate(Window(0, (view,)), Verdict.COMMITTED, T_map_cam={1: np.eye(4)}))
        self.out.send_map_when_due(self, None)  # type: ignore[arg-type]

    def send(self, update: MapUpdate) -> None:
        self.out.send_update(update, PipelineCounters(), ServiceLevel.FULL, SECOND_NS)

    def end(self) -> None:
        self.out.close()
        rclpy.try_shutdown(context=self.context)
        self._thread.join(LIMIT_S)


@pytest.fixture
def rig(new_domain: Callable[[], int]) -> Iterator[Rig]:
    made = Rig(new_domain())
    yield made
    made.end()


# Clouds, as a costmap of Nav2 takes them.

AHEAD = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])
ASIDE = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
HEIGHTS = np.linspace(0.3, 1.4, 12)
WALL_AHEAD = np.array([(3.0, y, z) for y in np.linspace(-1, 1, 41) for z in HEIGHTS])
WALL_ASIDE = WALL_AHEAD[:, [1, 0, 2]]
PERSON = np.array([(1.5, y, z) for y in np.linspace(-0.2, 0.2, 9) for z in HEIGHTS])
CELL_M = 0.1


def seen(
    keyframe: int, *, person: bool, aside: bool = False
) -> tuple[Keyframe, FloatArray, FloatArray]:
    """A keyframe of a camera in the middle, its pose, and its points in the map."""
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = ASIDE if aside else AHEAD, (0.0, 0.0, 1.0)
    shadow = np.abs(WALL_AHEAD[:, 1]) > 0.45
    ahead = np.vstack([PERSON, WALL_AHEAD[shadow]]) if person else WALL_AHEAD
    points = WALL_ASIDE if aside else ahead
    return Keyframe(keyframe, keyframe * SECOND_NS // 5, View(IMAGE), "camera"), T, points


def window(views: list[tuple[Keyframe, FloatArray, FloatArray]]) -> MapUpdate:
    points = np.vstack([p for _, _, p in views]).astype(np.float32)
    return MapUpdate(
        Window(0, tuple(k for k, _, _ in views)), Verdict.COMMITTED,
        T_map_cam={k.id: T for k, T, _ in views}, points_map=points,
        colors_rgb=np.zeros(points.shape, np.uint8), conf=np.ones(len(points), np.float32),
        keyframe_ids=np.repeat([k.id for k, _, _ in views], [len(p) for _, _, p in views]),
        gate_open=True,
    )  # fmt: skip


def costmap_uses(arrived: list[tuple[int, int]], phase_ns: int) -> list[int]:
    """Clouds that a costmap sees: at each update, every 0.2 s, the newest one alone.

    Args:
        arrived: time (ns) and number of each cloud.
        phase_ns: when the first update comes.
    """
    used = []
    for now_ns in range(arrived[0][0] + phase_ns, arrived[-1][0] + SECOND_NS, SECOND_NS // 5):
        held = [number for at_ns, number in arrived if at_ns <= now_ns]
        used += held[-1:]
    return used


def occupied(clouds: list[FloatArray]) -> set[tuple[int, int]]:
    """Cells (0.1 m) that a costmap calls occupied after these clouds, seen from the middle.

    Each clears the cells that its rays pass and marks those where they end.
    """
    marked: set[tuple[int, int]] = set()
    for points in clouds:
        ends = np.unique(points[:, :2], axis=0)
        for end in ends:
            length = np.linalg.norm(end)
            steps = np.arange(0.0, length - 2 * CELL_M, CELL_M / 4)
            marked -= cells_of(steps[:, None] * end / length)
        marked |= cells_of(ends)
    return marked


def cells_of(xy: FloatArray) -> set[tuple[int, int]]:
    return {(int(x), int(y)) for x, y in np.floor(xy / CELL_M)}


def test_a_costmap_uses_every_cloud_and_who_has_left_is_cleared(rig: Rig) -> None:
    """The person leaves between two windows; the last views of the second look elsewhere."""
    sent: list[tuple[int, int]] = []
    rig.other.create_subscription(
        PointCloud2,
        "/mapper/obstacle_points",
        lambda m, info: sent.append((info["source_timestamp"], m.header.stamp)),
        qos_profile_sensor_data,
    )
    publisher = next(p for p in rig.node.publishers if p.topic.endswith("obstacle_points"))
    rig.wait(lambda: publisher.get_subscription_count() == 1, "the subscription")
    first = [seen(i, person=True) for i in range(1, 5)]
    second = [seen(i, person=False, aside=i > 6) for i in range(5, 9)]
    for i, views in enumerate((first, second)):
        rig.send(window(views))
        rig.wait(lambda n=4 * i + 4: len(sent) == n, "the clouds of a window")
        rig.sleep(0.25)
    points = {k.id: p for k, _, p in (*first, *second)}
    arrived = [(at, round((s.sec + s.nanosec * 1e-9) * 5)) for at, s in sent]
    assert [number for _, number in arrived] == list(range(1, 9)), "oldest first"
    for phase_ns in range(0, SECOND_NS // 5, SECOND_NS // 50):
        used = costmap_uses(arrived, phase_ns)
        assert set(used) == set(range(1, 9)), "each is used"
    person = cells_of(PERSON[:, :2])
    assert occupied([points[n] for n in used if n <= 4]) >= person
    marked = occupied([points[n] for n in used])
    assert not marked & person
    assert marked >= cells_of(WALL_AHEAD[:, :2]) | cells_of(WALL_ASIDE[:, :2])


# Grids, as a static layer of Nav2 takes them.


class StaticLayer:
    """The grid as a subscriber of both topics has it."""

    def __init__(self, rig: Rig) -> None:
        from mvdust3r_ros.ros.message_types import message_class

        self.cells: Cells | None = None
        self.wholes = 0
        self._lock = threading.Lock()
        node, topic = rig.other, "/mapper/occupancy_grid"
        kind = message_class("map_msgs/msg/OccupancyGridUpdate")
        self._made = [
            node.create_subscription(OccupancyGridMsg, topic, self._take_whole, LATCHED),
            node.create_subscription(kind, f"{topic}_updates", self._take_change, 10),
        ]

    def _take_whole(self, message: Any) -> None:
        with self._lock:
            self.wholes += 1
            shape = (message.info.height, message.info.width)
            self.cells = np.array(message.data, np.int8).reshape(shape)

    def _take_change(self, message: Any) -> None:
        with self._lock:
            if self.cells is not None:
                rows = slice(message.y, message.y + message.height)
                cols = slice(message.x, message.x + message.width)
                part = np.array(message.data, np.int8).reshape(message.height, message.width)
                self.cells[rows, cols] = part

    def has(self, cells: Cells) -> bool:
        with self._lock:
            return self.cells is not None and np.array_equal(self.cells, cells)

    def leave(self, rig: Rig) -> None:
        for subscription in self._made:
            rig.other.destroy_subscription(subscription)


@pytest.fixture
def cells() -> Cells:
    return np.full((40, 60), -1, np.int8)


def test_who_joins_late_has_the_newest_state_of_every_cell(rig: Rig, cells: Cells) -> None:
    pytest.importorskip("map_msgs.msg", reason="map_msgs is not installed")
    early = StaticLayer(rig)
    subscribed = rig.out.subscriber_counts
    topics = ("/mapper/occupancy_grid", "/mapper/occupancy_grid_updates")
    rig.wait(lambda: all(subscribed()[t] == 1 for t in topics), "the first subscriber")
    rig.map_changes(cells)
    rig.wait(lambda: early.has(cells), "the whole grid")
    for value in (0, 100):
        cells[10:30, 10 + value // 4 : 50] = value
        rig.map_changes(cells)
        rig.wait(lambda: early.has(cells), "an update")
    assert early.wholes == 1, "two updates, no whole grid"
    late = StaticLayer(rig)
    rig.wait(lambda: late.has(cells), "the newest grid for who comes late")
    rig.wait(lambda: all(subscribed()[t] == 2 for t in topics), "the second subscriber")
    # One goes and one comes: as many as before.
    early.leave(rig)
    rig.wait(lambda: all(subscribed()[t] == 1 for t in topics), "one to leave")
    cells[0:5, 0:5] = 0
    rig.map_changes(cells)
    rig.wait(lambda: late.has(cells), "an update")
    later = StaticLayer(rig)
    rig.wait(lambda: later.has(cells), "the newest grid for the last one")
    assert later.wholes <= 3


def test_a_map_forgotten_while_the_node_was_inactive_is_shown_when_it_is_active(
    rig: Rig, cells: Cells
) -> None:
    layer = StaticLayer(rig)
    rig.map_changes(cells)
    rig.wait(lambda: layer.has(cells), "the whole grid")
    rig.node.trigger_deactivate()
    cells[:] = 0
    rig.grid = OccupancyGrid(cells, 0.05, (-1.0, 2.0))
    rig.out.send_map(rig.snapshot(), None)
    rig.sleep(0.3)
    assert not layer.has(cells)
    rig.node.trigger_activate()
    rig.out.send_missed(rig)  # type: ignore[arg-type]
    rig.wait(lambda: layer.has(cells), "the map of the meantime")


def test_the_grid_of_another_map_does_not_stay_when_metres_are_unknown(rig: Rig) -> None:
    grids: list[Any] = []
    rig.other.create_subscription(
        OccupancyGridMsg, "/mapper/occupancy_grid", lambda m: grids.append(list(m.data)), LATCHED
    )
    rig.grid = OccupancyGrid(np.zeros((2, 3), np.int8), 0.05, (0.0, 0.0))
    rig.out.send_map(rig.snapshot(), None)
    rig.wait(lambda: bool(grids) and grids[-1] == [0] * 6, "the grid of the first map")
    withheld = replace(rig.snapshot(), gate_open=False)
    rig.out.send_map(withheld, None, another=True)
    rig.wait(lambda: grids[-1] == [-1], "an unknown grid")
