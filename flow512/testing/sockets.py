"""
What stream and datagram sockets have in common.

Twisted's own transports run on these, so they offer what those call on a C{socket.socket}, raise
the same C{OSError}s, and keep whatever options they do not know.
"""

from __future__ import annotations

import errno
import socket
import struct
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from flow512.testing.addresses import WILDCARD, SocketAddress, canonical, socket_address
from flow512.testing.ports import os_error

if TYPE_CHECKING:
    from flow512.testing.host import Host
    from flow512.testing.poller import Poller


class Socket(ABC):
    """
    A socket of a host.

    @ivar host: whose it is.
    @ivar family: C{AF_INET} or C{AF_INET6}.
    @ivar address: its own address; a wildcard while it has none.
    @ivar port: its own port; 0 while it has none.
    @ivar closed: whether its owner has closed it, or it vanished with its process.
    """

    def __init__(self, host: Host, poller: Poller, family: int) -> None:
        self.host = host
        self.poller = poller
        self.family = family
        self.address = WILDCARD[socket.AF_INET6 if family == socket.AF_INET6 else socket.AF_INET]
        self.port = 0
        self.closed = False
        self.options: dict[tuple[int, int], int | bytes] = {}
        self.descriptor = poller.register(self)

    @property
    @abstractmethod
    def readable(self) -> bool:
        """Whether reading would tell something."""

    @property
    @abstractmethod
    def writable(self) -> bool:
        """Whether writing would do something."""

    @property
    def gave_up(self) -> bool:
        """Whether it failed because nothing was acknowledged for too long."""
        return False

    @property
    def is_owned(self) -> bool:
        """Whether the process has it, and not only the kernel."""
        return True

    @abstractmethod
    def close(self) -> None:
        """Let go of everything."""

    def vanish(self) -> None:
        """Be gone, with the process that had it; no one is told."""
        self.closed = True

    def wake(self) -> None:
        """Have the reactor look at whether this socket is ready."""
        self.poller.wake(self.descriptor)

    def fileno(self) -> int:
        """Name the descriptor; -1 once the socket is closed."""
        return -1 if self.closed else self.descriptor

    def setblocking(self, flag: bool) -> None:
        """Be told that it shall not block, which none here does."""
        assert not flag, "no reactor asks a socket to block"

    def setsockopt(self, level: int, name: int, value: int | bytes) -> None:
        """Set an option; those that mean nothing here are remembered."""
        self.options[level, name] = value

    def getsockopt(self, level: int, name: int, size: int = 0) -> int | bytes:
        """Get an option; 0, or bytes of zero, if it was never set."""
        value = self.options.get((level, name), 0)
        if size and isinstance(value, int):
            return struct.pack("=I", value).ljust(size, b"\0")[:size]
        return value

    def getsockname(self) -> SocketAddress:
        """Name the socket's own address and port."""
        return socket_address(self.address, self.port, self.family)

    def flag(self, level: int, name: int) -> bool:
        """Tell whether an option is set."""
        return bool(self.options.get((level, name), 0))

    @property
    def dual(self) -> bool:
        """Whether an IPv6 wildcard takes IPv4 too, as it does on Linux unless told not to."""
        return self.family == socket.AF_INET6 and not self.flag(
            socket.IPPROTO_IPV6, socket.IPV6_V6ONLY
        )

    def own_name(self, address: str) -> str:
        """
        Read the host part of an address to bind to.

        @raise OSError: C{EADDRNOTAVAIL}, it is not this host's; C{EINVAL}, it is of the other
            family.
        """
        if not address:
            return WILDCARD[socket.AF_INET6 if self.family == socket.AF_INET6 else socket.AF_INET]
        name = canonical(address)
        if (":" in name) != (self.family == socket.AF_INET6):
            raise os_error(errno.EINVAL)
        if name not in WILDCARD.values() and not self.host.owns(name):
            raise os_error(errno.EADDRNOTAVAIL)
        return name
