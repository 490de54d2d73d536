"""The settings, read once: from the environment, else from `.env` in the checkout.

The variables are the fields' names in capitals; `.env.example` lists them. An empty value counts as none. Relative
paths start at the checkout, so that a command finds the same data from any directory. The exception is AGENTS, whose
files are the user's: they start at the working directory.
"""

import os
import pathlib
import re
from typing import Annotated, Literal
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError, ValidationInfo
from pydantic_settings import BaseSettings, DotEnvSettingsSource, NoDecode, SettingsConfigDict

from domain.errors import ThreadfoldError
from domain.thread.events import Durability
from infrastructure.models.openai.refusals import FIELDS
from infrastructure.oidc import ALGORITHMS
from infrastructure.oidc_keys import OidcConfig, check_url
from infrastructure.signing import signer_of

CHECKOUT = pathlib.Path(__file__).resolve().parents[1]

AMBIGUOUS = "it is ambiguous. Percent-encode / ? # @ in the password: %2F %3F %23 %40"
NO_ADDRESS = "expected a host and a port up to 65535 (percent-encode / ? # @ in the password)"


class BadSetting(ThreadfoldError):
    """A setting has an invalid value."""


def _database(url: str) -> str:
    if url == "memory://":
        return url
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in {"postgresql", "postgres", "postgresql+asyncpg"} or not rest:
        raise ValueError("expected postgresql://user:password@host:port/database, or memory://")
    if _parts(url).fragment:
        raise ValueError(AMBIGUOUS)
    return f"postgresql://{rest}"


def _redis(url: SecretStr) -> SecretStr:
    if not re.fullmatch(r"(redis|rediss|unix)://\S+", url.get_secret_value()):
        raise ValueError("expected redis://user:password@host:port/number, rediss:// or unix://")
    return url


def _endpoint(url: str) -> str:
    if not re.fullmatch(r"https?://[^\s/]+\S*", url) or not _parts(url).hostname:
        raise ValueError("expected a URL such as http://127.0.0.1:8080/v1")
    return url.rstrip("/")


def _parts(url: str) -> SplitResult:
    """Parse a URL. Raises `ValueError` if parsers could disagree about where its password is."""
    authority, *rest = re.split("[/?#]", url.partition("://")[2], maxsplit=1)
    if authority.count("@") > 1 or any("@" in text for text in rest) or re.search(r"\s", url):
        raise ValueError(AMBIGUOUS)
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError(NO_ADDRESS) from None
    if port is None and authority.endswith(":"):
        raise ValueError(NO_ADDRESS)
    return parts


def _key(key: SecretStr) -> SecretStr:
    text = key.get_secret_value().strip()
    if not (text.isascii() and text.isprintable()):
        raise ValueError("expected printable ASCII, as a header can carry nothing else")
    return SecretStr(text)


def _signing_key(key: SecretStr) -> SecretStr:
    signer_of(key.get_secret_value().strip(), CHECKOUT)
    return SecretStr(key.get_secret_value().strip())


def _names(value: object) -> object:
    return tuple(name.strip() for name in value.split(",") if name.strip()) if isinstance(value, str) else value


def split_agent_name(name: str) -> tuple[str, str | None]:
    """Split the name of an agent into a module or a file's path, and an attribute, which a path may lack."""
    place, colon, attribute = name.rpartition(":")
    return (place, attribute) if colon else (name, None)


def is_agent_file(place: str) -> bool:
    """Return whether an agent's place is a file's path, not a module."""
    return place.endswith(".py")


