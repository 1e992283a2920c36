"""
People and programs on a network share folders and fetch files from each other.

What an application of your own needs can be imported from here; docs/embedding.rst shows how. A
name is loaded when it is first asked for, so importing flow512 costs nothing, and nothing that is
imported from it installs a reactor.
"""

from __future__ import annotations

from flow512._version import __version__

TYPE_CHECKING = False  # not from typing, which takes longer to load than all of this
if TYPE_CHECKING:
    from flow512.content.catalog import IN_MEMORY, Catalog
    from flow512.content.library import Library
    from flow512.content.mirroring import Beyond
    from flow512.content.outlet import Outlet
    from flow512.content.placing import Existing
    from flow512.content.shares import Share
    from flow512.content.tree import format_content_id, parse_content_id
    from flow512.discovery.addresses import LocalAddress, addresses_of_host, choose_interfaces
    from flow512.discovery.beacon import Beacon
    from flow512.discovery.datagram import Offer
    from flow512.discovery.election import Mode
    from flow512.discovery.engine import Sighting
    from flow512.errors import (
        Flow512Error,
        Misuse,
        Refusal,
        ResourceFailure,
        Unreachable,
        Violation,
    )
    from flow512.interfaces import RunBlocking, Workers
    from flow512.limits import Limits
    from flow512.link.address import HostPort, client_endpoint, parse_address
    from flow512.link.conversation import Patience
    from flow512.link.identity import Identity
    from flow512.link.introduction import Introduction
    from flow512.link.named_registry import NamedRegistry
    from flow512.link.node_id import format_node_id, parse_node_id
    from flow512.link.security import Encryption, Plaintext
    from flow512.link.shared_port import SharedPortFactory
    from flow512.link.throttle import Throttle
    from flow512.link.tls import Tls
    from flow512.node import NodeService
    from flow512.registry.client import IPeerListListener, RegistryClient
    from flow512.registry.leadership import Leadership
    from flow512.registry.server import RegistryFactory
    from flow512.registry.service import RegistryService, RegistrySettings
    from flow512.settings import INodeListener, NodeListener, NodeSettings
    from flow512.transfer.client import TransferClient
    from flow512.transfer.download import Checksum, Download
    from flow512.transfer.fetch import Fetched, Growing, Target
    from flow512.transfer.finding import Candidate
    from flow512.transfer.indexing import Indexed, IndexingService
    from flow512.transfer.server import TransferFactory
    from flow512.transfer.source import SourceFactory, SourceProtocol, connect_source
    from flow512.wire.fields import Peer
    from flow512.wire.membership import NetworkKey
    from flow512.wire.messages import Entry

else:
    # Not for type checkers: they would believe in any name at all.

    def __getattr__(name: str) -> object:
        """
        Load a name when it is first asked for (PEP 562).

        @raise AttributeError: there is none.
        """
        from importlib import import_module

        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        found = globals()[name] = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
        return found

    def __dir__() -> list[str]:
        """List what there is, loaded or not."""
        return sorted({*globals(), *__all__})


__all__ = ["__version__"]
# Added, not assigned: pydoctor would move what it finds assigned to the page of this package, and
# there the names in its docstrings mean nothing.
__all__ += [
    "IN_MEMORY",
    "Beacon",
    "Beyond",
    "Candidate",
    "Catalog",
    "Checksum",
    "Download",
    "Encryption",
    "Entry",
    "Existing",
    "Fetched",
    "Flow512Error",
    "Growing",
    "HostPort",
    "INodeListener",
    "IPeerListListener",
    "Identity",
    "Indexed",
    "IndexingService",
    "Introduction",
    "Leadership",
    "Library",
    "Limits",
    "LocalAddress",
    "Misuse",
    "Mode",
    "NamedRegistry",
    "NetworkKey",
    "NodeListener",
    "NodeService",
    "NodeSettings",
    "Offer",
    "Outlet",
    "Patience",
    "Peer",
    "Plaintext",
    "Refusal",
    "RegistryClient",
    "RegistryFactory",
    "RegistryService",
    "RegistrySettings",
    "ResourceFailure",
    "RunBlocking",
    "Share",
    "SharedPortFactory",
    "Sighting",
    "SourceFactory",
    "SourceProtocol",
    "Target",
    "Throttle",
    "Tls",
    "TransferClient",
    "TransferFactory",
    "Unreachable",
    "Violation",
    "Workers",
    "addresses_of_host",
    "choose_interfaces",
    "client_endpoint",
    "connect_source",
    "format_content_id",
    "format_node_id",
    "parse_address",
    "parse_content_id",
    "parse_node_id",
]

_NAMES = {
    "content.catalog": ("IN_MEMORY", "Catalog"),
    "content.library": ("Library",),
    "content.mirroring": ("Beyond",),
    "content.outlet": ("Outlet",),
    "content.shares": ("Share",),
    "content.tree": ("format_content_id", "parse_content_id"),
    "content.placing": ("Existing",),
    "discovery.addresses": ("LocalAddress", "addresses_of_host", "choose_interfaces"),
    "discovery.beacon": ("Beacon",),
    "discovery.datagram": ("Offer",),
    "discovery.election": ("Mode",),
    "discovery.engine": ("Sighting",),
    "errors": (
        "Flow512Error",
        "Misuse",
        "Refusal",
        "ResourceFailure",
        "Unreachable",
        "Violation",
    ),
    "interfaces": ("RunBlocking", "Workers"),
    "limits": ("Limits",),
    "link.address": ("HostPort", "client_endpoint", "parse_address"),
    "link.conversation": ("Patience",),
    "link.identity": ("Identity",),
    "link.introduction": ("Introduction",),
    "link.security": ("Encryption", "Plaintext"),
    "link.named_registry": ("NamedRegistry",),
    "link.node_id": ("format_node_id", "parse_node_id"),
    "link.shared_port": ("SharedPortFactory",),
    "link.throttle": ("Throttle",),
    "link.tls": ("Tls",),
    "node": ("NodeService",),
    "registry.client": ("IPeerListListener", "RegistryClient"),
    "registry.leadership": ("Leadership",),
    "registry.server": ("RegistryFactory",),
    "registry.service": ("RegistryService", "RegistrySettings"),
    "settings": ("INodeListener", "NodeListener", "NodeSettings"),
    "transfer.client": ("TransferClient",),
    "transfer.download": ("Checksum", "Download"),
    "transfer.fetch": ("Fetched", "Growing", "Target"),
    "transfer.finding": ("Candidate",),
    "transfer.indexing": ("Indexed", "IndexingService"),
    "transfer.server": ("TransferFactory",),
    "transfer.source": ("SourceFactory", "SourceProtocol", "connect_source"),
    "wire.membership": ("NetworkKey",),
    "wire.messages": ("Entry", "Peer"),
}
_HOMES = {name: module for module, names in _NAMES.items() for name in names}
