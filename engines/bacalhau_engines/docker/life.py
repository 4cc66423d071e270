"""One run's container, from its creation to its end. `Life.live` blocks: each run has a thread for it.

::

    create ──conflict──► found: created ─► attach, start ─► read its output to the end ─┐
       │                        running ─► read its log from the beginning ─────────────┤
       └► attach, start         exited  ─► read what is left of its log ────────────────┴─► inspect: the end

The link to dockerd may break at any place (its restart, for instance): we wait for it, look for the container by its
name, and go on with what we find.
"""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from bacalhau_engines.docker.create import OWNER
from bacalhau_engines.docker.dockerd import LOOK_AGAIN_S, PATIENCE_S, Dockerd, Gone, Refused, plain
from bacalhau_engines.docker.streams import Sinks, received
from bacalhau_protocol.models.times import parse_time

CREATED, OVER = "created", frozenset({"exited", "dead", "removing"})
_NOT_FOUND = ("executable file not found", "no such file or directory", "stat ")
_STREAMS = "stdout=1&stderr=1"


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """How a container ended."""

    id: str = ""
    exit_code: int = 0
    out_of_memory: bool = False
    started_at: int = 0
    ended_at: int = 0
    image: str = ""


class NeverRan(Exception):
    """The container did not begin; in words, with an exit code that says so."""

    def __init__(self, words: str, exit_code: int = 125, hint: str = "") -> None:
        super().__init__(words)
        self.words, self.exit_code, self.hint = words, exit_code, hint


class Abandoned(Exception):
    """Nobody waits any more; the container goes on."""


