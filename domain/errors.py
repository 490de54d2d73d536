"""Everything that Threadfold raises on purpose.

ThreadfoldError
├── InvalidInput            a value is not accepted; names its field
├── NotFound
│   ├── UnknownThread
│   ├── UnknownGraph
│   ├── UnknownAgent        a replay names an agent that is not registered
│   ├── UnknownTurn
│   ├── UnknownApproval     no call or node waits for this decision
│   ├── UnknownEvent        the thread has no such version
│   ├── UnknownSeal
│   ├── NotSealedYet        no seal covers the event yet
│   ├── UnknownProjection
│   ├── UnknownKey
│   └── UnknownTenant
├── Conflict
│   ├── VersionConflict     the thread has changed since the caller read it
│   ├── ThreadBusy          a turn is running
│   ├── ThreadAlreadyOpen   opened before with another graph, subject, other values or limits
│   ├── UnopenedThread
│   ├── TurnHasEnded        the turn can no longer be cancelled
│   ├── NotRetriable        not the last turn, or it did not fail
│   ├── ApprovalChanged     the decision is about something other than what waits
│   ├── MissingNode         the turn stands at a node that the agent does not have any more
│   ├── WrongGraph          the thread is open with another graph
│   ├── NotRebuildable      the read model is not in the required state
│   │   └── StillBehind     its new version has not caught up
│   ├── CommandReused       an idempotency key with another request
│   ├── TenantExists
│   └── VerificationRuns    another verification is running
├── Unauthenticated         no key or token, or one that is not valid
├── Forbidden               the principal lacks a scope
├── TooManyRequests         a key or tenant exceeds its rate, or has too many streams open
├── StoreUnavailable        the database does not answer
│   └── Overloaded          the queue of writes is full
├── IssuerUnavailable       the issuer of tokens does not answer
├── BehindLog               a read model has not caught up with the caller
├── Unwritable              rows that a read model's table does not accept
├── LeaseLost               another worker has the lease of this shard
├── InvalidGraph            a graph cannot be built; names the node
├── BadExport               files that are not an export, or were changed
├── LogNotEmpty             an import needs an empty database
├── CorruptLog              stored events do not verify or cannot be read
├── CannotSeal              there is no key, or another key made the last seal
├── NodeTimeout             a node ran longer than its timeout
├── UserCodeFailed          an agent's code tried to end the process, or cancelled itself
├── TurnIsOver              the turn ended, or another worker took it over, while a node was running
├── WaitsForPerson          a node cannot go on before a person decides
├── BudgetExhausted         too little of a budget is left for a model call
├── PromptTooLarge          instructions, tools and the newest messages do not fit
├── ToolError               a tool failed; the model reads the message
│   ├── Retry               the model should call the tool again, corrected
│   └── InvalidArguments    a tool cannot be called with these arguments
└── ModelError              (domain/models/chat.py) a model did not answer

ApprovalRequired (a BaseException) suspends a tool that needs a person's approval before it goes on.

A class's docstring is its default message. HTTP status codes are assigned in `api/`.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from domain.ids import ThreadId, TurnId, Version


class ThreadfoldError(Exception):
    """Something went wrong."""

    def __init__(self, message: str | None = None) -> None:
        """Without a `message`, the first line of the class's docstring is the message."""
        super().__init__(message or (type(self).__doc__ or "").strip().partition("\n")[0])


class InvalidInput(ThreadfoldError):
    """A value is not accepted."""

    def __init__(self, field: str, why: str) -> None:
        """`field` is a dotted path such as `values.seats.0`; `why` says what was expected."""
        super().__init__(f"{field}: {why}")
        self.field = field
        self.why = why


class NotFound(ThreadfoldError):
    """The requested object does not exist."""


class UnknownThread(NotFound):
    """There is no thread with this id."""

    def __init__(self, thread_id: ThreadId, field: str = "thread_id") -> None:
        """`field` is where the caller named it."""
        super().__init__(f"There is no thread {thread_id}. POST /v1/threads opens one.")
        self.thread_id = thread_id
        self.field = field


class UnknownGraph(NotFound):
    """No graph of this name is registered."""

    def __init__(self, name: str, known: tuple[str, ...]) -> None:
        super().__init__(f"Unknown graph {name!r}; known graphs: {', '.join(known)}. AGENTS names others to load.")


class UnknownAgent(NotFound):
    """No agent of this name is registered."""

    def __init__(self, name: str, known: tuple[str, ...]) -> None:
        super().__init__(f"Unknown agent {name!r}; known agents: {', '.join(known)}.")


class UnknownTurn(NotFound):
    """The thread has no such turn, or the turn has not started."""

    def __init__(self, turn_id: TurnId) -> None:
        super().__init__(f"The thread has no turn {turn_id}, or the turn has not started.")


