"""A profile's document as one HTML page that needs no network and no script, the same bytes for the same document.

Its Content-Security-Policy allows styles only; whatever a person could have named is escaped on its way in.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from uniformer_bench.files import write_whole
from uniformer_bench.report.arch import Input, view
from uniformer_bench.report.drawing import drawing, scale_of, x
from uniformer_bench.report.evidence import label, words
from uniformer_bench.report.info import Trial
from uniformer_bench.report.markup import bar, copyable, section
from uniformer_bench.report.profile_asked import SPACE, checkpoint, energy, largest_batch, megabytes, memory_facts
from uniformer_bench.report.roofline_figure import Point, roofline
from uniformer_bench.report.sections import TEXTURES
from uniformer_bench.report.text import MISSING, escape, number, percent, plural

Document = Mapping[str, Any]

ASSETS = Path(__file__).parent / "assets"
STYLES = ("report.css", "profile.css")
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
CONVENTION = (
    "One multiply-accumulate (MAC) is two floating-point operations (FLOPs). MACs are those of convolutions, linear "
    "layers and the two products of attention, for one clip; the paper’s “GFLOPs” are MACs. Training is the forward "
    "pass and the gradients to inputs and weights, attention backward in four products. Bytes moved are those of "
    "operators that each read their inputs and weights once and write their output once. MB are 10⁶ bytes. Times are "
    "medians and those of a batch; parts are timed alone, so that they need not add up."
)
BOUNDS = (
    "A part can be no faster than its arithmetic at the speed of a large matrix product, nor than its traffic at that "
    "of a large copy, both measured here; “of roof” is the longer of these times over the measured one. Above 100 % "
    "data stay in a cache, or the ceilings were measured at a busier time. Overhead: over three times what either "
    "explains."
)


def write_profile(document: Document, path: str | Path) -> Path:
    """Writes the page to `path`, whole, and returns it."""
    write_whole(Path(path), render_profile(document))
    return Path(path)


def render_profile(document: Document) -> str:
    """The page of a document of `ubench profile --json`, as text."""
    style = "\n".join((ASSETS / name).read_text(encoding="utf-8") for name in STYLES)
    body = "\n".join((_header(document), *_sections(document)))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(_name(document))} – profile</title>\n<style>\n{style}</style>\n</head>\n<body>\n{body}\n"
        "</main>\n<footer>uniformer_bench. This file is whole: it loads nothing.</footer>\n</body>\n</html>\n"
    )


def _sections(document: Document) -> list[str]:
    found = [_answer(document), _parts(document), _roofline(document)]
    found += [_sweep(document["sweep"])] if document.get("sweep") else []
    return [*found, _counters(document), _how(document)]


def _name(document: Document) -> str:
    return str(document["variant"] or document["spec_id"])


def _clips(document: Document) -> str:
    protocol = document["protocol"]
    return f"{plural(protocol['batch'], 'clip')} of {x((protocol['frames'], *protocol['size']))}"


def _header(document: Document) -> str:
    protocol = document["protocol"]
    device = document["environment"].get("gpu" if protocol["device"].startswith("cuda") else "cpu")
    facts = [
        _clips(document),
        f"{protocol['device']}{f' ({device})' if device else ''}",
        protocol["precision"],
        plural(protocol["threads"], "thread"),
        f"{protocol['implementation']} operators",
    ]
    return (
        f'{TEXTURES}\n<header><p class="kind">Profile of an architecture</p><h1>{escape(_name(document))}</h1>'
        f'<p class="facts">{" · ".join(escape(fact) for fact in facts)}</p></header>\n<main>'
    )


def _ms(value: float | None) -> str:
    return MISSING if value is None else f"{number(value)}{SPACE}ms"


def _units(document: Document) -> tuple[tuple[float, str], tuple[float, str]]:
    """(divisor, heading) of parameters and MACs, so that a small model's are no rows of zeros."""
    params = (1e6, "params M") if document["params"] >= 1e6 else (1e3, "params k")
    return params, (1e9, "GMACs") if document["macs"] >= 1e9 else (1e6, "MMACs")


def _amount(value: float, unit: str = "") -> str:
    """1.94 G, 88.8 k: a count with its prefix."""
    scale, prefix = next(((s, p) for s, p in ((1e9, "G"), (1e6, "M"), (1e3, "k")) if value >= s), (1.0, ""))
    return f"{number(value / scale, 4)}{SPACE}{prefix}{unit}".rstrip(SPACE)


def _interval(low_high: Sequence[float] | None) -> str:
    return "no interval" if low_high is None else f"95 % interval {number(low_high[0])} to {number(low_high[1])}"


