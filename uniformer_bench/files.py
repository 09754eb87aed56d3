"""Reading and writing files: strict YAML and JSON in, whole files out (temporary file, fsync, rename)."""

import difflib
import json
import math
import os
import re
import tempfile
from collections.abc import Hashable, Iterable
from pathlib import Path
from typing import Any

import yaml

from uniformer_bench.errors import UbenchError


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses a key given twice and reads 1e-3 as a number, as YAML 1.2 does."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise UbenchError(f"a key must be given once, got {key!r} again{node.start_mark}")
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$"), list("-+.0123456789")
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?\d+$"), list("-+0123456789"))


def parse_yaml(text: str, source: str) -> Any:
    """The data in `text`. Raises UbenchError with `source` and the line where it is not YAML."""
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 (a SafeLoader)
    except yaml.YAMLError as error:
        raise UbenchError(f"{source} must be YAML: {' '.join(str(error).split())}") from None


def read_text(path: Path) -> str:
    """A UTF-8 file. Raises UbenchError where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise UbenchError(f"{path} cannot be read: {reason}") from None


def read_yaml(path: Path) -> Any:
    """The data in a YAML file."""
    return parse_yaml(read_text(path), str(path))


def to_json(value: object, indent: int | None = 1) -> str:
    """Strict JSON: raises ValueError on NaN and Infinity, which no JSON reader has to take."""
    return json.dumps(value, indent=indent, allow_nan=False, ensure_ascii=False)


def finite(value: float | None) -> float | None:
    """`value`, or None where it is not a finite number, so that JSON can carry it."""
    return value if value is not None and math.isfinite(value) else None


def write_whole(path: Path, text: str) -> None:
    """Replaces `path` by `text` so that a reader sees the old file or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def nearest(name: object, known: Iterable[str]) -> str:
    """', did you mean ...?' for the known names near to `name`, or what there is."""
    options = list(known)
    close = difflib.get_close_matches(str(name), options, n=3, cutoff=0.5)
    return f", did you mean {' or '.join(close)}?" if close else f"; there is {', '.join(options)}"
