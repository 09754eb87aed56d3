"""Where a study lies: any storage that Optuna opens by URL, with patience for one that is away, and secrets kept.

Each call to a storage is one transaction, so a call that failed for want of a server, a lock or room is made again,
with longer and longer waits in between. A URL's password stands in no sentence that comes from here.
"""

import hashlib
import sqlite3
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

import optuna
import sqlalchemy
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError

from uniformer_bench.errors import UbenchError

PATIENCE_S = 120.0
FIRST_WAIT_S, LONGEST_WAIT_S = 0.25, 5.0
# what waiting does not mend, as SQLite words it
LASTING = ("readonly", "malformed", "not a database", "no such table", "unable to open")
VALUES = """SELECT value_json FROM studies JOIN trials USING (study_id)
JOIN trial_user_attributes AS attribute USING (trial_id) WHERE study_name = ? AND attribute.key = ?"""
Say = Callable[[str], None]


def open_storage(url: str) -> optuna.storages.RDBStorage:
    """The storage at `url`. Raises UbenchError where it cannot be opened; a server that is away later is waited for."""
    place, address = place_of(url), _with_driver(url)
    sqlite = address.startswith("sqlite")
    # SQLite itself waits only as long as a person would for an answer to Ctrl-C
    options: dict[str, Any] = {"connect_args": {"timeout": 5}} if sqlite else {"pool_pre_ping": True}
    try:
        storage = optuna.storages.RDBStorage(address.replace("{", "{{").replace("}", "}}"), engine_kwargs=options)
    except ImportError:
        hint = ": pip install 'uniformer_bench[postgres]'" if address.startswith("postgresql") else ""
        raise UbenchError(f"a storage needs its driver, got none for {place}{hint}") from None
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        raise UbenchError(f"a storage must open, got {_reason(error)} for {place}") from None
    _make_patient(storage, place)
    return storage


class Claim:
    """A study on a PostgreSQL server that this process drives alone, until this is closed or the process ends.

    The run's folder has a lock of its own, against drivers that share the folder.
    """

    def __init__(self, storage: optuna.storages.RDBStorage, study: str) -> None:
        self._engine, self._study = storage.engine, study
        self._key = int.from_bytes(hashlib.sha256(study.encode()).digest()[:8], signed=True)
        self._held: sqlalchemy.Connection | None = None
        self.hold = _Patience(place_of(storage.url), _say).around(self._hold)
        self.hold()

    def _hold(self) -> None:
        """Takes it, and takes it again from a server that has restarted, which forgets it. Raises UbenchError where
        another process has it."""
        if self._answers():
            return
        held = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")  # no transaction stays open
        if not held.execute(sqlalchemy.select(sqlalchemy.func.pg_try_advisory_lock(self._key))).scalar_one():
            held.close()
            raise UbenchError(
                f"a study has one driver at a time, and another is at work on {self._study!r} in its storage"
            )
        held.detach()  # closed, it ends, in place of going back to the pool with the lock
        self._held = held

    def _answers(self) -> bool:
        try:
            return self._held is not None and self._held.execute(sqlalchemy.select(1)).scalar_one() == 1
        except DBAPIError:
            self.close()
            return False

    def close(self) -> None:
        """Lets go of it."""
        if self._held is not None:
            self._held.close()
        self._held = None


def claim(storage: optuna.storages.RDBStorage, study: str) -> Claim | None:
    """Takes the study where its storage knows such claims. Raises UbenchError where another process has it."""
    return Claim(storage, study) if storage.engine.dialect.name == "postgresql" else None


def place_of(url: str) -> str:
    """`url` as it may be shown: without a password, and without options, which may hold one."""
    try:
        parsed = sqlalchemy.make_url(url)
    except (SQLAlchemyError, ValueError):
        raise UbenchError("a storage must be a URL such as postgresql://user@host/name, got another text") from None
    return parsed.set(query={}).render_as_string(hide_password=True)


def has_password(url: str) -> bool:
    """Whether `url` holds a password, in its place or among its options."""
    parsed = sqlalchemy.make_url(url)
    return bool(parsed.password) or any("pass" in key.lower() for key in parsed.query)