class Life:
    """The life of one container.

    Parameters
    ----------
    body
        What to create; None: the container must be there already.
    began
        Told, from the thread, once: when the task's own code began (ns).
    """

    def __init__(
        self,
        dockerd: Dockerd,
        name: str,
        *,
        owner: str,
        body: dict[str, Any] | None,
        sinks: Callable[[dict[str, str]], Sinks],
        began: Callable[[int], None],
    ) -> None:
        self.name = name
        self.id = ""
        self.interrupted_until = 0  # when dockerd was back (ns), after the link to it broke
        self.unwanted = False  # it is not to begin
        self.sinks: Sinks | None = None
        self._dockerd, self._owner, self._body = dockerd, owner, body
        self._open, self._began = sinks, began
        self._created = self._told = False
        self.quota_refused = False  # dockerd cannot limit what a container writes after all
        self._stop, self._stopper = os.pipe()  # readable once it is abandoned
        self._lock = threading.Lock()
        self._abandoned = self._closed = False

    def abandon(self) -> None:
        """End the thread; the container goes on."""
        with self._lock:
            if not self._abandoned and not self._closed:
                self._abandoned = True
                os.write(self._stopper, b"!")

    def close(self) -> None:
        """Close files; the thread has ended."""
        if self.sinks is not None:
            self.sinks.close()
            self.sinks = None
        with self._lock:
            self._closed = True
            os.close(self._stop)
            os.close(self._stopper)

    def live(self) -> Ended:
        """Create the container, or find it, and see it to its end.

        Raises
        ------
        NeverRan, Abandoned, Gone
        """
        step = self._create if self._body is not None else self._find
        while True:
            self._check()
            try:
                return step()
            except Refused as refused:
                if refused.status == 404:
                    raise NeverRan("the container is gone: somebody removed it", 137) from refused
                raise NeverRan(f"dockerd cannot look at the container: {plain(refused.words)}") from refused
            except Gone as gone:
                self._wait_for_dockerd(gone)
                if self.sinks is not None:
                    self.sinks.whole = False
                step = self._find

    # ── steps ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _create(self) -> Ended:
        client, body = self._dockerd.client(), self._body
        assert body is not None, "there is something to create"
        if self.unwanted:
            raise NeverRan("it was stopped before it began")
        try:
            made = self._dockerd.call(lambda: client.create_container_from_config(body, self.name), heavy=True)
        except Refused as refused:
            if refused.status == 409 and "already in use" in refused.words:
                return self._find()
            if "quota" in refused.words and body["HostConfig"].pop("StorageOpt", None):
                self.quota_refused = True
                return self._create()
            raise NeverRan(f"the container could not be created: {plain(refused.words)}") from refused
        self._created = True
        self.id = str(made["Id"])
        return self._begin(body["Labels"])

    def _find(self) -> Ended:
        try:
            found = self._inspect(self.name)
        except Refused as refused:
            if refused.status == 404 and self._body is not None and not self._created:
                return self._create()
            raise
        labels = found["Config"]["Labels"] or {}
        if labels.get(OWNER) != self._owner:
            raise NeverRan(
                f"there is a container {self.name} already, of another node on this machine",
                hint=f"look at it: docker inspect {self.name}",
            )
        self.id, self._created = str(found["Id"]), True
        status = found["State"]["Status"]
        if status == CREATED:
            return self._begin(labels)
        return self._follow(labels, found)

    def _begin(self, labels: dict[str, str]) -> Ended:
        """Attach and start, so that no output is missed."""
        client = self._dockerd.client()
        sinks = self._sinks(labels)
        with self._stream("POST", f"attach?stream=1&{_STREAMS}") as link:
            self._check()
            if self.unwanted:
                raise NeverRan("it was stopped before it began")
            try:
                self._dockerd.call(lambda: client.start(self.id), heavy=True)
            except Refused as refused:
                raise _not_started(plain(refused.words)) from refused
            self._tell(time.time_ns())
            sinks.take(self._arriving(link.fileno()))
        self._check()
        return self._follow(labels, self._inspect(self.id))

    def _follow(self, labels: dict[str, str], found: dict[str, Any]) -> Ended:
        """Read on until the container has ended; also when the link was cut, or its streams closed before it."""
        sinks = self._sinks(labels)
        while True:
            over = found["State"]["Status"] in OVER
            if found["State"]["Status"] != CREATED:
                self._tell(_time(found["State"]["StartedAt"]))
            if over and (sinks.whole or sinks.overflowed):
                return ended(found)
            sinks.again()
            sinks.take(self._log())
            sinks.whole = over  # following a log may end before its last words; reading that of an ended container not
            self._check()
            found = self._inspect(self.id)
            if found["State"]["Status"] not in OVER:
                self._pause()

    def _sinks(self, labels: dict[str, str]) -> Sinks:
        if self.sinks is None:
            self.sinks = self._open(labels)
        return self.sinks

    def _tell(self, at: int) -> None:
        if not self._told:
            self._told = True
            self._began(at)

    # ── dockerd ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _inspect(self, name: str) -> dict[str, Any]:
        client = self._dockerd.client()
        found: dict[str, Any] = self._dockerd.call(lambda: client.inspect_container(name))
        return found

    def _arriving(self, descriptor: int) -> Iterator[bytes]:
        try:
            yield from received(descriptor, self._stop)
        except OSError as error:
            raise Gone(f"the link to dockerd broke: {error}") from error

    def _log(self) -> Iterator[bytes]:
        """Yield the container's log from its beginning until it ends."""
        with self._stream("GET", f"logs?follow=1&{_STREAMS}") as link:
            yield from self._arriving(link.fileno())

    def _stream(self, method: str, what: str) -> socket.socket:
        try:
            return self._dockerd.stream(method, f"/containers/{self.id}/{what}")
        except Refused as refused:
            raise NeverRan(f"dockerd does not give the container's output: {plain(refused.words)}") from refused

    def _wait_for_dockerd(self, gone: Gone) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            self._pause()
            try:
                self._dockerd.call(lambda: self._dockerd.client().ping())
            except (Gone, Refused):
                continue
            self.interrupted_until = time.time_ns()
            return
        raise gone

    def _pause(self) -> None:
        select.select([self._stop], [], [], LOOK_AGAIN_S)
        self._check()

    def _check(self) -> None:
        if self._abandoned:
            raise Abandoned


def _not_started(words: str) -> NeverRan:
    cause = words[words.rfind("exec: ") :] if "exec: " in words else words
    cause = cause.removesuffix(": unknown")
    message = f"the container could not start: {cause}"
    if any(part in cause for part in _NOT_FOUND):
        return NeverRan(message, 127, "does the image have this program? look at Entrypoint and Parameters")
    if "permission denied" in cause:
        return NeverRan(message, 126, "is the program executable in the image?")
    if "port is already allocated" in cause or "address already in use" in cause:
        return NeverRan(message, 125, "another program of the node has taken the port; try again")
    return NeverRan(message)


def ended(found: dict[str, Any]) -> Ended:
    """Return what `docker inspect` says of a container that is over.

    dockerd writes down the start once it knows of it, and a short container has ended by then: such a start is taken to
    be the end.
    """
    state = found["State"]
    started_at, ended_at = _time(state["StartedAt"]), _time(state["FinishedAt"])
    return Ended(
        id=str(found["Id"]),
        exit_code=int(state["ExitCode"]),
        out_of_memory=bool(state.get("OOMKilled")),
        started_at=min(started_at, ended_at) if ended_at else started_at,
        ended_at=ended_at,
        image=str(found["Image"]),
    )


def _time(text: str) -> int:
    """Return nanoseconds; 0 for Docker's "never"."""
    return 0 if text.startswith("0001-") else parse_time(text)
