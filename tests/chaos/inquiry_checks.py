"""What the runs of `inquiry` count faults with: a thread's log, what its model was asked, and the effects."""

from bisect import bisect
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import pairwise

from domain.json import Json
from domain.thread.codec import Recorded
from domain.thread.events import (
    ItemAdvanced,
    ItemCompleted,
    ItemFailed,
    MessageAppended,
    ModelAnswered,
    NodeCompleted,
    NodeFailed,
    QuestionAnswered,
    QuestionAsked,
    StateUpdated,
    ToolSucceeded,
    TurnResumed,
    TurnStarted,
)
from tests.chaos.asked_model import Paid
from tests.chaos.effects import Effect, repeated
from tests.chaos.inquiry import BROKEN, answer_of, mark

FOREVER = float("inf")


@dataclass
class Faults:
    """The faults of a run, by kind."""

    stuck: list[str] = field(default_factory=list)
    """Turns that did not complete."""
    doubled: list[str] = field(default_factory=list)
    """Effects that happened twice: of tools that may run once, and of items that were complete or got another key."""
    paid_twice: list[str] = field(default_factory=list)
    """Answers that were paid for again although the log had them, or though no worker had died."""
    asked_twice: list[str] = field(default_factory=list)
    """Questions to people that were asked twice."""
    lost: list[str] = field(default_factory=list)
    """Answers that were lost, changed or given to another question."""
    others: list[str] = field(default_factory=list)

    @property
    def all(self) -> list[str]:
        """Every fault."""
        return [fault for each in fields(self) for fault in getattr(self, each.name)]


@dataclass
class Known:
    """An answer that the log has, from `since` to `until`: then the attempt that it belongs to has failed."""

    prompt: str
    since: float
    place: tuple[int | None, int]
    number: int
    until: float = FOREVER


@dataclass(frozen=True)
class Placed:
    """An event with its time in seconds since 1970, its turn, counted from 1, and its node."""

    at: float
    event: object
    turn: int
    node: str
    version: int


def check(
    recorded: Sequence[Recorded],
    paid: Sequence[Paid],
    effects: Sequence[Effect],
    given: Mapping[int, Json],
    deaths: Sequence[float],
) -> Faults:
    """Compare a thread's log with what happened outside.

    `given` are the answers of people by the version of their question. `deaths` are times at which workers died.
    """
    story, faults = list(_placed(recorded)), Faults()
    known = list(_known(story, faults))
    faults.paid_twice += _paid_though_known(known, paid) + _paid_for_no_reason(story, known, paid, deaths)
    faults.doubled += repeated(effects, "book") + _items_doubled(story, effects)
    _check_questions(story, given, faults)
    _check_values(story, faults)
    succeeded = Counter(each.event.content for each in story if isinstance(each.event, ToolSucceeded))
    happened = sum(effect.kind == "book" for effect in effects)
    if sum(count for text, count in succeeded.items() if text.startswith("booked")) > happened:
        faults.lost.append(f"{succeeded} are in the log, {happened} bookings happened")
    return faults


def _placed(recorded: Sequence[Recorded]) -> Iterator[Placed]:
    turn, node = 0, ""
    for each in recorded:
        if isinstance(each.event, TurnStarted):
            turn, node = turn + 1, each.event.node
        yield Placed(each.recorded_at.timestamp(), each.event, turn, node, each.version)
        if isinstance(each.event, NodeCompleted):
            node = each.event.next


def _known(story: Sequence[Placed], faults: Faults) -> Iterator[Known]:
    """Yield what the log knew, and when; an answer that it got twice is a fault."""
    current: list[Known] = []
    for each in story:
        match each.event:
            case ModelAnswered(question=question, prompt=prompt, item=item, fan_out=fan_out, number=number) if question:
                if any((one.prompt, one.number, one.place) == (prompt, number, (item, fan_out)) for one in current):
                    faults.paid_twice.append(f"the answer to {prompt!r} is in the log twice")
                one = Known(prompt, each.at, (item, fan_out), number)
                current.append(one)
                yield one
            case MessageAppended(role="assistant", content=content) if content:
                yield Known(content, each.at, (None, 0), 0)
            case NodeFailed():
                for one in current:
                    one.until = each.at
                current.clear()
            case ItemFailed(index=index, fan_out=fan_out):
                for one in [one for one in current if one.place == (index, fan_out)]:
                    one.until = each.at
                    current.remove(one)
            case ItemAdvanced(index=index, fan_out=fan_out) | ItemCompleted(index=index, fan_out=fan_out):
                current = [one for one in current if one.place != (index, fan_out)]  # known for ever
            case NodeCompleted():
                current.clear()  # known for ever


def _paid_though_known(known: Sequence[Known], paid: Sequence[Paid]) -> list[str]:
    return [
        f"{one.prompt!r} was paid for {one.at - answer.since:.3f} s after its answer was recorded"
        for one in paid
        for answer in known
        if answer.prompt in {one.prompt, mark(one.prompt)} and answer.since < one.at < answer.until
    ]


