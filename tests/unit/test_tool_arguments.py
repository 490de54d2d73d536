"""Tool arguments that a model wrote: accepted if they have one meaning, else a fault says what is wrong and where."""

import json
import time
from typing import Any

import pytest
from hypothesis import example
from hypothesis import given as for_all
from hypothesis import strategies as st

from domain.json import check_json
from infrastructure.models.openai.tool_arguments import MAX_FAULT, MAX_WRITTEN, read_arguments

WHOLE = '{"text": "a"}'

NOTHING = {
    "an empty text": "",
    "blanks": "  \n",
    "null": "null",
    "Python's None": "None",
    "null as a text": '"null"',
    "an empty text as a text": '""',
    "an empty list": "[]",
    "an empty object": "{}",
    "an empty fence": "```json\n```",
}

READ = {
    "a byte order mark": "\ufeff" + WHOLE,
    "a zero-width space": "\u200b" + WHOLE,
    "blanks around": f"\n\t {WHOLE}\u00a0\n",
    "a fence with a language": f"```json\n{WHOLE}\n```",
    "a fence without": f"```\n{WHOLE}```",
    "a fence on one line": f"``` {WHOLE} ```",
    "a fence that is not closed": f"```json\n{WHOLE}",
    "a JSON text": json.dumps(WHOLE),
    "a JSON text of a JSON text": json.dumps(json.dumps(WHOLE)),
    "a fence in a JSON text": json.dumps(f"```json\n{WHOLE}\n```"),
    "a trailing comma": '{"text": "a",}',
    "single quotes": "{'text': 'a'}",
    "a comment at the end of a line": '{"text": "a"} // done',
    "a comment between": '{/* what to say */ "text": "a"}',
    "an empty object before": "{}" + WHOLE,
    "the object twice": WHOLE + WHOLE,
    "a key twice, with the same value": '{"text": "a", "text": "a"}',
}

FAULTS = {
    "a text that ends within a string": ('{"text": "abc', "it ends before this string does, at line 1, column 10"),
    "a text that ends after a colon": ('{"text":', "it ends where a value is expected"),
    "a text that ends after a value": ('{"text": "a"', "it ends before the object does, at line 1, column 13"),
    "a text that ends within an array": ('{"text": [1,', "it ends before the array does"),
    "an opening brace": ("{", "it ends before the object does"),
    "NaN": ('{"text": NaN}', "NaN is not JSON, numbers must be finite, at line 1, column 10"),
    "infinity": ('{"text": -Infinity}', "-Infinity is not JSON"),
    "a number beyond all bounds": ('{"text": 1e999}', "arguments.text: numbers must be finite"),
    "an integer beyond 64 bits": ('{"text": 1' + "0" * 30 + "}", "arguments.text: integers must be between"),
    "thousands of digits": ('{"text": ' + "7" * 5_000 + "}", "integers must be between"),
    "a lone surrogate": ('{"text": "a\\ud83d"}', "arguments.text: must not contain a lone surrogate"),
    "NUL": ('{"text": "a\\u0000b"}', "arguments.text: must not contain the character U+0000"),
    "deep nesting": ('{"text": ' + "[" * 70 + "]" * 70 + "}", "must not be nested deeper than 64 levels"),
    "nesting without end": ("[" * 9_999, "it is nested deeper than 100 levels"),
    "long nesting without end": ("[" * 19_999, "it is nested too deeply"),
    "an array": ('["a"]', "expected a JSON object, found an array"),
    "an array around the object": (f"[{WHOLE}]", "expected a JSON object, found an array"),
    "a number": ("7", "expected a JSON object, found a number"),
    "a boolean": ("true", "expected a JSON object, found a boolean"),
    "a text": ('"a"', "expected a JSON object, found a text"),
    "a word": ("a", "expected a JSON object, at line 1, column 1"),
    "a text before": (f"Here you are: {WHOLE}", "expected a JSON object, at line 1, column 1"),
    "a text after": (f"{WHOLE} Done!", "expected nothing after the first value, at line 1, column 15"),
    "a brace too many": (WHOLE + "}", "expected nothing after the first value"),
    "two objects": ('{"text": "a"}{"text": "b"}', "expected one JSON object, found several"),
    "a key twice, with two values": ('{"text": "a", "text": "b"}', "the key 'text' is given twice"),
    "words without quotes": ("{text: a}", "expected a key in double quotes, at line 1, column 2"),
    "undefined": ('{"text": undefined}', "a text needs double quotes"),
    "a call of Python": ('{"text": dict(a=1)}', "a text needs double quotes"),
    "typographic quotes": ('{"text": “a”}', "a text needs double quotes"),
    "an apostrophe in single quotes": ("{'text': 'it's'}", "expected a comma or }, at line 1, column 14"),
    "a quote within quotes": ('{"text": "say "a""}', "expected a comma or }, at line 1, column 16"),
    "an escape that languages read differently": ('{"text": "\\d+"}', "unknown escape \\d, at line 1, column 11"),
    "half an escape": ('{"text": "\\u12"}', "unknown escape \\u"),
    "a comma missing": ('{"text": "a" "more": 1}', "expected a comma or }, at line 1, column 14"),
    "a colon missing": ('{"text" "a"}', "expected a colon, at line 1, column 9"),
    "two commas": ('{"text": "a",,}', "expected a key in double quotes"),
    "a number with a leading zero": ('{"text": 007}', "expected a number as JSON writes it"),
    "a hexadecimal number": ('{"text": 0x1F}', "expected a number as JSON writes it"),
    "a set of Python": ("{'a', 'b'}", "expected a colon"),
    "XML": (f"<arguments>{WHOLE}</arguments>", "expected a JSON object"),
    "escaped quotes": ('{\\"text\\": \\"a\\"}', "expected a key in double quotes"),
    "more than the log takes": ('{"text": "' + "x" * 300_000 + '"}', "may take 262,144 characters as JSON"),
    "a long text that ends too soon": ('{"text": "' + "x" * 300_000, "Unterminated string"),
    "the third line": ('{\n  "text": "a"\n  "more": 1\n}', "at line 3, column 3"),
}


