"""Scopes: what a principal may do. No scope includes another one."""

from collections.abc import Iterable, Mapping
from typing import Literal, TypeAlias, get_args

from domain.errors import InvalidInput

Scope: TypeAlias = Literal[
    "threads:read",
    "threads:write",
    "approvals:decide",
    "audit:read",
    "limits:write",
    "operate",
    "admin",
    "actor:impersonate",
]

SCOPES: tuple[Scope, ...] = get_args(Scope)

MEANINGS: Mapping[Scope, str] = {
    "threads:read": "Read threads, turns, streams, the feed, read models and limits.",
    "threads:write": "Open threads, start, retry and cancel turns, fork, replay.",
    "approvals:decide": "Grant and deny approvals, and answer questions to a person.",
    "audit:read": "Read the audit and the access log; verify and prove events.",
    "limits:write": "Set budgets of threads and limits of the tenant.",
    "operate": "See and manage the whole instance: tenants, workers, projections, metrics, seals.",
    "admin": "Manage the tenant's API keys.",
    "actor:impersonate": "Name the person that a request acts for, with X-Actor.",
}

DEFAULT_SCOPES: tuple[Scope, ...] = ("threads:read", "threads:write", "approvals:decide")
"""The scopes of a key that is created without a choice: those of an application that serves users."""


def scopes_of(names: Iterable[str], field: str = "scopes") -> tuple[Scope, ...]:
    """Return scopes by their names, in the order of `SCOPES` and without repetitions.

    Raises:
        InvalidInput: a name is no scope, or there is none; names `field`.
    """
    given = set(names)
    if unknown := sorted(given.difference(SCOPES)):
        raise InvalidInput(field, f"unknown scope {unknown[0][:50]!r}; scopes are {', '.join(SCOPES)}")
    if not given:
        raise InvalidInput(field, f"must name at least one of {', '.join(SCOPES)}")
    return tuple(scope for scope in SCOPES if scope in given)
