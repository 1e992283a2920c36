"""
Whole hosts on a network of Linux's own (L{tests.system.namespaces}): real broadcasts and
multicasts, real link-local addresses, real cuts.
"""

from __future__ import annotations

import time
from pathlib import Path
from random import Random

import pytest

from tests.system import namespaces
from tests.system.namespaces import Host, Process, lan

_WHY_NOT = namespaces.why_not()
pytestmark = pytest.mark.skipif(bool(_WHY_NOT), reason=_WHY_NOT or "it can")

FIRST_PEER = 0.3
"""Seconds from the start of a node to its first peer by beacon, at most."""


def known(host: Host, *options: str) -> dict[str, tuple[str, str]]:
    """Whom a command on a host finds: by name, the address, and how it is known."""
    status, told = host.type("peers", "--state", "asks", *options)
    assert status == 0, told
    return {
        each["name"]: (each["address"], each["known_by"])
        for each in told
        if each["event"] == "peer"
    }


def fetch(host: Host, path: str, *options: str) -> bytes:
    """Fetch a file on a host."""
    status, told = host.type("get", path, "-o", "fetched", "--replace", *options)
    assert status == 0, told
    return (host.folder / "fetched").read_bytes()


def share(host: Host, name: str, content: bytes) -> None:
    """Put a file into a host's share."""
    (host.folder / "share").mkdir(parents=True, exist_ok=True)
    (host.folder / "share" / name).write_bytes(content)


def settle(nodes: list[Process]) -> None:
    """Wait until each node's list has all others."""
    namespaces.wait_until(lambda: all(node.peers == len(nodes) - 1 for node in nodes))


def serve_all(hosts: list[Host]) -> None:
    """A node on each, with a file that is named after it; all have found each other."""
    for host in hosts:
        share(host, f"{host.name}.txt", host.name.encode())
    settle([host.serve() for host in hosts])


def test_broadcast(tmp_path: Path) -> None:
    """Three hosts of IPv4 find each other by broadcast, without anybody's doing, and fetch."""
    with lan(3, tmp_path) as net:
        first, second, third = net.hosts
        serve_all([first, second])
        assert known(third) == {
            "a": ("192.0.2.1:5000", "both"),
            "b": ("192.0.2.2:5000", "both"),
        }
        assert fetch(third, "b.txt") == b"b"


def test_multicast6(tmp_path: Path) -> None:
    """Three hosts of IPv6 find each other by multicast, and fetch."""
    with lan(3, tmp_path, ipv4=False, ipv6=True) as net:
        first, second, third = net.hosts
        serve_all([first, second])
        assert known(third) == {
            "a": ("[fd00::1]:5000", "both"),
            "b": ("[fd00::2]:5000", "both"),
        }
        assert fetch(third, "b.txt") == b"b"


def test_link_local(tmp_path: Path) -> None:
    """Three hosts that have nothing but addresses of their link find each other all the same."""
    with lan(3, tmp_path, ipv4=False) as net:
        first, second, third = net.hosts
        serve_all([first, second])
        found = known(third)
        assert set(found) == {"a", "b"}
        for address, _ in found.values():
            assert address.startswith("[fe80::")
            assert address.endswith("%eth0]:5000")
        assert fetch(third, "b.txt") == b"b"


def test_first_peer(tmp_path: Path) -> None:
    """A node has its first peer by beacon within 300 ms of its start, by its own clock."""
    with lan(2, tmp_path) as net:
        first, second = net.hosts
        first.serve()
        seconds = []
        for _ in range(5):
            process = second.start(python="tests.system.first_sighting")
            seconds.append(process.wait_for("seen").event["seconds"])
            assert process.finish() == 0
        print("first peer after", [round(each, 3) for each in seconds])
        assert min(seconds) < FIRST_PEER
        assert sorted(seconds)[2] < FIRST_PEER


def test_named_by_hand(tmp_path: Path) -> None:
    """
    Without beacon and registry, a host that is told one address finds all and fetches from them;
    so does one that was told of none, and remembers.
    """
    alone = ("--no-beacon", "--bootstrap", "never")
    with lan(3, tmp_path) as net:
        first, second, third = net.hosts
        share(second, "b.txt", b"b")
        first.serve(*alone)
        second.serve(*alone, "--peer", "192.0.2.1")
        assert known(third, "--no-beacon", "--peer", "192.0.2.1") == {
            "a": ("192.0.2.1:5000", "peers"),
            "b": ("192.0.2.2:5000", "peers"),
        }
        assert fetch(third, "b.txt", "--no-beacon", "--peer", "192.0.2.1") == b"b"
        node = third.serve(*alone, "--peer", "192.0.2.1")
        namespaces.wait_until(
            lambda: set(known(first, "--no-beacon", "--peer", "192.0.2.3")) == {"b", "c", "a"}
        )
        node.stop()
        third.serve(*alone)
        assert set(known(second, "--no-beacon", "--peer", "192.0.2.3")) >= {"a", "c"}


