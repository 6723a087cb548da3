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

"""The whole pipeline as real processes: bag player, mapper node, recorder."""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mvdust3r_ros.config import load_config
from mvdust3r_ros.datatypes import MapSnapshot, MvDust3rError, ScaleEstimate, Verdict
from mvdust3r_ros.drawing.map_files import load_occupancy, read_ply, read_tum
from mvdust3r_ros.engines.create import needs_truth
from mvdust3r_ros.messages.frame_ids import is_static
from mvdust3r_ros.recordings.bag import BagOptions, opened_bag
from mvdust3r_ros.recordings.bag_topics import (
    ODOM_TYPE,
    camera_of,
    choose_image_topic,
    choose_info_topic,
    choose_odom_topic,
    choose_transforms,
)
from mvdust3r_ros.ros.map_folder import SUFFIXES
from mvdust3r_ros.ros.oracle_needs import require_depth_and_poses
from mvdust3r_ros.ros.play.processes import Processes, fastdds_environment, isolated_environment

if TYPE_CHECKING:
    from mvdust3r_ros.msg import WindowStatus
    from mvdust3r_ros.ros.play.control import MapperControl

RECORDED = (
    "/mapper/points", "/mapper/map_points", "/mapper/path", "/mapper/occupancy_grid",
    "/mapper/occupancy_summary", "/mapper/window_status", "/tf", "/tf_static", "/diagnostics",
)  # fmt: skip
PATIENT = {
    "ros.image_reliability": "reliable",
    "ros.image_depth": "50",
    "ros.depth_reliability": "reliable",
    "ros.queue_size": "50",
}
IDLE_S = 1.0
"""The demo ends when nothing has waited or arrived for this long, one period of the node's
diagnostics."""
STUCK_S = 180.0
"""Matters only if the node hangs: a window takes seconds on a slow CPU."""
MAP_SETTLES_S = 1.5
"""Longer than a period of the diagnostics, so that the final ones are read."""
SAVED_S = 180.0
"""The node waits 60 s for the network, then writes; matters only if it hangs."""
FIRST_DOMAIN, DOMAINS = 20, 80
"""20 to 99 of the domains 0 to 101 that are safe on every system (docs.ros.org, About
ROS_DOMAIN_ID); robots mostly use the first ones."""


class DemoError(MvDust3rError):
    """The demo cannot run, or one of its processes failed."""


@dataclass(frozen=True)
class DemoOptions:
    """What to play and how.

    Attributes:
        bag: bag of camera images; None for the installed synthetic room (`show_demo` finds it).
        engine: engine folder or name; empty for the default model.
        depth: folder of depth maps to publish; None for none.
        rate: playback rate of the bag.
        out: folder for all outputs.
        params: YAML file of settings for the node; None for the defaults.
        topics: topics of the bag; empty names are detected.
        patient: give the node long queues, so that few images are dropped.
    """

    bag: Path | None
    engine: str = ""
    depth: Path | None = None
    rate: float = 1.0
    out: Path = Path("out")
    params: Path | None = None
    topics: BagOptions = field(default_factory=BagOptions)
    patient: bool = True


@dataclass(frozen=True)
class Progress:
    """Progress of the demo.

    Attributes:
        images: images received by the node, of `images_total`.
        images_total: images in the bag.
        windows: windows mapped or rejected.
        committed: windows in the map.
        latency_ms: of the newest window, sum of all stages.
    """

    images: int
    images_total: int
    windows: int
    committed: int
    latency_ms: float


Report = Callable[[Progress], None]