def _answer(document: Document) -> str:
    latency, memory, training = document["latency_ms"], document["memory"], document["training"]
    speed = document["throughput_clips_per_s"]
    figures = [
        ("latency", _ms(latency["median"]), _interval(latency["ci95"])),
        ("throughput", f"{number(speed)}{SPACE}clips/s", f"{latency['n']} repeats"),
        ("inference memory", megabytes(memory["inference_peak_bytes"]), "peak"),
        ("training memory", megabytes(memory["training_peak_bytes"]), "peak of a step"),
        ("parameters", _amount(document["params"]), ""),
        ("MACs a clip", _amount(document["macs"]), _amount(document["flops"], "FLOPs")),
        ("MACs, with backward", _amount(training["macs"]), _amount(training["flops"], "FLOPs")),
    ]
    figures += [*energy(document), *largest_batch(document)]
    items = "".join(
        f"<div><dt>{escape(name)}</dt><dd><b>{escape(value)}</b><small>{escape(note)}</small></dd></div>"
        for name, value, note in figures
    )
    body = f'{_lede(document)}<dl class="headline">{items}</dl>{_warnings(document)}{_picture(document)}'
    return section("answer", "The answer", body)


def _lede(document: Document) -> str:
    parts = [*document["stages"], document["head"]]
    slowest, total = max(parts, key=lambda part: part["latency_ms"]), sum(part["latency_ms"] for part in parts)
    median = document["latency_ms"]["median"]
    share = f" {slowest['name']} takes most, {percent(slowest['latency_ms'] / total)}." if total else ""
    least = f" At the ceilings of this device it would be {_ms(document['attainable_ms'])}."
    return (
        f'<p class="lede"><strong>{escape(_ms(median))}</strong> for {escape(_clips(document))}.'
        f"{escape(share + least)}</p>"
    )


def _warnings(document: Document) -> str:
    sentences = [*document["latency_ms"]["warnings"], *document["energy"]["warnings"], *document["warnings"]]
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
    return f'<ul class="warnings">{items}</ul>' if items else ""


def _picture(document: Document) -> str:
    protocol = document["protocol"]
    height, width = protocol["size"]
    given = Input(protocol["frames"], (height, width), document["num_classes"])
    stage_ms = tuple(stage["latency_ms"] for stage in document["stages"])
    arch = view(Trial(0, spec=document["spec"], stage_ms=stage_ms), given)
    if arch is None:
        return ""
    return f'<figure class="scroll">{drawing(arch, scale_of([arch]))}</figure>{_yaml(arch.yaml)}'


def _yaml(yaml: str) -> str:
    """The spec as YAML, without the button of `copyable`, which would need a script."""
    return copyable("Spec as YAML", yaml).replace('<button type="button" data-copy>Copy</button>', "")


class Scales(NamedTuple):
    """What a row's figures are divided by."""

    params: float
    macs: float
    whole_macs: float
    whole_ms: float


def _parts(document: Document) -> str:
    (params, params_name), (macs, macs_name) = _units(document)
    shares = ("of MACs", "", "ms", "of time", "")
    heads = ("part", params_name, macs_name, *shares, "MB moved", "FLOP/byte", "bound", "of roof")
    parts = [*document["stages"], document["head"]]
    scales = Scales(params, macs, document["macs"], sum(part["latency_ms"] for part in parts))
    rows = "".join(_stage(part, scales) for part in parts) + _whole(document, scales)
    body = f'{_table("parts", heads, rows)}<p class="note">{BOUNDS}</p>'
    return section("parts", "Where it goes, and what bounds it", body)


def _table(kind: str, heads: Iterable[str], rows: str, of: str = "") -> str:
    columns = "".join(f'<th scope="col"{of}>{name}</th>' for name in heads)
    table = f'<table class="{kind}"><thead><tr>{columns}</tr></thead><tbody>{rows}</tbody></table>'
    return f'<div class="scroll" tabindex="0">{table}</div>'


def _stage(part: Document, scales: Scales) -> str:
    mixer = f" {part['mixer']}" if "mixer" in part else ""
    found = _part("stage", f"{part['name']}{mixer}", part, scales)
    if "blocks" not in part:
        return found
    embedding, *blocks = part["blocks"]
    sums = ("params", "macs", "latency_ms", "moved_bytes")
    together = {**blocks[0], **{key: len(blocks) * blocks[0][key] for key in sums}}
    rows = (("embedding", embedding), (f"{len(blocks)} × block", together))
    return found + "".join(_part("inner", name, row, scales) for name, row in rows)


def _part(kind: str, name: str, part: Document, scales: Scales) -> str:
    of_time = part["latency_ms"] / scales.whole_ms if scales.whole_ms else 0.0
    of_macs = part["macs"] / scales.whole_macs if scales.whole_macs else 0.0
    reached = MISSING if part["reached"] is None else percent(part["reached"])
    bound = escape(part["bound"])
    cells = (
        _cells((number(part["params"] / scales.params), number(part["macs"] / scales.macs))),
        bar(min(1.0, of_macs), percent(of_macs)),
        _cells((number(part["latency_ms"]),)),
        bar(min(1.0, of_time), percent(of_time)),
        _cells((number(part["moved_bytes"] / 1e6), number(part["intensity"]))),
        f'<td><span class="tag {bound}">{bound}</span></td>{_cells((reached,))}',
    )
    return f'<tr class="{kind}"><th scope="row">{escape(name)}</th>{"".join(cells)}</tr>'


