"""Tests for L{flow512.cli.diagnosis}: what is made of each fact."""

from __future__ import annotations

import os
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from flow512.cli.diagnosis import (
    Finding,
    Owner,
    Reached,
    Registered,
    Verdict,
    examine_state,
    judge_clock,
    judge_echo,
    judge_interfaces,
    judge_peers,
    judge_port,
    judge_reachability,
    judge_registry,
    judge_sightings,
)
from flow512.discovery.addresses import LocalAddress
from flow512.discovery.echo import Trial, Way
from flow512.link.identity import has_identity, read_identity
from flow512.registry.memory import MEMORY_FILE
from tests.unit.transfer_ends import a_folder

FINE, NOTE, WRONG = Verdict.FINE, Verdict.NOTE, Verdict.WRONG
ETH4 = LocalAddress("192.0.2.7", 24, "eth0", 2)
ETH6 = LocalAddress("2001:db8::7", 64, "eth0", 2)
LINK6 = LocalAddress("fe80::7", 64, "eth0", 2)
LO = LocalAddress("127.0.0.1", 8, "lo", 1)


class DiagnosisCase(SynchronousTestCase):
    """Findings, compared."""

    def assert_found(self, found: Finding, verdict: Verdict, *words: str) -> None:
        """A finding is as bad, and says all that; what is wrong says what to do."""
        text = f"{found.sentence} {found.advice}"
        self.assertEqual(found.verdict, verdict, text)
        for each in words:
            self.assertIn(each, text)
        self.assertTrue(found.sentence.endswith("."), found.sentence)
        if verdict is WRONG:
            self.assertTrue(found.advice.endswith("."), found.advice)


class StateTests(DiagnosisCase):
    """The state folder."""

    def setUp(self) -> None:
        self.state = a_folder(self) / "state"

    def examine(self, **fakes: object) -> Finding:
        """The one finding."""
        [found] = examine_state(str(self.state), **fakes)  # type: ignore[arg-type]  # as it takes them
        return found

    def test_not_there(self) -> None:
        """A folder that is not there yet is fine, and is not made."""
        self.assert_found(self.examine(), FINE, "will be made")
        self.assertFalse(self.state.exists())

    def test_there(self) -> None:
        """One that is as it should be is fine, and nothing is made in it."""
        self.state.mkdir(mode=0o700)
        self.assert_found(self.examine(), FINE, "as it should be")
        self.assertEqual(os.listdir(self.state), [])
        read_identity(str(self.state))
        self.assertTrue(has_identity(str(self.state)))
        self.assert_found(self.examine(), FINE)

    def test_no_folder(self) -> None:
        """A file in its place, or above it, is in the way."""
        self.state.write_text("")
        self.assert_found(self.examine(), WRONG, "no folder", "--state")
        self.state = self.state / "below"
        self.assert_found(self.examine(), WRONG, "no folder")

    def test_no_access(self) -> None:
        """One that this user may not write, or make, is said."""
        denied = {"access": lambda path, mode: False}
        self.assert_found(self.examine(**denied), WRONG, "cannot be made", "--state")
        self.state.mkdir()
        self.assert_found(self.examine(**denied), WRONG, "may not be read and written")

    def test_full(self) -> None:
        """A disk that is almost full is said, beside all else."""
        found = examine_state(str(self.state), space=lambda path: 4096)
        self.assert_found(found[0], WRONG, "almost full", "Free some space")
        self.assertEqual(len(found), 2)

    def test_identity(self) -> None:
        """An identity that is none, or that others can read, is said in its own sentence."""
        read_identity(str(self.state))
        identity = self.state / "identity.pem"
        identity.chmod(0o644)
        self.assert_found(self.examine(), WRONG, "Others can read", "chmod 600")
        identity.chmod(0o600)
        identity.write_text("nothing")
        self.assert_found(self.examine(), WRONG, "holds no identity")

    def test_network_and_bans(self) -> None:
        """So are a network and bans that cannot be read."""
        self.state.mkdir(mode=0o700)
        for name in ("network.json", "bans.json"):
            path = self.state / name
            path.touch(0o600)
            path.write_text("{")
            self.assert_found(self.examine(), WRONG, name)
            path.unlink()

    def test_memory(self) -> None:
        """A damaged memory of peers keeps nobody from anything."""
        self.state.mkdir(mode=0o700)
        path = Path(self.state / MEMORY_FILE)
        path.touch(0o600)
        path.write_text("{")
        self.assert_found(self.examine(), NOTE, "no list of peers")


