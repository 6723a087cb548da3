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

"""`evaluate paper`: the published numbers, the rows, what is measured, and how it is shown."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mvdust3r_ros.cli import main
from mvdust3r_ros.datatypes import View
from mvdust3r_ros.evaluation.paper.layout import (
    CD_MEDIAN,
    GS_ROWS,
    LAYOUTS,
    MEASURED,
    PUBLISHED,
    RECIPES,
    SYSTEMS,
    PaperError,
    Row,
)
from mvdust3r_ros.evaluation.paper.measured import Job, Windows, chosen, measure
from mvdust3r_ros.evaluation.paper.page import paper_page
from mvdust3r_ros.evaluation.paper.published import published
from mvdust3r_ros.evaluation.paper.systems import System, find_recipes, find_systems
from mvdust3r_ros.evaluation.paper.tables import (
    Results,
    data_sets,
    grid,
    joined,
    read_results,
    results_markdown,
    table_text,
    to_json,
    write_results,
)

LACKS = "no spann3r* in --weights"


def made_up() -> Results:
    """Every row of every table: 1.5 times the published value, or missing."""
    rows = []
    for table, layout in LAYOUTS.items():
        known = {(r.views, r.name): r for r in published(table) if r.data != "ScanNet"}
        for views in layout.views:
            for name in layout.rows:
                row = known.get((views, name))
                if row is None:
                    rows.append(Row(table, views, name, "", MEASURED, {}, LACKS))
                else:
                    values = {c: 1.5 * v for c, v in row.values.items()}
                    if table == 1:
                        values["MB"] = 10.0 * views
                    rows.append(Row(table, views, name, "rooms", MEASURED, values))
    return Results(tuple(rows), 5, {"cpu": "some processor"})


def published_row(table: int, views: int, name: str, data: str) -> dict[str, float]:
    (row,) = [r for r in published(table) if (r.views, r.name, r.data) == (views, name, data)]
    return dict(row.values)


@pytest.mark.parametrize(
    ("table", "views", "name", "data", "values"),
    [
        (2, 4, "Spann3R", "HM3D",
         {"ND": 37.1, "DAc": 0.0, "CD": 225, CD_MEDIAN: 184, "sec": 0.36}),
        (2, 24, "MV-DUSt3R+_oracle", "MP3D", {"ND": 3.6, "DAc": 33.1, "CD": 15.1, CD_MEDIAN: 4.4}),
        (3, 12, "MV-DUSt3R+", "ScanNet", {"RRE": 2.5, "RTE": 11.6, "mAE": 22.9}),
        (4, 24, "DUSt3R", "HM3D", {"PSNR": 14.3, "SSIM": 4.2, "LPIPS": 5.6}),
        (6, 24, "MV-DUSt3R+, GS heads", "HM3D",
         {"ND": 2.1, "DAc": 64.5, "CD": 3.9, CD_MEDIAN: 2.0}),
    ],
)  # fmt: skip
def test_published_numbers_are_those_of_the_paper(
    table: int, views: int, name: str, data: str, values: dict[str, float]
) -> None:
    assert published_row(table, views, name, data) == values


def test_published_tables_are_complete() -> None:
    assert [len(published(table)) for table in LAYOUTS] == [15, 54, 45, 45, 9, 24]
    for table, layout in LAYOUTS.items():
        for row in published(table):
            assert row.source == PUBLISHED
            assert row.name in layout.rows
            assert set(row.values) <= {*layout.columns, CD_MEDIAN}
    assert {row.name for row in published(5)} == set(RECIPES)
    assert {row.name for row in published(6)} == set(GS_ROWS)


def test_the_claims_of_the_text_follow_from_the_tables() -> None:
    """8.3 to 13.8 times faster than DUSt3R; frames a second as given."""
    times = {(r.views, r.name): r.values for r in published(1)}
    ratios = [
        times[n, "DUSt3R"]["sec"] / times[n, "MV-DUSt3R+"]["sec"] for n in (4, 12, 24)
    ]  # fmt: skip
    assert (round(min(ratios), 1), round(max(ratios), 1)) == (8.3, 13.8)
    fps = [round(times[n, "MV-DUSt3R+"]["FPS"], 1) for n in (12, 20, 50, 100)]
    assert fps == [13.5, 13.0, 8.1, 5.2]


def test_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    results = made_up()
    write_results(results, tmp_path)
    assert read_results(tmp_path / "paper.json") == results
    stored = json.loads((tmp_path / "paper.json").read_text())
    assert stored["tables"]["2"] == {
        "title": "Reconstruction", "columns": ["ND", "DAc", "CD", "sec"],
    }  # fmt: skip
    others = [row for row in stored["rows"] if row["source"] == PUBLISHED]
    assert len(others) == sum(len(published(table)) for table in LAYOUTS)


@pytest.mark.parametrize("table", LAYOUTS)
def test_a_table_fits_the_terminal_with_published_rows_below_ours(table: int) -> None:
    text = table_text(made_up(), table)
    assert max(map(len, text.splitlines())) <= 100
    assert text.startswith(f"Table {table}. {LAYOUTS[table].title}\n")
    assert "published" in text
    for views in LAYOUTS[table].views:
        assert f"\n{views} views" in text
    assert text.count(LACKS) == len(
        {r.name for r in made_up().rows if r.note and r.table == table}
    )


def test_a_line_has_the_published_one_below_it() -> None:
    lines = table_text(made_up(), 2).splitlines()
    place = next(k for k, line in enumerate(lines) if line.startswith("MV-DUSt3R+ "))
    assert lines[place].split() == ["MV-DUSt3R+", "rooms", "3.3", "102", "29.8(5.1)", "0.43"]
    assert lines[place + 1].split() == ["HM3D,", "published", "1.0", "95.2", "1.5(0.9)", "0.29"]


def test_measured_data_sets_stand_beside_their_own_published_numbers() -> None:
    row = Row(2, 4, "mvs", "MP3D", MEASURED, {"ND": 1.0})
    both = Results((row, replace(row, name="MV-DUSt3R", data="ScanNet")), 1, {})
    assert data_sets(both, 2) == ["ScanNet", "MP3D"]
    text = table_text(both, 2)
    assert "ScanNet, published" in text
    assert "MP3D, published" in text
    assert "HM3D" not in text


def test_the_layout_is_the_papers_with_the_time_last() -> None:
    laid = grid(made_up(), 2)
    assert [label for label, _ in laid.groups] == [
        "rooms, measured", "HM3D, published", "ScanNet, published", "MP3D, published",
        "rooms", "published",
    ]  # fmt: skip
    assert [name for views, name, _ in laid.body if views == 4] == [
        "DUSt3R (GO)" if name == "DUSt3R" else name for name in SYSTEMS
    ]
    assert {len(cells) for *_, cells in laid.body} == {3 * 4 + 2}
    plus = next(cells for views, name, cells in laid.body if (views, name) == (12, "MV-DUSt3R+"))
    assert plus[3:6] == ("1.2", "91.5", "1.8(0.7)")
    assert plus[-1] == "0.89"


def test_extrapolated_times_are_marked() -> None:
    row = Row(1, 100, "DUSt3R", "rooms", MEASURED, {"sec": 1234.5, "MB": 7.0}, "", True)
    assert [row.cell(c) for c in ("sec", "FPS", "MB")] == ["~1234", "-", "~7"]


def test_markdown_has_all_tables_and_notes() -> None:
    text = results_markdown(made_up())
    assert [f"### Table {t}. " in text for t in LAYOUTS] == [True] * 6
    assert f"- Spann3R: {LACKS}\n" in text
    assert "| 4 | DUSt3R (GO) | " in text


def test_several_runs_are_joined_and_values_win_over_reasons() -> None:
    missing = Row(2, 4, "COLMAP", "", MEASURED, {}, "needs pycolmap")
    there = Row(2, 4, "COLMAP", "rooms", MEASURED, {"ND": 1.0})
    other = Row(3, 4, "mvs", "rooms", MEASURED, {"RRE": 2.0})
    newer = replace(other, values={"RRE": 3.0})
    runs = [Results(rows, 1, {}) for rows in ((missing, other), (there,), (newer, missing))]
    assert [row.values for row in joined(runs).rows] == [{"RRE": 3.0}, {"ND": 1.0}]


@pytest.mark.slow
def test_the_page_has_every_table_and_a_plot_of_most() -> None:
    page = paper_page(made_up())
    for table, layout in LAYOUTS.items():
        assert f"<h2>Table {table}. {layout.title}</h2>" in page
    assert page.count("<svg") == 12
    assert page.count("O(N)") == 2
    assert "Time of a window (s), less is better" in page


def test_a_page_of_missing_rows_alone_has_no_plot() -> None:
    page = paper_page(Results((Row(2, 4, "Spann3R", "", MEASURED, {}, LACKS),), 1, {}))
    assert "<svg" not in page
    assert LACKS in page


def test_rows_without_weights_say_what_is_missing() -> None:
    found = {system.name: system for system in find_systems([], None)}
    assert list(found) == list(SYSTEMS)
    assert "docs/paper.md" in found["Spann3R"].missing or found["Spann3R"].spec
    assert found["MV-DUSt3R"].spec == found["MV-DUSt3R+_oracle"].spec
    assert found["MV-DUSt3R"].spec.endswith("room")
    assert found["DUSt3R"].spec == f"dust3r:{found['MV-DUSt3R'].spec}"
    assert all("table5" in system.missing for system in find_recipes(None))


def test_weights_are_found_by_name(tmp_path: Path) -> None:
    files = ("MVD.pth", "MVDp_s1.pth", "MVDp_s2.pth", "DUSt3R_ViTLarge_512_dpt.pth", "spann3r.pth")
    for name in files:
        (tmp_path / name).touch()
    own = tmp_path / "table5" / "4views"
    own.mkdir(parents=True)
    (own / "manifest.yaml").touch()
    found = {s.name: Path(s.spec).name for s in find_systems([], tmp_path)}
    assert [found[name] for name in SYSTEMS[:6]] == [
        "spann3r.pth", "DUSt3R_ViTLarge_512_dpt.pth", "MVD.pth", "MVDp_s1.pth", "MVD.pth",
        "MVDp_s1.pth",
    ]  # fmt: skip
    recipes = find_recipes(tmp_path)
    assert [Path(s.spec).name for s in recipes] == ["4views", "MVDp_s1.pth", "MVDp_s2.pth"]


def test_engines_are_rows_in_any_case_or_engines(tmp_path: Path) -> None:
    engine = tmp_path / "mine"
    engine.mkdir()
    found = find_systems(["mv-dust3r+", "oracle", str(engine)], None)
    assert [system.name for system in found] == ["MV-DUSt3R+", "oracle", "mine"]
    assert found[2] == System("mine", str(engine), joined=True)
    with pytest.raises(PaperError, match="'attic' is neither an engine nor one of the rows"):
        find_systems(["attic"], None)
    with pytest.raises(PaperError, match="no folder of weights"):
        find_systems([], tmp_path / "attic")


class Broken:
    """Windows of which none can be read."""

    name = "broken"

    def seeds(self, views: int) -> Sequence[int]:  # noqa: ARG002
        return range(7)

    def window(self, index: int, views: int) -> list[View]:
        raise PaperError(f"window {index} of {views} views is damaged")


def opened(image_hw: tuple[int, int]) -> list[Windows]:
    assert image_hw == (224, 224)
    return [Broken()]


def test_windows_that_fail_are_counted() -> None:
    job = Job((2, 3, 4), [System("oracle", "oracle")], [], opened, 2, (4,))
    (rows,) = list(measure(job, lambda *_: None))
    assert [(row.table, row.values) for row in rows] == [(2, {}), (3, {}), (4, {})]
    assert rows[0].note == (
        "2 windows failed at 4 views, 0 scored: window 0 of 4 views is damaged"
    )
    assert rows[2].note == "no new views were rendered"


def test_an_engine_that_cannot_be_loaded_has_rows_that_say_so() -> None:
    systems = [System("Spann3R", missing=LACKS), System("mine", "nowhere")]
    job = Job((2, 3), systems, [], opened, 1, (4, 8))
    rows = [row for part in measure(job, lambda *_: None) for row in part]
    assert [(row.table, row.views, row.name) for row in rows] == [
        (t, n, name) for name in ("Spann3R", "mine") for t in (2, 3) for n in (4, 8)
    ]
    assert {row.note for row in rows[:4]} == {LACKS}
    assert "no engine at nowhere" in rows[-1].note


def test_nothing_runs_for_a_system_that_has_no_row() -> None:
    job = Job((6,), [System("DUSt3R", "nowhere")], [], opened, 1, (4,))
    assert list(measure(job, lambda *_: None)) == []


def test_windows_are_chosen_evenly() -> None:
    assert chosen(Broken(), 4, 3) == [0, 2, 4]
    assert chosen(Broken(), 4, 100) == list(range(7))


def paper(*words: object) -> int:
    return main(["evaluate", "paper", *map(str, words)])


def rows_in(folder: Path) -> list[dict[str, Any]]:
    stored = json.loads((folder / "paper.json").read_text())
    return [row for row in stored["rows"] if row["source"] == MEASURED]


@pytest.mark.slow
def test_the_oracle_is_exact_in_tables_2_and_3(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--table", 2, "--table", 3, "--engines", "oracle", "--views", 3, "--windows", 1)
    assert paper(*words, "--out", tmp_path) == 0
    rows = {row["table"]: row for row in rows_in(tmp_path)}
    assert rows[2]["values"].items() >= {"DAc": 100.0}.items()
    assert rows[2]["values"]["ND"] < 0.01
    assert rows[2]["values"]["CD"] < 0.001
    assert rows[3]["values"]["RRE"] == rows[3]["values"]["RTE"] == 0.0
    assert (tmp_path / "paper.html").is_file()
    assert "Table 3. Camera poses" in capsys.readouterr().out
    assert paper("--show", tmp_path / "paper.json") == 0
    assert not (tmp_path / "page").exists()
    assert paper("--show", tmp_path / "paper.json", "--out", tmp_path / "page") == 0
    assert read_results(tmp_path / "page" / "paper.json") == read_results(tmp_path / "paper.json")
    assert "Camera poses" in (tmp_path / "page" / "paper.html").read_text()
    assert "| 3 | oracle |" in capsys.readouterr().out


@pytest.mark.slow
def test_windows_are_judged_once_for_all_tables(tmp_path: Path) -> None:
    engines = "MV-DUSt3R,MV-DUSt3R+,MV-DUSt3R_oracle"
    words = ("--table", 2, "--table", 6, "--engines", engines, "--views", 4, "--windows", 1)
    assert paper(*words, "--out", tmp_path) == 0
    rows = {(row["table"], row["name"]): row for row in rows_in(tmp_path)}
    for name in ("MV-DUSt3R", "MV-DUSt3R+"):
        ours = rows[2, name]["values"]
        assert ours["sec"] > 0
        bare = rows[6, f"{name}, no GS heads"]["values"]
        assert bare == {column: ours[column] for column in ("ND", "DAc", "CD", CD_MEDIAN)}
        assert rows[6, f"{name}, GS heads"]["values"] == {}
        assert "separate outputs" in rows[6, f"{name}, GS heads"]["note"]
    oracle = rows[2, "MV-DUSt3R_oracle"]["values"]
    assert oracle["ND"] <= rows[2, "MV-DUSt3R"]["values"]["ND"]
    assert "sec" not in oracle


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("--table 7", "'7' is not a table: 1 to 6, or all"),
        ("", "name a table by --table, or results by --show"),
        ("--table 2 --windows 0", "--windows takes 1 or more"),
        ("--table 2 --views 1", "--views 2 or more"),
    ],
)
def test_wrong_arguments_are_refused(
    words: str, error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        paper(*words.split())
    assert error in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"rows": [1]}', '{"rows": [{"source": "measured"}]}', "[" * 100_000],
    ids=["empty", "list", "numbers", "row", "deep"],
)
def test_another_file_is_no_result(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.json").write_text(text)
    assert paper("--show", tmp_path / "a.json") == 1
    error = capsys.readouterr().err
    assert "is no paper.json of `evaluate paper`" in error
    assert error.count("\n") == 1


def test_a_table_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    text = to_json(made_up()).replace('"table": 2', '"table": 9')
    (tmp_path / "paper.json").write_text(text)
    with pytest.raises(PaperError, match="of which some do not exist"):
        read_results(tmp_path / "paper.json")


def test_what_is_missing_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ("--out", tmp_path / "out")
    assert paper("--table", 2, "--weights", tmp_path / "attic", *out) == 1
    assert "no folder of weights at" in capsys.readouterr().err
    assert paper("--table", 2, "--engines", "attic", *out) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_time_and_memory_of_a_window_by_its_views(tmp_path: Path) -> None:
    words = ("--table", 1, "--engines", "oracle", "--views", "2,3,4")
    assert paper(*words, "--out", tmp_path) == 0
    rows = rows_in(tmp_path)
    assert [row["views"] for row in rows] == [2, 3, 4]
    for row in rows:
        assert row["values"]["FPS"] == pytest.approx(row["views"] / row["values"]["sec"])
        assert row["values"]["MB"] > 0
        assert "R^2" in row["note"]


@pytest.mark.slow
def test_new_views_are_scored_with_the_rows_of_the_other_tables(tmp_path: Path) -> None:
    words = ("--table", 2, "--table", 4, "--engines", "MV-DUSt3R+,MV-DUSt3R_oracle,mvs")
    assert paper(*words, "--views", 4, "--windows", 1, "--out", tmp_path) == 0
    rows = {(row["table"], row["name"]): row["values"] for row in rows_in(tmp_path)}
    for name in ("MV-DUSt3R+", "MV-DUSt3R_oracle"):
        assert set(rows[4, name]) == {"PSNR", "SSIM"}
        assert 5 < rows[4, name]["PSNR"] < 40
        assert 0 < rows[4, name]["SSIM"] < 10


@pytest.mark.slow
def test_a_data_set_takes_the_place_of_the_rooms(tmp_path: Path) -> None:
    from paper_folders import write_scan

    data = write_scan(tmp_path / "scannet" / "scene0707_00", range(30)).parent
    words = ("--data", data, "--engines", "MV-DUSt3R+", "--views", 4, "--windows", 1)
    assert paper("--table", 2, *words, "--out", tmp_path / "out") == 0
    (row,) = rows_in(tmp_path / "out")
    assert row["data"] == "ScanNet"
    assert row["values"]["ND"] > 0
    assert paper("--table", 2, "--data", tmp_path / "out", "--out", tmp_path / "o") == 1


def test_lpips_weights_are_read_before_anything_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "lpips.pth").touch()
    words = ("--table", 4, "--lpips", tmp_path / "lpips.pth", "--out", tmp_path / "out")
    assert paper(*words) == 1
    assert "LPIPS" in capsys.readouterr().err
