"""A node's side of who holds what: what it tells its registry, and what it asks."""

from __future__ import annotations

from twisted.internet.defer import CancelledError

from flow512.errors import (
    WIRE_CODES,
    BadFrame,
    BadMessage,
    Busy,
    PeerLost,
    TimedOut,
    Unreachable,
)
from flow512.limits import Limits
from flow512.registry.questions import ANSWERS_WITHIN, MOST_QUESTIONS
from flow512.wire.fields import MAX_ROOTS, Message
from flow512.wire.holding import Hold, Holders, Who
from flow512.wire.messages import Error, Pong, Register, Registered, Snapshot
from tests.unit.registry_ends import End, leads, node_id
from tests.unit.test_registry_client import TICKET, ClientTestCase, peer
from tests.unit.test_registry_holdings import root


class HoldTests(ClientTestCase):
    """What it tells."""

    def told(self, end: End) -> tuple[set[bytes], set[bytes]]:
        """Take what it has told, which has to be nothing but that."""
        added: list[bytes] = []
        removed: list[bytes] = []
        for message in end.heard():
            assert isinstance(message, Hold), message
            added += message.added
            removed += message.removed
        self.assertEqual(len(added + removed), len({*added, *removed}), "none twice")
        return set(added), set(removed)

    def test_told(self) -> None:
        """It tells what it holds once it is registered, and then what comes and goes."""
        self.client.hold([root(1), root(2)], [])
        end = self.open()
        self.assertEqual(end.heard(), [Register(TICKET, 5000, "Ada")])
        end.say(Registered(30.0, "203.0.113.5"), end.requests[0])
        end.say(leads())
        self.assertEqual(self.told(end), ({root(1), root(2)}, set()))
        self.client.hold([root(3)], [root(1)])
        self.assertEqual(self.told(end), ({root(3)}, {root(1)}))
        self.client.hold([root(3)], [root(7)])
        self.assertEqual(end.heard(), [])

    def test_nothing(self) -> None:
        """Who holds nothing says nothing."""
        end = self.registered()
        self.client.hold([], [])
        self.assertEqual(end.heard(), [])

    def test_reconnected(self) -> None:
        """After a reconnection it tells all that it holds then."""
        self.client.hold([root(1), root(2)], [])
        end = self.listed()
        self.lose(end)
        self.client.hold([root(3)], [root(1)])
        self.wait_for_attempt()
        self.assertEqual(self.told(self.registered()), ({root(2), root(3)}, set()))

    def test_reconnected_with_nothing(self) -> None:
        """It says so, too, if there is nothing left."""
        self.client.hold([root(1)], [])
        end = self.listed()
        self.lose(end)
        self.client.hold([], [root(1)])
        self.wait_for_attempt()
        self.assertEqual(self.registered().heard(), [Hold(())])

    def test_back_pressure(self) -> None:
        """However much it holds, it writes while the transport takes it, and a frame at a time."""
        everything = [root(number) for number in range(10 * MAX_ROOTS)]
        self.client.hold(everything, [])
        end = self.open()
        end.heard()
        end.fill()
        end.say(Registered(30.0, "203.0.113.5"), 1)
        end.say(leads())
        self.assertEqual(end.heard(), [])
        self.client.hold([root(99999)], [])
        self.assertEqual(end.heard(), [])
        told: set[bytes] = set()
        while len(told) < len(everything) + 1:
            self._fill_at_next_write(end)
            end.drain()
            (message,) = end.heard()
            assert isinstance(message, Hold)
            self.assertLessEqual(len(message.added), MAX_ROOTS)
            self.assertTrue(told.isdisjoint(message.added))
            told.update(message.added)
        self.assertEqual(told, {*everything, root(99999)})
        end.drain()
        self.assertEqual(end.heard(), [])

    def _fill_at_next_write(self, end: End) -> None:
        write = end.transport.write

        def filling(data: bytes) -> None:
            write(data)
            del end.transport.write  # type: ignore[method-assign]  # the class's is there again
            end.fill()

        end.transport.write = filling  # type: ignore[method-assign]  # that is the transport's say

    def test_watcher(self) -> None:
        """One that only watches tells nothing, until it serves; then it tells all."""
        self.client.set_port(0)
        self.client.hold([root(1)], [])
        end = self.open()
        end.heard()
        end.say(Registered(30.0, "203.0.113.5"), 1)
        end.say(leads())
        self.client.hold([root(2)], [])
        self.assertEqual(end.heard(), [])
        self.client.set_port(5000)
        self.client.hold([root(3)], [])
        self.assertEqual(end.heard(), [Register(TICKET, 5000, "Ada")])
        end.say(Registered(30.0, "203.0.113.5"), 2)
        self.assertEqual(self.told(end), ({root(1), root(2), root(3)}, set()))
        self.client.set_port(0)
        self.client.hold([root(4)], [])
        self.assertEqual(end.heard(), [Register(TICKET, 0, "Ada")])

    def test_offline(self) -> None:
        """Without a connection, or before it is good for anything, nothing is told."""
        self.client.hold([root(1)], [])
        self.client.startService()
        end = self.accept()
        end.heard()
        self.client.hold([root(2)], [])
        self.assertEqual(end.heard(), [])


