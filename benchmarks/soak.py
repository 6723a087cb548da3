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

"""Publishes images to a live node for a long time, or restarts it repeatedly meanwhile.

    python benchmarks/soak.py --minutes 60       # memory, callbacks, drops
    python benchmarks/soak.py --restarts 100     # threads, file handles, shared memory

A separate process publishes a drive through a synthetic room, back and forth, by default 640x480
at 30 Hz, with camera_info and odometry. The node runs the default model. The exit status is 1 if
the node crashes, a received image is not accounted for, or restarts leak resources.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import rclpy
from nav_msgs.msg import Odometry
from rclpy.duration import Duration
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import CameraInfo, Image
from std_srvs.srv import Trigger

from mvdust3r_ros.datatypes import Frame
from mvdust3r_ros.ros.outputs import header_msg, pose_msg, time_msg
from mvdust3r_ros.ros.play.control import ControlError, MapperControl, control_node
from mvdust3r_ros.ros.play.processes import Processes, fastdds_environment, isolated_environment
from mvdust3r_ros.synthetic.sequence import (
    CAMERA_NAME,
    SequenceConfig,
    make_sequence,
    sequence_frames,
)

FRAMES = 61
"""A lap must not be a multiple of the keyframe interval: otherwise all laps have the same windows
until something shifts them, and the size of the map can jump at any time."""
STEP_M = 0.04
SHOWN_TIMES = 2
"""Each rendering is published twice, so that the camera moves at 0.6 m/s."""
QUEUE = 200
SAMPLE_S = 2.0
MATCH_S = 1.0
WARM_UP = 0.25
"""Share of the time excluded from the memory measurement."""
LIMIT_S = 400.0
SETTLES_S = 20
RSS_TARGET, P99_TARGET_MS = 0.01, 5.0
CYCLE = ("deactivate", "cleanup", "configure", "activate")


def play(rate_hz: float, hw: tuple[int, int]) -> int:
    """Publish images until stopped, then print their number: the player process."""
    frames = [messages(frame, hw) for frame in drive(hw)]
    stopped: list[int] = []
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda number, _: stopped.append(number))
    qos = QoSProfile(depth=QUEUE, reliability=ReliabilityPolicy.RELIABLE)
    outputs = []
    for kind, topic in ((Odometry, "/odom"), (CameraInfo, "/camera_info"), (Image, "/image")):
        # One participant per topic, as with separate drivers: if one publishes a small message
        # and then a large one at once, Fast DDS loses most of the small ones.
        context = rclpy.Context()
        rclpy.init(context=context, signal_handler_options=SignalHandlerOptions.NO)
        node = rclpy.create_node(f"soak_{topic[1:]}", context=context)
        outputs.append(node.create_publisher(kind, topic, qos))
    order = [*range(FRAMES), *reversed(range(FRAMES))]
    sent, due_s, heard = 0, time.monotonic(), False
    while not stopped:
        if outputs[-1].get_subscription_count():
            if not heard:
                # The publisher discovers the subscriber first; until the subscriber has discovered
                # the publisher, messages are lost.
                time.sleep(MATCH_S)
            heard = True
            stamp = time_msg(time.time_ns())
            for output, message in zip(
                outputs, frames[order[sent // SHOWN_TIMES % len(order)]], strict=True
            ):
                message.header.stamp = stamp
                output.publish(message)
            sent += 1
        else:
            heard = False
        due_s = max(due_s + 1 / rate_hz, time.monotonic())
        time.sleep(max(0.0, due_s - time.monotonic()))
    outputs[-1].wait_for_all_acked(Duration(seconds=10))
    time.sleep(1.0)
    print(f"sent {sent}")
    return 0


def drive(hw: tuple[int, int]) -> Iterator[Frame]:
    """Return a drive through a synthetic room, rendered at half size."""
    half = (hw[0] // 2, hw[1] // 2)
    config = SequenceConfig(frames=FRAMES, hw=half, step_m=STEP_M, supersample=1)
    return sequence_frames(make_sequence(config))


def messages(frame: Frame, hw: tuple[int, int]) -> tuple[Odometry, CameraInfo, Image]:
    """Return the messages of one frame, at twice the size of its rendering."""
    assert frame.T_odom_cam is not None and frame.camera is not None
    odom = Odometry(header=header_msg(0, "odom"), child_frame_id=CAMERA_NAME)
    odom.pose.pose = pose_msg(frame.T_odom_cam)
    K = 2 * frame.camera.K + [[0, 0, 0.5], [0, 0, 0.5], [0, 0, -1]]
    info = CameraInfo(height=hw[0], width=hw[1], k=[float(v) for v in K.ravel()])
    image = Image(
        header=header_msg(0, CAMERA_NAME), encoding="rgb8", height=hw[0], width=hw[1],
        step=3 * hw[1],
    )  # fmt: skip
    image.data.frombytes(cv2.resize(frame.image_rgb, hw[::-1]).tobytes())
    return odom, info, image


@dataclass(frozen=True)
class Held:
    """Resources of a process.

    Attributes:
        threads: number of threads.
        files: number of open file handles.
        shared: number of mapped files in shared memory.
        rss_mb: resident memory.
    """

    threads: int
    files: int
    shared: int
    rss_mb: float


def held_by(pid: int) -> Held:
    """Return the current resources of a process."""
    root = Path(f"/proc/{pid}")
    status = (root / "status").read_text()
    numbers = {k: int(v) for k, v in re.findall(r"^(\w+):\s+(\d+)", status, re.M)}
    shared = set(re.findall(r"(/dev/shm/\S+)", (root / "maps").read_text()))
    files = len(list((root / "fd").iterdir()))
    return Held(numbers["Threads"], files, len(shared), numbers["VmRSS"] / 1024)


class Bench:
    """A node and a player as processes, and a control node that monitors them."""

    def __init__(self, folder: Path, control: MapperControl, processes: Processes) -> None:
        self.folder, self.control, self.processes = folder, control, processes

    def start(self, engine: str, rate_hz: float, size: str) -> None:
        """Start both and wait until images arrive."""
        engine = str(Path(engine).resolve()) if Path(engine).is_dir() and engine else engine
        words = ["--ros-args", "-p", f"engine.engine:={engine}" if engine else "engine.threads:=2"]
        for name in ("image", "odom", "camera_info"):
            words += ["-p", f"ros.{name}_reliability:=reliable"]
        words += ["-p", f"ros.image_depth:={QUEUE}", "-p", f"ros.odom_depth:={QUEUE}"]
        self.processes.start("mapper", "node", words)
        for step in ("configure", "activate"):
            self.ask(step)
        script = str(Path(__file__).resolve())
        play_words = [script, "--play", "--rate", str(rate_hz), "--size", size]
        self.processes.run("player", play_words)
        self.control.wait(lambda: self.count("images received") > 0, LIMIT_S, "images")

    def ask(self, step: str) -> None:
        """Trigger a transition; on failure, exit with the node's log and thread stacks."""
        try:
            if self.control.transition(step):
                return
            problem = f"the node refused to {step}"
        except ControlError as error:
            problem = str(error)
            self.processes.stop("mapper", signal.SIGABRT)
        raise SystemExit(f"{problem}: {self.log('mapper')[-6000:]}")

    def count(self, key: str) -> int:
        """Return one of the node's image counts."""
        return int(self.control.value("input", key) or 0)

    def log(self, name: str) -> str:
        """Return the log of a process."""
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def stop_player(self) -> int:
        """Stop the player; return the number of published images."""
        self.processes.stop("player")
        sent = re.search(r"^sent (\d+)$", self.log("player"), re.M)
        if sent is None:
            raise SystemExit(f"the player failed: {self.log('player')[-500:]}")
        return int(sent[1])

    def stop_node(self) -> list[str]:
        """Stop the node; return the problems."""
        status = self.processes.stop("mapper", signal.SIGTERM)
        wrong = [f"the node ended with status {status}"] if status else []
        return [
            *wrong,
            *(["the log has a traceback"] if "Traceback" in self.log("mapper") else []),
        ]


