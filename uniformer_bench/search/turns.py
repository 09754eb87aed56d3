"""One measurement at a time on a device: while one is taken, everything else of ours there waits.

Workers hold a shared lock while they work and offer it between steps; a measurement takes it alone. A
second lock, the gate, is closed by the one who wants to measure, so that nobody slips in before. File
locks hold across processes, and the kernel frees those of a process that dies.
"""

import fcntl
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from uniformer_bench.errors import UbenchError


class Turns:
    """The locks of one device, in a folder that all its workers share."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._gate = (folder / "gate.lock").open("w")
        self._device = (folder / "device.lock").open("w")

    def close(self) -> None:
        self._gate.close()
        self._device.close()

    def _enter(self) -> None:
        fcntl.flock(self._gate, fcntl.LOCK_SH)
        fcntl.flock(self._device, fcntl.LOCK_SH)
        fcntl.flock(self._gate, fcntl.LOCK_UN)

    def offer(self) -> None:
        """Between two steps: lets a waiting measurement go first."""
        fcntl.flock(self._device, fcntl.LOCK_UN)
        self._enter()

    @contextmanager
    def working(self) -> Iterator[None]:
        """Work that a measurement may interrupt at each `offer`."""
        self._enter()
        try:
            yield
        finally:
            fcntl.flock(self._device, fcntl.LOCK_UN)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """A measurement inside `working`: begins when all others have reached an `offer` or their end."""
        fcntl.flock(self._device, fcntl.LOCK_UN)
        fcntl.flock(self._gate, fcntl.LOCK_EX)
        fcntl.flock(self._device, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._device, fcntl.LOCK_SH)
            fcntl.flock(self._gate, fcntl.LOCK_UN)


def turns_folder() -> Path:
    """The folder of this user's locks, one folder a device in it. Raises UbenchError where it is another's."""
    turns = Path(tempfile.gettempdir()) / f"uniformer_bench-{os.getuid()}"
    turns.mkdir(mode=0o700, exist_ok=True)
    found = turns.lstat()
    if found.st_uid != os.getuid() or not stat.S_ISDIR(found.st_mode) or found.st_mode & 0o077:
        raise UbenchError(f"the folder of the locks must be this user's alone, got another's at {turns}")
    return turns


def device_turns(turns: Path, device: str) -> Path:
    """The folder of this device's locks in the folder of all."""
    return turns / device.replace(":", "-")
