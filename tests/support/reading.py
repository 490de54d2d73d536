"""Talking over HTTP, reading what was stored by then, and holding read models against a plain fold of the log."""

from typing import Any

from domain.ids import DEFAULT_TENANT
from tests.support.http import Api
from tests.support.plain import Plain, whole_log
from tests.support.projected import differences


async def talk(api: Api, *texts: str, **headers: str) -> str:
    thread = await api.opened()
    for text in texts:
        said = await api.post(
            f"/v1/threads/{thread}/turns", params={"wait": True}, json={"user_input": text}, headers=headers
        )
        assert said.is_success, said.text
    return thread


async def strong(api: Api, path: str, **params: Any) -> Any:
    response = await api.get(path, params={"consistency": "strong", **params})
    assert response.is_success, response.text
    return response.json()


async def wrong(api: Api) -> list[str]:
    runtime = api.service.runtime
    for name in ("threads", "usage", "turn_list"):
        await api.service.reading.fresh(name)
    return await differences(runtime.log.models, Plain(await whole_log(runtime.repository.store)), DEFAULT_TENANT)
