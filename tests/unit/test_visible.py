"""What a terminal obeys, and what a person cannot see or would read in another order, is spelled out."""

import io
import json
import logging
import re
import sys
from pathlib import Path
from uuid import UUID

import click
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from api.cli import main
from api.cli.bootstrap import explained, log_to_stderr
from api.cli.turn_printer import Screen
from api.cli.visible import VisibleParts, spelled_out, visible, visible_json
from domain.errors import BadExport
from domain.ids import ThreadId, Version
from domain.ports.wakeups import Delta

CHECKOUT = Path(__file__).parents[2]

ORDINARY = [
    "plain, with\ttab\nand line",
    "naïve café, 日本語、한국어",
    "مرحبا بالعالم، السَّلامُ",
    "שָׁלוֹם עולם",
    "می\u200cخواهم",
    "क्\u200dष",
    "👩🏽\u200d💻 👨\u200d👩\u200d👧 ❤\ufe0f\u200d🔥 🙂\u200d\u2194\ufe0f 1\ufe0f\u20e3 🏳\ufe0f\u200d🌈",
    "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
    "葛\U000e0100城市",
]

DECEIVING = {
    "\x1b[31mred": "\\u001b[31mred",
    "\x1b]8;;http://evil\x07link": "\\u001b]8;;http://evil\\u0007link",
    "\x1b]52;c;ZXZpbA==\x07": "\\u001b]52;c;ZXZpbA==\\u0007",
    "\x9b2J": "\\u009b2J",
    "100\rfree": "100\\u000dfree",
    "pay \u202e001": "pay \\u202e001",
    "\u2066a\u2069": "\\u2066a\\u2069",
    "\u200fa\u061c": "\\u200fa\\u061c",
    "ad\u200bmin": "ad\\u200bmin",
    "ad\u200dmin": "ad\\u200dmin",
    "ad\u00admin\ufeff": "ad\\u00admin\\ufeff",
    "a\ufe0f": "a\\ufe0f",
    "a\u3164b\uffa0": "a\\u3164b\\uffa0",
    "a\u2028b": "a\\u2028b",
    "tag\U000e0041": "tag\\U000e0041",
    "\U0001f3f4\U000e0065\U000e0076\U000e007f": "\U0001f3f4\\U000e0065\\U000e0076\\U000e007f",
    "half \ud83d": "half \\ud83d",
}


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_text_is_printed_as_it_is(text: str) -> None:
    assert visible(text) == text
    assert visible_json(text.replace("\t", " ")) == text.replace("\t", " ")


@pytest.mark.parametrize("text", DECEIVING)
def test_what_deceives_is_spelled_out(text: str) -> None:
    assert visible(text) == DECEIVING[text]
    assert spelled_out(text) == DECEIVING[text]


def test_what_a_person_approves_shows_all_on_one_line() -> None:
    assert spelled_out("👩\u200d💻 \u2800\xa0\n[y/N] y") == "👩\\u200d💻 \\u2800\\u00a0\\u000a[y/N] y"
    assert spelled_out("שלום مرحبا 日本") == "שלום مرحبا 日本"


@given(st.text())
@example("\x7f\u202e\U000e0041\ud800")
def test_json_has_the_same_value(text: str) -> None:
    document = json.dumps({text: [text]}, ensure_ascii=False)
    assert json.loads(visible_json(document)) == json.loads(document)
    assert "\u202e" not in visible_json(document)


CHARACTERS = "a \n\rم👩💻\u200c\u200d\ufe0f\u202e\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e007f\x1b"


@given(st.lists(st.text(CHARACTERS, max_size=12), max_size=12))
@example(["👩", "\u200d", "💻"])
@example(["a\r", "\n"])
@example(["\U0001f3f4\U000e0067\U000e0062\U000e0065", "\U000e006e\U000e0067\U000e007f"])
def test_parts_deceive_no_more_than_the_whole(parts: list[str]) -> None:
    shown = VisibleParts()
    joined = "".join([*map(shown.add, parts), shown.end()])
    assert joined == visible("".join(parts)) or len("".join(parts)) > 16
    assert not re.search("[\x1b\r\u202e]", joined)


def test_a_long_text_takes_time_in_proportion() -> None:
    assert len(visible("é\u202e" * 500_000)) == 500_000 * 7


def test_the_answer_of_a_model_cannot_control_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    screen = Screen()
    for text in ("hi \x1b", "[2J👩", "\u200d", "💻 \u202eevil"):
        screen.show(Delta(ThreadId(UUID(int=1)), Version(1), 0, text))
    screen.note("end")
    assert capsys.readouterr().out == "hi \\u001b[2J👩\u200d💻 \\u202eevil\nend\n"


def test_log_lines_and_tracebacks_are_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    written, root = io.StringIO(), logging.getLogger()
    handlers, level = root.handlers[:], root.level
    monkeypatch.setattr(sys, "stderr", written)
    try:
        log_to_stderr("info")
        error = ValueError("\x1b]0;title\x07")
        logging.getLogger("test").error("a tool said %s", "\u202eevil", exc_info=error)
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
    assert "a tool said \\u202eevil" in written.getvalue()
    assert "\\u001b]0;title\\u0007" in written.getvalue()
    assert "\x1b" not in written.getvalue()


def test_commands_print_only_by_the_one_function() -> None:
    for path in (CHECKOUT / "api").rglob("*.py"):
        allowed = {"output.py": 3, "__init__.py": 1}.get(path.name, 0) if path.parent.name == "cli" else 0
        found = re.findall(
            r"click\.s?echo\(|(?<![.\w])print\(|std(?:out|err)\.write\(", path.read_text(encoding="utf-8")
        )
        assert len(found) == allowed, path


def test_a_failure_that_quotes_a_text_is_visible(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        with explained():
            raise BadExport("the file \x1b[2J\u202e is missing")

    monkeypatch.setattr(main, "get_command", lambda *_: click.Command("fail", callback=fail))
    with pytest.raises(SystemExit):
        main(["fail"], prog_name="threadfold")
    assert capsys.readouterr().err == "Error: the file \\u001b[2J\\u202e is missing\n"
