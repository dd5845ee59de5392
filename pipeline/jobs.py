"""Independent jobs: each runs once, its result is written down as it finishes, and one that fails stops no other.

Jobs run in this process, one after another, or go to a `concurrent.futures.Executor`. `Processes` is one that gives each job
a process which may die or hang alone. The standard process pool cannot: a worker that dies breaks it for all jobs, and one
that hangs cannot be ended.
"""

from __future__ import annotations

import json
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from edgesmith.deploy.fields import Fields
from edgesmith.deploy.files import read_json, write_json

from .events import Log, silent

T = TypeVar("T")
R = TypeVar("R")

FORMAT = 1


@dataclass(frozen=True)
class Result:
    """What became of one job."""

    value: Any
    """What it returned, as JSON has it; None when it failed."""
    error: str | None
    """Why it failed, in words; None when it did not."""
    seconds: float


class JobError(RuntimeError):
    """A job's process died, or was ended because it took too long."""

    def __init__(self, message: str, seconds: float) -> None:
        super().__init__(message)
        self.seconds = seconds


def run_jobs(
    work: Callable[[T], Any],
    jobs: Mapping[str, T],
    record: Path,
    executor: Executor | None = None,
    timeout_s: float | None = None,
    log: Log = silent,
) -> dict[str, Result]:
    """`work(jobs[name])` for each name of which `record` holds no result; the results of all, in the order of `jobs`.

    `record` is a JSON file, rewritten whenever a job finishes. It knows a job by its name alone: a name says all that the
    result depends on. A failure is a result and is not tried again; to try, remove the record.
    `work` returns a value that JSON can hold; in a process it must be a function of a module.

    `executor` None runs the jobs here. A job that takes more than `timeout_s` seconds has failed and its process is ended,
    which only `Processes` can do. `log` is called as log("job", name, error, seconds, done, count), all but the first by name.

    Raises ValueError for a damaged record, and for a time-out where no job can be ended.
    """
    if timeout_s is not None and not isinstance(executor, Processes):
        raise ValueError("timeout_s: a job can only be ended in a process of its own: executor=Processes(workers)")
    results = _read(record)
    left = {name: given for name, given in jobs.items() if name not in results}

    def note(name: str, result: Result) -> None:
        results[name] = result
        write_json(record, {"format": FORMAT, "results": {n: asdict(r) for n, r in results.items()}})
        done = sum(n in results for n in jobs)
        log("job", name=name, error=result.error, seconds=result.seconds, done=done, count=len(jobs))

    if executor is None:
        for name, given in left.items():
            note(name, _attempt(work, given))
    else:
        submit = executor.submit if not isinstance(executor, Processes) else executor.limited(timeout_s)
        futures = {submit(_attempt, work, given): name for name, given in left.items()}
        try:
            for future in as_completed(futures):
                note(futures[future], _outcome(future))
        finally:
            for future in futures:
                future.cancel()
    return {name: results[name] for name in jobs}


def _attempt(work: Callable[[T], Any], given: T) -> Result:
    """Run one job, where it runs: whatever it raises is its result."""
    started = time.monotonic()
    try:
        value = json.loads(json.dumps(work(given), allow_nan=False))
    except Exception as e:  # noqa: BLE001 - a job may fail in any way, and the others go on
        return Result(None, f"{type(e).__name__}: {e}", time.monotonic() - started)
    return Result(value, None, time.monotonic() - started)


def _outcome(future: Future[Result]) -> Result:
    try:
        return future.result()
    except JobError as e:
        return Result(None, str(e), e.seconds)


def _read(record: Path) -> dict[str, Result]:
    """Raises ValueError naming file and field."""
    if not record.exists():
        return {}
    f = Fields(read_json(record), str(record))
    f.one_of("format", (FORMAT,))
    found = f.take("results")
    if not isinstance(found, dict):
        f.refuse("results", "an object with one result for each job")
    results = {}
    for name, value in found.items():
        r = Fields(value, f"{record}: results[{name!r}]")
        seconds = r.take("seconds")
        if type(seconds) not in (int, float) or not 0 <= seconds < 1e9:
            r.refuse("seconds", "a number of seconds")
        if not isinstance(error := r.take("error"), (str, type(None))):
            r.refuse("error", "a text or null")
        results[name] = Result(r.take("value"), error, seconds)
        r.done()
    f.done()
    return results


