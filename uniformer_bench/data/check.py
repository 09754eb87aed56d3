"""Looks through a data set before it is used: what it holds, what is wrong with which clip, what loading will take.

Every file is decoded as a search would decode it, or an even sample of the files. Nothing is written.
"""

import hashlib
import itertools
import statistics
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from uniformer_bench.data.listing import SPLITS, Listing, Video
from uniformer_bench.data.reading import read_video, side_by_side
from uniformer_bench.data.splits import Reading, find_faults
from uniformer_bench.data.video import Facts
from uniformer_bench.data.videos import Sampling, Watch
from uniformer_bench.errors import UbenchError
from uniformer_bench.measure.protocol import default_threads

SHOWN = 20  # lines of a table, bad clips and copies; the document has all of them


class _Look(NamedTuple):
    video: Video
    reading: Reading
    facts: Facts | None
    pictures: str  # hash of the sampled frames


def check_data(
    listing: Listing, sampling: Sampling, *, max_bad: float, sample: int | None = None, watch: Watch | None = None
) -> dict[str, Any]:
    """The document of `ubench data check`. `failed` is whether more than `max_bad` of the clips looked at are bad.

    Bad is what loading leaves out, see splits.find_faults; short, with fewer frames than are sampled, is not.
    """
    if not 0 <= max_bad <= 1:
        raise UbenchError(f"--max-bad must be a share from 0 to 1, got {max_bad}")
    videos = _even(listing.videos, sample)
    start = time.perf_counter()
    looks = _look_at(videos, sampling, watch)
    seconds = time.perf_counter() - start
    faults = find_faults(videos, [look.reading for look in looks])
    bad = [_named(look, reason) for look, reason in zip(looks, faults, strict=True) if reason]
    good = [look for look, reason in zip(looks, faults, strict=True) if not reason]
    return {
        "schema_version": 1,
        "name": listing.name,
        "kind": listing.kind,
        "detected": listing.detected,
        "clips": len(listing.videos),
        "looked_at": len(videos),
        "classes": [_class_counts(listing, label, name) for label, name in enumerate(listing.classes)],
        "splits": dict(Counter(video.split or "not given" for video in listing.videos)),
        "sources": len({video.source for video in listing.videos if video.source}),
        **_measures(good),
        "bad": bad,
        "bad_share": len(bad) / len(videos),
        "max_bad": max_bad,
        "failed": len(bad) / len(videos) > max_bad,
        "short": [_named(look, f"{look.reading.frames} frames") for look in good
                  if look.reading.frames < sampling.frames],
        "same_pictures": _same_pictures(good),
        "sampling": {"frames": sampling.frames, "size": list(sampling.size), "stride": sampling.stride},
        "cache_bytes": len(listing.videos) * int(np.prod(sampling.shape)),
        "decoding_s": seconds * len(listing.videos) / len(videos),
        "readers": default_threads(),
    }  # fmt: skip


