"""Opens the clients of a catalogue's providers."""

from domain.application.turns.model_registry import ModelRegistry
from domain.errors import InvalidInput
from domain.models.chat import ChatModel
from domain.ports.tokens import TokenCounter
from infrastructure.models.catalogue import OFFLINE, Catalogue, Provider, host_of
from infrastructure.models.hosts import is_inside
from infrastructure.models.offline.model import OfflineModel
from infrastructure.models.openai.client import OpenAIChatModel
from infrastructure.settings import BadSetting


def open_models(catalogue: Catalogue, tokens: TokenCounter, *, air_gapped: bool) -> ModelRegistry:
    """Open the clients. `air_gapped`: allow only endpoints inside the network, and use no proxy, which may be outside.

    Raises:
        BadSetting: an endpoint or a key cannot be used, or an endpoint may be outside.
    """
    if air_gapped:
        for provider in catalogue.providers.values():
            if provider.endpoint != OFFLINE:
                check_inside(provider.places["endpoint"], host_of(provider))
    policy = catalogue.policy
    usual = {spec.provider: spec.model for spec in (policy.models[name] for name in reversed(policy.chain))}
    clients = {
        name: _client(provider, usual.get(name, ""), tokens, past_proxies=air_gapped)
        for name, provider in catalogue.providers.items()
    }
    return ModelRegistry(policy, clients)


def check_inside(place: str, host: str) -> None:
    """Raise `BadSetting` for the setting at `place` if its host may be outside the network."""
    if not is_inside(host):
        raise BadSetting(
            f"AIR_GAPPED=true: {place}: {host!r} may be outside. Expected this machine, a private address, or a name "
            "that has no dots or ends in .local or .internal."
        )


def _client(provider: Provider, model: str, tokens: TokenCounter, *, past_proxies: bool) -> ChatModel:
    if provider.endpoint == OFFLINE:
        return OfflineModel(tokens)
    key = provider.key.get_secret_value() if provider.key else None
    try:
        return OpenAIChatModel(
            provider.endpoint,
            key,
            model,
            limits=provider.limits,
            omit=provider.omit,
            places=provider.places,
            past_proxies=past_proxies,
            prompt_cache=provider.prompt_cache,
        )
    except InvalidInput as error:
        raise BadSetting(f"{provider.places.get(error.field, error.field)}: {error.why}") from error
