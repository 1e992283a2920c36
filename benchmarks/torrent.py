"""
Seed one file by libtorrent, or fetch it: one process of a swarm on 127.0.0.1.

The seed carries the tracker, by which the others find it and each other. Whatever else libtorrent
would ask of a network is off. What it prints are objects like those of C{flow512 --json}.
See benchmarks/README.rst.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

# Any: it may be missing where types are checked, and not every release has them.
lt: Any = importlib.import_module("libtorrent")

PIECE: Final = 2**18
"""Bytes; a peer passes on a piece when all of it is there."""

ALERT_MILLISECONDS: Final = 1000
INTERVAL_SECONDS: Final = 3600

PREFER_TCP: Final = 0  # settings_pack::bandwidth_mixed_algo_t
NO_ENCRYPTION: Final = 2  # settings_pack::enc_policy, pe_disabled
NO_SUGGESTIONS: Final = 0  # settings_pack::suggest_mode_t

SETTINGS: Final = {
    # Nothing but the peers and the tracker of this machine.
    "listen_interfaces": "127.0.0.1:0",
    "enable_dht": False,
    "enable_lsd": False,
    "enable_upnp": False,
    "enable_natpmp": False,
    "allow_multiple_connections_per_ip": True,
    # TCP, in plaintext.
    "enable_incoming_utp": False,
    "enable_outgoing_utp": False,
    "mixed_mode_algorithm": PREFER_TCP,
    "in_enc_policy": NO_ENCRYPTION,
    "out_enc_policy": NO_ENCRYPTION,
    # The preset is of a seed. This is libtorrent's own default, which is better for who fetches.
    "max_queued_disk_bytes": 100 * 2**20,
    "request_timeout": 60,
    "max_failcount": 3,
    "suggest_mode": NO_SUGGESTIONS,
    # One after the other would be as many waits.
    "smooth_connects": False,
    "low_prio_disk": False,
    "hashing_threads": 2,
    "send_buffer_low_watermark": 4 * 2**20,
    "send_buffer_watermark": 16 * 2**20,
    # So that a leecher can still say at its end what each has sent.
    "close_redundant_connections": False,
    # Nobody has to be told that one leaves, so nobody waits for that.
    "stop_tracker_timeout": 0,
}
"""What differs from libtorrent's preset C{high_performance_seed}."""


