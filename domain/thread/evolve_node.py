"""The fold of what the node in flight has recorded so far: its items, what models answered to it, and its questions."""

from typing import TypeAlias

from msgspec.structs import replace

from domain.ids import Version
from domain.thread.events import (
    FanOutStarted,
    ItemAdvanced,
    ItemCompleted,
    ItemFailed,
    ModelAnswered,
    QuestionAnswered,
    QuestionAsked,
)
from domain.thread.state import Answer, Item, Question, Turn

OfItem: TypeAlias = ItemAdvanced | ItemCompleted | ItemFailed

OfNode: TypeAlias = ModelAnswered | QuestionAsked | QuestionAnswered | FanOutStarted | OfItem


def evolve_node(turn: Turn, event: OfNode, version: Version) -> Turn:
    """Apply an event that a node or one of its items caused before the node's end."""
    match event:
        case ModelAnswered():
            return replace(turn, answers=_with_answer(turn.answers, event))
        case QuestionAsked() | QuestionAnswered():
            return _with_question(turn, event, version)
        case FanOutStarted():
            return _with_items(turn, event.fan_out, tuple(Item(value) for value in event.items))
        case ItemAdvanced() | ItemCompleted() | ItemFailed():
            # The item or its node is done, or the next attempt asks models again.
            of = (event.index, event.fan_out)
            answers = tuple(answer for answer in turn.answers if (answer.item, answer.fan_out) != of)
            turn = turn if len(answers) == len(turn.answers) else replace(turn, answers=answers)
            items = turn.items_of(event.fan_out) or ()
            return _with_items(turn, event.fan_out, _with_item(items, event))


def _with_answer(answers: tuple[Answer, ...], event: ModelAnswered) -> tuple[Answer, ...]:
    """Keep what a later attempt needs: the answer to a question."""
    if not event.question:
        return answers
    return (*answers, Answer(event.question, event.number, event.content or "", event.item, event.fan_out))


def _with_question(turn: Turn, event: QuestionAsked | QuestionAnswered, version: Version) -> Turn:
    """Ask or answer a question. The call that asks waits like one that needs an approval, and then runs again."""
    match event:
        case QuestionAsked(call=call):
            asked = Question(version, event.text, event.hash, event.schema, event.to, event.number, Version(call))
            questions, status = (*turn.questions, asked), "asked"
        case QuestionAnswered():
            answered = next(question for question in turn.questions if question.version == event.question)
            call, status = answered.call, "granted"
            done = replace(answered, answered=True, answer=event.answer)
            questions = tuple(done if question is answered else question for question in turn.questions)
    calls = tuple(
        replace(each, status=status, because="question" if status == "asked" else each.because)
        if call and each.version == call
        else each
        for each in turn.calls
    )
    return replace(turn, questions=questions, calls=calls)


def _with_items(turn: Turn, fan_out: int, items: tuple[Item, ...]) -> Turn:
    if fan_out == 0:
        return replace(turn, items=items)
    more = turn.more_items
    return replace(turn, more_items=(*more[: fan_out - 1], items, *more[fan_out:]))


def _with_item(items: tuple[Item, ...], event: OfItem) -> tuple[Item, ...]:
    match event:
        case ItemAdvanced():
            before = items[event.index]
            changed = Item(before.value, step=before.step + 1, node=event.next, values=event.values)
        case ItemCompleted():
            changed = Item(items[event.index].value, done=True, result=event.result, attempt=items[event.index].attempt)
        case ItemFailed():
            changed = replace(items[event.index], attempt=event.attempt + 1)
    return (*items[: event.index], changed, *items[event.index + 1 :])
