"""What the orchestrator keeps secret in its data directory: its id, its account key, its ticket key."""

from __future__ import annotations

import secrets
from pathlib import Path

import msgspec

from bacalhau_daemon.files import write_private
from bacalhau_daemon.orchestrator.jwt import AccountKey, new_account_seed
from bacalhau_protocol import errors
from bacalhau_protocol.api.tokens import TicketSigner
from bacalhau_protocol.models.ids import NODE, RANDOM_BYTES, new_id

FILE_NAME = "keys.json"
TICKET_SEED_BYTES = 32


class Keys(msgspec.Struct, frozen=True, kw_only=True):
    """The file. Lost, it is made again: then all connections and tickets of before end, credentials stay good."""

    v: int = 1
    node: str
    account_seed: str
    ticket_seed: str  # hexadecimal

    @property
    def account(self) -> AccountKey:
        """The key that signs permissions."""
        return AccountKey(self.account_seed)

    @property
    def tickets(self) -> TicketSigner:
        """The key that signs tickets."""
        return TicketSigner(bytes.fromhex(self.ticket_seed))


def load_or_make(directory: Path, name: str) -> Keys:
    """Read the keys, or make them at the first start; `name` is the node's id then and is kept.

    Raises
    ------
    UsageError
        when the file cannot be understood.
    """
    path = directory / FILE_NAME
    try:
        return msgspec.json.decode(path.read_bytes(), type=Keys)
    except FileNotFoundError:
        pass
    except msgspec.MsgspecError as error:
        raise errors.UsageError(
            f"the keys cannot be read: {error}",
            place=str(path),
            hint="restore the file, or move it away to make new keys",
        ) from error
    keys = Keys(
        node=name or new_id(NODE, secrets.token_bytes(RANDOM_BYTES)),
        account_seed=new_account_seed(),
        ticket_seed=secrets.token_hex(TICKET_SEED_BYTES),
    )
    write_private(path, msgspec.json.format(msgspec.json.encode(keys)))
    return keys
