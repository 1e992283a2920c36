"""
Which socket of a host has which port.
"""

from __future__ import annotations

import errno
import os
import socket
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from flow512.testing.addresses import WILDCARD

EPHEMERAL_PORTS: Final = range(32768, 61000)
"""Ports that are given out by the host itself, as Linux has them."""

_Socket = TypeVar("_Socket")


def os_error(number: int) -> OSError:
    """Make the error that a system call would raise."""
    return OSError(number, os.strerror(number))


@dataclass(frozen=True)
class _Binding(Generic[_Socket]):
    socket: _Socket
    address: str
    dual: bool
    shared: bool

    def overlaps(self, other: _Binding[_Socket]) -> bool:
        return bool(self.fits(other.address) or other.fits(self.address))

    def fits(self, address: str) -> int:
        """Tell how well this binding fits what is sent to an address: 0 is not at all."""
        if self.address == address:
            return 3
        if self.address == WILDCARD[socket.AF_INET]:
            return 0 if ":" in address else 2
        if self.address == WILDCARD[socket.AF_INET6]:
            return 2 if ":" in address else int(self.dual)
        return 0


class PortTable(Generic[_Socket]):
    """The ports of one host and one kind of socket, TCP or UDP."""

    def __init__(self) -> None:
        self._bindings: dict[int, list[_Binding[_Socket]]] = {}
        self._next = EPHEMERAL_PORTS.start

    def bind(
        self, socket: _Socket, address: str, port: int, *, dual: bool = False, shared: bool = False
    ) -> int:
        """
        Give a socket a port.

        @param address: its own address, or a wildcard for all.
        @param port: 0 for any that is free.
        @param dual: whether an IPv6 wildcard takes IPv4 too.
        @param shared: whether others that want to share too may have the same port.
        @return: the port.
        @raise OSError: C{EADDRINUSE}, or C{EACCES} for what is no port; nothing is bound.
        """
        if not 0 <= port < 65536:
            raise os_error(errno.EACCES)
        port = port or self._free_port()
        binding = _Binding(socket, address, dual, shared)
        others = self._bindings.setdefault(port, [])
        if any(other.overlaps(binding) and not (shared and other.shared) for other in others):
            raise os_error(errno.EADDRINUSE)
        others.append(binding)
        return port

    def release(self, socket: _Socket, port: int) -> None:
        """Take a port back; one that the socket does not have is no matter."""
        left = [each for each in self._bindings.get(port, ()) if each.socket is not socket]
        if left:
            self._bindings[port] = left
        else:
            self._bindings.pop(port, None)

    def find(self, address: str, port: int) -> list[_Socket]:
        """List the sockets that fit an address best; more than one if they share it."""
        bindings = self._bindings.get(port)
        if not bindings:
            return []
        best = max(each.fits(address) for each in bindings)
        return [each.socket for each in bindings if best and each.fits(address) == best]

    def find_all(self, addresses: tuple[str, ...], port: int) -> list[_Socket]:
        """List every socket that is bound to one of several addresses, or to all."""
        return [
            each.socket
            for each in self._bindings.get(port, ())
            if any(each.fits(address) for address in addresses)
        ]

    def clear(self) -> None:
        """Take every port back."""
        self._bindings.clear()

    def __len__(self) -> int:
        return len(self._bindings)

    def _free_port(self) -> int:
        # Taken in turn, as if from a counter, so that a port that was just given up is not soon
        # mistaken for its successor.
        for _ in EPHEMERAL_PORTS:
            port = self._next
            self._next += 1
            if self._next == EPHEMERAL_PORTS.stop:
                self._next = EPHEMERAL_PORTS.start
            if port not in self._bindings:
                return port
        raise os_error(errno.EADDRINUSE)
