from benchmarks.side_by_side.alternate import Played
from benchmarks.side_by_side.figures import quantiles
from benchmarks.side_by_side.ratios import Figure, ratio, ratio_of
from benchmarks.side_by_side.report import Report, as_json, table

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
    compared = ratio(PLAYED, "ours", "theirs", RATE)
    assert compared is not None
    assert (compared.pairs, compared.median, compared.low, compared.high) == ([10, 6, 9], 9, 6, 10)
    assert str(compared) == "9 (6 to 10)"


def test_where_less_is_better_less_makes_a_larger_ratio() -> None:
    compared = ratio(PLAYED, "ours", "theirs", CPU)
    assert compared is not None
    assert compared.pairs == [2, 5, 2]


def test_there_is_no_ratio_to_nothing() -> None:
    assert ratio(PLAYED, "ours", "theirs", Figure("unknown", "")) is None
    assert ratio_of([1.0], [0.0], "more") is None


def test_a_report_has_every_figure_of_every_round() -> None:
    report = Report("busy", "How busy", [RATE, CPU], [PLAYED], {})
    told = as_json(report)
    assert told["cases"][0]["rounds"] == PLAYED.rounds
    assert told["cases"][0]["times_better"]["ours"]["theirs"]["rate"]["median"] == 9
    assert [*table(report).columns[0].cells] == ["busy", ""]
    assert [*table(report).columns[-1].cells] == ["", "9 (6 to 10)"]


def test_quantiles_are_milliseconds() -> None:
    assert quantiles([0.001 * n for n in range(100)]) == {"p50_ms": 50.0, "p99_ms": 99.0, "max_ms": 99.0}
