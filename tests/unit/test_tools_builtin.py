"""The built-in tools: the time, arithmetic, and looking things up in a folder."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.agents.tools import ToolContext
from domain.errors import ToolError
from domain.ids import ThreadId
from infrastructure.settings import CHECKOUT
from infrastructure.tools import builtin_tools, clock_tool, knowledge_tool
from infrastructure.tools.arithmetic import evaluate
from infrastructure.tools.knowledge import KnowledgeIndex, sections

CALL = ToolContext(ThreadId(UUID(int=1)), "call_1", "key-1")
CLOCK = clock_tool(lambda: datetime(2026, 7, 1, 12, 30, 45, 123456, tzinfo=UTC))


def test_there_are_three_that_may_be_run_again_and_are_quick(tmp_path: Path) -> None:
    tools = builtin_tools(lambda: datetime.now(UTC), tmp_path)
    assert [tool.name for tool in tools] == ["current_time", "calculate", "look_up"]
    assert all(tool.idempotent and tool.timeout <= 10 for tool in tools)


class TestCurrentTime:
    @pytest.mark.parametrize(
        ("arguments", "text"),
        [
            ({}, "2026-07-01T12:30:45+00:00 (Wednesday, UTC)"),
            ({"timezone": "Europe/Berlin"}, "2026-07-01T14:30:45+02:00 (Wednesday, Europe/Berlin)"),
            ({"timezone": "Pacific/Auckland"}, "2026-07-02T00:30:45+12:00 (Thursday, Pacific/Auckland)"),
        ],
    )
    async def test_is_told_for_a_zone(self, arguments: dict[str, Any], text: str) -> None:
        assert await CLOCK.run(arguments, CALL) == text

    @pytest.mark.parametrize(
        "zone", ["", "Berlin", "Europe", "../etc/passwd", "/etc/passwd", "a\0b", "x" * 9999, "\ud800"]
    )
    async def test_helps_with_a_zone_that_there_is_not(self, zone: str) -> None:
        with pytest.raises(ToolError, match="Europe/Berlin") as caught:
            await CLOCK.run({"timezone": zone}, CALL)
        assert len(str(caught.value)) < 200


class TestCalculate:
    @pytest.mark.parametrize(
        ("expression", "value"),
        [
            ("2 + 3 * 4", "14"),
            ("(2 + 3) * 4", "20"),
            ("0.1 + 0.2", "0.3"),
            ("1/3*3", "1"),
            ("1/3", "0.3333333333333333333333333333"),
            ("10 / 4", "2.5"),
            ("-7 // 2", "-4"),
            ("-7 % 3", "2"),
            ("2 ** 3 ** 2", "512"),
            ("-2 ** 2", "-4"),
            ("2 ** -2", "0.25"),
            ("2^10", "1024"),
            ("2 - -3 - +1", "4"),
            ("3 \u00d7 4 \u00f7 2 \u2212 1", "5"),
            ("sqrt(16) + sqrt(9/4)", "5.5"),
            ("sqrt(2)", "1.414213562373095048801688724"),
            ("abs(-2.50)", "2.5"),
            ("round(2.675, 2)", "2.68"),
            ("round(2.5)", "2"),
            ("round(1234, -2)", "1200"),
            ("min(3, 1, 2) + max(4)", "5"),
            (".5 + 1. + 1e3 + 2E-1", "1001.7"),
            ("2**200", str(2**200)),
            ("1/3e40", "3.333333333333333333333333333e-41"),
            ("1 ** 99999999 - (-1) ** 99999999", "2"),
            ("0 ** 0", "1"),
        ],
    )
    def test_is_exact(self, expression: str, value: str) -> None:
        assert evaluate(expression) == value

    @pytest.mark.parametrize(
        "expression",
        [
            "",
            " ",
            "1 +",
            "(1",
            "1)",
            "()",
            "1 2",
            "2(3)",
            "abs",
            "abs()",
            "abs(1,2)",
            "round(1,2,3)",
            "round(1, .5)",
            "x",
            "__import__('os')",
            "1j",
            "0x10",
            "1_000",
            "1 = 1",
            "1 < 2",
            "[1]",
            "1;2",
            "\u0661+\u0661",
            "lambda: 1",
            "1,2",
            "1/0",
            "1 % 0",
            "1 // 0",
            "0 ** -1",
            "sqrt(-1)",
            "2 ** 0.5",
            "round(1, 501)",
        ],
    )
    def test_refuses_what_is_no_arithmetic(self, expression: str) -> None:
        with pytest.raises(ToolError):
            evaluate(expression)

    @pytest.mark.parametrize(
        "expression",
        [
            "9**9**9",
            "9**999999999999",
            "(1/9)**99999",
            "2**3000*2**3000",
            "1e999*1e999",
            "(" * 60 + "1" + ")" * 60,
            "-" * 400 + "1",
            "1" + "**1" * 160,
            "1+" * 300 + "1",
            "sqrt(" * 90 + "2" + ")" * 90,
        ],
    )
    def test_refuses_what_would_take_too_much(self, expression: str) -> None:
        with pytest.raises(ToolError):
            evaluate(expression)

    @settings(deadline=None)
    @given(st.text() | st.text(st.sampled_from("0123456789.eE+-*/%^(), sqrtabound"), max_size=60))
    def test_answers_any_text_with_a_value_or_a_tool_error(self, expression: str) -> None:
        try:
            value = evaluate(expression)
        except ToolError as error:
            said = str(error)
        else:
            assert Fraction(value) is not None
            assert len(value) <= 1001
            said = ""
        assert len(said) < 250

    @settings(deadline=None)
    @given(
        st.recursive(
            st.integers(0, 99).map(str),
            lambda e: st.tuples(e, st.sampled_from("+-*/"), e).map(lambda t: f"({t[0]}{t[1]}{t[2]})"),
            max_leaves=8,
        )
    )
    def test_agrees_with_fractions(self, expression: str) -> None:
        as_fractions = "".join(f"Fraction({part})" if part.isdigit() else part for part in _split(expression))
        try:
            expected: Fraction = eval(as_fractions, {"Fraction": Fraction})
        except ZeroDivisionError:
            with pytest.raises(ToolError, match="zero"):
                evaluate(expression)
        else:
            assert abs(Fraction(evaluate(expression)) - expected) <= abs(expected) / 10**27


def _split(expression: str) -> list[str]:
    for sign in "()+-*/":
        expression = expression.replace(sign, f" {sign} ")
    return expression.split()


Write = Callable[[str, str], Path]


class TestLookUp:
    @pytest.fixture
    def write(self, tmp_path: Path) -> Write:
        def writing(name: str, text: str) -> Path:
            file = tmp_path / "docs" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, "utf-8")
            return file

        writing(
            "log.md", "# The log\nA thread is a stream of events.\n\n## Appending\nGroups of appends share a commit.\n"
        )
        writing("guide/budgets.md", "Money first.\n# Budgets\nA budget limits the tokens that a thread may use.\n")
        writing("notes.txt", "# Secrets\nappending tokens stream\n")
        return writing

    async def test_finds_the_section_with_its_file_and_heading(self, tmp_path: Path, write: Write) -> None:
        found = json.loads(await knowledge_tool(tmp_path / "docs").run({"query": "what limits tokens?"}, CALL))
        assert found[0] == {
            "file": "guide/budgets.md",
            "heading": "Budgets",
            "text": "A budget limits the tokens that a thread may use.",
        }
        write("unused.md", "")

    @pytest.mark.usefixtures("write")
    async def test_says_so_if_nothing_fits(self, tmp_path: Path) -> None:
        look_up = knowledge_tool(tmp_path / "docs")
        assert "Nothing" in await look_up.run({"query": "zebra"}, CALL)
        assert "Nothing" in await look_up.run({"query": "?!"}, CALL)

    async def test_needs_its_folder_only_when_asked(self, tmp_path: Path) -> None:
        look_up = knowledge_tool(tmp_path / "nowhere")
        with pytest.raises(ToolError, match="no documents"):
            await look_up.run({"query": "anything"}, CALL)

    def test_puts_the_better_section_first_and_gives_three_at_most(self, tmp_path: Path, write: Write) -> None:
        for n in range(5):
            write(f"filler{n}.md", "# Filler\nIt mentions a whale once, among very many other words of little use.\n")
        write("whales.md", "# Whales\nA whale is a whale.\n")
        found = KnowledgeIndex(tmp_path / "docs").search("whale")
        assert len(found) == 3
        assert found[0].heading == "Whales"

    @pytest.mark.usefixtures("write")
    def test_knows_that_words_have_forms(self, tmp_path: Path) -> None:
        assert KnowledgeIndex(tmp_path / "docs").search("append")[0].heading == "Appending"

    def test_shortens_a_long_section_to_the_part_that_fits(self, tmp_path: Path, write: Write) -> None:
        write("long.md", "# Long\n" + "lorem ipsum " * 500 + "the zebra hides here " + "dolor sit " * 500)
        text = KnowledgeIndex(tmp_path / "docs").search("zebra")[0].text
        assert "the zebra hides" in text
        assert len(text) < 800

    def test_follows_files_as_they_change_come_and_go(self, tmp_path: Path, write: Write) -> None:
        index = KnowledgeIndex(tmp_path / "docs")
        assert not index.search("zebra")
        file = write("new.md", "# New\nA zebra.\n")
        assert [s.file for s in index.search("zebra")] == ["new.md"]
        file.write_text("# New\nA horse.\n", "utf-8")
        os.utime(file, ns=(1, 1))
        assert not index.search("zebra")
        assert [s.text for s in index.search("horse")] == ["A horse."]
        file.unlink()
        assert not index.search("horse")

    def test_stays_inside_its_folder(self, tmp_path: Path, write: Write) -> None:
        secret = tmp_path / "secret.md"
        secret.write_text("# Secret\nThe password is zebra.\n", "utf-8")
        (tmp_path / "outside").mkdir()
        (tmp_path / "outside" / "more.md").write_text("zebra", "utf-8")
        inside = write("real.md", "A zebra at home.\n")
        (inside.parent / "link.md").symlink_to(secret)
        (inside.parent / "folder").symlink_to(tmp_path / "outside")
        (inside.parent / "broken.md").symlink_to(tmp_path / "nowhere.md")
        (inside.parent / "loop.md").symlink_to(inside.parent / "loop.md")
        (inside.parent / "again.md").symlink_to(inside)
        assert [s.file for s in KnowledgeIndex(tmp_path / "docs").search("zebra")] == ["again.md", "real.md"]

    def test_passes_over_what_cannot_be_read_as_text(self, write: Write) -> None:
        docs = write("a.md", "zebra").parent
        os.mkfifo(docs / "pipe.md")
        (docs / "folder.md").mkdir()
        (docs / "huge.md").write_bytes(b"zebra " * 200_000)
        (docs / "latin.md").write_bytes(b"zebra caf\xe9 \x00")
        found = KnowledgeIndex(docs).search("zebra")
        assert [(s.file, s.text) for s in found] == [("a.md", "zebra"), ("latin.md", "zebra caf\ufffd \ufffd")]

    def test_any_query_is_only_words(self, write: Write) -> None:
        index = KnowledgeIndex(write("a.md", "zebra").parent)

        @settings(deadline=None)
        @given(st.text(st.characters()))
        def search(query: str) -> None:
            index.search(query)

        search()
        for query in (
            'zebra"',
            "file:a OR zebra",
            "zebra NOT zebra",
            "zebra*",
            "NEAR(zebra)",
            "_ zebra",
            "^zebra " * 99,
        ):
            assert "zebra" in [s.text for s in index.search(query)]

    def test_a_query_of_one_endless_word_takes_no_time(self, write: Write) -> None:
        index = KnowledgeIndex(write("a.md", "zebra a b").parent)
        assert index.search("a_b_" * 200_000) == []


def test_headings_of_any_length_take_no_time() -> None:
    """In a process of its own, as nothing else can end a pattern that searches for ever."""
    script = (
        "from infrastructure.tools.knowledge import sections; "
        "print([len(list(sections('# ' + c * 200_000 + 'x' + c * 200_000 + 'y'))) for c in '# -'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=CHECKOUT, timeout=30, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("[1, 1, 1]\n", "")


def test_a_text_is_cut_at_its_headings_but_not_inside_code() -> None:
    text = "intro\n# One #\n```sh\n# no heading\n~~~\n```\n##Two\n  ### Three\n\n#\n#### \nend"
    assert list(sections(text)) == [
        ("", "intro"),
        ("One", "```sh\n# no heading\n~~~\n```\n##Two"),
        ("Three", "#"),
        ("", "end"),
    ]