def _even(videos: Sequence[Video], sample: int | None) -> list[Video]:
    if sample is None or sample >= len(videos):
        return list(videos)
    return [videos[(2 * place + 1) * len(videos) // (2 * sample)] for place in range(sample)]


def _look_at(videos: Sequence[Video], sampling: Sampling, watch: Watch | None) -> list[_Look]:
    def look(video: Video) -> _Look:
        row = np.empty(sampling.shape, np.uint8)
        reading, facts = read_video(video, row, sampling.stride)
        return _Look(video, reading, facts, hashlib.sha256(row.data).hexdigest() if facts else "")

    looks = []
    for found in side_by_side(look, videos):
        looks.append(found)
        if watch:
            watch.decoded(len(looks), len(videos))
    return looks


def _named(look: _Look, reason: str) -> dict[str, str]:
    return {"path": look.video.name, "reason": reason}


def _class_counts(listing: Listing, label: int, name: str) -> dict[str, Any]:
    counts = Counter(video.split or "not given" for video in listing.videos if video.label == label)
    return {"name": name, **counts, "total": counts.total()}


def _measures(good: Sequence[_Look]) -> dict[str, Any]:
    """Least, median and most of lengths and rates, and every size with its count."""
    facts = [look.facts for look in good if look.facts]
    sizes = Counter(f"{fact.width}x{fact.height}" for fact in facts)
    return {
        "frames": _spread([fact.frames for fact in facts]),
        "seconds": _spread([fact.seconds for fact in facts if fact.seconds is not None]),
        "rates": _spread([fact.rate for fact in facts if fact.rate is not None]),
        "sizes": dict(sizes.most_common()),
    }


def _spread(values: Sequence[float]) -> dict[str, float] | None:
    return {"least": min(values), "median": statistics.median(values), "most": max(values)} if values else None


def _same_pictures(good: Sequence[_Look]) -> list[list[str]]:
    """Names of clips that a model could not tell apart, as their sampled frames are equal."""
    by_pictures = itertools.groupby(sorted(good, key=lambda look: look.pictures), key=lambda look: look.pictures)
    groups = [sorted(look.video.name for look in same) for _, same in by_pictures]
    return sorted(names for names in groups if len(names) > 1)


# --- for a person ---


def check_table(document: Mapping[str, Any]) -> Group:
    """The document as tables."""
    tables = [_summary(document), _classes(document)]
    tables += [
        _names(title, document[key])
        for key, title in (("bad", "left out"), ("short", "short: frames are repeated"))
        if document[key]
    ]
    if document["same_pictures"]:
        same = [{"path": names[0], "reason": ", ".join(names[1:])} for names in document["same_pictures"]]
        tables.append(_names("the same pictures", same))
    return Group(*tables)


def _summary(document: Mapping[str, Any]) -> Table:
    table = Table(title=escape(document["name"]), show_header=False, title_justify="left")
    verdict = "too many" if document["failed"] else "fine"
    bad = f"{len(document['bad'])} of {document['looked_at']} ({100 * document['bad_share']:.2g} %), {verdict}: "
    sampling = document["sampling"]
    clip = "x".join(str(number) for number in (sampling["frames"], *sampling["size"]))
    rows = {
        "taken for": document["detected"],
        "clips": f"{document['clips']} in {len(document['classes'])} classes",
        "splits": ", ".join(f"{count} {name}" for name, count in document["splits"].items()),
        "sources": str(document["sources"] or "none named: clips cut from one video may land in two splits"),
        "frames": _range(document["frames"], ""),
        "length": _range(document["seconds"], " s"),
        "rate": _range(document["rates"], " frames/s"),
        "sizes": ", ".join(f"{size} ({count})" for size, count in itertools.islice(document["sizes"].items(), 6)),
        "bad": bad + f"the limit is {100 * document['max_bad']:.3g} %",
        "cache": f"{document['cache_bytes'] / 1e9:.3g} GB for clips of {clip}",
        "decoding": f"about {document['decoding_s']:.3g} s, {document['readers']} files at a time",
    }
    for key, value in rows.items():
        table.add_row(key, escape(value))
    return table


def _range(spread: Mapping[str, float] | None, unit: str) -> str:
    if spread is None:
        return "unknown"
    least, median, most = (f"{spread[key]:.4g}" for key in ("least", "median", "most"))
    return f"{median}{unit}" if least == most else f"{least} to {most}{unit}, median {median}"


def _classes(document: Mapping[str, Any]) -> Table:
    splits = [split for split in (*SPLITS, "not given") if split in document["splits"]]
    table = Table("class", *splits, title="clips by class", title_justify="left")
    for row in document["classes"][:SHOWN]:
        table.add_row(escape(row["name"]), *(str(row.get(split, 0)) for split in splits))
    if len(document["classes"]) > SHOWN:
        table.add_row(f"and {len(document['classes']) - SHOWN} more")
    return table


def _names(title: str, entries: Sequence[Mapping[str, str]]) -> Table:
    table = Table("clip", "reason", title=f"{len(entries)} {title}", title_justify="left")
    for entry in entries[:SHOWN]:
        table.add_row(escape(entry["path"]), escape(entry["reason"]))
    if len(entries) > SHOWN:
        table.add_row(f"and {len(entries) - SHOWN} more", "--json has all")
    return table
