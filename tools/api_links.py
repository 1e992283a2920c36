"""
Links from the API pages to other projects, made without asking their sites.

An inventory fetched from the network would make the pages' success a matter of somebody else's
server. The packages are installed anyway: a name is linked if it can be found in them, and is
a warning, which is to say an error, if it cannot.
"""

from __future__ import annotations

import builtins
import inspect
import pydoc
import sys

from pydoctor import model
from pydoctor.sphinx import SphinxInventory
from zope.interface.interface import InterfaceClass

_LIBRARY = "https://docs.python.org/3/library"
_TWISTED = "https://docs.twisted.org/en/stable/api"


class _InstalledNames(SphinxInventory):  # type: ignore[misc]  # pydoctor has no types
    """Finds names by importing them."""

    def getLink(self, name: str) -> str | None:
        """
        Find the page of a name outside this project.

        @param name: dotted and absolute, or a builtin's.
        @return: its address, or L{None} if nothing has that name.
        """
        root = name.partition(".")[0]
        if root == "flow512":
            return None
        if name in ("None", "True", "False"):
            return f"{_LIBRARY}/constants.html#{name}"
        try:
            found = pydoc.locate(name)
        except pydoc.ErrorDuringImport:
            return None
        if found is None:
            # Methods are no attributes of an interface.
            owner, _, method = name.rpartition(".")
            interface = pydoc.locate(owner) if owner else None
            if not isinstance(interface, InterfaceClass) or method not in interface.names(True):
                return None
        if hasattr(builtins, root):
            is_error = isinstance(found, type) and issubclass(found, BaseException)
            return f"{_LIBRARY}/{'exceptions' if is_error else 'functions'}.html#{name}"
        if inspect.ismodule(found):
            page, anchor = name, ""
        else:
            page, _, attribute = name.rpartition(".")
            anchor = f"#{name}"
        if root == "twisted":
            if inspect.ismodule(found) or isinstance(found, type | InterfaceClass):
                return f"{_TWISTED}/{name}.html"
            return f"{_TWISTED}/{page}.html#{attribute}"
        if root in sys.stdlib_module_names:
            while not inspect.ismodule(pydoc.locate(page)):
                page = page.rpartition(".")[0]
            return f"{_LIBRARY}/{page}.html{anchor}"
        project = ".".join(name.split(".")[:2]) if root == "zope" else root
        return f"https://pypi.org/project/{project}/"


class System(model.System):  # type: ignore[misc]  # as above
    """pydoctor's own, but for where it looks for other projects' names."""

    def __init__(self, options: model.Options | None = None) -> None:
        super().__init__(options)
        self.intersphinx = _InstalledNames(logger=self.msg)