@pytest.mark.parametrize("text", NOTHING.values(), ids=NOTHING)
def test_no_arguments_are_none(text: str) -> None:
    read = read_arguments(text)
    assert (read.values, read.fault) == ({}, "")


@pytest.mark.parametrize("text", READ.values(), ids=READ)
def test_what_has_one_meaning_is_read_and_kept_as_it_was_written(text: str) -> None:
    read = read_arguments(text)
    assert (read.values, read.fault) == ({"text": "a"}, "")
    assert read.written == (text.strip() if text.strip() != WHOLE else read.written)


def test_control_characters_stand_for_themselves() -> None:
    read = read_arguments('{"text": "two\nlines\tand\x01more"}')
    assert (read.values, read.fault) == ({"text": "two\nlines\tand\x01more"}, "")
    long = "line\n" * 20_000
    assert read_arguments(f'{{"text": "{long}"}}').values == {"text": long}


def test_python_and_json_mean_the_same() -> None:
    text = "{'yes': True, 'no': False, 'none': None, 'text': 'it\\'s \"quoted\"\\n', 'of': [1, -2.5e3,],}"
    values = {"yes": True, "no": False, "none": None, "text": 'it\'s "quoted"\n', "of": [1, -2500.0]}
    assert read_arguments(text).values == values


@pytest.mark.parametrize(("text", "why"), FAULTS.values(), ids=FAULTS)
def test_the_rest_is_a_fault_that_says_what_is_wrong(text: str, why: str) -> None:
    read = read_arguments(text)
    assert read.values == {}
    assert why in read.fault
    assert len(read.fault) <= MAX_FAULT
    assert read.written[:20] == text[:20]
    assert len(read.written) <= MAX_WRITTEN + 100


def test_a_fault_quotes_its_place() -> None:
    assert '"a" ⟨here⟩"more": 1' in read_arguments('{"text": "a" "more": 1}').fault


def test_an_answer_that_was_broken_off_says_so() -> None:
    assert "broken off within the arguments" in read_arguments('{"text": "abc', cut=True).fault
    assert "broken off before" in read_arguments("", cut=True).fault
    assert read_arguments(WHOLE, cut=True).fault == ""


def test_json_is_read_as_it_is() -> None:
    read = read_arguments('{"text": "```json", "of": [1, 2.5, null, true, {"a": []}], "é": "\\ud83d\\ude00"}')
    assert (read.written, read.fault) == ("", "")
    assert read.values == {"text": "```json", "of": [1, 2.5, None, True, {"a": []}], "é": "😀"}


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@for_all(st.dictionaries(st.text(), JSON, max_size=4), st.integers(0, 3))
def test_any_object_comes_back_however_often_it_was_encoded(values: dict[str, Any], levels: int) -> None:
    text = json.dumps(values)
    for _ in range(levels):
        text = json.dumps(text)
    read = read_arguments(text)
    if not read.fault:  # such as for a NUL within
        assert json.dumps(read.values) == json.dumps(values)


@for_all(st.text() | st.text(alphabet="{}[]\"':,\\/* \nabtrue01Nn.-", max_size=40))
@example("\ud83d")
@example('{"a": "\ud83d"}')
def test_whatever_comes_is_arguments_that_can_be_stored_or_a_fault(text: str) -> None:
    read = read_arguments(text)
    check_json(read.values, "arguments")
    check_json(read.written, "written")
    check_json(read.fault, "fault")
    assert not (read.values and read.fault)


def test_no_text_takes_long() -> None:
    began = time.monotonic()
    for text in ("[" * 10**6, '{"a": "' + "\\" * 10**6, "/*" * 10**6, '{"a":1,' * 10**5, "'" * 10**6, "```" * 10**5):
        read_arguments(text)
    assert time.monotonic() - began < 30