@dataclass(frozen=True)
class DemoResult:
    """Results of the demo.

    Attributes:
        images: images played.
        dropped: images that the node could not use, by reason.
        keyframes: images kept as keyframes.
        verdicts: outcomes of the windows.
        superseded: windows that never reached the network because a newer one replaced them.
        left_out: keyframes in no window that the network had time for.
        window_ms: median time of a window, sum of all stages.
        seconds: duration of playing and mapping.
        last_rejection: why the newest rejected window was rejected; empty without one.
        engine: name of the engine.
        scale: final scale and its uncertainty.
    """

    images: int
    dropped: dict[str, int]
    keyframes: int
    verdicts: Counter[str]
    superseded: int
    left_out: int
    window_ms: float
    seconds: float
    last_rejection: str = ""
    engine: str = ""
    scale: ScaleEstimate = field(default_factory=ScaleEstimate)


@dataclass(frozen=True)
class _Topics:
    image: str
    info: str
    odom: str
    depth: str
    images: int
    odom_source: str = "topic"
    transforms: tuple[str, ...] = ()

    @property
    def compressed(self) -> bool:
        return self.image.endswith("/compressed")

    def remaps(self) -> list[str]:
        image = "image/compressed" if self.compressed else "image"
        pairs = {
            image: self.image,
            "camera_info": self.info,
            "odom": self.odom,
            "depth": self.depth,
            **{_tf_name(topic): topic for topic in self.transforms},
        }
        return [w for name, to in pairs.items() if to for w in ("-r", f"{name}:={to}")]


def run_demo(options: DemoOptions, report: Report) -> DemoResult:
    """Play a bag through the real nodes.

    Args:
        options: what to play.
        report: called a few times a second.

    Raises:
        DemoError: ROS or a message is missing, or a process failed; its log is named.
        MvDust3rError: the bag, the settings or the engine cannot be used.
    """
    check_ros()
    if options.bag is None:
        raise DemoError("no bag to play")
    topics = _look_into(options.bag, options.topics, has_depth_maps=options.depth is not None)
    if options.params is not None:
        load_config(options.params)
    if needs_truth(options.engine):
        require_depth_and_poses(
            depth="" if topics.depth else "name its folder by --depth",
            poses="record odometry or TF" if topics.odom_source == "none" else "",
        )
    logs = prepare(options.out)
    domain = FIRST_DOMAIN + os.getpid() % DOMAINS
    run = Processes(logs, domain, fastdds_environment())
    try:
        return _drive(options, topics, run, domain, report)
    finally:
        run.stop_all()


def snapshot_of_files(folder: Path, stem: str) -> MapSnapshot:
    """Read back a saved map; without a grid if none was saved.

    Raises:
        MapFileError: a file is missing or damaged.
    """
    cloud = read_ply(folder / f"{stem}.ply")
    description = folder / f"{stem}.yaml"
    has_grid = description.exists()
    return MapSnapshot(
        points_map=cloud.points,
        colors_rgb=cloud.colors_rgb,
        conf=cloud.conf,
        grid=load_occupancy(description) if has_grid else None,
        trajectory=read_tum(folder / f"{stem}.tum"),
        T_map_odom=None,
        scale=ScaleEstimate(),
        gate_open=has_grid,
    )


def check_ros() -> None:
    """Check that ROS and this package's messages can be imported.

    Raises:
        DemoError: they cannot; the message names the command to run.
    """
    try:
        import rclpy
        import tf2_msgs.msg  # noqa: F401 - checks that it is installed

        import mvdust3r_ros.msg
    except ImportError as error:
        raise DemoError(
            f"ROS 2 or this package's messages are not on the path ({error}); "
            "run `make build`, then `source env.sh`"
        ) from None
    del rclpy, mvdust3r_ros


