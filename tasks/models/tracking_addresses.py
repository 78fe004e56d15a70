"""MLflow keeps every artifact's address as an absolute path. A workspace that was moved or copied must not go on with the old ones: it
would read and write in the other folder, and an erasure would prove absence in this one.
"""

import sqlite3
from contextlib import closing
from pathlib import Path

from cdm_core.errors import StateError

_COLUMNS = (
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
    ("experiments", "artifact_location"),
)


def adopt_addresses(database: Path, experiment: str, artifacts: Path) -> None:
    """Rewrite the addresses in an MLflow database so that they begin with `artifacts`; nothing happens where they do.

    Raises:
        StateError: the file is no database.
    """
    try:
        _adopt(database, experiment, artifacts)
    except sqlite3.DatabaseError as error:
        raise StateError(f"{database}: {error}") from error


def _adopt(database: Path, experiment: str, artifacts: Path) -> None:
    with closing(sqlite3.connect(database, timeout=30.0, isolation_level=None)) as connection:
        if _address(connection, experiment) in (None, artifacts.as_uri()):
            return
        connection.execute("BEGIN IMMEDIATE")
        before = _address(connection, experiment)  # again, now that nobody else can be doing the same
        assert before is not None, "an experiment doesn't go away"
        for table, column in _COLUMNS:
            statement = (
                f"UPDATE {table} SET {column} = ?2 || substr({column}, ?3) WHERE {column} = ?1 OR substr({column}, 1, ?3) = ?1 || '/'"
            )
            connection.execute(statement, (before, artifacts.as_uri(), len(before) + 1))
        connection.execute("COMMIT")


def _address(connection: sqlite3.Connection, experiment: str) -> str | None:
    row = connection.execute("SELECT artifact_location FROM experiments WHERE name = ?", (experiment,)).fetchone()
    return None if row is None else str(row[0])
