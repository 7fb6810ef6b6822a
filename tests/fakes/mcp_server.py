"""An MCP server, over stdio or (with a port as argument) streamable HTTP."""

import os
import sys
import time

from mcp.server.mcpserver import MCPServer

server = MCPServer("fake")


@server.tool()
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@server.tool()
def fail() -> str:
    """Always fails."""
    raise ValueError("no luck")


@server.tool()
def hang() -> str:
    """Never returns in time."""
    time.sleep(600)
    return "late"


@server.tool()
def die() -> str:
    """Takes its server with it."""
    os._exit(1)


@server.tool()
def pid() -> int:
    """Which process it is."""
    return os.getpid()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        server.run("streamable-http", host="127.0.0.1", port=int(sys.argv[1]))
    else:
        server.run("stdio")