def _paid_for_no_reason(
    story: Sequence[Placed], known: Sequence[Known], paid: Sequence[Paid], deaths: Sequence[float]
) -> list[str]:
    """List what was paid for twice while no worker died, no attempt failed, and no worker lost the turn."""
    failures = [each.at for each in story if isinstance(each.event, NodeFailed | ItemFailed)]
    # The record of a failed attempt is lost if its worker dies before it is stored. The first answer to a `flaky`
    # prompt is broken, and the attempt fails right after it.
    flaky = sorted((one for one in paid if one.prompt.startswith("flaky ")), key=lambda one: -one.at)
    failures += [at + 1e-6 for at in {one.prompt: one.at for one in flaky}.values()]
    pairs = pairwise(story)
    lost = [
        after.at
        for before, after in pairs
        if isinstance(after.event, TurnResumed) and not isinstance(before.event, QuestionAnswered)
    ]
    reasons = sorted([*failures, *lost, *deaths])
    last, faults = dict[tuple[str, bool], float](), []
    for one in sorted(paid, key=lambda each: each.at):
        before = last.get((one.prompt, one.corrects))
        if before is not None and bisect(reasons, before) == bisect(reasons, one.at):
            faults.append(f"{one.prompt!r} was paid for twice within {one.at - before:.3f} s, and nothing had failed")
        last[one.prompt, one.corrects] = one.at
    return faults


def _items_doubled(story: Sequence[Placed], effects: Sequence[Effect]) -> list[str]:
    """List items with several idempotency keys, keys of several items, and items that ran after they were complete.

    The nodes of an item's graph are checked like items: their effects are called steps.
    """
    faults, done = [], dict[str, float]()
    for each in story:
        if isinstance(each.event, ItemCompleted):
            item = f"item {each.turn}/{each.node}/{each.event.fan_out}/{each.event.index}"
            if item in done:
                faults.append(f"{item} is complete twice")
            done[item] = each.at
        if isinstance(each.event, ItemAdvanced):
            step = f"step {each.turn}/{each.node}/{each.event.fan_out}/{each.event.index}/{each.event.node}"
            if step in done:
                faults.append(f"{step} is complete twice")
            done[step] = each.at
    keys, items = dict[str, set[str]](), dict[str, set[str]]()
    for effect in effects:
        if not effect.kind.startswith(("item ", "step ")):
            continue
        keys.setdefault(effect.kind, set()).add(effect.key)
        items.setdefault(effect.key, set()).add(effect.kind)
        if effect.at > done.get(effect.kind, FOREVER):
            faults.append(f"{effect.kind} ran again after it was complete")
    faults += [f"{item} had the keys {sorted(its)}" for item, its in keys.items() if len(its) > 1]
    faults += [f"{key} is the key of {sorted(its)}" for key, its in items.items() if len(its) > 1]
    return faults


def _check_questions(story: Sequence[Placed], given: Mapping[int, Json], faults: Faults) -> None:
    """Check that each question was asked once and answered once, with the answer that was given."""
    asked = {each.version: each.event for each in story if isinstance(each.event, QuestionAsked)}
    texts = Counter(event.text for event in asked.values())
    faults.asked_twice += [f"{text!r} was asked {count} times" for text, count in texts.items() if count > 1]
    shown = [e.event.content for e in story if isinstance(e.event, MessageAppended) and e.event.role == "assistant"]
    faults.asked_twice += [
        f"the customer was asked {event.text!r} {times} times"
        for event in asked.values()
        if event.to == "customer" and (times := shown.count(event.text)) != 1
    ]
    answers = [each.event for each in story if isinstance(each.event, QuestionAnswered)]
    times_answered = Counter(answer.question for answer in answers)
    for version in sorted({*asked, *times_answered, *given}):
        if times_answered[version] != 1:
            text = asked[version].text if version in asked else "no question"
            faults.lost.append(f"the question {version} ({text!r}) was answered {times_answered[version]} times")
    faults.lost += [
        f"{given.get(answer.question)!r} was given to question {answer.question}, {answer.answer!r} is in the log"
        for answer in answers
        if given.get(answer.question) != answer.answer
    ]


def _check_values(story: Sequence[Placed], faults: Faults) -> None:
    """Check that the agent got for each prompt and question what answers it."""
    for each in story:
        heard = each.event.changes.get("heard") if isinstance(each.event, StateUpdated) else None
        for prompt, answer in heard.items() if isinstance(heard, dict) else ():
            if answer == BROKEN or answer != answer_of(prompt):
                faults.lost.append(f"{prompt!r} was answered with {answer!r} instead of {answer_of(prompt)!r}")
            if prompt.split(" ")[1].split("/")[0] != str(each.turn):
                faults.lost.append(f"turn {each.turn} has the answer to {prompt!r}")
