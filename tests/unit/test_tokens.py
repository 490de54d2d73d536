"""Counting tokens: always a number, never the network."""

import hashlib
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st

from infrastructure import token_counter
from infrastructure.token_counter import BUNDLED, TiktokenCounter, encoding_for, pieces

COUNTER = TiktokenCounter()
MILLION = 1_000_000


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine without a network, and with an empty cache."""

    def refuse(*_: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    return tmp_path


@settings(deadline=None)
@given(st.text(st.characters()))
def test_counts_any_text(text: str) -> None:
    assert len(text) / 20 <= COUNTER.count(text) <= 4 * len(text)


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb", "\0", "\ud83d\ude00"])
def test_counts_what_is_no_proper_text(text: str) -> None:
    assert COUNTER.count(text) > 0


def test_counts_as_the_encoding_does() -> None:
    assert COUNTER.count("") == 0
    assert COUNTER.count("Hello, world!") == 4


def test_a_special_token_in_a_text_is_text() -> None:
    assert COUNTER.count("<|endoftext|>") > 1


@pytest.mark.parametrize("character", ["a", " ", "^", "\n", "漢"])
def test_a_million_times_the_same_character_has_a_count(character: str) -> None:
    assert 1_000 < COUNTER.count(character * MILLION) <= 3 * MILLION


def test_a_long_text_in_pieces_has_nearly_the_count_of_the_whole() -> None:
    text = "The quick brown fox, aged 12, jumps over\nthe lazy dog's   back. " * 5_000
    exact = len(tiktoken.get_encoding(BUNDLED).encode_ordinary(text))
    assert 0 <= COUNTER.count(text) - exact <= len(pieces(text, token_counter.MAX_PIECE_CHARACTERS))


@given(st.text(st.sampled_from("ab \n")), st.integers(1, 9))
def test_pieces_are_small_and_together_the_text(text: str, size: int) -> None:
    cut = pieces(text, size)
    assert "".join(cut) == text
    assert all(len(piece) <= size for piece in cut)


@pytest.mark.parametrize("model", [None, "", "gpt-4o", "gpt-5", "gpt-4", "gpt2", "llama3.2", "davinci"])
def test_whatever_the_model_the_network_is_not_asked(model: str | None, offline: Path) -> None:
    assert not list(offline.iterdir())
    counter = TiktokenCounter(model)
    assert counter.count("Hello, world!") == 4
    assert counter.encoding == BUNDLED


def test_a_models_own_encoding_is_used_if_its_data_is_here(offline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url, _ = token_counter._LOADED_FROM["o200k_base"]
    file = offline / hashlib.sha1(url.encode()).hexdigest()
    file.write_bytes(b"data")
    assert encoding_for("gpt-4o") == BUNDLED, "another file than tiktoken expects would be fetched again"
    monkeypatch.setitem(token_counter._LOADED_FROM, "o200k_base", (url, hashlib.sha256(b"data").hexdigest()))
    assert encoding_for("gpt-4o") == "o200k_base"
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "")
    assert encoding_for("gpt-4o") == BUNDLED, "without a cache it would be fetched"


def test_what_is_known_of_tiktokens_data_is_still_true() -> None:
    source = Path(tiktoken.__file__).parent.parent / "tiktoken_ext" / "openai_public.py"
    text = source.read_text("utf-8")
    assert all(part in text for known in token_counter._LOADED_FROM.values() for part in known)


def test_is_loaded_once_however_many_threads_count_first(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []
    load = tiktoken.get_encoding

    def noting(name: str) -> tiktoken.Encoding:
        loaded.append(name)
        time.sleep(0.05)  # long enough for the others to arrive
        return load(name)

    monkeypatch.setattr(tiktoken, "get_encoding", noting)
    counter = TiktokenCounter()
    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(counter.count, ["Hello, world!"] * 50)) == {4}
    assert loaded == [BUNDLED]
