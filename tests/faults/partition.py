"""A network that can be cut: a namespace of the worker's own when we are root, else a proxy that goes dumb."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tests.fakes.processes import PROJECT

NAMESPACE = "agentsite-faults"
OUTSIDE, INSIDE = "10.213.77.1", "10.213.77.2"


class Proxy:
    """A process between a TCP port of `host` and a unix socket."""

    def __init__(self, host: str, socket_path: str) -> None:
        argv = [sys.executable, "-m", "tests.faults.proxy", host, socket_path]
        self._process = subprocess.Popen(argv, cwd=PROJECT, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())

    def cut(self) -> None:
        """Bytes neither pass nor are refused, as in a network that drops them."""
        self._process.send_signal(signal.SIGSTOP)

    def mend(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@contextmanager
def network_namespace() -> Iterator[None]:
    """A namespace joined to this machine by one cable. Raises CalledProcessError where the kernel forbids it."""
    with suppress(subprocess.CalledProcessError):
        _ip("netns", "delete", NAMESPACE)
    _ip("netns", "add", NAMESPACE)
    try:
        _ip("link", "add", "agentsite0", "type", "veth", "peer", "name", "agentsite1", "netns", NAMESPACE)
        _ip("addr", "add", f"{OUTSIDE}/30", "dev", "agentsite0")
        _ip("link", "set", "agentsite0", "up")
        _ip("-n", NAMESPACE, "addr", "add", f"{INSIDE}/30", "dev", "agentsite1")
        _ip("-n", NAMESPACE, "link", "set", "agentsite1", "up")
        _ip("-n", NAMESPACE, "link", "set", "lo", "up")
        yield
    finally:
        for words in (("link", "delete", "agentsite0"), ("netns", "delete", NAMESPACE)):
            with suppress(subprocess.CalledProcessError):
                _ip(*words)


def can_make_namespaces() -> bool:
    """Whether we are root, have iproute2, and the kernel lets us."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    try:
        with network_namespace():
            return True
    except subprocess.CalledProcessError:
        return False


def cut(proxies: list[Proxy]) -> None:
    """Pull the cable if there is one of our own, and drop what is on its way."""
    with suppress(OSError, subprocess.CalledProcessError):
        _ip("link", "set", "agentsite0", "down")
    for proxy in proxies:
        proxy.cut()


def mend(proxies: list[Proxy]) -> None:
    for proxy in proxies:
        proxy.mend()
    with suppress(OSError, subprocess.CalledProcessError):
        _ip("link", "set", "agentsite0", "up")
