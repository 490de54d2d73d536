"""What an error of PostgreSQL or of its driver means. The only place that decides it.

An error is about the request (a value that does not fit, a constraint), or the store is unavailable. With an append,
nothing else can be wrong: its statement is always the same. So a caller never has to give up what it wants to store.
"""

import logging
import time

import asyncpg

from domain.errors import StoreUnavailable

_log = logging.getLogger(__name__)

REQUEST = ("22", "23")
"""SQLSTATE classes about the values of a statement: data exceptions and integrity violations."""

UNDONE = ("40000", "40001", "40002", "40P01")
"""The server undid the statement and asks for another attempt."""

PASSING = (
    *(
        "08",
        "40",
        "57P",
        "57014",
    ),  # connections, conflicts between transactions, shutdown and start, cancelled statements
    *("25006", "25P03", "25P04"),  # a primary that has become a standby; sessions that were ended for their age
    *("53300", "55006", "55P03"),  # too many connections, an object in use, a lock that was not free in time
)
"""SQLSTATEs, and the beginnings of some, of what another attempt in a moment may not meet again."""

STALE = ("25006", "28", "3D", "42501", "57P", "58", "XX")
"""SQLSTATEs of what a session may be the reason of: it came to a server that has become a standby, to a role that has
changed, or to a process that is broken. Other sessions of that time may be no better."""

SHARED = ("08", "25", "28", "3D", "40", "42", "53300", "57P")
"""SQLSTATEs of what has nothing to do with the values of a statement: a smaller one fails as well."""

DEFECT = ("26", "42")
"""SQLSTATE classes that name a mistake in a statement, or a database that is not as it was migrated."""

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
"""What to tell about a SQLSTATE, or about all that begin alike; the longest beginning counts."""

QUIET_S = 5.0
"""Seconds in which the same kind of failure is logged once: while a database is away, every statement fails."""

EXPIRY_S = 1.0
"""Seconds between two times that a pool's connections are given up: a database may be read-only on purpose."""

_logged: dict[str, float] = {}
_expired: dict[asyncpg.Pool, float] = {}
"""When pools gave up their connections. Keyed by the pool: a new one may get the `id` of one that is gone."""


def sqlstate_of(error: BaseException | None) -> str | None:
    """Return the five characters with which the server names an error; None if it did not come from the server."""
    state = getattr(error, "sqlstate", None)
    return state if isinstance(state, str) else None


def is_about_the_request(error: Exception) -> bool:
    """Say whether a value cannot be taken: by the server, or by the driver, which did not even send it then.

    The server also ends a session that it does not like so, and calls that fatal: a role that is gone is a bad setting.
    """
    state = sqlstate_of(error)
    if state is not None:
        return state.startswith(REQUEST) and getattr(error, "severity_en", None) not in {"FATAL", "PANIC"}
    return isinstance(error, ValueError | OverflowError)


def is_of_the_store(error: Exception) -> bool:
    """Say whether an error that a caller did not expect is one of the database's and not about the request."""
    kinds = (
        *(asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError),
        *(ConnectionError, TimeoutError),
    )
    return isinstance(error, kinds) and not is_about_the_request(error)


def is_passing(error: Exception) -> bool:
    """Say whether another attempt in a moment may succeed."""
    if isinstance(error, asyncpg.InvalidCachedStatementError):  # the tables have changed since it was prepared
        return True
    state = sqlstate_of(error)
    if state is not None:
        return state.startswith(PASSING)
    return isinstance(error, OSError | asyncpg.InterfaceError | asyncpg.InternalClientError)


def is_undone(error: Exception) -> bool:
    """Say whether nothing of the statement can be stored. Of all other errors, that is not known."""
    return is_about_the_request(error) or (sqlstate_of(error) in UNDONE)


def is_divisible(error: BaseException | None) -> bool:
    """Say whether a part of the statement may succeed: its size, a value or a row may be the reason of the error."""
    state = sqlstate_of(error)
    return state is not None and not state.startswith(SHARED)


def is_about_one_row(error: BaseException | None) -> bool:
    """Say whether a statement may have failed because another session holds a row: others succeed."""
    return (sqlstate_of(error) or "").startswith(("40", "55P03", "57014"))


def is_worth_dividing(error: Exception) -> bool:
    """Say whether a group that met this error is to be tried in parts, so that one item does not fail the others."""
    return is_divisible(error.__cause__) if isinstance(error, StoreUnavailable) else is_about_the_request(error)


def unavailable(error: Exception) -> StoreUnavailable:
    """Make what callers are told of an error that is not about their request. The server's own words go to the log."""
    state = sqlstate_of(error)
    known = isinstance(error, asyncpg.PostgresError | asyncpg.InterfaceError | asyncpg.InternalClientError | OSError)
    defect = not known or (state is not None and state.startswith(DEFECT) and not state.startswith(STALE))
    now, kind = time.monotonic(), state or type(error).__name__
    if now - _logged.get(kind, -QUIET_S) >= QUIET_S:
        _logged[kind] = now
        if defect:
            _log.error("A statement failed at PostgreSQL (%s): %s", kind, _said(error), exc_info=error)
        elif not is_undone(error):
            _log.warning("PostgreSQL is unavailable (%s): %s", kind, _said(error))
    if state is None and known:
        return StoreUnavailable()
    why = reason(state) if state else "a defect of ours, which was logged"
    return StoreUnavailable(
        f"The database cannot be used: {why}. Try again later; a command may be repeated with its idempotency key."
    )


def reason(state: str) -> str:
    """Put a SQLSTATE into words."""
    fitting = [known for known in WORDS if state.startswith(known)]
    words = WORDS[max(fitting, key=len)] if fitting else "it reports an error that no request is the reason of"
    return f"{words} (SQLSTATE {state})"


async def give_up_stale(pool: asyncpg.Pool | None, error: Exception) -> None:
    """Have a pool's connections replaced, each before its next use, where sessions may be the reason of an error."""
    state = sqlstate_of(error)
    expire = getattr(pool, "expire_connections", None)
    if state is None or expire is None or not state.startswith(STALE):
        return
    now = time.monotonic()
    for other in [other for other, at in _expired.items() if now - at >= EXPIRY_S]:
        del _expired[other]
    if pool not in _expired:
        _expired[pool] = now
        _log.warning("The connections to PostgreSQL are replaced after the error %s: %s", state, _said(error))
        await expire()


def _said(error: Exception) -> str:
    """Return the server's words: asyncpg cannot write an error without any."""
    return "; ".join(map(str, error.args)) or type(error).__name__
