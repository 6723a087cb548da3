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

"""What places look like: only descriptors of one kind are ever compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from box_room import BoxRoom
from map_world import SAW_NOTHING
from mvdust3r_ros.atlas.session_file import read_session, session_bytes
from mvdust3r_ros.config import KeyframeSettings, MapperConfig
from mvdust3r_ros.datatypes import Descriptor, Keyframe, View, ViewTokens
from mvdust3r_ros.descriptors import THUMBNAIL, image_descriptor, of_one_kind, similarity
from mvdust3r_ros.engines.oracle_engine import OracleEngine
from mvdust3r_ros.engines.views import token_descriptor
from mvdust3r_ros.graph.map_keyframe import MapKeyframe
from mvdust3r_ros.graph.relocalisation import likely_places
from mvdust3r_ros.mapper import Mapper

CONFIG = MapperConfig(
    keyframes=KeyframeSettings(window_size=6, window_overlap=3, max_translation_m=0.2)
)
WIDTH = 768
"""Of thumbnails, and of the tokens of the published networks."""


def pictures(count: int) -> list[View]:
    rng = np.random.default_rng(0)
    return [View(rng.integers(0, 255, (64, 64, 3), np.uint8)) for _ in range(count)]


def tokens_of(views: list[View], engine: str) -> list[ViewTokens]:
    """As of a network whose tokens say the opposite of what the pictures show."""
    looks = [image_descriptor(view).vector for view in views]
    return [
        ViewTokens(None, view, token_descriptor(look[None], engine))
        for view, look in zip(views, reversed(looks), strict=True)
    ]


def mapped(tokens: list[ViewTokens]) -> list[MapKeyframe]:
    nothing = np.zeros((0, 3), np.float32), np.zeros((0, 3), np.uint8), np.zeros(0, np.float32)
    return [
        MapKeyframe(
            Keyframe(i, i, t.view, ""), np.eye(4), *nothing, SAW_NOTHING, descriptor=t.descriptor
        )
        for i, t in enumerate(tokens)
    ]


def test_tokens_are_pooled_and_say_whose_they_are() -> None:
    mean = token_descriptor(np.array([[1.0, 2.0], [3.0, 6.0]]), "room")
    assert (mean.kind, mean.vector.tolist()) == ("room", [2.0, 4.0])
    assert mean.vector.dtype == np.float32


def test_thumbnails_have_no_brightness_and_no_contrast() -> None:
    (view,) = pictures(1)
    dimmed = View((view.image_rgb // 2 + 40).astype(np.uint8))
    a, b = image_descriptor(view), image_descriptor(dimmed)
    assert a.kind == b.kind == THUMBNAIL
    assert a.vector.shape == (WIDTH,)
    np.testing.assert_allclose(a.vector, b.vector, atol=0.2)


def test_what_all_places_share_says_nothing() -> None:
    rng = np.random.default_rng(1)
    stored, shared = rng.normal(size=(5, 8)), rng.normal(size=8)
    np.testing.assert_allclose(
        similarity(stored + shared, stored + shared), similarity(stored, stored)
    )
    np.testing.assert_allclose(np.diag(similarity(stored, stored)), 1.0)


@pytest.mark.parametrize("engine", ["room", "other network"])
def test_descriptors_of_one_kind_are_compared_as_they_are(engine: str) -> None:
    tokens = tokens_of(pictures(4), engine)
    kind, looks = of_one_kind([t.descriptor for t in tokens], [t.view for t in tokens])
    assert kind == engine
    np.testing.assert_array_equal(looks, [t.descriptor.vector for t in tokens])


@pytest.mark.parametrize("width", [WIDTH, 12])
def test_of_several_kinds_or_lengths_the_pictures_are_compared(width: int) -> None:
    views = pictures(4)
    tokens = [Descriptor("room", np.ones(width, np.float32))] * 3
    for other in (image_descriptor(views[3]), Descriptor("room", np.ones(5, np.float32))):
        kind, looks = of_one_kind([*tokens, other], views)
        assert kind == THUMBNAIL
        np.testing.assert_array_equal(looks, [image_descriptor(v).vector for v in views])


def test_a_map_of_another_engine_is_searched_by_pictures() -> None:
    views = pictures(9)
    seen = tokens_of(views, "network")
    (own,) = likely_places(mapped(seen), [seen[2]], 1)[:1]
    assert own[0].id == 2
    for stored in (tokens_of(views, "other network"), thumbnails(views)):
        places = likely_places(mapped(stored), [seen[2]], 1)
        assert places[0][0].id == 2


def thumbnails(views: list[View]) -> list[ViewTokens]:
    return [ViewTokens(None, view, image_descriptor(view)) for view in views]


class WideEngine(OracleEngine):
    """An oracle with tokens as long as thumbnails."""

    def encode(self, views: Sequence[View]) -> list[ViewTokens]:
        name = self.describe().name
        tokens = super().encode(views)
        return [
            replace(t, descriptor=Descriptor(name, np.roll(t.descriptor.vector, 7)))
            for t in tokens
        ]


@pytest.fixture(scope="module")
def driven(room: BoxRoom) -> dict[str, Mapper]:
    """Maps of one drive, by an engine with tokens and by one without."""
    mappers = {"tokens": Mapper(CONFIG, WideEngine()), "none": Mapper(CONFIG, OracleEngine())}
    for mapper in mappers.values():
        for i, T in enumerate(room.walk(60)[:12]):
            mapper.process(room.frame((1 + i) * 10**9, T))
    return mappers


@pytest.mark.parametrize("kind", ["tokens", "none"])
@pytest.mark.parametrize("old", [False, True])
def test_a_file_says_what_its_descriptors_are(
    driven: dict[str, Mapper], tmp_path: Path, kind: str, old: bool
) -> None:
    mapper = driven[kind]
    path = tmp_path / "map.npz"
    path.write_bytes(session_bytes(mapper.saved()[1]))
    if old:
        without(path, "descriptor_kind")
    stored = read_session(path)
    expected = mapper.engine.describe().name if kind == "tokens" else THUMBNAIL
    assert stored.descriptor_kind == expected
    before = [m.descriptor.vector for m in mapper.now.graph.keyframes.values()]
    np.testing.assert_array_equal([k.descriptor for k in stored.keyframes], before)


def test_an_old_file_of_both_kinds_is_one_of_thumbnails(
    driven: dict[str, Mapper], tmp_path: Path
) -> None:
    first, second = (driven[kind].saved()[1].keyframes for kind in ("none", "tokens"))
    path = tmp_path / "map.npz"
    mixed = replace(driven["tokens"].saved()[1], keyframes=[*first[:3], *second[3:]])
    path.write_bytes(session_bytes(mixed))
    without(path, "descriptor_kind")
    stored = read_session(path)
    assert stored.descriptor_kind == THUMBNAIL
    np.testing.assert_array_equal(
        [k.descriptor for k in stored.keyframes],
        [image_descriptor(k.keyframe.view).vector for k in stored.keyframes],
    )


def without(path: Path, name: str) -> None:
    with np.load(path) as archive:
        arrays = {n: archive[n] for n in archive.files if n != name}
    np.savez_compressed(path, **arrays)
