"""Arrays that are made once and read from disk ever after.

A cache entry is a folder of .npy files with a list of its contents. It appears under its name in one rename,
so that a reader sees all of it or nothing; of two processes that make the same entry, the first to finish wins.
A file whose size or time is not as it was written must still have the hash that it was written with.
"""

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from platformdirs import user_cache_dir

from uniformer_bench.errors import UbenchError

CONTENTS = "contents.json"  # file name of every array to its shape and dtype
HASHES = "hashes.json"  # file name of every array to its file's hash, size and time of change
log = logging.getLogger(__name__)


def cache_dir(explicit: Path | None) -> Path:
    """Where decoded and drawn clips are kept: `explicit`, or the user's cache folder."""
    return explicit if explicit is not None else Path(user_cache_dir("uniformer_bench"))


def cached_arrays(directory: Path, key: str, make: Callable[[], Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The arrays kept as `key`, memory-mapped copy-on-write; `make` is called where there are none, or torn ones.

    What `make` raises passes through and leaves no trace. Raises UbenchError where `directory` cannot be written.
    """
    folder = directory / key
    kept = _load(folder)
    if kept is not None:
        return kept
    with _writing(directory):
        directory.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=directory, prefix=f".{key}."))  # nobody else's to read
    try:
        with _writing(directory), suppress(FileNotFoundError):
            folder.rename(temporary / "torn")
        arrays = make()
        with _writing(directory):
            _save(temporary / "new", arrays)
            _publish(temporary / "new", folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    made = _load(folder)
    if made is None:
        raise UbenchError(f"the cache must be left alone while it is in use, got {folder} changed; start again")
    return made


@contextmanager
def _writing(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise UbenchError(f"the cache folder must be writable, got {directory}: {reason}; name another one") from None


def _load(folder: Path) -> dict[str, np.ndarray] | None:
    """The arrays in `folder`; None where there is no such folder, or (with a warning) where it is torn."""
    if not folder.exists():
        return None
    try:
        contents = json.loads((folder / CONTENTS).read_text(encoding="utf-8"))
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="c") for name in contents}
        found = {name: _kind(array) for name, array in arrays.items()}
        if found != contents:
            raise ValueError(f"{found} instead of {contents}")
        _check_hashes(folder)
    except (OSError, EOFError, ValueError, TypeError, AttributeError) as error:
        log.warning("the cached arrays in %s are torn (%s); they are made anew", folder, error)
        return None
    return arrays


def _check_hashes(folder: Path) -> None:
    """Raises ValueError where a file was touched and is not what was written. Older entries have no hashes."""
    if not (folder / HASHES).exists():
        return
    for name, (digest, stat) in json.loads((folder / HASHES).read_text(encoding="utf-8")).items():
        path = folder / f"{name}.npy"
        if _stat(path) != stat and _digest(path) != digest:
            raise ValueError(f"{path.name} was changed")


def _kind(array: np.ndarray) -> list[object]:
    return [list(array.shape), array.dtype.str]


def _stat(path: Path) -> list[int]:
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns]


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _save(folder: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes `folder` to the disk itself, not only to the system's buffers."""
    folder.mkdir(mode=0o700)
    for name, array in arrays.items():
        with open(folder / f"{name}.npy", "wb") as file:
            np.save(file, array, allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
    files = {name: folder / f"{name}.npy" for name in arrays}
    _save_json(folder / HASHES, {name: [_digest(path), _stat(path)] for name, path in files.items()})
    _save_json(folder / CONTENTS, {name: _kind(array) for name, array in arrays.items()})


def _save_json(path: Path, value: object) -> None:
    with open(path, "w", encoding="utf-8") as text:
        json.dump(value, text)
        text.flush()
        os.fsync(text.fileno())


def _publish(new: Path, folder: Path) -> None:
    """Renames `new` to `folder`, unless another process did so first."""
    try:
        new.rename(folder)
    except OSError:
        if _load(folder) is None:
            raise
    if os.name == "posix":  # elsewhere a folder cannot be opened, and need not be
        descriptor = os.open(folder.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
