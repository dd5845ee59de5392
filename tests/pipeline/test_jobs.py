"""Jobs that raise, hang, exit or are killed: recorded, and the others go on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from edgesmith.pipeline.jobs import Processes, Result, run_jobs


def square(x: int) -> int:
    return x * x


# Jobs for `eval`, a function that any process can import.
BEHAVE = {
    "one": "'one'",
    "raise": "[].index('no such')",
    "exit": "__import__('os')._exit(7)",
    "two": "'two'",
    "die": "__import__('os').kill(__import__('os').getpid(), 9)",
    "hang": "__import__('time').sleep(3600)",
    "three": "'three'",
    "four": "'four'",
}


def test_results_come_in_the_order_of_the_jobs_and_are_on_disk(tmp_path: Path) -> None:
    record = tmp_path / "jobs.json"
    results = run_jobs(square, {"b": 2, "a": 3}, record)
    assert [(n, r.value, r.error) for n, r in results.items()] == [("b", 4, None), ("a", 9, None)]
    assert {n: r["value"] for n, r in json.loads(record.read_text())["results"].items()} == {"b": 4, "a": 9}


def test_each_result_is_on_disk_before_the_next_job_begins(tmp_path: Path) -> None:
    record = tmp_path / "jobs.json"

    def finished_before(i: int) -> int:
        return len(json.loads(record.read_text())["results"]) if record.exists() else 0

    results = run_jobs(finished_before, {str(i): i for i in range(4)}, record)
    assert [r.value for r in results.values()] == [0, 1, 2, 3]


def test_a_finished_job_never_runs_again_and_a_failed_one_neither(tmp_path: Path) -> None:
    record = tmp_path / "jobs.json"
    runs: list[str] = []

    def work(name: str) -> list[str]:
        runs.append(name)
        if name == "bad":
            raise ValueError("bad")
        return [name]

    first = run_jobs(work, {"good": "good", "bad": "bad"}, record)
    again = run_jobs(work, {"bad": "bad", "new": "new", "good": "good"}, record)
    assert runs == ["good", "bad", "new"]
    assert again["good"] == first["good"]
    assert again["bad"] == first["bad"]
    assert again["bad"].error == "ValueError: bad"


def test_a_tuple_reads_the_same_before_and_after_a_restart(tmp_path: Path) -> None:
    first = run_jobs(lambda _: (1, 2), {"a": 0}, tmp_path / "jobs.json")
    assert first["a"].value == [1, 2]
    assert run_jobs(lambda _: (1, 2), {"a": 0}, tmp_path / "jobs.json") == first


@pytest.mark.parametrize("value", [float("nan"), {1, 2}, object()])
def test_a_result_that_json_cannot_hold_is_a_failure(tmp_path: Path, value: Any) -> None:
    results = run_jobs(lambda _: value, {"a": 0, "b": 1}, tmp_path / "jobs.json")
    assert all(r.value is None and r.error for r in results.values())


def test_in_this_process_ctrl_c_is_no_result(tmp_path: Path) -> None:
    def work(x: int) -> int:
        if x == 1:
            raise KeyboardInterrupt
        return x

    with pytest.raises(KeyboardInterrupt):
        run_jobs(work, {"0": 0, "1": 1, "2": 2}, tmp_path / "jobs.json")
    assert list(json.loads((tmp_path / "jobs.json").read_text())["results"]) == ["0"]


def test_events_count_what_was_done_before(tmp_path: Path) -> None:
    run_jobs(square, {"a": 1}, tmp_path / "jobs.json")
    events: list[dict[str, Any]] = []
    run_jobs(square, {"a": 1, "b": 2}, tmp_path / "jobs.json", log=lambda event, **f: events.append({"event": event, **f}))
    assert [(e["event"], e["name"], e["done"], e["count"], e["error"]) for e in events] == [("job", "b", 2, 2, None)]


def test_jobs_that_raise_exit_die_or_hang_fail_alone(tmp_path: Path) -> None:
    with Processes(2) as executor:
        results = run_jobs(eval, BEHAVE, tmp_path / "jobs.json", executor, timeout_s=5)
    assert list(results) == list(BEHAVE)
    assert {n: r.value for n, r in results.items() if r.error is None} == {n: n for n in ("one", "two", "three", "four")}
    assert {n: r.error for n, r in results.items() if r.error is not None} == {
        "raise": "ValueError: 'no such' is not in list",
        "exit": "its process died (exit code 7)",
        "die": "its process died (SIGKILL)",
        "hang": "took more than 5 s and was ended",
    }
    assert run_jobs(eval, BEHAVE, tmp_path / "jobs.json") == results  # as read from the file; none runs


def test_any_executor_will_do(tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as executor:
        results = run_jobs(square, {str(i): i for i in range(5)}, tmp_path / "jobs.json", executor)
    assert [r.value for r in results.values()] == [0, 1, 4, 9, 16]


def test_processes_hand_on_what_a_function_raises() -> None:
    with Processes(1) as executor:
        assert executor.submit(pow, 4, 2).result() == 16
        with pytest.raises(ValueError, match="no such"):
            executor.submit(eval, BEHAVE["raise"]).result()
        assert executor.submit(pow, base=5, exp=2).result() == 25


def test_a_child_that_died_while_idle_is_replaced() -> None:
    with Processes(1) as executor:
        child = executor.submit(os.getpid).result()
        os.kill(child, signal.SIGKILL)
        os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)  # until all of its threads are gone
        assert executor.submit(os.getpid).result() != child


def test_leaving_by_an_exception_ends_running_jobs() -> None:
    running: list[Future[Any]] = []

    def leave() -> None:
        with Processes(1) as executor:
            running.extend(executor.submit(eval, BEHAVE["hang"]) for _ in range(3))
            while not running[0].running():
                time.sleep(0.01)
            raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        leave()  # an hour would pass if it waited
    assert all(f.done() for f in running)


def test_a_function_that_no_other_process_can_import_is_said_so(tmp_path: Path) -> None:
    with Processes(1) as executor, pytest.raises((AttributeError, ImportError)):
        run_jobs(square, {"a": 1}, tmp_path / "jobs.json", executor)
    assert not (tmp_path / "jobs.json").exists()


def test_children_end_when_their_parent_is_killed() -> None:
    code = (
        "import os, time\nfrom edgesmith.pipeline.jobs import Processes\n"
        "e = Processes(1)\nprint(e.submit(os.getpid).result(), flush=True)\ne.submit(time.sleep, 3600)\ntime.sleep(3600)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.kill()
    for _ in range(1000):
        stat = Path(f"/proc/{child}/stat")
        if not stat.exists() or ") Z " in stat.read_text():
            return
        time.sleep(0.01)
    pytest.fail("the child outlives its parent")


def test_a_time_out_needs_processes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"timeout_s: .*Processes"):
        run_jobs(square, {"a": 1}, tmp_path / "jobs.json", timeout_s=1)
    with pytest.raises(ValueError, match="workers: 0"):
        Processes(0)


GOOD = {"format": 1, "results": {"a": {"value": 1, "error": None, "seconds": 0.5}}}


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("format",), 2, "format is 2"),
        (("results",), [], "results is"),
        (("results", "a"), 3, "must be a JSON object"),
        (("results", "a", "seconds"), -1, "seconds is -1"),
        (("results", "a", "seconds"), True, "seconds is True"),
        (("results", "a", "error"), 1, "error is 1"),
        (("results", "a", "more"), 1, "unknown field more"),
        (("more",), 1, "unknown field more"),
    ],
)
def test_a_damaged_record_is_refused_by_name_and_kept(tmp_path: Path, path: tuple[str, ...], value: Any, said: str) -> None:
    record = tmp_path / "jobs.json"
    damaged = json.loads(json.dumps(GOOD))
    inner = damaged
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    record.write_text(json.dumps(damaged))
    before = record.read_bytes()
    with pytest.raises(ValueError, match=said) as caught:
        run_jobs(square, {"b": 2}, record)
    assert str(record) in str(caught.value)
    assert record.read_bytes() == before


def test_a_record_reads_back_as_it_was_written(tmp_path: Path) -> None:
    (tmp_path / "jobs.json").write_text(json.dumps(GOOD))
    assert run_jobs(square, {"a": 3}, tmp_path / "jobs.json") == {"a": Result(1, None, 0.5)}
