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

"""Finds the range in which constants do not matter: the "insensitive" of their comments.

    python benchmarks/constants.py [NAME ...] [--bag BAG ...] [--alone BAG ...] [--out FILE.jsonl]

NAME is a module or a constant: `placing.stitching`, `graph.loops.LOOP_SIGMA_M`. The default is all
constants of `window`, `placing`, `graph`, `drawing` and `atlas`. One number at a time, also of a
tuple, is multiplied by factors, and the same inputs are mapped again: drives through synthetic
apartments with loops, drifting odometry, depth errors of a few per cent and some corrupted windows
("wheels": the camera's extrinsics are unknown). With --bag, also recordings with true poses and
depth; the default engine maps them, and its predictions are cached in the first run, unless a
constant of the engine itself changes. With --alone, the same without odometry.

Results count as the same if they differ by no more than other random numbers make them differ: ATE
within 20 % or 2 mm, scale within 0.2 %, precision of free cells within 1 point, their recall and
both of obstacles within 3, windows in the map and loops within 1 (`--scatter 6` on the apartment:
standard deviations of 23 %, 0.2 %, 0.2 points, 2 to 6 points, 0 and 0.4). If the outermost factor
of a side gives the same, inner ones are skipped. Results are appended to --out; those already
there are not computed again.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import json
import math
import sys
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from enum import Enum
from itertools import islice
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import numpy as np

from mvdust3r_ros.commands.evaluate_one import EvaluateJob, open_recording
from mvdust3r_ros.config import MapperConfig, with_values
from mvdust3r_ros.datatypes import Frame, Trajectory, View, ViewTokens
from mvdust3r_ros.datatypes import WindowPrediction as Prediction
from mvdust3r_ros.engines.base import Engine, EngineInfo
from mvdust3r_ros.engines.create import EngineOptions, create_engine
from mvdust3r_ros.engines.oracle_engine import OracleEngine, OracleNoise
from mvdust3r_ros.evaluation.run import run_mapper
from mvdust3r_ros.evaluation.scoring import Evidence, score_run
from mvdust3r_ros.evaluation.trials.apartment_drives import (
    ApartmentOptions,
    CorruptedEngine,
    apartment_drive,
    drifting_frames,
)
from mvdust3r_ros.evaluation.true_map import TrueMapBuilder
from mvdust3r_ros.mapper import Mapper
from mvdust3r_ros.recordings.bag import BagOptions
from mvdust3r_ros.recordings.recording import TruthOptions
from mvdust3r_ros.synthetic.paths import Rig
from mvdust3r_ros.synthetic.sequence import odometry

PACKAGE = "mvdust3r_ros"
FOLDERS = ("window", "placing", "graph", "drawing", "atlas")
IN_THE_ENGINE = ("sfm", "engines", "rolling_shutter", "descriptors")
"""Parts of the engine itself: its predictions are not cached if their constants change."""
FACTORS = (0.5, 0.7, 1.4, 2.0)
KINDS = ("apartment", "wheels")
FIRST_SEED = 7_500_000
FLAT = ApartmentOptions(path_m=30.0, corrupt=0.1)
WITHIN = {
    "windows": 1.0, "loops": 1.0, "scale_error": 0.002, "free_precision": 0.01,
    "free_recall": 0.03, "occupied_precision": 0.03, "occupied_recall": 0.03,
}  # fmt: skip
"""Largest difference of results that count as the same."""
ATE_WITHIN, ATE_WITHIN_M = 0.2, 0.002

Results = dict[str, float]


class RememberingEngine(Engine):
    """An engine with a cache of its predictions.

    Views are the same if their images, poses and intrinsics are. The engine predicts new ones
    without having seen earlier windows, as after a pause.
    """

    def __init__(self, inner: Engine, tokens: dict[int, ViewTokens], said: dict[Any, Prediction]):
        """Answer from `tokens` and `said`; fill them if they are empty at first.

        Args:
            inner: the engine.
            tokens: view -> its tokens.
            said: views and number of references -> prediction.
        """
        self._inner, self._tokens, self._said = inner, tokens, said
        self._learns = not said

    def observe(self, view: View) -> None:
        """As the engine does."""
        self._inner.observe(view)

    def encode(self, views: Sequence[View]) -> list[ViewTokens]:
        """As the engine does."""
        new = [v for v in views if _key(v) not in self._tokens]
        found = dict(zip(map(_key, new), self._inner.encode(new) if new else [], strict=True))
        if self._learns:
            self._tokens.update(found)
        return [found.get(_key(v)) or self._tokens[_key(v)] for v in views]

    def decode(self, tokens: Sequence[ViewTokens], n_ref: int = 0) -> Prediction:
        """As the engine does."""
        key = (*(_key(t.view) for t in tokens), n_ref)
        if key in self._said:
            return self._said[key]
        prediction = self._inner.decode(tokens, n_ref)
        if self._learns:
            self._said[key] = prediction
        return prediction

    def describe(self) -> EngineInfo:
        """As the engine does."""
        return self._inner.describe()

    def close(self) -> None:
        """Close the engine."""
        self._inner.close()


def _key(view: View) -> int:
    arrays = (view.image_rgb, view.K, view.T_odom_cam, view.depth_m)
    crc = zlib.crc32(f"{view.camera_name} {view.stamp_ns} {view.straightened_s}".encode())
    for array in arrays:
        crc = zlib.crc32(b"-" if array is None else array.tobytes(), crc)
    return crc


@dataclass
class Input:
    """Frames with their truth, and an engine for them."""

    name: str
    frames: list[Frame]
    truth: Trajectory
    config: MapperConfig
    seed: int = -1
    alone: bool = False
    tokens: dict[int, ViewTokens] = field(default_factory=dict)
    said: dict[Any, Prediction] = field(default_factory=dict)
    _true_map: TrueMapBuilder | None = None

    def _engine(self, luck: int) -> Engine:
        if self.seed < 0:
            return create_engine("", EngineOptions())
        noise = OracleNoise(FLAT.points, smooth=0.02, scale=FLAT.scale, seed=self.seed + luck)
        return CorruptedEngine(OracleEngine(FLAT.hw, noise), FLAT.corrupt, self.seed)

    def results(self, *, remember: bool = True, luck: int = 0) -> Results:
        """Map the input and score the map.

        Args:
            remember: whether to use cached predictions.
            luck: offset of an oracle's random seed.
        """
        engine = self._engine(luck)
        if self._true_map is None:
            self._true_map = TrueMapBuilder(self.config.map, engine.describe())
            for frame in self.frames:
                self._true_map.add(frame)
        if remember and self.seed < 0:
            engine = RememberingEngine(engine, self.tokens, self.said)
        try:
            result = run_mapper(self.frames, Mapper(self.config, engine))
        finally:
            engine.close()
        numbers = score_run(Evidence(result, self.truth, None, self._true_map)).numbers
        names = {
            "ate_m": "ate_m", "scale_error": "scale_error", "windows": "windows_committed",
            "loops": "loop_closures",
            **{k: f"grid_{k}" for k in WITHIN if k.startswith(("free", "occupied"))},
        }  # fmt: skip
        if self.alone:
            kept = ("windows", "loops")
            names = {"ate_m": "ate_sim3_m", **{k: names[k] if k in kept else "" for k in WITHIN}}
        found = {k: numbers.get(v) for k, v in names.items()}
        return {k: math.nan if v is None else float(v) for k, v in found.items()}


def flat_input(seed: int, *, wheels: bool = False) -> Input:
    """Return a drive through a synthetic apartment; rendering takes longer than mapping.

    Args:
        seed: seed of all random numbers.
        wheels: whether odometry is that of a robot whose extrinsics are unknown but for the
            camera's height: there is no camera motion until the mapper has estimated them.
    """
    drive = apartment_drive(seed, FLAT, Rig())
    frames = list(drifting_frames(drive, odometry(drive, FLAT.drift)))
    values: dict[str, Any] = {"stitch.odom_rel_sigma": FLAT.drift}
    if wheels:
        frames = [replace(frame, T_odom_cam=None) for frame in frames]
        values["map.camera_height_m"] = Rig().height_m
    name = f"{'wheels' if wheels else 'apartment'} {seed}"
    return Input(name, frames, drive.truth, with_values(MapperConfig(), values), seed)


def bag_input(bag: Path, frames: int, *, alone: bool = False) -> Input:
    """Return a recording with true poses and depth.

    Args:
        bag: the recording.
        frames: number of images to use; 0 for all.
        alone: whether to use images without odometry: the map is then not metric, and only the
            shape of the path is scored.
    """
    topics = BagOptions(odometry="none") if alone else BagOptions()
    recording = open_recording(EvaluateJob(bag, Path(), topics=topics, truth=TruthOptions()))
    if recording.truth is None or not recording.depth_source:
        sys.exit(f"{bag}: true poses and depth are needed beside the bag")
    some = list(islice(recording.frames(lambda _: None), frames or None))
    name = f"{recording.name}{' alone' if alone else ''}{f' {frames}' if frames else ''}"
    return Input(name, some, recording.truth, MapperConfig(), alone=alone)


@dataclass(frozen=True)
class Constant:
    """A number, or a member of a tuple of numbers, of a module."""

    module: str
    name: str
    member: int = -1

    @property
    def label(self) -> str:
        """Name on the command line."""
        own = f"{self.module.removeprefix(PACKAGE + '.')}.{self.name}"
        return own if self.member < 0 else f"{own}[{self.member}]"

    @property
    def owner(self) -> ModuleType:
        """The module."""
        return importlib.import_module(self.module)

    @property
    def value(self) -> float:
        """Value in the code."""
        whole = getattr(self.owner, self.name)
        return whole if self.member < 0 else whole[self.member]

    def times(self, factor: float) -> float | None:
        """Return the value times a factor; None if that changes nothing.

        Integers stay integers; values below 1, such as shares, do not exceed 1.
        """
        old = self.value
        if isinstance(old, int):
            new = round(old * factor)
            return None if new == old else new
        return float(min(old * factor, 1.0) if 0 < old < 1 else old * factor)

    @contextmanager
    def set_to(self, value: float) -> Iterator[None]:
        """Run the package with another value, wherever the name is bound."""
        old = getattr(self.owner, self.name)
        new: Any = value
        if self.member >= 0:
            new = tuple(value if i == self.member else v for i, v in enumerate(old))
        places = list(self._places())
        for place, name in places:
            setattr(place, name, new)
        undo = list(self._set_defaults(places, new))
        try:
            yield
        finally:
            for place, name in places:
                setattr(place, name, old)
            for function, defaults, keyword_defaults in undo:
                function.__defaults__, function.__kwdefaults__ = defaults, keyword_defaults

    def _places(self) -> Iterator[tuple[ModuleType, str]]:
        """Yield its module, and the modules that import it by name."""
        yield self.owner, self.name
        for module in _modules():
            for node in ast.walk(_tree(module)):
                if isinstance(node, ast.ImportFrom) and node.module == self.module:
                    for alias in node.names:
                        if alias.name == self.name:
                            yield module, alias.asname or alias.name

    def _set_defaults(
        self, places: Sequence[tuple[ModuleType, str]], new: Any
    ) -> Iterator[tuple[FunctionType, Any, Any]]:
        """Change default values of arguments that name it, and yield the old ones."""
        for module, name in places:
            for function, node in _functions(module):
                positional = [
                    new if isinstance(d, ast.Name) and d.id == name else v
                    for d, v in zip(node.args.defaults, function.__defaults__ or (), strict=True)
                ]
                keyword = {
                    a.arg: new if isinstance(d, ast.Name) and d.id == name
                    else (function.__kwdefaults__ or {})[a.arg]
                    for a, d in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
                    if d is not None
                }  # fmt: skip
                before = function.__defaults__, function.__kwdefaults__
                function.__defaults__ = tuple(positional) or None
                function.__kwdefaults__ = keyword or None
                yield (function, *before)

    @property
    def bound_at_import(self) -> bool:
        """Whether it is used at import: by a field's default or a decorator."""
        for module, name in self._places():
            for node in ast.walk(_tree(module)):
                parts: list[ast.AST] = []
                if isinstance(node, ast.ClassDef):
                    parts = [
                        b.value for b in node.body if isinstance(b, ast.AnnAssign) and b.value
                    ]
                    parts = [
                        p for p in parts if not any(isinstance(n, ast.Lambda) for n in ast.walk(p))
                    ]
                elif isinstance(node, ast.FunctionDef):
                    parts = list(node.decorator_list)
                used = {n.id for p in parts for n in ast.walk(p) if isinstance(n, ast.Name)}
                if name in used:
                    return True
            for node in _tree(module).body:
                if isinstance(node, ast.Assign) and name in {
                    n.id for n in ast.walk(node.value) if isinstance(n, ast.Name)
                }:
                    return True
        return False


