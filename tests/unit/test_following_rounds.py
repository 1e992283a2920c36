"""Tests for L{flow512.content.following}."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from flow512.content.following import (
    CALM,
    CROWD,
    EVERYTHING,
    MOST,
    PATIENCE,
    QUIET,
    Following,
    Look,
    Place,
)

SHARE = b"share"


def at(path: str) -> Place:
    """A place in the share."""
    return Place(SHARE, path)


def covers(look: Look, place: Place) -> bool:
    """Whether whoever looks so sees a place."""
    return look.is_everything or any(
        not each.path or place.path == each.path or place.path.startswith(each.path + "/")
        for each in look.places
        if each.share == place.share
    )


class RoundTests(SynchronousTestCase):
    """When a round begins, and what it has."""

    def setUp(self) -> None:
        self.following = Following()

    def test_nothing(self) -> None:
        """As long as nothing happens, there is nothing to look at."""
        self.assertIsNone(self.following.due())
        self.assertEqual(self.following.take(9.0), Look())

    def test_quiet(self) -> None:
        """A file is looked at when nothing has happened to it for a while, and then once."""
        self.following.note(1.0, at("a"))
        self.assertEqual(self.following.due(), 1.0 + QUIET)
        self.following.note(1.25, at("a"))
        self.assertEqual(self.following.due(), 1.25 + QUIET)
        self.assertEqual(self.following.take(1.25 + QUIET), Look((at("a"),)))
        self.assertIsNone(self.following.due())

    def test_burst(self) -> None:
        """Things that happen one soon after the other are one round."""
        for number in range(10):
            self.following.note(number / 8, at(str(number)))
        due = self.following.due()
        self.assertEqual(due, 9 / 8 + QUIET)
        self.assertEqual(
            self.following.take(9 / 8 + QUIET).places,
            tuple(at(str(number)) for number in range(10)),
        )

    def test_never_quiet(self) -> None:
        """A file that is written all the time keeps others waiting for so long and not longer, and
        is named as busy."""
        self.following.note(0.0, at("log"))
        self.following.note(0.0, at("a"))
        now = 0.0
        while now < PATIENCE:
            now += QUIET / 2
            self.following.note(now, at("log"))
        self.assertEqual(self.following.due(), PATIENCE)
        self.assertEqual(
            self.following.take(PATIENCE), Look((at("a"),), busy=frozenset([at("log")]))
        )
        # Alone, it is looked at when it is quiet.
        self.assertEqual(self.following.due(), PATIENCE + QUIET)
        self.assertEqual(self.following.take(PATIENCE), Look((), frozenset([at("log")])))
        self.assertEqual(self.following.take(PATIENCE + QUIET).places, (at("log"),))

    def test_restless(self) -> None:
        """A file that changes all the time is looked at less and less often, though once a minute;
        after a while of calm, it is as any other. Meanwhile, others do not wait for it."""
        taken = []
        now = 0.0
        while now < 600.0:
            self.following.note(now, at("log"))
            now += 1.0
            if self.following.take(now).places:
                taken.append(now)
        pauses = [after - before for before, after in pairwise(taken)]
        self.assertEqual(pauses[:8], [1.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0])
        self.assertEqual(set(pauses[8:]), {60.0})
        self.following.note(now, at("log"))
        self.following.note(now, at("a"))
        self.assertEqual(self.following.due(), now + QUIET)
        self.assertEqual(self.following.take(now + QUIET), Look((at("a"),), frozenset([at("log")])))
        self.assertEqual(self.following.due(), taken[-1] + CALM)
        self.following.take(taken[-1] + CALM)
        now = taken[-1] + 3 * CALM
        for _ in range(2):
            self.following.note(now, at("log"))
            self.assertEqual(self.following.due(), now + QUIET)
            self.following.take(now + QUIET)
            now += 2 * QUIET

    def test_lost_all_the_time(self) -> None:
        """If events are lost again and again, everything is looked at less and less often."""
        taken = []
        now = 0.0
        while now < 300.0:
            self.following.lose(now)
            due = self.following.due()
            assert due is not None
            now = due
            self.following.take(now)
            taken.append(now)
        self.assertLess(len(taken), 15)

    def test_forgets_the_restless(self) -> None:
        """However many are looked at again and again, what is remembered of them is bounded."""
        for turn in range(4):
            for number in range(3 * MOST):
                self.following.note(turn, at(f"{turn}{number}/file"))
                self.following.take(turn + QUIET)
        self.assertLessEqual(len(self.following._taken), MOST)

    def test_crowd(self) -> None:
        """Many files in one folder are the folder, which need not be quiet; others stay apart."""
        self.following.note(0.0, at("far/away"))
        for number in range(CROWD + 1):
            self.following.note(0.0, at(f"here/{number}"))
        now = 0.0
        while now < PATIENCE:
            now += QUIET / 2
            self.following.note(now, at(f"here/{now}"))
            self.following.note(now, at("here"))
        self.assertEqual(self.following.due(), PATIENCE)
        self.assertEqual(self.following.take(PATIENCE), Look((at("far/away"), at("here"))))
        # After that, they are told apart again.
        self.following.note(PATIENCE, at("here/new"))
        self.assertEqual(self.following.take(PATIENCE + QUIET).places, (at("here/new"),))

    def test_crowd_at_the_top(self) -> None:
        """Of many files at the top of a share, the share's own folder is what remains."""
        for number in range(2 * CROWD):
            self.following.note(0.0, at(str(number)))
        self.assertEqual(self.following.take(QUIET), Look((at(""),)))

    def test_crowd_of_crowds(self) -> None:
        """Many folders with many files each are the folder around them; what happens in any of
        them later is not lost."""
        for folder in range(CROWD + 1):
            for number in range(CROWD + 1):
                self.following.note(0.0, at(f"top/{folder}/{number}"))
        self.assertEqual(self.following.take(QUIET).places, (at("top"),))
        self.following.note(1.0, at("top/0/0"))
        self.assertEqual(self.following.take(1.0 + QUIET).places, (at("top/0/0"),))

    def test_too_much(self) -> None:
        """More than can be remembered is everything; and so are events that were lost."""
        for number in range(MOST + 1):
            self.following.note(0.0, at(f"{number}/file"))
        self.assertEqual(self.following.due(), QUIET)
        self.following.note(0.25, at("more"))
        self.assertEqual(self.following.due(), 0.25 + QUIET)
        self.assertEqual(self.following.take(0.25 + QUIET), EVERYTHING)
        self.assertIsNone(self.following.due())
        self.following.lose(2.0)
        self.assertEqual(self.following.take(2.0 + QUIET), EVERYTHING)

    def test_forgotten(self) -> None:
        """What was looked at anyway is not looked at again."""
        self.following.note(0.0, at("a"))
        self.following.forget()
        self.assertIsNone(self.following.due())

    @given(
        st.lists(
            st.tuples(
                st.floats(0, 2 * PATIENCE, width=16),
                st.one_of(
                    st.none(), st.from_regex(r"([a-c]/){0,3}[a-c]?[0-9]{1,3}", fullmatch=True)
                ),
            ),
            max_size=400,
        )
    )
    def test_whatever_happens(self, happenings: list[tuple[float, str | None]]) -> None:
        """Whatever happens is covered by a round that begins after it, and begins in time: when it
        is quiet, though not before PATIENCE if something else happens all the time. What is
        remembered has its bounds."""
        following = Following()
        now = 0.0
        owed: dict[Place, float] = {}
        taken: dict[Place, float] = {}

        def take_what_is_due(until: float | None) -> None:
            while (due := following.due()) is not None and (until is None or due <= until):
                look = following.take(max(due, now))
                self.assertLessEqual(len(look.places) + len(look.busy), MOST)
                taken.update((place, due) for place in look.places)
                for place, last in list(owed.items()):
                    if covers(look, place) and place not in look.busy:
                        del owed[place]
                    else:
                        # It was not quiet, or rests.
                        self.assertTrue(last + QUIET > due or taken.get(place, -CALM) + CALM > due)

        for pause, path in happenings:
            take_what_is_due(now + pause)
            now += pause
            if path is None:
                following.lose(now)
            else:
                owed[at(path)] = now
                following.note(now, at(path))
        take_what_is_due(None)
        self.assertEqual(owed, {})
