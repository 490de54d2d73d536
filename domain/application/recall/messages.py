"""Reads messages from the log, with the role or tool that said each."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from domain.application.thread_repository import ThreadRepository
from domain.ids import ThreadId, Version
from domain.recall.excerpts import FoundMessage
from domain.thread.codec import Recorded
from domain.thread.events import MessageAppended, MessageEdited, ToolFailed, ToolRequested, ToolSucceeded


async def read_messages(
    repository: ThreadRepository,
    thread_id: ThreadId,
    versions: Sequence[Version],
    tools: Mapping[int, str] = MappingProxyType({}),
) -> Mapping[int, FoundMessage]:
    """Read messages, whether their turns succeeded or not. Versions of other events are ignored.

    `tools` names the tools of results, by version, as far as they are known.
    """
    found = await repository.at(thread_id, versions)
    unnamed = {version: event for version, event in found.items() if version not in tools}
    who = await _who(repository, thread_id, unnamed)
    messages: dict[int, FoundMessage] = {}
    for version, recorded in found.items():
        match recorded.event:
            case MessageAppended(role=role, content=str(content), tokens=tokens):
                messages[version] = FoundMessage(Version(version), role, content, tokens=tokens)
            case ToolSucceeded(call=call, content=said, tokens=size) | ToolFailed(call=call, error=said, tokens=size):
                tool = tools.get(version) or who[call]
                messages[version] = FoundMessage(Version(version), tool, said, tokens=size)
            case MessageEdited(message=edited, content=content, tokens=tokens):
                messages[version] = FoundMessage(Version(version), who[edited], content, Version(edited), tokens)
    return messages


async def _who(repository: ThreadRepository, thread_id: ThreadId, events: Mapping[int, Recorded]) -> Mapping[int, str]:
    """Return who said each message that an edit replaces, and the tool of each call that a result answers."""
    about = set[int]()
    for recorded in events.values():
        match recorded.event:
            case ToolSucceeded(call=version) | ToolFailed(call=version) | MessageEdited(message=version):
                about.add(version)
    if not about:
        return {}
    found = await repository.at(thread_id, about)
    tools = await _who(repository, thread_id, found)
    who: defaultdict[int, str] = defaultdict(lambda: "tool")
    for version, recorded in found.items():
        match recorded.event:
            case ToolRequested(tool=tool):
                who[version] = tool
            case ToolSucceeded(call=call) | ToolFailed(call=call):
                who[version] = tools[call]
            case MessageAppended(role=role):
                who[version] = role
    return who