def _is_lazy(value: ast.AST) -> bool:
    """Whether an expression contains a lambda, which looks names up when called."""
    return any(isinstance(node, ast.Lambda) for node in ast.walk(value))


def _modules() -> list[ModuleType]:
    return [m for n, m in sys.modules.items() if n.startswith(PACKAGE + ".") and m.__file__]


_trees: dict[str, ast.Module] = {}


def _tree(module: ModuleType) -> ast.Module:
    if module.__name__ not in _trees:
        # of the generated messages some modules are compiled
        source = Path(module.__file__ or "")
        text = source.read_text() if source.suffix == ".py" else ""
        _trees[module.__name__] = ast.parse(text)
    return _trees[module.__name__]


def _functions(module: ModuleType) -> Iterator[tuple[FunctionType, ast.FunctionDef]]:
    """Yield functions of a module with default values."""
    for node in _tree(module).body:
        found = getattr(module, node.name, None) if isinstance(node, ast.FunctionDef) else None
        if not isinstance(node, ast.FunctionDef) or not isinstance(found, FunctionType):
            continue
        if found.__defaults__ or found.__kwdefaults__:
            yield found, node


def constants_of(module_name: str) -> Iterator[Constant]:
    """Yield all constant numbers of a module."""
    module = importlib.import_module(module_name)
    for node in _tree(module).body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        for target in targets:
            for named in target.elts if isinstance(target, ast.Tuple) else [target]:
                if not isinstance(named, ast.Name) or not named.id.lstrip("_").isupper():
                    continue
                value = getattr(module, named.id)
                if _is_number(value):
                    yield Constant(module_name, named.id)
                elif isinstance(value, tuple) and value and all(map(_is_number, value)):
                    yield from (Constant(module_name, named.id, i) for i in range(len(value)))


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, (bool, Enum))


