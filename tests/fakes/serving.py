"""Serving an ASGI application from a module's own command line, ready to be started by `processes`."""

import argparse
import os
import socket
import sys
import threading
from collections.abc import Awaitable, Callable

import uvicorn


def serve_from_command_line(app: Callable[..., Awaitable[None]]) -> None:
    """Serve `app` until SIGTERM. The first line on stdout is its address, and says that it listens."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--stop-with-parent", action="store_true", help="end when stdin is closed")
    options = parser.parse_args()
    if options.stop_with_parent:
        threading.Thread(target=exit_when_stdin_closes, daemon=True).start()
    with socket.create_server(("127.0.0.1", options.port), backlog=2048) as listener:
        print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
        # "critical": what uvicorn logs as errors here are the faults that scripts ask for.
        config = uvicorn.Config(app, loop="uvloop", http="httptools", ws="none", lifespan="off", log_level="critical")
        uvicorn.Server(config).run(sockets=[listener])


def exit_when_stdin_closes() -> None:
    """A parent that was killed could not stop this process; its end of the pipe closes in any case."""
    sys.stdin.read()
    os._exit(0)
