"""
What a command's process loads of what it is built on: no more than it uses.

Twisted loads whatever it might need. Some of that hardly any command needs, and it is loaded when
somebody first asks for anything in it, by the means that Python has for that. And Twisted does
without OpenSSL where that is not installed; a command all of whose connections are bare lets it be
so, since to load it takes a sixth of the time of fetching a small file.

Only the command's own process does so. An application that flow512 is part of loads what it loads.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Final

SELDOM_USED: Final = (
    "http.cookiejar",  # twisted.python.compat, for twisted.web; brings HTTP and mail with it
    "asyncio.sslproto",  # of asyncio, Twisted needs Future
)
"""Each is imported as a whole, and its names are looked up where they are used."""

_FETCHING: Final = ("get", "cat", "ls", "peers")
"""Commands whose connections are all their own."""


def load_no_more_than(arguments: Sequence[str]) -> None:
    """
    From now on, let this process load no more than a command needs.

    @param arguments: as typed.
    """
    sys.meta_path.insert(0, _Sparing(is_bare=is_bare(arguments)))


def is_bare(arguments: Sequence[str]) -> bool:
    """
    Tell whether no connection that a command makes is encrypted.

    @param arguments: as typed. Whatever could be an endpoint string, or where a file is on the web,
        might ask for TLS by itself.
    """
    return (
        bool(arguments)
        and arguments[0] in _FETCHING
        and "--plaintext" in arguments
        and not any(_may_ask_for_tls(argument) for argument in arguments)
    )


def _may_ask_for_tls(argument: str) -> bool:
    where = argument.rpartition("=")[2] if argument.startswith("--") else argument
    kind, colon, rest = where.partition(":")
    if not colon or kind == "flow512":
        return "http" in rest
    return not rest.isdecimal()  # a host and its port


class _Sparing:
    """Comes before what finds modules."""

    def __init__(self, *, is_bare: bool) -> None:
        self._is_bare = is_bare

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name == "OpenSSL" and self._is_bare:
            raise ModuleNotFoundError("No connection of this command is encrypted.", name=name)
        if name not in SELDOM_USED:
            return None
        from importlib.machinery import PathFinder
        from importlib.util import LazyLoader

        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = LazyLoader(spec.loader)
        return spec
