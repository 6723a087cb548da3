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

"""Which engine is which row of the paper, and where its weights are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mvdust3r_ros.engines.base import EngineInfo
from mvdust3r_ros.engines.create import COLMAP, PAIRS, TRUTH, WEIGHT_SUFFIXES
from mvdust3r_ros.engines.manifest import MANIFEST_NAME, load_manifest
from mvdust3r_ros.evaluation.paper.layout import RECIPES, SYSTEMS, PaperError
from mvdust3r_ros.evaluation.trials.rooms import row_name
from mvdust3r_ros.installed import installed

ROOM_MODEL = Path("models") / "room"
SEQUENCE_MODEL = Path("models") / "spann3r"
"""A memory trained on top of the room model."""
RECIPE_FOLDERS = dict(zip(RECIPES, ("4views", "8views", "mixed"), strict=True))
RECIPE_WEIGHTS = dict(zip(RECIPES, ("", "mvdp_s1", "mvdp_s2"), strict=True))
"""Published weights of these trainings; those of one stage with 4 views were not published."""
SEE = "docs/paper.md says where to get them and under what terms"


@dataclass(frozen=True)
class System:
    """A row of the tables.

    Attributes:
        name: of the row.
        spec: for `create_engine`.
        joined: with the engine's own number of references, if it has several, rather than one.
        oracle: with the reference, or the path, that is best according to the truth.
        missing: why there is no such engine, and the remedy; empty if there is one.
    """

    name: str
    spec: str = ""
    joined: bool = False
    oracle: bool = False
    missing: str = ""

    def row_of(self, info: EngineInfo) -> str:
        """Return the name that `judge` has for this row of its engine."""
        return row_name(info, self.joined and info.n_ref > 1, self.oracle)


def find_systems(names: Sequence[str], weights: Path | None) -> list[System]:
    """Return the rows of tables 1 to 4.

    Args:
        names: rows of `SYSTEMS` in any case, or engines as `create_engine` takes them; empty for
            all of `SYSTEMS`.
        weights: folder of weights and engine folders; None for the bundled ones alone.

    Raises:
        PaperError: there is no such row, engine or folder.
    """
    if weights is not None and not weights.is_dir():
        raise PaperError(f"no folder of weights at {weights}")
    rows = {name.lower(): name for name in SYSTEMS}
    found = []
    for name in names or SYSTEMS:
        row = rows.get(name.lower())
        found.append(_engine(name) if row is None else _system(row, weights))
    return found


def find_recipes(weights: Path | None) -> list[System]:
    """Return the rows of table 5: engine folders in `weights`/table5, or published weights."""
    return [_recipe(name, weights) for name in RECIPES]


def runs_on_torch(spec: str) -> bool:
    """Whether an engine is a file of weights or a folder for PyTorch."""
    path = Path(spec)
    if path.suffix in WEIGHT_SUFFIXES:
        return True
    known = (path / MANIFEST_NAME).is_file()
    return known and load_manifest(path, check_files=False).backend == "torch"


def _engine(spec: str) -> System:
    path = Path(spec.removeprefix(PAIRS))
    if spec.removeprefix(PAIRS) not in (TRUTH, COLMAP) and not path.exists():
        rows = ", ".join(SYSTEMS)
        raise PaperError(f"{spec!r} is neither an engine nor one of the rows {rows}")
    return System(spec if spec.startswith(PAIRS) else path.name, spec, joined=True)


def _system(name: str, weights: Path | None) -> System:
    if name == "mvs":
        return System(name)
    if name == "COLMAP":
        return System(name, COLMAP)
    if name in ("Spann3R", "DUSt3R"):
        return _baseline(name, weights)
    plain = name.removesuffix("_oracle")
    spec = _given(weights, "mvdp" if plain.endswith("+") else "mvd") or _installed(ROOM_MODEL)
    missing = "" if spec else f"no weights: the model {ROOM_MODEL} is not installed"
    return System(name, spec, plain.endswith("+"), name != plain, missing)


def _baseline(name: str, weights: Path | None) -> System:
    spec = _given(weights, name.lower())
    if not spec and name == "DUSt3R" and _installed(ROOM_MODEL):
        spec = f"{PAIRS}{_installed(ROOM_MODEL)}"  # with two views the room model is DUSt3R
    if not spec and name == "Spann3R":
        spec = _installed(SEQUENCE_MODEL)
    if not spec:
        return System(name, missing=f"no {name.lower()}* in --weights; {SEE}")
    return System(name, spec)


def _recipe(name: str, weights: Path | None) -> System:
    folder = Path("table5") / RECIPE_FOLDERS[name]
    if weights is not None and (weights / folder / MANIFEST_NAME).is_file():
        return System(name, str(weights / folder), joined=True)
    published = RECIPE_WEIGHTS[name]
    if published and (spec := _given(weights, published)):
        return System(name, spec, joined=True)
    missing = f"no engine {folder} in --weights; docs/paper.md says how it is trained"
    return System(name, missing=missing)


def _given(weights: Path | None, stem: str) -> str:
    """The first engine folder or file of weights whose name begins so, in any case; or nothing."""
    if weights is None:
        return ""
    for path in sorted(weights.iterdir()):
        name = path.name.lower()
        other = stem == "mvd" and name.startswith("mvdp")
        usable = path.suffix in WEIGHT_SUFFIXES or (path / MANIFEST_NAME).is_file()
        if name.startswith(stem) and usable and not other:
            return str(path)
    return ""


def _installed(folder: Path) -> str:
    found = installed(folder / MANIFEST_NAME)
    return "" if found is None else str(found.parent)
