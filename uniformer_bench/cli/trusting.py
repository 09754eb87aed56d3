"""The verb that asks how far a run can be trusted."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from uniformer_bench.cli import options as shared
from uniformer_bench.cli.options import common, listed, listing_options, loaded, loading_options
from uniformer_bench.cli.output import print_document


@click.command()
@common
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--sample", type=click.IntRange(1), default=24, show_default=True, help="Trials to train longer.")
@click.option(
    "--times",
    type=click.FloatRange(min=0, min_open=True),
    default=8.0,
    show_default=True,
    help="How many times as long as in the search.",
)
@shared.workers
@shared.device
@click.option("--data", help="The run's clips, where they are not the built-in ones, as the search had them.")
@listed
@loaded
@shared.reports
def fidelity(as_json: bool, debug: bool, **options: Any) -> None:
    """Train a sample of RUN's trials longer, and tell how far the short runs ranked them as the longer ones do.

    What is finished is kept: the same command goes on from there.
    """
    from uniformer_bench.search.fidelity import Options, run_fidelity

    asked = {key: options[key] for key in Options._fields if key in options}
    more = {**listing_options(options), **loading_options(options)}
    document = run_fidelity(Options(**asked, data_options=more), lambda line: click.echo(line, err=True))
    print_document(document, as_json, _text(document))


def _text(document: Mapping[str, Any]) -> str:
    from uniformer_bench.report.fidelity import correlations

    card = document["fidelity"]
    rows = [(each.of, f"{each.tau:+.2f}", _span(each.low, each.high), str(each.n)) for each in correlations(card)]
    width = max((len(row[0]) for row in rows), default=0)
    return "\n".join(
        [
            card["drawn"],
            f"Kendall's tau with the accuracy after {card['longer']:g} times the epochs, 95 % interval, trials",
            *(f"  {of:<{width}}  {tau}  {span:<14}  {n:>3}" for of, tau, span, n in rows),
            *(f"warning: {sentence}" for sentence in card["warnings"]),
            f"report  {document['report']}",
        ]
    )


def _span(low: float | None, high: float | None) -> str:
    return "-" if low is None or high is None else f"{low:+.2f} to {high:+.2f}"
