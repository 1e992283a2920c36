"""
C{flow512 serve}: a node in the foreground.
"""

from __future__ import annotations

from collections.abc import Sequence

from zope.interface import implementer

from flow512.cli.running import Machine, never
from flow512.cli.voice import Voice
from flow512.settings import INodeListener, NodeListener, NodeSettings
from flow512.transfer.indexing import Indexed
from flow512.wire.fields import Peer


@implementer(INodeListener)
class Announcer(NodeListener):
    """
    Tells what happens to a node. People read it in the node's own words, which are its log.
    """

    def __init__(self, voice: Voice) -> None:
        self._voice = voice
        self._said = ""

    def node_listening(self, host: str, port: int) -> None:
        self._voice.tell("ready", port=port, host=host)

    def node_indexed(self, indexed: Indexed) -> None:
        files = indexed.scan.found
        self._voice.tell("indexed", files=files, hashed=indexed.hashed, failed=indexed.failed)
        failed = f", {indexed.failed} could not be read" if indexed.failed else ""
        said = f"Sharing {files} {'file' if files == 1 else 'files'}{failed}."
        if said != self._said:
            self._said = said
            self._voice.say(said)

    def peers_changed(
        self, joined: Sequence[Peer], left: Sequence[Peer], changed: Sequence[Peer]
    ) -> None:
        self._voice.tell("peers", joined=len(joined), left=len(left), changed=len(changed))

    def bootstrap_started(self, port: int) -> None:
        self._voice.tell("bootstrap", port=port)


async def serve(machine: Machine, settings: NodeSettings, voice: Voice) -> None:
    """
    Run a node until the user ends it.

    @raise Flow512Error: it cannot run.
    """
    async with machine.node(settings, Announcer(voice)):
        await never()
