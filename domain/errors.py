"""Everything that Threadfold raises on purpose.

ThreadfoldError
├── InvalidInput            a value that cannot be taken; names its field
├── NotFound
│   ├── UnknownThread
│   ├── UnknownGraph
│   ├── UnknownTurn
│   ├── UnknownApproval     nothing waits for this decision
│   ├── UnknownEvent        the thread has no such version
│   ├── UnknownSeal
│   ├── NotSealedYet        no seal covers the event so far
│   └── UnknownProjection
├── Conflict
│   ├── VersionConflict     the thread has moved on
│   ├── ThreadBusy          a turn is running
│   ├── ThreadAlreadyOpen   opened before, otherwise
│   ├── UnopenedThread      not opened yet
│   ├── TurnHasEnded        there is nothing left to cancel
│   ├── NotRetriable        not the last turn, or it ended well
│   ├── ApprovalChanged     what was shown is not what would run
│   ├── WrongGraph          open with another graph than the one asked for
│   ├── NotRebuildable      a read model is not in the state that is asked of it
│   ├── CommandReused       an idempotency key with another body
│   └── VerificationRuns    the log is being verified
├── StoreUnavailable        the database does not answer
│   └── Overloaded          more is to be stored than the database takes
├── BehindLog               a read model has not seen yet what the caller has
├── Unwritable              rows of a read model that its table does not take
├── LeaseLost               another worker runs this shard now
├── InvalidGraph            a graph that cannot be built; names the node
├── BadExport               files that are no export, or not as they were written
├── LogNotEmpty             a log can only be put where there is none
├── CorruptLog              stored events that do not verify or cannot be read
├── CannotSeal              there is no key, or the last seal is another key's
├── NodeTimeout             a node ran longer than it may
├── UserCodeFailed          an agent's code tried to end the process, or was cancelled by itself
├── TurnIsOver              the turn ended, or another worker took it, while a node was still at work
├── WaitsForPerson          a node cannot go on before a person decides
├── BudgetExhausted         too little is left of a limit for a call of a model
├── PromptTooLarge          instructions, tools and the newest messages do not fit
├── ToolError               a tool's own failure, told to the model
└── ModelError              (domain/models/chat.py) a model that did not answer

A class's docstring is its message where none is given. Status codes are the API's business.
"""

from datetime import datetime

from domain.ids import ThreadId, TurnId, Version


class ThreadfoldError(Exception):
    """Something went wrong."""

    def __init__(self, message: str | None = None) -> None:
        """Say `message`, or else what the class's docstring says."""
        super().__init__(message or (type(self).__doc__ or "").strip().partition("\n")[0])


class InvalidInput(ThreadfoldError):
    """A value cannot be taken."""

    def __init__(self, field: str, why: str) -> None:
        """Name the field (a dotted path, such as `values.seats.0`) and say what was expected."""
        super().__init__(f"{field}: {why}")
        self.field = field
        self.why = why


class NotFound(ThreadfoldError):
    """There is no such thing."""


class UnknownThread(NotFound):
    """There is no thread with this id."""

    def __init__(self, thread_id: ThreadId) -> None:
        """Name the thread."""
        super().__init__(f"There is no thread {thread_id}. POST /v1/threads opens one.")
        self.thread_id = thread_id


class UnknownGraph(NotFound):
    """No graph of this name is registered."""

    def __init__(self, name: str, known: tuple[str, ...]) -> None:
        """Name the graph, and those that there are."""
        super().__init__(f"There is no graph {name!r}. Registered are: {', '.join(known)}.")
        self.name = name


class UnknownTurn(NotFound):
    """The thread has no such turn, or it has not begun."""

    def __init__(self, turn_id: TurnId) -> None:
        """Name the turn."""
        super().__init__(f"The thread has no turn {turn_id}, or it has not begun yet.")


class UnknownApproval(NotFound):
    """Nothing in this thread waits for this decision."""

    def __init__(self, approval: Version) -> None:
        """Name the approval."""
        super().__init__(
            f"Nothing waits for a decision under {approval}: it was taken, or the turn has ended. "
            "GET /v1/threads/{thread_id}/approvals lists what waits."
        )


class UnknownEvent(NotFound):
    """The thread has no such version."""

    def __init__(self, thread_id: ThreadId, version: int, last: Version) -> None:
        """Name the event, and the versions that there are."""
        super().__init__(f"The thread {thread_id} has versions 1 to {last}, no version {version}.")


class UnknownSeal(NotFound):
    """There is no seal with this number."""

    def __init__(self, number: int, last: int) -> None:
        """Name the seal, and those that there are."""
        there = f"Seals 1 to {last} were made so far." if last else "No seal was made so far."
        super().__init__(f"There is no seal {number}. {there}")


