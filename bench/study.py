"""A study as a list of jobs that can be stopped and started again. What the scripts of studies share:

    --list          the jobs, in order, and which are done
    --only NAME     one job
    --timings       only the jobs that take times and need the machine alone; --no-timings: only the others

A finished job is appended to the study's results at once; a job that is there is not run again. A job that reaches its limit
of minutes is stopped as Ctrl-C would stop it, and so is the program, with exit code 75: called again, it goes on from that
job's checkpoint. The seconds in a row are those since the job was last started.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from edgesmith.deploy.engines.onnxruntime import processor
from edgesmith.deploy.files import read_json, write_json
from edgesmith.pipeline.artifacts import tool_versions

TIME_IS_UP = 75
"""Exit code where nothing failed and there is more to do (sysexits.h: EX_TEMPFAIL)."""


@dataclass(frozen=True)
class Job:
    run: Callable[[], dict[str, Any]]
    needs: tuple[str, ...] = ()
    """Jobs whose results it takes; without them it is not begun."""
    timing: bool = False
    """Takes times: nothing else may run beside it."""
    one_thread: bool = False
    """Computes on one thread, and runs beside another such job."""
    limit_minutes: float | None = None
    """After so long it is stopped, to go on from its checkpoint another time. None: it is left to end."""


class TimeIsUp(KeyboardInterrupt):
    """A job has reached its limit. Like Ctrl-C it is no failure, so that nothing takes it for one and goes on."""


def parser(about: str | None, page: bool = False) -> argparse.ArgumentParser:
    """Reads what every study takes, with `page` where it can show what is done; a study may add to it."""
    made = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--list", action="store_true", help="the jobs, in order, and which are done")
    made.add_argument("--only", metavar="NAME", help="one job")
    made.add_argument(
        "--timings", action=argparse.BooleanOptionalAction, help="only the jobs that take times, or only the others"
    )
    if page:
        made.add_argument("--page", metavar="OUT.html", type=Path, help="write what is done as a page")
    return made


def run(given: argparse.Namespace, results: Path, jobs: Mapping[str, Job]) -> None:
    """List the jobs, or run those that are wanted and not done, in order; those of one thread two at a time.

    Ends the program with a message where a job cannot begin or has reached its limit.
    """
    done = {row["job"] for row in rows(results)}
    if given.list:
        for name, job in jobs.items():
            print(f"{'done' if name in done else 'open'}  {'timing' if job.timing else '      '}  {name}")
        return
    if given.only is not None and given.only not in jobs:
        sys.exit(f"--only: there is no job {given.only!r}; --list shows them")
    wanted = {n: j for n, j in jobs.items() if given.only in (None, n) and given.timings in (None, j.timing)}
    for name in wanted.keys() & done:
        print(f"{name}: done before", file=sys.stderr)
    wanted = {n: j for n, j in wanted.items() if n not in done}
    if given.only is not None:
        for name, job in wanted.items():
            _run_one(name, job, results)
        return
    for group in groups(wanted):
        for name in group:
            _require_needs(name, wanted[name], results)
        if wanted[group[0]].one_thread:
            with ThreadPoolExecutor(2) as pool:
                codes = dict(zip(group, pool.map(_run_apart, group), strict=True))
            if left := [name for name, code in codes.items() if code]:  # each said why
                print(f"not done: {', '.join(left)}; call this again to go on", file=sys.stderr)
                sys.exit(TIME_IS_UP if {*codes.values()} <= {0, TIME_IS_UP} else 1)
        else:
            _run_one(group[0], wanted[group[0]], results)


def groups(jobs: Mapping[str, Job]) -> list[list[str]]:
    """The names of `jobs` in order: neighbours of one thread that do not need each other together, the others alone."""
    found: list[list[str]] = []
    for name, job in jobs.items():
        before = found[-1] if found else []
        if before and job.one_thread and jobs[before[0]].one_thread and not set(job.needs) & set(before):
            before.append(name)
        else:
            found.append([name])
    return found


def rows(results: Path) -> list[dict[str, Any]]:
    """One of each finished job."""
    return read_json(results) if results.is_file() else []


def row_of(results: Path, job: str) -> dict[str, Any]:
    """What a finished job came to. Ends the program where it is not finished."""
    for row in rows(results):
        if row["job"] == job:
            return row
    sys.exit(f"this job needs the result of {job!r}; run that first")


def _require_needs(name: str, job: Job, results: Path) -> None:
    """End the program unless the jobs that `job` needs are done."""
    done = {row["job"] for row in rows(results)}
    if missing := [need for need in job.needs if need not in done]:
        sys.exit(f"{name}: needs the result of {', '.join(map(repr, missing))}; run that first")


def _run_one(name: str, job: Job, results: Path) -> None:
    _require_needs(name, job, results)
    if job.one_thread:
        import torch

        torch.set_num_threads(1)  # more would come to other bits than those of the part done before
    start = time.time()
    try:
        with _limited(job.limit_minutes):
            row = job.run()
    except TimeIsUp:
        print(
            f"{name}: stopped after {job.limit_minutes:g} minutes, its limit; call this again to go on from its checkpoint",
            file=sys.stderr,
        )
        sys.exit(TIME_IS_UP)
    row = {"job": name, **row, "seconds": round(time.time() - start)}
    _append({**row, "tools": tool_versions(), "processor": processor()}, results)
    print(f"{name}: done in {row['seconds']} s", file=sys.stderr)


@contextmanager
def _limited(minutes: float | None) -> Iterator[None]:
    """Raise TimeIsUp in the block after so many minutes. Only for the main thread."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise TimeIsUp

    if minutes is None:
        yield
        return
    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, 60 * minutes)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _run_apart(name: str) -> int:
    """One job of this very study in a process of its own with one thread; its exit code."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *sys.argv, "--only", name], check=False, env=environment).returncode


def _append(row: dict[str, Any], results: Path) -> None:
    """Add a row; two jobs may finish at once."""
    results.parent.mkdir(parents=True, exist_ok=True)
    folder = os.open(results.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        write_json(results, [*rows(results), row])
    finally:
        os.close(folder)
