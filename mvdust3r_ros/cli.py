"""Commands of `mvdust3r_ros`: each parses its arguments and calls one function below.

Errors of the package become one line on stderr and exit code 1.
"""

# PYTHON_ARGCOMPLETE_OK
from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from mvdust3r_ros.datatypes import MvDust3rError

Command = Callable[[argparse.Namespace], int]


def build_parser() -> argparse.ArgumentParser:
    """The whole command tree."""
    parser = argparse.ArgumentParser(
        prog="mvdust3r_ros",
        description="Dense metric maps from camera images with MV-DUSt3R+.",
        epilog="example: mvdust3r_ros map my_bag --out out",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in COMMANDS:
        add(commands)
    return parser


COMMANDS: tuple[Callable[[argparse._SubParsersAction[argparse.ArgumentParser]], None], ...] = ()


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the `mvdust3r_ros` console script."""
    import argcomplete

    parser = build_parser()
    argcomplete.autocomplete(parser)
    args = parser.parse_args(argv)
    run: Command = args.run
    try:
        return run(args)
    except MvDust3rError as error:
        sys.stderr.write(f"mvdust3r_ros: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
