"""The verbs: each parses, calls one function of the library and prints. No logic of its own.

With --json a verb prints one strict JSON document on stdout and nothing else there; everything meant for a
person goes to stderr. Exit codes: 0 done, 1 an error, 2 usage, 3 nothing feasible, 130 and 143 a signal.
"""

import signal
import sys
import traceback

import click

import uniformer_bench
from uniformer_bench.cli import measuring, reporting, searching, training, trusting
from uniformer_bench.errors import UbenchError
from uniformer_bench.printing import printable

VERBS = (
    searching.search,
    measuring.profile,
    measuring.compare,
    measuring.doctor,
    measuring.variants,
    measuring.spaces,
    reporting.report,
    reporting.remeasure,
    trusting.fidelity,
    training.train,
    training.test,
    training.export,
    training.data,
)


def main() -> None:
    """The entry point: turns the library's errors into one line and an exit code, here and nowhere else."""
    try:
        sys.exit(cli.main(prog_name="ubench", standalone_mode=False))  # an exit code, or None where all went well
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(128 + signal.SIGINT)
    except UbenchError as error:
        if "--debug" in sys.argv:
            traceback.print_exc()
        click.echo(f"ubench: {printable(' '.join(str(error).split()))}", err=True)
        sys.exit(error.exit_code)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(uniformer_bench.__version__, prog_name="ubench")
def cli() -> None:
    """UniFormer for your device and your videos: build, measure and search.

    \b
    ubench search --trials 200        search the default space, write a report
    ubench profile --variant s        what a model costs on this machine
    """


for verb in VERBS:
    cli.add_command(verb)
