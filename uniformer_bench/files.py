"""Reading text and writing files: strict JSON, and whole files (temporary file, fsync, rename)."""

import difflib
import json
import math
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from uniformer_bench.errors import UbenchError


def read_text(path: Path) -> str:
    """A UTF-8 file. Raises UbenchError where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise UbenchError(f"{path} cannot be read: {reason}") from None


def to_json(value: object, indent: int | None = 1) -> str:
    """Strict JSON: raises ValueError on NaN and Infinity, which no JSON reader has to take."""
    return json.dumps(value, indent=indent, allow_nan=False, ensure_ascii=False)


def finite(value: float | None) -> float | None:
    """`value`, or None where it is not a finite number, so that JSON can carry it."""
    return value if value is not None and math.isfinite(value) else None


def write_whole(path: Path, content: str | bytes) -> None:
    """Replaces `path` by text (as UTF-8) or bytes so that a reader sees the old file or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
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
