"""Builders for tests of the log: a small vocabulary, sealed records, and a log filled with them."""

from __future__ import annotations

from collections.abc import Iterator

from bacalhau_daemon.log.base import Log, Stored
from bacalhau_daemon.log.records import Chain, Codec, Event


class Noted(Event, frozen=True):
    """Something was noted."""

    text: str = ""


CODEC: Codec[Noted] = Codec(Noted)


def sealed(chain: Chain, *texts: str, term: int = 1, cluster: str = "c-1") -> tuple[bytes, Chain]:
    """Return the record that follows `chain` with one event per text, and the chain after it."""
    events = [Noted(text) for text in texts or ("note",)]
    _, data, after = CODEC.seal(chain, events, cluster=cluster, term=term, at=chain.n, cause="test", by="n-1")
    return data, after


def records(number: int, chain: Chain | None = None, *, size_bytes: int = 0) -> Iterator[bytes]:
    """Yield records that follow `chain`, with one to three events each."""
    chain = chain or Chain()
    for n in range(chain.n, chain.n + number):
        data, chain = sealed(chain, *(f"{n}-{event}" + "x" * size_bytes for event in range(n % 3 + 1)))
        yield data


def fill(log: Log, number: int, *, size_bytes: int = 0) -> Chain:
    """Append records to an empty log and return where its chain stands."""
    chain = Chain()
    for n, data in enumerate(records(number, size_bytes=size_bytes)):
        assert log.append(n, data) == Stored(n + 1)
        chain = chain.verify(data)
    return chain