def _look_into(bag: Path, wanted: BagOptions, *, has_depth_maps: bool) -> _Topics:
    with opened_bag(bag) as reader:
        image = choose_image_topic(reader, wanted.image_topic)
        info, _ = choose_info_topic(reader, image, wanted.camera_info_topic)
        odom = choose_odom_topic(reader, wanted.odometry, wanted.odom_topic, image)
        near = [t for t in (image, odom) if t]
        transforms, _ = choose_transforms(reader, near, wanted.tf_topic)
        images = sum(c.msgcount for c in reader.connections if c.topic == image)
        kinds = {c.topic: c.msgtype for c in reader.connections}
    if odom and kinds[odom] != ODOM_TYPE:
        raise DemoError(f"the node takes {ODOM_TYPE}, and {odom} is {kinds[odom]}; use lockstep")
    odom_source = "topic" if odom or wanted.odometry == "topic" else "none"
    has_tf = any(not is_static(t) for t in transforms)
    if not odom and has_tf and wanted.odometry in ("auto", "tf"):
        odom_source = "tf"
    depth = wanted.depth_topic or (f"{camera_of(image)}/depth" if has_depth_maps else "")
    return _Topics(image, info, odom, depth, images, odom_source, tuple(transforms))


def prepare(out: Path) -> Path:
    """Create the folders; remove only the recording and map of an earlier run.

    Returns:
        The folder for logs.

    Raises:
        DemoError: the recording's folder exists and is not a bag.
    """
    bag, logs = out / "bag", out / "log"
    if bag.exists():
        if not (bag / "metadata.yaml").exists() and any(bag.glob("[!.]*")):
            raise DemoError(f"{bag} exists and is not a bag; choose another folder by --out")
        shutil.rmtree(bag)
    for suffix in (*SUFFIXES, "png"):
        (out / f"map.{suffix}").unlink(missing_ok=True)
    logs.mkdir(parents=True, exist_ok=True)
    return logs


def _node_arguments(options: DemoOptions, topics: _Topics) -> list[str]:
    values = {
        "use_sim_time": "true",
        "engine.engine": f"'{_engine_name(options.engine)}'",
        "ros.image_transport": "compressed" if topics.compressed else "raw",
        "ros.use_depth": "true" if topics.depth else "false",
        "ros.map_dir": f"'{options.out.resolve()}'",
        "ros.diagnostics_period_s": "0.2",
        **(PATIENT if options.patient else {}),
        **({"ros.odom_source": topics.odom_source} if topics.odom_source != "topic" else {}),
        **_frames(options.topics, topics),
    }
    words = ["--ros-args", *topics.remaps()]
    if options.params is not None:
        words += ["--params-file", str(options.params.resolve())]
    return words + [w for name, value in values.items() for w in ("-p", f"{name}:={value}")]


def _tf_name(topic: str) -> str:
    """Return the node's name of a topic of transforms."""
    return "/tf_static" if is_static(topic) else "/tf"


def _frames(wanted: BagOptions, topics: _Topics) -> dict[str, str]:
    """Return the frames given by the user."""
    named = {"ros.camera_frame": wanted.camera_frame}
    if topics.odom_source == "tf" and wanted.odom_frame != "odom":
        named["ros.odom_frame"] = wanted.odom_frame
    return {name: f"'{frame}'" for name, frame in named.items() if frame}


def _engine_name(engine: str) -> str:
    """Make a path absolute, as the node runs in another folder."""
    return str(Path(engine).resolve()) if engine and Path(engine).exists() else engine


def _drive(
    options: DemoOptions, topics: _Topics, run: Processes, domain: int, report: Report
) -> DemoResult:
    """Start all processes, play the bag, wait for the last window, save the map."""
    from mvdust3r_ros.ros.play.control import control_node

    run.start("mapper", "node", _node_arguments(options, topics))
    out_bag = str((options.out / "bag").resolve())
    sim_time = ["--ros-args", "-p", "use_sim_time:=true"]
    renamed = {name: to for to in topics.transforms for name in [_tf_name(to)]}
    recorded = [renamed.get(topic, topic) for topic in RECORDED]
    run.start("recorder", "play.recorder", [*recorded, "--out", out_bag, *sim_time])
    os.environ.update(isolated_environment(domain))
    with control_node(domain) as control:
        control.watch = lambda: run.check(may_end="player")
        for step in ("configure", "activate"):
            if not control.transition(step):
                raise DemoError(f"the mapper did not {step}: {run.last_output('mapper')}")
        begin = time.monotonic()
        run.start("player", "play.player", _player_arguments(options, topics))
        _watch(control, topics, run, report)
        saved = control.save_map("map", SAVED_S)  # also maps keyframes that do not fill a window
        seconds = time.monotonic() - begin
        control.spin_for(MAP_SETTLES_S)
        result = _result(control, seconds)
        if result.verdicts["committed"] and not saved.success:
            raise DemoError(f"the map could not be saved: {saved.message}")
    run.check(may_end="player")
    for name in ("recorder", "mapper"):
        run.stop(name)
    return result


