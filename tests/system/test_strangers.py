"""
Strangers at the door of a closed network: real nodes, real sockets, on 127.0.0.1 only.

Whoever is no member gets nothing, whatever he tries: no list of peers, no entry, no name. At most
he hears TLS's own alerts, or the one refusal that is the same for everybody.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from random import Random
from typing import Any

import pytest

from flow512.errors import WIRE_CODES, NotAllowed
from flow512.link.identity import Identity, read_identity
from flow512.link.node_id import format_node_id
from flow512.wire.fields import Peer
from flow512.wire.frame import Frame
from flow512.wire.handshake import STRANGER
from flow512.wire.membership import NetworkKey
from flow512.wire.messages import (
    Delta,
    Error,
    Hello,
    Kind,
    List,
    Listing,
    Register,
    Registered,
    Resync,
    Snapshot,
    decode,
    encode,
)
from tests.system.ends import (
    LIMIT,
    End,
    TlsEnd,
    carry,
    frames_in,
    greet,
    nobodys_tls,
    own_tls,
)
from tests.system.town import CLI, FILE, NAME, Town, found

MALLORY = Identity.from_seed(b"mallory ".ljust(32))
WRONG_KEY = NetworkKey(b"not the key".ljust(32))


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    """One with TLS."""
    yield from found(tmp_path_factory.mktemp("town"), plain=False)


@pytest.fixture(scope="module")
def plain_town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    """One without."""
    yield from found(tmp_path_factory.mktemp("plain"), plain=True)


@pytest.fixture(params=["node", "registry", "nothing"])
def door(request: pytest.FixtureRequest) -> str:
    """Each place where a stranger may try."""
    place: str = request.param
    return place


# What members get, so that it is known what strangers do not


def peers_of(end: End) -> list[Peer]:
    """Who is listed, once anybody is: the registry has to dial the node back first."""
    end.say(Register(bytes(16), 0), 1)
    decode(end.until(Kind.REGISTERED), Registered)
    peers = list(decode(end.until(Kind.SNAPSHOT), Snapshot).peers)
    while not peers:
        peers += decode(end.until(Kind.DELTA), Delta).joined
    return peers


@pytest.mark.parametrize("kind", ["town", "plain_town"])
def test_member(kind: str, request: pytest.FixtureRequest) -> None:
    """A member who does just as the strangers below gets the entries and the list of peers."""
    town: Town = request.getfixturevalue(kind)
    place = town.doors["node"]
    with town.connect(place.port, town.member) as end:
        assert greet(end, town.member, "transfer", town.key)[-1].kind == Kind.HELLO
        end.say(List(), 1)
        listing = decode(end.until(Kind.LISTING), Listing)
        assert [entry.path for entry in listing.entries] == [FILE]
        with pytest.raises(AssertionError):
            town.assert_nothing(end)
    with town.connect(town.doors["registry"].port, town.member) as end:
        assert greet(end, town.member, "registry", town.key)[-1].kind == Kind.HELLO
        [peer] = peers_of(end)
        assert (peer.name, peer.port) == (NAME, place.port)
        with pytest.raises(AssertionError):
            town.assert_nothing(end)


# With a bare socket


def hello(conversation: str, **fields: Any) -> bytes:
    """A hello that somebody made up."""
    return encode(Hello(1, 1, conversation, MALLORY.node, **fields))


RAW: dict[str, Callable[[str], bytes]] = {
    "silence": lambda about: b"",
    "a hello": lambda about: hello(about),
    "a hello with a nonce": lambda about: hello(about, nonce=bytes(32)),
    "a hello with a nonce and a proof": lambda about: hello(
        about, nonce=bytes(32), proof=bytes(32)
    ),
    "a request": lambda about: encode(List(), 1),
    "HTTP": lambda about: b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "zeros": lambda about: bytes(100_000),
    "noise": lambda about: Random(1).randbytes(100_000),
    "a TLS record of noise": lambda about: b"\x16\x03\x01\x40\x00" + Random(2).randbytes(16384),
    "half a TLS record": lambda about: b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
}

TOO_SHORT = ("silence", "half a TLS record")
"""What is not even the head of a frame."""


@contextmanager
def all_said(ends: Callable[[], End], conversation: str) -> Iterator[dict[str, End]]:
    """Say each of L{RAW} on a connection of its own, all at once: who is silent is waited for."""
    with ExitStack() as stack:
        said = {each: stack.enter_context(ends()) for each in RAW}
        for each, end in said.items():
            end.send(RAW[each](conversation))
        yield said


def test_raw_socket(town: Town, door: str) -> None:
    """Who does not speak TLS hears at most TLS's alerts, and loses the connection."""
    place = town.doors[door]
    with all_said(lambda: End.to(place.port), place.conversation) as ends:
        for said, end in ends.items():
            while end.receive():
                pass
            alerts = rb"(\x15\x03[\x01\x03]\x00\x02[\x01\x02].)*"
            assert re.fullmatch(alerts, end.wire, re.DOTALL), (said, end.wire)


