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

"""Commands for the network itself: `golden`, `weights`, `engine`."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from contextlib import AbstractContextManager
from pathlib import Path

from mvdust3r_ros.commands.command_line import Commands, add_command
from mvdust3r_ros.datatypes import MvDust3rError


def add_golden(commands: Commands) -> None:
    """Add `golden DIR`: compare with stored outputs of the reference implementation."""
    golden = add_command(
        commands, "golden", "compare with stored reference outputs",
        "mvdust3r_ros golden golden/ --backend onnx",
    )  # fmt: skip
    golden.add_argument("folder", type=Path, metavar="DIR", help="folder of cases, or one case")
    golden.add_argument("--backend", choices=("torch", "onnx"), default="torch")
    golden.add_argument("--dtype", choices=("fp32", "bf16"), default="fp32")
    golden.set_defaults(run=_golden)


def _golden(args: argparse.Namespace) -> int:
    _need_torch()
    from mvdust3r_ros.evaluation.trials.golden import find_cases, run_case

    worst = 0.0
    for case in find_cases(args.folder):
        results = run_case(case, args.backend, args.dtype)
        for result in results:
            print(f"{result.case:28s} {result.output:16s} {result.error:10.4f}", flush=True)
        worst = max([worst, *(r.error for r in results)])
    print(f"largest error: {worst:.4f} of the tolerance, {'passed' if worst <= 1 else 'FAILED'}")
    return 0 if worst <= 1 else 1


def add_weights(commands: Commands) -> None:
    """Add `weights info|convert|download`."""
    weights = add_command(
        commands, "weights", "look at, convert or fetch weights",
        "mvdust3r_ros weights info model.safetensors",
    )  # fmt: skip
    kinds = weights.add_subparsers(dest="kind", required=True, metavar="WHAT")
    info = add_command(
        kinds, "info", "what is in a file of weights",
        "mvdust3r_ros weights info model.safetensors",
    )  # fmt: skip
    info.add_argument("file", type=Path)
    info.set_defaults(run=_weights_info)
    convert = add_command(
        kinds, "convert", "published .pth to .safetensors",
        "mvdust3r_ros weights convert MVD.pth MVD.safetensors --dtype fp16",
    )  # fmt: skip
    convert.add_argument("source", type=Path)
    convert.add_argument("target", type=Path)
    convert.add_argument("--dtype", choices=("fp32", "fp16", "bf16"), default="fp32")
    convert.set_defaults(run=_weights_convert)
    download = add_command(
        kinds, "download", "fetch the authors' weights (CC BY-NC 4.0)",
        "mvdust3r_ros weights download mvd --out weights",
    )  # fmt: skip
    download.add_argument("name", choices=("mvd", "mvdp_s1", "mvdp_s2"))
    download.add_argument("--out", type=Path, default=Path("weights"), metavar="DIR")
    download.add_argument("--yes", action="store_true", help="accept the licence unasked")
    download.set_defaults(run=_weights_download)


def _weights_info(args: argparse.Namespace) -> int:
    _need_torch()
    from mvdust3r_ros.model.dust3r_weights import (
        describe_pair_checkpoint,
        is_pair_checkpoint,
        read_pair_checkpoint,
    )
    from mvdust3r_ros.model.spann3r_weights import (
        describe_spann_checkpoint,
        is_spann_checkpoint,
        read_spann_checkpoint,
    )
    from mvdust3r_ros.model.weights import describe_checkpoint, read_checkpoint

    if is_spann_checkpoint(args.file):
        description = describe_spann_checkpoint(read_spann_checkpoint(args.file))
    elif is_pair_checkpoint(args.file):
        description = describe_pair_checkpoint(read_pair_checkpoint(args.file))
    else:
        description = describe_checkpoint(read_checkpoint(args.file))
    for name, value in description.items():
        print(f"{name:16s} {value}")
    return 0


def _weights_convert(args: argparse.Namespace) -> int:
    _need_torch()
    from mvdust3r_ros.model.dust3r_weights import (
        is_pair_checkpoint,
        pair_network_from_state,
        read_pair_checkpoint,
        save_pair_checkpoint,
    )
    from mvdust3r_ros.model.spann3r_weights import (
        is_spann_checkpoint,
        read_spann_checkpoint,
        save_spann_checkpoint,
    )
    from mvdust3r_ros.model.weights import (
        network_from_state,
        read_checkpoint,
        save_checkpoint,
    )

    if args.target.suffix != ".safetensors":
        raise MvDust3rError(f"{args.target}: weights are written as .safetensors")
    with _working(f"converting {args.source.name}"):
        if is_spann_checkpoint(args.source):
            save_spann_checkpoint(args.target, read_spann_checkpoint(args.source), args.dtype)
        elif is_pair_checkpoint(args.source):
            pair = read_pair_checkpoint(args.source)
            pair_network_from_state(pair.config, pair.state, str(args.source))
            save_pair_checkpoint(args.target, pair, args.dtype)
        else:
            checkpoint = read_checkpoint(args.source)
            network_from_state(checkpoint.config, checkpoint.state, str(args.source))
            save_checkpoint(args.target, checkpoint, args.dtype)
    print(f"{args.target}: {args.target.stat().st_size / 1e6:.1f} MB, {args.dtype}")
    return 0


def _weights_download(args: argparse.Namespace) -> int:
    _need_torch()
    from mvdust3r_ros.model.weights import (
        PUBLISHED_FILES,
        PUBLISHED_REPOSITORY,
        download_published,
    )

    print(
        f"{PUBLISHED_FILES[args.name]} of {PUBLISHED_REPOSITORY} is more than 2 GB, under "
        "CC BY-NC 4.0: not for commercial use."
    )
    if not args.yes and not _agrees():
        raise MvDust3rError("not downloaded: the licence was not accepted (--yes accepts it)")
    print(download_published(args.name, args.out))
    return 0


def _agrees() -> bool:
    return sys.stdin.isatty() and input("Download? [y/N] ").strip().lower() in {"y", "yes"}


def add_engine(commands: Commands) -> None:
    """Add `engine info|export|build`."""
    engine = add_command(
        commands, "engine", "make or look at an engine folder",
        "mvdust3r_ros engine info models/room",
    )  # fmt: skip
    kinds = engine.add_subparsers(dest="kind", required=True, metavar="WHAT")
    info = add_command(
        kinds, "info", "what an engine folder holds",
        "mvdust3r_ros engine info models/room",
    )  # fmt: skip
    info.add_argument("folder", type=Path, metavar="DIR")
    info.set_defaults(run=_engine_info)
    export = add_command(
        kinds, "export", "weights to ONNX, for every machine",
        "mvdust3r_ros engine export --weights MVD.safetensors --out mvd",
    )  # fmt: skip
    _add_common(export, ("fp32", "fp16", "bf16"), "fp32")
    export.add_argument("--store-fp16", action="store_true", help="half the size, fp32 arithmetic")
    export.add_argument("--no-skip", action="store_true", help="no skip branch: inexact")
    export.add_argument("--gaussians", action="store_true", help="predict Gaussians as well")
    export.add_argument("--metric", action="store_true", help="the model predicts metres")
    export.set_defaults(run=_engine_export)
    build = add_command(
        kinds, "build", "weights to TensorRT, for this machine's GPU",
        "mvdust3r_ros engine build --weights MVD.safetensors --out mvd_trt",
    )  # fmt: skip
    _add_common(build, ("fp16", "bf16", "fp32"), "fp16")
    build.add_argument("--backend", choices=("tensorrt", "onnx"), default="tensorrt")
    build.add_argument("--views", default="4:8:12", metavar="MIN:USUAL:MAX", help="views a window")
    build.add_argument("--n-ref", type=int, default=0, help="reference paths; 0: the model's")
    build.set_defaults(run=_engine_build, store_fp16=False, no_skip=False, metric=False,
                       gaussians=False)  # fmt: skip


def _add_common(
    parser: argparse.ArgumentParser, precisions: tuple[str, ...], default: str
) -> None:
    parser.add_argument("--weights", type=Path, required=True, metavar="FILE")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--precision", choices=precisions, default=default)
    parser.add_argument(
        "--paths", type=int, default=1, help="paths returned; 0: all (default %(default)s)"
    )


def _engine_info(args: argparse.Namespace) -> int:
    from mvdust3r_ros.engines.manifest import load_manifest

    manifest = dataclasses.asdict(load_manifest(args.folder))
    for name, value in manifest.items():
        items = value.items() if isinstance(value, dict) else [("", value)]
        for key, item in items:
            print(f"{name + ' ' + key if key else name:32s} {item}")
    return 0


def _engine_export(args: argparse.Namespace) -> int:
    _need_torch()
    from mvdust3r_ros.engines.export import ExportOptions, export_engine
    from mvdust3r_ros.model.dust3r_weights import is_pair_checkpoint
    from mvdust3r_ros.model.spann3r_weights import is_spann_checkpoint
    from mvdust3r_ros.model.weights import DTYPES, network_from_state, read_checkpoint

    if is_spann_checkpoint(args.weights):
        return _spann3r_export(args)
    if is_pair_checkpoint(args.weights):
        return _dust3r_export(args)
    checkpoint = read_checkpoint(args.weights)
    network = network_from_state(checkpoint.config, checkpoint.state, str(args.weights))
    network.lower_precision(DTYPES[args.precision])
    options = ExportOptions(
        name=args.weights.stem, licence=checkpoint.licence, paths=args.paths,
        store_fp16=args.store_fp16, skip=not args.no_skip, gaussians=args.gaussians,
        metric=args.metric,
        info=checkpoint.info,
    )  # fmt: skip
    with _working(f"tracing and checking {args.weights.name}: minutes for a full-size model"):
        folder = export_engine(network, args.out, options)
    print(f"{folder}: mvdust3r_ros map BAG --engine {folder}")
    return 0


def _dust3r_export(args: argparse.Namespace) -> int:
    """The pairwise network stays in PyTorch, float32: its folder says how windows are aligned."""
    from mvdust3r_ros.engines.dust3r.engine import export_dust3r

    folder = export_dust3r(args.weights, args.out)
    print(f"{folder}: mvdust3r_ros map BAG --engine {folder}")
    return 0


def _spann3r_export(args: argparse.Namespace) -> int:
    """The sequential network stays in PyTorch, float32."""
    from mvdust3r_ros.engines.spann3r.engine import export_spann3r

    folder = export_spann3r(args.weights, args.out)
    print(f"{folder}: mvdust3r_ros map BAG --engine {folder}")
    return 0


def _engine_build(args: argparse.Namespace) -> int:
    if args.backend == "onnx":
        args.precision = "fp32"
        return _engine_export(args)
    from mvdust3r_ros.engines.tensorrt_profiles import load_tensorrt, parse_views

    load_tensorrt()
    _need_torch()
    from mvdust3r_ros.engines.tensorrt_build import BuildOptions, build_engine

    views = parse_views(args.views)
    options = BuildOptions(views, args.n_ref, args.precision, args.paths)
    print(build_engine(args.weights, args.out, options, print))
    return 0


def _working(what: str) -> AbstractContextManager[object]:
    """Show a spinner on a terminal during a slow step; nothing elsewhere."""
    from rich.console import Console

    return Console(stderr=True).status(what)


def _need_torch() -> None:
    try:
        import torch  # noqa: F401
    except ImportError:
        raise MvDust3rError(
            "this command needs PyTorch: pip install 'mvdust3r_ros[torch]'"
        ) from None
