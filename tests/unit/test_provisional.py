"""Tests for L{flow512.content.provisional}, and for handing a partial file over."""

from __future__ import annotations

import os
from unittest import mock

from flow512.content.partial import Partial
from flow512.content.provisional import Provisional, is_begun, provisional_id, take_over
from flow512.content.publish import OwnNames
from flow512.content.tree import TreeBuilder, block_digest
from flow512.errors import BadDigest, DiskFailure, StateInUse
from flow512.units import BLOCK
from flow512.wire.messages import Entry
from tests.unit.partial_files import (
    BOOT,
    CONTENT,
    MTIME,
    NAME,
    OWN,
    ROOT,
    InFolder,
    Killed,
    WatchedDisk,
    block_of,
    dying_at,
    have,
)

BARE = Entry("some/" + NAME, len(CONTENT), MTIME)
WHOLE = Entry("some/" + NAME, len(CONTENT), MTIME, ROOT)
BEFORE = OwnNames.of(provisional_id(BARE), NAME)


class ProvisionalCase(InFolder):
    """A file of four blocks."""

    def begin(self, disk: WatchedDisk | None = None) -> Provisional:
        """Begin, or go on."""
        disk = disk or WatchedDisk()
        self.addCleanup(disk.crash)
        return Provisional(self.fd, NAME, BARE, BOOT, disk)

    def store(self, file: Provisional, *blocks: int) -> None:
        """Store blocks with their digests."""
        data = [block_of(CONTENT, block) for block in blocks]
        file.store([(each, block_digest(each)) for each in data])

    def left(self, *blocks: int) -> None:
        """Leave what a process leaves that was killed after it had stored these."""
        disk = WatchedDisk()
        self.store(self.begin(disk), *blocks)
        disk.crash()


class ProvisionalTests(ProvisionalCase):
    """L{Provisional}."""

    def test_id(self) -> None:
        """The id follows from path, size and mtime, and from nothing else."""
        ids = {
            provisional_id(each)
            for each in (
                BARE,
                Entry(BARE.path + "x", BARE.size, BARE.mtime),
                Entry(BARE.path, BARE.size + 1, BARE.mtime),
                Entry(BARE.path, BARE.size, -1),
            )
        }
        self.assertEqual(len(ids), 4)
        self.assertEqual(provisional_id(WHOLE), provisional_id(BARE))
        self.assertEqual(
            provisional_id(Entry("a", 1, -1)).hex(),
            "506a049563898465ed0f37039d4c754cd963ef54186f614e9d023d60e659f7c0",
        )

    def test_in_order(self) -> None:
        """Blocks that come in order make the root, and are published."""
        file = self.begin()
        self.assertFalse(file.look())
        self.store(file, 0, 1)
        self.assertEqual((file.next, file.stored), (2, 2 * BLOCK))
        self.store(file, 2, 3)
        builder = TreeBuilder()
        for block in range(4):
            builder.add(block_digest(block_of(CONTENT, block)))
        self.assertEqual(file.root(), builder.finish(len(CONTENT)).root)
        file.publish(replace=False, mtime_ns=MTIME)
        self.assertEqual(self.data(), CONTENT)
        self.assertEqual(self.names(), [NAME])

    def test_resumed(self) -> None:
        """What is there is read again, as it is on the disk, a part at a time."""
        self.left(0, 1, 2)
        with mock.patch("flow512.content.provisional.LOOK_AT_ONCE", 2):
            file = self.begin()
            self.assertEqual((file.next, file.stored), (0, 3 * BLOCK))
            self.assertTrue(file.look())
            self.assertFalse(file.look())
        self.assertEqual(file.next, 3)
        before = file.root
        self.store(file, 3)
        self.assertEqual(before(), file.root())
        other = self.begin_another(CONTENT)
        self.assertEqual(file.root(), other)

    def begin_another(self, content: bytes) -> bytes:
        """The root of a content."""
        builder = TreeBuilder()
        for at in range(0, len(content), BLOCK):
            builder.add(block_digest(content[at : at + BLOCK]))
        return builder.finish(len(content)).root

    def test_damaged_since(self) -> None:
        """What was changed on the disk shows in the root."""
        self.left(0, 1, 2, 3)
        with open(self.path(BEFORE.part), "r+b") as file:
            file.write(b"?")
        damaged = self.begin()
        damaged.look()
        self.assertEqual(damaged.root(), self.begin_another(b"?" + CONTENT[1:]))

    def test_wrong_block(self) -> None:
        """A block that is not what its digest says is not stored, nor any after it."""
        file = self.begin()
        blocks = [block_of(CONTENT, block) for block in range(3)]
        digests = [block_digest(blocks[0]), bytes(32), block_digest(blocks[2])]
        with self.assertRaisesRegex(BadDigest, "Block 1 "):
            file.store(list(zip(blocks, digests, strict=True)))
        self.assertEqual((file.next, file.stored), (1, BLOCK))

    def test_out_of_order(self) -> None:
        """What was stored otherwise than in order is of no use, and begun anew."""
        partial = Partial.open(self.fd, NAME, provisional_id(BARE), len(CONTENT), BOOT)
        partial.write(2, block_of(CONTENT, 2))
        partial.close()
        file = self.begin()
        self.assertEqual((file.next, file.stored), (0, 0))
        self.store(file, 0, 1, 2, 3)
        self.assertEqual(file.root(), self.begin_another(CONTENT))

    def test_no_room_for_digests(self) -> None:
        """A disk that does not take the digests is a failure of this machine."""
        file = self.begin()
        with mock.patch.object(TreeBuilder, "add_many", side_effect=OSError(5, "bad")):
            self.assertRaises(DiskFailure, self.store, file, 0)
        with mock.patch.object(TreeBuilder, "finish", side_effect=OSError(5, "bad")):
            self.assertRaises(DiskFailure, file.root)

    def test_discarded(self) -> None:
        """What is thrown away is gone."""
        file = self.begin()
        self.store(file, 0)
        file.discard()
        file.close()
        self.assertEqual(self.names(), [])


