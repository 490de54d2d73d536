"""A thread's folded state: what the next decision needs, and no more.

The whole transcript is not in here: it is read from the log, in pages. The live window is compacted whenever a turn
begins with more than the model could be shown, so that rehydration costs the same at any age.
"""

from datetime import datetime
from typing import ClassVar, Literal, TypeAlias
from uuid import UUID

from msgspec import Struct

from domain.ids import Version
from domain.json import Json, JsonObject
from domain.models.answers import Finish
from domain.models.chat import ToolCall
from domain.thread.events import ContextAssembled, Durability, Limit, Strategy
from domain.thread.repeated_calls import Repeat
from domain.windows import Window

Because: TypeAlias = Literal["policy", "outcome_unknown"]
"""Why a person is asked about a call: because its tool says so, or because a crash left open whether it ran."""


class Message(Struct, frozen=True, omit_defaults=True, gc=False):
    """A message of the live window. `version` is that of the event which brought it, `edited` of one that changed it.

    An assistant's message collects its calls; a tool's message answers the one of them at the place `answers`. `extra`
    is what else the endpoint `origin` said with the message: see `domain.models.chat`.
    """

    version: Version
    role: Literal["user", "assistant", "tool"]
    content: str | None
    tokens: int
    tool_calls: tuple[ToolCall, ...] = ()
    call_id: str | None = None
    name: str | None = None
    partial: bool = False
    edited: Version = Version(0)
    answers: int | None = None
    extra: JsonObject = {}
    origin: str = ""


class Call(Struct, frozen=True, omit_defaults=True, gc=False):
    """A tool call of the turn in progress. Once it has an outcome it is a message.

    It is requested, perhaps asked about and granted by a person, and started, for the `attempt`th time. `hash` names
    what the person was shown. `place` is its place among the calls of the message that asks for it: ids may repeat.
    """

    version: Version
    request: ToolCall
    status: Literal["requested", "asked", "granted", "started"] = "requested"
    attempt: int = 0
    hash: str = ""
    because: Because = "policy"
    place: int = 0


class Summary(Struct, frozen=True, gc=False):
    """What stands for the messages up to and including `through`. `said` is the version of the event that has it."""

    through: Version
    text: str
    tokens: int
    said: Version = Version(0)


class NodeApproval(Struct, frozen=True, gc=False):
    """What a person has to say about the node in flight. `version` names the question."""

    version: Version
    hash: str
    granted: bool = False


class Item(Struct, frozen=True, omit_defaults=True, gc=False):
    """One item of the list that the node in flight works on; `result` says something once it is `done`."""

    value: Json
    done: bool = False
    result: Json = None
    attempt: int = 1


class ModelUsage(Struct, frozen=True, gc=False):
    """What a thread has used of a model: calls, and tokens. `cached_tokens` of prompts were in a cache."""

    model: str
    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0


class Before(Struct, frozen=True, gc=False):
    """What the thread was like before the turn: rolling back returns to it."""

    values: JsonObject
    window: tuple[Message, ...]
    summary: Summary | None
    said_tokens: int = 0
    prompt: ContextAssembled | None = None


class Turn(Struct, frozen=True, omit_defaults=True, gc=False):
    """The turn in progress.

    `node` is in flight, for the `attempt`th time; `step` counts the nodes that this turn has completed, and `run` how
    often it was resumed. Together with the turn's id they name the attempt, so that a
    report of it that comes late or twice decides nothing. `prompt_tokens` of `prompt_limit` were in the last prompt;
    `usage` is what this turn has used of models. `everything` is how many tokens the prompt that is about to be
    answered would have had, if it held all that was ever said. `repeats` counts calls of tools that told nothing new.
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
    run: int = 0
    durability: Durability = "sync"
    before: Before | None = None
    approval: NodeApproval | None = None
    items: tuple[Item, ...] | None = None
    cancelling: Literal["cancelled", "interrupted", "rolled_back"] | None = None
    usage: tuple[ModelUsage, ...] = ()
    everything: int = 0
    repeats: tuple[Repeat, ...] = ()
    finish: Finish = ""
    """How the agent's last message ended, where that is not the usual way."""

    @property
    def waits(self) -> bool:
        """Whether it cannot go on before a person decides: then nobody runs it."""
        if self.cancelling:
            return False
        if self.approval and not self.approval.granted:
            return True
        return bool(self.calls) and all(call.status == "asked" for call in self.calls)


