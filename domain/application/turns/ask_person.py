"""Questions of a node to a person or to the customer. The turn waits for the answer, for days if need be.

When the answer is there, the node runs again from its beginning, in any process, and gets it from the thread's state.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Literal, TypeVar

from domain.agents.output import Output
from domain.application.turns.node_attempt import NodeAttempt
from domain.application.turns.token_counting import count_tokens
from domain.errors import WaitsForPerson
from domain.thread.commands import AskQuestion
from domain.thread.size_limits import check_message_text
from domain.thread.state import Question

T = TypeVar("T")


@dataclass
class AskedInAttempt:
    """The questions that one attempt at a node has asked so far: how often each text, and numbers for new ones."""

    texts: dict[str, int] = field(default_factory=dict)
    numbers: Iterator[int] = field(default_factory=count)


async def ask_question(
    node: NodeAttempt, before: AskedInAttempt, text: str, output: Output[T], to: Literal["person", "customer"]
) -> T:
    """Return the answer if there is one.

    A question is known by its text, so attempts may ask in different orders: several questions at a time do. If an
    attempt asks the same text several times, these questions are known by their order.

    An answer that does not fit `output` is asked for again, with the error.

    Raises:
        WaitsForPerson: the question was asked and is not answered yet.
        InvalidInput: the question is too long.
    """
    check_message_text(text, "question")
    run, shown = node.run, text
    asked = [question for question in node.state.turn.questions if not question.call]
    while (question := _known(asked, before, shown, to)) and question.answered:
        try:
            return output.check(question.answer)
        except ValueError as error:
            shown = f"{text}\n\nThe last answer does not fit: {error}"
    if question is None:
        taken = {question.number for question in asked}
        number = next(number for number in before.numbers if number not in taken)
        tokens = await count_tokens(run.services.tokens, shown)
        ask = AskQuestion(run.turn_id, node.state.turn.step, shown, tokens, to, output.schema, number, run.number)
        await node.report(ask)
    raise WaitsForPerson


def _known(asked: Sequence[Question], before: AskedInAttempt, text: str, to: str) -> Question | None:
    """Return the recorded question of this text, the first that this attempt has not asked yet."""
    known = [question for question in asked if (question.text, question.to) == (text, to)]
    index = before.texts.get(text, 0)
    before.texts[text] = index + 1
    return known[index] if index < len(known) else None
