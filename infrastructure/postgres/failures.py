"""Classifies errors of PostgreSQL and its driver. No other module does.

An error is about the request (an invalid value, a constraint), or the store is unavailable. There is no third case for
an append, whose statement is always the same. So a caller never has to discard what it wants to store.
"""

import logging
import time

import asyncpg

from domain.errors import StoreUnavailable

_log = logging.getLogger(__name__)

REQUEST = ("22", "23")
"""SQLSTATE classes about the values of a statement: data exceptions and integrity violations."""

ROLLED_BACK = ("40000", "40001", "40002", "40P01")
"""SQLSTATEs of a statement that the server rolled back and that should be retried."""

PASSING = (
    *("08", "40", "57P", "57014"),  # connections, conflicts of transactions, shutdown and start, cancelled statements
    *("25006", "25P03", "25P04"),  # a primary that has become a standby; sessions that were ended for their age
    *("53300", "55006", "55P03"),  # too many connections, an object in use, a lock that was not free in time
)
"""SQLSTATEs, and prefixes of some, after which a retry may succeed."""

STALE = ("25006", "28", "3D", "42501", "57P", "58", "XX")
"""SQLSTATEs that a session itself may cause: its server became a standby, its role was changed, or its backend is
broken. Other sessions of the same age may have the same fault."""

INDIVISIBLE = ("08", "25", "28", "3D", "40", "42", "53300", "57P")
"""SQLSTATEs that do not depend on the statement's values: a smaller statement fails as well."""

DEFECT = ("26", "42")
"""SQLSTATE classes of a faulty statement, or of a schema that is not as it was migrated."""

WORDS = {
    "25006": "it takes no writes: it is a standby, or read-only",
    "28": "it does not let this process in",
    "3D": "there is no such database on the server",
    "42501": "the role of this process lacks a permission",
    "42P01": "a table is missing",
    "53100": "its disk is full",
    "53200": "it is out of memory",
    "53300": "it has no connection left",
    "54": "the statement exceeds one of its limits",
    "55P03": "a lock was not free in time",
    "57014": "the statement was cancelled, or took too long",
    "57P": "it is starting or stopping",
    "58": "its system reports an error",
    "XX": "it reports an internal error",
}
"""Explanations of SQLSTATEs, by prefix; the longest prefix counts."""

UNFIT_ROW = (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError, asyncpg.ProgramLimitExceededError)
"""Errors of a row that a table does not take. The last one is raised for JSON that is nested too deeply."""

OTHER_SCHEMA_ERRORS = (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError)
"""Errors of a statement that reads a view while it is built for the first time, or is of another version."""

DRIVER_ERRORS = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
"""What asyncpg raises, apart from errors of the connection and of values that it refuses."""

LOG_INTERVAL_S = 5.0
"""Seconds between two log lines about the same failure: while a database is down, every statement fails."""

EXPIRY_INTERVAL_S = 1.0
"""Seconds between two replacements of a pool's connections: a database may be read-only on purpose."""

_logged: dict[str, float] = {}
_expired: dict[asyncpg.Pool, float] = {}
"""When the connections of pools were replaced. Keyed by the pool, since a new pool may get a freed pool's `id`."""


def sqlstate_of(error: BaseException | None) -> str | None:
    """Return the SQLSTATE of an error; None if it did not come from the server."""
    state = getattr(error, "sqlstate", None)
    return state if isinstance(state, str) else None


def is_about_the_request(error: Exception) -> bool:
    """Return whether the server refuses a value, or the driver, which does not send it then.

    The server uses the same SQLSTATEs, as fatal, when it ends a session, for example because its role was dropped.
    """
    state = sqlstate_of(error)
    if state is not None:
        return state.startswith(REQUEST) and getattr(error, "severity_en", None) not in {"FATAL", "PANIC"}
    return isinstance(error, ValueError | OverflowError)


def is_of_the_store(error: Exception) -> bool:
    """Return whether an error comes from the database or its connection, and is not about the request."""
    return isinstance(error, (*DRIVER_ERRORS, ConnectionError, TimeoutError)) and not is_about_the_request(error)


def is_passing(error: Exception) -> bool:
    """Return whether a retry may succeed."""
    if isinstance(error, asyncpg.InvalidCachedStatementError):  # the tables have changed since it was prepared
        return True
    state = sqlstate_of(error)
    if state is not None:
        return state.startswith(PASSING)
    return isinstance(error, OSError | asyncpg.InterfaceError | asyncpg.InternalClientError)


def is_undone(error: Exception) -> bool:
    """Return whether the statement has certainly stored nothing. After other errors, that is unknown."""
    return is_about_the_request(error) or (sqlstate_of(error) in ROLLED_BACK)


def is_divisible(error: BaseException | None) -> bool:
    """Return whether a part of the statement may succeed: its size, a value or a row may have caused the error."""
    state = sqlstate_of(error)
    return state is not None and not state.startswith(INDIVISIBLE)


def is_about_one_row(error: BaseException | None) -> bool:
    """Return whether a statement may have failed because another session holds a row: other statements succeed."""
    return (sqlstate_of(error) or "").startswith(("40", "55P03", "57014"))


def is_worth_dividing(error: Exception) -> bool:
    """Return whether to split a batch after this error, so that one item does not fail the others."""
    return is_divisible(error.__cause__) if isinstance(error, StoreUnavailable) else is_about_the_request(error)


def unavailable(error: Exception) -> StoreUnavailable:
    """Convert an error that is not about the request for callers. The server's message goes to the log."""
    state = sqlstate_of(error)
    known = isinstance(error, (*DRIVER_ERRORS, OSError))
    defect = not known or (state is not None and state.startswith(DEFECT) and not state.startswith(STALE))
    now, kind = time.monotonic(), state or type(error).__name__
    if now - _logged.get(kind, -LOG_INTERVAL_S) >= LOG_INTERVAL_S:
        _logged[kind] = now
        if defect:
            _log.error("A statement failed at PostgreSQL (%s): %s", kind, _said(error), exc_info=error)
        elif not is_undone(error):
            _log.warning("PostgreSQL is unavailable (%s): %s", kind, _said(error))
    if state is None and known:
        return StoreUnavailable()
    why = reason(state) if state else "a defect of Threadfold, which was logged"
    return StoreUnavailable(
        f"The database cannot be used: {why}. Try again later; a command may be repeated with its idempotency key."
    )


def reason(state: str) -> str:
    """Explain a SQLSTATE."""
    fitting = [known for known in WORDS if state.startswith(known)]
    words = WORDS[max(fitting, key=len)] if fitting else "it reports an error that no request causes"
    return f"{words} (SQLSTATE {state})"


async def give_up_stale(pool: asyncpg.Pool | None, error: Exception) -> None:
    """Replace a pool's connections, each before its next use, if sessions may have caused the error."""
    state = sqlstate_of(error)
    expire = getattr(pool, "expire_connections", None)
    if state is None or expire is None or not state.startswith(STALE):
        return
    now = time.monotonic()
    for other in [other for other, at in _expired.items() if now - at >= EXPIRY_INTERVAL_S]:
        del _expired[other]
    if pool not in _expired:
        _expired[pool] = now
        _log.warning("The connections to PostgreSQL are replaced after the error %s: %s", state, _said(error))
        await expire()


def _said(error: Exception) -> str:
    """Return the server's message. `str` fails for an asyncpg error without one."""
    return "; ".join(map(str, error.args)) or type(error).__name__
