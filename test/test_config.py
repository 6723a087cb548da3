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

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mvdust3r_ros.config import (
    ConfigError,
    EngineSettings,
    KeyframeDefaults,
    KeyframeSettings,
    MapperConfig,
    MapSettings,
    Section,
    config_to_yaml,
    filled_in,
    flat_settings,
    load_config,
    setting,
    settings_dict,
    structural_changes,
    with_values,
)

DEFAULTS = {s.name: s for s in flat_settings(MapperConfig())}


@dataclasses.dataclass(frozen=True)
class Sample(Section):
    count: int = setting(3, "how many", low=1, high=5, structural=True)
    share: float = setting(0.5, "how much", low=0.0)
    mode: str = setting("fast", "which way", choices=("fast", "exact"))
    on: bool = setting(False, "whether")


@dataclasses.dataclass(frozen=True)
class SampleConfig:
    sample: Sample = dataclasses.field(default_factory=Sample)


def test_every_default_is_valid_and_described() -> None:
    assert len(DEFAULTS) > 25
    for item in DEFAULTS.values():
        assert item.value == item.default
        assert item.description
        assert not item.description.endswith(".")


def test_defaults_follow_the_best_practice_of_the_model() -> None:
    config = MapperConfig()
    rule = filled_in(config.keyframes)
    assert (rule.window_size, rule.window_overlap) == (8, 4)
    assert (config.map.voxel_size_m, config.map.grid_resolution_m) == (0.05, 0.05)


def test_settings_carry_their_metadata() -> None:
    found = {s.name: s for s in flat_settings(SampleConfig(Sample(count=5)))}
    assert list(found) == ["sample.count", "sample.share", "sample.mode", "sample.on"]
    count, mode = found["sample.count"], found["sample.mode"]
    assert (count.value, count.default, count.low, count.high) == (5, 3, 1, 5)
    assert count.structural
    assert not mode.structural
    assert mode.choices == ("fast", "exact")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"count": 0}, r"count: 0 is outside \[1, 5\]"),
        ({"count": 6}, r"count: 6 is outside \[1, 5\]"),
        ({"count": 2.0}, "count: expected int, got 2.0"),
        ({"count": True}, "count: expected int, got True"),
        ({"share": -0.1}, r"share: -0.1 is outside \[0.0, None\]"),
        ({"share": "1"}, "share: expected float, got '1'"),
        ({"share": True}, "share: expected float, got True"),
        ({"share": float("nan")}, "share: expected a number, got nan"),
        ({"mode": "slow"}, "mode: 'slow' is not one of fast, exact"),
        ({"mode": None}, "mode: expected str, got None"),
        ({"on": 1}, "on: expected bool, got 1"),
    ],
)
def test_wrong_values_are_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Sample(**values)  # type: ignore[arg-type]


def test_the_ends_of_a_range_are_allowed_and_whole_numbers_are_floats_too() -> None:
    assert Sample(count=1, share=0.0).count == 1
    assert Sample(count=5, share=2).share == 2


def test_an_overlap_as_large_as_the_window_is_refused() -> None:
    KeyframeSettings(window_size=5, window_overlap=5)
    with pytest.raises(ConfigError, match=r"window_overlap: 5 must be smaller than .* 5"):
        MapperConfig(keyframes=KeyframeSettings(window_size=5, window_overlap=5))
    MapperConfig(keyframes=KeyframeSettings(window_size=5, window_overlap=4))


def test_an_empty_obstacle_band_is_refused() -> None:
    with pytest.raises(ConfigError, match="obstacle_min_z_m must be below"):
        MapperConfig(map=MapSettings(obstacle_min_z_m=1.0, obstacle_max_z_m=1.0))
    with pytest.raises(ConfigError, match="got nan"):
        MapSettings(obstacle_min_z_m=float("nan"))


def test_what_is_left_to_the_engine_is_filled_in_and_the_rest_stays() -> None:
    liked = KeyframeDefaults(6, 4, 0.8, 0.2, 12.0)
    rule = filled_in(KeyframeSettings(), liked)
    assert dataclasses.astuple(rule)[:5] == (6, 4, 0.8, 0.2, 12.0)
    assert filled_in(rule, KeyframeDefaults()) == rule
    own = KeyframeSettings(min_overlap=0.5, max_rotation_deg=3.0, min_sharpness=0.0)
    rule = filled_in(own, liked)
    assert (rule.min_overlap, rule.max_rotation_deg, rule.max_translation_m) == (0.5, 3.0, 0.2)
    assert rule.min_sharpness == 0.0


