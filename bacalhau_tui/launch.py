"""Starts the screens. What Textual reads from the environment is set before it is imported; heavy things come last."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec

from bacalhau_tui.data.settings import Settings, find_credential

if TYPE_CHECKING:
    from bacalhau_protocol.client.client import Client
    from bacalhau_tui.data.session import Session

FPS, FPS_LITE = 30, 15


class Choices(msgspec.Struct, frozen=True, kw_only=True):
    """What was said on the command line about the screens; each is stronger than the settings."""

    theme: str = ""
    ascii: bool = False
    lite: bool = False
    mouse: bool = True
    read_only: bool = False

    def over(self, settings: Settings) -> Settings:
        """Lay these over the settings."""
        tui = msgspec.structs.replace(
            settings.tui,
            theme=self.theme or settings.tui.theme,
            ascii=self.ascii or settings.tui.ascii,
            lite=self.lite or settings.tui.lite,
            mouse=self.mouse and settings.tui.mouse,
        )
        profile = msgspec.structs.replace(settings.profile, read_only=self.read_only or settings.profile.read_only)
        return msgspec.structs.replace(settings, tui=tui, profile=profile)


def prepare_environment(settings: Settings) -> None:
    """Set what Textual reads when it is imported; what the user has set stays."""
    os.environ.setdefault("TEXTUAL_ANIMATIONS", "none")
    os.environ.setdefault("TEXTUAL_SMOOTH_SCROLL", "0")
    os.environ.setdefault("TEXTUAL_FPS", str(FPS_LITE if settings.tui.lite else FPS))


def run(settings: Settings, choices: Choices) -> int:
    """Run the screens until the user leaves; return the exit code.

    Raises
    ------
    UsageError
        for keys in the settings that do not go together.
    """
    settings = choices.over(settings)
    prepare_environment(settings)

    from bacalhau_tui.app import ClusterApp  # noqa: PLC0415  loads Textual

    async def connect(session: Session) -> Client:
        from bacalhau_protocol.client.client import Client  # noqa: PLC0415  after the first frame

        credential = find_credential(settings)
        return await Client.connect(credential, read_only=settings.profile.read_only, on_link=session.on_link)

    app = ClusterApp(settings, connect)
    code = app.run(mouse=settings.tui.mouse)
    return app.return_code or (code if isinstance(code, int) else 0)
