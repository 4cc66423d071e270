"""Feeds a store from a connected client: a snapshot, then the feed; a snapshot again when something was missed.

Apart from `session`, because it needs the models and the client library, which load after the first frame.
"""

from __future__ import annotations

import asyncio

import msgspec

from bacalhau_protocol import errors
from bacalhau_protocol.api import messages as m
from bacalhau_protocol.api import subjects
from bacalhau_protocol.client.client import Client
from bacalhau_protocol.client.feed import AskAgain, Changed, Feed, FeedEvent, Heard, Silent
from bacalhau_protocol.models.node import NodeState
from bacalhau_tui.data import session as sessions
from bacalhau_tui.data.session import LinkState, Session
from bacalhau_tui.data.store import Store


async def keep_fed(session: Session, client: Client) -> None:
    """Feed the session's store for ever, and tell the session how the link is."""
    session.tell(LinkState.LOADING)
    patterns = [subjects.feed(session.namespace or "*", "job", ">"), subjects.feed("-", "node", ">")]
    async with Feed(client, patterns, whole=True) as feed:
        kinds = {"job", "node"}
        while True:
            if kinds:
                await _load(session, client, feed, kinds)
                pause = asyncio.create_task(asyncio.sleep(sessions.RELOAD_PAUSE_S))
            kinds = await _take_in(session, feed)
            if kinds:
                await pause


async def load_nodes(store: Store, client: Client) -> int:
    """Take all nodes; return the log position of the answer."""
    rows: dict[str, NodeState] = {}
    page, position = "", 0
    while len(rows) < store.nodes.rows_max:
        answer = await client.ask("node.list", m.NodeQuery(page=page), m.NodePage)
        rows.update((node.info.node_id, node) for node in answer.body.nodes)
        page, position = answer.body.next_page, position or answer.position
        if not page:
            break
    store.nodes.snapshot(rows, position, complete=not page)
    return position


async def load_jobs(store: Store, client: Client, namespace: str) -> int:
    """Take the newest jobs page by page, each page at once, so that the first screen need not wait for the last."""
    rows: dict[str, m.JobRow] = {}
    page, position = "", 0
    table = store.jobs
    while len(rows) < table.rows_max:
        query = m.JobQuery(namespace=namespace, limit=m.PAGE_ROWS_MAX, page=page)
        answer = await client.ask("job.list", query, m.JobPage)
        found = {row.id: row for row in answer.body.jobs}
        page, position = answer.body.next_page, position or answer.position
        table.snapshot(found, position, complete=False)
        rows.update(found)
        if not page:
            break
    if not page:
        table.snapshot(rows, position, complete=True)
    return position


async def _take_in(session: Session, feed: Feed) -> set[str]:
    """Wait for events and take in all that are there; return what has to be asked again."""
    again: set[str] = set()
    event: FeedEvent = await anext(feed)
    while True:
        match event:
            case Changed():
                _apply(session.store, event)
            case AskAgain(kind=kind):
                again |= {kind} if kind else {"job", "node"}
            case Silent():
                if session.link.state is not LinkState.DOWN:
                    session.tell(LinkState.STALE, errors.Unavailable("the orchestrator is silent"))
            case Heard():
                session.tell(LinkState.LOADING)
        if not feed.waiting():
            return again
        event = await anext(feed)


def _apply(store: Store, change: Changed) -> None:
    if change.kind == "job":
        if change.deleted:
            store.jobs.remove(change.key, change.seq)
        else:
            row = msgspec.convert(change.row, m.JobRow)
            store.jobs.put(row.id, row, change.seq)
    elif change.kind == "node":
        if change.deleted:
            store.nodes.remove(change.key, change.seq)
        else:
            node = msgspec.convert(change.row, NodeState)
            store.nodes.put(node.info.node_id, node, change.seq)


async def _load(session: Session, client: Client, feed: Feed, kinds: set[str]) -> None:
    """Ask until answered; then the store is as new as the answer."""
    while True:
        try:
            if "node" in kinds:
                feed.asked("node", await load_nodes(session.store, client))
            if "job" in kinds:
                feed.asked("job", await load_jobs(session.store, client, session.namespace))
            session.info = await client.cluster_info()
            break
        except errors.Unauthenticated as error:
            session.tell(LinkState.REFUSED, error)
            await asyncio.sleep(sessions.REFUSED_RETRY_S)
        except errors.BacalhauError as error:
            session.tell(LinkState.STALE if client.bus.connected else LinkState.DOWN, error)
            await asyncio.sleep(sessions.RELOAD_PAUSE_S)
    session.tell(LinkState.LIVE)
