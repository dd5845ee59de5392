"""What happens in a run, as it happens: one JSON line an event on disk, TensorBoard scalars, and a view for the terminal."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

Log = Callable[..., None]
"""Called as log(event, **fields)."""

SCALARS = (
    *("loss", "lr", "val_miou", "pixel_loss", "arch_loss", "arch_pixel_loss"),
    *("cost", "temperature", "entropy", "alive", "latency", "lambda"),
)
"""Numbers of steps and epochs that TensorBoard shows."""
LIVE = ("step", "progress", "job")
"""Events that move a bar instead of making a line."""
STEP_LINE_SECONDS = 1.0
"""Of training steps, at most one a second goes to disk."""


def silent(event: str, **fields: Any) -> None:
    """Drop an event: the log where nobody listens."""


class EventLog:
    """Called as log(event, **fields): appends to events.jsonl, feeds TensorBoard, tells the view."""

    def __init__(self, folder: Path, view: Log) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._lines: IO[str] = (folder / "events.jsonl").open("a+", encoding="utf-8")
        self._end_torn_line()
        self._folder = folder
        self._view = view
        self._last_step = 0.0
        self._board: Any = None

    def __call__(self, event: str, **fields: Any) -> None:
        now = time.time()
        self._view(event, **fields)
        if event == "step":
            if now - self._last_step < STEP_LINE_SECONDS:
                return
            self._last_step = now
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(now))
        self._lines.write(json.dumps({"time": stamp, "event": event, **fields}) + "\n")
        self._lines.flush()
        self._scalars(event, fields)

    def close(self) -> None:
        self._lines.close()
        if self._board is not None:
            self._board.close()
        close_view(self._view)

    def _end_torn_line(self) -> None:
        """A kill may have cut the last line short: what follows must not be appended to it."""
        self._lines.seek(0)
        text = self._lines.read()
        if text and not text.endswith("\n"):
            self._lines.write("\n")

    def _scalars(self, event: str, fields: dict[str, Any]) -> None:
        if event not in ("step", "epoch") or "loss" not in fields:
            return
        if self._board is None:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(self._folder / "tensorboard"))
        at = fields["epoch"] if event == "epoch" else (fields["epoch"] - 1) * fields["steps"] + fields["step"]
        for name in SCALARS:
            if isinstance(fields.get(name), (int, float)):
                place = [fields.get("stage", "run"), *([fields["phase"]] if "phase" in fields else []), event, name]
                self._board.add_scalar("/".join(place), fields[name], at)


@dataclass
class PlainView:
    """Plain lines, for logs and pipes: one an epoch, and one every `seconds` while something long goes on."""

    out: IO[str] = field(default_factory=lambda: sys.stderr)
    seconds: float = 20.0
    _last: float = field(default_factory=time.monotonic)
    _began: tuple[float, int] | None = None
    _counted: str = ""
    """The event that `_began` is of: jobs may come between steps."""

    def __call__(self, event: str, **fields: Any) -> None:
        stage = fields.get("stage", "")
        if event in LIVE and fields.get("error") is None:
            done, total = _done(event, fields)
            if self._began is None or self._counted != event or done < self._began[1]:
                self._began, self._counted = (time.monotonic(), done), event
            if time.monotonic() - self._last < self.seconds:
                return
            text = f"{done}/{total}{_loss(fields)}, {_eta(self._began, done, total)}"
        elif event == "epoch":
            text = epoch_line(fields)
        else:
            self._began = None
            text = describe(event, fields)
        self._last = time.monotonic()
        print(f"{stage}: {text}" if stage else text, file=self.out, flush=True)


class RichView:
    """A live bar with the time left, for a terminal."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=False),
        )
        self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task: Any = None
        self._stage = ""

    def __call__(self, event: str, **fields: Any) -> None:
        stage = fields.get("stage", "")
        if event in LIVE and fields.get("error") is None:
            done, total = _done(event, fields)
            if self._task is None or self._stage != stage:
                self.close()
                self._stage = stage
                self._progress.start()
                self._task = self._progress.add_task(f"[bold]{stage}", total=total, completed=done, note="")
            self._progress.update(self._task, completed=done, total=total, note=_loss(fields).lstrip(", "))
            return
        text = epoch_line(fields) if event == "epoch" else describe(event, fields)
        if event != "epoch":
            self.close()
        self._progress.console.print(f"{stage}: {text}" if stage else text, highlight=False, markup=False)

    def close(self) -> None:
        if self._task is not None:
            self._progress.remove_task(self._task)
            self._progress.stop()
            self._task = None


def view_for(stream: IO[str]) -> Log:
    """A live bar where `stream` is a terminal and rich is installed, plain lines elsewhere."""
    if stream.isatty():
        try:
            return RichView()
        except ImportError:
            pass
    return PlainView(stream)


def close_view(view: Log) -> None:
    """Leave the terminal as it was: a live bar hides the cursor."""
    if isinstance(view, RichView):
        view.close()


@contextmanager
def viewing(stream: IO[str]) -> Iterator[Log]:
    """A view on `stream` for as long as the block lasts, however that ends."""
    view = view_for(stream)
    try:
        yield view
    finally:
        close_view(view)


def epoch_line(fields: dict[str, Any]) -> str:
    miou = fields.get("val_miou")
    shown = "" if miou is None else f", val mIoU {miou:.4f}"
    shown += "".join(f", {k} {fields[k]:.4g}" for k in ("cost", "latency", "entropy", "alive") if k in fields)
    phase = f"{fields['phase']} " if "phase" in fields else ""
    return f"{phase}epoch {fields['epoch']}/{fields['epochs']}: loss {fields['loss']:.4f}{shown}, {fields['seconds']:.1f} s"


def describe(event: str, fields: dict[str, Any]) -> str:
    """An event in words: its name, then what it carries."""
    rest = ", ".join(f"{k} {_short(v)}" for k, v in fields.items() if k != "stage" and v not in (None, [], {}))
    return event.replace("-", " ") + (f": {rest}" if rest else "")


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, str) and len(value) == 64:
        return value[:12]  # a digest
    return str(value)


def _done(event: str, fields: dict[str, Any]) -> tuple[int, int]:
    if event == "step":
        return (fields["epoch"] - 1) * fields["steps"] + fields["step"], fields["epochs"] * fields["steps"]
    return fields["done"], fields["count" if event == "job" else "total"]


def _loss(fields: dict[str, Any]) -> str:
    return f", loss {fields['loss']:.3f}" if "loss" in fields else ""


def _eta(began: tuple[float, int], done: int, total: int) -> str:
    since, first = began
    if done <= first:
        return "time left unknown"
    left = (time.monotonic() - since) / (done - first) * (total - done)
    return f"{int(left // 60)}:{int(left % 60):02d} left"
