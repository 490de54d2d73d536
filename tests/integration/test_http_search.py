"""Searches for threads over HTTP, in languages other than English: the same are found in every store."""

import unicodedata
from collections.abc import AsyncIterator

import pytest

from tests.support.http import Api, running_api
from tests.support.reading import strong, talk

SAID = {
    "chinese": "我养了一只橘猫，名字叫豆豆。",
    "japanese": "ﾊﾟｽﾎﾟｰﾄの期限は来年六月です。",
    "korean": "여동생의 생일은 삼월 십오일이에요.",
    "thai": "ผมแพ้ยาเพนิซิลลิน",
    "arabic": "نسيت مظلتي السوداء في المكتبة.",
    "russian": "У кошки аллергия на рыбу.",
    "german": "Der Zahnarzttermin für die Töchter ist am Montag.",
    "french": "L’hôpital a confirmé l’opération du cœur.",
}
SEARCHES = {
    "chinese": ["橘猫", "猫", "豆豆名字", "我家的橘猫叫什么？"],
    "japanese": ["パスポート", "パスポート 期限", "旅券のパスポートはいつ切れますか？"],
    "korean": ["여동생", "생일", "여동생은 생일이 언제야?"],
    "thai": ["แพ้ยา", "เพนิซิลลิน", "แพ้ยาอะไร"],
    "arabic": ["المظلة", "مَظَلّة", "أين نسيت المظلة؟"],
    "russian": ["кошка аллергии", "КОШКУ", "На что у кошек аллергия?"],
    "german": ["Termin", "ZAHNARZT", "Tochter Montags", "Wann haben die Töchter einen Zahnarzttermin?"],
    "french": ["hopital", "OPÉRATIONS", "coeur", "Quand est l'opération à l'hôpital ?"],
}


@pytest.fixture
def url(request: pytest.FixtureRequest, store_kind: str) -> str:
    return "memory://" if store_kind == "memory" else str(request.getfixturevalue("database_url"))


@pytest.fixture
async def api(url: str) -> AsyncIterator[Api]:
    async with running_api(database_url=url) as client:
        yield client


async def listed(api: Api, search: str) -> list[str]:
    return [one["thread_id"] for one in (await strong(api, "/v1/threads", search=search))["items"]]


async def test_a_thread_is_found_by_what_was_said_in_it_however_it_is_written(api: Api) -> None:
    threads = {language: await talk(api, said) for language, said in SAID.items()}
    for language, searches in SEARCHES.items():
        for search in searches:
            for form in ("NFC", "NFD", "NFKC"):
                assert await listed(api, unicodedata.normalize(form, search)) == [threads[language]], search
    assert await listed(api, "飛行機") == []


async def test_of_many_words_half_may_lack_and_of_a_question_all_but_one_where_none_has_more(api: Api) -> None:
    both = await talk(api, "The refund of the marmalade takes a week")
    one = await talk(api, "The marmalade was good")
    assert await listed(api, "marmalade refund") == [both]
    assert await listed(api, "marmalade jelly") == []
    assert await listed(api, "marmalade refund jelly") == [both]
    assert await listed(api, "marmalade jelly honey") == []
    assert set(await listed(api, "Which marmalade, jelly or honey?")) == {both, one}
    first = await strong(api, "/v1/threads", search="Which marmalade, jelly or honey?", limit=1)
    second = await strong(
        api, "/v1/threads", search="Which marmalade, jelly or honey?", limit=1, cursor=first["next_cursor"]
    )
    assert {page["items"][0]["thread_id"] for page in (first, second)} == {both, one}
    assert second["next_cursor"] is None