def _agents(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        place, attribute = split_agent_name(name)
        good = is_agent_file(place) or (attribute and all(part.isidentifier() for part in place.split(".")))
        if not good or (attribute is not None and not attribute.isidentifier()):
            expected = "expected module:attribute, or a file such as ./desk.py:agent or ./desk.py, separated by commas"
            raise ValueError(f"{expected}, not {name!r}")
    return names


def _fields(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        if name not in FIELDS:
            raise ValueError(f"expected some of {', '.join(FIELDS)}, not {name!r}")
    return names


def _host_names(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        if not re.fullmatch(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,252})", name):
            raise ValueError(f"expected names such as agents.example.com, without scheme and port, not {name!r}")
    return names


def _algorithms(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names or ("",):
        if name not in ALGORITHMS:
            raise ValueError(f"expected some of {', '.join(ALGORITHMS)}, not {name!r}")
    return names


def _issuer(url: str) -> str:
    if "?" in url:
        raise ValueError("expected the issuer's URL as its tokens name it, without a query")
    return check_url(url)


def _audience(audience: str | None, info: ValidationInfo) -> str | None:
    """Check that issuer and audience are set together: a server must not stay open because of a mistyped name."""
    if "oidc_issuer" in info.data and (audience is None) != (info.data["oidc_issuer"] is None):
        raise ValueError("expected OIDC_ISSUER and OIDC_AUDIENCE together, or none of the two")
    return audience


def _in_checkout(path: pathlib.Path) -> pathlib.Path:
    return CHECKOUT / path.expanduser()


def _folder(path: pathlib.Path) -> pathlib.Path:
    if not path.is_dir():
        raise ValueError("expected a folder that exists")
    return path


def _file(path: pathlib.Path) -> pathlib.Path:
    if not path.is_file():
        raise ValueError("expected a file that exists")
    return path


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


Seconds = Annotated[float, Field(gt=0, le=3600)]
ExistingFile = Annotated[pathlib.Path, AfterValidator(_in_checkout), AfterValidator(_file)]


class Settings(BaseSettings):
    """The settings of a process. Build them with `load_settings`.

    Messages about an invalid value contain the text below its field.
    """

    model_config = SettingsConfigDict(env_ignore_empty=True, extra="ignore", frozen=True, use_attribute_docstrings=True)

    database_url: Annotated[str, AfterValidator(_database)] | None = Field(default=None, repr=False)
    """PostgreSQL's URL; memory:// keeps all in memory; empty starts one in DATA_DIR"""
    data_dir: Annotated[pathlib.Path, AfterValidator(_in_checkout)] = pathlib.Path(".data")
    """where the embedded PostgreSQL keeps its files"""
    max_connections: int = Field(default=20, ge=1, le=1000)
    """database connections of one process, at most"""
    llm_endpoint: Annotated[str, AfterValidator(_endpoint)] | None = Field(default=None, repr=False)
    """base URL of an OpenAI-compatible API; empty takes the offline model"""
    llm_api_key: Annotated[SecretStr, AfterValidator(_key)] | None = None
    """the key that LLM_ENDPOINT asks for"""
    llm_model: str = "default"
    """the model's name at LLM_ENDPOINT"""
    llm_small_model: str | None = None
    """a cheaper model at LLM_ENDPOINT, for summaries and when most of a budget is spent"""
    llm_connect_seconds: Seconds = 5.0
    """seconds to wait for a connection to LLM_ENDPOINT"""
    llm_first_byte_seconds: Seconds = 300.0
    """seconds to wait for the first token, while a model is loaded or thinks unheard"""
    llm_silence_seconds: Seconds = 60.0
    """seconds that an answer may pause once it has begun"""
    llm_total_seconds: Seconds = 600.0
    """seconds that a whole answer may take, with retries"""
    llm_omit: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_names), AfterValidator(_fields)] = ()
    """fields of requests that LLM_ENDPOINT does not take, separated by commas"""
    models: ExistingFile | None = None
    """TOML file of providers, models and rules, instead of LLM_ENDPOINT and what is with it"""
    air_gapped: bool = False
    """whether models outside the machine and its private networks are refused"""
    embedding_endpoint: Annotated[str, AfterValidator(_endpoint)] | None = Field(default=None, repr=False)
    """base URL of an OpenAI-compatible API for embeddings; empty: none"""
    embedding_api_key: Annotated[SecretStr, AfterValidator(_key)] | None = None
    """the key that EMBEDDING_ENDPOINT asks for"""
    embedding_model: str = "default"
    """the model's name at EMBEDDING_ENDPOINT"""
    context_window_limit: int = Field(default=8000, ge=256)
    """tokens of context that a model call may hold, at most"""
    recall: bool = True
    """whether older messages that left the window and matter again are shown to the model"""
    snapshot_every: int = Field(default=250, ge=1)
    """events of a thread between two snapshots"""
    projections: Annotated[Literal["beside", "inside"], BeforeValidator(_lower)] = "beside"
    """where read models are kept up to date: in a process next to each worker, or inside of it"""
    lease_seconds: float = Field(default=10.0, ge=1, le=600)
    """seconds after which a dead worker's turns are taken over"""
    redis_url: Annotated[SecretStr, AfterValidator(_redis)] | None = None
    """a Redis that carries wake-ups, and holds answers of durability async; empty: none"""
    durability: Durability = "sync"
    """when a turn's events are stored: sync, turn or async"""
    signing_key: Annotated[SecretStr, AfterValidator(_signing_key)] | None = None
    """the Ed25519 key that seals are signed with: base64, or a PEM file; empty: no seals"""
    seal_every: float = Field(default=3600.0, ge=1, le=31_536_000)
    """seconds between two seals of the log"""
    audit_reads: bool = True
    """whether it is recorded who is shown what threads hold: true or false"""
    agents: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_names), AfterValidator(_agents)] = ()
    """agents of your own: module:attribute or a file's path, separated by commas"""
    knowledge_dir: Annotated[pathlib.Path, AfterValidator(_in_checkout), AfterValidator(_folder)] = pathlib.Path("docs")
    """folder of Markdown files that the look_up tool searches"""
    prices: ExistingFile = pathlib.Path("infrastructure/prices.json")
    """JSON file of what models cost"""
    auth: Annotated[Literal["auto", "required", "none"], BeforeValidator(_lower)] = "auto"
    """whether callers need a key: required, none, or auto: once there is one, and on any address but loopback"""
    oidc_issuer: Annotated[str, AfterValidator(_issuer)] | None = None
    """URL of an OIDC issuer whose tokens are accepted next to keys, exactly as its tokens name it; empty: none"""
    oidc_audience: Annotated[str | None, AfterValidator(_audience)] = Field(default=None, validate_default=True)
    """the audience that a token must be for"""
    oidc_algorithms: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_names), AfterValidator(_algorithms)] = (
        ALGORITHMS[:3]
    )
    """signatures that are accepted, separated by commas"""
    oidc_tenant_claim: str | None = None
    """the claim with the tenant's name; empty: all tokens are of the tenant default"""
    oidc_principal_claim: str = "sub"
    """the claim with the name under which a token's requests are recorded"""
    oidc_scopes_claim: str = "scope"
    """the claim with the scopes: a text with spaces between them, or a list"""
    oidc_scopes_prefix: str = ""
    """only scopes with this prefix count, such as threadfold: in threadfold:threads:read; empty: all"""
    oidc_jwks_url: Annotated[str, AfterValidator(check_url)] | None = None
    """URL of the issuer's keys; empty: the issuer's metadata names it"""
    key_requests_per_second: float | None = Field(default=None, gt=0, le=100_000)
    """requests a second that one key may send to a process, on average; empty: any number"""
    tenant_requests_per_second: float | None = Field(default=None, gt=0, le=100_000)
    """requests a second that all keys of a tenant may send to a process, on average; empty: any number"""
    tenant_streams: int | None = Field(default=None, ge=1, le=100_000)
    """streams and waiting requests that a tenant may have open at a process; empty: any number"""
    host: str = "127.0.0.1"
    """the address to listen on; 0.0.0.0 is every one"""
    host_names: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_names), AfterValidator(_host_names)] = ()
    """further names by which clients call the server, such as agents.example.com, separated by commas"""
    port: int = Field(default=8000, ge=0, le=65535)
    """the port to listen on; 0 takes a free one"""
    log_level: Annotated[Literal["debug", "info", "warning", "error", "critical"], BeforeValidator(_lower)] = "info"
    """debug, info, warning, error or critical"""

    @property
    def oidc(self) -> OidcConfig | None:
        """What is accepted as a token; None: only keys are."""
        if self.oidc_issuer is None or self.oidc_audience is None:
            return None
        return OidcConfig(
            issuer=self.oidc_issuer,
            audience=self.oidc_audience,
            algorithms=self.oidc_algorithms,
            tenant_claim=self.oidc_tenant_claim,
            principal_claim=self.oidc_principal_claim,
            scopes_claim=self.oidc_scopes_claim,
            scopes_prefix=self.oidc_scopes_prefix,
            jwks_url=self.oidc_jwks_url,
        )