def chosen(names: Sequence[str]) -> list[Constant]:
    """Return constants by module, folder or name."""
    root = Path(importlib.import_module(PACKAGE).__file__ or "").parent
    found: list[Constant] = []
    for name in names:
        folder, module = root / name.replace(".", "/"), root / f"{name.replace('.', '/')}.py"
        if folder.is_dir():
            modules = [f"{PACKAGE}.{name}.{p.stem}" for p in sorted(folder.glob("[a-z]*.py"))]
        elif module.is_file():
            modules = [f"{PACKAGE}.{name}"]
        else:
            modules = [f"{PACKAGE}.{name.rpartition('.')[0]}"]
        every = [c for m in modules for c in constants_of(m)]
        is_one = not folder.is_dir() and not module.is_file()
        some = [c for c in every if not is_one or c.name == name.rpartition(".")[2]]
        if not some:
            sys.exit(f"{name}: no numbers there")
        found += some
    return found


def difference(base: Results, now: Results) -> str:
    """Describe what differs; empty if nothing does."""
    words = []
    limits: Mapping[str, float] = {
        **WITHIN, "ate_m": max(ATE_WITHIN * base["ate_m"], ATE_WITHIN_M)
    }  # fmt: skip
    for name, limit in limits.items():
        a, b = base[name], now[name]
        if math.isnan(a) != math.isnan(b) or abs(a - b) > limit + 1e-9:
            words.append(f"{name} {a:.4g} -> {b:.4g}")
    return ", ".join(words)