class NotSealedYet(NotFound):
    """No seal covers the event so far."""

    def __init__(self, thread_id: ThreadId, version: Version, due: datetime | None) -> None:
        """Name the event, and say when a seal is due (None: this process makes none)."""
        when = "This process makes no seals: SIGNING_KEY is not set."
        if due is not None:
            when = f"The next one is due at {due:%Y-%m-%dT%H:%M:%SZ}; ask again then."
        super().__init__(f"No seal covers version {version} of the thread {thread_id} yet. {when}")


class UnknownProjection(NotFound):
    """There is no projection of this name."""

    def __init__(self, name: str, known: tuple[str, ...]) -> None:
        """Name what was asked for, and what there is."""
        super().__init__(f"There is no projection {name!r}; there are {', '.join(known)}.")


class Conflict(ThreadfoldError):
    """The thread is not as the caller believes."""


class VersionConflict(Conflict):
    """The thread has moved on since the version that the caller saw."""

    def __init__(self, expected: Version, actual: Version) -> None:
        """Give the version that was expected and the one that was found."""
        super().__init__(
            f"The thread is at version {actual}, version {expected} was expected. Read it again and decide anew."
        )
        self.expected = expected
        self.actual = actual


class ThreadBusy(Conflict):
    """A turn is running in this thread. Wait for its end, or say by `strategy` what is to become of it."""


class ThreadAlreadyOpen(Conflict):
    """The thread is open already, with another graph or other values."""


class UnopenedThread(Conflict):
    """The thread has not been opened. POST /v1/threads opens one."""


class TurnHasEnded(Conflict):
    """This turn neither runs nor waits in this thread, so there is nothing to cancel."""


class NotRetriable(Conflict):
    """Only the thread's last turn can be retried, if it failed or was cancelled before its last node had ended."""


class ApprovalChanged(Conflict):
    """What was shown is not what would run."""

    def __init__(self, shown: str, actual: str) -> None:
        """Give the hash that the decision names, and the hash of what waits."""
        super().__init__(f"The decision is about {shown!r}, but what waits is {actual!r}. Look at it again.")


class WrongGraph(Conflict):
    """The thread is open with another graph."""

    def __init__(self, asked: str, actual: str) -> None:
        """Name the graph that was asked for and the one that the thread has."""
        super().__init__(
            f"The thread is open with the graph {actual!r}, not {asked!r}. Leave graph out, or open another."
        )


class NotRebuildable(Conflict):
    """The read model is not in the state that is asked of it."""


class StillBehind(NotRebuildable):
    """The older read model has not read as much as the one that serves. Wait until it has."""


class CommandReused(Conflict):
    """This idempotency key came with another request before. Use a new key for a new request."""


class VerificationRuns(Conflict):
    """The log is being verified by this process already. Ask again when that has ended."""


class StoreUnavailable(ThreadfoldError):
    """The database does not answer. Try again later; a command may be repeated with its idempotency key."""


class Overloaded(StoreUnavailable):
    """More is to be stored than the database takes just now. Try again in a second."""


class BehindLog(ThreadfoldError):
    """The read model has not seen yet what the caller has seen. Ask again, or ask for an older version."""


class Unwritable(ThreadfoldError):
    """A row cannot be stored in the table of a read model."""

    def __init__(self, table: str, why: str) -> None:
        """Name the table, and say what the store says."""
        super().__init__(f"{table}: {why}")
        self.table = table


class LeaseLost(ThreadfoldError):
    """Another worker runs this shard now."""


class InvalidGraph(ThreadfoldError):
    """The graph cannot be built."""


class BadExport(ThreadfoldError):
    """The files are no export of a log, or are not as they were written."""


class LogNotEmpty(ThreadfoldError):
    """There is a log already, or the beginning of one. An export can only be imported into an empty database."""


class CorruptLog(ThreadfoldError):
    """The stored events do not verify."""


class CannotSeal(ThreadfoldError):
    """SIGNING_KEY is not set, so nothing can be signed. `threadfold seals key` makes a key."""


class NodeTimeout(ThreadfoldError):
    """A node ran longer than its timeout."""


class UserCodeFailed(ThreadfoldError):
    """An agent's code ended in a way that is no ordinary error, such as `sys.exit()`. The message says in which."""


class TurnIsOver(ThreadfoldError):
    """The turn ended while a node was still at work on it."""


class WaitsForPerson(ThreadfoldError):
    """The turn cannot go on before a person decides. Let it pass through your node."""


class BudgetExhausted(ThreadfoldError):
    """Too little is left of a budget for a call of a model."""


class PromptTooLarge(ThreadfoldError):
    """What the model must be shown does not fit into the context window."""

    def __init__(self, tokens: int, limit: int) -> None:
        """Give what it takes at least, and what there is, in tokens."""
        super().__init__(
            f"The prompt takes {tokens} tokens at least; {limit} are allowed. Raise CONTEXT_WINDOW_LIMIT, or shorten "
            "the instructions and the tools' descriptions."
        )


class ToolError(ThreadfoldError):
    """A tool could not do what was asked. Its message is told to the model."""
