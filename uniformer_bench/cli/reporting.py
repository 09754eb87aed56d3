"""The verbs that read a run and write what people look at."""

from pathlib import Path

import click

from uniformer_bench.cli import options as shared
from uniformer_bench.cli.options import common, seconds_of
from uniformer_bench.cli.output import print_document, show_document


@click.command()
@common
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=click.Path(path_type=Path))
@shared.reports
@click.option("--redact", is_flag=True, help="Leave out sample clips, paths, host and user names.")
def report(as_json: bool, debug: bool, seed: int, runs: tuple[Path, ...], reports: Path, redact: bool) -> None:
    """(Re)build the page of RUN, a folder of results; of several, one page that compares them."""
    from uniformer_bench.report import write_comparison, write_report
    from uniformer_bench.report.insights import insights_of
    from uniformer_bench.runs import load_records

    one = len(runs) == 1
    page = write_report(runs[0], reports, redact=redact) if one else write_comparison(runs, reports, redact=redact)
    document = {"schema_version": 1, "run": str(runs[0]), "runs": [str(run) for run in runs], "report": str(page)}
    learnt = [{"run": str(run), **insights_of(load_records(run)).to_dict()} for run in runs] if as_json else []
    print_document({**document, "insights": learnt}, as_json, str(page))


@click.command()
@common
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
@shared.reports
@click.option("--budget", help="Time for all latencies, as 30s or 2m.  [default: 2s an architecture]")
@click.option("--name", help="What to call this device.  [default: its processor's or GPU's name]")
@click.option("--batch", type=click.IntRange(1), help="Clips at a time.  [default: the run's]")
@click.option("--threads", type=click.IntRange(1), help="CPU threads.  [default: all cores]")
@click.option("--compile/--no-compile", "compiled", default=None, help="Under torch.compile.  [default: the run's]")
@click.option("--onnx/--no-onnx", default=None, help="In ONNX Runtime.  [default: the run's]")
@click.option("--precision", help="fp32, bf16 or fp16.  [default: the run's]")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps.")
def remeasure(
    as_json: bool,
    debug: bool,
    seed: int,
    run: Path,
    reports: Path,
    budget: str | None,
    name: str | None,
    batch: int | None,
    threads: int | None,
    compiled: bool | None,
    onnx: bool | None,
    precision: str | None,
    device: str,
) -> None:
    """Measure the front and the baselines of RUN on this device, without training; its page shows both."""
    from uniformer_bench.measure.protocol import check_precision, default_threads, resolve_device
    from uniformer_bench.remeasure import protocol_like, remeasure, save
    from uniformer_bench.remeasure_table import remeasured_table
    from uniformer_bench.report import write_report
    from uniformer_bench.runs import load_records

    found = load_records(run)
    asked = {"precision": precision, "compile": compiled, "onnx": onnx, "batch": batch}
    protocol = protocol_like(found.info, resolve_device(device), threads or default_threads(), asked)
    check_precision(protocol.device, protocol.precision)
    document = remeasure(found, protocol, label=name, budget_s=seconds_of(budget), seed=seed)
    document |= {"file": str(save(document, run)), "report": str(write_report(run, reports))}
    show_document(document, as_json, remeasured_table(document))