TurnOutcome: TypeAlias = Literal["completed", "failed", "cancelled", "rolled_back"]


class Ended(Struct, frozen=True, gc=False):
    """How the last turn ended, and at which node. `reason`: why, or what is to be known of its answer."""

    turn_id: UUID
    outcome: TurnOutcome
    reason: str | None = None
    detail: str | None = None
    node: str | None = None


class Queued(Struct, frozen=True, gc=False):
    """A message that waits for the end of the running turn. `version` is that of the event which brought it."""

    version: Version
    turn_id: UUID
    content: str
    tokens: int
    node: str
    graph: str
    durability: Durability
    strategy: Strategy


class WindowUsage(Struct, frozen=True, gc=False):
    """What was used of each model in the last window of a kind in which a model was called. It began at `start`."""

    window: Window
    start: datetime
    usage: tuple[ModelUsage, ...] = ()


class Budget(Struct, frozen=True, gc=False):
    """What the thread may spend. `version` is that of the event which said so."""

    version: Version
    limits: tuple[Limit, ...]


class Thread(Struct, frozen=True, gc=False):
    """What an open thread carries from turn to turn. `title` is the beginning of the first message of the user's.

    `messages` counts what was said, by the user and the agent, over the thread's whole life. So does `usage` what was
    used of models; `windows` has the same for the last hour, day and month in which there was any. `said_tokens` are
    what a prompt would take that held every message there ever was, with those of tools. `rolled_back` counts the turns
    that were. `prompt` is the fact about the last prompt: the next one begins as that did.
    """

    graph: str
    values: JsonObject
    opened_with: str
    """A digest of the values that it was opened with, to know a repeated opening by."""
    window: tuple[Message, ...] = ()
    summary: Summary | None = None
    turns: int = 0
    messages: int = 0
    said_tokens: int = 0
    title: str = ""
    usage: tuple[ModelUsage, ...] = ()
    windows: tuple[WindowUsage, ...] = ()
    budget: Budget | None = None
    last_turn: Ended | None = None
    queue: tuple[Queued, ...] = ()
    rolled_back: int = 0
    prompt: ContextAssembled | None = None

    @property
    def limits(self) -> tuple[Limit, ...]:
        """What the thread may spend; nothing limits it without any."""
        return self.budget.limits if self.budget else ()

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all prompts."""
        return sum(used.prompt_tokens for used in self.usage)

    @property
    def completion_tokens(self) -> int:
        """Tokens of all answers."""
        return sum(used.completion_tokens for used in self.usage)


class Unopened(Struct, frozen=True, tag="unopened", gc=False):
    """Nothing has happened yet."""

    in_turn: ClassVar[bool] = False
    waiting: ClassVar[bool] = False

    version: Version = Version(0)


class Idle(Struct, frozen=True, tag="idle", gc=False):
    """Waiting for a user's message."""

    in_turn: ClassVar[bool] = False
    waiting: ClassVar[bool] = False

    version: Version
    thread: Thread


class Running(Struct, frozen=True, tag="running", gc=False):
    """The agent is at work, or waits for a person."""

    version: Version
    thread: Thread
    turn: Turn

    @property
    def in_turn(self) -> bool:
        """Whether there is something to run."""
        return not self.turn.waits

    @property
    def waiting(self) -> bool:
        """Whether a person has to decide first."""
        return self.turn.waits


State: TypeAlias = Unopened | Idle | Running

INITIAL = Unopened()
