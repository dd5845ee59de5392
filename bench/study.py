"""A study as a list of jobs that can be stopped and started again. What the scripts of studies share:

    --list          the jobs, in order, and which are done
    --only NAME     one job
    --timings       only the jobs that take times and need the machine alone; --no-timings: only the others

A finished job is appended to the study's results at once; a job that is there is not run again.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgesmith.deploy.engines.onnxruntime import processor
from edgesmith.deploy.files import read_json, write_json
from edgesmith.pipeline.artifacts import tool_versions


@dataclass(frozen=True)
class Job:
    run: Callable[[], dict[str, Any]]
    timing: bool = False
    """Takes times: nothing else may run beside it."""
    one_thread: bool = False
    """Runs beside another such job."""


def parser(about: str | None) -> argparse.ArgumentParser:
    """Reads what every study takes; a study may add to it."""
    made = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--list", action="store_true", help="the jobs, in order, and which are done")
    made.add_argument("--only", metavar="NAME", help="one job")
    made.add_argument(
        "--timings", action=argparse.BooleanOptionalAction, help="only the jobs that take times, or only the others"
    )
    return made


def run(given: argparse.Namespace, results: Path, jobs: Mapping[str, Job]) -> None:
    """List the jobs, or run those that are wanted and not done, in order; those of one thread last, two at a time."""
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
    apart = [n for n, j in wanted.items() if j.one_thread and given.only is None]
    for name, job in wanted.items():
        if name not in apart:
            _run_one(name, job, results)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(_run_apart, apart))


def rows(results: Path) -> list[dict[str, Any]]:
    """One of each finished job."""
    return read_json(results) if results.is_file() else []


def row_of(results: Path, job: str) -> dict[str, Any]:
    """What a finished job came to. Ends the program where it is not finished."""
    for row in rows(results):
        if row["job"] == job:
            return row
    sys.exit(f"this job needs the result of {job!r}; run that first")


def _run_one(name: str, job: Job, results: Path) -> None:
    start = time.time()
    row = {"job": name, **job.run(), "seconds": round(time.time() - start)}
    _append({**row, "tools": tool_versions(), "processor": processor()}, results)
    print(f"{name}: done in {row['seconds']} s", file=sys.stderr)


def _run_apart(name: str) -> None:
    """One job of this very study in a process of its own with one thread."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, *sys.argv, "--only", name], check=True, env=environment)


def _append(row: dict[str, Any], results: Path) -> None:
    """Add a row; two jobs may finish at once."""
    results.parent.mkdir(parents=True, exist_ok=True)
    folder = os.open(results.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        write_json(results, [*rows(results), row])
    finally:
        os.close(folder)
