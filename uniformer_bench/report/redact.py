"""A run without what its owner may not want to pass on: sample clips, paths, host and user names.

Numbers, architectures and class names stay; what is taken out leaves an ellipsis behind, so that a reader sees that
something was there.
"""

import re
from collections.abc import Mapping
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from uniformer_bench.runs import Run

GONE = "…"
NAMES = frozenset("host hostname node user username login home cwd".split())
LEFT_OUT = NAMES | {"identity", "storage", "samples"}
# options of the command line whose value is a path, a URL or a host
OPTIONS = "data|storage|cache|results|reports|init|warm-start|checkpoint|spec|out|ray-address"
OPTION = re.compile(rf"(--(?:{OPTIONS})(?:=|\s+))('[^']*'|\"[^\"]*\"|\S+)")
PATHS = (
    re.compile(r"\b[\w+.-]+://\S+"),  # a URL, which may name a host, a user and a password
    re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)*"),  # user@host
    re.compile(r"[\w.-]+:/[^\s'\",;)]*"),  # host:/share, C:/clips
    re.compile(r"(?<![\w<])(?:[A-Za-z]:)?\\[^\s'\",;]+"),  # C:\clips, \\host\share
    re.compile(r"(?<![\w/])(?:~|\.{1,2})?/[^\s'\",;:)]+"),  # /clips, ~/clips, ../clips
    re.compile(r"[\w.-]+(?:/[\w.-]+)*/[\w.-]*\.\w{2,5}\b"),  # clips/up/1.mp4
    re.compile(r"\b[\w-]+\.(?:mp4|avi|mkv|webm|mov|mpe?g|ya?ml|csv|txt|db|pth?|safetensors)\b", re.IGNORECASE),
)
BUILTIN = "builtin"


def redacted(run: Run) -> Run:
    """The run as it may be passed on. Names that its record calls private are taken out wherever they stand."""
    names, card = _private_names(run.info), run.info.get("data")
    info = _clean(run.info, names)
    if isinstance(card, Mapping):
        info["data"] = _data(card, names)
    trials, devices = ([_clean(each, names) for each in rows] for rows in (run.trials, run.remeasured))
    return Run(info, trials, tuple(devices))


def public_name(run: Run, name: str) -> str:
    """`name`, a run's folder, as part of a file's name."""
    return clean_text(name, _private_names(run.info)).replace(GONE, "x")


def _private_names(info: Mapping[str, Any]) -> tuple[str, ...]:
    """Host, user and the data folder's name where the record has them, the longest first."""
    card = info.get("data")
    own = [card.get("name")] if isinstance(card, Mapping) and card.get("kind", BUILTIN) != BUILTIN else []
    found = [name for name in (*own, *_named(info)) if isinstance(name, str)]
    names = {part for name in found for part in (name, _last_part(name))}
    return tuple(sorted((name for name in names if len(name) > 1), key=lambda name: (-len(name), name)))


def _named(value: object) -> list[object]:
    """The values under NAMES, wherever they are."""
    if not isinstance(value, Mapping):
        return []
    own = [each for key, each in value.items() if key in NAMES]
    return own + [found for each in value.values() for found in _named(each)]


def _last_part(path: str) -> str:
    return (PureWindowsPath(path) if "\\" in path else PurePosixPath(path)).name


def _data(card: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """The data card without sample clips; of clips left out, how many."""
    gone = card.get("left_out")
    return {
        **_clean({key: value for key, value in card.items() if key != "left_out"}, names),
        **({"classes": card["classes"]} if "classes" in card else {}),
        **({"left_out": len(gone) if isinstance(gone, list) else gone} if "left_out" in card else {}),
    }


def _clean(value: Any, names: tuple[str, ...]) -> Any:
    if isinstance(value, str):
        return clean_text(value, names)
    if isinstance(value, Mapping):
        return {clean_text(str(k), names): _clean(v, names) for k, v in value.items() if k not in LEFT_OUT}
    return [_clean(each, names) for each in value] if isinstance(value, list | tuple) else value


def clean_text(text: str, names: tuple[str, ...] = ()) -> str:
    """`text` with paths, URLs and these names replaced by an ellipsis."""
    text = OPTION.sub(lambda found: found[1] + (BUILTIN if found[2] == BUILTIN else GONE), text)
    for path in PATHS:
        text = path.sub(GONE, text)
    for name in names:
        text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", GONE, text)
    return text
