"""C{flow512 verify} and C{flow512 repair}, with and without a network."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from flow512.cli.verifying import Expected, damage_text, expected_of
from flow512.content.catalog import Catalog
from flow512.content.library import Library
from flow512.content.shares import Share
from flow512.content.suspect import Damage
from flow512.content.tree import format_content_id
from flow512.errors import Misuse
from flow512.units import BLOCK, PIECE
from tests.unit.command_line import CommandCase, Said, TerminalText

BIG = Random(8).randbytes(3 * BLOCK + 77)
FILES = {"big.bin": BIG, "sub/other.bin": BIG[:1000], "empty": b""}
SOMEBODY = ("--from", "10.0.0.1")


def damaged(content: bytes, *offsets: int) -> bytes:
    """Flip a bit at each of some places."""
    data = bytearray(content)
    for offset in offsets:
        data[offset] ^= 16
    return bytes(data)


class WordsTests(SynchronousTestCase):
    """What is typed, and what is said."""

    ID = format_content_id(b"i" * 32)

    def test_expected(self) -> None:
        """An id belongs to the file before it; a file that is called like one has a folder."""
        self.assertEqual(
            expected_of(["a", self.ID, "b", f"./{self.ID}"]),
            [Expected("a", b"i" * 32), Expected("b"), Expected(f"./{self.ID}")],
        )
        for words in ([self.ID], ["a", self.ID, self.ID], ["a", "flow512:nonsense"]):
            with self.assertRaises(Misuse):
                expected_of(words)

    def test_damage(self) -> None:
        """A person is told how much and where, up to a point."""
        self.assertEqual(damage_text(Damage(9, 9, ())), "intact")
        self.assertEqual(damage_text(Damage(9, 12, ())), "3 bytes too long")
        self.assertEqual(
            damage_text(Damage(BLOCK + 9, BLOCK, ((1, 1),))),
            "damaged in 1 of 2 blocks (bytes 262144-262152), 9 bytes too short",
        )
        many = Damage(40 * BLOCK, 40 * BLOCK, tuple((block, 1) for block in range(0, 40, 2)))
        self.assertIn(" and 12 more)", damage_text(many))


class MendingCase(CommandCase):
    """A node that shares some files, and a folder with copies of them."""

    def setUp(self) -> None:
        super().setUp()
        self.big = self.here / "big.bin"
        self.other = self.here / "other.bin"

    def serve(self) -> None:
        """Share the files."""
        self.start_node(FILES, beacon_port=None)

    def ids(self) -> list[str]:
        """The content ids of the files, as they should be."""
        lines = self.flow512("id", *(str(self.reference / name) for name in FILES)).out
        return [line.split()[0] for line in lines.splitlines()]

    @property
    def reference(self) -> Path:
        """A folder with the files as they should be."""
        folder = self.folder / "reference"
        if not folder.exists():
            for name, content in FILES.items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(content)
        return folder


class VerifyTests(MendingCase):
    """C{flow512 verify}."""

    def verify(self, *words: str, **options: object) -> Said:
        state = str(self.folder / "state")
        return self.flow512("verify", *words, "--state", state, **options)  # type: ignore[arg-type]  # passed on

    def test_by_id(self) -> None:
        """A file that has the id is intact; of another, no more can be said without a peer."""
        big, _, empty = self.ids()
        self.big.write_bytes(BIG)
        (self.here / "empty").write_bytes(b"")
        said = self.verify(str(self.big), big, str(self.here / "empty"), empty)
        self.assertEqual((said.status, said.err), (0, ""))
        self.assertEqual(said.out, f"{self.big}: intact\n{self.here / 'empty'}: intact\n")
        self.big.write_bytes(damaged(BIG, BLOCK))
        said = self.verify(str(self.big), big)
        self.assertEqual((said.status, said.err), (6, ""))
        self.assertIn("damaged, or another file; --from PEER tells where", said.out)
        told = self.verify(str(self.big), big, "--json").event("verified")
        self.assertEqual((told["intact"], told["ranges"]), (False, None))

    def test_unknown(self) -> None:
        """Of a file of which nobody says what it should be, nothing can be said."""
        self.big.write_bytes(BIG)
        said = self.verify(str(self.big))
        self.assertEqual((said.status, said.out), (3, ""))
        self.assertIn("Nobody knows what", said.err)

    def test_some_fail(self) -> None:
        """The others are looked at; damage counts for more than what could not be looked at."""
        big = self.ids()[0]
        self.big.write_bytes(BIG)
        nope = str(self.here / "nope")
        said = self.verify(nope, big, str(self.big), big)
        self.assertEqual(said.status, 3)
        self.assertIn("There is no file", said.err)
        self.assertIn("intact", said.out)
        self.big.write_bytes(BIG[1:])
        self.assertEqual(self.verify(nope, str(self.big), big, nope).status, 6)

    def test_from_peer(self) -> None:
        """With a peer, files are known by their names, and it is said where they are damaged."""
        self.serve()
        self.big.write_bytes(damaged(BIG, 0, 3 * BLOCK))
        self.other.write_bytes(FILES["sub/other.bin"] + b"!")
        said = self.verify(str(self.big), str(self.other), self.ids()[1], *SOMEBODY)
        self.assertEqual((said.status, said.err), (6, ""))
        self.assertEqual(
            said.out.splitlines(),
            [
                f"{self.big}: damaged in 2 of 4 blocks (bytes 0-262143, 786432-786508)",
                f"{self.other}: 1 byte too long",
            ],
        )
        self.assertEqual(self.big.read_bytes(), damaged(BIG, 0, 3 * BLOCK))
        said = self.verify(str(self.big), str(self.other), *SOMEBODY, "--json")
        told = said.event("verified")
        self.assertEqual(told["ranges"], ["0-262143", "786432-786508"])
        self.assertEqual(
            (told["bytes"], told["bytes_here"], told["blocks"]), (len(BIG),) * 2 + (2,)
        )
        # The peer calls the other one by another path.
        self.assertEqual(said.event("error")["code"], "NotFound")
        self.assertEqual(said.status, 6)
        self.big.write_bytes(BIG)
        self.assertEqual(self.verify(str(self.big), *SOMEBODY).status, 0)

    def test_interrupted(self) -> None:
        """Ctrl-C ends it."""
        self.big.write_bytes(BIG)
        start = self.network.clock.seconds()
        said = self.verify(
            str(self.big),
            "--from",
            "somebody",
            until=lambda _: self.network.clock.seconds() > start,
        )
        self.assertEqual(said.status, 130)


class CatalogTests(MendingCase):
    """C{flow512 verify} of files that are shared on this machine."""

    def setUp(self) -> None:
        super().setUp()
        self.share_folder = Path(self.share(FILES))
        state = self.folder / "state"
        state.mkdir()
        catalog = Catalog(state / "catalog.sqlite")
        library = Library(catalog, [Share(self.share_folder)])
        library.scan()
        while library.hash_next() is not None:
            pass
        library.close()
        catalog.close()
        self.state = str(state)

    def verify(self, *words: str) -> Said:
        return self.flow512("verify", *words, "--state", self.state)

    def spoil(self, name: str, content: bytes) -> None:
        """Change a file behind the system's back, as a failing disk does."""
        path = self.share_folder / name
        before = path.stat()
        with path.open("r+b") as file:
            file.write(content)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    def test_known(self) -> None:
        """What the catalog knows needs no id and no peer."""
        said = self.verify(*(str(self.share_folder / name) for name in FILES))
        self.assertEqual((said.status, said.out.count(": intact\n")), (0, 3))
        self.spoil("big.bin", damaged(BIG, BLOCK + 5))
        said = self.verify(str(self.share_folder / "big.bin"))
        self.assertEqual(said.status, 6)
        self.assertIn("damaged in 1 of 4 blocks (bytes 262144-524287)", said.out)

    def test_copy_elsewhere(self) -> None:
        """The digests of a shared file tell where a copy of it is damaged."""
        self.big.write_bytes(damaged(BIG, 1))
        said = self.verify(str(self.big), self.ids()[0])
        self.assertIn("damaged in 1 of 4 blocks (bytes 0-262143)", said.out)
        said = self.verify(str(self.big))
        self.assertEqual(said.status, 3)

    def test_written_to(self) -> None:
        """A file that was written to since is not called damaged."""
        (self.share_folder / "big.bin").write_bytes(b"new")
        said = self.verify(str(self.share_folder / "big.bin"))
        self.assertEqual((said.status, said.out), (3, ""))
        self.assertIn("was written to since its content id was made", said.err)

    def test_damaged_catalog(self) -> None:
        """Digests that are not the content's are not believed."""
        catalog = Catalog(os.path.join(self.state, "catalog.sqlite"))
        with catalog._database.writing() as database:
            database.execute("UPDATE pages SET digests = zeroblob(length(digests))")
        catalog.close()
        self.assertEqual(self.verify(str(self.share_folder / "big.bin")).status, 0)


