"""
Bad input: the worst of it, through the doors that a stranger finds.

Each row is an input with the refusal that it has to meet, and each time there is a look at what
was lost or leaked. What else must be survived, and which tests hold it, is in
L{tests.unit.test_bad_input_table}.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from random import Random
from typing import Final

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from flow512.content.paths import open_beneath, open_folder
from flow512.errors import (
    WIRE_CODES,
    BadDigest,
    BadFrame,
    BadMessage,
    Flow512Error,
    Misuse,
    NotFound,
    UnsafeName,
    Violation,
)
from flow512.link.address import HostPort
from flow512.link.introduction import Introduction
from flow512.transfer.fetch import Fetcher, Target
from flow512.transfer.finding import Candidate, Found
from flow512.units import BLOCK
from flow512.wire.fields import Message
from flow512.wire.frame import encode_frame, encode_header
from flow512.wire.membership import NetworkKey
from flow512.wire.messages import (
    CAPS,
    Entry,
    Error,
    Hello,
    Kind,
    Listing,
    Ping,
    Pong,
    Read,
    Stat,
    Stated,
    encode,
)
from tests.unit.transfer_ends import (
    THEIRS,
    HandFired,
    Shelf,
    TransferTestCase,
    a_folder,
    ask,
    serve,
)

ROOT: Final = b"r" * 32

HOSTILE_PATHS: Final[dict[str, tuple[type[Flow512Error], str]]] = {
    "..": (Misuse, "stands for a folder"),
    "../outside/secret": (Misuse, "stands for a folder"),
    "sub/../../outside/secret": (Misuse, "stands for a folder"),
    "./file": (Misuse, "stands for a folder"),
    "/etc/passwd": (Misuse, "absolute"),
    "..\\outside\\secret": (Misuse, "parts folders"),
    "C:/secret": (Misuse, "drive letter"),
    "~/secret": (Misuse, "home folder"),
    "sub//file": (Misuse, "empty"),
    "file\0.txt": (Misuse, r"\x00"),
    "a\nb": (Misuse, r"\x0a"),
    "\x1b[2J": (Misuse, r"\x1b"),
    "gpj.\u202eexe": (Misuse, r"\u202e"),
    "sub/NUL.txt": (Misuse, "device"),
    "COM1": (Misuse, "device"),
    "file.": (Misuse, "dot or a space"),
    "file ": (Misuse, "dot or a space"),
    "a" * 256: (Misuse, "longer than 255"),
    "/".join(["\u20ac" * 80] * 18): (Misuse, "4096"),
    "a/" * 1000 + "a": (Misuse, "100 folders deep"),
    "FILE": (NotFound, ""),
    "cafe\u0301": (NotFound, ""),
    "file/inner": (NotFound, ""),
    "sub": (NotFound, ""),
    "link": (NotFound, ""),
    "out/secret": (NotFound, ""),
    "sub/up/outside/secret": (NotFound, ""),
    "fifo": (NotFound, ""),
    "socket": (NotFound, ""),
    "null": (NotFound, ""),
    ".flow512-allow": (NotFound, ""),
}
"""What a peer asks for, and what it hears. The share has C{file}, C{caf\u00e9} and C{sub/file}."""


def lay_traps(share: Path) -> None:
    """Put into a share what leads out of it, or is no file, beside some files."""
    outside = share.parent / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    (share / "sub").mkdir()
    for name in ("file", "caf\u00e9", "sub/file"):
        (share / name).write_bytes(b"content")
    (share / "link").symlink_to(outside / "secret")
    (share / "out").symlink_to(outside)
    (share / "sub" / "up").symlink_to("../..")
    (share / "null").symlink_to("/dev/null")
    (share / ".flow512-allow").write_bytes(b"")
    os.mkfifo(share / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(share / "socket"))


class AskedTests(SynchronousTestCase):
    """A node that serves, and what a peer may ask of it."""

    def setUp(self) -> None:
        base = a_folder(self)
        (base / "share").mkdir()
        lay_traps(base / "share")
        (base / "share" / ".flow512-allow").unlink()
        self.clock = Clock()
        self.workers = HandFired()
        self.shelf = Shelf(base / "share")
        self.addCleanup(self.shelf.shut)
        self.served = serve(self.shelf, self.workers, self.clock)
        self.addCleanup(self.end_all)

    def end_all(self) -> None:
        """Nothing may be left open, or to be done."""
        self.served.end.hang_up()
        self.workers.do_all()
        self.assertEqual(self.shelf.open_now, 0)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertFalse(self.served.factory.connections)

    def ask(self, message: Message) -> Message:
        """Ask, and have the one answer."""
        self.served.end.say(message, request=1)
        self.workers.do_all()
        [(request, answer)] = self.served.end.heard()
        self.assertEqual(request, 1)
        return answer

    def test_hostile_paths(self) -> None:
        """Nothing but the files of the share is found, and the conversation goes on."""
        for path, (kind, why) in HOSTILE_PATHS.items():
            answer = self.ask(Stat(path))
            shown = ascii(path[:40])
            assert isinstance(answer, Error), shown
            self.assertEqual(answer.code, WIRE_CODES[kind], shown)
            self.assertIn(why, answer.sentence, shown)
            self.assertTrue(answer.sentence.isprintable(), shown)
            self.assertNotIn(str(self.shelf.folder), answer.sentence)
            self.assertEqual(self.ask(Ping()), Pong())
        self.assertEqual(self.shelf.opened, [])
        self.assertIsInstance(self.ask(Stat("file")), Stated)

    def test_swapped_for_a_link(self) -> None:
        """A file that became a link out of the share is not read, though its content is known."""
        stated = self.ask(Stat("file"))
        assert isinstance(stated, Stated)
        assert stated.entry.root is not None
        file = self.shelf.folder / "file"
        file.unlink()
        file.symlink_to(self.shelf.folder.parent / "outside" / "secret")
        answer = self.ask(Read(stated.entry.root, 0, 1))
        self.assertIsInstance(answer, Error)
        self.assertEqual(self.shelf.bytes_read, 0)

    def test_hostile_frames(self) -> None:
        """A frame that may not be ends the conversation: the one who sent it is told, once."""
        rows: list[tuple[str, bytes, type[Flow512Error]]] = [
            ("unknown kind", encode_frame(0x77, 1, b""), BadFrame),
            ("kind 0", encode_frame(0, 0, b""), BadFrame),
            ("kind 255 of all bytes", b"\xff" * 16, BadFrame),
            ("2^24-1 bytes", encode_header(Kind.READ, 1, 2**24 - 1), BadFrame),
            ("one over the cap", encode_header(Kind.LIST, 1, CAPS[Kind.LIST] + 1), BadFrame),
            ("what only servers say", encode(Listing(()), 1), BadFrame),
            ("data", encode_frame(Kind.DATA, 1, bytes(512)), BadFrame),
            ("a second hello", encode(Hello(1, 1, "transfer", THEIRS)), BadFrame),
            ("no body", encode_frame(Kind.READ, 1, b""), BadMessage),
            ("no array", encode_frame(Kind.READ, 1, b"\xc0"), BadMessage),
            ("a tail", encode_frame(Kind.PING, 1, b"\x90\x90"), BadMessage),
            (
                "2^32-1 fields declared",
                encode_frame(Kind.READ, 1, b"\xdd" + b"\xff" * 4),
                BadMessage,
            ),
            ("deep", encode_frame(Kind.LIST, 1, b"\x91" * 16_000), BadMessage),
            ("half characters", encode_frame(Kind.STAT, 1, b"\x91\xa3\xed\xa0\x80"), BadMessage),
            (
                "beyond 64 bits",
                encode_frame(
                    Kind.READ, 1, b"\x93\xc4\x20" + ROOT + b"\xcf" + b"\xff" * 8 + b"\x01"
                ),
                BadMessage,
            ),
        ]
        for what, data, kind in rows:
            served = serve(self.shelf, self.workers, self.clock)
            served.end.say_bytes(data + encode(Ping(), 7) + encode(Stat("file"), 8))
            self.workers.do_all()
            [(_, answer)] = served.end.heard()
            assert isinstance(answer, Error), what
            self.assertEqual(answer.code, WIRE_CODES[kind], what)
            self.assertTrue(answer.sentence.isprintable(), what)
            self.assertTrue(served.end.is_closing, what)
            served.end.hang_up()

    def test_truncated(self) -> None:
        """A request that ends at any byte is no request, and leaves nothing behind."""
        whole = encode(Stat("file"), 1)
        for end in range(1, len(whole)):
            served = serve(self.shelf, self.workers, self.clock)
            served.end.say_bytes(whole[:end])
            served.end.hang_up()
            self.assertEqual(self.workers.jobs, [])
            self.assertEqual(served.end.heard(), [])
            self.assertFalse(served.factory.connections)


class AnsweredTests(SynchronousTestCase):
    """A node that asks, and what may come back."""

    def setUp(self) -> None:
        self.clock = Clock()

    def test_hostile_answers(self) -> None:
        """What does not answer the question fails it and ends the conversation."""
        stat = Stat("file")
        long = [["a" * 4097, 1, 0, ROOT]]
        rows: list[tuple[str, bytes, type[Flow512Error]]] = [
            ("a kind for servers", encode(stat, 1), BadFrame),
            ("an answer of another sort", encode(Listing(()), 1), Violation),
            ("the right sort for nobody", encode(Stated(Entry("file", 1, 0, ROOT)), 9), Violation),
            ("another file", encode(Stated(Entry(".bashrc", 1, 0, ROOT)), 1), Violation),
            ("no root", encode(Stated(Entry("file", 1, 0, None)), 1), Violation),
            ("2^63 bytes", raw_entry(["file", 2**63, 0, ROOT]), BadMessage),
            ("fewer than no bytes", raw_entry(["file", -1, 0, ROOT]), BadMessage),
            ("a size that is a text", raw_entry(["file", "1", 0, ROOT]), BadMessage),
            ("a root of 31 bytes", raw_entry(["file", 1, 0, ROOT[1:]]), BadMessage),
            ("a path of 4097 characters", raw_entry(*long), BadMessage),
            ("a time beyond 64 bits", raw_entry(["file", 1, 2**64 - 1, ROOT]), BadMessage),
            ("no entry", encode_frame(Kind.ENTRY, 1, b"\x91\xc0"), BadMessage),
            ("data", encode_frame(Kind.DATA, 1, bytes(512)), Violation),
            ("over the cap", encode_header(Kind.ENTRY, 1, CAPS[Kind.ENTRY] + 1), BadFrame),
        ]
        for what, data, kind in rows:
            source, end = ask(self.clock)
            result = source.stat("file")
            end.heard()
            end.say_bytes(data)
            failure = self.failureResultOf(result)
            self.assertTrue(failure.check(kind), f"{what}: {failure}")
            self.assertTrue(str(failure.value).isprintable(), what)
            self.assertTrue(end.is_closing, what)
            end.hang_up()
            self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_answered_twice(self) -> None:
        """The first answer counts; the second ends the conversation, and nobody waits for ever."""
        source, end = ask(self.clock)
        first, other = source.stat("file"), source.stat("other")
        end.heard()
        answer = encode(Stated(Entry("file", 1, 0, ROOT)), 1)
        end.say_bytes(answer * 2)
        self.assertEqual(self.successResultOf(first).size, 1)
        self.failureResultOf(other, Violation)
        self.assertTrue(end.is_closing)
        end.hang_up()
        self.assertEqual(self.clock.getDelayedCalls(), [])


def raw_entry(entry: list[object]) -> bytes:
    """An ENTRY frame that holds whatever it is told to."""
    return encode_frame(Kind.ENTRY, 1, msgspec.msgpack.encode([entry]))


class FetchedTests(TransferTestCase):
    """A node that fetches from one that lies."""

    def refused(self, entry: Entry, name: str | None = None) -> str:
        """Fetch in vain; what is in the folder is as before."""
        before = {path: path.read_bytes() for path in self.folder.iterdir()}
        run = self.here.run_blocking
        fetcher = Fetcher(self.here.reactor, run, run, Random(7))
        target = Target(str(self.folder), name)
        source = self.source()
        found = Found(Candidate(HostPort("10.0.0.1", 5000)), source, entry)
        with self.assertRaises(Flow512Error) as caught:
            self.network.result(Deferred.fromCoroutine(fetcher.fetch([found], target)))
        source.leave()
        after = {path: path.read_bytes() for path in self.folder.iterdir()}
        hidden = {path: data for path, data in after.items() if path.name[:9] == ".flow512-"}
        self.assertEqual({path: after[path] for path in after.keys() - hidden.keys()}, before)
        self.assertTrue(str(caught.exception).isprintable())
        self.caught = caught.exception
        return str(caught.exception)

    def test_hostile_names(self) -> None:
        """An entry whose name may not be makes no file, here or anywhere else."""
        (self.folder / "mine").write_bytes(b"mine")
        entry, _ = self.put("one", 1000)
        for path, why in {
            "..": "stands for a folder",
            "x/..": "stands for a folder",
            "/etc/cron.d/x": "absolute",
            "x\\..\\..\\y": "parts folders",
            "C:evil.exe": "drive letter",
            "gpj.\u202eexe": "direction",
            "\x1b]0;x\x07": "control character",
            "lpt1.txt": "device",
            "xy:stream": "Windows forbids",
            ".flow512-allow": "for itself",
            "a" * 300: "longer than 255",
        }.items():
            self.assertIn(why, self.refused(msgspec.structs.replace(entry, path=path)), ascii(path))
            self.assertIsInstance(self.caught, UnsafeName)
            self.assertEqual(os.listdir(self.folder), ["mine"])
        self.assertEqual(sorted(os.listdir(self.folder.parent)), ["folder", "shelf"])

    def test_sizes_that_lie(self) -> None:
        """A size that is not the content's is found out, and takes no room on the disk."""
        entry, _ = self.put("one", 3 * BLOCK + 5)
        for size in (0, 1, BLOCK, entry.size - 1, entry.size + 1, 2**40, 2**63 - 1):
            self.refused(msgspec.structs.replace(entry, size=size))
            used = sum(path.stat().st_blocks for path in self.folder.iterdir())
            self.assertLessEqual(used, 64, size)

    def test_digests_of_another_file(self) -> None:
        """Pages and blocks of another file do not pass for this one's, and are not kept."""
        one, _ = self.put("one", 2 * BLOCK)
        other, _ = self.put("other", 2 * BLOCK)
        assert one.root is not None
        assert other.root is not None
        page = self.shelf.page(other.root, 0, 0)
        self.shelf.page = lambda root, level, index, view: page  # type: ignore[method-assign]
        self.refused(one)
        self.assertIsInstance(self.caught, BadDigest)
        del self.shelf.page
        content = self.shelf.open(other.root)
        self.addCleanup(content.close)
        self.shelf.read_hook = lambda offset, data: os.pread(content.fd, len(data), offset)
        self.refused(one)
        self.assertIsInstance(self.caught, BadDigest)
        content_of_part = b"".join(path.read_bytes() for path in self.folder.glob("*.part"))
        self.assertEqual(content_of_part.strip(b"\0"), b"")


class MachineTests(SynchronousTestCase):
    """What is no stranger's doing."""

    def test_device(self) -> None:
        """A device that lies in a shared folder is not opened as a file."""
        folder = open_folder("/dev")
        self.addCleanup(os.close, folder)
        with self.assertRaises(UnsafeName) as caught:
            open_beneath(folder, ("null",))
        self.assertIn("not a regular file", str(caught.exception))

    def test_key_is_never_shown(self) -> None:
        """What shows up in a traceback or a log has nothing of the network key in it."""
        secret = bytes(range(65, 97))
        key = NetworkKey(secret)
        introduction = Introduction(THEIRS, key=key)
        for shown in (repr(key), str(key), repr(introduction), f"{introduction}"):
            for said in (secret, key.beacons):
                self.assertNotIn(repr(said)[2:-1], shown)
                self.assertNotIn(said.hex(), shown)
