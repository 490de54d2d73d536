"""A thread's folded state: what the next decision needs, and no more.

It does not hold the whole transcript, which is read from the log in pages. The live window is compacted when it no
longer fits into a prompt, so that loading a thread costs the same at any age.
"""

from datetime import datetime
from typing import ClassVar, Literal, TypeAlias
from uuid import UUID

from msgspec import Struct

from domain.ids import Version
from domain.json import Json, JsonObject
from domain.models.answers import Finish
from domain.models.chat import OutputFormat, ToolCall
from domain.thread.events import ContextAssembled, Durability, Limit, Strategy
from domain.thread.repeated_calls import Repeat
from domain.windows import Window

Because: TypeAlias = Literal["policy", "outcome_unknown", "question"]
"""What a call waits for: its tool requires an approval, a crash left its outcome unknown, or it asked a question."""


class Message(Struct, frozen=True, omit_defaults=True, gc=False):
    """A message of the live window. `version` is the event that added it, `edited` the last event that changed it.

    An assistant's message has its tool calls. A tool's message answers the call at the index `answers` of them, and has
    its `outcome` unless the call succeeded.
    `extra` is what the endpoint `origin` sent in addition to the message: see `domain.models.chat`.
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
    outcome: Literal["", "failed", "unknown", "denied"] = ""


class Call(Struct, frozen=True, omit_defaults=True, gc=False):
    """An open tool call of the turn in progress. When it has an outcome it becomes a message.

    It is requested, perhaps asked about and granted by a person, and started, for the `attempt`th time. `hash`
    identifies what the person saw. `place` is the call's index among the calls of its message: ids may repeat.
    `reason` is why the tool itself asked for approval when it was last asked about; `approved`: a person granted that.
    """

    version: Version
    request: ToolCall
    status: Literal["requested", "asked", "granted", "started"] = "requested"
    attempt: int = 0
    hash: str = ""
    because: Because = "policy"
    place: int = 0
    reason: str = ""
    approved: bool = False


class Summary(Struct, frozen=True, gc=False):
    """The summary of the messages up to and including `through`. `said` is the version of the event that has it."""

    through: Version
    text: str
    tokens: int
    said: Version = Version(0)


class NodeApproval(Struct, frozen=True, gc=False):
    """An approval that the node in flight needs. `version` identifies the approval."""

    version: Version
    hash: str
    granted: bool = False


class Item(Struct, frozen=True, omit_defaults=True, gc=False):
    """One item of the list that the node in flight processes. `result` is valid once it is `done`.

    An item that runs a graph has completed `step` nodes of it. If that is more than 0, `node` is the next one, and
    `values` are the item's values.
    """

    value: Json
    done: bool = False
    result: Json = None
    attempt: int = 1
    step: int = 0
    node: str = ""
    values: JsonObject = {}


class Answer(Struct, frozen=True, omit_defaults=True, gc=False):
    """What a model answered to a question of the node in flight, or of one of its items; see `ModelAnswered`."""

    question: str
    number: int
    content: str
    item: int | None = None
    fan_out: int = 0


class Question(Struct, frozen=True, omit_defaults=True, gc=False):
    """A question of the node in flight, or of its open tool call of the version `call`. See `QuestionAsked`."""

    version: Version
    text: str
    hash: str
    schema: JsonObject = {}
    to: Literal["person", "customer"] = "person"
    number: int = 0
    call: Version = Version(0)
    answered: bool = False
    answer: Json = None


class ModelUsage(Struct, frozen=True, gc=False):
    """Calls and tokens of one model. `cached_tokens` is how many tokens of the prompts were in a cache."""

    model: str
    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0


class Before(Struct, frozen=True, gc=False):
    """The parts of the thread's state that a rollback restores, as they were before the turn."""

    values: JsonObject
    window: tuple[Message, ...]
    summary: Summary | None
    said_tokens: int = 0
    prompt: ContextAssembled | None = None


