"""Nodes that are listed in the registry as having a content, and are of no use, or worse."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any, ClassVar

from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from flow512.content.hashing import Stop, never
from flow512.content.library import View
from flow512.content.partial import Partial
from flow512.discovery.election import Mode
from flow512.interfaces import RunBlocking
from flow512.limits import Limits
from flow512.link.address import HostPort
from flow512.link.named_registry import NamedRegistry
from flow512.link.presence import Airwaves, Presence
from flow512.link.security import Encryption
from flow512.link.standing import Claims
from flow512.registry.client import IPeerListListener
from flow512.registry.following import RegistryFollower
from flow512.registry.office import Office
from flow512.registry.server import RegistryFactory
from flow512.testing import Host
from flow512.transfer.offers import Offer, Offers
from flow512.transfer.server import TransferFactory
from flow512.units import BLOCK
from flow512.wire.fields import Peer
from flow512.wire.messages import Entry
from tests.unit.offered_files import MTIME, tree_of
from tests.unit.transfer_ends import Shelf

NAME = "file"
"""What everybody calls the content."""

REGISTRY = HostPort("10.0.0.250", 5000)
"""Where they are listed."""


@implementer(IPeerListListener)
class NobodyListens:
    """Does not care who is listed."""

    def peer_list_changed(
        self, joined: Sequence[Peer], left: Sequence[Peer], changed: Sequence[Peer]
    ) -> None:
        """Do nothing."""


class Stranger:
    """
    A node made of a node's own parts, but for what it answers.

    @cvar lies: whether whoever notices has to blame it.
    @ivar shelf: what it shares.
    """

    lies: ClassVar[bool] = False

    def __init__(
        self,
        host: Host,
        folder: Path,
        content: bytes,
        encryption: Encryption,
        random: Random,
    ) -> None:
        """
        @param host: where it runs.
        @param folder: an empty one, for its files.
        @param content: what it is to have.
        @param encryption: as all others have it.
        @param random: decides how it lies.
        """
        self.host = host
        self.folder = folder
        self.content = content
        self.random = random
        self.tree = tree_of(content)
        self.shelf = self.make_shelf()
        self._presence = Presence(
            host.reactor,
            Claims(host.name, "", "", encryption, None),
            Airwaves(None, (), list),
            Limits(),
            random,
        )
        self._factory = TransferFactory(
            self.shelf,
            self._presence.introduction,
            host.reactor,
            self.workers(),
            offers=self.make_offers(),
            reads_cached=False,
        )
        self._presence.shared.conversations["transfer"] = self._factory
        self._presence.listen("tcp:5000")
        self._follower = RegistryFollower(
            host.reactor,
            self._presence.standing.endpoint,
            self._presence.introduction,
            mode=Mode.NEVER,
            named=(NamedRegistry(REGISTRY),),
            port=5000,
            ticket=random.randbytes(16),
            random=random,
            offers=tuple,
            listens=False,
            office=Office(host.reactor, self._presence, RegistryFactory),  # type: ignore[arg-type]  # never made
            listener=NobodyListens(),
        )
        self._follower.hold((self.tree.root,), ())
        self._follower.startService()

    def make_shelf(self) -> Shelf:
        """Share the content."""
        shelf = Shelf(self.folder)
        shelf.put(NAME, self.content)
        return shelf

    def make_offers(self) -> Offers | None:
        """Offer what is being downloaded, if anything is."""
        return None

    def workers(self) -> RunBlocking:
        """Give what does the work."""
        return self.host.run_blocking

    async def stop(self) -> None:
        """End everything."""
        await self._follower.stopService()
        await self._presence.stop_listening()
        await self._factory.stop()
        self._presence.close()
        assert self.shelf.open_now == 0
        self.shelf.shut()


class Corrupter(Stranger):
    """Changes one bit in one of so many blocks."""

    lies = True

    def make_shelf(self) -> Shelf:
        shelf = super().make_shelf()
        every = self.random.randrange(1, 6)

        def hook(offset: int, data: bytes) -> bytes:
            if (offset // BLOCK) % every or not data:
                return data
            return data[:-1] + bytes([data[-1] ^ 1])

        shelf.read_hook = hook
        return shelf


class WrongPages(Stranger):
    """Sends digests that are none."""

    lies = True

    def make_shelf(self) -> Shelf:
        class Wrong(Shelf):
            def page(self, root: bytes, level: int, index: int, view: View | None = None) -> bytes:
                return bytes(len(super().page(root, level, index, view)))

        shelf = Wrong(self.folder)
        shelf.put(NAME, self.content)
        return shelf


class WrongSize(Stranger):
    """Says that the content has another size."""

    lies = True

    def make_shelf(self) -> Shelf:
        wrong = max(0, len(self.content) + self.random.choice([-1, 1, BLOCK, -BLOCK]))

        class Wrong(Shelf):
            def stat(
                self,
                path: str = "",
                root: bytes | None = None,
                stop: Stop = never,
                view: View | None = None,
            ) -> Entry:
                entry = super().stat(path, root, stop, view)
                return Entry(entry.path, wrong, entry.mtime, entry.root)

        shelf = Wrong(self.folder)
        shelf.put(NAME, self.content)
        return shelf


class WrongChecksum(Stranger):
    """Tells an MD5 that is not the content's."""

    def make_shelf(self) -> Shelf:
        class Wrong(Shelf):
            def checksum(self, root: bytes, stop: Stop = never, view: View | None = None) -> bytes:
                return bytes(16)

        shelf = Wrong(self.folder)
        shelf.put(NAME, self.content)
        return shelf


