import asyncio
from argparse import Namespace

from benchmarks.contestants.exchanges import exchange_of, exchanges, said
from benchmarks.side_by_side.alternate import Played
from benchmarks.side_by_side.figures import quantiles
from benchmarks.side_by_side.growth import conversations, marks
from benchmarks.side_by_side.load import drive, post
from benchmarks.side_by_side.ratios import Figure, ratio, ratio_of
from benchmarks.side_by_side.report import Report, as_json, table
from benchmarks.side_by_side.stretches import stretches

RATE = Figure("rate", "a second")
CPU = Figure("cpu", "CPU", "less")

PLAYED = Played(
    "busy",
    ["ours", "theirs"],
    [
        {"ours": {"rate": 100, "cpu": 2}, "theirs": {"rate": 10, "cpu": 4}},
        {"ours": {"rate": 120, "cpu": 1}, "theirs": {"rate": 20, "cpu": 5}},
        {"ours": {"rate": 90, "cpu": 2}, "theirs": {"rate": 10, "cpu": 4}},
    ],
)


def test_ratios_are_made_pair_by_pair() -> None:
    compared = ratio(PLAYED, "theirs", RATE)
    assert compared is not None
    assert (compared.pairs, compared.median, compared.low, compared.high) == ([10, 6, 9], 9, 6, 10)
    assert str(compared) == "9 (6 to 10)"


def test_where_less_is_better_less_makes_a_larger_ratio() -> None:
    compared = ratio(PLAYED, "theirs", CPU)
    assert compared is not None
    assert compared.pairs == [2, 5, 2]


def test_there_is_no_ratio_to_nothing() -> None:
    assert ratio(PLAYED, "theirs", Figure("unknown", "")) is None
    assert ratio_of([1.0], [0.0], "more") is None


def test_each_of_ours_is_compared_with_each_rival() -> None:
    played = Played(
        "busy",
        ["ours", "ours, too", "theirs"],
        [{**around, "ours, too": {"rate": 30, "cpu": 1}} for around in PLAYED.rounds],
        own=2,
    )
    told = as_json(Report("busy", "How busy", [RATE, CPU], [played], {}))["cases"][0]["times_better"]
    assert told["ours"]["theirs"]["rate"]["pairs"] == [10, 6, 9]
    assert told["ours, too"]["theirs"]["rate"]["pairs"] == [3, 1.5, 3]


def test_a_report_has_every_figure_of_every_round() -> None:
    report = Report("busy", "How busy", [RATE, CPU], [PLAYED], {})
    told = as_json(report)
    assert told["cases"][0]["rounds"] == PLAYED.rounds
    assert told["cases"][0]["times_better"]["ours"]["theirs"]["rate"]["median"] == 9
    assert [*table(report).columns[0].cells] == ["busy", ""]
    assert [*table(report).columns[-1].cells] == ["", "9 (6 to 10)"]


def test_stretches_stand_in_the_middle_of_their_shares() -> None:
    assert [*stretches(Namespace(turns=200, stretches=1, length=10))] == [range(95, 105)]
    assert [*stretches(Namespace(turns=200, stretches=5, length=4))] == [
        range(start, start + 4) for start in (18, 58, 98, 138, 178)
    ]
    assert [*stretches(Namespace(turns=20, stretches=5, length=4))] == [range(20)]


def test_a_conversation_has_what_was_recorded_and_no_two_are_in_step() -> None:
    assert len(exchanges()) > 100
    assert exchange_of(said(3, 5)).question in said(3, 5)
    assert len({said(thread, 0) for thread in range(15)}) == 15


class Answers(asyncio.Protocol):
    """A server that answers in two pieces."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        assert data.endswith(b"}")
        self.transport.write(b"HTTP/1.1 200 OK\r\ncontent-")
        asyncio.get_running_loop().call_later(0.001, self.transport.write, b"length: 4\r\n\r\ndone")


async def test_clients_tell_of_every_request() -> None:
    server = await asyncio.get_running_loop().create_server(Answers, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        outcome = await drive(port, [[post("/turns", {"at": at}) for at in range(3)]] * 4)
        await asyncio.sleep(0.05)
    assert outcome.statuses == {200: 12}
    assert len(outcome.seconds) == 12


def test_quantiles_are_milliseconds() -> None:
    assert quantiles([0.001 * n for n in range(100)]) == {"p50_ms": 50.0, "p99_ms": 99.0, "max_ms": 99.0}


def test_conversations_of_any_length_have_as_many_turns_in_all() -> None:
    assert [(turns, conversations(turns, 400)) for turns in marks(200)] == [(10, 40), (50, 8), (200, 2)]


def test_no_conversation_is_measured_alone() -> None:
    assert conversations(1000, 400) == 2
