"""A thread's folded state: what the next decision needs, and no more.

The whole transcript is not in here: it is read from the log, in pages. The live window is compacted whenever a turn
begins with more than the model could be shown, so that rehydration costs the same at any age.
"""

from typing import ClassVar, Literal, TypeAlias
from uuid import UUID

from msgspec import Struct

from domain.chat import ToolCall
from domain.ids import Version
from domain.json import JsonObject


class Message(Struct, frozen=True, omit_defaults=True):
    """A message of the live window. `version` is that of the event which brought it.

    An assistant's message collects its calls; a tool's message answers `call`.
    """

    version: Version
    role: Literal["user", "assistant", "tool"]
    content: str | None
    tokens: int
    tool_calls: tuple[ToolCall, ...] = ()
    call_id: str | None = None
    name: str | None = None


class Call(Struct, frozen=True):
    """A tool call of the turn in progress: requested, then started. Once it has an outcome it is a message."""

    version: Version
    request: ToolCall
    status: Literal["requested", "started"] = "requested"


class Summary(Struct, frozen=True):
    """What stands for the messages up to and including `through`."""

    through: Version
    text: str
    tokens: int


class Turn(Struct, frozen=True):
    """The turn in progress.

    `node` is in flight, for the `attempt`th time; `step` counts the nodes that this turn has completed. Together
    with the turn's id they name the attempt, so that a repeated report of it decides nothing. `prompt_tokens` of
    `prompt_limit` were in the last prompt.
    """

    turn_id: UUID
    graph: str
    started: Version
    node: str
    step: int = 0
    attempt: int = 1
    calls: tuple[Call, ...] = ()
    prompt_tokens: int = 0
    prompt_limit: int = 0


class Ended(Struct, frozen=True):
    """How the last turn ended."""

    turn_id: UUID
    outcome: Literal["completed", "failed"]
    reason: str | None = None
    detail: str | None = None


class Thread(Struct, frozen=True):
    """What an open thread carries from turn to turn."""

    graph: str
    values: JsonObject
    opened_with: str
    """A digest of the values that it was opened with, to know a repeated opening by."""
    window: tuple[Message, ...] = ()
    summary: Summary | None = None
    turns: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    last_turn: Ended | None = None


class Unopened(Struct, frozen=True, tag="unopened"):
    """Nothing has happened yet."""

    in_turn: ClassVar[bool] = False

    version: Version = Version(0)


class Idle(Struct, frozen=True, tag="idle"):
    """Waiting for a user's message."""

    in_turn: ClassVar[bool] = False

    version: Version
    thread: Thread


class Running(Struct, frozen=True, tag="running"):
    """The agent is at work."""

    in_turn: ClassVar[bool] = True

    version: Version
    thread: Thread
    turn: Turn


State: TypeAlias = Unopened | Idle | Running

INITIAL = Unopened()