class Log:
    """Results in a file."""

    def __init__(self, path: Path) -> None:
        """Read existing results."""
        self._path = path
        self.done: dict[tuple[str, str, float], dict[str, Any]] = {}
        if path.is_file():
            for line in path.read_text(encoding="utf-8").splitlines():
                row = json.loads(line)
                self.done[row["input"], row["constant"], row["value"]] = row

    def base(self, name: str) -> Results:
        """Return the results of an input with unchanged constants."""
        return {k: v for k, v in self.done[name, "", 0.0].items() if k in (*WITHIN, "ate_m")}

    def add(self, row: dict[str, Any]) -> None:
        """Append a result."""
        self.done[row["input"], row["constant"], row["value"]] = row
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def check_memory(data: Input, base: Results) -> None:
    """Check that cached predictions give the same map."""
    for kind, remember in (("without", False), ("with", True)):
        if words := difference_at_all(base, data.results(remember=remember)):
            sys.exit(f"{data.name}: mapping {kind} remembered answers differs: {words}")
    print(f"{data.name}: the same map with remembered answers as without")


def difference_at_all(base: Results, now: Results) -> str:
    """Describe differences of any size."""
    pairs = {k: (base[k], now[k]) for k in base}
    off = {k: v for k, v in pairs.items() if v[0] != v[1] and not all(map(math.isnan, v))}
    return ", ".join(f"{k} {a!r} -> {b!r}" for k, (a, b) in off.items())


