"""The yardstick: the least that can stand between a client and a model, `python -m bench.relay --port N`.

It translates the model's stream to the same events as the system and keeps nothing: no session, no
history, no authentication, no run that survives its client. `OPENAI_BASE_URL` names the model's server.
"""

import os

import aiohttp
import orjson

from bench.sse import EventSplitter
from tests.fakes.openai_server import Receive, Scope, Send, read_body, send_json, send_start
from tests.fakes.serving import serve_from_command_line

DONE = b'data: {"type":"done","status":"succeeded"}\n\n'


class Relay:
    """The ASGI application. It answers the same paths as the system, with any session id."""

    def __init__(self, model_url: str) -> None:
        self.chat_url = f"{model_url}/chat/completions"
        self.http: aiohttp.ClientSession | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = orjson.loads(await read_body(receive) or b"{}")
        match scope["method"], scope["path"].strip("/").split("/"):
            case "POST", ["sessions"]:
                await send_json(send, {"session_id": "relay"}, status=201)
            case "POST", ["sessions", _, "chat"]:
                await self.chat(body["message"], send)
            case _:
                await send_json(send, {"error": {"code": "not_found", "message": "Not found."}}, status=404)

    async def chat(self, message: str, send: Send) -> None:
        if self.http is None:  # made here, because it belongs to the running loop
            self.http = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        messages = [{"role": "user", "content": message}]
        body = orjson.dumps({"model": "fake-model", "messages": messages, "stream": True})
        headers = {"content-type": "application/json"}
        async with self.http.post(self.chat_url, data=body, headers=headers) as response:
            response.raise_for_status()
            await send_start(send, 200, b"text/event-stream")
            await forward(response, send)
        await send({"type": "http.response.body", "body": DONE})


async def forward(response: aiohttp.ClientResponse, send: Send) -> None:
    """Send an event for each piece of the answer, as it comes."""
    splitter = EventSplitter()
    async for received in response.content.iter_any():
        for data in splitter.feed(received):
            if data == b"[DONE]":
                return
            delta = orjson.loads(data)["choices"][0]["delta"]
            if content := delta.get("content"):
                event = orjson.dumps({"type": "response", "content": content})
                part = b"data: " + event + b"\n\n"
                await send({"type": "http.response.body", "body": part, "more_body": True})


if __name__ == "__main__":
    serve_from_command_line(Relay(os.environ["OPENAI_BASE_URL"]))
