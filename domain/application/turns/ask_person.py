"""Questions of a node to a person or to the customer. The turn waits for the answer, for days if need be.

When the answer is there, the node runs again from its beginning, in any process, and gets it from the thread's state.
"""

from collections.abc import Iterator
from typing import Literal, TypeVar

from domain.agents.output import Output
from domain.application.turns.node_attempt import NodeAttempt
from domain.application.turns.token_counting import count_tokens
from domain.errors import WaitsForPerson
from domain.thread.commands import AskQuestion
from domain.thread.size_limits import check_message_text

T = TypeVar("T")


async def ask_question(
    node: NodeAttempt, numbers: Iterator[int], text: str, output: Output[T], to: Literal["person", "customer"]
) -> T:
    """Return the answer if there is one. `numbers` counts the node's questions, from 0.

    An answer that does not fit `output` is asked for again, with the error.

    Raises:
        WaitsForPerson: the question was asked and is not answered yet.
        InvalidInput: the question is too long.
    """
    check_message_text(text, "question")
    run, number, shown = node.run, next(numbers), text
    asked = {question.number: question for question in node.state.turn.questions if not question.call}
    while (question := asked.get(number)) and question.answered:
        try:
            return output.check(question.answer)
        except ValueError as error:
            number, shown = next(numbers), f"{text}\n\nThe last answer does not fit: {error}"
    if question is None:
        tokens = await count_tokens(run.services.tokens, shown)
        ask = AskQuestion(run.turn_id, node.state.turn.step, shown, tokens, to, output.schema, number, run.number)
        await node.report(ask)
    raise WaitsForPerson