class Turn(Struct, frozen=True, omit_defaults=True, gc=False):
    """The turn in progress.

    `node` is in flight, for the `attempt`th time. `step` is the number of completed nodes, `run` how often the turn was
    resumed. With the turn's id they identify the attempt, so that late or repeated reports of it are ignored.
    The last prompt had `prompt_tokens` of at most `prompt_limit`. `usage` is this turn's use of models. `everything` is
    how many tokens the current prompt would have if it held every message of the thread. `repeats` counts repeated
    tool calls.
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
    """How the agent's last message ended, unless it ended normally."""
    more_items: tuple[tuple[Item, ...], ...] = ()
    """The items of the node's second and later fan-outs."""
    answers: tuple[Answer, ...] = ()
    """What models have answered to the node in flight, outside of the conversation."""
    questions: tuple[Question, ...] = ()
    """Questions of the node in flight and of its open calls, with the answers."""
    agent_version: str = ""
    """The version of the agent that the turn began with."""
    tool_retries: tuple[tuple[str, int], ...] = ()
    """How often each tool has asked the model to call it again, for those that have."""
    output: OutputFormat | None = None
    """What the client wants the turn's answer to be; None: as the agent answers."""

    @property
    def open_questions(self) -> tuple[Question, ...]:
        """The questions that have no answer yet."""
        return tuple(question for question in self.questions if not question.answered)

    @property
    def all_items(self) -> tuple[Item, ...]:
        """The items of all fan-outs of the node."""
        return sum(self.more_items, self.items or ())

    def items_of(self, fan_out: int) -> tuple[Item, ...] | None:
        """Return the items of the node's fan-out of this number, from 0; None if it has not started."""
        if fan_out == 0:
            return self.items
        return self.more_items[fan_out - 1] if fan_out <= len(self.more_items) else None

    @property
    def has_open_work(self) -> bool:
        """Whether failing the turn would lose what people, tools or items have done for its node.

        A person was asked about the node or a call, or has granted it; a call has started; the node works on a list, or
        has asked a model, a person or the customer.
        """
        open_calls = any(call.status != "requested" for call in self.calls)
        return bool(self.approval or open_calls or self.items or self.questions or self.answers)

    @property
    def waits(self) -> bool:
        """Whether the turn cannot go on before a person decides. Then no worker runs it."""
        if self.cancelling:
            return False
        if self.approval and not self.approval.granted:
            return True
        if self.questions and any(not asked.call for asked in self.open_questions):
            return True
        return bool(self.calls) and all(call.status == "asked" for call in self.calls)


TurnOutcome: TypeAlias = Literal["completed", "failed", "cancelled", "rolled_back"]


class Ended(Struct, frozen=True, gc=False):
    """How the last turn ended, and at which node. `reason` says why, or how its answer is unusual.

    `output` is what its answer must be, kept for a retry.
    """

    turn_id: UUID
    outcome: TurnOutcome
    reason: str | None = None
    detail: str | None = None
    node: str | None = None
    output: OutputFormat | None = None


class Queued(Struct, frozen=True, omit_defaults=True, gc=False):
    """A message that waits for the end of the running turn. `version` is the event that added it."""

    version: Version
    turn_id: UUID
    content: str
    tokens: int
    node: str
    graph: str
    durability: Durability
    strategy: Strategy
    agent_version: str = ""
    output: OutputFormat | None = None


class WindowUsage(Struct, frozen=True, gc=False):
    """The use of each model in the last window of a kind that had a model call. The window began at `start`."""

    window: Window
    start: datetime
    usage: tuple[ModelUsage, ...] = ()


class Budget(Struct, frozen=True, gc=False):
    """The limits of the thread's spending. `version` is the event that set them."""

    version: Version
    limits: tuple[Limit, ...]


class Thread(Struct, frozen=True, gc=False):
    """What an open thread carries from turn to turn. `title` is the beginning of the user's first message.

    `messages` counts the messages of the user and the agent over the thread's whole life, `usage` the use of models.
    `windows` has the usage of the last hour, day and month with a model call. `said_tokens` is the size of a prompt
    that holds every message of the thread, including those of tools. `rolled_back` is the number of rolled back turns.
    `prompt` describes the last prompt: the next prompt begins like it. `subject` is the customer that the thread is
    about, "" if none was given. `opened_limits` are those that the thread was opened with.
    """

    graph: str
    values: JsonObject
    opened_with: str
    """A digest of the values that the thread was opened with, to recognise a repeated opening."""
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
    subject: str = ""
    opened_limits: tuple[Limit, ...] = ()

    @property
    def limits(self) -> tuple[Limit, ...]:
        """The thread's limits; an empty tuple without a budget."""
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
    """The thread has no events."""

    in_turn: ClassVar[bool] = False
    waiting: ClassVar[bool] = False

    version: Version = Version(0)


class Idle(Struct, frozen=True, tag="idle", gc=False):
    """No turn is running: the thread waits for a user's message."""

    in_turn: ClassVar[bool] = False
    waiting: ClassVar[bool] = False

    version: Version
    thread: Thread


class Running(Struct, frozen=True, tag="running", gc=False):
    """A turn is in progress: the agent is at work, or waits for a person."""

    version: Version
    thread: Thread
    turn: Turn

    @property
    def in_turn(self) -> bool:
        """Whether a worker has something to run."""
        return not self.turn.waits

    @property
    def waiting(self) -> bool:
        """Whether the turn waits for a person's decision."""
        return self.turn.waits


State: TypeAlias = Unopened | Idle | Running

INITIAL = Unopened()
