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

"""Dumps of rejected windows: folders of plain files, for inspection and replay."""

from __future__ import annotations

import json
import shutil
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import cv2
import numpy as np

from mvdust3r_ros.config import MapperConfig, settings_dict, with_values
from mvdust3r_ros.datatypes import (
    Keyframe,
    MapUpdate,
    MvDust3rError,
    Verdict,
    View,
    Window,
    WindowPrediction,
)
from mvdust3r_ros.engines.base import Engine
from mvdust3r_ros.evaluation.window_scores import WatchedEngine, WindowLog
from mvdust3r_ros.mapper import Mapper

CAPSULE_FORMAT = 1
"""Increases with each change that breaks readers of older dumps."""
MAX_DUMPS = 20
"""A bound on disk space: the first dumps show what goes wrong."""


class WindowDumpError(MvDust3rError):
    """A dump cannot be written or read."""


@dataclass(frozen=True)
class WindowDump:
    """A rejected window.

    Attributes:
        windows: the last committed window, if any, followed by the rejected window.
        predictions: the engine's prediction for each; None where it failed.
        verdict: the reason for rejection.
        message: the same in words.
        engine: engine folder or name used; empty for the default model.
        config: settings of the mapper.
    """

    windows: tuple[Window, ...]
    predictions: tuple[WindowPrediction | None, ...]
    verdict: Verdict
    message: str
    engine: str
    config: MapperConfig


class WindowDumpWriter:
    """Writes a folder for each rejected window of a run, 20 at most."""

    def __init__(self, out: Path, engine: str, config: MapperConfig) -> None:
        """Remove the dumps of an earlier run from `out`; write new ones there."""
        self._out, self._engine, self._config = out, engine, config
        self._committed: tuple[Window, WindowPrediction | None] | None = None
        self.folders: list[Path] = []
        self.left_out = 0
        for old in out.glob("capsule-*/capsule.json"):
            shutil.rmtree(old.parent)

    def observe(self, update: MapUpdate, prediction: WindowPrediction | None) -> None:
        """Process the outcome of a window.

        Raises:
            WindowDumpError: writing to disk failed.
        """
        if update.verdict == Verdict.COMMITTED:
            self._committed = update.window, prediction
            return
        if len(self.folders) >= MAX_DUMPS:
            self.left_out += 1
            return
        before = [] if self._committed is None else [self._committed]
        windows, predictions = zip(*before, (update.window, prediction), strict=True)
        folder = self._out / f"capsule-{update.window.index:04d}"
        write_dump(
            folder,
            WindowDump(
                windows, predictions, update.verdict, update.message, self._engine, self._config
            ),
        )
        self.folders.append(folder)


