"""The database file: opening it, its schema, and what its errors mean to the operator.

Two connections, each with its own thread: one that writes, one that reads, so that
a reader never sees half a transaction (SQLite isolates connections, not cursors).
"""

from __future__ import annotations

import asyncio
import re
import sqlite3
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import cache
from pathlib import Path

import aiosqlite
import structlog

from truetally.errors import HistoryIsNewer, HistoryUnavailable
from truetally.history.ownership import Ownership
from truetally.shared import share

log = structlog.get_logger(__name__)

Value = str | int | float | bytes | None
Parameters = Mapping[str, Value]
Row = tuple[Value, ...]

_APPLICATION_ID = 1953786985

# By SQLite's primary result code; what is not here is a mistake of ours and stays an exception of sqlite3.
_MEANINGS = {
    sqlite3.SQLITE_FULL: "the disk is full; free some space, nothing acknowledged is lost",
    sqlite3.SQLITE_BUSY: "another program holds a lock on it; end what else has the file open",
    sqlite3.SQLITE_LOCKED: "another program holds a lock on it; end what else has the file open",
    sqlite3.SQLITE_READONLY: "it is read-only; check the file's owner and that its filesystem is mounted rw",
    sqlite3.SQLITE_IOERR: "the disk refuses reads or writes; look at the space left and at the kernel log",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened; the daemon's user must be able to write it and its folder",
    sqlite3.SQLITE_PERM: "access is not permitted; check the file's owner",
    sqlite3.SQLITE_CORRUPT: "it is damaged; move it aside together with its -wal and -shm files, then start "
    "again or restore a backup; nothing has been deleted",
    sqlite3.SQLITE_NOTADB: "it is no SQLite database; correct history.path, or move the file aside",
}


@contextmanager
def meaning(path: Path) -> Iterator[None]:
    """Turn SQLite's errors about the file into `HistoryUnavailable` that says what to do."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code not in _MEANINGS:
            raise
        raise HistoryUnavailable(f"the history {path}: {_MEANINGS[code]} ({error})") from error


@cache
def query(name: str) -> str:
    """The text of `sql/queries/<name>.sql`."""
    return (share("sql") / "queries" / f"{name}.sql").read_text("utf-8")


@cache
def migrations() -> tuple[tuple[int, str], ...]:
    """Number and script of each migration, in order; the number is the schema they lead to."""
    folder = share("sql") / "migrations"
    files = sorted(file for file in folder.iterdir() if re.fullmatch(r"\d{4}_\w+\.sql", file.name))
    return tuple((int(file.name[:4]), file.read_text("utf-8")) for file in files)


class Database:
    """An open history database, owned by this process."""

    def __init__(
        self, path: Path, ownership: Ownership, writer: aiosqlite.Connection, reader: aiosqlite.Connection
    ) -> None:
        self.path = path
        self._ownership = ownership
        self._writer = writer
        self._reader = reader
        self._writing = asyncio.Lock()

    @classmethod
    async def open(cls, path: Path) -> Database:
        """Take the file, check it, bring its schema up to date."""
        _prepare_place(path)
        ownership = await asyncio.to_thread(Ownership.take, path)
        connections: list[aiosqlite.Connection] = []
        try:
            with meaning(path):
                connections.append(await aiosqlite.connect(path, isolation_level=None))
                await _check(connections[0], path)
                await connections[0].executescript(query("prepare_connection"))
                await _migrate(connections[0])
                connections.append(await aiosqlite.connect(path, isolation_level=None))
                await connections[1].executescript(query("prepare_reader"))
        except BaseException:
            # aiosqlite's threads are no daemons: one left open would keep the process from ending.
            for connection in connections:
                await connection.close()
            ownership.release()
            raise
        return cls(path, ownership, *connections)

    async def read(self, name: str, **parameters: Value) -> list[Row]:
        """The rows of a query, as of the last commit."""
        with meaning(self.path):
            return [tuple(row) for row in await self._reader.execute_fetchall(query(name), parameters)]

    async def write(self, steps: Iterable[tuple[str, list[Parameters]]]) -> int:
        """Run the queries in one transaction, all or nothing; answers how many rows changed."""
        async with self._transaction() as connection:
            changed = 0
            for name, parameters in steps:
                if parameters:
                    cursor = await connection.executemany(query(name), parameters)
                    changed += max(cursor.rowcount, 0)
                    await cursor.close()
            return changed

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[aiosqlite.Connection]:
        async with self._writing:
            with meaning(self.path):
                await self._writer.execute(query("begin"))
                try:
                    yield self._writer
                    await self._writer.execute(query("commit"))
                except BaseException:
                    # After some errors SQLite has rolled back by itself, and then refuses to do it again.
                    with suppress(sqlite3.OperationalError):
                        await self._writer.execute(query("rollback"))
                    raise

    async def integrity(self) -> list[str]:
        """What is wrong with the file; empty if nothing is."""
        rows = await self.read("integrity_check")
        return [str(row[0]) for row in rows if row[0] != "ok"]

    async def backup(self, to: Path) -> None:
        """Write a consistent copy to a new file."""
        if await asyncio.to_thread(to.exists):
            raise HistoryUnavailable(f"{to} exists already; a backup overwrites nothing, name another file")
        with meaning(to):
            async with aiosqlite.connect(self.path, isolation_level=None) as connection:
                await connection.execute(query("backup"), {"target": str(to)})

    async def close(self) -> None:
        """Fold the log into the file, close it, and let go of it."""
        await self._reader.close()
        try:
            async with self._writing:
                await self._writer.execute(query("checkpoint"))
        except sqlite3.Error as error:
            # Nothing is lost: the next start reads the log.
            log.warning("history not checkpointed", path=str(self.path), error=str(error))
        finally:
            await self._writer.close()
            self._ownership.release()


def _prepare_place(path: Path) -> None:
    if path.is_dir():
        raise HistoryUnavailable(f"the history {path} is a directory; history.path must name a file in it")
    try:
        path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
    except OSError as error:
        raise HistoryUnavailable(
            f"the folder {path.parent} for the history cannot be made ({error.strerror}); "
            "make it, and give it to the daemon's user"
        ) from error


async def _check(connection: aiosqlite.Connection, path: Path) -> None:
    """Refuse what this version cannot use, before anything is written."""
    ((application, tables),) = await connection.execute_fetchall(query("application"))
    if tables and application != _APPLICATION_ID:
        raise HistoryUnavailable(
            f"{path} is the database of another program; correct history.path, nothing has been changed"
        )
    known = migrations()[-1][0]
    found = await _schema(connection)
    if found > known:
        raise HistoryIsNewer(found, known)
    rows = list(await connection.execute_fetchall(query("quick_check")))
    if rows and rows[0][0] != "ok":
        raise HistoryUnavailable(
            f"the history {path}: {_MEANINGS[sqlite3.SQLITE_CORRUPT]} ({str(rows[0][0]).strip()})"
        )


async def _schema(connection: aiosqlite.Connection) -> int:
    rows = list(await connection.execute_fetchall(query("schema_version")))
    return int(rows[0][0])


async def _migrate(connection: aiosqlite.Connection) -> None:
    found = await _schema(connection)
    for number, script in migrations():
        if number <= found:
            continue
        try:
            await connection.executescript(script)
        except sqlite3.Error:
            with suppress(sqlite3.OperationalError):
                await connection.execute(query("rollback"))
            raise
        log.info("history migrated", schema=number)
