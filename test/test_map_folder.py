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

from pathlib import Path

import pytest

from mvdust3r_ros.ros.map_folder import MapFolderError, place_in_folder


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("", "map"), ("office", "office"), ("office.yaml", "office"), ("office.pgm", "office"),
        ("floor 2/office", "floor 2/office"), ("v1.2", "v1.2"), ("./a", "a"),
    ],
)  # fmt: skip
def test_names_inside_the_folder(tmp_path: Path, name: str, place: str) -> None:
    directory, stem = place_in_folder(tmp_path, name)
    assert directory / stem == tmp_path / place


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "a/../../x",
        "/etc/x",
        "~/x",
        "a/..",
        "..",
        ".",
        "a/",
        ".hidden",
        "a\nb",
        "a\0b",
        "a\\b",
    ],
)
def test_names_that_lead_out_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(MapFolderError):
        place_in_folder(tmp_path / "maps", name)


def test_links_that_lead_out_are_refused(tmp_path: Path) -> None:
    maps, outside = tmp_path / "maps", tmp_path / "outside"
    maps.mkdir()
    outside.mkdir()
    (maps / "folder").symlink_to(outside)
    (maps / "file.yaml").symlink_to(outside / "victim.yaml")
    (maps / "loop").symlink_to(maps / "loop")
    for name in ("folder/x", "file", "loop/x"):
        with pytest.raises(MapFolderError):
            place_in_folder(maps, name)


def test_a_link_that_stays_inside_is_fine(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "alias").symlink_to(tmp_path / "real")
    assert place_in_folder(tmp_path, "alias/x") == (tmp_path / "real", "x")


def test_the_folder_itself_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "maps").symlink_to(tmp_path / "disk")
    assert place_in_folder(tmp_path / "maps", "x") == (tmp_path / "disk", "x")
