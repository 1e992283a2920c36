"""
Downloads that are killed at any instant, for real: by SIGKILL, over a socket, onto a disk.

C{FLOW512_KILLS=200} kills so often, in a file of 256 MiB; a few times in a smaller one otherwise.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pytest

from flow512.content.journal import Journal, read_boot_id
from flow512.content.publish import OwnNames
from flow512.content.tree import parse_content_id
from flow512.units import BLOCK

KILLS = int(os.environ.get("FLOW512_KILLS", "0"))
SIZE = (256 if KILLS else 48) * 1024 * 1024 + 77
LIMIT = 120
"""Seconds for anything that is waited for."""

TWICE = 8 * 1024 * 1024
"""Bytes that may be fetched twice for each kill."""

FLOW512 = [sys.executable, "-m", "flow512.cli"]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder, in memory where there is such a thing."""
    base = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(prefix="flow512-killed-", dir=base) as made:
        yield Path(made)


@contextmanager
def source(folder: Path) -> Iterator[int]:
    """Serve what is in C{shared}, and write down what is read; gives the port."""
    command = [sys.executable, "-m", "tests.system.counting_source"]
    command += [str(folder / "shared"), str(folder / "reads")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline())
        finally:
            process.kill()


def reads(folder: Path) -> Counter[int]:
    """How often each block was read at the source since the last time that this was asked."""
    log = folder / "reads"
    if not log.exists():
        return Counter()
    counted: Counter[int] = Counter()
    for line in log.read_text().splitlines():
        offset, length = map(int, line.split())
        counted.update(range(offset // BLOCK, -(-(offset + length) // BLOCK)))
    log.unlink()
    return counted


def vouched_for(folder: Path, root: bytes) -> set[int]:
    """What the journal of the download vouches for, read from a copy of it."""
    journal = folder / "here" / OwnNames.of(root, "file").journal
    if not journal.exists():
        return set()
    copy = shutil.copy(journal, folder / "copy")
    fd = os.open(copy, os.O_RDWR)
    try:
        read = Journal(fd, root, SIZE, read_boot_id())
        return {
            block for first, count in read.trusted.runs() for block in range(first, first + count)
        }
    finally:
        os.close(fd)


def get(folder: Path, port: int) -> subprocess.Popen[bytes]:
    """Begin to download, or go on."""
    command = [*FLOW512, "get", "file", "--from", f"127.0.0.1:{port}", "--plaintext", "--no-beacon"]
    command += ["--no-md5", "-o", str(folder / "here" / "file")]
    environment = {**os.environ, "XDG_STATE_HOME": str(folder / "state")}
    return subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)


def finish(process: subprocess.Popen[bytes]) -> float:
    """Let it come to its end; how long that took."""
    began = time.monotonic()
    process.communicate(timeout=LIMIT)
    assert process.returncode == 0
    return time.monotonic() - began


def test_killed_at_any_instant(folder: Path) -> None:
    """
    A download that is killed goes on: what its journal vouches for is not fetched again, little is
    fetched twice, and the file is exact.
    """
    random = Random(KILLS)
    content = b"".join(random.randbytes(min(BLOCK, SIZE - at)) for at in range(0, SIZE, BLOCK))
    (folder / "shared").mkdir()
    (folder / "here").mkdir()
    (folder / "shared" / "file").write_bytes(content)
    told = subprocess.run(
        [*FLOW512, "id", str(folder / "shared" / "file")],
        capture_output=True,
        text=True,
        check=True,
    )
    root = parse_content_id(next(word for word in told.stdout.split() if "flow512:" in word))
    most, in_the_middle = 0, 0
    with source(folder) as port:
        whole = finish(get(folder, port))
        assert set(reads(folder)) == set(range(-(-SIZE // BLOCK)))
        # Some are killed before anything is there, or when all is: they count for nothing.
        for number in range(20 * (KILLS or 3)):
            if in_the_middle == (KILLS or 3):
                break
            (folder / "here" / "file").unlink()
            reads(folder)
            process = get(folder, port)
            time.sleep(random.uniform(0.2, 1.0) * whole)
            process.send_signal(signal.SIGKILL)
            process.communicate(timeout=LIMIT)
            before = reads(folder)
            kept = vouched_for(folder, root)
            if (folder / "here" / "file").exists():
                whole *= 0.8  # it was through already; something else kept the first one waiting
                continue
            finish(get(folder, port))
            after = reads(folder)
            assert (folder / "here" / "file").read_bytes() == content, number
            assert not kept & set(after), (number, len(kept), len(after))
            twice = sum((before & after).values()) * BLOCK
            assert twice <= TWICE, (number, twice)
            most = max(most, twice)
            in_the_middle += bool(kept)
            whole *= 1.0 if kept else 1.2
        assert os.listdir(folder / "here") == ["file"]
    print(f"{in_the_middle} killed in the middle; at most {most:,} bytes were fetched twice")
    assert in_the_middle == (KILLS or 3)
