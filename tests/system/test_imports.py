"""Importing flow512 has no effect on the process that imports it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

IMPORT_EACH_FIRST = """
import importlib, pkgutil, sys
import twisted.plugins.flow512_dropin
import flow512

names = [module.name for module in pkgutil.walk_packages(flow512.__path__, "flow512.")]
for name in names:
    # Each as if it were the first, so that none leans on what another has imported.
    for loaded in [loaded for loaded in sys.modules if loaded.partition(".")[0] == "flow512"]:
        del sys.modules[loaded]
    try:
        importlib.import_module(name)
    except Exception as error:
        sys.exit(f"{name} cannot be imported first: {error!r}")
    if "twisted.internet.reactor" in sys.modules:
        sys.exit(f"importing {name} installed a reactor")
print(len(names))
"""

RUN_ON_ANOTHER_REACTOR = """
import sys
from twisted.internet.defer import Deferred
from twisted.internet.selectreactor import SelectReactor
from flow512 import (
    HostPort, Mode, NamedRegistry, NodeService, NodeSettings, RegistryService, RegistrySettings,
    Target,
)

state, share, target = sys.argv[1:]
loopback = "tcp:0:interface=127.0.0.1"
reactor = SelectReactor()


async def run():
    registry = RegistryService(
        reactor, RegistrySettings(listen=loopback, state=state + "/registry", beacon_port=None)
    )
    registry.startService()
    named = (NamedRegistry(HostPort("127.0.0.1", registry.port)),)
    there, here = (
        NodeService(
            reactor,
            NodeSettings(
                shares=(share,) if name == "there" else (),
                name=name,
                state=f"{state}/{name}",
                listen=loopback,
                registries=named,
                bootstrap=Mode.NEVER,
                beacon_port=None,
            ),
        )
        for name in ("there", "here")
    )
    there.startService()
    here.startService()
    address = f"127.0.0.1:{there.port}"
    await here.get("file.bin", peer=address, target=Target(target)).addTimeout(20, reactor)
    for service in (here, there, registry):
        await service.stopService()


def begin():
    Deferred.fromCoroutine(run()).addBoth(ended)


def ended(result):
    if result is not None:
        print(result.getTraceback(), file=sys.stderr)
    reactor.stop()


reactor.callWhenRunning(begin)
reactor.run()
sys.exit("twisted.internet.reactor" in sys.modules)
"""


def test_no_reactor_installed() -> None:
    """Every module can be imported first, and none of them installs a reactor."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", IMPORT_EACH_FIRST],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    modules = [path for path in (ROOT / "flow512").rglob("*.py") if path.stem != "__init__"]
    assert int(done.stdout) >= len(modules), "walk_packages passed over a folder: no __init__.py?"


def test_only_the_reactor_that_is_given(tmp_path: Path) -> None:
    """Services that are handed a reactor of the program's own run on it, and load no other."""
    share, target = tmp_path / "share", tmp_path / "target"
    share.mkdir()
    target.mkdir()
    (share / "file.bin").write_bytes(b"content")
    done = subprocess.run(
        [sys.executable, "-c", RUN_ON_ANOTHER_REACTOR, str(tmp_path), str(share), str(target)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (target / "file.bin").read_bytes() == b"content"