def load_settings(env_file: pathlib.Path = CHECKOUT / ".env") -> Settings:
    """Read the settings.

    Raises:
        BadSetting: one line with the variable's name, its value unless it is secret, and what was expected.
    """
    try:
        return Settings(_env_file=env_file)  # type: ignore[call-arg]  # pydantic-settings takes it
    except ValidationError as error:
        raise BadSetting(_explain(error)) from None  # the cause would print what is secret
    except (OSError, UnicodeDecodeError) as error:
        raise BadSetting(f"{env_file} cannot be read: {error}") from error


def variable(name: str, env_file: pathlib.Path = CHECKOUT / ".env") -> str | None:
    """Read a variable that a setting names, from the environment or `.env`. Empty counts as none."""
    from_file = DotEnvSettingsSource(Settings, env_file=env_file, case_sensitive=True).env_vars
    return os.environ.get(name) or from_file.get(name) or None


def _explain(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_context=False)[0]
    field = str(first["loc"][0])
    expected = first["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
    description = Settings.model_fields[field].description
    return " ".join(f"{field.upper()}={_shown(field, first['input'])}: {expected} ({description}).".split())


def _shown(field: str, value: object) -> str:
    """Return the value; hide a key, and a URL that may have a password, which is not safe to cut out of a bad one."""
    text = ",".join(value) if isinstance(value, tuple) else str(value)
    secret = field in {"llm_api_key", "embedding_api_key", "redis_url", "signing_key"} or (
        field in {"database_url", "llm_endpoint", "embedding_endpoint", "oidc_issuer", "oidc_jwks_url"}
        and re.search(r"[@?]", text)
    )
    return "(hidden)" if secret else repr(text)
