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

"""Evaluate many recordings: in sequence, in processes, or as tasks on a Ray cluster."""

from __future__ import annotations

import multiprocessing
import os
import socket
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from mvdust3r_ros.commands.evaluate_one import Evaluated, EvaluateJob, Progress, evaluate_recording
from mvdust3r_ros.datatypes import MvDust3rError
from mvdust3r_ros.evaluation.lockstep import interruptible

INTERRUPTED = "interrupted"
CONNECT_S = 20.0
"""A TCP handshake takes milliseconds in a cluster; a host silent for so long is not there."""


class ClusterError(MvDust3rError):
    """Ray is missing or cannot be reached."""


@dataclass(frozen=True)
class Outcome:
    """Outcome of a job.

    Attributes:
        job: the job.
        done: its report; None without one.
        error: why there is no report, in one line; empty if there is one.
    """

    job: EvaluateJob
    done: Evaluated | None = None
    error: str = ""

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl-C stopped it."""
        stopped = self.error if self.done is None else self.done.report["stopped"]
        return bool(stopped == INTERRUPTED)


def attempt(job: EvaluateJob, progress: Progress | None = None) -> Outcome:
    """Run a job in this process; errors become part of the outcome."""
    try:
        return Outcome(job, evaluate_recording(job, progress))
    except MvDust3rError as error:
        return Outcome(job, error=str(error))
    except KeyboardInterrupt:
        return Outcome(job, error=INTERRUPTED)
    except Exception as error:  # noqa: BLE001 - one recording must not end the others
        traceback.print_exc()
        return Outcome(job, error=f"unexpected {error!r}")


def in_processes(jobs: Sequence[EvaluateJob], count: int) -> Iterator[Outcome]:
    """Run jobs in `count` processes at a time; yield outcomes as they finish.

    Each job has its own process, so that a killed one does not affect the others. Ctrl-C stops the
    running ones with partial reports and skips the rest.
    """
    with interruptible() as interrupted, ThreadPoolExecutor(max(1, count)) as waiters:
        futures = [waiters.submit(_in_process, job) for job in jobs]
        for future in as_completed(futures):
            if interrupted.is_set():
                for other in futures:
                    other.cancel()
            if not future.cancelled():
                yield future.result()


def _in_process(job: EvaluateJob) -> Outcome:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(theirs, job))
    process.start()
    theirs.close()
    try:
        outcome: Outcome = ours.recv()
    except EOFError:
        process.join()
        outcome = Outcome(job, error=f"its process ended ({process.exitcode})")
    process.join()
    return outcome


def _child(pipe: Connection, job: EvaluateJob) -> None:
    pipe.send(attempt(job))


def on_ray(jobs: Sequence[EvaluateJob], address: str) -> Iterator[Outcome]:
    """Run jobs as single-CPU tasks on a Ray cluster; yield outcomes as they finish.

    The paths of the jobs and this package must exist on each machine of the cluster.

    Args:
        jobs: what to do.
        address: "HOST:PORT" or "ray://HOST:PORT" of a cluster, "auto" for this machine's, "local"
            to start one here with a worker for each core.

    Raises:
        ClusterError: Ray is not installed, or there is no cluster at the address.
    """
    with _cluster(address) as ray:
        task = ray.remote(num_cpus=1, max_retries=0)(attempt)
        waiting = {task.remote(_absolute(job)): job for job in jobs}
        while waiting:
            ready, _ = ray.wait(list(waiting), num_returns=1)
            for reference in ready:
                job = waiting.pop(reference)
                try:
                    outcome: Outcome = ray.get(reference)
                except ray.exceptions.RayError as error:
                    outcome = Outcome(job, error=f"its task failed: {_first_line(error)}")
                yield replace(outcome, job=job)


def _absolute(job: EvaluateJob) -> EvaluateJob:
    """Return the job with absolute paths, for a process in another folder."""
    truth = job.truth
    return replace(
        job,
        source=job.source.resolve(),
        out=job.out.resolve(),
        params=None if job.params is None else job.params.resolve(),
        engine=_absolute_if_file(job.engine),
        files=replace(
            job.files,
            intrinsics=None if job.files.intrinsics is None else job.files.intrinsics.resolve(),
        ),
        truth=replace(
            truth, truth=_absolute_if_file(truth.truth), depth=_absolute_if_file(truth.depth)
        ),
    )


def _absolute_if_file(text: str) -> str:
    """Make an existing path absolute; return a topic or a word unchanged."""
    return str(Path(text).resolve()) if text and Path(text).exists() else text


@contextmanager
def _cluster(address: str) -> Iterator[Any]:
    try:
        import ray
    except ImportError:
        raise ClusterError(
            "--ray needs Ray on this machine: pip install 'mvdust3r_ros[ray]'"
        ) from None
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        _check_listening(address)
        ray.init(address=address, logging_level="ERROR", log_to_driver=False)
    except Exception as error:  # noqa: BLE001 - each kind of address fails in its own way
        raise ClusterError(
            f"no Ray cluster at {address}: {_first_line(error)}; one that asks for a token takes "
            "it from RAY_AUTH_TOKEN"
        ) from None
    try:
        yield ray
    finally:
        ray.shutdown()


def _check_listening(address: str) -> None:
    """Check that HOST:PORT accepts connections; Ray would wait for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon:
        socket.create_connection((host, int(port)), CONNECT_S).close()


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0] or repr(error)
