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

"""Rejected windows on disk, and Ctrl-C in the middle of a recording."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from mvdust3r_ros.config import KeyframeSettings, MapperConfig
from mvdust3r_ros.datatypes import Frame, Verdict, ViewTokens, WindowPrediction
from mvdust3r_ros.engines.oracle_engine import OracleEngine
from mvdust3r_ros.evaluation.lockstep import run_lockstep
from mvdust3r_ros.evaluation.window_dumps import (
    WindowDumpError,
    WindowDumpWriter,
    describe_replay,
    read_dump,
    replay_dump,
)
from mvdust3r_ros.recordings.recording import Recording
from mvdust3r_ros.synthetic.sequence import synthetic_frames

SIZE = (112, 112)
CONFIG = MapperConfig(
    keyframes=KeyframeSettings(
        window_size=5, window_overlap=2, max_translation_m=0.15, max_rotation_deg=10.0
    )
)


class SickEngine(OracleEngine):
    """Gives one NaN in every window from the second on."""

    windows = 0

    def decode(self, tokens: Sequence[ViewTokens], n_ref: int = 0) -> WindowPrediction:
        prediction = super().decode(tokens, n_ref)
        self.windows += 1
        if self.windows > 1:
            prediction.points[0, 1, 7, 9] = np.nan
        return prediction


@pytest.fixture(scope="module")
def drive() -> list[Frame]:
    return list(synthetic_frames(3, 24, (120, 160)))


def recording(frames: list[Frame]) -> Recording:
    return Recording("drive", "frames", len(frames), lambda _: iter(frames))


@pytest.fixture(scope="module")
def folder(drive: list[Frame], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dumps")
    writer = WindowDumpWriter(out, "oracle", CONFIG)
    evidence, stopped = run_lockstep(recording(drive), CONFIG, SickEngine(SIZE), writer)
    assert stopped == ""
    assert evidence.result.committed == 1
    assert writer.folders == sorted(out.glob("capsule-*"))
    assert len(writer.folders) == len(evidence.result.windows) - 1 >= 2
    return writer.folders[0]


@pytest.mark.slow
def test_a_dump_is_plain_files(folder: Path) -> None:
    names = {path.name for path in folder.iterdir()}
    assert {"capsule.json", "tensors.npz"} <= names
    assert {Path(name).suffix for name in names} == {".json", ".npz", ".png"}
    told = json.loads((folder / "capsule.json").read_text())
    assert told["verdict"] == "rejected_not_finite"
    assert told["reason"]
    with np.load(folder / "tensors.npz", allow_pickle=False) as tensors:
        assert np.isnan(tensors["points_1"]).any()
        assert np.isfinite(tensors["points_0"]).all()


def test_a_dump_comes_back_as_it_was(folder: Path, drive: list[Frame]) -> None:
    dump = read_dump(folder)
    assert dump.verdict == Verdict.REJECTED_NOT_FINITE
    assert dump.config == CONFIG
    assert len(dump.windows) == 2
    stamps = {f.stamp_ns for f in drive}
    assert all(k.stamp_ns in stamps for w in dump.windows for k in w.keyframes)
    view = dump.windows[1].keyframes[0].view
    assert view.image_rgb.shape == (*SIZE, 3)
    assert view.depth_m is not None
    assert view.K is not None


def test_run_again_it_fails_again_and_a_healthy_engine_maps_it(folder: Path) -> None:
    dump = read_dump(folder)
    sick = replay_dump(dump, SickEngine(SIZE))
    assert sick.verdict == Verdict.REJECTED_NOT_FINITE
    assert sick.message == dump.message
    healthy = replay_dump(dump, OracleEngine(SIZE))
    assert healthy.verdict == Verdict.COMMITTED
    words = describe_replay(dump, healthy)
    assert "recorded: rejected_not_finite" in words
    assert "now:      committed" in words


def test_an_engine_of_another_size_is_refused(folder: Path) -> None:
    with pytest.raises(WindowDumpError, match="112x112 pixels, the engine takes 224x224"):
        replay_dump(read_dump(folder), OracleEngine())


@pytest.mark.parametrize("name", ["capsule.json", "tensors.npz"])
def test_a_damaged_dump_is_named(folder: Path, tmp_path: Path, name: str) -> None:
    for path in folder.iterdir():
        data = path.read_bytes()
        (tmp_path / path.name).write_bytes(data[: len(data) // 2] if path.name == name else data)
    with pytest.raises(WindowDumpError, match="is damaged") as caught:
        read_dump(tmp_path)
    assert str(tmp_path) in str(caught.value)
    with pytest.raises(WindowDumpError, match="no window dump"):
        read_dump(tmp_path / "nowhere")


def test_dumps_of_an_earlier_run_go(folder: Path, drive: list[Frame], tmp_path: Path) -> None:
    (tmp_path / "capsule-9999").mkdir()
    (tmp_path / "capsule-9999" / "capsule.json").write_text("{}")
    (tmp_path / "capsule-mine").mkdir()
    writer = WindowDumpWriter(tmp_path, "oracle", CONFIG)
    run_lockstep(recording(drive), CONFIG, OracleEngine(SIZE), writer)
    assert [path.name for path in tmp_path.iterdir()] == ["capsule-mine"]
    assert folder.exists()


def test_ctrl_c_ends_the_run_and_keeps_what_was_mapped(drive: list[Frame]) -> None:
    def progress(done: int, total: int) -> None:
        assert total == 24
        if done == 14:
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    evidence, stopped = run_lockstep(
        recording(drive), CONFIG, OracleEngine(SIZE), progress=progress
    )
    assert stopped == "interrupted"
    assert evidence.result.frames == 14
    assert evidence.result.committed >= 1
    assert evidence.result.snapshot.grid is not None
    assert signal.getsignal(signal.SIGINT) is before
