"""`credential issue`, `revoke`, `list`."""

from __future__ import annotations

import os
from pathlib import Path

import click
import msgspec

from bacalhau_protocol import errors
from bacalhau_protocol.api.tokens import ROLES, Credential, encode_credential
from bacalhau_protocol.client.client import Client
from bacalhau_tui.cli.context import Context
from bacalhau_tui.cli.lazy import command
from bacalhau_tui.cli.output import Head
from bacalhau_tui.cli.parsing import duration_s
from bacalhau_tui.data import format as fmt
from bacalhau_tui.data.settings import find_credential


@command("issue")
@click.argument("identity")
@click.option("--role", type=click.Choice(ROLES), required=True)
@click.option("--ttl", type=duration_s, default="0", metavar="TIME", help="It ends after so long; never by default.")
@click.option("--file", type=click.Path(dir_okay=False, path_type=Path), help="Write it there, for the owner only.")
def issue(context: Context, *, identity: str, role: str, ttl: float, file: Path | None) -> int:
    """Make a credential and print its file. Its secret is never shown again."""
    if file is not None and file.exists():
        raise errors.Conflict(f"{file} is already there", hint="name a new file")
    own = find_credential(context.settings)

    async def work(client: Client) -> int:
        issued = await client.issue_credential(identity, role, ttl_s=int(ttl))
        credential = Credential(
            address=own.address,
            identity=issued.identity,
            role=issued.role,
            secret=issued.secret,
            cluster=own.cluster,
            ca=own.ca,
        )
        if file is None:
            context.out.value(credential)
        else:
            _write(file, credential)
            context.out.line(str(file))
        until = fmt.moment(issued.expires)
        context.out.say(f"credential of {identity}, {role}" + (f", until {until} UTC" if until else ""))
        return 0

    return context.run(work)


def _write(file: Path, credential: Credential) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as opened:
        opened.write(encode_credential(credential))


@command("revoke")
@click.argument("identity")
def revoke(context: Context, *, identity: str) -> int:
    """End all credentials of an identity and cut its connections."""

    async def work(client: Client) -> int:
        await client.revoke_credential(identity)
        if context.machine:
            context.out.value({"Identity": identity})
        else:
            context.out.line(identity)
            context.out.say("revoked")
        return 0

    return context.run(work)


@command("list")
def list_credentials(context: Context) -> int:
    """List credentials, without their secrets."""

    async def work(client: Client) -> int:
        found = (await client.list_credentials()).credentials
        if context.machine:
            context.out.value(msgspec.to_builtins(found))
            return 0
        rows = [
            [
                row.identity,
                row.role,
                fmt.moment(row.created),
                fmt.moment(row.expires) or "never",
                "revoked" if row.revoked else "",
            ]
            for row in found
        ]
        heads = [Head("IDENTITY", flexible=True, middle=True), Head("ROLE"), Head("CREATED"), Head("EXPIRES")]
        context.out.table([*heads, Head("STATE")], rows)
        return 0

    return context.run(work)
