"""Every query is known to the schema, used, and finds its rows by an index."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

import truetally.history
from truetally.history.database import migrations, query
from truetally.shared import share

QUERIES = sorted(file.stem for file in (share("sql") / "queries").iterdir())
SOURCE = "".join(file.read_text() for file in Path(truetally.history.__file__).parent.glob("*.py"))
LARGE = "findings|transitions|deliveries|source_states|memories"
SCRIPTS = {"prepare_connection", "prepare_reader", "backup"}


@pytest.fixture(scope="module")
def schema() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:")
    for _, script in migrations():
        connection.executescript(script)
    yield connection
    connection.close()


def test_each_migration_sets_its_own_number_in_its_own_transaction():
    assert [number for number, _ in migrations()] == list(range(1, len(migrations()) + 1))
    for number, script in migrations():
        statements = re.sub(r"--[^\n]*", "", script)
        assert statements.strip().startswith("BEGIN IMMEDIATE;")
        assert re.search(rf"PRAGMA user_version = {number};\s*COMMIT;\s*$", statements)


def test_every_table_is_strict(schema: sqlite3.Connection):
    tables = schema.execute("SELECT name, strict FROM pragma_table_list WHERE schema = 'main'").fetchall()
    assert {name: strict for name, strict in tables if not name.startswith("sqlite_")} == dict.fromkeys(
        LARGE.split("|"), 1
    )


@pytest.mark.parametrize("name", QUERIES)
def test_a_query_is_used(name: str):
    table = name.removeprefix("purge_")
    assert f'"{name}"' in SOURCE or (name.startswith("purge_") and f'"{table}"' in SOURCE)


@pytest.mark.parametrize("name", [name for name in QUERIES if name not in SCRIPTS])
def test_a_query_reads_no_large_table_from_end_to_end(name: str, schema: sqlite3.Connection):
    parameters = dict.fromkeys(re.findall(r":(\w+)", re.sub(r"--[^\n]*", "", query(name))), 1)
    plan = [row[3] for row in schema.execute(f"EXPLAIN QUERY PLAN {query(name)}", parameters)]
    without_index = [
        step for step in plan if re.match(rf"SCAN ({LARGE}|[a-z]|last|later)\b(?!.*USING)", step)
    ]
    # By its primary key from the newest end, and only so far as the limit says.
    newest = {"recent_deliveries": ["SCAN deliveries"], "source_states": ["SCAN source_states"]}
    newest["memories"] = ["SCAN memories"]  # all of them, once, at the start
    assert without_index == newest.get(name, [])


def test_the_plan_test_can_fail(schema: sqlite3.Connection):
    plan = [row[3] for row in schema.execute("EXPLAIN QUERY PLAN SELECT * FROM findings WHERE rule = 'x'")]
    assert plan == ["SCAN findings"]


def test_only_the_history_speaks_sql():
    package = Path(truetally.history.__file__).parent.parent
    speaks = re.compile(r"\b(SELECT .+ FROM|INSERT INTO|DELETE FROM|UPDATE \w+ SET|PRAGMA \w+)\b")
    speakers = [file.name for file in package.rglob("*.py") if speaks.search(file.read_text())]
    assert speakers == []
