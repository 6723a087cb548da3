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

"""The pages agree with the tree and the code: links, topics, parameters, the README's Python."""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

from mvdust3r_ros.cli import build_parser
from mvdust3r_ros.commands.command_line import evaluation_in_one_word
from mvdust3r_ros.ros.settings import NodeConfig

ROOT = Path(__file__).parents[1]
TESTS = ROOT / "test"
FOLDERS = (".", ".github", "benchmarks", "demo", "docs", "test")
PAGES = sorted(
    page
    for folder in FOLDERS
    for page in ((ROOT / folder).rglob("*.md") if folder != "." else ROOT.glob("*.md"))
)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)|<img src=\"([^\"]+)\"")
FILES = (".pgm", ".yaml", ".ply", ".tum", ".npz", ".png")
"""Files of a map, which look like parameters of its section."""
OUTSIDE = re.compile(r"[a-z]+:")
CODE = re.compile(r"^```.*?^```$", re.M | re.S)


def anchors(page: Path) -> set[str]:
    """Those that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ +(.+)$", CODE.sub("", page.read_text()), re.M)
    texts = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings]
    return {text.replace(" ", "-") for text in texts}


def dead_links(page: Path, text: str) -> list[str]:
    """Relative links of a page that lead to no file, or to no heading of it."""
    dead = []
    for link in (a or b for a, b in LINK.findall(CODE.sub("", text))):
        if OUTSIDE.match(link):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            dead.append(link)
    return dead


def lost_modules(text: str, beside: Path = ROOT) -> list[str]:
    """Files of Python that a page names and that nobody finds from there."""
    named = set(re.findall(r"`((?:\w+/)*\w+\.py)`", text))
    places = (ROOT, ROOT / "mvdust3r_ros", TESTS, beside)
    return sorted(name for name in named if not any((p / name).is_file() for p in places))


def settings_named(text: str) -> set[str]:
    """Parameters of the node that a page names."""
    sections = "|".join(field.name for field in fields(NodeConfig))
    found = re.findall(rf"`((?:{sections})\.\w+)(?:: [^`]*)?`", text)
    return {name for name in found if not name.endswith(FILES)}


def every_setting() -> set[str]:
    config = NodeConfig()
    return {
        f"{section.name}.{field.name}"
        for section in fields(config)
        for field in fields(getattr(config, section.name))
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_resolve(page: Path) -> None:
    assert dead_links(page, page.read_text()) == []


def test_a_dead_link_is_found() -> None:
    text = '[a](nothing.md) [b](index.md#nothing) [c](index.md#use-it) <img src="no.png"> [d](x:y)'
    assert dead_links(ROOT / "docs/x.md", text) == ["nothing.md", "index.md#nothing", "no.png"]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_modules_that_a_page_names_exist(page: Path) -> None:
    assert lost_modules(page.read_text(encoding="utf-8"), page.parent) == []


def test_a_lost_module_is_found() -> None:
    text = "`mapper.py`, `window/keyframes.py`, `benchmarks/soak.py`, `dense_map.py` and `sfm/`"
    assert lost_modules(text) == ["dense_map.py"]


def test_the_index_has_every_page() -> None:
    index = (ROOT / "docs/index.md").read_text()
    pages = {page.name for page in (ROOT / "docs").glob("*.md")} - {"index.md", "site.md"}
    assert {page for page in pages if f"]({page})" not in index} == set()
    assert "docs/index.md" in (ROOT / "README.md").read_text()


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().split()) <= 900


def test_every_benchmark_is_listed() -> None:
    listed = (ROOT / "benchmarks/README.md").read_text()
    scripts = {script.name for script in (ROOT / "benchmarks").glob("*.py")}
    assert {script for script in scripts if f"`{script}`" not in listed} == set()


def test_every_topic_and_service_is_described() -> None:
    page = (ROOT / "docs/ros.md").read_text()
    code = "".join(path.read_text() for path in (ROOT / "mvdust3r_ros/ros").rglob("*.py"))
    names = set(re.findall(r'"(~/\w+)"', code))
    assert {"~/points", "~/occupancy_grid", "~/save_map"} <= names
    assert {name for name in names if f"| `{name}` |" not in page} == set()


def launch_arguments() -> set[str]:
    tree = ast.parse((ROOT / "launch/recon.launch.py").read_text())
    (table,) = (
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "ARGUMENTS"
    )
    assert isinstance(table, ast.List)
    return {ast.literal_eval(row.elts[0]) for row in table.elts if isinstance(row, ast.Tuple)}


def test_every_launch_argument_is_described() -> None:
    page = (ROOT / "docs/ros.md").read_text()
    assert {"image", "rviz"} <= launch_arguments()
    assert {name for name in launch_arguments() if f"| `{name}` |" not in page} == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_launch_arguments_that_a_page_names_exist(page: Path) -> None:
    named = set(re.findall(r"(?<![\w.])([a-z]\w*):=", page.read_text()))
    assert named - launch_arguments() - {"nav2_params"} == set()


def commands(text: str) -> list[list[str]]:
    """Commands of this package in the code blocks of a page, fenced or indented, as words."""
    blocks = "\n".join([*CODE.findall(text), *re.findall(r"^ {4}.*$", text, re.M)])
    lines = re.findall(r"^ *(mvdust3r_ros [a-z].*)$", blocks, re.M)
    return [shlex.split(line, comments=True)[1:] for line in lines]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_of_a_page_are_understood(page: Path) -> None:
    for words in commands(page.read_text()):
        build_parser().parse_args(evaluation_in_one_word(words))


def test_a_command_of_a_page_is_found() -> None:
    text = "```\nmvdust3r_ros map BAG --out out  # a map\n```\nor `mvdust3r_ros map`."
    assert commands(text) == [["map", "BAG", "--out", "out"]]
    assert sum(len(commands(page.read_text())) for page in PAGES) > 10


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_parameters_that_a_page_names_exist(page: Path) -> None:
    assert settings_named(page.read_text()) - every_setting() == set()


def test_a_parameter_in_a_page_is_recognised() -> None:
    text = "`map.drop_m`, `ros.odom_source: tf`, `map.pgm` and `map.png`"
    assert settings_named(text) == {"map.drop_m", "ros.odom_source"}
    assert "map.drop_m" in every_setting()


def test_the_citation_is_of_this_version_and_its_author() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    package = ElementTree.parse(ROOT / "package.xml")
    assert citation["version"] == package.findtext("version")
    assert [author["name"] for author in citation["authors"]] == [package.findtext("author")]
    assert citation["license"] == package.findtext("license")


@pytest.mark.slow
def test_the_python_of_the_readme_makes_a_map(tmp_path: Path) -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(), re.M | re.S)
    (tmp_path / "demo").symlink_to(ROOT / "demo")
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        check=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert {file.name for file in (tmp_path / "out").iterdir()} == {
        "map.pgm", "map.yaml", "map.ply", "map.tum",
    }  # fmt: skip
