"""Questions of nodes and tools: asking them, answering them, and recording what models answer to them."""

from domain.errors import ApprovalChanged, InvalidInput, UnknownApproval
from domain.json import check_json
from domain.thread import events
from domain.thread.commands import AnswerQuestion, AskQuestion, RecordAnswer
from domain.thread.evolve import digest
from domain.thread.size_limits import MAX_VALUES_CHARACTERS, check_json_size, check_text_size
from domain.thread.state import Question, Running, State
from domain.thread.turn_end import Events

MAX_ANSWERS = 1_000
"""Maximum number of recorded answers of models in one node's folded state."""


def decide_question(command: AskQuestion | RecordAnswer, state: Running) -> Events:
    """Decide a report about a question of the node in flight. Raises `InvalidInput`."""
    return _ask(command, state) if isinstance(command, AskQuestion) else _record_answer(command, state)


def _ask(command: AskQuestion, state: Running) -> Events:
    """Return the events of a question; none if it was asked before. Raises `InvalidInput`."""
    if state.turn.step != command.step:
        return ()
    if any((q.call, q.number) == (command.call, command.number) for q in state.turn.questions):
        return ()
    if command.call and not any(c.version == command.call and c.status == "started" for c in state.turn.calls):
        return ()
    check_text_size(command.text, "question")
    check_json_size(command.schema, "schema", MAX_VALUES_CHARACTERS)
    shown = digest({"question": command.text, "schema": command.schema, "turn": str(command.turn_id)})
    asked = events.QuestionAsked(command.text, shown, command.schema, command.to, command.number, command.call)
    if command.to == "person":
        return (asked,)
    if state.turn.calls:
        raise InvalidInput("question", "the customer can be asked while no tool call is open; run the calls first")
    return (events.MessageAppended("assistant", command.text, command.tokens), asked)


def answer(command: AnswerQuestion, state: State) -> Events:
    """Return the event of a person's answer.

    Raises:
        UnknownApproval: no question of this version waits for a person.
        ApprovalChanged: the person saw another question.
        InvalidInput: the answer is not JSON, or too large.
    """
    check_json(command.answer, "answer")
    check_json_size(command.answer, "answer", MAX_VALUES_CHARACTERS)
    question = open_question(state, command.question)
    if question is None or question.to != "person":
        raise UnknownApproval(command.question)
    if question.hash != command.hash:
        raise ApprovalChanged(command.hash, question.hash)
    return (events.QuestionAnswered(question.version, command.answer),)


def open_question(state: State, version: int) -> Question | None:
    """Return the question of this version if the turn waits for its answer."""
    if not isinstance(state, Running) or state.turn.cancelling:
        return None
    return next((question for question in state.turn.open_questions if question.version == version), None)


def question_for_customer(state: Running) -> Question | None:
    """Return the question that the customer's next message answers."""
    if state.turn.cancelling:
        return None
    return next((question for question in state.turn.open_questions if question.to == "customer"), None)


def _record_answer(command: RecordAnswer, state: Running) -> Events:
    """Return the events of a model's answer; none if the node went on meanwhile. Raises `InvalidInput`."""
    given = command.answer
    if state.turn.step != command.step:
        return ()
    if len(state.turn.answers) >= MAX_ANSWERS:
        raise InvalidInput("ask", f"one node may ask {MAX_ANSWERS:,} questions; spread them over several nodes")
    for field, text in (("prompt", given.prompt), ("instructions", given.instructions), ("answer", given.content)):
        check_text_size(text, f"ask.{field}")
    return (*command.calls, given)
