"""What every channel of wake-ups does."""

import asyncio
from collections.abc import Sequence

from domain.ids import DEFAULT_TENANT, Version
from domain.ports.wakeups import Delta, NewEvents, SharesChanged, TurnReady, Wakeup, Wakeups, Watched, Withdrawn
from tests.streams import new_thread

Pair = tuple[Wakeups, Wakeups]


async def heard(pair: Pair, *sent: Wakeup, enough: int) -> list[Wakeup]:
    """Send from one end and collect at the other."""
    one, other = pair
    words: list[Wakeup] = []
    stop = other.listen(words.append)
    for word in sent:
        one.send(word)
    async with asyncio.timeout(60):
        while len(words) < enough:
            await asyncio.sleep(0.01)
    stop()
    return words


def text_of(words: Sequence[Wakeup]) -> str:
    text = ""
    for word in words:
        assert isinstance(word, Delta)
        assert word.offset == len(text)
        text += word.text
    return text


async def test_each_word_reaches_the_others_and_not_oneself(wakeups: Pair) -> None:
    thread_id, own = new_thread(), list[Wakeup]()
    wakeups[0].listen(own.append)
    sent = (
        SharesChanged(),
        TurnReady(thread_id, DEFAULT_TENANT),
        NewEvents(thread_id, Version(3)),
        Withdrawn(thread_id, Version(3)),
        Watched(thread_id),
    )
    assert await heard(wakeups, *sent, enough=5) == list(sent)
    assert own == []


async def test_that_a_turn_may_have_ended_is_heard_even_if_more_happens_at_once(wakeups: Pair) -> None:
    thread_id, heard = new_thread(), list[Wakeup]()
    wakeups[1].listen(heard.append)
    wakeups[0].send(NewEvents(thread_id, Version(3), ended=True))
    wakeups[0].send(NewEvents(thread_id, Version(5), ended=False))
    async with asyncio.timeout(60):
        while not any(isinstance(word, NewEvents) and word.version == 5 for word in heard):
            await asyncio.sleep(0.01)
    assert any(isinstance(word, NewEvents) and word.ended for word in heard)


async def test_what_is_spoken_arrives_whole_however_long_it_is(wakeups: Pair) -> None:
    thread_id, said = new_thread(), "Grüße 🛫 " * 10_000 + '"\\\n' * 5_000
    pieces = [said[start : start + 700] for start in range(0, len(said), 700)]
    words = [Delta(thread_id, Version(7), 700 * n, piece) for n, piece in enumerate(pieces)]
    got: list[Wakeup] = []
    wakeups[1].listen(got.append)
    for word in words:
        wakeups[0].send(word)
    async with asyncio.timeout(60):
        while sum(len(word.text) for word in got if isinstance(word, Delta)) < len(said):
            await asyncio.sleep(0.01)
    assert text_of(got) == said


async def test_a_listener_that_fails_keeps_nobody_else_from_hearing(wakeups: Pair) -> None:
    def fail(_: Wakeup) -> None:
        raise RuntimeError("not today")

    wakeups[1].listen(fail)
    assert await heard(wakeups, SharesChanged(), enough=1) == [SharesChanged()]


async def test_who_stopped_listening_hears_no_more(wakeups: Pair) -> None:
    deaf: list[Wakeup] = []
    wakeups[1].listen(deaf.append)()
    await heard(wakeups, SharesChanged(), enough=1)
    assert deaf == []
