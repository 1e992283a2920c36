"""
L{flow512.testing.pipe}: one direction of a stream.
"""

from __future__ import annotations

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from flow512.testing.pipe import Mark, Pipe


def at_once(size: int) -> float:
    return 0.0


def fill(pipe: Pipe) -> None:
    assert pipe.send(b"x" * (pipe.capacity + 1), at_once) == pipe.capacity


def arrive_all(pipe: Pipe) -> None:
    while pipe.in_flight:
        pipe.arrive()


class PipeTests(SynchronousTestCase):
    """What goes in comes out, in order, and no more than fits is in between."""

    def setUp(self) -> None:
        self.pipe = Pipe(Random(1), 100)

    def test_order(self) -> None:
        """Bytes come out as they went in, however they were cut."""
        data = bytes(range(90))
        self.pipe.send(data[:50], at_once)
        self.pipe.send(data[50:], at_once)
        arrive_all(self.pipe)
        self.assertEqual(self.pipe.read(1000), data)

    def test_nothing_before_it_arrives(self) -> None:
        """What is in flight cannot be read."""
        self.pipe.send(b"abc", at_once)
        self.assertEqual(self.pipe.read(10), b"")

    def test_takes_what_fits(self) -> None:
        """A send of more than there is room for takes the front of it, and remembers the rest."""
        self.assertEqual(self.pipe.send(b"a" * 60, at_once), 60)
        self.assertFalse(self.pipe.refused)
        self.assertEqual(self.pipe.send(b"b" * 60, at_once), 40)
        self.assertTrue(self.pipe.refused)
        self.assertEqual(self.pipe.send(b"c", at_once), 0)
        arrive_all(self.pipe)
        self.assertEqual(self.pipe.read(1000), b"a" * 60 + b"b" * 40)

    def test_room_comes_back_only_when_told(self) -> None:
        """Reading alone makes no room: the sender has to learn of it."""
        fill(self.pipe)
        arrive_all(self.pipe)
        self.pipe.read(1000)
        self.assertEqual(self.pipe.send(b"x", at_once), 0)
        self.pipe.give_back(100)
        self.assertFalse(self.pipe.refused)
        self.assertEqual(self.pipe.send(b"x", at_once), 1)

    def test_writable_when_half_is_free(self) -> None:
        """A little room is not worth sending into."""
        fill(self.pipe)
        self.assertFalse(self.pipe.writable)
        self.pipe.give_back(49)
        self.assertFalse(self.pipe.writable)
        self.assertTrue(self.pipe.refused)
        self.pipe.give_back(1)
        self.assertTrue(self.pipe.writable)
        self.assertFalse(self.pipe.refused)

    def test_due_in_order(self) -> None:
        """What was sent later is never due earlier, whatever delays are drawn."""
        self.pipe.send(b"a", lambda size: 5.0)
        self.pipe.send(b"b", lambda size: 1.0)
        self.pipe.mark(Mark.END, 2.0)
        dues = []
        while self.pipe.in_flight:
            dues.append(self.pipe.next_due)
            self.pipe.arrive()
        self.assertEqual(dues, [5.0, 5.0, 5.0])
        self.assertIsNone(self.pipe.next_due)

    def test_end_after_all_bytes(self) -> None:
        """The end arrives behind the last byte."""
        self.pipe.send(b"a", at_once)
        self.pipe.mark(Mark.END, 0.0)
        self.assertEqual(self.pipe.arrive(), b"a")
        self.assertFalse(self.pipe.ended)
        self.assertIs(self.pipe.arrive(), Mark.END)
        self.assertTrue(self.pipe.ended)

    def test_read_in_parts(self) -> None:
        """A reader may take less than has arrived, and finds the rest the next time."""
        for part in (b"abc", b"defg", b"h"):
            self.pipe.send(part, at_once)
        arrive_all(self.pipe)
        self.assertEqual(
            [self.pipe.read(5), self.pipe.read(2), self.pipe.read(5)], [b"abcde", b"fg", b"h"]
        )
        self.assertEqual(self.pipe.received, 0)

    def test_postpone(self) -> None:
        """Everything that was held can be sent on its way anew, in order."""
        self.pipe.send(b"a", lambda size: 1.0)
        self.pipe.mark(Mark.END, 9.0)
        self.pipe.postpone(4.0)
        self.assertEqual(self.pipe.next_due, 4.0)
        self.pipe.arrive()
        self.assertEqual(self.pipe.next_due, 9.0)
        self.pipe.send(b"b", at_once)

    def test_discard(self) -> None:
        """What is discarded never arrives; what has arrived stays."""
        self.pipe.send(b"a", at_once)
        arrive_all(self.pipe)
        self.pipe.send(b"b", at_once)
        self.pipe.discard()
        self.assertFalse(self.pipe.in_flight)
        self.assertEqual(self.pipe.read(10), b"a")

    def test_cuts(self) -> None:
        """Sends arrive whole, in two and in three parts, none of them empty."""
        counts = set()
        for _ in range(200):
            pipe = Pipe(Random(_), 100)
            pipe.send(b"0123456789", at_once)
            sizes = []
            while pipe.in_flight:
                item = pipe.arrive()
                assert isinstance(item, bytes)
                sizes.append(len(item))
            self.assertTrue(all(sizes))
            counts.add(len(sizes))
        self.assertEqual(counts, {1, 2, 3})

    @settings(max_examples=50, deadline=None, derandomize=True, database=None)
    @given(
        st.integers(0, 2**32),
        st.integers(2, 300),
        st.lists(st.tuples(st.sampled_from("sarg"), st.integers(0, 200)), max_size=60),
    )
    def test_invariants(self, seed: int, capacity: int, steps: list[tuple[str, int]]) -> None:
        """However it is used, no byte is lost, made up or out of place, and no room is."""
        pipe = Pipe(Random(seed), capacity)
        sent = bytearray()
        read = bytearray()
        on_the_way_back = 0
        for step, size in steps:
            if step == "s":
                data = Random(size).randbytes(size)
                sent += data[: pipe.send(data, at_once)]
            elif step == "a" and pipe.in_flight:
                pipe.arrive()
            elif step == "r":
                data = pipe.read(size + 1)
                read += data
                on_the_way_back += len(data)
            elif step == "g":
                part = min(size, on_the_way_back)
                pipe.give_back(part)
                on_the_way_back -= part
            in_flight = len(sent) - len(read) - pipe.received
            self.assertGreaterEqual(in_flight, 0)
            self.assertGreaterEqual(pipe.free, 0)
            self.assertEqual(pipe.free + in_flight + pipe.received + on_the_way_back, capacity)
        arrive_all(pipe)
        read += pipe.read(capacity)
        self.assertEqual(read, sent)