def vary(
    constant: Constant, data: Input, base: Results, factors: Sequence[float], log: Log
) -> None:
    """Map an input with a constant at multiples of its value.

    From the outermost factor of each side inwards, until the results are the same.
    """
    for side in ([f for f in factors if f < 1], [f for f in factors if f > 1]):
        for factor in sorted(side, key=lambda f: -abs(math.log(f))):
            value = constant.times(factor)
            if value is None:
                continue
            key = data.name, constant.label, value
            if key not in log.done:
                log.add(outcome(constant, value, data, base))
            if not differs(log.done[key], base):
                break


def outcome(constant: Constant, value: float, data: Input, base: Results) -> dict[str, Any]:
    """Return the results with another value as a row of the log."""
    since, inside = time.perf_counter(), constant.module.split(".")[1] in IN_THE_ENGINE
    row: dict[str, Any] = {
        "input": data.name, "constant": constant.label, "default": constant.value, "value": value,
    }  # fmt: skip
    try:
        with constant.set_to(value):
            now = data.results(remember=not inside)
        row |= {**now, "exactly": not difference_at_all(base, now)}
    # a constant out of range may break anything: that is a result too
    except Exception as error:  # noqa: BLE001
        row["error"] = f"{type(error).__name__}: {error}"
    return {**row, "seconds": round(time.perf_counter() - since, 1)}


def differs(row: Mapping[str, Any], base: Results) -> str:
    """Describe what differs in a row of the log; empty if nothing does."""
    return str(row["error"]) if "error" in row else difference(base, dict(row))


