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

"""Shared parts of the command line: help, argument types, progress, renamed options."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

if TYPE_CHECKING:
    from mvdust3r_ros.recordings.bag import BagOptions

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
EVALUATIONS = {
    "rooms": "evaluate-rooms",
    "apartments": "evaluate-apartments",
    "benchmark": "evaluate-benchmark",
    "paper": "evaluate-paper",
}
"""Word after `evaluate` -> its command, which shell completion needs as a single word."""


class HelpText(argparse.HelpFormatter):
    """Wraps text, unless it has its own line breaks."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if "\n" not in text:
            return super()._fill_text(text, width, indent)
        return "".join(indent + line for line in text.splitlines(keepends=True))


def add_command(
    commands: Commands, name: str, summary: str, example: str, description: str = ""
) -> argparse.ArgumentParser:
    """Add a command whose help shows an example.

    Args:
        commands: parent of the command.
        name: name of the command.
        summary: summary in the list of commands.
        example: one call, or lines printed as they are.
        description: text above its options; empty for the summary.
    """
    text = example if "\n" in example else f"example: {example}"
    command = commands.add_parser(
        name,
        help=summary,
        description=description or f"{summary[:1].upper()}{summary[1:]}.",
        epilog=text,
        formatter_class=HelpText,
    )
    command.set_defaults(parser=command)
    return command


def parse(parser: argparse.ArgumentParser, words: Sequence[str]) -> argparse.Namespace:
    """Parse the arguments; for an unknown option show the command's own usage.

    argparse passes unknown options to the top-level parser, whose usage does not mention them.
    """
    args, unknown = parser.parse_known_args(words)
    if unknown:
        command: argparse.ArgumentParser = args.parser
        command.error(f"unrecognized arguments: {' '.join(unknown)}")
    return args


class _OldName(argparse.Action):
    """The old name of an option: warns, then acts as the option."""

    def __init__(self, *args: Any, new: argparse.Action, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._new = new

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        warn_renamed(str(option_string), self._new.option_strings[0])
        self._new(parser, namespace, values, option_string)


def add_old_name(parser: argparse.ArgumentParser, old: str, new: argparse.Action) -> None:
    """Accept the old name of a renamed option, with a warning.

    Args:
        parser: parser of the command.
        old: the former name; the help does not show it.
        new: the option.
    """
    parser.add_argument(
        old, action=_OldName, new=new, dest=new.dest, nargs=new.nargs, const=new.const,
        type=new.type or str, default=argparse.SUPPRESS, help=argparse.SUPPRESS,
    )  # fmt: skip


def warn_renamed(old: str, new: str) -> None:
    """Warn on stderr that a command or an option was renamed."""
    sys.stderr.write(f"mvdust3r_ros: {old} is now {new}; the next release drops the old name\n")


def evaluation_in_one_word(words: Sequence[str]) -> list[str]:
    """Replace `evaluate rooms` and the like by their single-word commands."""
    given = list(words)
    for old in (["evaluate", "flats"], ["evaluate-flats"]):
        if given[: len(old)] == old:
            warn_renamed(" ".join(old), "evaluate apartments")
            given[: len(old)] = ["evaluate", "apartments"]
    if given[:1] == ["evaluate"] and given[1:2] and given[1] in EVALUATIONS:
        given[:2] = [EVALUATIONS[given[1]]]
    return given


def number_list(text: str) -> list[int]:
    """Parse "4,8,12" to [4, 8, 12]."""
    try:
        return [int(v) for v in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers") from None


def seeds(text: str) -> range:
    """Parse "A:B" to range(A, B)."""
    try:
        first, last = (int(v) for v in text.split(":"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not FIRST:LAST") from None
    return range(first, last)


def speed(text: str) -> float:
    """Parse the playback rate of a bag; 1 is as recorded."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def add_frames(parser: argparse._ActionsContainer) -> None:
    """Add options for robots with their own names of frames and transforms."""
    parser.add_argument("--odom-frame", default="odom", metavar="FRAME", help="root, with TF")
    parser.add_argument(
        "--camera-frame", default="", metavar="FRAME", help="optical frame, if images do not say"
    )
    parser.add_argument(
        "--tf-topic", default="", metavar="TOPIC", help="transforms of which robot, if of several"
    )


class Bar(Protocol):
    """Shows how far it is."""

    def __call__(self, done: int, total: int, label: str = "") -> None:
        """Show the number done, the total, and what is being done."""


@contextmanager
def progress(unit: str) -> Iterator[Bar]:
    """Show a progress bar; yields a function of the number done, the total and a label."""
    from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (MofNCompleteColumn(), TextColumn(unit), TimeRemainingColumn())
    with Progress(*Progress.get_default_columns()[:2], *columns) as bar:
        task = bar.add_task("", total=None)

        def show(done: int, total: int, label: str = "") -> None:
            bar.update(task, completed=done, total=total, description=label)

        try:
            yield show
        finally:  # a run that did not start leaves no bar above its error
            bar.update(task, visible=bar.tasks[0].completed > 0)


def bag_options(args: argparse.Namespace, **more: Any) -> BagOptions:
    """Return the topics given to `map` and `evaluate`.

    Args:
        args: arguments of the command.
        more: other fields of `BagOptions`.
    """
    from mvdust3r_ros.recordings.bag import BagOptions

    return BagOptions(
        image_topic=args.image_topic,
        camera_info_topic=args.camera_info_topic,
        odometry=args.odometry,
        odom_topic=args.odom_topic,
        odom_frame=args.odom_frame,
        tf_topic=args.tf_topic,
        camera_frame=args.camera_frame,
        max_frames=args.max_frames,
        **more,
    )
