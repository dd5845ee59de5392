"""The list of jobs that studies are: what runs beside what, what a job waits for, and how one is stopped at its limit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from edgesmith.bench import study
from edgesmith.bench.study import Job

DRIVER = """
import os, time
from pathlib import Path
from edgesmith.bench import study
from edgesmith.bench.study import Job
from edgesmith.deploy.files import write_text

folder = Path(__file__).parent

def long():
    checkpoint = folder / "steps"
    steps = int(checkpoint.read_text()) if checkpoint.exists() else 0
    while "LAST" not in os.environ:
        time.sleep(0.01)
        try:
            steps += 1
            write_text(checkpoint, str(steps))
        except Exception:  # as jobs.py has it: a stop is no failure
            pass
    return {"steps": steps}

def short():
    return {"steps": 1}

apart = "APART" in os.environ
jobs = {
    "short": Job(short, one_thread=apart),
    "long": Job(long, one_thread=apart, limit_minutes=0.02),
    "after": Job(short, ("long",)),
}
study.run(study.parser("A study.").parse_args(), folder / "results.json", jobs)
"""


def start(tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    script = tmp_path / "script.py"
    script.write_text(DRIVER)
    return subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )


def jobs_done(tmp_path: Path) -> dict[str, Any]:
    return {row["job"]: row for row in json.loads((tmp_path / "results.json").read_text())}


@pytest.mark.parametrize("apart", [False, True])
def test_a_job_stops_at_its_limit_and_goes_on_when_the_study_is_called_again(apart: bool, tmp_path: Path) -> None:
    more = {"APART": "1"} if apart else {}
    stopped = start(tmp_path, **more)
    assert stopped.returncode == 75
    assert "long: stopped after 0.02 minutes, its limit; call this again to go on from its checkpoint" in stopped.stderr
    if apart:
        assert "not done: long; call this again to go on" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert list(jobs_done(tmp_path)) == ["short"]
    steps = int((tmp_path / "steps").read_text())
    assert steps > 0
    ended = start(tmp_path, LAST="1", **more)
    assert ended.returncode == 0, ended.stderr
    assert list(jobs_done(tmp_path)) == ["short", "long", "after"]
    assert jobs_done(tmp_path)["long"]["steps"] == steps


def test_jobs_of_one_thread_run_together_unless_one_needs_another() -> None:
    def job(*needs: str, one: bool = True) -> Job:
        return Job(dict, needs, one_thread=one)

    jobs = {"a": job(one=False), "b": job(), "c": job("a"), "d": job("c"), "e": job(), "f": job(one=False), "g": job("e")}
    assert study.groups(jobs) == [["a"], ["b", "c"], ["d", "e"], ["f"], ["g"]]


def test_a_job_does_not_begin_without_what_it_needs(tmp_path: Path) -> None:
    begun: list[str] = []
    jobs = {"first": Job(lambda: begun.append("first") or {}), "second": Job(lambda: begun.append("second") or {}, ("first",))}

    def call(only: str) -> None:
        study.run(Namespace(list=False, only=only, timings=None), tmp_path / "results.json", jobs)

    with pytest.raises(SystemExit, match="second: needs the result of 'first'; run that first"):
        call("second")
    assert begun == []
    call("first")
    call("second")
    call("second")
    assert begun == ["first", "second"]