class UnknownApproval(NotFound):
    """No call or node of this thread waits for this decision."""

    def __init__(self, approval: Version) -> None:
        """`approval` is the version that names the approval."""
        super().__init__(
            f"No approval {approval} is pending: it was decided already, or the turn has ended. "
            "GET /v1/threads/{thread_id}/approvals lists the pending ones."
        )


class UnknownEvent(NotFound):
    """The thread has no such version."""

    def __init__(self, thread_id: ThreadId, version: int, last: Version) -> None:
        """`last` is the thread's last version."""
        super().__init__(f"The thread {thread_id} has versions 1 to {last}, not version {version}.")


class UnknownSeal(NotFound):
    """There is no seal with this number."""

    def __init__(self, number: int, last: int) -> None:
        """`last` is the number of the last seal, 0 if there is none."""
        known = f"The log has seals 1 to {last}." if last else "The log has no seals yet."
        super().__init__(f"There is no seal {number}. {known}")


class NotSealedYet(NotFound):
    """No seal covers the event yet."""

    def __init__(self, thread_id: ThreadId, version: Version, due: datetime | None) -> None:
        """`due` is when the next seal is due; None if this process makes no seals."""
        when = "This process makes no seals: SIGNING_KEY is not set."
        if due is not None:
            when = f"The next seal is due at {due:%Y-%m-%dT%H:%M:%SZ}; retry after that."
        super().__init__(f"No seal covers version {version} of the thread {thread_id} yet. {when}")


class UnknownProjection(NotFound):
    """There is no projection of this name."""

    def __init__(self, name: str, known: tuple[str, ...]) -> None:
        super().__init__(f"Unknown projection {name!r}; known projections: {', '.join(known)}.")


class UnknownKey(NotFound):
    """There is no such API key."""

    def __init__(self, key_id: str) -> None:
        super().__init__(f"There is no API key {key_id[:40]!r}.")


class UnknownTenant(NotFound):
    """There is no such tenant."""

    def __init__(self, name: str) -> None:
        super().__init__(f"There is no tenant {name!r}. `threadfold tenants create {name}` makes it.")


class Conflict(ThreadfoldError):
    """The thread is not in a state that allows this."""


class VersionConflict(Conflict):
    """The thread has changed since the caller read it."""

    def __init__(self, expected: Version, actual: Version) -> None:
        super().__init__(
            f"The thread is at version {actual}, version {expected} was expected. Read it again, then retry."
        )
        self.expected = expected
        self.actual = actual


class ThreadBusy(Conflict):
    """A turn is running in this thread. Wait for its end, or set `strategy` to enqueue, interrupt or rollback."""


class ThreadAlreadyOpen(Conflict):
    """The thread is open already, with another graph or subject, or with other values or limits."""


class UnopenedThread(Conflict):
    """The thread has not been opened. POST /v1/threads opens one."""


class TurnHasEnded(Conflict):
    """This turn is neither running, waiting nor queued in this thread, so it cannot be cancelled."""


class NotRetriable(Conflict):
    """Only the thread's last turn can be retried, and only if it failed or was cancelled before its last node ended."""


class ApprovalChanged(Conflict):
    """The decision is about something other than what waits."""

    def __init__(self, shown: str, actual: str) -> None:
        """`shown` is the hash that the decision names, `actual` the hash of the pending call or node."""
        super().__init__(f"The decision is about {shown!r}, but {actual!r} is pending. Read the approval again.")


class MissingNode(Conflict):
    """The turn stands at a node that the agent does not have any more."""

    def __init__(self, agent: str, node: str, known: Iterable[str], advice: str) -> None:
        """`known` are the names of the nodes that the agent has in this process; `advice` says what to do."""
        super().__init__(
            f"The turn stands at the node {node!r}, which the agent {agent!r} of this process does not have; its nodes "
            f"are {', '.join(known)}. Nothing was changed. {advice}. Then repeat the request."
        )


class WrongGraph(Conflict):
    """The thread is open with another graph."""

    def __init__(self, asked: str, actual: str) -> None:
        super().__init__(
            f"The thread is open with the graph {actual!r}, not {asked!r}. Omit graph, or open another thread."
        )


class NotRebuildable(Conflict):
    """The read model is not in a state that allows this."""


class StillBehind(NotRebuildable):
    """The rebuilt read model has read less of the log than the one in use. Wait until it has caught up."""


class CommandReused(Conflict):
    """This idempotency key was used before with another request. Use a new key for a new request."""


class VerificationRuns(Conflict):
    """This process is verifying the log already. Retry when that verification has ended."""


