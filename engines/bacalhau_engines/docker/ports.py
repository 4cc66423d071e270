"""Ports of this machine that tasks ask for: each given to one run at a time."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Sequence

from bacalhau_engines.docker.create import HostPort
from bacalhau_protocol.errors import NodeFailed
from bacalhau_protocol.models.job import Port

ANY_ADDRESS = "0.0.0.0"  # noqa: S104 (of containers whose operator allows them a network)


class Ports:
    """What is given away. `is_free` tells whether nobody else listens on an address and port."""

    def __init__(self, first: int, last: int, is_free: Callable[[str, int], bool] | None = None) -> None:
        self._first, self._last = first, last
        self._is_free = is_free or can_listen
        self._next = first
        self._held: set[int] = set()

    def take(self, wanted: Sequence[Port], *, shared_with_host: bool) -> tuple[HostPort, ...]:
        """Give a run its ports, all or none. `shared_with_host`: the task listens on the host's own port.

        Raises
        ------
        NodeFailed
            when a port is in use, or none of the range is free.
        """
        taken: list[HostPort] = []
        try:
            for port in wanted:
                address = port.host_network if isinstance(port.host_network, str) else ""
                number = self._one(port, address or ANY_ADDRESS)
                target = 0 if shared_with_host or not isinstance(port.target, int) else port.target
                taken.append(HostPort(port.name, number, target or number, address or ANY_ADDRESS))
        except NodeFailed:
            self.give_back(port.host for port in taken)
            raise
        return tuple(taken)

    def hold(self, numbers: Iterable[int]) -> None:
        """Note the ports of a run that was found again."""
        self._held.update(numbers)

    def give_back(self, numbers: Iterable[int]) -> None:
        """Take ports of a run that is over."""
        self._held.difference_update(numbers)

    def _one(self, port: Port, address: str) -> int:
        if isinstance(port.static, int) and port.static:
            if port.static in self._held or not self._is_free(address, port.static):
                raise NodeFailed(
                    f"port {port.static} of this node is in use",
                    place=f"Network.Ports {port.name}",
                    hint="leave Static out, and the node picks a free port: BACALHAU_HOST_PORT_NAME tells the task",
                )
            self._held.add(port.static)
            return port.static
        for _ in range(self._first, self._last + 1):
            number = self._next
            self._next = number + 1 if number < self._last else self._first
            if number not in self._held and self._is_free(address, number):
                self._held.add(number)
                return number
        raise NodeFailed(f"no port from {self._first} to {self._last} is free on this node")


def can_listen(address: str, number: int) -> bool:
    """Whether one could listen there now."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, number))
        except OSError:
            return False
    return True