class Tracker(ThreadingHTTPServer):
    """
    Tells everybody who asks of everybody else (BEP 3, and BEP 23 for the compact form).

    @ivar ports: where the peers listen, by the ids that they give themselves.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Announcement)
        self.ports: dict[str, int] = {}

    @property
    def url(self) -> str:
        """What a torrent has to name."""
        return f"http://127.0.0.1:{self.server_port}/announce"


class Announcement(BaseHTTPRequestHandler):
    """What one peer says of itself, and the answer."""

    server: Tracker

    def do_GET(self) -> None:
        # Ids are any bytes, and Latin-1 keeps them apart.
        asked = parse_qs(urlsplit(self.path).query, encoding="latin-1")
        ports, peer = self.server.ports, asked["peer_id"][0]
        if asked.get("event") in (["completed"], ["stopped"]):
            ports.pop(peer, None)  # whoever has all of it leaves
        else:
            ports[peer] = int(asked["port"][0])
        others = [port for other, port in list(ports.items()) if other != peer]
        places = b"".join(b"\x7f\0\0\1" + port.to_bytes(2, "big") for port in others)
        body = lt.bencode({b"interval": INTERVAL_SECONDS, b"peers": places})
        with contextlib.suppress(ConnectionError):
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


def tell(event: str, **fields: object) -> None:
    """Say something to the program that started this one."""
    print(json.dumps({"event": event, **fields}), flush=True)


def session() -> Any:
    """Make a session with the best settings."""
    settings = lt.high_performance_seed()
    settings.update(SETTINGS)
    kinds = lt.alert_category
    settings["alert_mask"] = (
        kinds.error | kinds.status | kinds.tracker | kinds.connect | kinds.storage
    )
    return lt.session(settings)


def alerts(of: Any) -> Iterator[Any]:
    """Give what a session has to tell, as it comes."""
    while True:
        of.wait_for_alert(ALERT_MILLISECONDS)
        yield from of.pop_alerts()


def describe(file: Path, tracker: str) -> bytes:
    """
    Make the torrent of a file, of version 1 (BEP 3): its hashes are less work than version 2's.
    """
    content = file.read_bytes()
    pieces = (content[at : at + PIECE] for at in range(0, len(content), PIECE))
    info = {
        b"name": file.name.encode(),
        b"length": len(content),
        b"piece length": PIECE,
        b"pieces": b"".join(hashlib.sha1(piece).digest() for piece in pieces),
    }
    encoded: bytes = lt.bencode({b"announce": tracker.encode(), b"info": info})
    return encoded


def add(to: Any, torrent: bytes, folder: Path, flags: int) -> Any:
    """Begin with a torrent."""
    parameters = lt.add_torrent_params()
    parameters.ti = lt.torrent_info(lt.bdecode(torrent))
    parameters.save_path = str(folder)
    # Neither is it another's decision when it begins, nor is a queue wanted.
    parameters.flags = flags
    return to.add_torrent(parameters)


def seed(file: Path, torrent: Path) -> None:
    """
    Write the torrent of a file, and seed it until this process is ended.
    """
    tracker = Tracker()
    threading.Thread(target=tracker.serve_forever, daemon=True).start()
    torrent.write_bytes(describe(file, tracker.url))
    seeding = session()
    add(seeding, torrent.read_bytes(), file.parent, lt.torrent_flags.seed_mode)
    for alert in alerts(seeding):
        if isinstance(alert, lt.tracker_reply_alert):
            tell("ready", port=seeding.listen_port())
        elif isinstance(alert, lt.tracker_error_alert | lt.listen_failed_alert):
            sys.exit(alert.message())


def fetch(torrent: Path, folder: Path) -> None:
    """
    Fetch what a torrent describes, and end.

    The time that it tells of is that from the first peer, when the metadata is known already.
    """
    fetching = session()
    handle = add(fetching, torrent.read_bytes(), folder, 0)
    began = time.perf_counter()
    met = False
    for alert in alerts(fetching):
        if isinstance(alert, lt.peer_connect_alert) and not met:
            met = True
            began = time.perf_counter()
        elif isinstance(alert, lt.torrent_finished_alert):
            handle.flush_cache()
        elif isinstance(alert, lt.cache_flushed_alert):
            break
        elif isinstance(alert, lt.tracker_error_alert | lt.file_error_alert):
            sys.exit(alert.message())
    seconds = time.perf_counter() - began
    sources = [(peer.ip, peer.total_download) for peer in handle.get_peer_info()]
    tell(
        "done",
        seconds=round(seconds, 6),
        fetched=handle.status().total_payload_download,
        sources=[{"address": f"{host}:{port}", "bytes": count} for (host, port), count in sources],
    )
    # All is written. To take down the session would be a tenth of a second more, for nothing.
    os._exit(0)


def main(arguments: list[str]) -> None:
    """Run one side."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().splitlines()[0])
    sides = parser.add_subparsers(required=True, dest="side")
    seeding = sides.add_parser("seed", help="until this process is ended")
    seeding.add_argument("file", type=Path)
    seeding.add_argument("torrent", type=Path, help="is written")
    fetching = sides.add_parser("fetch")
    fetching.add_argument("torrent", type=Path)
    fetching.add_argument("folder", type=Path)
    options = parser.parse_args(arguments)
    if options.side == "seed":
        seed(options.file, options.torrent)
    else:
        fetch(options.torrent, options.folder)


if __name__ == "__main__":
    main(sys.argv[1:])