class PortTests(DiagnosisCase):
    """Who has the port."""

    def test_ours(self) -> None:
        """Nobody, or our own node, is fine; our own node that is silent is not."""
        self.assert_found(judge_port(5000, Owner.NOBODY, is_insisted=True), FINE, "5000 is free")
        self.assert_found(judge_port(5000, Owner.OURS, is_insisted=True), FINE, "answers")
        silent = judge_port(5000, Owner.OURS_SILENT, is_insisted=False)
        self.assert_found(silent, WRONG, "does not answer", "start it again")

    def test_others(self) -> None:
        """Somebody else's is a note, for another is taken; unless it has to be that one."""
        rows = {
            Owner.NODE: "another flow512 node",
            Owner.REGISTRY: "flow512 registry",
            Owner.STRANGER: "of another network",
            Owner.PROGRAM: "another program",
        }
        for owner, words in rows.items():
            found = judge_port(5000, owner, is_insisted=False)
            self.assert_found(found, NOTE, words, "free port", "--listen")
            found = judge_port(5000, owner, is_insisted=True)
            self.assert_found(found, WRONG, words, "another port")


class NetworkTests(DiagnosisCase):
    """Addresses, and what is sent to everybody."""

    def test_interfaces(self) -> None:
        """Addresses are named; none but the loopback is wrong, none but the link's a note."""
        self.assert_found(judge_interfaces([ETH4, ETH6]), FINE, "192.0.2.7 (eth0), 2001:db8::7")
        self.assert_found(judge_interfaces([LINK6]), NOTE, "fe80::7", "same link")
        for nothing in ([], [LO]):
            self.assert_found(judge_interfaces(nothing), WRONG, "no address", "cable")

    def judge(self, *trials: Trial) -> list[Finding]:
        """What is made of trials."""
        return judge_echo(5120, trials)

    def test_all_heard(self) -> None:
        """Each address has a line, with its ways."""
        four, six = self.judge(
            Trial(ETH4, Way.BROADCAST, heard=True),
            Trial(ETH4, Way.MULTICAST4, heard=True),
            Trial(ETH6, Way.MULTICAST6, heard=True),
        )
        self.assert_found(four, FINE, "Broadcast and IPv4 multicast on eth0 (192.0.2.7)")
        self.assert_found(six, FINE, "IPv6 multicast on eth0 (2001:db8::7)")

    def test_one_way(self) -> None:
        """One of two ways of IPv4 is enough, as is IPv4 alone."""
        [found] = self.judge(
            Trial(ETH4, Way.BROADCAST, error="Permission denied"),
            Trial(ETH4, Way.MULTICAST4, heard=True),
        )
        self.assert_found(found, NOTE, "Broadcast on eth0", "(Permission denied)", "is enough")
        [_, found] = self.judge(
            Trial(ETH4, Way.MULTICAST4, heard=True), Trial(ETH6, Way.MULTICAST6)
        )
        self.assert_found(found, NOTE, "IPv6 multicast", "Where there is IPv4")

    def test_nothing_heard(self) -> None:
        """Nothing heard at all is a firewall, or somebody who has the port."""
        [found] = self.judge(Trial(ETH4, Way.BROADCAST), Trial(ETH4, Way.MULTICAST4))
        self.assert_found(found, WRONG, "not heard", "Allow UDP port 5120", "firewall")
        [found] = self.judge(Trial(ETH6, Way.MULTICAST6, error="Address already in use"))
        self.assert_found(found, WRONG, "Address already in use", "--beacon-port")

    def test_sightings(self) -> None:
        """Who is seen is named, escaped, the first of many; nobody has its usual causes."""
        self.assert_found(judge_sightings(["anna", "b\x1b"]), FINE, "sees 2: anna, b\\x1b.")
        found = judge_sightings([f"n{number}" for number in range(20)])
        self.assert_found(found, FINE, "sees 20", "n7 and 12 more")
        self.assert_found(judge_sightings([]), NOTE, "sees nobody", "firewall", "--peer")

    def test_clock(self) -> None:
        """Clocks are compared where beacons are sealed, and whose is wrong is said if it shows."""
        self.assert_found(judge_clock([], is_closed=False, sees=True), FINE, "open network")
        self.assert_found(judge_clock([], is_closed=True, sees=True), FINE, "near enough")
        self.assert_found(judge_clock([], is_closed=True, sees=False), NOTE, "No member is heard")
        one = [("192.0.2.9", 3600.0)]
        self.assert_found(judge_clock(one, is_closed=True, sees=True), WRONG, "by 3600 seconds")
        two = [*one, ("192.0.2.8", 3601.0)]
        found = judge_clock(two, is_closed=True, sees=False)
        self.assert_found(found, WRONG, "This machine's clock", "time server")