def test_doctor(tmp_path: Path) -> None:
    """C{flow512 doctor} finds nothing wrong on a host where nothing is."""
    with lan(2, tmp_path, ipv6=True) as net:
        first, second = net.hosts
        first.serve("--bootstrap", "always")
        status, told = second.type("doctor", "--state", "asks")
        assert status == 0, told
        verdicts = {(each["check"], each["verdict"]) for each in told[:-1]}
        assert {each for each, verdict in verdicts if verdict == "fine"} == {
            *("state", "port", "interfaces", "beacon", "clock"),
            *("registry", "reachability", "peers"),
        }, told
        net.cut("b")
        status, told = second.type("doctor", "--state", "asks", "--registry", "192.0.2.1")
        assert status == 1
        assert told[-1] == {"event": "diagnosis", "wrong": 1}, told


BIG = 24 * 1024 * 1024 + 77
"""Bytes of a download during which something happens; it takes a quarter of a minute."""

SLOWLY = "1500K"
AFTER_KILL = 10.0
AFTER_STOP = 2.0
"""Seconds from the end of the leader to a complete list at every survivor, at most."""


def leader_by(host: Host) -> str:
    """Who leads, as a command on a host is told. Before that is agreed, two may have begun to."""
    status, told = host.type("peers", "--state", "asks")
    assert status == 0, told
    [name] = [each["name"] for each in told if each["event"] == "leader"]
    assert isinstance(name, str)
    return name


def begin_download(source: Host, target: Host) -> tuple[Process, bytes]:
    """Begin to fetch something large, slowly; the content that it is to be."""
    content = Random(7).randbytes(BIG)
    share(source, "big.bin", content)
    download = target.start(
        *("get", "big.bin", "--from", source.name, "--down", SLOWLY, "-o", "fetched"),
        *("--state", "state", "--no-offer"),
    )
    download.wait_for("progress")
    return download, content


def finish_download(download: Process, target: Host, content: bytes) -> None:
    """A download comes to its end, in one go, and nobody was dropped."""
    assert download.finish() == 0, download.said
    [done] = [line.event for line in download.lines if line.event["event"] == "done"]
    assert (done["fetched"], done["resumed"]) == (len(content), 0)
    assert {line.event["event"] for line in download.lines} == {"found", "progress", "done"}
    assert (target.folder / "fetched").read_bytes() == content


@pytest.mark.parametrize("ipv4", [True, False], ids=["IPv4", "link-local"])
def test_leader_is_killed(tmp_path: Path, ipv4: bool) -> None:
    """
    The leader is killed: another one leads, the lists of the survivors are complete within 10
    seconds, and a download between them goes on as if nothing had happened.
    """
    with lan(3, tmp_path, ipv4=ipv4) as net:
        first, second, third = net.hosts
        leader = first.serve()
        leader.wait_for("bootstrap")
        others = [second.serve(), third.serve()]
        settle([leader, *others])
        download, content = begin_download(second, third)
        killed = time.monotonic()
        leader.kill()
        namespaces.wait_until(lambda: all(node.peers == 1 for node in others))
        complete = max(node.lines[-1].at for node in others) - killed
        print(f"lists complete {complete:.2f} s after SIGKILL")
        assert complete < AFTER_KILL
        assert download.is_running
        finish_download(download, third, content)
        assert leader_by(second) == leader_by(third) != "a"


def test_leader_stops(tmp_path: Path) -> None:
    """The leader is stopped: the lists are complete within 2 seconds of its end."""
    with lan(3, tmp_path) as net:
        first, second, third = net.hosts
        leader = first.serve()
        leader.wait_for("bootstrap")
        others = [second.serve(), third.serve()]
        settle([leader, *others])
        stopping = time.monotonic()
        leader.stop()
        namespaces.wait_until(lambda: all(node.peers == 1 for node in others))
        complete = max(node.lines[-1].at for node in others) - stopping
        print(f"lists complete {complete:.2f} s after the signal to stop")
        assert complete < AFTER_STOP
        assert leader_by(second) == leader_by(third) != "a"


def test_cut_and_healed(tmp_path: Path) -> None:
    """
    A network is cut in two: each part has its own leader, and lists who is there. It is healed: all
    are on one list again, and none is lost or twice on it.
    """
    with lan(4, tmp_path) as net:
        first = net.hosts[0].serve()
        first.wait_for("bootstrap")
        nodes = [first, *(host.serve() for host in net.hosts[1:])]
        settle(nodes)
        net.cut("c", "d")
        namespaces.wait_until(lambda: all(node.peers == 1 for node in nodes))
        assert [leader_by(host) for host in net.hosts[:2]] == ["a", "a"]
        assert leader_by(net.hosts[2]) == leader_by(net.hosts[3]) not in ("a", "b")
        net.heal()
        settle(nodes)
        assert {leader_by(host) for host in net.hosts} == {"a"}
        found = known(net.hosts[0])
        assert set(found) == {"a", "b", "c", "d"}
