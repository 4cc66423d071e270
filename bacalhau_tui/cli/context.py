"""What one run of a command has at hand: settings, output, and a client while it works."""

from __future__ import annotations

import functools
import os
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bacalhau_protocol.client.client import Client
    from bacalhau_protocol.errors import BacalhauError
    from bacalhau_tui.cli.output import Output
    from bacalhau_tui.data.settings import Settings

QUIET_S = 1.0  # a retry is mentioned after so long


class Context:
    """Filled by the global options (`flags`); the rest is made when it is first used."""

    def __init__(self) -> None:
        self.flags: dict[str, str] = {}
        self._waited_s = 0.0

    @functools.cached_property
    def settings(self) -> Settings:
        """The settings after file, environment and flags."""
        from bacalhau_tui.data.settings import Flags, load_settings  # noqa: PLC0415

        return load_settings(Flags(**self.flags), os.environ)

    @functools.cached_property
    def out(self) -> Output:
        """Where to write."""
        from bacalhau_tui.cli.output import Output  # noqa: PLC0415

        return Output(self.flags.get("output") or self.settings.output)

    @property
    def machine(self) -> bool:
        """Whether a program reads the data (JSON or YAML)."""
        return self.out.format != "table"

    def namespace(self, named: str | None) -> str:
        """Return the namespace: as named, else the profile's."""
        return named or self.settings.profile.namespace

    def run(self, work: Callable[[Client], Awaitable[int]]) -> int:
        """Connect, work, close; return the exit code."""

        import asyncio  # noqa: PLC0415  a quarter of the time that `--help` would take

        async def connected() -> int:
            client = await open_client(self)
            try:
                return await work(client)
            finally:
                await client.close()

        return asyncio.run(connected())

    def on_retry(self, error: BacalhauError, pause_s: float) -> None:
        """Say once that it takes longer, and why."""
        before, self._waited_s = self._waited_s, self._waited_s + pause_s
        if before < QUIET_S <= self._waited_s:
            self.out.say(f"waiting: {error.message}")


async def open_client(context: Context) -> Client:
    """Connect as the settings say."""
    from bacalhau_protocol.client.client import Client  # noqa: PLC0415
    from bacalhau_tui.data.settings import credential_warning, find_credential  # noqa: PLC0415

    credential = find_credential(context.settings)
    if warning := credential_warning(context.settings):
        context.out.say(f"warning: {warning}")
    return await Client.connect(credential, read_only=context.settings.profile.read_only, on_retry=context.on_retry)
