"""A share that is followed live: C{flow512 serve} with Linux's own inotify, on 127.0.0.1 only."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has inotify")

LIMIT = 60.0
COMMAND = [sys.executable, "-m", "flow512.cli"]
LOCAL = ["--no-beacon", "--listen", "tcp:0:interface=127.0.0.1"]


class Serving:
    """A node that shares one folder, and looks through it by itself only once."""

    def __init__(self, top: Path) -> None:
        self.share = top / "share"
        self.share.mkdir()
        self.process = subprocess.Popen(
            [*COMMAND, "serve", "share", "--json", "--rescan", "0", "--state", "state", *LOCAL],
            cwd=top,
            stdout=subprocess.PIPE,
        )
        assert self.process.stdout is not None
        self.fd = self.process.stdout.fileno()
        self.unread = b""
        self.hashed = 0

    def next_event(self) -> dict[str, object]:
        """Wait for what it tells next."""
        deadline = time.monotonic() + LIMIT
        while b"\n" not in self.unread:
            ready, _, _ = select.select([self.fd], [], [], max(deadline - time.monotonic(), 0))
            data = os.read(self.fd, 65536) if ready else b""
            assert data, "it ended, or said nothing for too long"
            self.unread += data
        line, _, self.unread = self.unread.partition(b"\n")
        event = json.loads(line)
        assert isinstance(event, dict)
        return event

    def until_shared(self, files: int) -> int:
        """Wait until so many files are shared; tell how many were hashed for that."""
        hashed = 0
        while True:
            event = self.next_event()
            if event["event"] == "indexed":
                assert event["failed"] == 0
                hashed += int(str(event["hashed"]))
                if event["files"] == files:
                    return hashed

    def end(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.wait(LIMIT)
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Serving]:
    """A node, once it has seen that its share is empty."""
    serving = Serving(tmp_path)
    try:
        serving.until_shared(0)
        yield serving
    finally:
        serving.end()


def test_files_come_and_go(serving: Serving, tmp_path: Path) -> None:
    """New, changed, moved and deleted files are noticed, and only what is new is hashed."""
    share = serving.share
    (share / "a").write_bytes(b"a")
    assert serving.until_shared(1) == 1
    (share / "a").write_bytes(b"changed")
    assert serving.until_shared(1) == 1
    os.rename(share / "a", share / "b")
    assert serving.until_shared(1) == 0
    (tmp_path / "tree" / "inner").mkdir(parents=True)
    for number in range(50):
        (tmp_path / "tree" / "inner" / f"{number}").write_bytes(b"%d" % number)
    os.rename(tmp_path / "tree", share / "tree")
    assert serving.until_shared(51) == 50
    # What is in a folder that was moved is known; what happens there has its new name.
    os.rename(share / "tree", share / "moved")
    assert serving.until_shared(51) == 0
    (share / "moved" / "inner" / "new").write_bytes(b"new")
    assert serving.until_shared(52) == 1
    shutil.rmtree(share / "moved" / "inner")
    assert serving.until_shared(1) == 0
    os.unlink(share / "b")
    assert serving.until_shared(0) == 0


def test_share_made_anew(serving: Serving) -> None:
    """A share whose folder is removed and made anew is followed there."""
    (serving.share / "old").write_bytes(b"old")
    serving.until_shared(1)
    shutil.rmtree(serving.share)
    serving.until_shared(0)
    (serving.share / "folder").mkdir(parents=True)
    (serving.share / "folder" / "new").write_bytes(b"new")
    serving.until_shared(1)
    (serving.share / "folder" / "newer").write_bytes(b"newer")
    serving.until_shared(2)


def test_burst(serving: Serving) -> None:
    """Ten thousand files that come at once are one round, or a few on a slow machine."""
    for folder in range(10):
        (serving.share / f"{folder}").mkdir()
        for number in range(1000):
            (serving.share / f"{folder}" / f"{number}").write_bytes(b"%d %d" % (folder, number))
    rounds = hashed = 0
    while hashed < 10_000:
        event = serving.next_event()
        if event["event"] == "indexed":
            rounds += 1
            hashed += int(str(event["hashed"]))
    assert rounds <= 5