def _cells(values: Iterable[str]) -> str:
    return "".join(f"<td>{escape(value)}</td>" for value in values)


def _whole(document: Document, scales: Scales) -> str:
    median = document["latency_ms"]["median"]
    reached = percent(document["attainable_ms"] / median) if median else MISSING
    counts = (number(document["params"] / scales.params), number(document["macs"] / scales.macs), "", "")
    moved = (number(document["moved_bytes"] / 1e6), number(document["intensity"]))
    cells = _cells((*counts, number(median), "", "", *moved, "", reached))
    return f'<tr class="whole"><th scope="row">whole</th>{cells}</tr>'


def _roofline(document: Document) -> str:
    roof, batch = document["ceilings"], document["protocol"]["batch"]
    parts = [(str(i), part) for i, part in enumerate(document["stages"], 1)] + [("H", document["head"])]
    points = [
        Point(mark, part["name"], part["intensity"], 2000 * batch * part["macs"] / part["latency_ms"], part["bound"])
        for mark, part in parts
        if part["latency_ms"] > 0
    ]
    picture = roofline(points, roof["flops_per_s"], roof["bytes_per_s"])
    note = f"Numbers are stages, H the head; grey is overhead. Ceilings: {escape(roof['how'])}."
    body = f'<figure class="scroll">{picture}<figcaption>{note}</figcaption></figure>'
    return section("roofline", "The roofline of this device", body)


def _sweep(sweep: Mapping[str, Sequence[Document]]) -> str:
    tables = "".join(f"<h3>By {escape(name)}</h3>{_sweep_table(rows)}" for name, rows in sweep.items())
    note = "The knee is the smallest batch within 5 % of the best throughput."
    return section("sweep", "Batch and precision", f'{tables}<p class="note">{note}</p>')


def _sweep_table(rows: Sequence[Document]) -> str:
    names = ("batch", "precision", "ms", "95 % interval", "clips/s", "", "peak memory", "")
    best = max((row["clips_per_s"] or 0.0 for row in rows), default=0.0)
    return _table("sweep", names, "".join(_sweep_row(row, best) for row in rows))


def _sweep_row(row: Document, best: float) -> str:
    interval = " to ".join(number(limit) for limit in row["ci95"]) if row["ci95"] else MISSING
    figures = _cells((row["precision"], number(row["latency_ms"]), interval))
    share = (row["clips_per_s"] or 0.0) / best if best else 0.0
    said = row["reason"] or ("knee" if row["knee"] else "")
    return (
        f'<tr class="{"knee" if row["knee"] else ""}"><th scope="row">{escape(row["batch"])}</th>{figures}'
        f"{bar(share, number(row['clips_per_s']))}{_cells((megabytes(row['inference_peak_bytes']),))}"
        f'<td class="text">{escape(said)}</td></tr>'
    )


def _counters(document: Document) -> str:
    groups = (("Forward", document["counters"]), ("Forward and backward", document["training"]["counters"]))
    rows = "".join(_counter(kind, name, count) for kind, counts in groups for name, count in counts.items())
    heads = ("what", "counter", "MACs", "the tool says", "note")
    return section("counters", "Counted by several tools", _table("plain", heads, rows, ' class="text"'))


def _counter(kind: str, name: str, count: Document) -> str:
    macs = MISSING if count["macs"] is None else f"{count['macs']:,}"
    raw = MISSING if count["raw"] is None else f"{count['raw']:,.0f} {count['raw_unit']}"
    counter = f'<td class="text">{escape(label(name))}</td>'
    note = f'<td class="text remark">{escape(count["note"] or "")}</td>'
    return f'<tr><th scope="row">{escape(kind)}</th>{counter}{_cells((macs, raw))}{note}</tr>'


def _how(document: Document) -> str:
    parts = (
        ("Protocol", document["protocol"]),
        ("Memory", memory_facts(document)),
        ("Environment", document["environment"]),
    )
    lists = "".join(_facts(name, facts) for name, facts in parts)
    grid = f'<div class="facts-grid">{lists}</div>{checkpoint(document)}'
    return section("how", "How it was measured", f'{grid}<h3>Conventions</h3><p class="note">{CONVENTION}</p>')


def _facts(name: str, facts: Document) -> str:
    rows = "".join(f"<div><dt>{escape(label(k))}</dt><dd>{escape(words(v))}</dd></div>" for k, v in facts.items())
    return f'<div><h3>{escape(name)}</h3><dl class="numbers">{rows}</dl></div>'