class Processes(Executor):
    """Runs jobs in `workers` child processes, each in one that was started afresh or has finished another job.

    A child that dies, or is ended after its time, fails its own job with JobError and is replaced. Children are spawned, so
    they share nothing, and they end when this process does, however it ends. Use it as a context manager: leaving it by an
    exception ends running jobs at once.
    """

    def __init__(self, workers: int) -> None:
        if workers < 1:
            raise ValueError(f"workers: {workers} processes; needs at least 1")
        self._threads = ThreadPoolExecutor(workers)  # one to wait for each child
        self._children: set[_Child] = set()  # that are at work
        self._idle: list[_Child] = []
        self._stopping = False

    def submit(self, fn: Callable[..., R], /, *args: Any, **kwargs: Any) -> Future[R]:
        """See `concurrent.futures.Executor.submit`."""
        return self._threads.submit(self._run, None, fn, args, kwargs)

    def limited(self, timeout_s: float | None) -> Callable[..., Future[Any]]:
        """`submit`, but a job may take no more than `timeout_s` seconds, counted from when its turn comes."""

        def submit(fn: Callable[..., R], /, *args: Any, **kwargs: Any) -> Future[R]:
            return self._threads.submit(self._run, timeout_s, fn, args, kwargs)

        return submit

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """See `concurrent.futures.Executor.shutdown`."""
        self._threads.shutdown(wait, cancel_futures=cancel_futures)
        if wait:
            for child in self._idle:
                child.end()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is not None:
            self._stopping = True
            for child in list(self._children):
                child.kill()
        self.shutdown(cancel_futures=kind is not None)

    def _run(self, timeout_s: float | None, fn: Callable[..., R], args: tuple[Any, ...], kwargs: dict[str, Any]) -> R:
        child = self._idle.pop() if self._idle else _Child()
        if not child.alive:  # it died while it had nothing to do
            child.end()
            child = _Child()
        self._children.add(child)
        if self._stopping:
            child.kill()
        try:
            raised, answer = child.ask((fn, args, kwargs), timeout_s)
        except BaseException:
            child.end()
            raise
        else:
            self._idle.append(child)
        finally:
            self._children.discard(child)
        if raised:
            raise answer
        return answer  # type: ignore[no-any-return]


class _Child:
    """One spawned process that answers tasks, and this side of the pipe to it."""

    def __init__(self) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._pipe, theirs = spawn.Pipe()
        self._process = spawn.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()  # so that the pipe ends when the child does

    @property
    def alive(self) -> bool:
        return self._process.is_alive()

    def ask(self, task: Any, timeout_s: float | None) -> tuple[bool, Any]:
        """Whether the task raised, and what it raised or returned. Raises JobError when the child died or took too long."""
        started = time.monotonic()
        try:
            self._pipe.send(task)
            if not self._pipe.poll(timeout_s):
                raise JobError(f"took more than {timeout_s:g} s and was ended", time.monotonic() - started)
            return self._pipe.recv()  # type: ignore[no-any-return]
        except (EOFError, ConnectionError):
            self._process.join()
            code = self._process.exitcode or 0
            how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            raise JobError(f"its process died ({how})", time.monotonic() - started) from None

    def kill(self) -> None:
        """End the process, which need not be in a state to listen; `ask` then raises."""
        self._process.kill()

    def end(self) -> None:
        self.kill()
        self._process.join()
        self._pipe.close()


def _serve(pipe: multiprocessing.connection.Connection) -> None:
    """Answer tasks until the other side is gone. Runs in the child."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets it too, and ends its children
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        try:
            fn, args, kwargs = pipe.recv()
        except EOFError:
            return
        except (ImportError, AttributeError) as e:  # the task's function is nowhere that this process can import
            pipe.send((True, e))
            continue
        try:
            answer = (False, fn(*args, **kwargs))
        except Exception as e:  # noqa: BLE001 - it is raised again on the other side
            answer = (True, e)
        pipe.send(answer)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)
