"""Which commands are sure that none of their connections is encrypted."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from flow512.cli.sparing import is_bare


class BareTests(SynchronousTestCase):
    """L{is_bare}, on what users type."""

    def test_bare(self) -> None:
        """Who fetches in plaintext from an address, by path or by content id, needs no TLS."""
        for rest in (
            "get a/b.txt --from 10.0.0.5",
            "get a/b.txt --from 10.0.0.5:5001 -o there",
            "get flow512:oh6s3yaa53p5 --registry=lab.example:5000 --no-md5",
            "cat film.mkv --offset 5",
            "ls --json",
            "peers",
        ):
            self.assertTrue(is_bare([*rest.split(), "--plaintext"]), rest)

    def test_may_ask_for_tls(self) -> None:
        """An endpoint string or an address on the web may bring TLS with it; then all is loaded."""
        for rest in (
            "get a.txt --from tls:10.0.0.5:5001",
            "get a.txt --from=tls:10.0.0.5:5001",
            "get a.txt --registry onion:abc.onion:80",
            "get a.txt --http-source https://example.org/a.txt",
            "get flow512:oh6s3yaa53p5?http=https%3A%2F%2Fexample.org%2Fa.txt",
            "serve share",
            "console",
            "",
        ):
            self.assertFalse(is_bare([*rest.split(), "--plaintext"]), rest)

    def test_encrypted(self) -> None:
        """Whoever does not say plaintext gets TLS."""
        self.assertFalse(is_bare(["get", "a.txt", "--from", "10.0.0.5"]))
        self.assertFalse(is_bare([]))