@pytest.mark.parametrize(
    ("given", "liked", "expected"),
    [
        ((0, 0), (8, 4), (8, 4)),
        ((0, 0), (6, 5), (6, 5)),
        ((4, 0), (8, 4), (4, 2)),
        ((3, 0), (12, 11), (3, 2)),
        ((100, 0), (8, 4), (100, 50)),
        ((3, 0), (12, 1), (3, 1)),
        ((0, 7), (6, 3), (8, 7)),
        ((0, 2), (6, 3), (6, 2)),
        ((9, 8), (6, 3), (9, 8)),
    ],
)
def test_window_and_overlap_go_together_whoever_says_them(
    given: tuple[int, int], liked: tuple[int, int], expected: tuple[int, int]
) -> None:
    rule = filled_in(KeyframeSettings(*given), KeyframeDefaults(*liked))
    assert (rule.window_size, rule.window_overlap) == expected
    MapperConfig(keyframes=rule)


def test_a_window_is_never_smaller_when_keyframes_wait() -> None:
    liked = KeyframeDefaults(window_size=8, busy_window_size=12)
    sizes = [
        filled_in(
            KeyframeSettings(window_size=size, busy_window_size=busy), liked
        ).busy_window_size
        for size, busy in ((0, 0), (4, 0), (20, 0), (0, 9), (10, 9))
    ]
    assert sizes == [12, 6, 30, 9, 10]
    assert filled_in(KeyframeSettings()).busy_window_size == KeyframeDefaults.window_size


def test_an_engine_must_like_what_its_settings_allow() -> None:
    with pytest.raises(ConfigError, match=r"min_overlap: 1.5 is outside \[0.05, 0.99\]"):
        KeyframeDefaults(min_overlap=1.5)
    with pytest.raises(ConfigError, match="window_overlap: 8 must be smaller"):
        KeyframeDefaults(window_overlap=8)
    with pytest.raises(ConfigError, match="max_translation_m: 0 leaves it to the engine"):
        KeyframeDefaults(max_translation_m=0.0)


def test_the_value_that_leaves_it_to_the_engine_is_the_only_one_out_of_range() -> None:
    assert MapSettings(min_conf=0.0, conf_quantile=-1.0) == MapSettings()
    for name, value in {"min_conf": 0.5, "conf_quantile": -0.5}.items():
        with pytest.raises(ConfigError, match=f"{name}: {value} is outside"):
            MapSettings(**{name: value})
    with pytest.raises(ConfigError, match=r"window_size: 2 is outside \[3, 100\]"):
        KeyframeSettings(window_size=2)


# Changing values


def test_values_by_full_name() -> None:
    changed = with_values(
        MapperConfig(), {"map.max_depth_m": 5, "keyframes.window_size": 6, "engine.engine": "a"}
    )
    assert changed.map.max_depth_m == 5.0
    assert isinstance(changed.map.max_depth_m, float)
    assert changed == MapperConfig(
        map=MapSettings(max_depth_m=5.0),
        keyframes=KeyframeSettings(window_size=6),
        engine=EngineSettings(engine="a"),
    )
    assert MapperConfig() == with_values(changed, {n: s.default for n, s in DEFAULTS.items()})


def test_no_values_change_nothing() -> None:
    config = MapperConfig(map=MapSettings(max_depth_m=3.0))
    assert with_values(config, {}) == config


def test_an_unknown_name_gets_a_suggestion() -> None:
    with pytest.raises(ConfigError, match=r"'keyframes.windowsize'; did you mean keyframes.win"):
        with_values(MapperConfig(), {"keyframes.windowsize": 8})
    with pytest.raises(
        ConfigError, match=r"unknown setting 'zzz'; known: camera.readout_ms, engine.engine, "
    ):
        with_values(MapperConfig(), {"zzz": 8})


def test_the_wrong_setting_is_named_among_good_ones() -> None:
    with pytest.raises(ConfigError, match=r"^keyframes\.window_size: 1 is outside"):
        with_values(MapperConfig(), {"keyframes.window_size": 1, "map.min_hits": 2})
    with pytest.raises(ConfigError, match=r"^map\.min_hits: expected int, got 2\.5"):
        with_values(MapperConfig(), {"keyframes.window_size": 9, "map.min_hits": 2.5})


