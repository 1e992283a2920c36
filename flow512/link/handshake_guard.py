"""
Who may begin TLS: asked of the protocol inside, before anything is spent on a handshake.
"""

from __future__ import annotations

from zope.interface import Interface


class IHandshakeGuard(Interface):
    """
    What a protocol may provide that is spoken inside TLS, on the side that accepts.
    """

    def handshake_begins() -> bool:
        """
        The other side has sent its first byte; nothing was spent on it yet.

        @return: whether the handshake is to begin; if not, the connection is closed.
        """
