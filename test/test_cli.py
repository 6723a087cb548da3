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

"""The command line: help of every command, completion, errors."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mvdust3r_ros.cli import build_parser, main
from mvdust3r_ros.commands.command_line import EVALUATIONS, evaluation_in_one_word, progress


def leaves(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from leaves(inner)


PARSERS = {parser.prog: parser for parser in leaves(build_parser())}


def test_all_commands_are_there() -> None:
    words = {prog.removeprefix("mvdust3r_ros").strip() for prog in PARSERS}
    assert {"map", "demo", "evaluate", "compare", "synth bag", "engine build"} <= words
    assert set(EVALUATIONS.values()) <= words


@pytest.mark.parametrize("prog", PARSERS)
def test_help_shows_an_example_that_parses(prog: str) -> None:
    text = PARSERS[prog].format_help()
    lines = [line.partition("mvdust3r_ros ")[2] for line in text.splitlines()[2:]]
    assert "example" in text
    assert any(lines)
    assert all(len(line) < 100 for line in text.splitlines())
    example = PARSERS[prog].epilog
    assert example is not None
    if "\n" not in example:
        words = example.partition("mvdust3r_ros ")[2].partition(">")[0].split()
        build_parser().parse_args(evaluation_in_one_word(words))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("evaluate flats --seeds 1:2 --out o", "evaluate apartments --seeds 1:2 --out o"),
        ("evaluate-flats --out o", "evaluate apartments --out o"),
        ("evaluate --capsule folder", "evaluate --replay folder"),
        ("evaluate bag --no-capsules", "evaluate bag --no-dumps"),
        ("synth bag --flat --out o", "synth bag --apartment --out o"),
    ],
)
def test_an_old_name_does_the_same_with_a_warning(
    old: str, new: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [build_parser().parse_args(evaluation_in_one_word(w.split())) for w in (old, new)]
    assert len({str({**vars(args), "parser": None}) for args in given}) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.endswith("; the next release drops the old name\n")


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("mvdust3r_ros co", {"compare "}),
        ("mvdust3r_ros evaluate --ra", {"--rate", "--ray"}),
        ("mvdust3r_ros evaluate-p", {"evaluate-paper "}),
    ],
)
@pytest.mark.slow
def test_the_tab_key_completes(typed: str, offered: set[str], tmp_path: Path) -> None:
    out = tmp_path / "offered"
    asked = {
        "_ARGCOMPLETE": "1", "COMP_LINE": typed, "COMP_POINT": str(len(typed)),
        "_ARGCOMPLETE_STDOUT_FILENAME": str(out), "_ARGCOMPLETE_IFS": "\n",
    }  # fmt: skip
    call = [sys.executable, "-m", "mvdust3r_ros.cli"]
    subprocess.run(call, env={**os.environ, **asked}, check=False, capture_output=True)
    assert {w.strip() for w in out.read_text().split("\n")} == {w.strip() for w in offered}


@pytest.mark.parametrize("words", [("synth", "bag", "--out"), ("evaluate", "apartments", "--out")])
@pytest.mark.slow
def test_a_command_that_needs_pytorch_says_so_in_one_line(
    words: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "torch.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')"
    )
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "mvdust3r_ros.cli", *words, str(tmp_path / "out")],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1
    assert "needs PyTorch: pip install" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("words", [["demo"], ["evaluate", "my_bag", "--mode", "live"]])
@pytest.mark.parametrize("rate", ["0", "-1", "inf", "nan", "fast"])
def test_a_speed_is_a_number_above_zero(
    words: list[str], rate: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        build_parser().parse_args([*words, f"--rate={rate}"])
    assert f"argument --rate: '{rate}' is not a number above 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "usage"),
    [
        ("evaluate my_bag --speed 2", "evaluate "),
        ("evaluate apartments --out x --speed 2", "evaluate-apartments "),
        ("map my_bag --speed 2", "map "),
        ("synth bag --out room --speed 2", "synth bag "),
        ("engine info models/mvs --speed 2", "engine info "),
        ("params --speed 2", "params "),
    ],
)
def test_an_unknown_option_shows_the_usage_of_its_command(
    words: str, usage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words.split())
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert said.startswith(f"usage: mvdust3r_ros {usage}")
    assert "unrecognized arguments: --speed" in said


@pytest.mark.parametrize(
    "words",
    [
        "demo --out {}",
        "demo --out {}/deep/out",
        "map bag --out {}",
        "evaluate bag --out {}",
        "evaluate rooms --out {}",
        "evaluate apartments --out {}",
        "evaluate paper --table 2 --out {}",
        "compare a b --out {}/page.html",
        "synth bag --out {}",
        "synth rooms --out {}",
        "engine export --weights w.pth --out {}",
    ],
)
def test_a_place_that_cannot_be_written_is_said_before_any_work(
    words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert main(words.format(tmp_path / "file").split()) == 1
    out, error = capsys.readouterr()
    assert out == ""
    assert error.startswith("mvdust3r_ros: cannot write to ")
    assert error.endswith(f"{tmp_path / 'file'} is no folder\n")


def test_what_the_disk_refuses_is_one_line_that_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*_: object) -> str:
        return (tmp_path / "none").read_text()

    monkeypatch.setattr("mvdust3r_ros.config.config_to_yaml", refused)
    assert main(["params"]) == 1
    error = capsys.readouterr().err
    assert error == f"mvdust3r_ros: {tmp_path / 'none'}: No such file or directory\n"


def test_what_does_not_begin_leaves_no_bar(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(OSError, match="no bag"), progress("frames"):
        raise OSError("no bag")
    assert capsys.readouterr().out.strip() == ""
    with progress("frames") as report:
        report(3, 4)
    assert "3/4 frames" in capsys.readouterr().out
