"""Access from one end to the other: two nodes, TLS between them, and who sees what."""

from __future__ import annotations

import os
from pathlib import Path

from flow512.cli.outcome import DONE
from flow512.link.ban_watch import LOOK_EVERY
from flow512.link.identity import read_identity
from flow512.link.node_id import format_node_id
from flow512.node import NodeService
from tests.unit.command_line import CommandCase, Said

NOT_FOUND = 3


class AccessTests(CommandCase):
    """A node that shares one file, and two users who want it."""

    def setUp(self) -> None:
        super().setUp()
        self.ids = {}
        for name in ("ann", "eve"):
            self.ids[name] = read_identity(str(self.folder / name)).node

    def get(self, who: str) -> Said:
        """Fetch the file as one of them."""
        return self.flow512(
            *("get", "secret.txt", "-o", str(self.here / who), "--from", "10.0.0.1:5000"),
            *("--state", str(self.folder / who), "--no-beacon"),
        )

    def listed(self, who: str) -> str:
        """List what is shared as one of them."""
        said = self.flow512(
            *("ls", "10.0.0.1:5000", "--state", str(self.folder / who), "--no-beacon")
        )
        self.assertEqual(said.err, "")
        return said.out

    def start(self, *allow: bytes) -> NodeService:
        """Share the file."""
        return self.start_node({"secret.txt": b"secret"}, allow=allow)

    def test_option(self) -> None:
        """With --allow, only those who are named see anything."""
        self.start(self.ids["ann"])
        self.assertEqual(self.get("ann").status, DONE)
        self.assertEqual((self.here / "ann").read_bytes(), b"secret")
        said = self.get("eve")
        self.assertEqual(said.status, NOT_FOUND)
        self.assertNotIn("allow", said.err)
        self.assertEqual(os.listdir(self.here), ["ann"])
        self.assertIn("secret.txt", self.listed("ann"))
        self.assertEqual(self.listed("eve"), "")

    def test_file(self) -> None:
        """The file in the share counts from when it is written, while the node runs."""
        node = self.start()
        self.assertEqual(self.get("eve").status, DONE)
        rule = Path(node.settings.shares[0]) / ".flow512-allow"
        rule.write_text(f"# only Ann\n{format_node_id(self.ids['ann']).lower()}  # her laptop\n")
        self.assertEqual(self.listed("eve"), "")
        self.assertEqual(self.get("ann").status, DONE)
        rule.write_text("ann")
        self.assertEqual((self.listed("ann"), self.listed("eve")), ("", ""))

    def test_banned(self) -> None:
        """Who is banned while the node runs is spoken with no more, until the ban is over."""
        state = str(self.folder / "state")
        self.start_node({"secret.txt": b"secret"}, state=state)
        eve = format_node_id(self.ids["eve"])
        self.assertIn("secret.txt", self.listed("eve"))
        self.assertEqual(self.flow512("ban", eve, "--state", state).status, DONE)
        self.network.run(LOOK_EVERY + 1)
        said = self.get("eve")
        self.assertNotEqual(said.status, DONE)
        self.assertNotIn("ban", said.err)
        self.assertEqual(self.get("ann").status, DONE)
        self.assertEqual(self.flow512("unban", eve, "--state", state).status, DONE)
        self.network.run(LOOK_EVERY + 1)
        self.assertEqual(self.get("eve").status, DONE)
