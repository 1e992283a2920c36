"""
flow512's tests: C{unit} runs in memory, C{system} uses real sockets and processes.

What is set here holds under C{trial} and under C{pytest}. Whatever they run finds an empty folder
where the user's state would be; it goes when they end.
"""

import atexit
import os
import tempfile

from hypothesis import HealthCheck, settings
from twisted.internet import defer

defer.setDebugging(True)

# A loaded machine is not a wrong answer: no example is judged by the wall clock.
settings.register_profile(
    "flow512", parent=settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("flow512")

_state = tempfile.TemporaryDirectory(prefix="flow512-tests-")
atexit.register(_state.cleanup)
os.environ["XDG_STATE_HOME"] = _state.name
