"""
What a manifest is: a folder as a content of its own, which has a root as any file has.

It begins with L{MAGIC}; then come pages, each four bytes of length, unsigned and big-endian, and
one MessagePack array of items. An item is an array of its fields, as messages are
(L{flow512.wire.messages}): path, mode, mtime, size, root. A folder's path ends with a slash; it has
no root, and stands before what is in it. What is there and cannot be had, since it is not hashed
yet or cannot be read, is said to be so; C{/} stands for the folder itself, if there should be more
in it than can be said now. Paths are relative to the folder that the manifest is of, and sorted by
code point, each once. So a manifest can be made, sent, verified and worked through
from one end to the other, however long it is.

Whoever reads one believes it as far as its root is believed: the paths are hostile until
L{flow512.content.paths} says otherwise, and modes have no bits but those of L{MODES}.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from struct import Struct
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from flow512.content.paths import MAX_DEPTH
from flow512.errors import BadMessage
from flow512.units import DIGEST, MAX_FILE_SIZE

MAGIC: Final = b"flow512 manifest 1\n"

MAX_PAGE: Final = 256 * 1024
"""The most bytes in a page, without its length."""

ITEMS_PER_PAGE: Final = 1000
"""Items in a page that L{manifest_of} makes, at most."""

MODES: Final = 0o777
"""The bits of a mode that a manifest has: who may read, write and execute."""

MAX_ITEMS: Final = 4_000_000
"""The most items that a reader takes; each costs whoever works through them memory and time."""

_LENGTH: Final = Struct(">I")
_MAX_PATH: Final = 4096


class Item(msgspec.Struct, frozen=True, array_like=True):
    """
    A file or a folder.

    @ivar path: where it is; a folder's ends with a slash.
    @ivar mode: its permissions.
    @ivar mtime: of the last change, in nanoseconds since 1970 (UTC).
    @ivar size: bytes; 0 for a folder, or 1 if what is in it could not be listed.
    @ivar root: a file's content id; L{None} for a folder, and for a file that cannot be had.
    """

    path: Annotated[str, Meta(min_length=1, max_length=_MAX_PATH)]
    mode: Annotated[int, Meta(ge=0, le=MODES)]
    mtime: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
    size: Annotated[int, Meta(ge=0, le=MAX_FILE_SIZE)] = 0
    root: Annotated[bytes, Meta(min_length=DIGEST, max_length=DIGEST)] | None = None

    @property
    def is_folder(self) -> bool:
        """Whether it is one."""
        return self.path[-1] == "/"

    @property
    def is_missing(self) -> bool:
        """Whether it is there and cannot be had, or not what is in it."""
        return self.root is None and bool(self.size or not self.is_folder)


NOT_ALL: Final = Item("/", 0, 0, 1)
"""Says that there may be more in the folder than the manifest has."""

_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(tuple[Item, ...])


def manifest_of(items: Iterable[Item]) -> Iterator[bytes]:
    """
    Make a manifest.

    @param items: sorted by path, each path once.
    @return: its bytes, in parts of at most L{MAX_PAGE} and a little.
    """
    yield MAGIC
    page: list[Item] = []
    held = 0
    for item in items:
        # A path's bytes, and all that an item has besides.
        needed = len(item.path.encode()) + 2 * DIGEST
        if page and (len(page) == ITEMS_PER_PAGE or held + needed > MAX_PAGE // 2):
            yield _page(page)
            page, held = [], 0
        page.append(item)
        held += needed
    if page:
        yield _page(page)


def _page(items: list[Item]) -> bytes:
    body = _ENCODER.encode(items)
    return _LENGTH.pack(len(body)) + body


class ManifestReader:
    """
    Bytes in, items out, however the bytes are cut.
    """

    def __init__(self) -> None:
        self._held = bytearray()
        self._is_begun = False
        self._last = ""
        self._count = 0
        # What is in a folder follows it at once, so those above the last item are enough.
        self._above = [""]

    def feed(self, data: bytes | bytearray | memoryview) -> list[Item]:
        """
        Take some bytes.

        @return: the items that are whole now, in order.
        @raise BadMessage: this is no manifest, or not one that could be worked through. Nothing
            more of it can be read.
        """
        self._held += data
        if not self._is_begun:
            if len(self._held) < len(MAGIC):
                return []
            if self._held[: len(MAGIC)] != MAGIC:
                raise BadMessage("This content is no manifest; it is a file, and no folder.")
            del self._held[: len(MAGIC)]
            self._is_begun = True
        items: list[Item] = []
        while len(self._held) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._held)
            if not 1 <= length <= MAX_PAGE:
                raise BadMessage(f"A page of the manifest has {length} bytes, which none may have.")
            end = _LENGTH.size + length
            if len(self._held) < end:
                break
            body = bytes(self._held[_LENGTH.size : end])
            del self._held[:end]
            items.extend(self._read(body))
        return items

    def finish(self) -> None:
        """
        Say that there are no more bytes.

        @raise BadMessage: it ends in the middle.
        """
        if not self._is_begun or self._held:
            raise BadMessage("The manifest ends in the middle.")

    def _read(self, body: bytes) -> tuple[Item, ...]:
        try:
            page = _DECODER.decode(body)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise BadMessage(f"A page of the manifest is not as it should be: {error}") from None
        self._count += len(page)
        if self._count > MAX_ITEMS:
            raise BadMessage(f"The manifest has more than {MAX_ITEMS} items; ask for less of it.")
        above = self._above
        for item in page:
            path = item.path
            if path <= self._last:
                raise BadMessage("The manifest is not in order, or names something twice.")
            self._last = path
            while not path.startswith(above[-1]):
                above.pop()
            if path.rfind("/", 0, -1) + 1 != len(above[-1]):
                raise BadMessage("The manifest has something in a folder that it does not have.")
            if len(above) > MAX_DEPTH:
                raise BadMessage(f"The manifest has something more than {MAX_DEPTH} folders deep.")
            if item.size > item.is_folder if item.root is None else item.is_folder:
                raise BadMessage("The manifest has something that is neither a file nor a folder.")
            if item.is_folder:
                above.append(path)
        return page
