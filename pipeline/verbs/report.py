"""Make a run's report again: report."""

from __future__ import annotations

from pathlib import Path

import click

from .options import PATH, json_option, show_result


@click.command()
@click.argument("run", type=PATH)
@click.option("--against", type=PATH, multiple=True, metavar="RUN", help="Another run to compare its network with; repeatable.")
@json_option
def report(run: Path, against: tuple[Path, ...], as_json: bool) -> None:
    """Write RUN/report.html again, from what lies in the run folder.

    With --against the networks of several runs are drawn beside each other, with their costs and measured latencies: a search
    for MACs and one for latency, for example.
    """
    from edgesmith.pipeline.reports.html import write_report
    from edgesmith.pipeline.stage import LOCK

    for folder in (run, *against):
        if not (folder / LOCK).is_file():
            raise ValueError(f"{folder} is not a run folder; name one that `edgesmith run` made")
    show_result({"report": str(write_report(run, against))}, as_json)
