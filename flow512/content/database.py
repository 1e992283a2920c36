"""
A database of things that can be found out again: SQLite, shared by threads, and begun anew when
it turns out to be damaged.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final

from flow512.errors import DiskFailure, DiskFull, Misuse, ResourceFailure, from_os_error

IN_MEMORY: Final = ":memory:"
"""The path of a database that is not kept."""

_MACHINE: Final = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_READONLY,
    }
)
"""What SQLite says when the machine is to blame, besides a full disk. Whatever else it says of
statements that never change means that the database is not the one that they were written for."""

_BUSY_SECONDS: Final = 10.0
"""How long to wait for another process that writes."""

_NEEDED: Final = 2**16
"""
Bytes that SQLite needs to open a database at all. Where it has not so much for what it shares with
other processes, it speaks of an I/O error, and not of a full disk.
"""


def _free_space(folder: str) -> int:
    return shutil.disk_usage(folder).free


class Database:
    """
    One connection, which threads use in turn.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        schema: Sequence[str],
        version: int,
        on_damage: Callable[[str], None] | None,
        free_space: Callable[[str], int] = _free_space,
    ) -> None:
        """
        @param path: the file, made if it is not there; or L{IN_MEMORY}.
        @param schema: the statements that make the tables.
        @param version: of the schema, at least 1; a database of another one counts as damaged.
        @param on_damage: told in one sentence when a damaged database was moved aside, on the
            thread that noticed; it may take note, and must not block.
        @param free_space: tells how many bytes there is room for on the disk of a folder.
        @raise ResourceFailure: it cannot be opened or made.
        """
        self._path = os.fspath(path)
        self._schema = schema
        self._version = version
        self._on_damage = on_damage
        self._free_space = free_space
        self._turn = threading.RLock()
        self._closed = False
        self._connection: sqlite3.Connection | None = None
        try:
            with self.reading():
                pass
        except _BegunAnew:
            with self.reading():
                pass

    def close(self) -> None:
        """
        Close the connection, which leaves no journal behind; a second time does nothing.
        """
        with self._turn:
            self._closed = True
            self._disconnect()

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """
        Lend the connection, to read one thing.

        @raise ResourceFailure: it cannot be read, or was damaged and is empty now.
        @raise Misuse: the database is closed.
        """
        with self._turn:
            if self._closed:
                raise Misuse("The catalog is closed.")
            try:
                if self._connection is None:
                    self._connection = self._connect()
                yield self._connection
            except sqlite3.ProgrammingError:  # a mistake of ours, not the database's
                raise
            except sqlite3.DatabaseError as error:
                raise self._judge(error) from error

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """
        Lend the connection for one transaction, which is kept whole, or not at all if the body
        raises; errors are those of L{reading}.
        """
        with self.reading() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                # After some failures SQLite has rolled back by itself.
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    def _keep_private(self) -> None:
        """Make a file that only its owner can read; what SQLite puts beside it is like it."""
        if self._path != IN_MEMORY:
            # Only if there is none: to close a file that is there would take SQLite's locks on it.
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            with suppress(OSError):  # SQLite names the cause
                os.close(os.open(self._path, flags, 0o600))

    def _connect(self) -> sqlite3.Connection:
        self._keep_private()
        connection = sqlite3.connect(
            self._path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        try:
            # With a write-ahead log, readers do not wait for writers of another process. NORMAL
            # may lose the last transactions to a power cut, which costs finding them out again.
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute("BEGIN IMMEDIATE")
            found = connection.execute("PRAGMA user_version").fetchone()[0]
            if found == 0:
                for statement in self._schema:
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {self._version}")
            elif found != self._version:
                raise sqlite3.DatabaseError(f"its version is {found}, not {self._version}")
            connection.execute("COMMIT")
        except BaseException:
            connection.close()
            raise
        return connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _is_disk_full(self) -> bool:
        with suppress(OSError):
            folder = os.path.dirname(os.path.abspath(self._path))
            return self._free_space(folder) < _NEEDED
        return False

    def _judge(self, error: sqlite3.DatabaseError) -> ResourceFailure:
        # What Python itself finds wrong, such as text that is not UTF-8, has no code.
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
        if code == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR and self._is_disk_full()):
            return DiskFull("The disk is full while writing the catalog; free some space.")
        if code in _MACHINE:
            return DiskFailure(f"The catalog '{self._path}' cannot be used: {error}.")
        self._disconnect()
        aside = self._path + ".corrupt"
        try:
            os.replace(self._path, aside)
            for ending in ("-wal", "-shm"):
                if os.path.exists(self._path + ending):
                    os.unlink(self._path + ending)
        except OSError as failure:
            return from_os_error(failure, f"moving the damaged catalog '{self._path}' aside")
        sentence = (
            f"The catalog '{self._path}' was damaged ({error}); it was moved to '{aside}', and"
            " an empty one took its place."
        )
        if self._on_damage is not None:
            self._on_damage(sentence)
        return _BegunAnew(sentence)


class _BegunAnew(DiskFailure):
    """The database was damaged, and is empty now."""
