"""
What is wanted of a manifest: the files that somebody wants, with the folders that they are in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from flow512.content.manifest import Item


class Choosing:
    """
    Goes through one manifest. A folder that nobody wants is taken all the same, when something in
    it turns out to be wanted.

    @ivar seen: items so far.
    @ivar chosen: how many of them are wanted, or needed.
    """

    def __init__(self, is_wanted: Callable[[Item], bool]) -> None:
        """
        @param is_wanted: whether something is wanted for its own sake; of a folder, that says
            nothing about what is in it.
        """
        self._is_wanted = is_wanted
        self._above: list[Item] = []  # folders that nothing has needed so far
        self.seen = 0
        self.chosen = 0

    def choose(self, items: Iterable[Item]) -> list[Item]:
        """
        Take the next items of the manifest.

        @return: what is to be taken of them and, before that, of the folders that came earlier.
        """
        chosen: list[Item] = []
        for item in items:
            self.seen += 1
            while self._above and not item.path.startswith(self._above[-1].path):
                self._above.pop()
            if self._is_wanted(item):
                chosen += self._above
                chosen.append(item)
                self._above = []
            elif item.is_folder:
                self._above.append(item)
        self.chosen += len(chosen)
        return chosen