class OthersTests(DiagnosisCase):
    """The registry and the peers."""

    def test_registry(self) -> None:
        """It lists us, refuses, is silent, or is not there."""
        found = judge_registry(Registered(at="192.0.2.1:5000", peers=3))
        self.assert_found(found, FINE, "192.0.2.1:5000 lists 3 peers")
        found = judge_registry(Registered("box", "192.0.2.1:5000", "", 3))
        self.assert_found(found, FINE, "192.0.2.1:5000 lists 3 peers")
        found = judge_registry(Registered("192.0.2.2:5000", "192.0.2.1:5000", "", 3, is_other=True))
        self.assert_found(found, NOTE, "192.0.2.2:5000 does not answer", "192.0.2.1:5000 takes")
        found = judge_registry(Registered("box", "", "Too many nodes."))
        self.assert_found(found, WRONG, "does not take this machine: Too many nodes.")
        found = judge_registry(Registered("box"))
        self.assert_found(found, WRONG, "at box does not answer", "firewall")
        self.assert_found(judge_registry(Registered()), NOTE, "No registry was found")

    def test_reachability(self) -> None:
        """It reached us, did not, or has not tried."""
        self.assert_found(judge_reachability(Reached.YES, 5000), FINE, "TCP port 5000")
        self.assert_found(judge_reachability(Reached.UNKNOWN, 0), NOTE, "is not known")
        found = judge_reachability(Reached.NO, 5001, "No connection could be made.")
        self.assert_found(found, WRONG, "port 5001: No connection could", "Allow TCP port 5001")
        self.assert_found(judge_reachability(Reached.NO, 5001), WRONG, "port 5001.")

    def test_peers(self) -> None:
        """All, some or none of them answer, or there are none."""
        [found] = judge_peers(3, [])
        self.assert_found(found, FINE, "3 of 3")
        failed = [("anna (192.0.2.3:5000)", "connection refused")]
        one, all_ = judge_peers(2, failed)
        self.assert_found(one, NOTE, "anna (192.0.2.3:5000) cannot be reached: connection refused")
        self.assert_found(all_, FINE, "2 of 3")
        _, none = judge_peers(0, failed)
        self.assert_found(none, WRONG, "The peer that was tried does not answer.", "firewall")
        [nobody] = judge_peers(0, [])
        self.assert_found(nobody, NOTE, "No peer is known", "--peer")
