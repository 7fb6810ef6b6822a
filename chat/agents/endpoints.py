"""Where models answer: each endpoint's address and key, and the kept-alive connections to all of them."""

import asyncio
import logging
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import aiohttp
from django.conf import settings

from chat.agents.base import ModelError
from chat.latency import Technique, is_used
from sessions_app.model_names import split_model_name

logger = logging.getLogger(__name__)

KEPT_ALIVE_SECONDS = 75.0
DNS_SECONDS = 300
_WARM_UP_SECONDS = 10.0

_sessions: WeakKeyDictionary[asyncio.AbstractEventLoop, aiohttp.ClientSession] = WeakKeyDictionary()


@dataclass(frozen=True)
class Endpoint:
    """An OpenAI-compatible server. `has_cache_control`: it wants marks for what it is to cache."""

    name: str
    base_url: str
    api_key: str
    has_cache_control: bool

    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}


def find_model(name: str) -> tuple[str, Endpoint]:
    """The model and its endpoint by `model` or `model@endpoint`; raises ModelError if there is no such endpoint."""
    model, endpoint = split_model_name(name)
    found = settings.MODEL_ENDPOINTS.get(endpoint)
    if found is None:
        raise ModelError(f"The endpoint {endpoint!r} is not in MODEL_ENDPOINTS.")
    return model, Endpoint(endpoint, found["base_url"], found["api_key"], endpoint in settings.CACHE_CONTROL_ENDPOINTS)


def http() -> aiohttp.ClientSession:
    """The event loop's one client: its connections to the models' servers are kept alive."""
    loop = asyncio.get_running_loop()
    session = _sessions.get(loop)
    if session is None or session.closed:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10.0, sock_read=settings.MODEL_TIMEOUT_SECONDS)
        if is_used(Technique.POOLING):
            connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEPT_ALIVE_SECONDS, ttl_dns_cache=DNS_SECONDS)
        else:
            connector = aiohttp.TCPConnector(limit=0, force_close=True, use_dns_cache=False)
        session = _sessions[loop] = aiohttp.ClientSession(connector=connector, timeout=timeout)
    return session


async def warm_up(endpoint: Endpoint) -> bool:
    """Open a connection to the endpoint that the next request finds ready, its name resolved and its TLS agreed on;
    whether the endpoint answered."""
    try:
        async with (
            asyncio.timeout(_WARM_UP_SECONDS),
            http().get(f"{endpoint.base_url}/models", headers=endpoint.headers()) as response,
        ):
            await response.read()  # or the connection is not given back
            return response.status < 500
    except (aiohttp.ClientError, TimeoutError) as error:
        logger.info("The endpoint %s cannot be warmed up: %s", endpoint.name, error or type(error).__name__)
        return False
