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

"""Each number at the top of a module says why it has its value, and its name has no other."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "mvdust3r_ros"
SOURCES = {p.relative_to(PACKAGE).as_posix(): p.read_text() for p in sorted(PACKAGE.rglob("*.py"))}
CALLS = {"math.log", "math.radians", "np.array", "np.cos", "np.deg2rad", "np.log", "np.radians"}
"""Calls that only write a number."""
NOT_YET: set[str] = set()


def is_number(node: ast.expr) -> bool:
    """Whether an expression is written in numbers alone: one, arithmetic, or a tuple of them."""
    match node:
        case ast.Constant(value=value):
            return isinstance(value, int | float) and not isinstance(value, bool)
        case ast.UnaryOp(operand=operand):
            return is_number(operand)
        case ast.BinOp(left=left, right=right):
            return is_number(left) and is_number(right)
        case ast.Tuple(elts=[_, *_] as parts) | ast.List(elts=[_, *_] as parts):
            return all(map(is_number, parts))
        case ast.Call(args=[_, *_] as given):
            return ast.unparse(node.func) in CALLS and all(map(is_number, given))
    return False


def numbers(text: str) -> Iterator[tuple[ast.expr, ast.expr, str]]:
    """What names numbers at the top of a module, the numbers, and what is said of them."""
    lines, body = text.splitlines(), ast.parse(text).body
    for node, behind in zip(body, [*body[1:], None], strict=True):
        if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
            continue
        if not is_number(node.value):
            continue
        said = [line.partition("#")[2] for line in lines[node.lineno - 1 : node.end_lineno]]
        if node.lineno > 1 and lines[node.lineno - 2].startswith("#"):
            said.append(lines[node.lineno - 2])
        match behind:
            case ast.Expr(value=ast.Constant(value=str() as docstring)):
                said.append(docstring)
        names = node.targets[0] if isinstance(node, ast.Assign) else node.target
        yield names, node.value, "".join(said).strip("# ")


def without_a_reason(text: str) -> list[str]:
    """Names of the numbers of a module about which it says nothing."""
    return [ast.unparse(names) for names, _, said in numbers(text) if not said]


def bindings(text: str) -> Iterator[tuple[str, str]]:
    """Each name of a number in a module, and the number as it is written."""
    for names, value, _ in numbers(text):
        match names, value:
            case ast.Tuple(elts=each), ast.Tuple(elts=given):
                yield from zip(map(ast.unparse, each), map(ast.unparse, given), strict=True)
            case _:
                yield ast.unparse(names), ast.unparse(value)


def names_of_several(sources: dict[str, str]) -> dict[str, dict[str, str]]:
    """Names that stand for different numbers in different modules: name -> module -> number."""
    found = defaultdict[str, dict[str, str]](dict)
    for place, text in sources.items():
        for name, number in bindings(text):
            found[name][place] = number
    return {name: numbers for name, numbers in found.items() if len({*numbers.values()}) > 1}


def test_each_number_has_a_reason() -> None:
    found = {place: without_a_reason(text) for place, text in SOURCES.items()}
    assert {place: names for place, names in found.items() if names and place not in NOT_YET} == {}


def test_no_name_stands_for_two_numbers() -> None:
    mended = {place: text for place, text in SOURCES.items() if place not in NOT_YET}
    assert names_of_several(mended) == {}


@pytest.mark.parametrize(
    "text",
    [
        "GAP_S = 0.5\n",
        "NEAR, FAR = 0.5, 1 << 3\n",
        "TILT = math.radians(3)\n",
        'A = 1\nB = 2\n"""Only of B."""\n',
        "GAP_S: float = -1.0  #\n",
    ],
)
def test_a_number_without_a_reason_is_noticed(text: str) -> None:
    assert len(without_a_reason(text)) == 1


@pytest.mark.parametrize(
    "text",
    [
        'GAP_S = 0.5\n"""Two periods of the camera."""\n',
        "GAP_S = 0.5  # two periods of the camera\n",
        "# Two periods of the camera.\nGAP_S = 0.5\n",
        'NAME = "map"\n',
        "IS_FAST = True\n",
        "GAP_S = 2 * PERIOD_S\n",
    ],
)
def test_a_reason_is_found_and_other_constants_need_none(text: str) -> None:
    assert without_a_reason(text) == []


def test_a_name_of_two_numbers_is_noticed() -> None:
    sources = {"a.py": "GAP, N = 1, 2", "b.py": "GAP = 1\nN = 3", "c.py": "from a import N"}
    assert names_of_several(sources) == {"N": {"a.py": "2", "b.py": "3"}}
