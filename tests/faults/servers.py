"""A PostgreSQL server of the tests' own, which may be stopped and started, and small disks that fill up."""

import functools
import os
import pwd
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.wanting import missing_unless_required

missing = functools.partial(missing_unless_required, "UBENCH_REQUIRE_SERVERS")


class Server(NamedTuple):
    """A server on a socket in its folder; it runs as the user `postgres`, since it refuses to as root."""

    programs: Path
    folder: Path

    @property
    def url(self):
        return f"postgresql://postgres:geheim%7B%7D@/postgres?host={self.folder}"

    def run(self, program, *words):
        as_user = {} if os.geteuid() else {"user": "postgres", "group": "postgres", "extra_groups": []}
        words = [self.programs / program, "-D", self.folder / "data", *words]
        done = subprocess.run(words, cwd=self.folder, capture_output=True, text=True, check=False, **as_user)
        assert done.returncode == 0, done.stdout + done.stderr

    def start(self):
        options = f"-k {self.folder} -c listen_addresses= -c fsync=off"
        self.run("pg_ctl", "-w", "-l", self.folder / "log", "-o", options, "start")

    def stop(self):
        self.run("pg_ctl", "-w", "-m", "fast", "stop")


@contextmanager
def postgres_server(folder):
    """A running server with its data in `folder`."""
    found = shutil.which("pg_ctl") or max(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"), default=None)
    if not found:
        missing("PostgreSQL server")
    server = Server(Path(found).parent, folder)
    if os.geteuid() == 0:
        try:
            user = pwd.getpwnam("postgres")
        except KeyError:
            missing("user postgres to run a server as")
        os.chown(folder, user.pw_uid, user.pw_gid)
    server.run("initdb", "-U", "postgres", "-A", "trust", "--no-sync")
    server.start()
    try:
        yield server
    finally:
        server.run("pg_ctl", "-w", "-m", "immediate", "stop")


@contextmanager
def small_disk(folder, size="2m"):
    """A disk of that size at `folder`."""
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", folder], capture_output=True)
    if mounted.returncode != 0:
        missing("right to mount a disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def fill(folder):
    """Takes all the room there is; gives the file that took it."""
    with (folder / "filler").open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 10, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                pass
    return folder / "filler"