class RepairTests(MendingCase):
    """C{flow512 repair}."""

    def repair(self, *words: str, **options: object) -> Said:
        return self.flow512("repair", *words, **options)  # type: ignore[arg-type]  # passed on

    def test_repaired(self) -> None:
        """What was wrong is said, and what came; the file is right then."""
        self.serve()
        self.big.write_bytes(damaged(BIG, 0, 3 * PIECE, 2 * BLOCK))
        said = self.repair(str(self.big), *SOMEBODY)
        self.assertEqual((said.status, said.err), (0, ""))
        self.assertEqual(
            said.out.splitlines(),
            [
                f"{self.big}: damaged in 2 of 4 blocks (bytes 0-262143, 524288-786431)",
                "[+] Repaired and verified: 3 pieces of 512 bytes came anew;"
                " 17.6 KiB were fetched in all.",
            ],
        )
        self.assertEqual(self.big.read_bytes(), BIG)
        self.assertEqual(os.listdir(self.here), ["big.bin"])
        said = self.repair(str(self.big), *SOMEBODY)
        self.assertEqual((said.status, said.out), (0, f"{self.big}: intact\n"))

    def test_json(self) -> None:
        """A program is told who has it, how far the look is, what is wrong and what was done."""
        self.serve()
        self.big.write_bytes(BIG[: BLOCK + PIECE] + damaged(BIG[BLOCK + PIECE : 2 * BLOCK], 0))
        said = self.repair(str(self.big), self.ids()[0], *SOMEBODY, "--json")
        self.assertEqual((said.status, said.err), (0, ""))
        kinds = [each["event"] for each in said.events]
        self.assertEqual(
            sorted(set(kinds), key=kinds.index), ["found", "progress", "damage", "repaired"]
        )
        damage, done = said.event("damage"), said.event("repaired")
        self.assertEqual((damage["bytes"], damage["bytes_here"]), (len(BIG), 2 * BLOCK))
        self.assertEqual(damage["ranges"], [f"{BLOCK}-{len(BIG) - 1}"])
        self.assertEqual((done["blocks"], done["resumed"], done["pieces"]), (3, 0, 514))
        self.assertEqual(done["root"], self.ids()[0])
        self.assertGreater(done["fetched"], 513 * PIECE)
        self.assertEqual(self.big.read_bytes(), BIG)

    def test_other_path(self) -> None:
        """A file that is called otherwise here is found by --as, or by its id."""
        self.serve()
        mine = self.here / "mine"
        for words in (("--as", "sub/other.bin"), (self.ids()[1],)):
            mine.write_bytes(b"")
            self.assertEqual(self.repair(str(mine), *words, *SOMEBODY).status, 0)
            self.assertEqual(mine.read_bytes(), FILES["sub/other.bin"])
        self.assertEqual(self.repair(str(mine), *SOMEBODY).status, 3)

    def test_names_that_no_new_file_has(self) -> None:
        """A file is mended in its place whatever it is called; but for what is flow512's own."""
        self.serve()
        for name in (b"What?.mp3", b"caf\xe9.bin", b"CON", b"~x", b"dot."):
            path = os.path.join(os.fsencode(self.here), name)
            with open(path, "wb") as file:
                file.write(damaged(BIG, 7))
            said = self.repair(os.fsdecode(path), "--as", "big.bin", *SOMEBODY)
            self.assertEqual((said.status, said.err), (0, ""))
            with open(path, "rb") as file:
                self.assertEqual(file.read(), BIG)
            self.assertEqual(os.listdir(os.fsencode(self.here)), [name])
            os.unlink(path)
        own = self.here / ".flow512-x.part"
        own.write_bytes(damaged(BIG, 7))
        said = self.repair(str(own), "--as", "big.bin", *SOMEBODY)
        self.assertEqual(said.status, 2)
        self.assertIn("begin with .flow512- for itself", said.err)
        self.assertNotIn("-o", said.err)
        self.assertEqual(own.read_bytes(), damaged(BIG, 7))

    def test_link(self) -> None:
        """A link does for an id, and names whom to ask."""
        self.serve()
        self.big.write_bytes(damaged(BIG, 7))
        link = f"{self.ids()[0]}?name=x&peer=10.0.0.1:5000"
        start = self.network.clock.seconds()
        self.assertEqual(self.repair(str(self.big), link).status, 0)
        self.assertLess(self.network.clock.seconds() - start, 3)
        self.assertEqual(self.big.read_bytes(), BIG)
        self.assertEqual(self.flow512("verify", str(self.big), link, *SOMEBODY).status, 0)

    def test_stale_link(self) -> None:
        """If nobody whom a link names is there, whoever is known is asked."""
        self.start_node(FILES)
        self.big.write_bytes(damaged(BIG, 7))
        link = f"{self.ids()[0]}?name=x&peer=10.0.0.1:5001"
        self.assertEqual(self.repair(str(self.big), link).status, 0)
        self.assertEqual(self.big.read_bytes(), BIG)

    def test_anybody(self) -> None:
        """Without --from, whoever is known is asked."""
        self.start_node(FILES)
        self.big.write_bytes(damaged(BIG, 7))
        self.assertEqual(self.repair(str(self.big)).status, 0)
        self.assertEqual(self.big.read_bytes(), BIG)

    def test_two_peers(self) -> None:
        """Of two who have it, one that lies is dropped by name, and the file is repaired."""
        liar = self.start_node(FILES)
        other = self.network.host("10.0.0.3", name="other")
        self.start_node(FILES, other)
        self.network.run(5)
        assert liar.sharing._library is not None
        honest = liar.sharing._library.open

        def lie(*how: Any) -> Any:
            opened = honest(*how)
            read = opened.read_into

            def read_wrong(offset: int, rooms: Sequence[bytearray]) -> None:
                read(offset, rooms)
                for room in rooms:
                    room[:] = bytes(len(room))

            opened.read_into = read_wrong
            return opened

        self.patch(liar.sharing._library, "open", lie)
        big = damaged(BIG, 7, BLOCK, 2 * BLOCK, 3 * BLOCK)
        self.big.write_bytes(big)
        said = self.repair(str(self.big))
        self.assertEqual(said.status, 0)
        self.assertRegex(said.err, r"server \(10.0.0.1:5000\) was dropped: .* a damaged block \d")
        self.assertEqual(self.big.read_bytes(), BIG)
        self.big.write_bytes(big)
        told = self.repair(str(self.big), "--json")
        self.assertEqual(told.event("dropped")["peer"], "server")
        self.assertEqual(self.big.read_bytes(), BIG)

    def test_terminal(self) -> None:
        """On a terminal there is a bar while the file is looked at."""
        self.serve()
        self.big.write_bytes(damaged(BIG, 7))
        self.patch_terminal()
        err = TerminalText()
        said = self.repair(str(self.big), *SOMEBODY, err=err)
        self.assertEqual(said.status, 0)
        self.assertIn("big.bin", said.err)
        self.assertNotIn("\x1b", said.out)

    def test_refused_early(self) -> None:
        """What cannot be is refused before anybody is asked."""
        self.big.write_bytes(BIG)
        start = self.network.clock.seconds()
        self.assertEqual(self.repair(str(self.here / "nope")).status, 3)
        self.assertEqual(self.repair(str(self.here)).status, 2)
        self.assertEqual(self.repair(str(self.big), "flow512:abc").status, 2)
        self.assertEqual(self.repair(str(self.big), "--as", "../x").status, 2)
        self.assertEqual(self.network.clock.seconds(), start)

    def test_nobody(self) -> None:
        """Nobody there is exit status 5, or 3 where a name was given."""
        self.big.write_bytes(BIG)
        self.assertEqual(self.repair(str(self.big), "--from", "10.0.0.9").status, 5)
        said = self.repair(str(self.big), "--from", "somebody", "--wait", "1")
        self.assertEqual(said.status, 3)
        self.assertIn("No peer called 'somebody'", said.err)

    def test_interrupted(self) -> None:
        """Ctrl-C leaves the file as it was, and says how to go on; then it does."""
        self.serve()
        self.big.write_bytes(wrong := BIG[:1000])
        self.server.bandwidth = 100_000
        said = self.repair(str(self.big), *SOMEBODY, "--json", until=lambda out: '"damage"' in out)
        self.assertEqual(said.status, 130)
        self.assertIn("is not repaired yet. Run the same command again", said.err)
        self.assertEqual(self.big.read_bytes(), wrong)
        self.assertEqual(self.repair(str(self.big), *SOMEBODY).status, 0)
        self.assertEqual(self.big.read_bytes(), BIG)
