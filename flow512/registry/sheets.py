"""
The published list, encoded in sheets of at most L{MAX_PEERS} peers.

A sheet is the part of a SNAPSHOT frame that is the same for everyone, whatever the number. A
change encodes one sheet anew; all others are shared by every snapshot that is under way, old or
new. So ten thousand nodes that arrive one by one cost ten thousand changes and not ten thousand
lists, and a node that reads slowly keeps alive what has changed since, not a list of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

from flow512.wire.fields import MAX_PEERS, Peer
from flow512.wire.frame import encode_frame
from flow512.wire.messages import Kind

_ENCODER: Final = msgspec.msgpack.Encoder()
_NOBODY: Final = _ENCODER.encode(())


class Sheets:
    """
    Peers by node id, each on one sheet.

    Invariants: a peer stands on the sheet that L{_sheet_of} names, and on no other;
    L{_with_room} holds exactly the sheets with fewer than L{MAX_PEERS}; L{_encoded} holds for
    each sheet the bytes of what is on it, or L{None} after a change.
    """

    def __init__(self) -> None:
        self._sheets: list[dict[bytes, Peer]] = []
        self._encoded: list[bytes | None] = []
        self._sheet_of: dict[bytes, int] = {}
        self._with_room: set[int] = set()

    def get(self, node: bytes) -> Peer | None:
        """
        @param node: a node id.
        """
        index = self._sheet_of.get(node)
        return None if index is None else self._sheets[index][node]

    def put(self, peer: Peer) -> None:
        """
        Write a peer down, in the place of whatever stood there for its node id.
        """
        index = self._sheet_of.get(peer.node)
        if index is None:
            if not self._with_room:
                self._with_room.add(len(self._sheets))
                self._sheets.append({})
                self._encoded.append(None)
            index = next(iter(self._with_room))
            self._sheet_of[peer.node] = index
        self._sheets[index][peer.node] = peer
        if len(self._sheets[index]) == MAX_PEERS:
            self._with_room.discard(index)
        self._encoded[index] = None

    def remove(self, node: bytes) -> None:
        """
        Strike a peer out.

        @raise KeyError: no such peer; nothing was changed.
        """
        index = self._sheet_of.pop(node)
        del self._sheets[index][node]
        self._with_room.add(index)
        self._encoded[index] = None

    def frames(self, number: int) -> Iterator[bytes]:
        """
        Give the frames of a snapshot of what stands here now, whatever changes later.

        @param number: that of the latest delta that is counted in.
        @return: whole frames, made one by one as they are taken; at least one.
        """
        sheets = []
        for index, sheet in enumerate(self._sheets):
            if sheet:
                body = self._encoded[index]
                if body is None:
                    body = self._encoded[index] = _ENCODER.encode(list(sheet.values()))
                sheets.append(body)
        return _frames(number, sheets or [_NOBODY])


def _frames(number: int, sheets: list[bytes]) -> Iterator[bytes]:
    for remaining, sheet in enumerate(sheets, 1 - len(sheets)):
        # Field by field what flow512.wire.messages.Snapshot is, with its peers encoded already.
        body = _ENCODER.encode((number, msgspec.Raw(sheet), remaining < 0))
        yield encode_frame(Kind.SNAPSHOT, 0, body)
