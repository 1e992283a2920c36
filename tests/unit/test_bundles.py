"""Tests for L{flow512.transfer.bundles}, and for the source's side of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from zope.interface import directlyProvides

from flow512.content.tree import block_digest, root_digest
from flow512.content.view import View
from flow512.errors import WIRE_CODES, BadFrame, Cancelled, DiskFailure
from flow512.link.bulk import IBulkTransport
from flow512.units import BLOCK
from flow512.wire.bundle import MAX_BUNDLED, Bundle, Parcel, unpack
from flow512.wire.frame import Frame
from flow512.wire.messages import Cancel, Error, Kind, decode
from tests.unit.test_bundle import pack
from tests.unit.test_transfer_server import ServerTestCase
from tests.unit.transfer_ends import HandFired, Served, TransferTestCase, ask, serve


def contents_in(frames: list[Frame]) -> list[bytes | None]:
    """What the parcels of one request hold, which come in order."""
    contents: list[bytes | None] = []
    for frame in frames:
        assert frame.kind == Kind.PARCEL
        assert frame.position == len(contents)
        contents += [None if each is None else bytes(each) for each in unpack(frame.body)]
    return contents


class AtOnce(HandFired):
    """Workers that are done before anybody can wait for them."""

    def run_blocking(
        self, function: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> Deferred[Any]:
        """Do it."""
        result = super().run_blocking(function, *args, **kwargs)
        self.do()
        return result


class ServingTests(ServerTestCase):
    """The side that has them."""

    def put_many(self, count: int, size: int) -> tuple[list[bytes], list[bytes]]:
        """Share files; their roots, and their contents."""
        made = [self.put(f"many/{number:04}", size) for number in range(count)]
        return [root for root, _ in made], [content for _, content in made]

    def frames(self, served: Served) -> list[Frame]:
        """All that has come, once everything is done that can be."""
        self.workers.do_all()
        return list(served.end.take())

    def test_in_order(self) -> None:
        """Contents come in the order of the request, the empty one and the largest too."""
        roots, contents = self.put_many(3, 700)
        empty, _ = self.put("empty", 0)
        largest, large = self.put("largest", MAX_BUNDLED)
        served = self.serve()
        served.end.say(Bundle((largest, roots[2], empty, roots[0], roots[0])), request=1)
        self.assertEqual(
            contents_in(self.frames(served)), [large, contents[2], b"", contents[0], contents[0]]
        )

    def test_many_frames(self) -> None:
        """What does not fit into one frame comes in several, each as full as can be."""
        roots, contents = self.put_many(30, 40_000)
        served = self.serve()
        served.end.say(Bundle(tuple(roots)), request=1)
        frames = self.frames(served)
        self.assertEqual(contents_in(frames), contents)
        self.assertEqual(len(frames), 5)
        self.assertLessEqual(max(len(frame.body) for frame in frames), BLOCK)

    def test_missing(self) -> None:
        """One that is not there, too large, or not what it was, costs the others nothing."""
        roots, contents = self.put_many(2, 100)
        too_large, _ = self.put("large", MAX_BUNDLED + 1)
        changed, _ = self.put("changed", 50)
        (self.shelf.folder / "changed").write_bytes(b"another")
        served = self.serve()
        served.end.say(Bundle((roots[0], too_large, b"?" * 32, changed, roots[1])), request=1)
        self.assertEqual(
            contents_in(self.frames(served)), [contents[0], None, None, None, contents[1]]
        )

    def test_turns(self) -> None:
        """Bundles take turns, a parcel each, so that a long one does not hold up a short one."""
        roots, contents = self.put_many(20, MAX_BUNDLED)
        short, small = self.put("short", 10)
        served = self.serve()
        served.end.say(Bundle(tuple(roots)), request=1)
        served.end.say(Bundle((short,)), request=2)
        frames = self.frames(served)
        self.assertEqual([frame.request for frame in frames[:3]], [1, 2, 1])
        mine = [frame for frame in frames if frame.request == 1]
        self.assertEqual(contents_in(mine), contents)
        self.assertEqual(contents_in([frames[1]]), [small])

    def test_back_pressure(self) -> None:
        """While the transport is full one parcel is read ahead, and no more; when it drains, it
        goes on."""
        roots, contents = self.put_many(20, MAX_BUNDLED)
        served = self.serve(room=1000)
        served.end.say(Bundle(tuple(roots)), request=1)
        self.workers.do_all()
        self.assertEqual(self.shelf.bytes_read, 2 * 3 * MAX_BUNDLED)
        frames: list[Frame] = []
        for _ in range(20):
            frames += served.end.take()
            self.workers.do_all()
        self.assertEqual(contents_in(frames), contents)

    def test_ahead(self) -> None:
        """While a parcel is on its way a worker reads the next; while the memory is short, only
        once the transport has taken it."""
        roots, contents = self.put_many(20, MAX_BUNDLED)
        for is_short, ahead in ((False, 1), (True, 0)):
            served = self.serve(room=1000)
            memory = served.factory.allowance.memory
            if is_short:
                while memory.is_plentiful:
                    memory.hold(BLOCK)
            held = memory.held
            served.end.say(Bundle(tuple(roots)), request=1)
            self.workers.do()
            self.assertEqual(len(self.workers.jobs), ahead)
            self.workers.do_all()
            self.assertEqual(memory.held, held + (1 + ahead) * BLOCK)
            frames: list[Frame] = []
            for _ in range(20):
                frames += self.frames(served)
            self.assertEqual(contents_in(frames), contents)
            self.assertEqual(memory.held, held)

    def test_workers_that_answer_at_once(self) -> None:
        """However quickly the disk answers, parcels come in order."""
        roots, contents = self.put_many(20, MAX_BUNDLED)
        for room in (1 << 40, 1000):
            served = serve(self.shelf, AtOnce(), self.clock, room)
            self.served.append(served)
            served.end.say(Bundle(tuple(roots)), request=1)
            frames: list[Frame] = []
            for _ in range(20):
                frames += served.end.take()
            self.assertEqual(contents_in(frames), contents)
            self.assertEqual(served.factory.allowance.memory.held, 0)

    def test_bulk(self) -> None:
        """A transport that takes what it is given without keeping it gets parcels without a copy,
        and their buffer is filled again. The disk is at the next one meanwhile."""
        roots, contents = self.put_many(20, MAX_BUNDLED)
        served = self.serve()
        buffers = set()
        ahead: list[int] = []

        def write_bulk(header: bytes, body: memoryview, done: Callable[[], None]) -> None:
            buffers.add(id(body.obj))
            ahead.append(len(self.workers.jobs))
            served.end.transport.write(header + body)
            done()

        served.end.transport.write_bulk = write_bulk  # type: ignore[attr-defined]  # one more way
        directlyProvides(served.end.transport, IBulkTransport)
        served.end.say(Bundle(tuple(roots)), request=1)
        self.assertEqual(contents_in(self.frames(served)), contents)
        self.assertLessEqual(len(buffers), 2)
        self.assertEqual(ahead, [1] * (len(ahead) - 1) + [0])

    def test_tiny_parcels(self) -> None:
        """
        Parcels of a few bytes that nobody reads do not keep a buffer of a block each, however many
        of them fit into the transport.
        """
        roots, _ = self.put_many(1, 100)
        served = self.serve()
        kept: list[memoryview] = []

        def write_bulk(header: bytes, body: memoryview, done: Callable[[], None]) -> None:
            kept.append(body)

        served.end.transport.write_bulk = write_bulk  # type: ignore[attr-defined]  # one more way
        directlyProvides(served.end.transport, IBulkTransport)
        for request in range(1, 100):
            served.end.say(Bundle(tuple(roots)), request=request)
            self.workers.do_all()
        self.assertEqual(kept, [])

    def test_failure(self) -> None:
        """A bundle that cannot be read on ends with an error, and nothing of it comes after that;
        others go on."""
        roots, contents = self.put_many(20, MAX_BUNDLED)
        read, fails = self.shelf.read_small, roots[3]

        def read_some(wanted: Sequence[bytes], parcel: Parcel, view: View | None = None) -> None:
            if wanted[0] == fails:
                raise DiskFailure("broken")
            read(wanted, parcel, view)

        self.shelf.read_small = read_some  # type: ignore[method-assign]  # to fail
        for workers in (self.workers, AtOnce()):
            for room in (1 << 40, 1000):
                served = serve(self.shelf, workers, self.clock, room)
                self.served.append(served)
                served.end.say(Bundle(tuple(roots)), request=1)
                served.end.say(Bundle(tuple(roots[4:])), request=2)
                frames: list[Frame] = []
                for _ in range(20):
                    self.workers.do_all()
                    frames += served.end.take()
                last = [frame.kind for frame in frames if frame.request == 1][-1]
                self.assertEqual(last, Kind.ERROR)
                self.assertEqual(
                    contents_in([frame for frame in frames if frame.request == 2]), contents[4:]
                )
                self.assertEqual(served.factory.allowance.memory.held, 0)

    def test_cancelled_when_ready(self) -> None:
        """What was read of a bundle that is cancelled is not sent."""
        roots, _ = self.put_many(20, MAX_BUNDLED)
        served = self.serve(room=1000)
        served.end.say(Bundle(tuple(roots)), request=1)
        self.workers.do_all()
        served.end.say(Cancel(), request=1)
        frames = [*served.end.take(), *served.end.take()]
        self.assertEqual([frame.kind for frame in frames], [Kind.PARCEL, Kind.ERROR])
        self.assertEqual(self.workers.jobs, [])
        self.assertEqual(served.factory.allowance.memory.held, 0)

    def test_cancelled(self) -> None:
        """A bundle that is cancelled ends at once, whatever a worker is about to bring."""
        roots, _ = self.put_many(20, MAX_BUNDLED)
        served = self.serve()
        served.end.say(Bundle(tuple(roots)), request=1)
        served.end.say(Cancel(), request=1)
        frames = self.frames(served)
        self.assertEqual([frame.kind for frame in frames], [Kind.ERROR])
        self.assertEqual(decode(frames[0], Error).code, WIRE_CODES[Cancelled])
        served.end.say(Bundle((roots[0],)), request=1)
        self.assertEqual([frame.kind for frame in self.frames(served)], [Kind.PARCEL])

    def test_memory_is_given_back(self) -> None:
        """However bundles end, nothing counts as held after that."""
        roots, _ = self.put_many(20, MAX_BUNDLED)
        memory = []
        for how in ("whole", "cancelled", "lost"):
            served = self.serve(room=1000 if how == "lost" else 1 << 40)
            served.end.say(Bundle(tuple(roots)), request=1)
            if how == "cancelled":
                self.workers.do()
                served.end.say(Cancel(), request=1)
            elif how == "lost":
                self.workers.do()
                served.end.hang_up()
            self.workers.do_all()
            memory.append(served.factory.allowance.memory.held)
        self.assertEqual(memory, [0, 0, 0])


class SourceTests(TransferTestCase):
    """The side that wants them, over the network in memory."""

    def test_bundle(self) -> None:
        """Contents arrive whole, and prove to be what was asked for."""
        entries = [self.put(f"{number}", number * 100) for number in range(50)]
        source = self.source()
        got: dict[int, bytes] = {}

        def sink(first: int, contents: list[memoryview | None]) -> None:
            for number, content in enumerate(contents, first):
                assert content is not None
                got[number] = bytes(content)

        roots = [entry.root or b"" for entry, _ in entries]
        self.network.result(source.bundle(roots, [number * 100 for number in range(50)], sink))
        for number, (entry, content) in enumerate(entries):
            self.assertEqual(got[number], content)
            digest = block_digest(content) if content else b""
            self.assertEqual(root_digest(len(content), digest), entry.root)
        source.leave()

    def test_lies(self) -> None:
        """Parcels out of order, too many contents, or others by their length, and other kinds, end
        the conversation, and nothing of them is held."""
        for position, body, kind in (
            (1, pack([b"a"]), Kind.PARCEL),
            (0, pack([b"a"] * 3), Kind.PARCEL),
            (0, b"", Kind.PARCEL),
            (0, b"x" * 512, Kind.DATA),
            (0, pack([None, b"long"]), Kind.PARCEL),
            (0, pack([b"", b"b"]), Kind.PARCEL),
        ):
            source, end = ask(Clock())
            came: list[object] = []
            asked = source.bundle(
                [b"a" * 32, b"b" * 32],
                [1, 1],
                lambda first, contents, came=came: came.append(contents),  # type: ignore[misc]  # a default
            )
            end.say_frame(kind, 1, body, position)
            self.assertTrue(end.is_closing, (position, body))
            self.failureResultOf(asked, BadFrame)
            self.assertEqual(came, [])
