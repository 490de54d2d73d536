"""An OIDC issuer: metadata, published keys that rotate, and tokens. It can answer wrongly in several ways.

```
python -m tests.fakes.oidc_issuer --port 9002
```

`POST /sign` signs any header and claims with the newest key. `POST /rotate` makes a new key; with `{"keep": false}` it
drops the old ones. `POST /behave` sets how `/keys` answers from then on; `GET /counts` says how often it was asked.
"""

import argparse
import asyncio
import base64
import hashlib
import hmac
import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

import uvicorn
from joserfc import jwk, jws
from litestar import Litestar, Response, get, post
from litestar.params import JSONBody

Json = dict[str, Any]

KINDS: Mapping[str, tuple[str, str | int]] = {
    "RS256": ("RSA", 2048),
    "ES256": ("EC", "P-256"),
    "EdDSA": ("OKP", "Ed25519"),
}


class Issuer:
    """What the issuer has and how it behaves."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.keys: list[Any] = []
        self.behaviour = "well"
        self.counts: Counter[str] = Counter()
        self.made = 0
        self.add("ES256")

    def add(self, algorithm: str) -> str:
        self.made += 1
        kind, size = KINDS[algorithm]
        self.keys.append(jwk.generate_key(kind, size, {"kid": f"key-{self.made}", "use": "sig"}))  # type: ignore[call-overload]
        return f"key-{self.made}"

    def published(self) -> list[Json]:
        return [key.as_dict(private=False) for key in self.keys]

    async def answer(self) -> Response[Any]:
        """Answer with the keys, or as the behaviour says."""
        published: list[Any] = self.published()
        match self.behaviour:
            case "slow":
                await asyncio.sleep(30)
            case "huge":
                return Response(b'{"keys": []' + b" " * 5_000_000 + b"}", media_type="application/json")
            case "redirecting":
                return Response(b"", status_code=302, headers={"Location": f"{self.url}/elsewhere"})
            case "html":
                return Response("<html>Sign in</html>", media_type="text/html")
            case "failing":
                return Response(b"", status_code=500)
            case "nested":
                return Response(b'{"keys": ' + b"[" * 100_000, media_type="application/json")
            case "many keys":
                published = [{"kty": "oct"}] * 10_000
            case "odd keys":
                odd: list[Any] = [
                    7,
                    None,
                    {"kty": []},
                    {"kty": "RSA", "kid": "x", "n": 5},
                    {"kty": "EC", "kid": {}, "key_ops": 1},
                ]
                bad = {"kty": "EC", "kid": "bad", "crv": "P-256", "x": "AA", "y": "AA"}
                published = [*odd, bad, *({**key, "key_ops": 1, "kid": "ops"} for key in published), *published]
        return Response({"keys": published})

    def sign(self, header: Json, claims: Json | str) -> str:
        """Sign in the way that the header names, as an attacker would where that is none or HS256."""
        key = self.keys[-1]
        header = {"alg": "ES256", "kid": key.kid, **header}
        text = claims if isinstance(claims, str) else json.dumps(claims)
        if header["alg"] in KINDS:
            return jws.serialize_compact(
                header, text, key, algorithms=list(KINDS), registry=Lax(algorithms=list(KINDS))
            )
        signed = ".".join(encoded(part.encode()) for part in (json.dumps(header), text))
        secret = key.as_pem(private=False)
        mac = b"" if header["alg"] == "none" else hmac.digest(secret, signed.encode(), hashlib.sha256)
        return f"{signed}.{encoded(mac)}"


class Lax(jws.JWSRegistry):
    """Signs any header."""

    max_header_length = 100_000

    def check_header(self, header: Any) -> None:
        """Accept it."""


def encoded(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def application(issuer: Issuer) -> Litestar:
    @get("/.well-known/openid-configuration")
    async def metadata() -> Json:
        issuer.counts["metadata"] += 1
        other = "http://127.0.0.1:1/other" if issuer.behaviour == "other issuer" else issuer.url
        local = "file:///etc/passwd" if issuer.behaviour == "file" else f"{issuer.url}/keys"
        return {"issuer": other, "jwks_uri": local}

    @get("/keys")
    async def keys() -> Response[Any]:
        issuer.counts["keys"] += 1
        return await issuer.answer()

    @get("/elsewhere")
    async def elsewhere() -> Json:
        issuer.counts["elsewhere"] += 1
        return {"keys": issuer.published()}

    @get("/counts")
    async def counts() -> Json:
        return dict(issuer.counts)

    @post("/sign", status_code=200)
    async def sign(data: JSONBody[Json]) -> Json:
        return {"token": issuer.sign(data.get("header", {}), data["claims"])}

    @post("/rotate", status_code=200)
    async def rotate(data: JSONBody[Json]) -> Json:
        if not data.get("keep", True):
            issuer.keys.clear()
        return {"kid": issuer.add(data.get("alg", "ES256"))}

    @post("/behave", status_code=200)
    async def behave(data: JSONBody[Json]) -> None:
        issuer.behaviour = data["how"]
        issuer.counts.clear()

    return Litestar([metadata, keys, elsewhere, counts, sign, rotate, behave], openapi_config=None)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    port = parser.parse_args().port
    uvicorn.run(application(Issuer(f"http://127.0.0.1:{port}")), host="127.0.0.1", port=port, log_level="warning")
