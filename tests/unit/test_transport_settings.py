"""Addresses of NATS servers, and what can be a subject."""

from __future__ import annotations

import pytest

from bacalhau_protocol import errors
from bacalhau_protocol.transport.settings import NatsSettings, Server, is_subject


def test_addresses_are_read() -> None:
    """Scheme, token and port are optional; what is no address is refused without showing a token."""
    settings = NatsSettings(address="tls://secret@h:1, [::1]", identity="a")

    assert settings.servers == [Server("h", 1, tls=True, token="secret"), Server("::1", 4222)]
    assert settings.login(settings.servers[0])["token"] == "secret"
    assert [server.url for server in settings.servers] == ["tls://h:1", "nats://[::1]:4222"]
    assert settings.place == "tls://h:1, [::1]"
    with pytest.raises(errors.UsageError) as caught:
        _ = NatsSettings(address="nats://secret@h:x", identity="a").servers
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "a b", "a\r\nPUB b 0", "a\tb", "a\x00", "a..b", ".a"])
def test_a_subject_cannot_end_its_command(text: str) -> None:
    """Blanks, control characters and empty tokens make no subject; wildcards do."""
    assert not is_subject(text)
    assert is_subject("a.*.>")
