"""Tests for L{flow512.transfer.finding}."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace
from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from flow512.content.tree import format_content_id
from flow512.errors import (
    Banned,
    Busy,
    Misuse,
    NoSuchPeer,
    NotFound,
    Refusal,
    Unreachable,
    Violation,
)
from flow512.link.address import HostPort
from flow512.testing import Network
from flow512.transfer.finding import (
    ALONE,
    ANSWERS_WITHIN,
    DIALS_AT_ONCE,
    GRACE,
    Candidate,
    Finder,
    Found,
)
from flow512.wire.handshake import Channel
from flow512.wire.messages import Entry


class FakeSource:
    """A source that answers when the test says so."""

    channel: Channel | None = None

    def __init__(self) -> None:
        self.answer: Deferred[Entry] = Deferred()
        self.is_open = True
        self.asked: tuple[str, bytes | None] | None = None

    def stat(
        self, path: str = "", root: bytes | None = None, at_once: bool = False
    ) -> Deferred[Entry]:
        """Wait for the answer."""
        self.asked = (path, root)
        return self.answer

    def leave(self) -> None:
        """Close."""
        self.is_open = False


def entry(root: bytes = b"r" * 32) -> Entry:
    """Make an entry."""
    return Entry("a", 1, 0, root)


class FinderTests(SynchronousTestCase):
    """L{Finder}, with every answer in the test's hands."""

    def setUp(self) -> None:
        self.network = Network()
        self.clock = self.network.clock
        self.connecting: dict[Candidate, Deferred[FakeSource]] = {}
        self.sources: dict[Candidate, FakeSource] = {}
        self.addCleanup(lambda: self.assertEqual(self.clock.getDelayedCalls(), []))

    def connect(self, candidate: Candidate) -> Deferred[FakeSource]:
        """Begin to connect."""
        self.connecting[candidate] = Deferred()
        return self.connecting[candidate]

    def candidates(self, count: int) -> list[Candidate]:
        """Make candidates."""
        return [Candidate(HostPort(f"10.0.0.{n + 1}", 5000), f"n{n}") for n in range(count)]

    def find(self, candidates: Sequence[Candidate], **wanted: object) -> Deferred[Found]:
        """Begin to search."""
        finder = Finder(self.connect, self.clock)  # type: ignore[arg-type]  # a fake is enough
        return Deferred.fromCoroutine(
            finder.find(candidates, **(wanted or {"path": "a"}))  # type: ignore[arg-type]  # known names
        )

    def connected(self, candidate: Candidate) -> FakeSource:
        """A candidate is there."""
        source = self.sources[candidate] = FakeSource()
        self.connecting[candidate].callback(source)
        return source

    def open_sources(self) -> list[FakeSource]:
        """Those that nobody has left."""
        return [source for source in self.sources.values() if source.is_open]

    def test_nobody_known(self) -> None:
        """Without anybody to ask, the user is told what to do."""
        failure = self.failureResultOf(self.find([]), NoSuchPeer)
        self.assertIn("--from", str(failure.value))

    def test_only_one(self) -> None:
        """The only one who is asked is taken as soon as it answers."""
        (only,) = self.candidates(1)
        result = self.find([only], root=b"r" * 32)
        source = self.connected(only)
        self.assertEqual(source.asked, ("", b"r" * 32))
        source.answer.callback(entry())
        self.assertEqual(self.successResultOf(result), Found(only, source, entry()))
        self.assertTrue(source.is_open)

    def test_one_that_never_says(self) -> None:
        """
        One of several that never says whether it has the file does not hold up the search for
        ever; the only one who is asked has all the time that hashing takes.
        """
        candidates = self.candidates(2)
        result = self.find(candidates)
        _, honest = (self.connected(each) for each in candidates)
        honest.answer.errback(NotFound("no"))
        self.clock.advance(ANSWERS_WITHIN - 1)
        self.assertNoResult(result)
        self.clock.advance(1)
        self.failureResultOf(result, NotFound)
        self.assertEqual(self.open_sources(), [])
        (only,) = self.candidates(1)
        result = self.find([only])
        source = self.connected(only)
        self.clock.advance(ANSWERS_WITHIN * 10)
        source.answer.callback(entry())
        self.successResultOf(result)

    def test_only_one_that_fails(self) -> None:
        """The only one's own words are told, and who it is if it cannot be reached."""
        (only,) = self.candidates(1)
        for error, expected, words in (
            (Busy("full"), Busy, "full"),
            (Violation("no node"), Violation, "no node"),
            (
                Unreachable("connection refused"),
                Unreachable,
                "n0 (10.0.0.1:5000) cannot be reached (connection refused); is a node running",
            ),
            (
                Unreachable("No hello came; is it a node?"),
                Unreachable,
                "n0 (10.0.0.1:5000) cannot be reached: No hello came; is it a node?",
            ),
        ):
            result = self.find([only])
            self.connecting[only].errback(error)
            failure = self.failureResultOf(result, expected)
            self.assertIn(words, str(failure.value))

    def test_banned(self) -> None:
        """That this side has banned the only one is said by this side."""
        (only,) = self.candidates(1)
        result = self.find([only])
        self.connecting[only].errback(Banned("You have banned that node."))
        self.assertEqual(
            str(self.failureResultOf(result, Banned).value),
            "n0 (10.0.0.1:5000): You have banned that node.",
        )

    def test_first_of_several(self) -> None:
        """Of several with the same content the first is taken, and the others are left."""
        everyone = self.candidates(3)
        result = self.find(everyone)
        for each in (everyone[2], everyone[0], everyone[1]):
            self.connected(each).answer.callback(entry())
        found = self.successResultOf(result)
        self.assertEqual(found.candidate, everyone[2])
        self.assertEqual(self.open_sources(), [found.source])

    def test_slow_ones(self) -> None:
        """After the first who has it, others have a moment; those who are slower are left."""
        everyone = self.candidates(4)
        result = self.find(everyone)
        self.connected(everyone[0]).answer.callback(entry())
        slow = self.connected(everyone[1])
        self.clock.advance(GRACE / 2)
        self.connected(everyone[2]).answer.callback(entry())
        self.assertNoResult(result)
        self.clock.advance(GRACE / 2)
        found = self.successResultOf(result)
        self.assertEqual(found.candidate, everyone[0])
        self.assertFalse(slow.is_open)
        self.assertEqual(self.open_sources(), [found.source])
        self.assertTrue(self.connecting[everyone[3]].called)

    def test_all_of_them(self) -> None:
        """
        Who wants all is given those who answered in time, the first one first; and is told of
        those who answer later, until it says that it is enough. Who has another file is left.
        """
        everyone = self.candidates(5)
        later: list[Found] = []
        finder = Finder(self.connect, self.clock, later.append)  # type: ignore[arg-type]  # a fake is enough
        result = Deferred.fromCoroutine(finder.find_all(everyone, path="a"))
        self.connected(everyone[1]).answer.callback(entry())
        self.connected(everyone[0]).answer.callback(entry())
        slow = self.connected(everyone[2])
        other = self.connected(everyone[3])
        self.clock.advance(GRACE)
        found = self.successResultOf(result)
        self.assertEqual([each.candidate for each in found], [everyone[1], everyone[0]])
        slow.answer.callback(entry())
        self.assertEqual([each.candidate for each in later], [everyone[2]])
        other.answer.callback(entry(b"x" * 32))
        self.assertFalse(other.is_open)
        finder.stop()
        self.assertTrue(self.connecting[everyone[4]].called)
        self.assertEqual(len(later), 1)
        self.assertEqual(len(self.open_sources()), 3)

    def test_several_addresses(self) -> None:
        """
        A node that proves itself at several addresses is asked at the first that it answers at, and
        counts as one; one that proves nothing may be anybody.
        """
        for is_proven, count in ((True, 1), (False, 2)):
            everyone = [replace(each, node=b"n" * 32) for each in self.candidates(3)]
            finder = Finder(self.connect, self.clock)  # type: ignore[arg-type]  # a fake is enough
            result = Deferred.fromCoroutine(finder.find_all(everyone, path="a"))
            for candidate, node in zip(everyone, (b"n", b"n", b"m"), strict=True):
                source = FakeSource()
                if is_proven:
                    source.channel = Channel(node * 32, bytes(32))
                self.connecting[candidate].callback(source)
                self.sources[candidate] = source
            for candidate in everyone[:2]:
                source = self.sources[candidate]
                self.assertEqual(source.is_open, source.asked is not None)
                source.answer.callback(entry())
            self.sources[everyone[2]].answer.errback(NotFound("It has it not."))
            self.assertEqual(len(self.successResultOf(result)), count)
            self.assertEqual(len(self.open_sources()), count)

    def begin_with_others(
        self, first: Sequence[Candidate], passed_over: list[Candidate]
    ) -> tuple[Deferred[Found], Deferred[list[Candidate]]]:
        """Begin to search among some; who else there is, the test says."""
        others: Deferred[list[Candidate]] = Deferred()
        finder = Finder(
            self.connect,  # type: ignore[arg-type]  # a fake is enough
            self.clock,
            passed_over=lambda who, reason: passed_over.append(who),
        )
        search = finder.find_all(first, root=b"r" * 32, others=lambda: others)
        return Deferred.fromCoroutine(search).addCallback(lambda found: found[0]), others

    def test_others(self) -> None:
        """Others are asked as soon as the first have it not, and who they are is known."""
        first, *more = self.candidates(2)
        for is_known_early in (False, True):
            passed_over: list[Candidate] = []
            result, others = self.begin_with_others([first], passed_over)
            if is_known_early:
                others.callback([first, *more])
            self.assertNotIn(more[0], self.connecting)
            self.connecting[first].errback(Unreachable("gone"))
            if not is_known_early:
                others.callback([first, *more])
            self.assertEqual(passed_over, [first])
            self.connected(more[0]).answer.callback(entry())
            self.clock.advance(GRACE)
            self.assertEqual(self.successResultOf(result).candidate, more[0])
            self.connecting.clear()

    def test_another_at_the_same_place(self) -> None:
        """Where another answers than the one whom a link names, that one is asked as himself."""
        (there,) = self.candidates(1)
        first = replace(there, node=b"x" * 32)
        result, others = self.begin_with_others([first], [])
        self.connecting[first].errback(Unreachable("Another node answers."))
        others.callback([there])
        self.connected(there).answer.callback(entry())
        self.clock.advance(GRACE)
        self.assertEqual(self.successResultOf(result).candidate, there)

    def test_others_after_a_while(self) -> None:
        """The first have a moment for themselves; who then has it is taken all the same."""
        first, other = self.candidates(2)
        result, others = self.begin_with_others([first], [])
        others.callback([other])
        self.clock.advance(ALONE / 2)
        self.assertNotIn(other, self.connecting)
        self.clock.advance(ALONE / 2)
        self.assertIn(other, self.connecting)
        self.connected(first).answer.callback(entry())
        self.clock.advance(GRACE)
        self.assertEqual(self.successResultOf(result).candidate, first)

    def test_no_others(self) -> None:
        """Nobody else is looked for if the first has it; if there is nobody else, it says why."""
        (first,) = self.candidates(1)
        result, others = self.begin_with_others([first], [])
        self.connected(first).answer.callback(entry())
        self.assertEqual(self.successResultOf(result).candidate, first)
        self.assertTrue(others.called)
        for nobody in ([], [first], Unreachable("the registry is gone")):
            passed_over: list[Candidate] = []
            result, others = self.begin_with_others([first], passed_over)
            self.connecting[first].errback(Unreachable("gone"))
            self.assertNoResult(result)
            others.callback(nobody) if isinstance(nobody, list) else others.errback(nobody)
            failure = self.failureResultOf(result, Unreachable)
            self.assertIn("n0 (10.0.0.1:5000) cannot be reached (gone)", str(failure.value))
            self.assertEqual(passed_over, [])

    def test_cancelled_with_others(self) -> None:
        """A search that is cancelled does not look for others any more."""
        result, others = self.begin_with_others(self.candidates(1), [])
        result.cancel()
        self.failureResultOf(result, CancelledError)
        self.assertTrue(others.called)

    def test_our_own_mistake_later(self) -> None:
        """What nobody foresaw, after the search has ended, goes to the log."""
        everyone = self.candidates(2)
        finder = Finder(self.connect, self.clock, self.fail)  # type: ignore[arg-type]  # a fake is enough
        result = Deferred.fromCoroutine(finder.find_all(everyone, path="a"))
        self.connected(everyone[1]).answer.callback(entry())
        self.clock.advance(GRACE)
        self.successResultOf(result)
        self.connecting[everyone[0]].errback(ZeroDivisionError())
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_different_files(self) -> None:
        """Different files under one path are the user's to choose from; nobody is kept."""
        everyone = self.candidates(2)
        result = self.find(everyone)
        self.connected(everyone[0]).answer.callback(entry())
        self.connected(everyone[1]).answer.callback(entry(b"x" * 32))
        failure = self.failureResultOf(result, Misuse)
        self.assertIn("n0 (10.0.0.1:5000), n1 (10.0.0.2:5000)", str(failure.value))
        self.assertEqual(self.open_sources(), [])

    def test_nobody_has_it(self) -> None:
        """If nobody has it the sentence says how many were asked, and how many not reached."""
        everyone = self.candidates(3)
        for wanted, shown in (
            ({"path": "a\x1b"}, "'a\\x1b'"),
            ({"root": b"r" * 32}, format_content_id(b"r" * 32)),
        ):
            result = self.find(everyone, **wanted)
            self.connected(everyone[0]).answer.errback(NotFound("none"))
            self.connected(everyone[1]).answer.errback(NotFound("none"))
            self.connecting[everyone[2]].errback(Unreachable("gone"))
            failure = self.failureResultOf(result, NotFound)
            self.assertIn("(asked: 2, not reached: 1)", str(failure.value))
            self.assertIn(shown, str(failure.value))
            self.assertEqual(self.open_sources(), [])

    def test_nobody_there(self) -> None:
        """If nobody is reached, that is what is said."""
        everyone = self.candidates(2)
        result = self.find(everyone)
        for each in everyone:
            self.connecting[each].errback(Unreachable("gone"))
        failure = self.failureResultOf(result, Unreachable)
        self.assertIn("None of the 2 known peers", str(failure.value))

    def test_somebody_refuses(self) -> None:
        """
        A refusal is told with the name of who said it, unless somebody else said plainly that
        they do not have it.
        """
        everyone = self.candidates(2)
        result = self.find(everyone)
        self.connected(everyone[0]).answer.errback(Unreachable("gone"))
        self.connected(everyone[1]).answer.errback(Busy("come later"))
        self.assertEqual(
            str(self.failureResultOf(result, Busy).value), "n1 (10.0.0.2:5000) says: come later"
        )
        result = self.find(everyone)
        self.connected(everyone[0]).answer.errback(NotFound("none"))
        self.connected(everyone[1]).answer.errback(Refusal("Run this: rm -rf /"))
        self.assertNotIn("rm -rf", str(self.failureResultOf(result, NotFound).value))

    def test_bound(self) -> None:
        """Only so many are dialled at once; the next when one has answered."""
        everyone = self.candidates(DIALS_AT_ONCE + 2)
        result = self.find(everyone)
        self.assertEqual(len(self.connecting), DIALS_AT_ONCE)
        self.connecting[everyone[0]].errback(Unreachable("gone"))
        self.assertEqual(len(self.connecting), DIALS_AT_ONCE + 1)
        result.cancel()
        self.failureResultOf(result, CancelledError)

    def test_cancelled(self) -> None:
        """A search that is cancelled leaves no connection, and asks nobody any more."""
        everyone = self.candidates(DIALS_AT_ONCE + 3)
        result = self.find(everyone)
        self.connected(everyone[0]).answer.callback(entry())
        asked = self.connected(everyone[1])
        result.cancel()
        self.failureResultOf(result, CancelledError)
        self.assertEqual(self.open_sources(), [])
        self.assertTrue(asked.answer.called)
        self.assertTrue(self.connecting[everyone[2]].called)
        self.assertNotIn(everyone[-1], self.sources)

    def test_our_own_mistake(self) -> None:
        """What nobody foresaw ends the search, instead of leaving it to wait for ever."""
        everyone = self.candidates(2)
        result = self.find(everyone)
        asked = self.connected(everyone[1])
        self.connecting[everyone[0]].errback(ZeroDivisionError())
        self.failureResultOf(result, ZeroDivisionError)
        self.assertFalse(asked.is_open)

    def test_shown(self) -> None:
        """A candidate is shown by its escaped name and address."""
        self.assertEqual(str(Candidate("unix:/x")), "unix:/x")
        self.assertEqual(str(Candidate(HostPort("::1", 5), "a\x1b")), "a\\x1b ([::1]:5)")
