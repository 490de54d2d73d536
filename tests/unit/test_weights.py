"""Token counts of messages after edits, changed arguments and rollbacks."""

from uuid import UUID, uuid4

from msgspec.structs import replace

from domain.agents.assistant import assistant
from domain.application.fork import Fork, fork
from domain.ids import ThreadId, Version
from domain.models.chat import MESSAGE_OVERHEAD, ToolCall, estimate_tokens
from domain.thread.approvals import hash_of_call
from domain.thread.codec import Metadata
from domain.thread.commands import DecideApproval, EditMessage
from domain.thread.events import (
    ApprovalGranted,
    ApprovalRequested,
    ContextAssembled,
    Event,
    HistoryCompacted,
    MessageAppended,
    MessageEdited,
    ModelCalled,
    NodeCompleted,
    ThreadForked,
    ToolRequested,
    ToolStarted,
    ToolSucceeded,
    TurnCompleted,
    TurnRolledBack,
    TurnStarted,
)
from domain.thread.evolve import fold
from domain.thread.state import INITIAL, Idle, Thread, Unopened
from tests.support.given import A_RUNNING_TURN, OTHER_TURN, TURN, given, running
from tests.support.runtime import calls, double, says, stage

ASSISTANT = Version(4)
CALL = Version(5)
SHORT = {"to": "Mia"}
LONG = {"to": "Mia", "text": "word " * 30}
ASKING = (*A_RUNNING_TURN, MessageAppended("assistant", None, 12), ToolRequested("a", "send", SHORT))
HASH = hash_of_call("send", SHORT)
WAITING = (*ASKING, ApprovalRequested(HASH, CALL))
MORE = estimate_tokens([ToolCall("a", "send", LONG)]) - estimate_tokens([ToolCall("a", "send", SHORT)])


def thread(*events: Event) -> Thread:
    state = fold(INITIAL, events)
    assert not isinstance(state, Unopened)
    return state.thread


def weights(found: Thread) -> list[int]:
    return [message.tokens for message in found.window]


class TestEdits:
    def test_an_edited_message_still_has_the_calls_that_it_asks_for(self) -> None:
        weight = estimate_tokens([ToolCall("a", "send", SHORT)])
        assert weight > 0
        given(*ASKING).when(EditMessage(ASSISTANT, "a moment", 2)).then(MessageEdited(4, "a moment", 2 + weight))
        given(*ASKING).when(EditMessage(Version(3), "hi", 1)).then(MessageEdited(3, "hi", 1))

    def test_all_that_was_said_has_the_new_tokens(self) -> None:
        before, after = thread(*ASKING), thread(*ASKING, MessageEdited(4, "a moment", 20))
        assert after.said_tokens - before.said_tokens == 20 - 12
        assert after.window[1].tool_calls == before.window[1].tool_calls
        assert weights(after) == [1, 20]

    def test_what_is_not_in_the_window_any_more_changes_nothing(self) -> None:
        compacted = (*A_RUNNING_TURN, HistoryCompacted(3, "hello was said", 3))
        assert thread(*compacted, MessageEdited(3, "hi", 99)) == thread(*compacted)

    async def test_a_fork_whose_assistant_message_is_edited_counts_its_calls(self) -> None:
        played = stage(assistant(tools=[double]), calls(("double", {"number": 4})), says("8"))
        await played.say("double four")
        window = (await played.repository.load(played.thread_id)).state.thread.window  # type: ignore[union-attr]
        (asking,) = (message for message in window if message.tool_calls)
        edit = EditMessage(asking.version, "I double it.", 3)
        child = ThreadId(uuid4())
        end = (await played.repository.load(played.thread_id)).head.version
        await fork(played.repository, child, Fork(played.thread_id, end, edits=(edit,)), Metadata())
        forked = (await played.repository.load(child)).state
        assert isinstance(forked, Idle)
        found = next(message for message in forked.thread.window if message.version == asking.version)
        assert found.tokens == 3 + estimate_tokens(asking.tool_calls)


