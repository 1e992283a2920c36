"""
C{twistd flow512-node}.
"""

from __future__ import annotations

from twisted.internet.interfaces import IReactorTime
from twisted.python.usage import UsageError

from flow512.discovery.election import Mode
from flow512.errors import Flow512Error
from flow512.link.address import parse_address
from flow512.node import NodeService, NodeSettings
from flow512.paths import state_folder
from flow512.plugins.options import ServiceOptions, check_listen, refuse
