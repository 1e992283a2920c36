"""
Fail when less than a share of the branches was taken.

The total that `coverage report` prints counts lines together with branches, and lines are the
easier part. This reads what `coverage json -o -` prints and counts branches alone.
"""

from __future__ import annotations

import json
import sys


def main(least: float) -> str | None:
    """
    Compare the report on standard input with what is asked for.

    @param least: percent of branches that must have been taken.
    @return: what is wrong, or L{None}.
    """
    totals = json.load(sys.stdin)["totals"]
    if not totals.get("num_branches"):
        return "No branch was measured; is flow512 what was run?"
    percent = 100 * totals["covered_branches"] / totals["num_branches"]
    print(f"branches: {totals['covered_branches']} of {totals['num_branches']}, {percent:.1f} %")
    if percent < least:
        return f"Only {percent:.2f} % of the branches were taken; {least:g} % is the least."
    return None


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1])))
