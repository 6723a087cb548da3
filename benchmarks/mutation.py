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

"""Mutation testing: the share of small faults in a module that its own tests detect.

    pip install cosmic-ray
    python benchmarks/mutation.py [geometry placing.scale ...] [--count 40]

cosmic-ray lists the possible mutations of a module; annotations are excluded, and the first
`--count` mutants of a fixed random order are tested. The module's tests run on each of them in a
forked process, up to the first failure, with the same random inputs of Hypothesis every time. A
mutant that exceeds `--seconds` of processor time or 8 GB of memory counts as killed.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import importlib
import importlib.util
import os
import random
import resource
import sys
from dataclasses import dataclass
from pathlib import Path

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # threads do not survive a fork
os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"

import pytest
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names
from hypothesis import Phase, settings

ROOT = Path(__file__).resolve().parent.parent
TESTS = {
    "geometry": ["test_geometry.py"],
    "window.window_geometry": ["test_window_geometry.py"],
    "placing.stitching": ["test_stitching.py", "test_posed_engine.py"],
    "placing.known_points": [
        "test_known_points.py", "test_keyframe_graph.py", "test_posed_engine.py",
    ],
    "placing.scale": ["test_scale.py", "test_scale_evidence.py"],
    "graph.keyframe_graph": ["test_keyframe_graph.py", "test_loops.py"],
    "drawing.occupancy": ["test_occupancy.py"],
}  # fmt: skip
# Imported once, before forking; no modules of the package itself.
HEAVY = [
    "cv2", "hypothesis.extra.numpy", "scipy.ndimage", "scipy.optimize", "scipy.sparse.linalg",
    "scipy.spatial.transform", "yaml",
]  # fmt: skip
MEMORY = 8 * 2**30


@dataclass(frozen=True)
class Mutant:
    """Mutation of the source by a cosmic-ray operator at its `occurrence`-th place."""

    operator: str
    occurrence: int
    line: int

    def source(self, source: str) -> str:
        """Return the mutated source."""
        return str(mutate_code(source, get_operator(self.operator)(), self.occurrence))


def annotations(source: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Return begin and end (line, column) of all annotations, which are never evaluated."""
    nodes = []
    for node in ast.walk(ast.parse(source)):
        nodes += [getattr(node, "annotation", None), getattr(node, "returns", None)]
    return [
        ((n.lineno, n.col_offset), (n.end_lineno, n.end_col_offset))
        for n in nodes
        if isinstance(n, ast.expr)
    ]


def mutants(source: str, seed: int) -> list[Mutant]:
    """Return all mutants of a source in a seeded random order."""
    tree, skipped = get_ast(source), annotations(source)
    found = []
    for name in sorted(operator_names()):
        if get_operator(name).arguments():
            continue  # needs names of variables
        operator = get_operator(name)()
        places = (place for node in ast_nodes(tree) for place in operator.mutation_positions(node))
        for occurrence, (start, _) in enumerate(places):
            if not any(begin <= tuple(start) < end for begin, end in skipped):
                found.append(Mutant(name, occurrence, start[0]))
    random.Random(seed).shuffle(found)
    return found


def judge(module: str, source: str) -> int:
    """Run the module's tests with this source; return their exit status."""
    settings.register_profile(
        "mutation",
        derandomize=True,
        deadline=None,
        database=None,
        phases=(Phase.explicit, Phase.generate),
    )
    settings.load_profile("mutation")
    name = f"mvdust3r_ros.{module}"
    folder, _, last = name.rpartition(".")
    spec = importlib.util.spec_from_file_location(name, path_of(module))
    sys.modules[name] = importlib.util.module_from_spec(spec)
    setattr(importlib.import_module(folder), last, sys.modules[name])
    exec(compile(source, spec.origin, "exec"), sys.modules[name].__dict__)
    tests = [str(ROOT / "test" / test) for test in TESTS[module]]
    return int(pytest.main(["-x", "-q", "--tb=no", "-p", "no:cacheprovider", *tests]))


def path_of(module: str) -> Path:
    """Return the path of a module of the package."""
    return ROOT / "mvdust3r_ros" / f"{module.replace('.', '/')}.py"


def survives(module: str, source: str, seconds: int) -> bool:
    """Whether the module's tests pass with this source, in their own process."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            silence = os.open(os.devnull, os.O_WRONLY)
            os.dup2(silence, 1)
            os.dup2(silence, 2)
            resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
            status = judge(module, source)
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1] == 0


def difference(old: str, new: str) -> str:
    """Return the lines that differ between two sources."""
    lines = difflib.ndiff(old.splitlines(), new.splitlines())
    kept = [line[0] + " " + line[1:].strip() for line in lines if line[0] in "+-"]
    return "\n    ".join(kept)


def main() -> None:
    """Print the number of killed mutants of each module, and the survivors."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("modules", nargs="*", default="all", choices=["all", *TESTS])
    parser.add_argument("--count", type=int, default=40, help="mutants of each module")
    parser.add_argument("--skip", type=int, default=0, help="mutants left out at the beginning")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=int, default=60, help="processor time for each")
    args = parser.parse_args()
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    for heavy in HEAVY:
        importlib.import_module(heavy)
    for module in TESTS if "all" in args.modules else args.modules:
        source = path_of(module).read_text()
        if not survives(module, source, args.seconds):
            sys.exit(f"{module}: its tests fail without any change")
        all_mutants = mutants(source, args.seed)
        sample = all_mutants[args.skip : args.skip + args.count]
        survivors = 0
        for number, mutant in enumerate(sample, 1):
            changed = mutant.source(source)
            if survives(module, changed, args.seconds):
                survivors += 1
                print(f"{module}.py:{mutant.line} survives\n    {difference(source, changed)}")
            print(f"{module}: {number - survivors} of {number} killed", flush=True)
        print(f"{module}: {len(all_mutants)} mutants in all")


if __name__ == "__main__":
    main()
