"""
Fuzz L{flow512.discovery}: any datagrams at the beacon's L{Engine}, from anywhere.

An input is a byte that chooses where they come from, how fast, and whether the network is a closed
one, then up to four open datagrams one after the other, each of which begins with the header. For a
closed network they are sealed, as a hostile member would; and the whole input is delivered, too.

  - Only L{BadMessage} gets out of reading one, and nothing out of the engine.
  - What is read is written in at most 512 bytes, which are read as the same.
  - Nobody is sent more than he sent, in bytes or in number, and nobody who did not ask.
  - Whoever is seen, is seen at an address that something came from, with what was said there.
  - What is seen of somebody is what he said with a greater number than what was seen before.
  - What comes a second time from the same source changes nothing; what was sealed for another
    source, or not at all where it has to be, neither.
"""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Final

import atheris
from messagepack import Mutator
from running import run, samples

with atheris.instrument_imports(include=["flow512"]):
    from flow512.discovery import datagram, engine, sealing
    from flow512.errors import BadMessage

HEADER: Final = b"f512\x01"
HOSTS: Final = ("192.0.2.1", "192.0.2.2", "198.51.100.9", "2001:db8::1", "fe80::1%eth0")
OWN: Final = bytes(15) + b"\x07"
KEY: Final = bytes(range(32))


SEAL: Final = sealing.Seal(KEY, Random(2))


def read(data: bytes) -> datagram.Datagram | None:
    """Read a datagram, and doubt what was read."""
    try:
        found = datagram.decode(data)
    except BadMessage as error:
        str(error).encode()
        return None
    spelled = datagram.encode(found)
    assert len(spelled) <= 512
    assert datagram.decode(spelled) == found, "written otherwise than read"
    assert len(found.instance) == 16
    assert len(found.network) <= 64
    if isinstance(found, datagram.Announce):
        assert len(found.node_id) in (0, 32)
        assert len(found.offers) <= 4
        assert all(1 <= offer.port <= 65535 for offer in found.offers)
        assert 1000 <= found.interval <= 300_000
        assert 0 <= found.sequence < 2**63
    return found


class Witness:
    """Sees what an engine takes in and gives out, and does the sums."""

    def __init__(self, key: bytes | None) -> None:
        """
        @param key: of a closed network.
        """
        self.now = 1000.0
        self.engine = engine.Engine(
            instance=OWN,
            network="",
            name="fuzzed",
            node_id=bytes(32),
            offers=(datagram.Offer("node", 5000),),
            random=Random(1),
            now=self.now,
            seal_key=key,
        )
        self.asked: Counter[tuple[str, int]] = Counter()
        self.room: Counter[tuple[str, int]] = Counter()
        self.newest: dict[tuple[str, bytes], int] = {}
        self.said: dict[tuple[str, bytes], list[datagram.Announce]] = {}
        self.watch(self.engine.started(self.now))

    def deliver(self, data: bytes, found: datagram.Datagram, host: str, port: int) -> None:
        """Let a datagram arrive that is to be believed, twice."""
        source = (host, port)
        if isinstance(found, datagram.Query):
            self.asked[source] += 1
            self.room[source] += len(data)
        elif isinstance(found, datagram.Announce):
            self.said.setdefault((host, found.instance), []).append(found)
        self.watch(self.engine.received(data, host, port, self.now))
        self.deliver_in_vain(data, host, port)

    def deliver_in_vain(self, data: bytes, host: str, port: int) -> None:
        """Let something arrive that must not change what is seen."""
        before = self.engine.sightings
        self.watch(self.engine.received(data, host, port, self.now))
        assert self.engine.sightings == before

    def pass_time(self, seconds: float) -> None:
        """Let time pass, with the engine awake whenever it wants to be."""
        end = self.now + seconds
        for _ in range(200):
            wake_at = self.engine.wake_at
            assert wake_at is not None, "a running engine that never wakes"
            if wake_at > end:
                break
            self.now = max(self.now, wake_at)
            self.watch(self.engine.tick(self.now))
        else:
            raise AssertionError("it wakes without end")
        self.now = end

    def watch(self, actions: list[engine.Action]) -> None:
        """Doubt what the engine does."""
        for action in actions:
            match action:
                case engine.SendTo(body, host, port):
                    data = self.engine.envelop(body, "192.0.2.77", 5124, self.now)
                    self.asked[host, port] -= 1
                    self.room[host, port] -= len(data)
                    assert self.asked[host, port] >= 0, "answered one who did not ask"
                    assert self.room[host, port] >= 0, "an answer longer than the question"
                case engine.SendToAll(body):
                    data = self.engine.envelop(body, "192.0.2.77", 5124, self.now)
                    assert len(data) <= 512
                case engine.Found(sighting):
                    key = (sighting.host, sighting.instance)
                    said = [
                        told.sequence
                        for told in self.said.get(key, ())
                        if (told.name, told.node_id, told.offers)
                        == (sighting.name, sighting.node_id, sighting.offers)
                    ]
                    assert said, "seen, and never said"
                    assert max(said) > self.newest.get(key, -1), "seen as it was before"
                    self.newest[key] = max(said)


def one_input(data: bytes) -> None:
    """See the module."""
    if len(data) < 2:
        return
    bodies = data[1:].split(HEADER)[1:5]
    told = [read(HEADER + body) for body in bodies]
    read(data)
    # An engine costs more than all else: of what nobody can read it sees an eighth.
    if any(found is not None for found in told) or data[0] & 128:
        let_arrive(data, bodies, told)


def let_arrive(data: bytes, bodies: list[bytes], told: list[datagram.Datagram | None]) -> None:
    """Let datagrams arrive at an engine, as the first byte says."""
    how = data[0]
    closed = bool(how & 32)
    witness = Witness(KEY if closed else None)
    for turn, (body, found) in enumerate(zip(bodies, told, strict=True)):
        host = HOSTS[(how + turn * (how >> 6)) % len(HOSTS)]
        other = HOSTS[(how + turn + 1) % len(HOSTS)]
        port = 40000 + turn % 2
        whole = HEADER + body
        if closed:
            witness.deliver_in_vain(whole, host, port)
            if len(body) > sealing.SEALED_ROOM:
                continue
            whole = SEAL.close(body, host, port, witness.now)
            witness.deliver_in_vain(whole, host, port + 1)
            if other != host:
                witness.deliver_in_vain(whole, other, port)
        if found is None:
            witness.deliver_in_vain(whole, host, port)
        else:
            witness.deliver(whole, found, host, port)
            if not closed:
                witness.deliver(whole, found, other, how & 1)
        if how & 2:
            witness.pass_time((how & 28) / 8)
    if closed:
        witness.deliver_in_vain(data, HOSTS[0], 1)
    if witness.asked:
        witness.pass_time(2.0)
    assert all(sighting.instance != OWN for sighting in witness.engine.sightings), "it sees itself"
    assert not witness.engine.ignored[engine.Ignored.FLOOD]
    witness.watch(witness.engine.stopping(witness.now))


if __name__ == "__main__":
    mutator = Mutator(lambda data: data.rfind(HEADER) + len(HEADER), samples("datagrams"))
    run("datagrams", one_input, 600, mutator)
