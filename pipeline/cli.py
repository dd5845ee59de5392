"""The command line: its verbs (see verbs/), and what becomes of an error.

Exit codes: 0 done, 1 failed, 2 the user's input, 3 inconclusive.
"""

from __future__ import annotations

import errno
import os
import sys

import click

import edgesmith

from .verbs.bundle import bundle
from .verbs.calibrate import calibrate
from .verbs.check_graph import check_graph
from .verbs.compare import compare
from .verbs.data import data
from .verbs.derive import derive
from .verbs.look import show, validate, verify
from .verbs.make import build, export, weights
from .verbs.report import report
from .verbs.run import run
from .verbs.table import table
from .verbs.zoo import zoo

MACHINE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ENOMEM, errno.EMFILE)
"""Errors of the system that are no fault of the input."""


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(edgesmith.__version__, prog_name="edgesmith")
def cli() -> None:
    """From a segmentation network to a validated batch-1 engine on an edge device.

    \b
    edgesmith run street --out runs/street      the whole chain on data that needs no download
    edgesmith data show camvid                  look at a dataset
    edgesmith validate runs/street/bundle --data street
    edgesmith verify runs/street/bundle         is the bundle whole, does it run here

    A dataset (SPEC) is street, camvid, camvid:ROOT or a YAML file that describes a folder, each with @SPLIT where one split
    is meant. Named datasets are looked for below $EDGESMITH_DATA.

    Exit codes: 0 done, 1 failed, 2 wrong input, 3 inconclusive.
    """


MAKING = (data, zoo, derive, table, weights, export, calibrate, check_graph, compare, build, bundle)
VERBS = (run, report, show, verify, validate, *MAKING)
for verb in VERBS:
    cli.add_command(verb)


def main() -> None:
    """Entry point: errors in words and an exit code; a traceback only with EDGESMITH_DEBUG=1."""
    debug = os.environ.get("EDGESMITH_DEBUG", "") not in ("", "0")
    try:
        cli.main(standalone_mode=False)
    except click.exceptions.Exit as e:
        sys.exit(e.exit_code)
    except click.ClickException as e:
        e.show()
        sys.exit(2)
    except (KeyboardInterrupt, click.exceptions.Abort):
        click.echo("stopped; the same command starts again; runs, calibrations and tables go on where they were", err=True)
        sys.exit(130)
    except BrokenPipeError:  # whoever read our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (ValueError, OSError) as e:
        if debug:
            raise
        click.echo(f"edgesmith: {e}", err=True)
        machine = isinstance(e, TimeoutError) or getattr(e, "errno", None) in MACHINE_ERRORS
        sys.exit(1 if machine else 2)
    except ImportError as e:
        if debug:
            raise
        click.echo(f"edgesmith: {missing_library(e)}", err=True)
        sys.exit(1)
    except Exception as e:
        if debug:
            raise
        click.echo(f"edgesmith failed: {type(e).__name__}: {e}", err=True)
        click.echo("EDGESMITH_DEBUG=1 shows where", err=True)
        sys.exit(1)


def missing_library(error: ImportError) -> str:
    """An ImportError in words, with the extra that brings the library."""
    if "pip install" in str(error):
        return str(error)
    name = (error.name or "").partition(".")[0]
    extra = "cpu" if name in ("cv2", "yaml", "onnxruntime") else "rtx" if name == "tensorrt_rtx" else "host"
    return f"{error}; pip install 'edgesmith[{extra}]' brings it"


if __name__ == "__main__":
    main()
