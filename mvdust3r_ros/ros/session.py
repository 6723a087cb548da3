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

"""A session from `configure` to `cleanup`: the mapper with its inputs and outputs."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import rclpy
from rclpy.lifecycle import LifecycleNode

from mvdust3r_ros.atlas.session_file import SUFFIX, read_session, session_bytes
from mvdust3r_ros.datatypes import FloatArray, Frame, MapUpdate, Verdict
from mvdust3r_ros.drawing.map_files import save_map
from mvdust3r_ros.engines.base import EngineError
from mvdust3r_ros.mapper import Mapper
from mvdust3r_ros.messages.images import IMAGE_TYPES
from mvdust3r_ros.ros.health.arrivals import Arrivals, Silence, explain_silence
from mvdust3r_ros.ros.health.diagnosis import metres_hint
from mvdust3r_ros.ros.health.faults import FaultLog
from mvdust3r_ros.ros.health.ros_graph import clock_stopped, offers_on, others_on
from mvdust3r_ros.ros.health.supervisor import MakeEngine, Supervisor
from mvdust3r_ros.ros.inputs import Inputs
from mvdust3r_ros.ros.map_folder import place_in_folder
from mvdust3r_ros.ros.pipeline import JOIN_S, Pipeline, PipelineCounters, PipelineHooks
from mvdust3r_ros.ros.publications import Publications
from mvdust3r_ros.ros.settings import NodeConfig
from mvdust3r_ros.ros.tf_output import TfOutput

HINT_S = 60.0
"""Log period of a hint: often enough to be seen, seldom enough not to hide the rest."""
Hook = Callable[..., None]


def guarded(hook: Hook) -> Hook:
    """Count an exception in a hook as a fault: the thread must survive, the next call may work."""

    @wraps(hook)
    def run(self: Session, *args: Any) -> None:
        try:
            hook(self, *args)
        except Exception as error:  # noqa: BLE001 - mapping continues in any case
            if rclpy.ok():
                self.faults.report("internal", f"{hook.__name__}: {type(error).__name__}: {error}")

    return run


class Session:
    """One mapper between its inputs and its outputs.

    Attributes:
        mapper: the mapper.
        supervisor: degrades the mapper when the network fails.
        faults: counts faults.
        last: the last outcome of a window; None before the first.
        rejected_in_a_row: windows rejected since the last one that was committed.
    """

    def __init__(
        self, node: LifecycleNode, config: NodeConfig, make_engine: MakeEngine, faults: FaultLog
    ) -> None:
        """Load the engine and create the publishers; nothing runs before `start`."""
        self.mapper = Mapper(config, make_engine(config, False))
        self.supervisor = Supervisor(self.mapper, config, make_engine, faults.report)
        self.faults = faults
        self.last: MapUpdate | None = None
        self._node, self._config = node, config
        self._out = Publications(node, config)
        self._inputs: Inputs | None = None
        self._transforms: TfOutput | None = None
        self._pipeline: Pipeline | None = None
        self._stuck: Pipeline | None = None
        self.rejected_in_a_row = 0
        self._mountings_logged: set[str] = set()
        self._hints = FaultLog(node.get_logger().warning, repeat_s=HINT_S)

    def start(self) -> str:
        """Subscribe and start the threads; return the image topic."""
        hooks = PipelineHooks(
            on_frame=self._on_frame,
            on_update=self._on_update,
            on_idle=self._on_idle,
            on_fault=self.faults.report,
        )
        if self._stuck is not None and not self._stuck.ended:
            raise EngineError("the network still hangs in an old window; restart the process")
        self.supervisor.restart()
        ros, report = self._config.ros, self.faults.report
        pipeline = Pipeline(self.mapper, hooks, ros.queue_size)
        self._pipeline = pipeline
        tf_conflicts = self._out.tf_conflicts
        tf_conflicts.restart()
        self._inputs = Inputs(self._node, ros, pipeline.offer, report, tf_conflicts.heard)
        self._transforms = TfOutput(self._inputs, self._out.send_transform, report)
        self._out.send_missed(self.mapper)
        pipeline.start(self._inputs.frame)
        return self._inputs.image_topic

    def stop(self, join_s: float = JOIN_S) -> bool:
        """Unsubscribe and stop the threads; return whether they ended within `join_s`."""
        inputs, pipeline = self._inputs, self._pipeline
        self._inputs = self._pipeline = self._transforms = None
        if inputs is not None:
            inputs.close()
        if pipeline is not None and not pipeline.stop(join_s):
            self._stuck = pipeline
            self.faults.report(
                "hang", f"the network has not answered for {pipeline.busy_s:.0f} s; left alone"
            )
        self._out.stop()
        return self._stuck is None or self._stuck.ended

    def close(self, join_s: float = JOIN_S) -> bool:
        """Release everything; return False if a hung network keeps its memory."""
        ended = self.stop(join_s)
        self._out.close()
        if ended:
            self.supervisor.close()
        return ended

    @property
    def active(self) -> bool:
        """Whether the session accepts images."""
        return self._pipeline is not None

    @property
    def paused(self) -> bool:
        """Whether images are dropped on purpose."""
        return self._pipeline is not None and self._pipeline.paused

    def counters(self) -> PipelineCounters:
        """Return the counts of images and windows since `start`."""
        return self._pipeline.counters() if self._pipeline else PipelineCounters()

    def pause(self, paused: bool) -> bool:
        """Drop images or accept them again; return False if not running."""
        if self._pipeline is None:
            return False
        self._pipeline.pause(paused)
        return True

    def reset(self) -> None:
        """Discard the map, and clear the subscribers' displays."""
        if self._pipeline is not None:
            self._pipeline.clear("reset")
        self.mapper.reset()
        self.last, self.rejected_in_a_row = None, 0
        self._out.forget_clouds()
        if self._transforms is not None:
            self._transforms.reset()
        self._out.send_map(self.mapper.snapshot(), None)

    def finish(self, wait_s: float) -> bool:
        """Map received keyframes that do not fill a window; return False if time runs out.

        Returns True at once while the node is not active.
        """
        return self._pipeline is None or self._pipeline.finish(wait_s)

    def save(self, filename: str) -> list[Path]:
        """Write the map into the map folder.

        Raises:
            MvDust3rError: the name leads out of the folder, or a file cannot be written.
        """
        directory, stem = place_in_folder(Path(self._config.ros.map_dir), filename)
        snapshot, stored = self.mapper.saved()
        return save_map(snapshot, directory, stem, {SUFFIX: session_bytes(stored)})

    def load(self, filename: str) -> int:
        """Load a map from the map folder, continue and publish it; return its keyframe count.

        Raises:
            MvDust3rError: no such map, or it is damaged; the current map is kept.
        """
        directory, stem = place_in_folder(Path(self._config.ros.map_dir), filename)
        stored = read_session(directory / f"{stem}.{SUFFIX}")
        self.mapper.restore(stored)
        if self._pipeline is not None:
            self._pipeline.clear("load_map")
        self._out.forget_clouds()
        if self._transforms is not None:
            self._transforms.reset()
        self.last, self.rejected_in_a_row = None, 0
        self._out.send_map(self.mapper.snapshot(), None, another=True)
        return len(stored.keyframes)

    def reconfigure(self, config: NodeConfig) -> None:
        """Apply other settings from now on."""
        self.supervisor.reconfigure(config)
        self._config = self._out.config = config
        if self._inputs is not None:
            self._inputs.settings = config.ros

    def time_jumped(self) -> None:
        """Drop all data from before a time jump."""
        if self._pipeline is not None:
            self._pipeline.clear("clock_jump")
        self._out.forget_clouds()
        if self._inputs is not None:
            self._inputs.clear()

    def arrivals(self) -> dict[str, Arrivals]:
        """Return the arrivals on each input since `start`; empty if not running."""
        inputs = self._inputs
        return {} if inputs is None else dict(inputs.arrivals)

    def silences(self) -> dict[str, Silence]:
        """Return why nothing arrives, for each input that has been silent for too long."""
        return {
            name: self._why_silent(arrivals)
            for name, arrivals in self.arrivals().items()
            if arrivals.silent_s >= self._config.ros.no_image_s
        }

    def _why_silent(self, arrivals: Arrivals) -> Silence:
        node = self._node
        kinds = IMAGE_TYPES if arrivals.kind in IMAGE_TYPES else (arrivals.kind,)
        others = [
            f"{name} ({'compressed' if 'Compressed' in found[0] else 'raw'})"
            if "Image" in found[0]
            else name
            for name, found in node.get_topic_names_and_types()
            if found[0] in kinds and name != arrivals.topic and others_on(node, name)
        ]
        offers = offers_on(node, arrivals.topic)
        return explain_silence(arrivals, offers, others, clock_stopped=clock_stopped(node))

    def health(self) -> dict[str, Any]:
        """Return the session's state for diagnostics, as fields of `Health`."""
        pipeline = self._pipeline
        return {
            "paused": self.paused,
            "counters": self.counters(),
            "arrivals": self.arrivals(),
            "silences": self.silences(),
            "engine": self.mapper.engine.describe().name,
            "ladder": self.supervisor.message,
            "busy_s": pipeline.busy_s if pipeline else 0.0,
            "last": self.last,
            "rejected_in_a_row": self.rejected_in_a_row,
            "outputs": self._out.subscriber_counts(),
            "figures": self._out.figures(),
            "tf_conflicts": self._tf_conflicts(),
            "looking_in": self.mapper.looking_in,
            "readouts_s": self.mapper.shutter.readouts_s,
        }

    def _tf_conflicts(self) -> str:
        """Describe other publishers of the node's transforms; empty without any."""
        inputs = self._inputs
        if inputs is None or self._config.ros.publish_tf == "none":
            return ""
        words = self._out.tf_conflicts.message([inputs.odom_frame] if inputs.odom_frame else [])
        if words:
            self.faults.report("rival", words)
        return words

    # Called by the pipeline's threads.

    @guarded
    def _on_frame(self, frame: Frame) -> None:
        if self._inputs is not None and self._transforms is not None:
            self.mapper.path_camera = self._inputs.path_camera
            self._transforms.on_frame(frame)

    @guarded
    def _on_update(self, update: MapUpdate) -> None:
        self.last = update
        committed = update.verdict == Verdict.COMMITTED
        self.rejected_in_a_row = 0 if committed else self.rejected_in_a_row + 1
        self.supervisor.after(update)
        self._log_mountings()
        if update.note:
            self._hints.report("engine", f"the engine on the last window: {update.note}")
        if committed and not update.gate_open:
            self._hints.report(
                "metres", f"no grid and no obstacle clouds yet: {metres_hint(update)}"
            )
        if update.verdict == Verdict.COMMITTED and self._transforms is not None:
            self._transforms.on_update(update)
        now_ns = self._node.get_clock().now().nanoseconds
        self._out.send_update(update, self.counters(), self.supervisor.level, now_ns)
        self._out.send_map_when_due(self.mapper, self._camera_to_base(update))

    def _log_mountings(self) -> None:
        """Log newly estimated camera extrinsics, ready to be copied."""
        for camera, found in self.mapper.mountings.items():
            if camera not in self._mountings_logged:
                self._mountings_logged.add(camera)
                self._node.get_logger().info(found.summary(camera))

    @guarded
    def _on_idle(self) -> None:
        if self.last is not None:
            self._out.send_map_when_due(self.mapper, self._camera_to_base(self.last))

    def _camera_to_base(self, update: MapUpdate) -> FloatArray | None:
        """Return T_cam_base if the robot's frame is configured and known, or None."""
        base, inputs = self._config.ros.base_frame, self._inputs
        if not base or inputs is None:
            return None
        newest = update.window.keyframes[-1]
        camera = inputs.path_camera or newest.camera_name
        T = inputs.transform(camera, base, newest.stamp_ns)
        if T is None:
            self.faults.report("tf", f"no transform between {camera} and {base}")
        return T
