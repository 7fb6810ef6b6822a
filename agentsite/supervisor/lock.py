"""One supervisor for a data directory."""

import fcntl
import json
import os
from pathlib import Path
from typing import IO

from agentsite.supervisor.config import Config, StartError


def take_lock(config: Config) -> IO[str]:
    """Hold the directory while the returned file is open; raises StartError if another supervisor has it.

    The kernel lets go of it when the process ends, however that happens.
    """
    path: Path = config.data_dir / "up.lock"
    file = path.open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise StartError(f"Already running on {config.data_dir}{_holder(file)}. Nothing was changed.") from None
    file.truncate(0)
    json.dump({"pid": os.getpid(), "address": config.address}, file)
    file.flush()
    return file


def _holder(file: IO[str]) -> str:
    try:
        file.seek(0)
        holder = json.load(file)
        return f": process {holder['pid']}, {holder['address']}"
    except (ValueError, KeyError):
        return ""