def _player_arguments(options: DemoOptions, topics: _Topics) -> list[str]:
    assert options.bag is not None
    words = [str(options.bag.resolve()), "--clock", "--rate", str(options.rate)]
    words += ["--image-topic", topics.image]
    if options.depth is not None:
        words += ["--depth", str(options.depth.resolve()), "--depth-topic", topics.depth]
    return words


def _watch(control: MapperControl, topics: _Topics, run: Processes, report: Report) -> None:
    """Report progress until the bag is played and the node is idle."""
    idle_since = last_news = time.monotonic()
    seen = (0, 0)
    while time.monotonic() - idle_since < IDLE_S:
        control.spin_for(0.2)
        run.check(may_end="player")
        now = _progress(control, topics.images)
        report(now)
        if (now.images, now.windows) != seen:
            seen, last_news = (now.images, now.windows), time.monotonic()
        waiting = (
            control.value("input", "images waiting"),
            control.value("engine", "windows waiting"),
        )
        if not run.ended("player") or waiting != ("0", "0"):
            idle_since = time.monotonic()
        if time.monotonic() - last_news > STUCK_S:
            raise DemoError(f"nothing happened for {STUCK_S:g} s: {run.last_output('mapper')}")


def _progress(control: MapperControl, images_total: int) -> Progress:
    windows = control.windows
    return Progress(
        images=int(control.value("input", "images received") or 0),
        images_total=images_total,
        windows=len(windows),
        committed=sum(w.verdict == Verdict.COMMITTED for w in windows),
        latency_ms=sum(windows[-1].stage_latencies_ms) if windows else 0.0,
    )


def _result(control: MapperControl, seconds: float) -> DemoResult:
    prefix = "images dropped: "
    times_ms = sorted(sum(w.stage_latencies_ms) for w in control.windows)
    keyframes = int(control.value("input", "keyframes") or 0)
    return DemoResult(
        images=int(control.value("input", "images received") or 0),
        dropped={
            key.removeprefix(prefix): int(value)
            for key, value in control.values("input").items()
            if key.startswith(prefix)
        },
        keyframes=keyframes,
        verdicts=Counter(Verdict(w.verdict).name.lower() for w in control.windows),
        superseded=int(control.value("engine", "windows superseded") or 0),
        left_out=max(0, keyframes - keyframes_in(control.windows)),
        window_ms=times_ms[len(times_ms) // 2] if times_ms else 0.0,
        seconds=seconds,
        last_rejection=next((w.message for w in reversed(control.windows) if w.message), ""),
        engine=control.value("engine", "engine"),
        scale=_scale(control),
    )


def keyframes_in(windows: Iterable[WindowStatus]) -> int:
    """Count the distinct keyframes of all windows; cameras at the same time count separately."""
    held: Counter[tuple[int, int]] = Counter()
    for window in windows:
        held |= Counter((stamp.sec, stamp.nanosec) for stamp in window.keyframe_stamps)
    return held.total()


def _scale(control: MapperControl) -> ScaleEstimate:
    """Return the scale estimate of the last committed window."""
    committed = [w for w in control.windows if w.verdict == Verdict.COMMITTED]
    if not committed:
        return ScaleEstimate()
    return ScaleEstimate(float(committed[-1].scale), float(committed[-1].scale_rel_sigma))