def report(constant: Constant, log: Log) -> str:
    """Describe the range in which results are the same, and the differences outside."""
    old = constant.value
    rows = [r for (_, label, _), r in log.done.items() if label == constant.label]
    if not rows:
        return f"{constant.label} = {old:g}: not varied"
    found = [(r["input"], r["value"], differs(r, log.base(r["input"]))) for r in rows]
    low, high = (same_until(old, found, side) for side in (-1, 1))
    words = [f"{constant.label} = {old:g}: the same from {low:g} to {high:g}"]
    if all(row.get("exactly") for row in rows):
        words.append("    not a digit changes: nothing here depends on it")
    bad = sorted((value, name, off) for name, value, off in found if off)
    words += [f"    at {value:g}, {name}: {off}" for value, name, off in bad]
    return "\n".join(words)


def same_until(old: float, found: Sequence[tuple[str, float, str]], side: int) -> float:
    """Return the value farthest from `old` up to which all inputs give the same results.

    Args:
        old: value in the code.
        found: input, value and difference.
        side: -1 for smaller values, 1 for larger ones.
    """
    ends = []
    for name in {n for n, _, _ in found}:
        there = [(side * v, off) for n, v, off in found if n == name and side * v > side * old]
        same = [v for v, off in there if not off]
        ends.append(max(same, default=side * old))
    return side * min(ends)


def main() -> None:
    """Vary constants and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=FOLDERS, help="modules, folders or numbers")
    parser.add_argument("--bag", nargs="+", type=Path, default=[], help="recordings with truth")
    parser.add_argument("--alone", nargs="+", type=Path, default=[], help="without odometry")
    parser.add_argument("--frames", type=int, default=0, help="of each recording; 0 for all")
    parser.add_argument(
        "--drives", type=int, default=1, help="synthetic apartments to drive through"
    )
    parser.add_argument("--kinds", nargs="*", choices=KINDS, default=KINDS, help="of drives")
    parser.add_argument("--factors", nargs="+", type=float, default=FACTORS)
    parser.add_argument("--out", type=Path, default=Path("out/constants.jsonl"))
    parser.add_argument("--check", action="store_true", help="compare remembered answers with new")
    parser.add_argument("--scatter", type=int, default=0, help="runs with other random numbers")
    parser.add_argument("--report", action="store_true", help="say what --out holds, run nothing")
    given = parser.parse_args()
    constants, log = chosen(given.names), Log(given.out)
    if given.report:
        print("\n".join(report(c, log) for c in constants))
        return
    seeds = [FIRST_SEED + k for k in range(given.drives)]
    inputs = [flat_input(seed, wheels=kind == "wheels") for kind in given.kinds for seed in seeds]
    inputs += [bag_input(bag, given.frames) for bag in given.bag]
    inputs += [bag_input(bag, given.frames, alone=True) for bag in given.alone]
    bases = {}
    for data in inputs:
        since = time.perf_counter()
        bases[data.name] = base = data.results()
        first_s, since = time.perf_counter() - since, time.perf_counter()
        data.results()
        log.add({"input": data.name, "constant": "", "value": 0.0, **base})
        print(f"{data.name}: {base}")
        print(
            f"{data.name}: {first_s:.1f} s, then {time.perf_counter() - since:.1f} s", flush=True
        )
        if given.check:
            check_memory(data, base)
        if given.scatter and data.seed >= 0:
            runs = [data.results(luck=k) for k in range(given.scatter)]
            spread = {k: float(np.std([r[k] for r in runs], ddof=1)) for k in base}
            print(f"{data.name}: standard deviations {spread}", flush=True)
    for constant in constants:
        if constant.bound_at_import:
            print(f"{constant.label}: used while modules are imported, cannot be varied here")
            continue
        for data in inputs:
            vary(constant, data, bases[data.name], given.factors, log)
        print(report(constant, log), flush=True)


if __name__ == "__main__":
    main()
