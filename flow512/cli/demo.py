"""
C{flow512 demo}: a registry, a bootstrap node and a second node, each a process of C{twistd}, and a
file that flows from one to the other.

Everything stays on this machine: they listen on 127.0.0.1, and the beacon is restricted to it, on
a UDP port of its own, so that no other node is met and none is bothered.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Final, TextIO

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.threads import deferToThread
from twisted.internet.task import deferLater

from flow512.cli.children import Child, start
from flow512.cli.formatting import size_text
from flow512.cli.getting import Wish, get, passing
from flow512.cli.outcome import Interrupted
from flow512.cli.progress import Progress
from flow512.cli.running import STOPPED, Machine
from flow512.cli.voice import PlainVoice, Voice
from flow512.errors import Flow512Error, ResourceFailure, TimedOut, from_os_error
from flow512.link.address import HostPort
from flow512.settings import NodeSettings
from flow512.transfer.fetch import Target

HOST: Final = "127.0.0.1"

BIG: Final = 64 * 1024 * 1024
"""Bytes of the file that travels in blocks."""

SMALL: Final = 100_001
"""Bytes of the file that travels in pieces: 196 of them, the last one short."""

LIMIT: Final = 60.0
"""Seconds for everything."""

PATIENCE: Final = 20.0
"""Seconds for a process to be there."""
