"""What a profile's page has of some models only: energy, the largest batch, a file of weights, a GPU's allocator.

Each is read off the document, and is nothing where it was not asked for or is not there.
"""

from collections.abc import Mapping
from typing import Any

from uniformer_bench.measure.memory import NOT_ASKED
from uniformer_bench.report.text import MISSING, escape, number

Document = Mapping[str, Any]
Figure = tuple[str, str, str]  # name, value, note

SPACE = "\u00a0"


def megabytes(value: float | None) -> str:
    """MB of 10^6 bytes, or that they are unknown."""
    return MISSING if value is None else f"{number(value / 1e6)}{SPACE}MB"


def energy(document: Document) -> list[Figure]:
    """Where it was asked for; unknown with the reason beside it."""
    found = document["energy"]
    if found["reason"] == NOT_ASKED:
        return []
    if found["joules_per_clip"] is None:
        return [("energy a clip", MISSING, found["reason"])]
    note = f"{number(found['net_joules_per_clip'])}{SPACE}J above idle, {number(found['watts'])}{SPACE}W"
    return [("energy a clip", f"{number(found['joules_per_clip'])}{SPACE}J", note)]


def largest_batch(document: Document) -> list[Figure]:
    """Where it was asked for."""
    found = {use: of for use, of in document["largest_batch"].items() if of["reason"] != NOT_ASKED}
    return [
        (
            f"largest batch, {use}",
            MISSING if of["batch"] is None else f"{of['batch']:,}",
            of["reason"] or f"in {megabytes(of['limit_bytes'])}",
        )
        for use, of in found.items()
    ]


def memory_facts(document: Document) -> dict[str, str]:
    """The method, why a peak is unknown, and on a GPU what its allocator took in each run."""
    memory = document["memory"]
    peaks = {
        f"{peak['use']}, {peak['start']}": f"{megabytes(peak['allocated_bytes'])} allocated, "
        f"{megabytes(peak['reserved_bytes'])} reserved"
        for peak in memory["gpu_peaks"]
    }
    return {"method": memory["method"], **memory["reasons"], **peaks}


def checkpoint(document: Document) -> str:
    """The file of weights, and what there is to know of them."""
    found = document["checkpoint"]
    if found is None:
        return ""
    notes = "".join(f"<li>{escape(note)}</li>" for note in found["notes"])
    return f"<h3>Weights</h3><p>{escape(found['path'])}</p><ul>{notes}</ul>"
