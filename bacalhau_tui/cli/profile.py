"""`profile list`."""

from __future__ import annotations

from bacalhau_protocol.api.tokens import decode_credential
from bacalhau_protocol.errors import BacalhauError
from bacalhau_tui.cli.context import Context
from bacalhau_tui.cli.lazy import command
from bacalhau_tui.cli.output import Head
from bacalhau_tui.data.settings import Profile, Settings


@command("list")
def list_profiles(context: Context) -> int:
    """List profiles: those of the settings, and credentials that lie in the configuration directory."""
    settings = context.settings
    found = _found(settings)
    if context.machine:
        context.out.value([{"Name": name, **values} for name, values in found.items()])
        return 0
    heads = [Head(""), Head("NAME"), Head("ADDRESS", flexible=True), Head("IDENTITY", flexible=True), Head("NOTE")]
    context.out.table(
        heads,
        [
            [
                "*" if name == settings.profile_name else "",
                name,
                str(values["Address"]),
                str(values["Identity"]),
                "read-only" if values["ReadOnly"] else "",
            ]
            for name, values in found.items()
        ],
    )
    return 0


def _found(settings: Settings) -> dict[str, dict[str, object]]:
    directory = settings.config_dir / "credentials"
    names = sorted({*settings.profiles, *(path.stem for path in directory.glob("*.json"))})
    found: dict[str, dict[str, object]] = {}
    for name in names:
        profile = settings.profiles.get(name, Profile())
        path = directory / f"{name}.json"
        address, identity = profile.nats, ""
        try:
            credential = decode_credential(path.read_bytes(), str(path))
            address, identity = address or credential.address, credential.identity
        except (OSError, BacalhauError):
            pass  # the profile names another file, or none; it is shown without
        found[name] = {"Address": address, "Identity": identity, "ReadOnly": profile.read_only}
    return found
