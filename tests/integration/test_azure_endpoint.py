"""Azure's dated API: the deployment in the path, a version in the query, and the key in a header of its own."""

from tests.fakes.openai_server import OpenAIServer
from tests.support.openai import ASK, KEY, client

DATED = "/openai/deployments/ours?api-version=2024-10-21"


async def test_the_key_goes_where_azures_dated_api_looks_for_it() -> None:
    async with OpenAIServer() as server:
        endpoint = server.endpoint.removesuffix("/v1") + DATED
        async with client(server, endpoint=endpoint) as model:
            await model.complete(ASK)
    sent = server.requests[0]
    assert sent.path == "/openai/deployments/ours/chat/completions?api-version=2024-10-21"
    assert sent.headers["api-key"] == KEY
    assert "authorization" not in sent.headers  # Azure would read it as a token, and refuse it
