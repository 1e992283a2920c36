"""Tests for L{flow512.discovery.limits}."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from flow512.discovery.limits import Budget, Budgets


class BudgetTests(SynchronousTestCase):
    """Token buckets."""

    def test_refill(self) -> None:
        """A bucket gives its burst, then its rate, and never saves more than its burst."""
        budget = Budget(2, 3, 0.0)
        self.assertEqual([budget.take(0.0) for _ in range(4)], [True, True, True, False])
        self.assertEqual([budget.take(1.0) for _ in range(3)], [True, True, False])
        self.assertEqual([budget.take(99.0) for _ in range(4)], [True, True, True, False])

    def test_clock_jumps_back(self) -> None:
        """A clock that jumps back gives nothing, and the budget recovers from then on."""
        budget = Budget(1, 1, 100.0)
        self.assertTrue(budget.take(100.0))
        self.assertFalse(budget.take(0.0))
        self.assertTrue(budget.take(1.0))

    def test_strangers_share(self) -> None:
        """Over the limit new keys share one bucket, until old ones were idle for long enough."""
        budgets = Budgets(1, 1, 2, 0.0)
        self.assertTrue(budgets.take("a", 0.0))
        self.assertTrue(budgets.take("b", 0.0))
        self.assertTrue(budgets.take("c", 0.1))
        self.assertFalse(budgets.take("d", 0.1))
        self.assertFalse(budgets.take("a", 0.1))
        self.assertTrue(budgets.take("d", 2.0))
        self.assertTrue(budgets.take("e", 2.0))
