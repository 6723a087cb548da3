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

"""The path of an image as docs/architecture.md has it, against what a real node does."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
ROW = re.compile(r"\| (?P<thread>\w+) \| `(?P<file>[\w/]+\.py)` \| `(?P<name>[\w.]+)` \|")
THREADS = ("callback", "intake", "inference")
MAX_STOPS, MAX_FILES = 15, 15
GROUND = re.compile(r"engines/.*|geometry\.py|datatypes\.py|config\.py|wording\.py")
MAX_FILES_BELOW = 47
"""Files that the stops ask on the way; a new one wants a reason."""
LIMIT_S = 90.0


@dataclass(frozen=True)
class Stop:
    thread: str
    file: str
    name: str


@dataclass(frozen=True)
class Call:
    stop: Stop
    led_by: list[str]


def stops() -> list[Stop]:
    page = (ROOT / "docs" / "architecture.md").read_text()
    return [Stop(m["thread"], m["file"], m["name"]) for m in ROW.finditer(page)]


@pytest.fixture(scope="module")
def traced(
    new_stage: Callable[[], Any], room_bag: Any, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """What a real node did with the images of a bag."""
    out = tmp_path_factory.mktemp("trace") / "trace.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRACE_STOPS", json.dumps([[s.file, s.name] for s in stops()]))
        patch.setenv("TRACE_OUT", str(out))
        stage = new_stage()
        topics = {"image": "/camera/image_raw", "camera_info": "/camera/camera_info",
                  "depth": "/camera/depth"}  # fmt: skip
        script = (Path(__file__).parent / "traced_node.py").read_text()
        stage.mapper(topics=topics, script=script, use_sim_time=True, ros__queue_size=100,
                     ros__image_depth=100)  # fmt: skip
        stage.bring_up()
    words = [str(room_bag.bag), "--depth", str(room_bag.depth), "--clock", "--rate", "2"]
    stage.processes.start("player", "play.player", words)
    images = len(room_bag.stamps_ns)

    def mapped() -> bool:
        value = stage.control.value
        waiting = value("input", "images waiting"), value("engine", "windows waiting")
        return value("input", "images received") == str(images) and waiting == ("0", "0")

    stage.control.wait(mapped, LIMIT_S, "the bag to be mapped")
    stage.processes.stop_all()
    return dict(json.loads(out.read_text()))


@pytest.fixture(scope="module")
def paths(traced: dict[str, Any]) -> dict[str, list[list[Call]]]:
    """Kind of thread -> what it did with each image or window, stop by stop."""
    of = {(s.file, s.name): s for s in stops()}
    first = {thread: next(s for s in stops() if s.thread == thread) for thread in THREADS}
    by_thread: dict[str, list[Call]] = defaultdict(list)
    for thread, file, name, led_by in traced["calls"]:
        by_thread[thread].append(Call(of[file, name], led_by))
    found: dict[str, list[list[Call]]] = defaultdict(list)
    for calls in by_thread.values():
        for call in calls:
            if call.stop == first[call.stop.thread]:
                found[call.stop.thread].append([])
            found[call.stop.thread][-1].append(call)
    return found


def test_the_path_is_short() -> None:
    assert {s.thread for s in stops()} == set(THREADS)
    assert len(stops()) <= MAX_STOPS
    assert len({s.file for s in stops()}) <= MAX_FILES


@pytest.mark.parametrize("thread", THREADS)
def test_no_thread_comes_back_to_a_file(thread: str) -> None:
    files = [s.file for s in stops() if s.thread == thread]
    assert len(files) == len(set(files))


@pytest.mark.parametrize("thread", THREADS)
def test_an_image_goes_through_the_stops_in_this_order(
    paths: dict[str, list[list[Call]]], thread: str
) -> None:
    expected = [s for s in stops() if s.thread == thread]
    walked = [[c.stop for c in path] for path in paths[thread]]
    assert expected in walked
    for path in walked:  # one that is not kept, or a window that is refused, ends before
        assert [s for s in expected if s in path] == path


def test_nothing_lies_between_the_stops(paths: dict[str, list[list[Call]]]) -> None:
    for thread, walks in paths.items():
        files = {s.file for s in stops() if s.thread == thread}
        for call in (c for walk in walks for c in walk):
            assert set(call.led_by) <= files | {call.stop.file}, call


def test_the_stops_ask_few_files(traced: dict[str, Any]) -> None:
    own = {s.file for s in stops()}
    below = [f for f in traced["files"] if f not in own and not GROUND.fullmatch(f)]
    assert len(below) <= MAX_FILES_BELOW, below
