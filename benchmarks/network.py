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

"""Compares time and memory of the network with the plain algorithm (`naive.py`) in one run.

    python benchmarks/network.py --views 12 --n-ref 4            # times, interleaved
    python benchmarks/network.py --memory 4 8 12 24 48 --width 128  # peak memory, one process each
    python benchmarks/network.py --cached 8                      # one new frame in a known window

Weights are random. On a shared machine, compare processor seconds, which exclude waiting.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
import naive

from mvdust3r_ros.datatypes import View
from mvdust3r_ros.engines.torch_engine import TorchEngine, TorchOptions, manifest_of
from mvdust3r_ros.model.config import NAMED_CONFIGS, NetworkConfig
from mvdust3r_ros.model.network import Network
from mvdust3r_ros.model.weights import DTYPES


def main() -> None:
    """Run the comparison chosen on the command line."""
    args = parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    if args.child:
        print_peak(args)
    elif args.memory:
        compare_memory(args)
    elif args.cached:
        compare_cached(args)
    else:
        compare_times(args)


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="mvdp", choices=sorted(NAMED_CONFIGS))
    parser.add_argument("--views", type=int, default=12)
    parser.add_argument("--n-ref", type=int, default=4)
    parser.add_argument("--width", type=int, default=0, help="other width of both transformers")
    parser.add_argument("--skip-dim", type=int, default=-1, help="other width of the skip branch")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--memory", type=int, nargs="+", metavar="VIEWS")
    parser.add_argument("--cached", type=int, metavar="VIEWS")
    parser.add_argument("--child", choices=VARIANTS, help=argparse.SUPPRESS)
    return parser.parse_args()


def config_of(args: argparse.Namespace) -> NetworkConfig:
    """Return the network configuration to measure, at reduced width if requested."""
    config = NAMED_CONFIGS[args.model]
    if args.width:
        heads = max(1, args.width // 64)
        config = replace(
            config, enc_dim=args.width, dec_dim=args.width, enc_heads=heads, dec_heads=heads,
            enc_depth=6, dec_depth=4,
        )  # fmt: skip
    if args.skip_dim >= 0:
        config = replace(config, skip_dim=args.skip_dim)
    return replace(config, gs_mlp_dim=0)


Run = Callable[[Network, torch.Tensor, int], object]


def run_ours(network: Network, images: torch.Tensor, n_ref: int) -> object:
    """Predict the pointmaps of path 0, as an engine does."""
    return network(images[None], n_ref=n_ref, paths=1)


def run_no_skip(network: Network, images: torch.Tensor, n_ref: int) -> object:
    """Run the inexact variant without the skip branch."""
    tokens = network.encode(images)[None]
    from mvdust3r_ros.model.network import slot_order

    return network.predict(tokens, None, slot_order(n_ref, len(images)), 1)


def run_naive_bf16(network: Network, images: torch.Tensor, n_ref: int) -> object:
    """Run the plain algorithm under torch's autocast."""
    with torch.autocast("cpu", torch.bfloat16):
        return naive.predict(network, images, n_ref)


VARIANTS: dict[str, tuple[Run, str]] = {
    "naive_fp32": (naive.predict, "fp32"),
    "ours_fp32": (run_ours, "fp32"),
    "naive_bf16": (run_naive_bf16, "fp32"),
    "ours_bf16": (run_ours, "bf16"),
    "ours_bf16_noskip": (run_no_skip, "bf16"),
}