class Boaster(Stranger):
    """Downloads the content, has some blocks of it, and tells whoever watches that it has all."""

    def make_shelf(self) -> Shelf:
        return Shelf(self.folder)

    def make_offers(self) -> Offers:
        offers = Offers(self.host.reactor)
        root, shape, size = self.tree.root, self.tree.shape, len(self.content)
        downloads = self.folder.with_name(self.folder.name + " downloads")
        downloads.mkdir()
        fd = os.open(downloads, os.O_RDONLY)
        partial = Partial.open(fd, NAME, root, size, "this boot")
        has = [block for block in range(shape.blocks) if self.random.random() < 0.5]
        for block in has:
            partial.write(block, self.content[block * BLOCK : (block + 1) * BLOCK])
        self._offer = offers.prepare(partial, Entry(NAME, size, MTIME, root))
        partial.close()
        os.close(fd)
        self._offer.begin()
        for level in range(shape.levels):
            for index in range(shape.pages(level)):
                self._offer.page_proven(level, index, self.tree.page(level, index))
        self._offer.blocks_stored(range(shape.blocks))
        return offers

    _offer: Offer

    async def stop(self) -> None:
        self._offer.withdraw()
        await super().stop()


class Hanging(Stranger):
    """Answers some requests, and then takes requests and says nothing."""

    def workers(self) -> RunBlocking:
        self._left = self.random.randrange(1, 12)
        self._held: list[Callable[[], None]] = []

        def run_blocking(
            function: Callable[..., Any], /, *args: Any, **kwargs: Any
        ) -> Deferred[Any]:
            self._left -= 1
            if self._left >= 0:
                return self.host.run_blocking(function, *args, **kwargs)
            held: Deferred[Any] = Deferred(lambda _: None)
            self._held.append(lambda: held.callback(None))
            return held.addCallback(lambda _: self.host.run_blocking(function, *args, **kwargs))

        return run_blocking

    async def stop(self) -> None:
        self._left = 1 << 30
        held, self._held = self._held, []
        for let_go in held:
            let_go()
        await succeed(None)
        await super().stop()


STRANGERS: tuple[type[Stranger], ...] = (
    Corrupter,
    WrongPages,
    WrongSize,
    WrongChecksum,
    Boaster,
    Hanging,
)
