"""Named places at which a test can have this process killed.

Without AGENTSITE_FAIL_POINTS (the folder in which a test arms them) `fail_point` is an empty function. With it, the
process that finds a file of the point's name there takes it away, so that only one dies of it, and kills itself as
hard as a crash would.
"""

import os
import signal
from pathlib import Path


def _nothing(name: str) -> None:
    return None


def _die_if_armed(name: str) -> None:
    try:
        (Path(os.environ["AGENTSITE_FAIL_POINTS"]) / name).unlink()
    except FileNotFoundError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


fail_point = _die_if_armed if "AGENTSITE_FAIL_POINTS" in os.environ else _nothing