class BegunTests(ProvisionalCase):
    """L{is_begun}."""

    def begun(self, name: str = NAME, size: int = len(CONTENT)) -> bool:
        """Ask."""
        return is_begun(self.fd, name, Entry(BARE.path, size, MTIME))

    def test_begun(self) -> None:
        """What a download with a root has left is found by name and size."""
        self.assertFalse(self.begun())
        self.crashed(0)
        self.assertTrue(self.begun())
        self.assertFalse(self.begun(name="other"))
        self.assertFalse(self.begun(size=len(CONTENT) + 1))

    def test_provisional(self) -> None:
        """A file that goes by no root is none of these."""
        self.left(0)
        self.assertFalse(self.begun())

    def test_what_is_in_the_way(self) -> None:
        """Links, folders and other files are none, nor is a journal without its file."""
        self.crashed(0)
        os.rename(self.path(OWN.journal), self.path(".flow512-x.journal"))
        os.symlink(".flow512-x.journal", self.path(OWN.journal))
        os.mkdir(self.path(".flow512-folder.journal"))
        self.put(".flow512-short.journal")
        self.assertFalse(self.begun())
        os.replace(self.path(".flow512-x.journal"), self.path(OWN.journal))
        self.assertTrue(self.begun())
        os.unlink(self.path(OWN.part))
        self.assertFalse(self.begun())


class TakeOverTests(ProvisionalCase):
    """L{take_over}."""

    def take_over(self, disk: WatchedDisk | None = None) -> None:
        """Let the download of the root begin with what there is."""
        disk = disk or WatchedDisk()
        take_over(self.fd, NAME, WHOLE, BOOT, disk)
        self.assertEqual(disk.opened, set())

    def test_nothing(self) -> None:
        """If there is nothing, nothing happens."""
        self.take_over()
        self.assertEqual(self.names(), [])

    def test_what_is_there(self) -> None:
        """Its blocks are there for the other download, which trusts none of them."""
        self.left(0, 1)
        self.take_over()
        self.assertEqual(self.names(), sorted([OWN.part, OWN.journal]))
        partial = self.open()
        self.assertEqual(have(partial), set())
        self.assertEqual(list(partial.unproven), [(0, 2)])
        self.assertEqual(partial.read(0, 2 * BLOCK), CONTENT[: 2 * BLOCK])

    def test_journal_of_an_older_one(self) -> None:
        """A journal that was left of the other download does not speak for it."""
        self.crashed(0, 1, 2, 3)
        os.unlink(self.path(OWN.part))
        self.left(0)
        self.take_over()
        self.assertEqual(have(self.open()), set())

    def test_two(self) -> None:
        """If the other download is there already, this one is given up."""
        self.crashed(3)
        self.left(0)
        self.take_over()
        self.assertEqual(self.names(), sorted([OWN.part, OWN.journal]))
        self.assertEqual(have(self.open()), {3})

    def test_somebody_is_at_it(self) -> None:
        """If somebody is at either, both stay as they are."""
        self.left(0)
        busy = self.begin()
        self.take_over()
        busy.close()
        self.assertIn(BEFORE.part, self.names())
        other = self.open()
        self.take_over()
        other.close()
        self.assertIn(BEFORE.part, self.names())
        self.assertEqual(have(self.open()), set())

    def test_handed_over_while_somebody_is_at_it(self) -> None:
        """Whoever hands over is told that somebody is at the other, and may go on."""
        self.open()
        mine = self.open(root=b"p" * 32)
        with self.assertRaises(StateInUse):
            mine.hand_over(ROOT)
        mine.write(0, block_of(CONTENT, 0))

    def test_killed_at_every_step(self) -> None:
        """
        Killed at any step: nobody trusts what is not there, no block is lost, and the next one
        leaves nothing behind.
        """
        for step in range(1000):
            self.left(0, 1)
            disk = WatchedDisk(dying_at(step))
            try:
                take_over(self.fd, NAME, WHOLE, BOOT, disk)
                is_through = True
            except Killed:
                is_through = False
            disk.crash()
            self.take_over()
            self.assertEqual(self.names(), sorted([OWN.part, OWN.journal]), step)
            partial = self.open()
            self.assertEqual(have(partial), set())
            self.assertEqual(list(partial.unproven), [(0, 2)], step)
            partial.discard()
            if is_through:
                break
        self.assertGreater(step, 10)