def compare_times(args: argparse.Namespace) -> None:
    """Print wall and processor seconds of each variant, interleaved, `rounds` times."""
    config = config_of(args)
    images = torch.rand(args.views, 3, *config.image_hw) * 2 - 1
    networks = {}
    for precision in sorted({VARIANTS[v][1] for v in args.variants}):
        torch.manual_seed(0)
        networks[precision] = Network(config).eval()
        networks[precision].lower_precision(DTYPES[precision])
    print(f"{args.model}, {args.views} views, n_ref {args.n_ref}, {args.threads} threads")
    best: dict[str, float] = {}
    for _ in range(args.rounds):
        for name, rate in matrix_rates().items():
            print(f"  matrix rate {name}: {rate:.0f} GFLOP/s of processor time")
        for variant in args.variants:
            run, precision = VARIANTS[variant]
            wall, cpu = time.perf_counter(), time.process_time()
            with torch.inference_mode():
                run(networks[precision], images, args.n_ref)
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            best[variant] = min(best.get(variant, np.inf), cpu)
            print(f"  {variant:18s} {wall:8.2f} s  {cpu:8.2f} processor seconds", flush=True)
    first = "naive_fp32" if "naive_fp32" in best else args.variants[0]
    for variant, cpu in best.items():
        print(f"  {variant:18s} {best[first] / cpu:5.2f} times as fast as {first}")


def matrix_rates() -> dict[str, float]:
    """Return GFLOP per processor second of a large matrix product in torch."""
    rates = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        a, b = torch.rand(2048, 2048, dtype=dtype), torch.rand(2048, 2048, dtype=dtype)
        a @ b
        start = time.process_time()
        for _ in range(5):
            a @ b
        rates[name] = 5 * 2 * 2048**3 / (time.process_time() - start) / 1e9
    return rates


def compare_memory(args: argparse.Namespace) -> None:
    """Print peak memory above the weights for several numbers of views, and R^2 of a line."""
    for variant in args.variants:
        peaks = []
        for views in args.memory:
            command = [sys.executable, __file__, "--child", variant, "--views", str(views)]
            for name in ("model", "n_ref", "width", "skip_dim", "threads"):
                command += [f"--{name.replace('_', '-')}", str(getattr(args, name))]
            # Return freed memory to the system at once, so that the peak is that of live memory.
            environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(1 << 20)}
            output = subprocess.run(
                command, check=True, capture_output=True, text=True, env=environment
            ).stdout
            peaks.append(float(output.split()[-1]))
            print(f"  {variant:18s} {views:4d} views {peaks[-1]:9.1f} MiB", flush=True)
        if len(peaks) > 2:
            r = np.corrcoef(args.memory, peaks)[0, 1]
            print(f"  {variant:18s} R^2 of a line {r * r:.4f}")


def print_peak(args: argparse.Namespace) -> None:
    """Print the peak memory of one run above the weights, in MiB."""
    config = config_of(args)
    run, precision = VARIANTS[args.child]
    network = Network(config).eval()
    network.lower_precision(DTYPES[precision])
    images = torch.rand(args.views, 3, *config.image_hw) * 2 - 1
    with torch.inference_mode():
        run(network, images[:2], 2)  # load libraries and generated code
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # reset the peak
        before = status_mib("VmRSS")
        run(network, images, args.n_ref)
    print(status_mib("VmHWM") - before)


def status_mib(name: str) -> float:
    """Return a value of this process's status, in MiB."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def compare_cached(args: argparse.Namespace) -> None:
    """Compare a window with one new frame with a window of new frames."""
    config = config_of(args)
    network = Network(config).eval()
    engine = TorchEngine(network, manifest_of(network, args.model), TorchOptions("cpu", "bf16"))
    rng = np.random.default_rng(0)
    shape = (*config.image_hw, 3)
    views = [View(rng.integers(0, 256, shape, np.uint8)) for _ in range(args.cached)]
    engine.decode(engine.encode(views[:2]), 1)
    start = time.process_time()
    tokens = engine.encode(views)
    encoded = time.process_time()
    engine.decode(tokens, min(args.n_ref, args.cached))
    decoded = time.process_time()
    engine.encode(views[:1])
    one = time.process_time() - decoded
    fresh, cached = decoded - start, one + decoded - encoded
    print(f"{args.model}, {args.cached} views, n_ref {args.n_ref}, bf16, processor seconds")
    print(f"  encode {encoded - start:.2f}, decode {decoded - encoded:.2f}, one view {one:.2f}")
    print(f"  fresh {fresh:.2f}, {args.cached - 1} known {cached:.2f}: {fresh / cached:.2f} times")


if __name__ == "__main__":
    main()
