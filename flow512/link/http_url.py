"""
Addresses of files on web servers, as links and users name them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Self
from urllib.parse import quote, unquote

import msgspec

from flow512.errors import Misuse

if TYPE_CHECKING:
    from hyperlink import URL

MAX_URL: Final = 2048
"""Characters in the address of a file."""

_SCHEMES: Final = ("http", "https")


class HttpUrl(msgspec.Struct, frozen=True):
    """
    Where a file is on the web. C{str()} gives all of it, and so what is secret in it: a user's
    name and password, and a query, which in presigned addresses is as good as a password. Neither
    is in C{repr()} and L{shown}.

    @ivar plain: what is asked for: ASCII, without user, password and fragment.
    @ivar credentials: the user's name and password; L{None} if there are none.
    """

    plain: str
    credentials: tuple[str, str] | None = None

    def __str__(self) -> str:
        if self.credentials is None:
            return self.plain
        scheme, _, rest = self.plain.partition("://")
        user, password = (quote(each, safe="") for each in self.credentials)
        return f"{scheme}://{user}:{password}@{rest}"

    def __repr__(self) -> str:
        return f"<HttpUrl {self.shown}>"

    @property
    def shown(self) -> str:
        """What logs and sentences may show of it."""
        bare, question, _ = self.plain.partition("?")
        return bare + (question and "?\N{HORIZONTAL ELLIPSIS}")

    @property
    def is_private(self) -> bool:
        """Whether what is asked for is encrypted on its way."""
        return self.plain.startswith("https:")

    @property
    def host(self) -> str:
        """The server, as sentences name it."""
        return _parsed(self.plain).authority()

    def joined(self, location: str) -> Self:
        """
        Follow a redirect. Name and password go along to the same server only.

        @param location: what the server said, relative or not.
        @raise Misuse: it leads nowhere on the web.
        """
        from hyperlink import URLParseError

        try:
            text = _parsed(self.plain).click(location).to_text(with_password=True)
        except (URLParseError, ValueError):
            raise Misuse("That is no address on the web.") from None
        target = parse_http_url(text)
        is_same = target._origin == self._origin
        kept = target.credentials or (self.credentials if is_same else None)
        return type(self)(target.plain, kept)

    @property
    def _origin(self) -> tuple[str, str, int | None]:
        url = _parsed(self.plain)
        return url.scheme, url.host, url.port


def parse_http_url(text: str) -> HttpUrl:
    """
    Read the address of a file on a web server.

    @param text: an absolute C{http} or C{https} URL of at most L{MAX_URL} characters; what is not
        ASCII is encoded as RFC 3987 has it. A fragment is left out.
    @raise Misuse: it is none. The sentence does not repeat it, as it may hold a password.
    """
    from hyperlink import URLParseError

    text = text.strip()
    if len(text) > MAX_URL:
        raise Misuse(f"That URL is longer than {MAX_URL} characters.")
    if not text.isprintable() or " " in text:
        raise Misuse("That is no URL: it contains blanks or control characters; encode them.")
    scheme, colon, rest = text.partition(":")
    try:
        url = _to_uri(_parsed(scheme.lower() + colon + rest))
        if url.scheme not in _SCHEMES or not url.host or not 0 < (url.port or 0) <= 65535:
            raise ValueError
        user, colon, password = url.userinfo.partition(":")
        plain = url.replace(userinfo="", fragment="", path=url.path or ("",)).to_text()
        plain.encode("ascii")
    except (URLParseError, ValueError):
        # Whatever these say, they quote.
        raise Misuse(
            "That is no URL of a file on a web server; give one like https://example.org/file.iso."
        ) from None
    if not user and not colon:
        return HttpUrl(plain)
    return HttpUrl(plain, (unquote(user), unquote(password)))


def _parsed(text: str) -> URL:
    from hyperlink import URL  # which takes a while to load, and few links need

    return URL.from_text(text)


def _to_uri(url: URL) -> URL:
    # hyperlink takes every host for a name (its issue 68), which an address of IPv6 is not.
    if ":" not in url.host:
        return url.to_uri()
    return url.replace(host="host").to_uri().replace(host=url.host)