def soak(bench: Bench, minutes: float, reset_s: float) -> list[str]:
    """Run for some time and report; return the problems."""
    pid = bench.processes.pid("mapper")
    begin, samples = time.monotonic(), []
    reset_at_s = begin + reset_s
    while time.monotonic() < begin + 60 * minutes:
        bench.control.spin_for(SAMPLE_S)
        bench.processes.check()
        samples.append(held_by(pid))
        bench.control.windows.clear()
        if reset_s and time.monotonic() > reset_at_s:
            bench.control.call(Trigger, "/mapper/reset", Trigger.Request(), LIMIT_S)
            reset_at_s = time.monotonic() + reset_s
    took_s = time.monotonic() - begin
    sent = bench.stop_player()
    bench.control.spin_for(3.0)
    bench.control.wait(lambda: bench.count("images waiting") == 0, LIMIT_S, "an empty queue")
    print(f"{took_s / 60:.1f} min, {sent / took_s:.1f} images a second, load "
          f"{os.getloadavg()[1]:.1f} on {os.cpu_count()} cores")  # fmt: skip
    report_memory(samples)
    values = bench.control.values
    p99_ms = max(float(values(p).get("callback p99 (ms)", 0)) for p in ("input", "odometry"))
    print(f"callbacks: p99 {p99_ms:.3f} ms (target below {P99_TARGET_MS:g})")
    for part in ("input", "odometry", "engine", "map"):
        print(f"{part}: {values(part)}")
    counts = [bench.count(k) for k in ("keyframes", "images skipped", "images dropped")]
    received, lost = bench.count("images received"), bench.count("messages lost on the way")
    print(f"sent {sent}: {lost} lost on the way as DDS says, {sent - lost - received} without a "
          f"word of DDS, {received} received = {' + '.join(map(str, counts))}")  # fmt: skip
    return [] if received == sum(counts) else ["not every image is accounted for"]


