"""Which hosts are inside."""

import pytest

from infrastructure.models.hosts import is_inside, is_loopback


@pytest.mark.parametrize("host", ["localhost", "api.localhost", "127.0.0.1", "127.9.9.9", "::1", "0.0.0.0", "::"])
def test_this_machine_is_inside(host: str) -> None:
    assert is_loopback(host)
    assert is_inside(host)


@pytest.mark.parametrize(
    "host",
    [
        *("10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.1.9", "169.254.1.1", "fd00::1", "fe80::1%eth0"),
        *("::ffff:10.0.0.1", "ollama", "gpu-box2", "llm.local", "llm.corp.internal", "LLM.Local"),
    ],
)
def test_private_addresses_and_names_are_inside(host: str) -> None:
    assert not is_loopback(host)
    assert is_inside(host)


@pytest.mark.parametrize(
    "host",
    [
        *("8.8.8.8", "172.32.0.1", "192.169.0.1", "11.0.0.1", "2001:4860:4860::8888", "::ffff:8.8.8.8", "100.64.0.1"),
        *("api.openai.com", "local.example.com", "internal.example.com"),
        *("ai.", "x.local.", "", "local.com", "a.notlocal", "localhost.evil.com"),
        *("134744072", "0x08080808", "010.8.8.8", "8.8.2056", "0x8.local"),  # some of which are 8.8.8.8 to a resolver
    ],
)
def test_all_else_may_be_outside(host: str) -> None:
    assert not is_inside(host)