def test_values_that_clash_are_refused_together() -> None:
    with pytest.raises(ConfigError, match="must be smaller"):
        with_values(MapperConfig(), {"keyframes.window_overlap": 8})
    both = {"keyframes.window_overlap": 8, "keyframes.window_size": 9}
    assert with_values(MapperConfig(), both).keyframes.window_overlap == 8


def test_structural_changes_are_named() -> None:
    old, new = SampleConfig(Sample(share=0.1)), SampleConfig(Sample(count=4, share=0.2))
    assert structural_changes(old, new) == ["sample.count"]
    assert structural_changes(old, SampleConfig()) == []
    assert structural_changes(MapperConfig(), new) == []


# Files


@given(
    st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "Zs"]), max_size=120),
    st.floats(1e-3, 1e6),
    st.integers(1, 99),
)
@pytest.mark.slow
def test_yaml_there_and_back(
    tmp_path_factory: pytest.TempPathFactory, a: str, b: float, c: int
) -> None:
    values = {"engine.provider": a, "stitch.min_baseline_m": b, "map.min_hits": c}
    config = with_values(MapperConfig(), values)
    path = tmp_path_factory.getbasetemp() / "there_and_back.yaml"
    path.write_text(config_to_yaml(config), encoding="utf-8")
    assert load_config(path) == config


def test_yaml_is_a_ros_parameter_file_with_comments() -> None:
    text = config_to_yaml(SampleConfig(Sample(share=0.25)), "camera_node")
    assert text.splitlines() == [
        "camera_node:",
        "  ros__parameters:",
        "    sample:",
        "      # how many ([1, 5]; read-only while configured)",
        "      count: 3",
        "      # how much ([0, inf])",
        "      share: 0.25",
        "      # which way (one of fast, exact)",
        "      mode: fast",
        "      # whether",
        "      'on': false",
    ]


def test_yaml_quotes_what_yaml_would_misread() -> None:
    loaded = yaml.safe_load(config_to_yaml(SampleConfig()))
    assert loaded["mapper"]["ros__parameters"]["sample"]["on"] is False


def test_plain_layout(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("map:\n  min_hits: 4\nkeyframes:\n  window_size: 6\n")
    config = load_config(path)
    assert (config.map.min_hits, config.keyframes.window_size) == (4, 6)
    path.write_text("")
    assert load_config(path) == MapperConfig()


def test_a_ros_file_may_hold_sections_of_others(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(
        "/**:\n  ros__parameters:\n    use_sim_time: true\n    ros: {map_frame: world}\n"
        "    map: {min_hits: 4}\n"
    )
    assert load_config(path) == MapperConfig(map=MapSettings(min_hits=4))
    path.write_text("mapper:\n  ros__parameters:\n")
    assert load_config(path) == MapperConfig()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("map: {min_hitz: 4}", r"unknown setting 'map.min_hitz'; did you mean map.min_hits"),
        (
            "mapping: {min_hits: 4}",
            "unknown section 'mapping'; known: camera, engine, keyframes, loop, map, pose",
        ),
        ("map: 4", "map: expected a mapping of settings, got 4"),
        ("map: {min_hits: 0}", r"map.min_hits: 0 is outside \[1, None\]"),
        ("- 1", "expected a mapping of sections, got list"),
        ("a: [", "line 1: expected the node content"),
        ("mapper: {ros__parameters: 3}", "expected a mapping of sections, got int"),
    ],
)
def test_a_bad_file_is_named_with_its_fault(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=rf"bad\.yaml.*{message}"):
        load_config(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read settings from .*absent\.yaml"):
        load_config(tmp_path / "absent.yaml")
    path = tmp_path / "binary.yaml"
    path.write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(ConfigError, match=r"cannot read settings from .*binary\.yaml"):
        load_config(path)


def test_settings_for_a_report() -> None:
    plain = settings_dict(MapperConfig(map=MapSettings(min_hits=7)))
    assert plain["map"]["min_hits"] == 7
    assert {f"{s}.{k}" for s, v in plain.items() for k in v} == set(DEFAULTS)