def report_memory(samples: Sequence[Held]) -> None:
    """Print the memory growth of the process after the warm-up."""
    samples = samples[int(WARM_UP * len(samples)) :]
    rss, tenth = np.array([s.rss_mb for s in samples]), max(1, len(samples) // 10)
    before, after = float(np.median(rss[:tenth])), float(np.median(rss[-tenth:]))
    print(f"memory after warm-up: {before:.1f} -> {after:.1f} MB, {after / before - 1:+.2%} "
          f"(target below {RSS_TARGET:.0%}), most {rss.max():.1f} MB")  # fmt: skip
    print(f"first {samples[0]}\nlast  {samples[-1]}")


def restarts(bench: Bench, count: int) -> list[str]:
    """Restart by transitions while images arrive; return leaked resources."""
    pid, begin = bench.processes.pid("mapper"), time.monotonic()
    cycle(bench, 2)
    before = settled(bench, pid)
    cycle(bench, count)
    after = settled(bench, pid, before)
    sent = bench.stop_player()
    print(f"{count} restarts in {time.monotonic() - begin:.0f} s under {sent} images")
    print(f"before {before}\nafter  {after}")
    return [
        f"{name} grew from {getattr(before, name)} to {getattr(after, name)}"
        for name in grown(before, after)
    ]


def grown(before: Held, after: Held) -> list[str]:
    """Names of what a process holds more of than before, memory aside."""
    names = ("threads", "files", "shared")
    return [name for name in names if getattr(after, name) > getattr(before, name)]


def cycle(bench: Bench, count: int) -> None:
    """Restart repeatedly, each time until images arrive again."""
    for _ in range(count):
        for step in CYCLE:
            bench.ask(step)
        bench.control.windows.clear()
        bench.control.wait(lambda: bench.count("images received") > 0, LIMIT_S, "images")


def settled(bench: Bench, pid: int, before: Held | None = None) -> Held:
    """What the node holds once the last restart has calmed down: the least of a few seconds.

    DDS gives shared memory back when it gets round to it, on a busy machine after several seconds;
    what a restart leaves behind stays.

    Args:
        bench: the node.
        pid: its process.
        before: what it should come back to; None for nothing in particular.
    """
    found = []
    for second in range(SETTLES_S):
        bench.control.spin_for(1.0)
        found.append(held_by(pid))
        least = min(found, key=lambda h: (h.threads, h.files, h.shared))
        if second >= 2 and (before is None or not grown(before, least)):
            break
    return least


def run(work: Callable[[Bench], list[str]], given: argparse.Namespace) -> int:
    """Start the processes, do the work, stop the processes, report."""
    domain = int(os.environ.get("ROS_DOMAIN_ID", "64"))
    # Without its profile, Fast DDS keeps memory for the largest number of images ever queued.
    os.environ.update(isolated_environment(domain), **fastdds_environment())
    with tempfile.TemporaryDirectory() as name, control_node(domain) as control:
        processes = Processes(Path(name), domain, {"PYTHONFAULTHANDLER": "1"})
        bench = Bench(Path(name), control, processes)
        try:
            bench.start(given.engine, given.rate, given.size)
            problems = [*work(bench), *bench.stop_node()]
        finally:
            processes.stop_all()
    for problem in problems or ["nothing wrong"]:
        print(problem)
    return 1 if problems else 0


def main() -> int:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--restarts", type=int, default=0, metavar="N")
    parser.add_argument(
        "--reset-s", type=float, default=0.0, metavar="S",
        help="empty the map this often: its growth then hides no leak (default: never)",
    )  # fmt: skip
    parser.add_argument("--rate", type=float, default=30.0, help="images a second")
    parser.add_argument("--size", default="640x480")
    parser.add_argument("--engine", default="", help="default: the default model")
    parser.add_argument("--play", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.play:
        width, height = map(int, given.size.split("x"))
        return play(given.rate, (height, width))
    work: Any = lambda bench: (  # noqa: E731
        restarts(bench, given.restarts)
        if given.restarts
        else soak(bench, given.minutes, given.reset_s)
    )
    return run(work, given)


if __name__ == "__main__":
    sys.exit(main())