def test_raw_socket_without_tls(plain_town: Town, door: str) -> None:
    """Without TLS it is the one refusal, after a challenge for who asks for one; or nothing."""
    place = plain_town.doors[door]
    with all_said(lambda: End.to(place.port), place.conversation) as ends:
        for said, end in ends.items():
            heard = end.frames()
            if "nonce" in said and door != "nothing":
                # Whoever goes on in silence hears nothing more.
                assert [frame.kind for frame in heard] == [Kind.CHALLENGE], said
            elif said in TOO_SHORT:
                assert heard == [], said
            else:
                assert_refused(heard)
            plain_town.assert_nothing(end)


# With TLS


def assert_refused(heard: list[Frame]) -> None:
    """It was the one refusal, and nothing besides."""
    [frame] = heard
    assert frame.request == 0
    assert decode(frame, Error) == Error(WIRE_CODES[NotAllowed], STRANGER)


def test_no_certificate(town: Town, door: str) -> None:
    """Who has no certificate is told so by TLS; of what he says nothing is answered."""
    place = town.doors[door]
    with TlsEnd.connect(place.port, nobodys_tls()) as end:
        end.send(hello(place.conversation) + encode(List(), 1))
        assert end.frames() == []
        assert "certificate required" in end.alert
        town.assert_nothing(end)


def test_certificate_only(town: Town, door: str) -> None:
    """A valid certificate does not help who is no member, whatever he says inside."""
    place = town.doors[door]
    with all_said(lambda: TlsEnd.connect(place.port, own_tls(MALLORY)), place.conversation) as ends:
        for said, end in ends.items():
            heard = end.frames()
            if said in TOO_SHORT:
                assert heard == [], said
            else:
                assert_refused(heard)
            town.assert_nothing(end)


@pytest.mark.parametrize("kind", ["town", "plain_town"])
def test_all_hear_the_same(kind: str, door: str, request: pytest.FixtureRequest) -> None:
    """Without a key, with a wrong one, and banned: what one hears is the same to the byte."""
    town: Town = request.getfixturevalue(kind)
    place = town.doors[door]
    refusals = {}
    for who, identity, key in [
        ("has no key", MALLORY, None),
        ("has a wrong key", MALLORY, WRONG_KEY),
        ("is banned", town.banned, town.key),
        ("is banned, and has a wrong key", town.banned, WRONG_KEY),
    ]:
        with town.connect(place.port, identity) as end:
            answers = greet(end, identity, place.conversation, key)
            if key is not None and town.is_plain and door != "nothing":
                # Its bytes are random; whether it comes hangs on what was said, not on who it is.
                assert answers.pop(0).kind == Kind.CHALLENGE
            assert_refused(answers)
            town.assert_nothing(end)
            refusals[who] = (answers, 0 if town.is_plain else len(end.wire))
    assert len(set(map(str, refusals.values()))) == 1, refusals


@pytest.mark.parametrize("kind", ["town", "plain_town"])
def test_asking_without_waiting(kind: str, request: pytest.FixtureRequest) -> None:
    """Requests that follow a hello at once are not answered because nobody has refused yet."""
    town: Town = request.getfixturevalue(kind)
    for place, requests in [
        ("node", encode(List(), 1)),
        ("registry", encode(Register(bytes(16), 0), 1) + encode(Resync(), 2)),
    ]:
        with town.connect(town.doors[place].port, MALLORY) as end:
            end.send(hello(town.doors[place].conversation) + requests)
            assert_refused(end.frames())
            town.assert_nothing(end)


# In the middle


class Middle:
    """A port of Mallory's, which a member takes for another's."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(LIMIT)
        self.place = f"127.0.0.1:{self._listener.getsockname()[1]}"

    def accept(self, identity: Identity | None) -> End:
        """Wait for the member; once he is there, nobody else can come."""
        connected, _ = self._listener.accept()
        self._listener.close()
        return End(connected) if identity is None else TlsEnd.accept(connected, identity)


class Typed:
    """A command of the member's that runs while somebody is in the middle."""

    def __init__(self, town: Town, *arguments: str) -> None:
        command = [*CLI, *arguments, "--state", "member", *town.options]
        self._process = subprocess.Popen(
            command,
            cwd=town.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "COLUMNS": "1000"},
        )

    def shows(self) -> str:
        """What it shows, once it has come to a good end."""
        out, err = self._process.communicate(timeout=LIMIT)
        assert (self._process.returncode, err) == (0, "")
        return out

    def fails(self) -> str:
        """It ends without having shown anything; why, by its own words."""
        out, err = self._process.communicate(timeout=LIMIT)
        assert out == ""
        assert self._process.returncode not in (0, None)
        assert "Traceback" not in err
        return err


