"""Messages are indexed and queries parsed by the same rules; otherwise nothing would be found."""

import hashlib

from benchmarks.recall_languages import languages, read
from domain.recall.word_index import index_of
from projections.messages import PROJECTION

STORED = (3, "8b0f5960be33384b")
"""The version of the projection `messages`, and a digest of what it stores of the texts in `benchmarks/languages`."""


def test_other_words_of_messages_are_another_version_of_their_read_model() -> None:
    texts = [fact.said for name in languages() for fact in read(name).facts]
    texts += ["I've booked the flights: PEP4E0 — $1,234.50", "Zürich, ｶﾞｲﾄﾞ, हिन्दी, Καλημέρα, ١٢٣"]
    indexed = [index_of(text) for text in texts]
    stored = "\n".join(f"{each.term_ids} {' '.join(sorted(each.words.split()))}" for each in indexed)
    digest = hashlib.sha256(stored.encode()).hexdigest()[:16]
    assert (PROJECTION.version, digest) == STORED, (
        "Messages are found by other words than those that are stored. Raise the version of the projection `messages`, "
        "so that it is built again, and then set STORED to its version and this digest."
    )