class WhoTests(ClientTestCase):
    """What it asks."""

    limits = Limits(dials_per_address=2)

    def asked(self, end: End) -> list[Message]:
        """Take the questions."""
        messages = end.heard()
        self.assertTrue(all(isinstance(message, Who) for message in messages), messages)
        return messages

    def test_answered(self) -> None:
        """Each question gets its own answer, in whatever order they come."""
        end = self.listed()
        first, second = self.client.who(root(1)), self.client.who(root(2))
        self.assertEqual(self.asked(end), [Who(root(1)), Who(root(2))])
        one, two = end.requests
        end.say(Holders((peer(2),)), two)
        self.assertNoResult(first)
        self.assertEqual(self.successResultOf(second), (peer(2),))
        end.say(Holders(()), one)
        self.assertEqual(self.successResultOf(first), ())

    def test_before_the_list(self) -> None:
        """It may ask as soon as it is registered, and be answered amid the list."""
        end = self.registered()
        answer = self.client.who(root(1))
        self.assertEqual(self.asked(end), [Who(root(1))])
        end.say(Snapshot(1, (peer(2),), True))
        end.say(Holders((peer(3),)), end.requests[0])
        end.say(Snapshot(1, (peer(3),)))
        self.assertEqual(self.successResultOf(answer), (peer(3),))
        self.assertEqual(set(self.client.peers), {node_id(2), node_id(3)})

    def test_not_believed(self) -> None:
        """Neither itself, nor what must not be dialled, nor too many at one address are given."""
        end = self.listed()
        answer = self.client.who(root(1))
        self.asked(end)
        told = (
            peer(1),
            peer(2, host="example.com"),
            peer(3, host="255.255.255.255"),
            peer(4, host="127.0.0.1"),
            *(peer(number) for number in range(10, 20)),
        )
        end.say(Holders(told), end.requests[0])
        # What runs on the registry's machine is found at the registry's address.
        self.assertEqual(
            self.successResultOf(answer), (peer(4, host="198.51.100.1"), peer(10), peer(11))
        )

    def test_refused(self) -> None:
        """A question that is refused fails, and the registration stands."""
        end = self.listed()
        answer = self.client.who(root(1))
        self.asked(end)
        end.say(Error(WIRE_CODES[Busy], "Wait a while.", 7.0), end.requests[0])
        busy = self.failureResultOf(answer, Busy).value
        assert isinstance(busy, Busy)
        self.assertEqual(busy.retry_after, 7.0)
        self.assertTrue(self.client.is_listed)
        self.assertEqual(self.warnings(), [])

    def test_no_answer(self) -> None:
        """A question that is not answered in time fails; the late answer does no harm."""
        end = self.listed()
        answer = self.client.who(root(1))
        self.asked(end)
        (request,) = end.requests
        self.clock.advance(ANSWERS_WITHIN)
        self.failureResultOf(answer, TimedOut)
        end.say(Holders((peer(2),)), request)
        self.assertTrue(self.client.is_listed)
        end.heard()
        end.say(Holders((peer(2),)), request)
        self.assert_ended(end, BadMessage)

    def test_late_refusal(self) -> None:
        """So does a late refusal."""
        end = self.listed()
        answer = self.client.who(root(1))
        self.asked(end)
        answer.cancel()
        self.failureResultOf(answer, CancelledError)
        end.say(Error(WIRE_CODES[Busy], "Wait a while.", 7.0), end.requests[0])
        self.assertTrue(self.client.is_listed)

    def test_nobody_asked(self) -> None:
        """An answer to what nobody asked is a violation, and so is one before the registration."""
        end = self.listed()
        end.say(Holders(()), 9)
        self.assert_ended(end, BadMessage)
        self.lose(end)
        self.wait_for_attempt()
        end = self.open()
        end.say(Holders(()), 1)
        self.assert_ended(end, BadFrame)

    def test_lost(self) -> None:
        """Questions fail when the connection is lost, and nothing is left over of them."""
        end = self.listed()
        answers = [self.client.who(root(1)), self.client.who(root(2))]
        answers.append(self.client.who(root(3)))
        answers[2].cancel()
        self.failureResultOf(answers.pop(), CancelledError)
        self.lose(end)
        for answer in answers:
            self.failureResultOf(answer, PeerLost)

    def test_asks_when_lost(self) -> None:
        """Who asks anew because the connection was lost is told at once that there is none."""
        end = self.listed()
        answer = self.client.who(root(1)).addErrback(lambda _: self.client.who(root(1)))
        self.lose(end)
        self.failureResultOf(answer, Unreachable)

    def test_offline(self) -> None:
        """Without a registration a question fails at once."""
        self.failureResultOf(self.client.who(root(1)), Unreachable)
        self.client.startService()
        end = self.accept()
        end.heard()
        self.failureResultOf(self.client.who(root(1)), Unreachable)
        self.assertEqual(end.heard(), [])
        self.lose(end)
        self.wait_for_attempt()
        end = self.open()
        end.heard()
        self.failureResultOf(self.client.who(root(1)), Unreachable)
        self.assertEqual(end.heard(), [])

    def test_too_many(self) -> None:
        """A registry that answers no question is not asked without end."""
        end = self.listed(lease=3600.0)
        for _ in range(MOST_QUESTIONS):
            self.client.who(root(1)).addErrback(lambda failure: failure.trap(TimedOut))
        self.assertEqual(len(self.asked(end)), MOST_QUESTIONS)
        request = end.requests[0]
        for _ in range(int(ANSWERS_WITHIN)):
            self.clock.advance(1.0)
            end.say(Pong(10))
            end.heard()
        self.failureResultOf(self.client.who(root(1)), Busy)
        self.assertEqual(end.heard(), [])
        end.say(Holders(()), request)
        self.client.who(root(1)).addErrback(lambda failure: failure.trap(PeerLost))
        self.assertEqual(self.asked(end), [Who(root(1))])
