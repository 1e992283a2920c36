"""
What a node's catalog knows of a local file, for commands that are no node.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from flow512.content.catalog import Catalog, Known
from flow512.content.shares import Share
from flow512.errors import ResourceFailure, ShareMissing

CATALOG_FILE: Final = "catalog.sqlite"
"""Where a node keeps its catalog, in the state folder."""


@contextmanager
def catalog_in(state: str) -> Iterator[Catalog | None]:
    """
    Lend the catalog of a state folder, also while a node works with it.

    @return: L{None} if there is none.
    @raise ResourceFailure: it cannot be opened.
    """
    path = os.path.join(state, CATALOG_FILE)
    if not os.path.exists(path):
        yield None
        return
    catalog = Catalog(path)
    try:
        yield catalog
    finally:
        catalog.close()


def find_known(catalog: Catalog, file: str) -> Known | None:
    """
    Look up a file: any folder around it may be a share, or have been one.

    @param file: its path on this machine.
    @return: what is known, by the innermost share; compare the stamp. L{None} if it is in none.
    @raise ResourceFailure: the catalog cannot be read.
    """
    folder, path = os.path.split(os.path.realpath(file))
    while True:
        known = _find_in(catalog, folder, path)
        if known is not None or folder == os.path.dirname(folder):
            return known
        folder, name = os.path.split(folder)
        path = f"{name}/{path}"


def _find_in(catalog: Catalog, folder: str, path: str) -> Known | None:
    try:
        share = Share(folder)
    except (ShareMissing, ResourceFailure):
        return None  # we may not look into it, and so have never shared it
    share.close()
    return catalog.find(share.key, path)