class TestRollingBack:
    FORKED = (
        *A_RUNNING_TURN,
        NodeCompleted("route_intent", "END", 1, 1),
        TurnCompleted(TURN),
        TurnStarted(OTHER_TURN, "route_intent", "f00"),
        MessageAppended("user", "and now?", 2),
        ThreadForked(UUID(int=9), 7),
    )

    def test_an_edit_that_was_made_in_the_fork_stays(self) -> None:
        after = thread(*self.FORKED, MessageEdited(3, "hello again, my friend", 4), TurnRolledBack(OTHER_TURN))
        assert [(message.content, message.tokens) for message in after.window] == [("hello again, my friend", 4)]
        assert after.said_tokens == 4 + MESSAGE_OVERHEAD

    def test_an_edit_of_what_is_rolled_back_goes_with_it(self) -> None:
        after = thread(*self.FORKED, MessageEdited(7, "and now, my friend?", 4), TurnRolledBack(OTHER_TURN))
        assert [(message.content, message.tokens) for message in after.window] == [("hello", 1)]
        assert after.said_tokens == 1 + MESSAGE_OVERHEAD


class TestGranting:
    def test_longer_arguments_count(self) -> None:
        granting = DecideApproval(CALL, HASH, "grant", LONG)
        given(*WAITING).when(granting).then(ApprovalGranted(CALL, LONG))
        before, after = thread(*WAITING), thread(*WAITING, ApprovalGranted(CALL, LONG))
        assert MORE > 0
        assert weights(after) == [1, 12 + MORE]
        assert after.said_tokens == before.said_tokens + MORE
        assert after.window[-1].tool_calls == (ToolCall("a", "send", LONG),)

    def test_the_arguments_that_were_asked_for_weigh_what_they_did(self) -> None:
        given(*WAITING).when(DecideApproval(CALL, HASH, "grant", SHORT)).then(ApprovalGranted(CALL))
        assert weights(thread(*WAITING, ApprovalGranted(CALL))) == [1, 12]

    def test_shorter_ones_never_weigh_less_than_nothing(self) -> None:
        asked = (*A_RUNNING_TURN, MessageAppended("assistant", None, 1), ToolRequested("a", "send", LONG))
        waiting = (*asked, ApprovalRequested(hash_of_call("send", LONG), CALL))
        after = thread(*waiting, ApprovalGranted(CALL, {}))
        assert weights(after) == [1, 0]
        assert after.said_tokens == 1 + 2 * MESSAGE_OVERHEAD

    def test_an_earlier_call_of_the_same_name_and_label_stays_as_it_was(self) -> None:
        earlier = (*ASKING, ToolStarted(CALL), ToolSucceeded(CALL, "sent", 1, 5))
        again = (*earlier, MessageAppended("assistant", None, 12), ToolRequested("a", "send", SHORT))
        after = thread(*again, ApprovalRequested(HASH, 9), ApprovalGranted(9, LONG))
        asked = [message.tool_calls for message in after.window if message.tool_calls]
        assert asked == [(ToolCall("a", "send", SHORT),), (ToolCall("a", "send", LONG),)]
        assert weights(after) == [1, 12, 1, 12 + MORE]


class TestWhatAPromptOfEverythingWouldHave:
    ASSEMBLED = ContextAssembled(3, 3, 30, 100, fixed=20)
    SAID = 1 + MESSAGE_OVERHEAD

    def test_it_is_known_from_a_prompt_that_says_what_is_fixed_until_that_is_answered(self) -> None:
        asking = (*A_RUNNING_TURN, replace(self.ASSEMBLED, of=3))
        assert running(*asking).turn.everything == 20 + self.SAID
        assert running(*asking, ModelCalled("m", 30, 2, 5, "stop")).turn.everything == 0

    def test_prompts_that_do_not_say_it_leave_it_open(self) -> None:
        assert running(*A_RUNNING_TURN, self.ASSEMBLED).turn.everything == 0

    def test_a_summary_leaves_it_open(self) -> None:
        compacted = (*A_RUNNING_TURN, HistoryCompacted(3, "hello was said", 3))
        assert running(*compacted).turn.everything == 0
        assert running(*compacted, self.ASSEMBLED).turn.everything == 0

    def test_what_left_the_window_is_still_part_of_it(self) -> None:
        compacted = (*A_RUNNING_TURN, HistoryCompacted(3, "hello was said", 3), replace(self.ASSEMBLED, of=4))
        assert running(*compacted).turn.everything == 20 + self.SAID
