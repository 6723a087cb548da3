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

"""What an engine wants of its caller: size of the views, keyframes, confidence."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mvdust3r_ros.config import KeyframeDefaults
from mvdust3r_ros.engines.base import EngineError, EngineInfo
from mvdust3r_ros.engines.create import MAKERS
from mvdust3r_ros.engines.manifest import (
    BACKENDS,
    MANIFEST_NAME,
    EngineManifest,
    load_manifest,
    save_manifest,
)

ASPECT = EngineManifest(
    "stereo", "mvs", (288, 384), long_side=384, metric=True,
    keyframes={"min_overlap": 0.8, "max_translation_m": 0.2},
    confidence={"min_conf": 2.0, "conf_quantile": 0.0},
)  # fmt: skip


def test_a_manifest_carries_what_the_engine_wants(tmp_path: Path) -> None:
    save_manifest(tmp_path, ASPECT)
    assert load_manifest(tmp_path) == ASPECT
    info = load_manifest(tmp_path).engine_info("CPU")
    assert (info.long_side, info.side_multiple, info.image_hw) == (384, 32, (288, 384))
    assert info.keyframes == KeyframeDefaults(min_overlap=0.8, max_translation_m=0.2)
    assert (info.min_conf, info.conf_quantile) == (2.0, 0.0)
    plain = EngineManifest("room", "onnx", (224, 224)).engine_info("CPU")
    assert (plain.long_side, plain.keyframes, plain.min_conf) == (0, None, None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"long_side": 380},
            r"long_side 380 of stereo \(mvs\) is no multiple of",
        ),
        ({"long_side": -32}, "long_side -32"),
        ({"side_multiple": 0}, "no multiple of side_multiple 0"),
        (
            {"image_hw": (288, 380)},
            r"image_hw \(288, 380\) of stereo \(mvs\) is not of",
        ),
        ({"image_hw": (288, 352)}, "is not of long_side 384"),
        ({"keyframes": {"min_overlap": 2.0}}, "keyframes of stereo: min_overlap: 2.0 is outside"),
        ({"keyframes": {"overlap": 2.0}}, "keyframes of stereo: .*'overlap'"),
        ({"keyframes": {"window_size": 4.0}}, "window_size: expected int"),
        ({"confidence": {"min_conf": 0.5}}, r"stereo \(mvs\): min_conf: 0.5 is outside"),
        ({"confidence": {"least": 2.0}}, "confidence.least; known: min_conf, conf_quantile"),
        ({"confidence": {"min_conf": "2"}}, "confidence must be of type"),
        ({"backend": "stereo"}, "backend 'stereo' is not one of"),
    ],
)
def test_a_manifest_that_wants_the_impossible_is_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    save_manifest(tmp_path, replace(ASPECT, **change))
    with pytest.raises(EngineError, match=message) as error:
        load_manifest(tmp_path)
    assert str(tmp_path / MANIFEST_NAME) in str(error.value)


def test_views_that_an_engine_takes() -> None:
    fixed = EngineInfo("a", "onnx", (224, 224))
    assert fixed.takes((224, 224)) and not fixed.takes((224, 384))
    assert fixed.view_hw((720, 1280)) == (224, 224)
    assert fixed.describe_size() == "224x224"
    info = ASPECT.engine_info("CPU")
    assert info.takes((224, 384)) and info.takes((384, 32)) and info.takes((384, 384))
    assert not any(info.takes(hw) for hw in ((224, 224), (220, 384), (384, 0), (416, 384)))
    assert info.describe_size() == "384 pixels on the longer side, multiples of 32"


def test_every_backend_of_a_manifest_has_a_maker() -> None:
    assert set(MAKERS) == set(BACKENDS)
