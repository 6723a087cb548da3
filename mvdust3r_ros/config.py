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

"""Every setting: default, unit, range, meaning; to and from YAML.

Each section is a frozen dataclass whose fields carry their description and range as metadata. The
ROS node declares its parameters from here (`flat_settings`), and `config/mapper.yaml` is written
from here (`config_to_yaml`), so a setting is described in one place only.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from mvdust3r_ros.datatypes import MvDust3rError
from mvdust3r_ros.safe_files import FileError, read_yaml

Value = bool | int | float | str


class ConfigError(MvDust3rError):
    """A setting is unknown, of the wrong type or out of range."""


def setting(
    default: Value,
    description: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    structural: bool = False,
    auto: float | None = None,
) -> Any:
    """Return a dataclass field with its description and range.

    Args:
        default: default value; its type is the type of the setting.
        description: one sentence with the unit.
        low: smallest allowed value.
        high: largest allowed value.
        choices: allowed strings.
        structural: True if it cannot change while the node is configured.
        auto: value outside the range that leaves the choice to the engine, see `filled_in`.
    """
    meta = {
        "description": description,
        "low": low,
        "high": high,
        "choices": choices,
        "structural": structural,
        "auto": auto,
    }
    return field(default=default, metadata=meta)


class Section:
    """Base of the settings dataclasses: checks ranges on construction."""

    def __post_init__(self) -> None:
        for spec in dataclasses.fields(self):  # type: ignore[arg-type]
            check_value(spec.name, getattr(self, spec.name), spec.default, spec.metadata)


def check_value(name: str, value: object, default: object, meta: Mapping[str, Any]) -> None:
    """Raise ConfigError if a value has the wrong type or lies outside its range."""
    kind = type(default)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not kind:
        raise ConfigError(f"{name}: expected {kind.__name__}, got {value!r}")
    if meta["choices"] and value not in meta["choices"]:
        raise ConfigError(f"{name}: {value!r} is not one of {', '.join(meta['choices'])}")
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return
    low, high = meta["low"], meta["high"]
    if math.isnan(value):
        raise ConfigError(f"{name}: expected a number, got nan")
    if meta.get("auto") is not None and value == meta["auto"]:
        return
    if not (low is None or value >= low) or not (high is None or value <= high):
        raise ConfigError(f"{name}: {value} is outside [{low}, {high}]")


@dataclass(frozen=True)
class EngineSettings(Section):
    """The network and where it runs."""

    engine: str = setting(
        "", "engine folder; empty for the installed default model", structural=True
    )
    n_ref: int = setting(0, "reference paths; 0 for the engine's default", low=0, high=24)
    threads: int = setting(2, "CPU threads of the engine; 0 for all", low=0, structural=True)
    provider: str = setting("", "ONNX Runtime provider; empty for the best", structural=True)


@dataclass(frozen=True)
class CameraSettings(Section):
    """Camera properties that camera_info does not include."""

    readout_ms: float = setting(
        -1.0, "time from the first to the last row of an image (ms), for cameras that read them "
        "one after the other; 0 for all at once, -1 to find it out from the images",
        low=0.0, high=100.0, auto=-1.0, structural=True,
    )  # fmt: skip


@dataclass(frozen=True)
class KeyframeSettings(Section):
    """Selection of keyframes and windows."""

    window_size: int = setting(
        0, "keyframes in a window; a network is slow with more than 12, worse with more than 20; "
        "0 for what the engine likes, mostly 8", low=3, high=100, auto=0,
    )  # fmt: skip
    window_overlap: int = setting(
        0, "keyframes shared with the window before; 0 for what the engine likes, mostly 4",
        low=1, high=99, auto=0,
    )  # fmt: skip
    min_overlap: float = setting(
        0.0, "a frame is kept when less than this share of the last keyframe stays in view; "
        "0 for what the engine likes, mostly 0.6", low=0.05, high=0.99, auto=0.0,
    )  # fmt: skip
    max_translation_m: float = setting(
        0.0, "a frame is kept after this much odometry motion (m); 0 for what the engine likes, "
        "mostly 0.5", low=0.01, auto=0.0,
    )  # fmt: skip
    max_rotation_deg: float = setting(
        0.0, "a frame is kept after this much odometry rotation (deg); 0 for what the engine "
        "likes, mostly 20", low=0.1, high=180.0, auto=0.0,
    )  # fmt: skip
    max_interval_s: float = setting(
        0.0, "a frame is kept after this time even without motion (s); 0 for never", low=0.0
    )
    min_interval_s: float = setting(
        0.0, "frames closer in time than this are skipped (s)", low=0.0
    )
    min_sharpness: float = setting(
        0.35, "a frame is skipped as blurred below this share of the recent median sharpness",
        low=0.0, high=1.0,
    )  # fmt: skip
    busy_window_size: int = setting(
        0, "keyframes in a window while they come faster than windows are made; more are thinned "
        "out; never below window_size; 0 for what the engine likes, mostly window_size",
        low=3, high=100, auto=0,
    )  # fmt: skip


@dataclass(frozen=True)
class KeyframeDefaults:
    """An engine's defaults for the settings `keyframes.*` that are left to it.

    Attributes:
        window_size: keyframes in a window.
        window_overlap: keyframes shared with the previous window.
        min_overlap: least share of the last keyframe that stays in view.
        max_translation_m: odometry motion between keyframes (m).
        max_rotation_deg: odometry rotation between keyframes (deg).
        busy_window_size: keyframes in a window while they arrive faster than windows are
            processed; 0 for `window_size`.

    Raises:
        ConfigError: on construction, a value outside the range of its setting.
    """

    window_size: int = 8
    window_overlap: int = 4
    min_overlap: float = 0.6
    max_translation_m: float = 0.5
    max_rotation_deg: float = 20.0
    busy_window_size: int = 0

    def __post_init__(self) -> None:
        values = dataclasses.asdict(self)
        MapperConfig(keyframes=KeyframeSettings(**values))
        may_be_0 = "busy_window_size"
        if left := [name for name, value in values.items() if value == 0 and name != may_be_0]:
            raise ConfigError(f"{left[0]}: 0 leaves it to the engine, which must say a number")


def filled_in(
    given: KeyframeSettings, preferred: KeyframeDefaults | None = None
) -> KeyframeSettings:
    """Return settings with a number for each that is left to the engine.

    The user's values are kept; window size and overlap are adapted to them where they conflict.

    Args:
        given: as configured.
        preferred: the engine's defaults; None for those of most engines.
    """
    preferred = preferred or KeyframeDefaults()
    size = given.window_size or max(preferred.window_size, given.window_overlap + 1)
    share = size / preferred.window_size
    busy_size = given.busy_window_size or round(preferred.busy_window_size * share)
    return dataclasses.replace(
        given,
        window_size=size,
        window_overlap=given.window_overlap
        or max(1, min(round(preferred.window_overlap * share), size - 1)),
        min_overlap=given.min_overlap or preferred.min_overlap,
        max_translation_m=given.max_translation_m or preferred.max_translation_m,
        max_rotation_deg=given.max_rotation_deg or preferred.max_rotation_deg,
        busy_window_size=max(size, busy_size),
    )


@dataclass(frozen=True)
class PoseSettings(Section):
    """Camera poses from pointmaps."""

    conf_quantile: float = setting(
        0.2, "share of the least confident points that poses do not use", low=0.0, high=0.95
    )
    reprojection_px: float = setting(4.0, "PnP inlier distance (px)", low=0.1)
    min_inlier_ratio: float = setting(
        0.3, "a view with fewer PnP inliers is not placed", low=0.0, high=1.0
    )
    refine: str = setting(
        "none", "tracks: poses that came from pointmaps are refined by features that the views "
        "share, where these hold them; needs camera_info; not for engines that give poses "
        "themselves, like mvs", choices=("none", "tracks"),
    )  # fmt: skip


@dataclass(frozen=True)
class StitchSettings(Section):
    """Joining windows to the map."""

    max_residual: float = setting(
        0.15,
        "largest median distance on shared pixels, as a share of their depth; this and the "
        "next limits are wider for an engine whose manifest says that it is coarse",
        low=0.001,
    )
    max_scale_change: float = setting(
        2.0,
        "largest scale factor between a window and the odometry or the model's metres, and "
        "between the views of a window that the map knows",
        low=1.01,
    )
    max_conflict: float = setting(
        0.45, "largest share of the points of a view that may lie in front of what another view "
        "of the window sees there", low=0.01, high=1.0,
    )  # fmt: skip
    max_lone_sigma: float = setting(
        0.06, "largest relative uncertainty of the scale of a window that shares nothing with the "
        "map: its motion has to agree with odometry's", low=0.001,
    )  # fmt: skip
    max_odom_translation: float = setting(
        0.5,
        "largest disagreement with odometry, as a share of the motion (3 m at most) plus 0.2 m "
        "and three times odometry's own uncertainty",
        low=0.01,
    )
    max_odom_rotation_deg: float = setting(
        20.0, "largest disagreement with odometry in rotation over a window (deg)", low=0.5
    )
    rollback_windows: int = setting(
        4, "how many of the last windows can be taken out of the map again when a later one "
        "contradicts them; 0 for none", low=0, high=50,
    )  # fmt: skip
    min_baseline_m: float = setting(
        0.05, "odometry motion below which a window says nothing on scale (m)", low=0.0
    )
    max_mounting_sigma_deg: float = setting(
        2.0, "where nothing says how the camera sits on the robot, odometry is used once the "
        "motion has shown it to so much (deg); 0 for never", low=0.0,
    )  # fmt: skip
    odom_rel_sigma: float = setting(
        0.02, "relative uncertainty of odometry's distances over a window", low=0.001, high=1.0
    )
    odom_bias_sigma: float = setting(
        0.01, "relative uncertainty of odometry's distances that is the same in all windows, like "
        "a wrong wheel radius", low=0.0, high=1.0,
    )  # fmt: skip
    model_rel_sigma: float = setting(
        0.15, "relative uncertainty of the metres of a metric model", low=0.001, high=1.0
    )
    use_depth: bool = setting(False, "take the scale from depth images where there are any")
    scale_max_rel_sigma: float = setting(
        0.1, "relative uncertainty of the scale above which nothing is given to navigation",
        low=0.001,
    )  # fmt: skip


@dataclass(frozen=True)
class LoopSettings(Section):
    """Loop closure when the camera revisits a place."""

    enabled: bool = setting(True, "look for known ground and move the keyframes to fit")
    min_gap: int = setting(30, "keyframes between the two ends of a loop", low=8)
    min_windows: int = setting(3, "windows between two tries", low=1)
    radius_m: float = setting(2.0, "largest distance of two cameras to try (m)", low=0.1)
    max_angle_deg: float = setting(
        50.0, "largest angle between the views of two cameras to try (deg)", low=1.0
    )
    min_similarity: float = setting(
        0.5, "views farther apart than radius_m are tried if they look this much alike (-1 to 1)",
        low=-1.0, high=1.0,
    )  # fmt: skip
    max_drift: float = setting(
        0.1, "and if they are no farther apart than radius_m and this share of the path between",
        low=0.0, high=10.0,
    )  # fmt: skip
    max_residual: float = setting(
        0.06, "largest median distance of the joint window from the map at each end, as a share "
        "of the depth", low=0.001,
    )  # fmt: skip
    min_covisible: float = setting(
        0.15, "share of the points of one end that the other end must see where they are",
        low=0.0, high=1.0,
    )  # fmt: skip
    max_sigmas: float = setting(
        1.5, "strain on the measured motions after a closure above which it is undone (sigmas)",
        low=0.1,
    )  # fmt: skip


@dataclass(frozen=True)
class MapSettings(Section):
    """The voxel map and the occupancy grid."""

    voxel_size_m: float = setting(
        0.05, "side of a voxel (m)", low=0.005, high=2.0, structural=True
    )
    conf_quantile: float = setting(
        -1.0, "share of the least confident points of a window that is left out; -1 for what the "
        "engine likes, mostly 0.3", low=0.0, high=0.95, auto=-1.0,
    )  # fmt: skip
    min_conf: float = setting(
        0.0, "points at or below this confidence are left out; its level depends on the engine; "
        "0 for what it likes, mostly 1", low=1.0, auto=0.0,
    )  # fmt: skip
    pixel_stride: int = setting(
        2, "every n-th pixel of a pointmap goes into the map", low=1, high=16
    )
    max_depth_m: float = setting(8.0, "points farther from their camera are left out (m)", low=0.1)
    grid_resolution_m: float = setting(
        0.05, "side of a grid cell (m)", low=0.01, high=2.0, structural=True
    )
    obstacle_min_z_m: float = setting(0.15, "lower end of the obstacle band above the floor (m)")
    obstacle_max_z_m: float = setting(1.5, "upper end of the obstacle band above the floor (m)")
    min_hits: int = setting(
        2, "points of near views that make a cell an obstacle; far ones count less", low=1
    )
    min_passes: int = setting(
        1, "views that must look through a cell to the floor before it is free", low=1, high=20
    )
    free_max_z_m: float = setting(
        0.3,
        "a ray makes cells free only where it is lower than this above the floor (m)",
        low=0.01,
    )
    drop_m: float = setting(
        0.3, "points farther than this below the floor are obstacles, as stairs (m); 0 for never",
        low=0.0,
    )  # fmt: skip
    point_rel_sigma: float = setting(
        0.02, "error of a point along its ray, share of its distance; the grid stops short of it",
        low=0.0, high=0.5,
    )  # fmt: skip
    half_life_s: float = setting(
        0.0,
        "evidence of a cell that nobody looks at halves in this time (s); 0 for never",
        low=0.0,
    )
    robot_radius_m: float = setting(
        0.22, "radius of the robot: where its base drove, and a cell more, is free (m)", low=0.0
    )
    camera_height_m: float = setting(
        0.0, "height of the camera above the floor (m), for the floor and the scale; 0 if unknown",
        low=0.0,
    )  # fmt: skip
    keyframes_per_place: int = setting(
        12, "keyframes kept of one place (0.3 m, 20 deg), the oldest and the newest; voxels and "
        "grid keep what the others saw; 0 for no bound", low=0,
    )  # fmt: skip
    radius_m: float = setting(
        0.0, "keyframes and points farther from the newest camera are forgotten (m); 0 for none",
        low=0.0,
    )  # fmt: skip
    forget_outside: bool = setting(
        False, "forget the cells of the grid outside map.radius_m as well"
    )


@dataclass(frozen=True)
class MapperConfig:
    """All settings of the mapper, by section."""

    engine: EngineSettings = field(default_factory=EngineSettings)
    camera: CameraSettings = field(default_factory=CameraSettings)
    keyframes: KeyframeSettings = field(default_factory=KeyframeSettings)
    pose: PoseSettings = field(default_factory=PoseSettings)
    stitch: StitchSettings = field(default_factory=StitchSettings)
    loop: LoopSettings = field(default_factory=LoopSettings)
    map: MapSettings = field(default_factory=MapSettings)

    def __post_init__(self) -> None:
        size = self.keyframes.window_size or KeyframeDefaults.window_size
        if self.keyframes.window_overlap >= size:
            raise ConfigError(
                f"keyframes.window_overlap: {self.keyframes.window_overlap} must be smaller than "
                f"keyframes.window_size {size}"
            )
        if self.map.obstacle_min_z_m >= self.map.obstacle_max_z_m:
            raise ConfigError("map.obstacle_min_z_m must be below map.obstacle_max_z_m")


@dataclass(frozen=True)
class Setting:
    """One setting with its full name, as declared by the node.

    Attributes:
        name: "section.field".
        value: current value.
        default: default value.
        description: one sentence with the unit.
        low: smallest allowed value or None.
        high: largest allowed value or None.
        choices: allowed strings, empty for any.
        structural: True if it cannot change while the node is configured.
        auto: value outside the range that leaves the choice to the engine; None without one.
    """

    name: str
    value: Value
    default: Value
    description: str
    low: float | None
    high: float | None
    choices: tuple[str, ...]
    structural: bool
    auto: float | None


def flat_settings(config: object) -> Iterator[Setting]:
    """Yield every setting of a dataclass of sections, as "section.field"."""
    for section in dataclasses.fields(config):  # type: ignore[arg-type]
        values = getattr(config, section.name)
        for spec in dataclasses.fields(values):
            yield Setting(
                name=f"{section.name}.{spec.name}",
                value=getattr(values, spec.name),
                default=spec.default,  # type: ignore[arg-type]
                **spec.metadata,
            )


def structural_changes(old: object, new: object) -> list[str]:
    """Return the names of the structural settings in both configs whose values differ."""
    before = {s.name: s.value for s in flat_settings(old) if s.structural}
    return [s.name for s in flat_settings(new) if before.get(s.name, s.value) != s.value]


AnyConfig = TypeVar("AnyConfig", bound=MapperConfig)
"""Settings of the mapper, or of an extension."""


def with_values(config: AnyConfig, values: Mapping[str, object]) -> AnyConfig:
    """Return a config with some settings replaced.

    Args:
        config: the config to start from.
        values: "section.field" -> value; an int is accepted where a float is expected.

    Raises:
        ConfigError: an unknown name (with the closest known ones), a wrong type or range.
    """
    known = {s.name: s for s in flat_settings(config)}
    sections: dict[str, dict[str, object]] = {}
    for name, value in values.items():
        if name not in known:
            raise ConfigError(f"unknown setting {name!r}; {_suggest(name, known)}")
        section, key = name.split(".", 1)
        if isinstance(known[name].default, float) and type(value) is int:
            value = float(value)
        sections.setdefault(section, {})[key] = value
    changed = {}
    for section, fields in sections.items():
        try:
            changed[section] = dataclasses.replace(getattr(config, section), **fields)
        except ConfigError as error:
            raise ConfigError(f"{section}.{error}") from None
    return dataclasses.replace(config, **changed)


def _suggest(name: str, known: Mapping[str, Setting]) -> str:
    import difflib

    close = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    return f"did you mean {', '.join(close)}?" if close else f"known: {', '.join(sorted(known))}"


def load_config(path: Path) -> MapperConfig:
    """Read settings from YAML: {section: {field: value}}, or the ROS parameter file layout.

    A ROS parameter file may have further sections, which are ignored.

    Raises:
        ConfigError: the file cannot be read, or a setting is unknown or out of range.
    """
    try:
        data = read_yaml(path) or {}
    except (OSError, FileError) as error:
        raise ConfigError(f"cannot read settings from {path}: {error}") from None
    sections = {f.name for f in dataclasses.fields(MapperConfig)}
    if isinstance(data, dict) and len(data) == 1:
        inner = next(iter(data.values()))
        if isinstance(inner, dict) and "ros__parameters" in inner:
            data = inner["ros__parameters"] or {}
            if isinstance(data, dict):
                data = {k: v for k, v in data.items() if k in sections}
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: expected a mapping of sections, got {type(data).__name__}")
    try:
        return with_values(MapperConfig(), _flatten(data, sections))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _flatten(data: Mapping[str, object], sections: set[str]) -> dict[str, object]:
    """Convert {section: {field: value}} to {"section.field": value}."""
    values: dict[str, object] = {}
    for section, fields in data.items():
        if section not in sections:
            raise ConfigError(f"unknown section {section!r}; known: {', '.join(sorted(sections))}")
        if not isinstance(fields, dict):
            raise ConfigError(f"{section}: expected a mapping of settings, got {fields!r}")
        values.update({f"{section}.{k}": v for k, v in fields.items()})
    return values


def settings_dict(config: MapperConfig) -> dict[str, dict[str, Value]]:
    """Return all settings as a nested plain dictionary, for reports."""
    return dataclasses.asdict(config)


def config_to_yaml(config: object, node_name: str = "mapper") -> str:
    """Return a ROS parameter file of all settings, commented with description and range."""
    lines = [f"{node_name}:", "  ros__parameters:"]
    section = ""
    for item in flat_settings(config):
        head, key = item.name.split(".", 1)
        if head != section:
            section = head
            lines.append(f"    {head}:")
        lines.append(f"      # {item.description}{_range_text(item)}")
        lines.append(f"      {yaml.safe_dump({key: item.value}, width=float('inf')).strip()}")
    return "\n".join(lines) + "\n"


def _range_text(item: Setting) -> str:
    parts = []
    if item.choices:
        parts.append("one of " + ", ".join(item.choices))
    if item.low is not None or item.high is not None:
        low = "-inf" if item.low is None else f"{item.low:g}"
        high = "inf" if item.high is None else f"{item.high:g}"
        also = "" if item.auto is None else f" or {item.auto:g}"
        parts.append(f"[{low}, {high}]{also}")
    if item.structural:
        parts.append("read-only while configured")
    return f" ({'; '.join(parts)})" if parts else ""
