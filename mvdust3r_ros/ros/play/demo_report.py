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

"""User interface of the demo: default bag, progress, results and how to open them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from mvdust3r_ros.datatypes import MapSnapshot, Verdict
from mvdust3r_ros.drawing.map_files import NO_GRID, load_occupancy, read_tum
from mvdust3r_ros.engines.base import EngineError
from mvdust3r_ros.engines.create import TRUTH, create_engine, default_engine_folder, needs_truth
from mvdust3r_ros.evaluation.caveats import describe_verdict
from mvdust3r_ros.evaluation.report.pictures import Caption, PictureError, TrueMap, map_picture
from mvdust3r_ros.installed import installed
from mvdust3r_ros.recordings.bag_files import bag_at
from mvdust3r_ros.recordings.recording import recording_name
from mvdust3r_ros.ros.play.demo import (
    DemoError,
    DemoOptions,
    DemoResult,
    Report,
    check_ros,
    run_demo,
    snapshot_of_files,
)
from mvdust3r_ros.ros.play.demo import Progress as DemoProgress
from mvdust3r_ros.wording import decimal, plural

# Rendering the room would need PyTorch; demo/README.md has the script.
ROOM = Path("demo") / "room"


def show_demo(options: DemoOptions) -> int:
    """Run the demo and print the results; return 0 if a map was made.

    Raises:
        MvDust3rError: the demo cannot run.
    """
    console = Console(highlight=False, soft_wrap=True)
    check_ros()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.bag is None:
        options = replace(options, bag=_synthetic_room(console))
    else:
        options = replace(options, bag=bag_at(options.bag))
    options, recorded = _with_engine(options, console)
    result = _play(options, console)
    why = result.last_rejection or "too few keyframes for a window"
    if not result.verdicts["committed"] and recorded is not None:
        console.print(
            f"the default model mapped no window: {why}\n"
            f"again, with the depth recorded in {recorded} instead of a network"
        )
        options = replace(options, engine=TRUTH, depth=recorded)
        result = _play(options, console)
    if not result.verdicts["committed"]:
        console.print(f"no window was mapped, so there is no map: {why}")
        console.print(f"what the nodes said is in {options.out / 'log'}")
        return 1
    draw(options, result, console)
    _print_files(options.out, console)
    return 0


def _synthetic_room(console: Console) -> Path:
    found = installed(ROOM / "bag" / "metadata.yaml")
    if found is None:
        raise DemoError("the demo's drive is not installed; name a bag by --bag")
    console.print("no --bag given: a drive through a synthetic room")
    return found.parent


def _play(options: DemoOptions, console: Console) -> DemoResult:
    engine = f" with engine {options.engine}" if options.engine else ""
    console.print(f"playing {options.bag} at {options.rate:g} times its speed{engine}")
    with _bar(console) as report:
        result = run_demo(options, report)
    tell_numbers(result, options, console)
    return result


def _with_engine(options: DemoOptions, console: Console) -> tuple[DemoOptions, Path | None]:
    """Choose the given engine, or the default model, or recorded depth if there is any.

    Returns:
        The options, and the recorded depth to fall back on if the default model maps nothing.
    """
    beside = options.bag.parent / "depth" if options.bag is not None else None
    depth = options.depth or (beside if beside is not None and beside.is_dir() else None)
    if needs_truth(options.engine):
        return replace(options, depth=depth), None
    if options.engine:
        create_engine(options.engine).close()
        return options, None
    try:
        default_engine_folder()
    except EngineError as error:
        if depth is None:
            raise
        console.print(f"{error}; using the depth recorded in {depth} instead of a network")
        return replace(options, engine=TRUTH, depth=depth), None
    return options, depth


@contextmanager
def _bar(console: Console) -> Iterator[Report]:
    columns = (
        TextColumn("frames"), MofNCompleteColumn(), BarColumn(), TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )  # fmt: skip
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("", total=None)

        def report(now: DemoProgress) -> None:
            words = ""
            if now.windows:
                words = f"windows {now.committed}/{now.windows} mapped, {now.latency_ms:.0f} ms"
            bar.update(task, completed=now.images, total=now.images_total, description=words)

        try:
            yield report
        finally:  # a run that did not start leaves no bar above its error
            bar.update(task, visible=bar.tasks[0].completed > 0)


def tell_numbers(result: DemoResult, options: DemoOptions, console: Console) -> None:
    """Print the outcome of the images, keyframes and windows."""
    verdicts = ", ".join(
        f"{n} {describe_verdict(Verdict[name.upper()])}"
        for name, n in sorted(result.verdicts.items())
    )
    console.print(
        f"{plural(result.images, 'image')} in {decimal(result.seconds, 1)} s, "
        f"{plural(result.keyframes, 'keyframe')}; windows: {verdicts or 'none'}"
        + (f"; {decimal(result.window_ms, 0)} ms a window" if verdicts else "")
    )
    if dropped := sum(result.dropped.values()):
        reasons = ", ".join(
            f"{n} {reason.replace('_', ' ')}" for reason, n in sorted(result.dropped.items())
        )
        console.print(f"dropped: {plural(dropped, 'image')} ({reasons})")
    if result.left_out:
        console.print(
            f"{plural(result.left_out, 'keyframe')} left out while the network was busy; a lower "
            f"--rate than {options.rate:g} uses more of them"
        )


def draw(options: DemoOptions, result: DemoResult, console: Console) -> None:
    """Render the saved map next to its files; print what cannot be rendered."""
    snapshot = replace(snapshot_of_files(options.out, "map"), scale=result.scale)
    if snapshot.grid is None:
        console.print(NO_GRID)
    truth, in_metres = None, snapshot.grid is not None
    if in_metres and options.bag is not None and (options.bag.parent / "truth.yaml").exists():
        folder = options.bag.parent
        truth = TrueMap(load_occupancy(folder / "truth.yaml"), read_tum(folder / "truth.tum"))
    try:
        map_picture(snapshot, options.out / "map.png", truth, _caption(options, result, snapshot))
    except PictureError as error:
        console.print(f"no picture: {error}")


def _caption(options: DemoOptions, result: DemoResult, snapshot: MapSnapshot) -> Caption:
    name = "" if options.bag is None else recording_name(options.bag)
    stamps = snapshot.trajectory.stamps_ns
    return Caption(name, result.engine, int(stamps[0]) if len(stamps) else 0)


def _print_files(out: Path, console: Console) -> None:
    opened = {
        "map.png": "picture of the map",
        "map.ply": "coloured cloud with confidences; open it in CloudCompare or MeshLab",
        "map.yaml": "occupancy grid with map.pgm; "
        "ros2 run nav2_map_server map_server --ros-args -p yaml_filename:={}",
        "map.tum": "camera trajectory; evo_traj tum {} --plot",
        "bag": "all published topics; ros2 bag play {}, or Foxglove",
        "log": "what the nodes said",
    }
    console.print("made:")
    for name, words in opened.items():
        if (out / name).exists():
            console.print(f"  {out / name}  {words.format(out / name)}")