class TenantExists(Conflict):
    """There is a tenant of this name."""


class Unauthenticated(ThreadfoldError):
    """A key is required: Authorization: Bearer <key>. `threadfold keys create NAME` makes one."""


class Forbidden(ThreadfoldError):
    """The key lacks the scope that this request needs."""

    def __init__(self, message: str, field: str = "Authorization") -> None:
        """`field` is the header at fault."""
        super().__init__(message)
        self.field = field


class TooManyRequests(ThreadfoldError):
    """The key or its tenant sends more requests than it may."""

    def __init__(self, message: str | None = None, retry_after: int = 1) -> None:
        """`retry_after` is in seconds."""
        super().__init__(message)
        self.retry_after = retry_after


class StoreUnavailable(ThreadfoldError):
    """The database does not answer. Retry later; repeat a command with the same idempotency key."""


class Overloaded(StoreUnavailable):
    """Too many writes are waiting for the database. Retry in a second."""


class IssuerUnavailable(ThreadfoldError):
    """The issuer of tokens does not answer, and the token's key is not known. Retry later; API keys still work."""


class BehindLog(ThreadfoldError):
    """The read model has not caught up with the version that was asked for. Retry, or ask for an older version."""


class Unwritable(ThreadfoldError):
    """A read model's table does not accept a row."""

    def __init__(self, table: str, why: str) -> None:
        """`why` is the store's own message."""
        super().__init__(f"{table}: {why}")
        self.table = table


class LeaseLost(ThreadfoldError):
    """Another worker has the lease of this shard."""


class InvalidGraph(ThreadfoldError):
    """The graph cannot be built."""


class BadExport(ThreadfoldError):
    """The files are not an export of a log, or were changed after the export."""


class LogNotEmpty(ThreadfoldError):
    """The database has a log already, or a part of one. An export can only be imported into an empty database."""


class CorruptLog(ThreadfoldError):
    """The stored events do not verify."""


class CannotSeal(ThreadfoldError):
    """SIGNING_KEY is not set, so no seal can be signed. `threadfold seals key` makes a key."""


class NodeTimeout(ThreadfoldError):
    """A node ran longer than its timeout."""


class UserCodeFailed(ThreadfoldError):
    """An agent's code failed with something other than an ordinary exception, such as `sys.exit()`."""


class TurnIsOver(ThreadfoldError):
    """The turn ended while one of its nodes was running."""


class WaitsForPerson(ThreadfoldError):
    """The turn cannot go on before a person decides. Do not catch this error in your node."""


class ApprovalRequired(BaseException):
    """A tool needs a person's approval before it goes on. Not an `Exception`, so `except Exception` lets it pass."""

    def __init__(self, reason: str) -> None:
        """`reason` is what the person reads."""
        super().__init__(f"A person has to approve this call: {reason}")
        self.reason = reason


class AnswerRequired(ApprovalRequired):
    """A tool has asked a person a question and needs the answer before it goes on."""

    def __init__(self, question: str, schema: dict[str, Any], number: int) -> None:
        """`schema` is the JSON schema of the answer, {} for text. `number` counts the call's questions, from 0."""
        super().__init__(question)
        self.question, self.schema, self.number = question, schema, number


class BudgetExhausted(ThreadfoldError):
    """Too little of a budget is left for a model call."""


class PromptTooLarge(ThreadfoldError):
    """The smallest possible prompt does not fit into the context window."""

    def __init__(self, tokens: int, limit: int) -> None:
        """`tokens` is the size of the smallest prompt, `limit` the maximum."""
        super().__init__(
            f"The prompt needs at least {tokens} tokens; {limit} are allowed. Raise CONTEXT_WINDOW_LIMIT, or shorten "
            "the instructions and the tools' descriptions."
        )


class ToolError(ThreadfoldError):
    """A tool failed. The model reads the message."""


class Retry(ToolError):
    """The model should call this tool again, with something corrected that the message names.

    The call has failed. The model is asked to try again up to `max_retries` times for each tool and turn.
    """

    def __init__(self, message: str | None = None, **policy: object) -> None:
        """Raises `TypeError` for the arguments of a policy: until version 0.1, `Retry` was the name of that."""
        if policy:
            raise TypeError(f"Retry(...) asks the model to call a tool again; RetryPolicy takes {', '.join(policy)}")
        super().__init__(message)


class InvalidArguments(ToolError):
    """A tool cannot be called with these arguments. The model reads the message."""

    def __init__(self, message: str, field: str = "", why: str = "") -> None:
        """`field` is a path such as `amount` or `to.city`, "" for all arguments; `why` says what was expected."""
        super().__init__(message)
        self.field = field
        self.why = why or message