COMMANDS = {
    "node": ("ls", "{place}"),
    "registry": ("peers", "--registry", "{place}", "--no-beacon", "--wait", "3"),
}
"""How a member dials each door."""


def dial(town: Town, door: str, place: str) -> Typed:
    """Let the member dial somebody whom he takes for what is behind that door."""
    return Typed(town, *(word.format(place=place) for word in COMMANDS[door]))


BEHIND = pytest.mark.parametrize("door", list(COMMANDS))


def recorded_hello(town: Town, door: str) -> bytes:
    """What a member says to Mallory, who has TLS and a key of his own, before he has to answer."""
    middle = Middle()
    typed = dial(town, door, middle.place)
    with middle.accept(MALLORY) as lured:
        frame = lured.frame()
        assert frame is not None
        assert decode(frame, Hello).proof is not None
    typed.fails()
    return lured.heard


@BEHIND
def test_replayed_hello(town: Town, door: str) -> None:
    """A member's hello, with a proof that was valid for somebody else's session, opens nothing."""
    place = town.doors[door]
    recorded = recorded_hello(town, door)
    with TlsEnd.connect(place.port, own_tls(MALLORY)) as end:
        end.send(recorded)
        assert_refused(end.frames())
    [proof] = [decode(frame, Hello).proof for frame in frames_in(recorded)]
    with TlsEnd.connect(place.port, own_tls(MALLORY)) as end:
        end.send(hello(place.conversation, proof=proof))
        assert_refused(end.frames())
        town.assert_nothing(end)


@BEHIND
def test_relayed_hello(town: Town, door: str) -> None:
    """
    Who ends TLS on both sides and passes on what they say gets nowhere: each side's proof is
    worth nothing to the other.
    """
    middle = Middle()
    typed = dial(town, door, middle.place)
    with (
        middle.accept(MALLORY) as lured,
        TlsEnd.connect(town.doors[door].port, own_tls(MALLORY)) as behind,
    ):
        assert lured.frame() is not None
        behind.send(lured.heard)
        assert_refused(behind.frames())
        lured.send(behind.heard)
        assert lured.frame() is None
        town.assert_nothing(behind)
        town.assert_nothing(lured)
    assert STRANGER in typed.fails()


@BEHIND
def test_pretended_member(town: Town, door: str) -> None:
    """
    A member believes nobody who says hello without the key, be it with the proof that he has just
    given himself; he is told so in a sentence, and asks nothing.
    """
    middle = Middle()
    typed = dial(town, door, middle.place)
    with middle.accept(MALLORY) as lured:
        frame = lured.frame()
        assert frame is not None
        theirs = decode(frame, Hello)
        lured.send(hello(theirs.conversation, proof=theirs.proof))
        assert [frame.kind for frame in lured.frames()] in ([], [Kind.ERROR])
        town.assert_nothing(lured)
    assert "did not prove that it belongs to this network" in typed.fails()


@BEHIND
def test_dialled_by_id(town: Town, door: str) -> None:
    """Who dials a node by its id says not even hello to another."""
    node = format_node_id(read_identity(str(town.folder / door)).node)
    middle = Middle()
    typed = dial(town, door, f"{node}@{middle.place}")
    with middle.accept(MALLORY) as lured:
        assert [frame.kind for frame in lured.frames()] in ([], [Kind.ERROR])
        assert town.member.node not in lured.heard
        town.assert_nothing(lured)
    assert "Another node answers" in typed.fails()


@BEHIND
def test_replayed_without_tls(plain_town: Town, door: str) -> None:
    """
    Without TLS, all that a member says can be recorded on the way. Said again, it opens nothing:
    the challenge is another each time.
    """
    town = plain_town
    place = town.doors[door]
    middle = Middle()
    typed = dial(town, door, middle.place)
    with middle.accept(None) as lured, End.to(place.port) as behind:
        carry(lured, behind)
    assert (FILE if door == "node" else NAME) in typed.shows()
    assert len(frames_in(lured.heard)) > 2
    with End.to(place.port) as end:
        end.send(lured.heard)
        challenge, *rest = end.frames()
        assert challenge.kind == Kind.CHALLENGE
        assert_refused(rest)
        town.assert_nothing(end)
