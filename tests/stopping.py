"""What stops a stage under test: a log that does as Ctrl-C would, and a child that is killed."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

PIPES: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}


def stopping_at(event: str, count: int) -> Callable[..., None]:
    """A log that stops the stage at the count-th `event`, as Ctrl-C would."""
    seen = itertools.count(1)

    def log(heard: str, **fields: Any) -> None:
        if heard == event and next(seen) == count:
            raise KeyboardInterrupt

    return log


# A driver prints each event as a line of JSON, so that it can be killed at a known place, and waits for a line
# before it goes on: the events of a stage that takes milliseconds would else be read when it is long over.


def run_and_kill(
    driver: str, arguments: Sequence[str], sought: Callable[[dict[str, Any]], bool], count: int, delay_s: float
) -> bool:
    """Start `driver` and SIGKILL it `delay_s` after it goes on from the count-th event that is `sought`.

    False when it ended before that.
    """
    with subprocess.Popen([sys.executable, "-c", driver, *arguments], text=True, **PIPES) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        for line in child.stdout:
            child.stdin.write("go on\n")
            child.stdin.flush()
            count -= sought(json.loads(line))
            if count == 0:
                time.sleep(delay_s)
                child.send_signal(signal.SIGKILL)
                break
        child.stdout.read()
    return child.returncode == -signal.SIGKILL


def finish(driver: str, arguments: Sequence[str]) -> None:
    """Run `driver` to its end."""
    command = [sys.executable, "-c", driver, *arguments]
    done = subprocess.run(command, input="go on\n" * 1000, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