def _with_driver(url: str) -> str:
    """A PostgreSQL URL of any spelling with the driver that the extra `postgres` brings."""
    scheme, mark, rest = url.partition("://")
    return f"postgresql+psycopg{mark}{rest}" if scheme in ("postgres", "postgresql") else url


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _make_patient(storage: optuna.storages.RDBStorage, place: str) -> None:
    patience = _Patience(place, _say)
    # the private ones are those by which Optuna's cache in front of a storage calls it
    private = ("_create_new_trial", "_get_trials", "_set_trial_param")
    public = (name for name, value in vars(optuna.storages.BaseStorage).items() if callable(value))
    for name in (*private, *(name for name in public if not name.startswith("_"))):
        setattr(storage, name, patience.around(getattr(storage, name)))


class _Patience:
    """Repeats calls to one storage until it answers; once that took too long, each call is made once."""

    def __init__(self, place: str, say: Say) -> None:
        self._place, self._say, self._left = place, say, True

    def around(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """`call`, repeated. Raises UbenchError where the storage stays away, or fails for good."""

        def patiently(*arguments: Any, **keywords: Any) -> Any:
            begun, wait_s, tries = time.monotonic(), FIRST_WAIT_S, 0
            while True:
                try:
                    found = call(*arguments, **keywords)
                except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
                    self._check(error, time.monotonic() - begun)
                    self._say(f"waiting for the storage: {_reason(error)}") if tries == 0 else None
                except optuna.exceptions.UpdateFinishedTrialError:
                    if not tries:
                        raise
                    return True  # the try before came through, and only its answer was lost
                else:
                    self._say(f"the storage answers again, after {time.monotonic() - begun:.0f} s") if tries else None
                    return found
                time.sleep(wait_s)
                wait_s, tries = min(2 * wait_s, LONGEST_WAIT_S), tries + 1

        return patiently

    def _check(self, error: Exception, waited_s: float) -> None:
        """Raises UbenchError where there is no use in another try."""
        if not _passes(error):
            rule = "a storage must be whole and writable"
        elif waited_s < PATIENCE_S and self._left:
            return
        else:
            rule = f"a storage must answer within {PATIENCE_S:g} s"
        self._left = False
        end = "what had finished is kept, and the same command goes on from there"
        raise UbenchError(f"{rule}, got {_reason(error)} from {self._place}; {end}") from None


def _passes(error: BaseException) -> bool:
    """Whether it may pass by itself: no connection, a lock, no room."""
    cause = _cause(error)
    lost = isinstance(cause, OperationalError | InterfaceError)
    lost = lost or (isinstance(cause, DBAPIError) and cause.connection_invalidated)
    return lost and not any(word in str(cause) for word in LASTING)


def _cause(error: BaseException) -> BaseException:
    wrapped = isinstance(error, optuna.exceptions.StorageInternalError) and error.__cause__ is not None
    return error.__cause__ if wrapped and error.__cause__ is not None else error


def _reason(error: BaseException) -> str:
    cause = _cause(error)
    words = str(cause.orig) if isinstance(cause, DBAPIError) else type(cause).__name__
    return " ".join(words.split())[:200]


def sqlite_file(url: str) -> Path | None:
    """The file of an SQLite storage, None for another."""
    parsed = sqlalchemy.make_url(url)
    return Path(parsed.database) if parsed.get_backend_name() == "sqlite" and parsed.database else None


def put_torn_aside(database: Path) -> Path | None:
    """Renames a damaged SQLite file, so that a whole one can take its place; its new name, None where it is whole."""
    if not database.exists() or not _is_torn(database):
        return None
    taken = sum(1 for _ in database.parent.glob(f"{database.name}.torn*"))
    aside = database.with_name(f"{database.name}.torn{taken + 1}")
    for ending in ("-journal", "-wal", "-shm"):
        side = database.with_name(database.name + ending)
        side.rename(aside.with_name(aside.name + ending)) if side.exists() else None
    return database.rename(aside)


def _is_torn(database: Path) -> bool:
    try:
        with closing(_opened(database)) as opened:
            return opened.execute("PRAGMA integrity_check").fetchone() != ("ok",)
    except sqlite3.OperationalError as error:  # locked or not to be opened is not torn, and is seen when it is opened
        return "disk I/O" in str(error)
    except sqlite3.DatabaseError:
        return True


def readable_values(database: Path, study: str, key: str) -> Iterable[str]:
    """What can still be read of the attribute `key` of a study's trials in a damaged file, as JSON."""
    try:
        with closing(_opened(database)) as opened:
            yield from (value for (value,) in opened.execute(VALUES, (study, key)))
    except sqlite3.DatabaseError:  # the damage is reached: there is no more
        return


def _opened(database: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{quote(str(database.resolve()))}?mode=rw", uri=True, timeout=5)
