"""Tests for L{flow512.link.rate} and L{flow512.link.throttle}."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from flow512.errors import Misuse
from flow512.link.rate import BURST, LATE, LEAST_RATE, MOST_RATE, TURN, Bucket, parse_rate
from flow512.link.throttle import Throttle


class ParseTests(SynchronousTestCase):
    """What users write."""

    def test_units(self) -> None:
        """K, M and G count by 1000, KiB and its kin by 1024; zero and none are no limit."""
        for text, rate in {
            "500K": 500_000,
            "500k": 500_000,
            "2M": 2_000_000,
            "2 MB/s": 2_000_000,
            "1.5MiB": 1_572_864,
            "1.5mib/s": 1_572_864,
            "1.5Mi": 1_572_864,
            "16KiB": LEAST_RATE,
            "1G": 10**9,
            "0.5GiB": 2**29,
            "65536": 65536,
            "65536B": 65536,
            " 65536 ": 65536,
            "1000000000000000": MOST_RATE,
            "0": 0,
            "0.0K": 0,
            "none": 0,
            "None": 0,
        }.items():
            self.assertEqual(parse_rate(text), rate, text)

    def test_wrong(self) -> None:
        """What is no rate, or cannot be kept to, is refused with a sentence that shows it."""
        for text, shown in {
            "": "''",
            "fast": "'fast'",
            "-1M": "'-1M'",
            "1T": "'1T'",
            "1e6": "'1e6'",
            "1,5M": "'1,5M'",
            "2M\x1b": "'2M\\x1b'",
            "16383": "16383",
            "1": "at least 16384",
            "1000001G": "1000001000000000",
        }.items():
            with self.assertRaises(Misuse) as caught:
                parse_rate(text)
            self.assertIn(shown, str(caught.exception))


class BucketTests(SynchronousTestCase):
    """The bucket, at moments that the test chooses."""

    def test_burst(self) -> None:
        """After a pause a quarter of a second's worth may go, or a block, whichever is more."""
        slow, fast = Bucket(100_000, 0.0), Bucket(100_000_000, 0.0)
        self.assertEqual(slow.capacity, TURN)
        self.assertEqual(fast.capacity, 100_000_000 * BURST)
        self.assertLessEqual(BURST + LATE, 0.25)
        slow.take(TURN, 1000.0)
        self.assertAlmostEqual(slow.due(TURN), 1000.0 + TURN / 100_000)
        fast.take(15_000_000, 1000.0)
        self.assertLessEqual(fast.due(5_000_000), 1000.0)
        self.assertAlmostEqual(fast.due(6_000_000), 1000.01)

    def test_larger_than_the_bucket(self) -> None:
        """What is larger than the bucket goes when that is full, and the rest is owed."""
        bucket = Bucket(100_000, 0.0)
        self.assertEqual(bucket.due(2 * TURN), 0.0)
        bucket.take(2 * TURN, 0.0)
        self.assertAlmostEqual(bucket.due(TURN), 2 * TURN / 100_000)
        self.assertLess(bucket.due(1), bucket.due(TURN))

    def test_late(self) -> None:
        """A turn that comes late by a timer's measure costs nothing; by more, it does."""
        bucket = Bucket(100_000, 0.0)
        bucket.take(TURN, 0.0)
        due = bucket.due(TURN)
        bucket.take_late(TURN, due + LATE / 2)
        self.assertAlmostEqual(bucket.due(TURN), due + TURN / 100_000)
        due = bucket.due(TURN)
        bucket.take_late(TURN, due + 100)
        self.assertAlmostEqual(bucket.due(TURN), due + 100 - LATE + TURN / 100_000)

    def test_given_back(self) -> None:
        """What is given back may go again, but never more than the bucket holds."""
        bucket = Bucket(100_000, 0.0)
        bucket.take(TURN, 0.0)
        bucket.give_back(TURN)
        bucket.give_back(TURN)
        bucket.take(TURN, 0.0)
        self.assertGreater(bucket.due(TURN), 0.0)
        bucket.give_back(-TURN)
        self.assertAlmostEqual(bucket.due(TURN), 2 * TURN / 100_000)

    def test_change(self) -> None:
        """Another rate counts from then on; what is owed, and what is there, stays the same."""
        bucket = Bucket(100_000, 0.0)
        bucket.take(TURN, 0.0)
        bucket.change(200_000, 1.0)
        self.assertAlmostEqual(bucket.due(TURN), 1.0 + (TURN - 100_000) / 200_000)
        bucket.change(100_000_000, 100.0)
        self.assertAlmostEqual(bucket.due(TURN), 100.0)
        self.assertAlmostEqual(bucket.due(TURN + 1_000_000), 100.01)
        bucket.change(100_000, 200.0)
        self.assertAlmostEqual(bucket.due(TURN), 200.0)

    @given(
        st.integers(LEAST_RATE, 10**9),
        st.lists(st.tuples(st.integers(1, TURN), st.floats(0, 2)), min_size=1, max_size=200),
    )
    def test_bound(self, rate: int, steps: list[tuple[int, float]]) -> None:
        """In no time at all does more go than the rate gives for it, and one burst."""
        bucket, now, went = Bucket(rate, 0.0), 0.0, [(0.0, 0)]
        for size, late in steps:
            now = max(now, bucket.due(size)) + late
            bucket.take_late(size, now)
            went.append((now, went[-1][1] + size))
        for begin in (0, len(went) // 2):
            for end in range(begin + 1, len(went)):
                # From just before one thing went to just after another.
                bytes_ = went[end][1] - went[begin][1]
                seconds = went[end][0] - went[min(begin + 1, end)][0]
                self.assertLessEqual(bytes_, rate * (seconds + LATE) * 1.001 + bucket.capacity + 1)


class Sender:
    """One who sends things of some sizes, again and again, as fast as it may."""

    def __init__(self, throttle: Throttle, sizes: Iterable[int] = (TURN,)) -> None:
        self.throttle = throttle
        self.sizes = list(sizes)
        self.wants = True
        self.sent = 0
        self.most_at_once = 0

    def turn_came(self) -> None:
        """Send what may be sent."""
        before = self.sent
        while self.wants and self.throttle.ask(self, self.sizes[0]):
            self.sent += self.sizes[0]
            self.sizes.append(self.sizes.pop(0))
        self.most_at_once = max(self.most_at_once, self.sent - before)


class ThrottleTests(SynchronousTestCase):
    """Those who share a limit."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.addCleanup(lambda: self.assertEqual(self.clock.getDelayedCalls(), []))

    def throttle(self, rate: int) -> Throttle:
        """Make a limit."""
        return Throttle(self.clock, rate)

    def assert_rate(self, sent: int, rate: int, seconds: float) -> None:
        """So much was sent, but for 2 %."""
        self.assertLess(abs(sent / (rate * seconds) - 1.0), 0.02)

    def senders(self, throttle: Throttle, *sizes: Iterable[int]) -> list[Sender]:
        """Make senders who begin at once, and stop after the test."""
        made = [Sender(throttle, each) for each in sizes]
        for sender in made:
            sender.turn_came()
            self.addCleanup(throttle.forget, sender)
        return made

    def test_no_limit(self) -> None:
        """Without a limit everything goes at once."""
        throttle = self.throttle(0)
        self.assertFalse(throttle.is_limited)
        self.assertEqual(throttle.rate, 0)
        self.assertTrue(all(throttle.ask(Sender(throttle), 10**12) for _ in range(100)))
        throttle.give_back(5)

    def test_wrong(self) -> None:
        """A limit that cannot be kept to is refused, and changes nothing."""
        throttle = self.throttle(100_000)
        for wrong in (-1, 1, LEAST_RATE - 1, MOST_RATE + 1):
            self.assertRaises(Misuse, throttle.limit, wrong)
        self.assertEqual((throttle.rate, throttle.is_limited), (100_000, True))

    def test_long_run(self) -> None:
        """Over ten minutes the rate is kept, slow or fast, with a clock of any grain."""
        for rate in (LEAST_RATE, 100_000, 1_000_000, 1_600_000, 20_000_000):
            for grain in (0.0005, 0.01, 0.037):
                throttle = self.throttle(rate)
                sender = Sender(throttle)
                sender.turn_came()
                self.assertLessEqual(sender.sent, max(TURN, rate // 4))
                seconds = 60 * max(1, 1_000_000 // rate)
                if grain < 0.01:
                    # As exact as a clock can be: from one call to the next.
                    end = self.clock.seconds() + seconds
                    while (next_call := self.clock.getDelayedCalls()[0].getTime()) <= end:
                        self.clock.advance(next_call - self.clock.seconds())
                    self.clock.advance(end - self.clock.seconds())
                else:
                    self.clock.pump([grain] * round(seconds / grain))
                # The first block goes at the beginning, and the next ones at the end of their time.
                self.assertLessEqual(sender.sent, rate * seconds * 1.001 + throttle_burst(rate))
                self.assertGreaterEqual(sender.sent, rate * seconds * 0.98 - TURN)
                throttle.forget(sender)

    def test_no_drift(self) -> None:
        """Twenty thousand turns later, the next is due when it would be if nothing were rounded."""
        throttle = self.throttle(1_000_000)
        sender = Sender(throttle)
        sender.turn_came()
        for _ in range(20_000):
            self.clock.advance(self.clock.getDelayedCalls()[0].getTime() - self.clock.seconds())
        self.assertEqual(sender.sent, 20_001 * TURN)
        self.assertAlmostEqual(self.clock.seconds(), 20_000 * TURN / 1_000_000, places=3)
        throttle.forget(sender)

    def test_asleep(self) -> None:
        """A reactor that hangs for a minute does not let a minute's worth go at once."""
        for rate in (100_000, 20_000_000):
            throttle = self.throttle(rate)
            [sender] = self.senders(throttle, (TURN,))
            before = sender.sent
            self.clock.advance(60)
            self.assertGreater(sender.sent, before)
            self.assertLessEqual(sender.sent - before, max(TURN, rate // 4))
            throttle.forget(sender)

    def test_fair(self) -> None:
        """Of several who want all they can get, none is ever ahead by more than a block."""
        throttle = self.throttle(3_000_000)
        senders = self.senders(throttle, *[(TURN,)] * 7)
        # Who was there before the others had the first burst.
        before = [sender.sent for sender in senders]
        for _ in range(4000):
            self.clock.advance(0.025)
            gained = [sender.sent - had for sender, had in zip(senders, before, strict=True)]
            self.assertLessEqual(max(gained) - min(gained), TURN)
        self.assert_rate(sum(gained), 3_000_000, 100)

    def test_fair_to_small_things(self) -> None:
        """Who sends small things gets as many bytes as who sends blocks, not as many turns."""
        random = Random(3)
        throttle = self.throttle(2_000_000)
        senders = self.senders(
            throttle,
            (TURN,),
            (TURN,),
            (528,),
            [random.randint(17, 20_000) for _ in range(500)],
        )
        self.clock.pump([0.02] * 10_000)
        sent = [sender.sent for sender in senders]
        self.assertLessEqual(max(sent) - min(sent), 0.1 * max(sent))
        self.assert_rate(sum(sent), 2_000_000, 200)

    def test_rest_goes_to_the_others(self) -> None:
        """What some do not need, the others get; who comes back does not get it twice."""
        throttle = self.throttle(1_000_000)
        senders = self.senders(throttle, *[(TURN,)] * 4)
        self.clock.pump([0.01] * 2_000)
        for sender in senders[:3]:
            sender.wants = False
        before = senders[3].sent
        self.clock.pump([0.01] * 6_000)
        self.assert_rate(senders[3].sent - before, 1_000_000, 60)
        began = [sender.sent for sender in senders]
        for sender in senders[:3]:
            sender.wants = True
            sender.turn_came()
        self.clock.pump([0.01] * 6_000)
        gained = [sender.sent - before for sender, before in zip(senders, began, strict=True)]
        self.assertLessEqual(max(gained) - min(gained), TURN)

    def test_waits_without_work(self) -> None:
        """While everybody waits, nothing happens: there is one timer, at the next turn."""
        throttle = self.throttle(100_000)
        self.senders(throttle, *[(TURN,)] * 50)
        [timer] = self.clock.getDelayedCalls()
        self.assertAlmostEqual(timer.getTime(), TURN / 100_000)

    def test_forgotten(self) -> None:
        """Who is forgotten gets no turn, and the next has it then."""
        throttle = self.throttle(100_000)
        one, two, three = self.senders(throttle, *[(TURN,)] * 3)
        self.assertEqual((one.sent, two.sent, three.sent), (TURN, 0, 0))
        throttle.forget(two)
        self.clock.advance(TURN / 100_000)
        self.assertEqual((one.sent, two.sent, three.sent), (2 * TURN, 0, 0))
        self.clock.advance(TURN / 100_000)
        self.assertEqual((one.sent, two.sent, three.sent), (2 * TURN, 0, TURN))

    def test_forgotten_in_its_turn(self) -> None:
        """Who ends while it has its turn holds up nobody."""
        throttle = self.throttle(100_000)
        [first] = self.senders(throttle, (TURN,))

        class Ends(Sender):
            def turn_came(self) -> None:
                self.throttle.forget(self)

        ends = Ends(throttle)
        self.assertFalse(throttle.ask(ends, TURN))
        [last] = self.senders(throttle, (TURN,))
        first.wants = False
        self.clock.advance(TURN / 100_000)
        self.assertEqual(last.sent, TURN)

    def test_asks_again_before_its_turn(self) -> None:
        """Who asks again while it waits keeps its place, and is counted once."""
        throttle = self.throttle(100_000)
        first, second, third = self.senders(throttle, (TURN,), (TURN,), (TURN,))
        first.wants = False
        throttle.forget(first)
        third.turn_came()
        second.turn_came()
        self.clock.advance(TURN / 100_000)
        self.assertEqual((second.sent, third.sent), (TURN, 0))
        self.clock.advance(TURN / 100_000)
        self.assertEqual((second.sent, third.sent), (TURN, TURN))

    def test_asks_for_less_in_the_middle_of_its_turn(self) -> None:
        """Who finds that it wants less than it waits for may have that as soon as it is due."""
        throttle = self.throttle(100_000)
        [full] = self.senders(throttle, (TURN,))
        throttle.forget(full)
        [sender] = self.senders(throttle, (1000, 100_000))
        self.clock.advance(0.01)
        self.assertEqual(sender.sent, 1000)
        self.clock.advance(0.5)
        sender.sizes = [1000]
        self.assertTrue(throttle.ask(sender, 1000))
        self.assertFalse(throttle.ask(sender, 100_000))
        self.clock.advance(0.7)
        self.assertGreater(sender.sent, 20_000)

    def test_forgotten_in_the_middle_of_its_turn(self) -> None:
        """Who has a part of its turn left and ends has nobody else wait for a turn."""
        throttle = self.throttle(100_000)
        [full] = self.senders(throttle, (TURN,))
        throttle.forget(full)
        [sender] = self.senders(throttle, (1000, 100_000))
        self.clock.advance(0.01)
        self.assertEqual(sender.sent, 1000)
        throttle.forget(sender)
        self.clock.advance(10)
        self.assertTrue(throttle.ask(Sender(throttle), 1000))

    def test_turn_that_is_over(self) -> None:
        """When all have had their turns and want no more, who asks next need not wait for one."""
        throttle = self.throttle(100_000)
        [full] = self.senders(throttle, (TURN,))
        throttle.forget(full)

        class Once(Sender):
            def turn_came(self) -> None:
                self.sent += self.throttle.ask(self, 1000)

        once = Once(throttle)
        self.assertFalse(throttle.ask(once, 1000))
        self.clock.advance(10)
        self.assertEqual(once.sent, 1)
        self.assertTrue(throttle.ask(Sender(throttle), 1000))

    def test_changed(self) -> None:
        """Another limit holds at once for those who wait; none at all lets them go."""
        throttle = self.throttle(100_000)
        [sender] = self.senders(throttle, (TURN,))
        throttle.limit(1_000_000)
        self.clock.advance(TURN / 1_000_000)
        self.assertEqual((sender.sent, throttle.rate), (2 * TURN, 1_000_000))
        throttle.limit(0)
        self.assertFalse(throttle.is_limited)
        sender.wants = False
        self.clock.advance(0)
        sender.wants = True
        self.assertTrue(throttle.ask(sender, 10**12))
        throttle.limit(LEAST_RATE)
        self.assertTrue(throttle.ask(sender, TURN))
        self.assertFalse(throttle.ask(sender, TURN))

    def test_given_back(self) -> None:
        """What one gives back, the next gets earlier."""
        throttle = self.throttle(100_000)
        one, two = self.senders(throttle, (TURN,), (TURN,))
        one.wants = False
        throttle.forget(one)
        throttle.give_back(TURN // 2)
        self.clock.advance(0)
        self.assertEqual(two.sent, 0)
        self.clock.advance((TURN - TURN // 2) / 100_000)
        self.assertEqual(two.sent, TURN)

    def test_one_that_fails(self) -> None:
        """Who fails in its turn does not keep the others from theirs."""
        throttle = self.throttle(100_000)
        [first] = self.senders(throttle, (TURN,))
        first.wants = False

        class Fails(Sender):
            def turn_came(self) -> None:
                raise ValueError("a defect")

        self.assertFalse(throttle.ask(Fails(throttle), TURN))
        [last] = self.senders(throttle, (TURN,))
        with self.assertRaises(ValueError):
            self.clock.advance(TURN / 100_000)
        self.clock.advance(0)
        self.assertEqual(last.sent, TURN)


def throttle_burst(rate: int) -> int:
    """What may go at once."""
    return max(TURN, rate // 4)