def write_dump(folder: Path, dump: WindowDump) -> None:
    """Write capsule.json, image-ID.png and tensors.npz (depth, points, confidence).

    Raises:
        WindowDumpError: writing to disk failed.
    """
    keyframes = {k.id: k for window in dump.windows for k in window.keyframes}
    tensors: dict[str, Any] = {
        f"depth_{k.id}": k.view.depth_m for k in keyframes.values() if k.view.depth_m is not None
    }
    for place, prediction in enumerate(dump.predictions):
        if prediction is not None:
            tensors[f"points_{place}"] = prediction.points
            tensors[f"conf_{place}"] = prediction.conf
            tensors[f"references_{place}"] = np.array(prediction.references)
    description = {
        "format": CAPSULE_FORMAT,
        "verdict": dump.verdict.name.lower(),
        "reason": dump.message,
        "engine": dump.engine,
        "windows": [
            {"index": w.index, "keyframes": [k.id for k in w.keyframes]} for w in dump.windows
        ],
        "keyframes": [_keyframe_values(k) for k in keyframes.values()],
        "settings": settings_dict(dump.config),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for keyframe in keyframes.values():
            bgr = np.ascontiguousarray(keyframe.view.image_rgb[..., ::-1])
            png = cv2.imencode(".png", bgr)[1]
            (folder / f"image-{keyframe.id:06d}.png").write_bytes(png.tobytes())
        np.savez_compressed(folder / "tensors.npz", **tensors)
        text = json.dumps(description, indent=2)
        (folder / "capsule.json").write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise WindowDumpError(f"cannot write {folder}: {error.strerror or error}") from None


def _keyframe_values(keyframe: Keyframe) -> dict[str, Any]:
    view = keyframe.view
    matrices = {"K": view.K, "T_odom_cam": view.T_odom_cam, "T_world_cam": view.T_world_cam}
    return {
        "id": keyframe.id,
        "stamp_ns": keyframe.stamp_ns,
        "camera_name": keyframe.camera_name,
        **{name: None if m is None else m.tolist() for name, m in matrices.items()},
    }


def read_dump(folder: Path) -> WindowDump:
    """Read a dump; nothing in it is ever executed.

    Raises:
        WindowDumpError: a file is missing or damaged.
    """
    try:
        values = json.loads((folder / "capsule.json").read_text(encoding="utf-8"))
        if values["format"] != CAPSULE_FORMAT:
            raise WindowDumpError(
                f"{folder}: format {values['format']!r}, expected {CAPSULE_FORMAT}"
            )
        with np.load(folder / "tensors.npz", allow_pickle=False) as tensors:
            arrays = dict(tensors)
        keyframes = {k["id"]: _keyframe_from(folder, k, arrays) for k in values["keyframes"]}
        windows = tuple(
            Window(w["index"], tuple(keyframes[k] for k in w["keyframes"]))
            for w in values["windows"]
        )
        settings = {
            f"{section}.{name}": value
            for section, fields in values["settings"].items()
            for name, value in fields.items()
        }
        return WindowDump(
            windows,
            tuple(_prediction_from(arrays, place) for place in range(len(windows))),
            Verdict[values["verdict"].upper()],
            values["reason"],
            values["engine"],
            with_values(MapperConfig(), settings),
        )
    except OSError as error:
        raise WindowDumpError(f"{folder} is no window dump: {error}") from None
    except (KeyError, TypeError, ValueError, EOFError, BadZipFile, zlib.error) as error:
        raise WindowDumpError(f"window dump {folder} is damaged: {error!r}") from None


def _keyframe_from(folder: Path, values: dict[str, Any], arrays: dict[str, Any]) -> Keyframe:
    path = folder / f"image-{int(values['id']):06d}.png"
    bgr = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    if bgr is None:
        raise WindowDumpError(f"{path} is no PNG")
    names = ("K", "T_odom_cam", "T_world_cam")
    K, T_odom_cam, T_world_cam = (
        None if values[n] is None else np.array(values[n], float) for n in names
    )
    view = View(
        np.asarray(bgr[..., ::-1].copy(), np.uint8),
        K, T_odom_cam, arrays.get(f"depth_{values['id']}"), T_world_cam,
    )  # fmt: skip
    return Keyframe(values["id"], values["stamp_ns"], view, values["camera_name"])


def _prediction_from(arrays: dict[str, Any], place: int) -> WindowPrediction | None:
    if f"points_{place}" not in arrays:
        return None
    references = tuple(int(r) for r in arrays[f"references_{place}"])
    return WindowPrediction(arrays[f"points_{place}"], arrays[f"conf_{place}"], references)


@dataclass(frozen=True)
class Replay:
    """Result of replaying a dump.

    Attributes:
        verdict: new verdict on the window.
        message: the reason in words.
        difference: largest change of the predicted points against the stored ones, as a fraction
            of their median distance; None if either is missing or their sizes differ.
        scores: ND and the other new scores, where the dump holds depth and poses.
    """

    verdict: Verdict
    message: str
    difference: float | None
    scores: dict[str, float]


def replay_dump(dump: WindowDump, engine: Engine, config: MapperConfig | None = None) -> Replay:
    """Replay a rejected window after the window committed before it.

    A dump does not contain the map older than that window, so a verdict that depends on it (scale,
    odometry over several windows) can differ.

    Args:
        dump: the dump.
        engine: any engine that accepts views of the dump's size; stays open.
        config: other settings; None for those of the dump.

    Raises:
        WindowDumpError: the engine needs views of another size.
    """
    info = engine.describe()
    stored_hw = dump.windows[-1].keyframes[0].view.image_rgb.shape[:2]
    if not info.takes(stored_hw):
        raise WindowDumpError(
            f"the dump holds views of {stored_hw[1]}x{stored_hw[0]} pixels, the engine takes "
            f"{info.describe_size()}"
        )
    watched = WatchedEngine(engine)
    config = config or dump.config
    log = WindowLog(watched, config.pose)
    mapper = Mapper(config, watched)
    for window in dump.windows:
        update = mapper.map_window(window)
        prediction = log.observe(update)
    scores = log.scores.get(dump.windows[-1].index)
    return Replay(
        update.verdict,
        update.message,
        _difference(prediction, dump.predictions[-1]),
        {} if scores is None else asdict(scores),
    )


def _difference(new: WindowPrediction | None, old: WindowPrediction | None) -> float | None:
    if new is None or old is None or new.points.shape[1:] != old.points.shape[1:]:
        return None
    size = float(np.median(np.linalg.norm(old.points[0], axis=-1)))
    return float(np.abs(new.points[0] - old.points[0]).max() / max(size, 1e-9))


def describe_replay(dump: WindowDump, replay: Replay) -> str:
    """Describe a replay in words, for a terminal."""
    lines = [
        f"recorded: {dump.verdict.name.lower()}: {dump.message or 'no reason given'}",
        f"now:      {replay.verdict.name.lower()}{': ' if replay.message else ''}{replay.message}",
    ]
    if replay.difference is not None:
        lines.append(f"predicted points: changed by at most {replay.difference:.2%} of their size")
    if replay.scores:
        lines.append(", ".join(f"{k} {v:.3f}" for k, v in replay.scores.items()))
    return "\n".join(lines)
