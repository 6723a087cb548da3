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

"""`evaluate benchmark`: trajectory errors on public data sets, beside published ones."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mvdust3r_ros.commands.command_line import EVALUATIONS, Commands, add_command, progress

if TYPE_CHECKING:
    from mvdust3r_ros.commands.evaluate_many import Outcome
    from mvdust3r_ros.commands.evaluate_one import EvaluateJob
    from mvdust3r_ros.evaluation.benchmark.data_sets import BenchmarkSequence
    from mvdust3r_ros.evaluation.benchmark.results import SequenceRun

DATA_SETS = ("tum", "7scenes", "euroc", "replica")
CALIBRATIONS = {"both": (True, False), "with": (True,), "without": (False,)}
EXAMPLES = """\
examples:
  mvdust3r_ros evaluate benchmark tum --data tum
  mvdust3r_ros evaluate benchmark tum --data tum --sequences desk,xyz --calibration with
  mvdust3r_ros evaluate benchmark 7scenes --data 7scenes --truth pgt/sfm/7scenes
"""


def add_evaluate_benchmark(commands: Commands) -> None:
    """`evaluate benchmark`: public data sets."""
    parser = add_command(
        commands, EVALUATIONS["benchmark"],
        "`evaluate benchmark`: trajectory errors on TUM RGB-D, 7-Scenes, EuRoC or Replica",
        EXAMPLES,
        "Maps the sequences that others report, with and without calibration, and puts the errors "
        "of the path beside the published ones. Writes results.json, table.md and a report of "
        "each sequence.",
    )  # fmt: skip
    parser.add_argument("data_set", choices=DATA_SETS, metavar="|".join(DATA_SETS))
    parser.add_argument(
        "--data", type=Path, required=True, metavar="DIR",
        help="folder with the sequences, as the data set unpacks them",
    )  # fmt: skip
    parser.add_argument(
        "--engine", default="", metavar="DIR|oracle", help="default: the package's model"
    )
    parser.add_argument("--params", type=Path, metavar="YAML", help="settings of the mapper")
    parser.add_argument(
        "--sequences", type=lambda text: text.split(","), default=[], metavar="NAME,...",
        help="by the names of the table (default: all that are there)",
    )  # fmt: skip
    parser.add_argument(
        "--split", choices=("seq-01", "test"), default="seq-01",
        help="of 7-Scenes: the first sequence of each scene, as MASt3R-SLAM has it (default), or "
        "the test split",
    )  # fmt: skip
    parser.add_argument(
        "--truth", type=Path, metavar="DIR",
        help="folder of other true poses: NAME.txt, or the pseudo truth of 7-Scenes",
    )  # fmt: skip
    parser.add_argument(
        "--calibration", choices=CALIBRATIONS, default="both",
        help="map with the intrinsics, without, or both (default)",
    )  # fmt: skip
    parser.add_argument(
        "--every", type=int, default=0, metavar="N",
        help="take every Nth image (default: 2, of Replica all)",
    )  # fmt: skip
    parser.add_argument("--max-frames", type=int, default=0, metavar="N", help="0 for all")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="sequences at a time")
    parser.add_argument(
        "--out", type=Path, default=Path("benchmark"), metavar="DIR",
        help="results go into a folder of the data set in it (default %(default)s)",
    )  # fmt: skip
    parser.set_defaults(run=_benchmark)


def _benchmark(args: argparse.Namespace) -> int:
    from rich.console import Console

    from mvdust3r_ros.commands.evaluate_one import EvaluateJob, mapper_config
    from mvdust3r_ros.engines.create import default_engine_folder, needs_truth
    from mvdust3r_ros.evaluation.benchmark.data_sets import DATA_SETS, find_sequences
    from mvdust3r_ros.evaluation.benchmark.results import (
        Results,
        results_table,
        rows,
        sources,
        write_results,
    )

    found, missing = find_sequences(args.data_set, args.data, args.sequences, args.split)
    if missing:
        names = ", ".join(line.split(":")[0] for line in missing)
        _say(f"without {names}: {missing[0].partition(': ')[2]}")
    every = args.every or DATA_SETS[args.data_set].every
    calibrations = CALIBRATIONS[args.calibration]
    engine = mapper_config(
        EvaluateJob(args.data, args.out, args.engine, args.params)
    ).engine.engine
    if needs_truth(engine):
        calibrations = (True,)
        _say("the oracle needs the intrinsics: no row without calibration")
    out = args.out / args.data_set
    jobs = [
        (one, calibrated, _job(args, one, calibrated, every, out))
        for calibrated in calibrations
        for one in found
    ]
    runs = _runs(jobs, args.jobs)
    results = Results(
        args.data_set, str(args.data), Path(engine or default_engine_folder()).name, every,
        str(args.truth or ""), tuple(one.name for one in found), tuple(runs), tuple(missing),
    )  # fmt: skip
    write_results(results, out)
    Console(highlight=False).print(results_table(results))
    for line in sources(rows(results)):
        print(line)
    print(f"{out}: results.json, table.md and a report of each sequence")
    return int(len(runs) < len(jobs) or not all(run.complete for run in runs))


def _job(
    args: argparse.Namespace, one: BenchmarkSequence, calibrated: bool, every: int, out: Path
) -> EvaluateJob:
    from mvdust3r_ros.commands.evaluate_one import EvaluateJob
    from mvdust3r_ros.evaluation.benchmark.true_poses import true_poses
    from mvdust3r_ros.recordings.formats import FileOptions
    from mvdust3r_ros.recordings.recording import TruthOptions

    name = one.name.replace("/", "-")
    folder = out / ("calibrated" if calibrated else "uncalibrated") / name
    return EvaluateJob(
        source=one.source,
        out=folder,
        engine=args.engine,
        params=args.params,
        files=FileOptions(max_frames=args.max_frames, every=every, calibrated=calibrated),
        truth=TruthOptions(true_poses(one, args.truth, folder)),
        dumps=False,
    )


def _runs(
    jobs: Sequence[tuple[BenchmarkSequence, bool, EvaluateJob]], count: int
) -> list[SequenceRun]:
    """Map all of them; one that fails is told of and does not end the others."""
    from mvdust3r_ros.evaluation.benchmark.results import sequence_run

    of_job = {job.out: (one, calibrated) for one, calibrated, job in jobs}
    made = {}
    for outcome in _outcomes([job for *_, job in jobs], count):
        one, calibrated = of_job[outcome.job.out]
        report = None if outcome.done is None else outcome.done.report
        run = sequence_run(one.name, calibrated, report, outcome.job.out, outcome.error)
        if run.error:
            _say(f"{one.name}, {'with' if calibrated else 'without'} calibration: {run.error}")
        made[outcome.job.out] = run
        if outcome.interrupted:
            break
    return [made[job.out] for *_, job in jobs if job.out in made]


def _outcomes(jobs: Sequence[EvaluateJob], count: int) -> Iterator[Outcome]:
    from mvdust3r_ros.commands.evaluate_many import attempt, in_processes

    if count > 1:
        with progress("sequences") as bar:
            bar(0, len(jobs))
            for done, outcome in enumerate(in_processes(jobs, count), 1):
                bar(done, len(jobs))
                yield outcome
        return
    for job in jobs:
        with progress(f"{job.out.name}, {job.out.parent.name}") as bar:
            outcome = attempt(job, bar)
        yield outcome


def _say(line: str) -> None:
    sys.stderr.write(f"mvdust3r_ros: {line}\n")
