"""`python -m bench.context --data DIR`: how much of what a question needs is in the context of each strategy.

DIR has conversations as JSON files: `turns` (`id`, `speaker`, `text`, `image_caption`?, `date`) and `questions`
(`question`, `evidence`: ids of turns, `category`). Each conversation becomes one session, each turn a message of it, in
a PostgreSQL of the bench's own; each question's context is prepared as for a run, from question and history only.
Beside the strategies stand plain rankings, packed in the same way: the newest, BM25, and vectors alone.
"""

import argparse
import asyncio
import json
import math
import operator
import os
import random
import re
import shutil
import statistics
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import django

BUDGETS = (1_000, 2_000, 4_000)
CATEGORIES = {1: "multi-hop", 2: "temporal", 3: "open-domain", 4: "single-hop", 5: "adversarial"}
_DATE = "%I:%M %p on %d %B, %Y"
_DATE_TOKENS = 14  # of a turn's date, as it stands in the data


@contextmanager
def database() -> Iterator[None]:
    """Django on a new PostgreSQL, gone afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="agentsite-context-"))
    os.environ.update(
        {
            "DJANGO_SETTINGS_MODULE": "agentsite.settings",
            "DATA_DIR": str(directory),
            "DATABASE_URL": f"postgresql://postgres@/agentsite?host={directory}/postgres",
            "SECRET_KEY": "of the bench",
            "LOG_LEVEL": "WARNING",
            "DATABASE_PREPARED_STATEMENTS": "1",
        }
    )
    # Not above: these load the settings.
    from agentsite.supervisor.postgres import EmbeddedPostgres  # noqa: PLC0415

    (directory / "logs").mkdir()
    child = EmbeddedPostgres(directory).start()
    try:
        django.setup()
        from django.core.management import call_command  # noqa: PLC0415

        call_command("migrate", verbosity=0)
        yield
    finally:
        child.ask_to_stop()
        child.wait_stopped()
        shutil.rmtree(directory, ignore_errors=True)


@dataclass
class Conversation:
    """One file. `turns` are (id, text, date)."""

    name: str
    turns: list[tuple[str, str, datetime]]
    speakers: list[str]
    questions: list[dict[str, Any]]
    session_id: Any = None
    turn_of_message: dict[int, str] = field(default_factory=dict)


def read(path: Path) -> Conversation:
    data = json.loads(path.read_text())
    turns, speakers = [], []
    for number, turn in enumerate(data["turns"]):
        caption = f" [image: {turn['image_caption']}]" if turn.get("image_caption") else ""
        date = datetime.strptime(turn["date"], _DATE).replace(tzinfo=UTC) + timedelta(seconds=number)
        turns.append((turn["id"], f"{turn['speaker']}: {turn['text']}{caption}", date))
        speakers.append(turn["speaker"])
    known = {turn[0] for turn in turns}
    questions = [
        {**question, "evidence": evidence}
        for question in data["questions"]
        if (evidence := [turn_id for turn_id in question["evidence"] if turn_id in known])
    ]
    return Conversation(path.stem, turns, speakers, questions)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.context", description=__doc__)
    parser.add_argument("--data", type=Path, metavar="DIR", help="the folder with the conversations")
    parser.add_argument("--long", type=int, nargs="*", default=[100, 10_000], help="messages of sessions to time")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    options = parser.parse_args()
    paths = sorted(options.data.glob("*.json")) if options.data else []
    if options.data and not paths:
        print(f"There are no conversations in {options.data}.", file=sys.stderr)
        return 1
    with database():
        figures = recall([read(path) for path in paths]) if paths else {}
        if options.long:
            time_long_sessions(options.long)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0


# --- recall ----------------------------------------------------------------------------------------------------------


def recall(conversations: Sequence[Conversation]) -> dict[str, Any]:
    """Mean recall of evidence, by strategy and budget, printed as a table."""
    for conversation in conversations:
        store(conversation)
    messages = sum(len(conversation.turns) for conversation in conversations)
    questions = sum(len(conversation.questions) for conversation in conversations)
    print(f"{len(conversations)} conversations, {messages} messages, {questions} questions with evidence\n")
    print(f"{'':22}{'recall at tokens':>24}   {'by category at ' + str(BUDGETS[1]):<52} {'prepared in ms':>16}")
    head = " ".join(f"{budget:7}" for budget in BUDGETS)
    print(f"{'':22} {head}   {' '.join(f'{name:>11}' for name in CATEGORIES.values())} {'p50':>7} {'p95':>7}")
    figures = {}
    for name, answer in [*_strategies(), *_baselines()]:
        figures[name] = _measure(name, answer, conversations)
    return figures


Answer = Callable[[Conversation, str, int], tuple[set[str], float]]


def _measure(name: str, answer: Answer, conversations: Sequence[Conversation]) -> dict[str, Any]:
    scores: dict[int, list[float]] = defaultdict(list)
    by_category: dict[int, list[float]] = defaultdict(list)
    took: list[float] = []
    for conversation in conversations:
        for question in conversation.questions:
            for budget in BUDGETS:
                shown, seconds = answer(conversation, question["question"], budget)
                found = sum(turn_id in shown for turn_id in question["evidence"]) / len(question["evidence"])
                scores[budget].append(found)
                took.append(seconds * 1000)
                if budget == BUDGETS[1]:
                    by_category[question["category"]].append(found)
    means = {budget: statistics.mean(found) for budget, found in scores.items()}
    categories = {number: statistics.mean(by_category.get(number, [math.nan])) for number in CATEGORIES}
    quantiles = statistics.quantiles(took, n=20)
    shown_means = " ".join(f"{means[budget]:7.3f}" for budget in BUDGETS)
    shown_categories = " ".join(f"{categories[number]:11.3f}" for number in CATEGORIES)
    print(f"{name:22} {shown_means}   {shown_categories} {quantiles[9]:7.1f} {quantiles[18]:7.1f}", flush=True)
    return {"recall": means, "categories": categories, "p50_ms": quantiles[9], "p95_ms": quantiles[18]}


def store(conversation: Conversation) -> None:
    """The conversation as a session: the first speaker is the user, each turn a turn; then it is indexed."""
    from chat.context.indexing import index_session  # noqa: PLC0415

    first = conversation.speakers[0]
    rows = [
        ("user" if speaker == first else "assistant", text, date)
        for speaker, (_, text, date) in zip(conversation.speakers, conversation.turns, strict=True)
    ]
    conversation.session_id, ids = _make_session(conversation.name, rows)
    conversation.turn_of_message = {pk: turn_id for pk, (turn_id, _, _) in zip(ids, conversation.turns, strict=True)}
    while index_session(conversation.session_id):
        pass
    _summarize(conversation.session_id)


def _make_session(title: str, rows: Sequence[tuple[str, str, datetime]]) -> tuple[Any, list[int]]:
    from django.contrib.auth.models import User  # noqa: PLC0415

    from sessions_app.models import AgentSession, Message, Run, RunStatus  # noqa: PLC0415
    from sessions_app.services.sessions import create_session  # noqa: PLC0415
    from sessions_app.token_counting import message_tokens  # noqa: PLC0415

    owner, _ = User.objects.get_or_create(username="bench")
    session = create_session(owner=owner, agent_type="demo", title=title)
    runs = [Run(session=session, turn=turn, status=RunStatus.SUCCEEDED) for turn in range(1, len(rows) + 1)]
    Run.objects.bulk_create(runs, batch_size=1_000)
    messages = [
        Message(
            session=session,
            run=runs[turn - 1],
            turn=turn,
            position=0,
            role=role,
            content=text,
            token_count=message_tokens(text),
            created_at=date,
        )
        for turn, (role, text, date) in enumerate(rows, 1)
    ]
    Message.objects.bulk_create(messages, batch_size=1_000)
    AgentSession.objects.filter(pk=session.pk).update(next_turn=len(rows) + 1, message_count=len(rows))
    return session.pk, [message.pk for message in messages]


def _summarize(session_id: Any) -> None:
    from chat.context.compaction import summarize_session  # noqa: PLC0415

    while summarize_session(session_id):
        pass


def _strategies() -> list[tuple[str, Answer]]:
    from sessions_app.models import ContextStrategy  # noqa: PLC0415

    return [(strategy.value, _by_strategy(strategy.value)) for strategy in ContextStrategy]


def _by_strategy(strategy: str) -> Answer:
    def answer(conversation: Conversation, question: str, budget: int) -> tuple[set[str], float]:
        began = time.perf_counter()
        prepared = prepare_for(conversation.session_id, len(conversation.turns) + 1, question, strategy, budget)
        seconds = time.perf_counter() - began
        used = prepared.tokens - prepared.budget.system - prepared.budget.tools - _tokens_of_turn(prepared)
        assert used <= budget, (strategy, used, budget)
        shown = prepared.shown_ids() & set(conversation.turn_of_message)
        return {conversation.turn_of_message[pk] for pk in shown}, seconds

    return answer


def _tokens_of_turn(prepared: Any) -> int:
    return sum(unit.tokens for unit in prepared.turn)


def prepare_for(session_id: Any, turn: int, message: str, strategy: str, budget: int) -> Any:
    """As a run prepares it, for a budget that is the history's alone."""
    from django.utils import timezone  # noqa: PLC0415

    from chat.context.budget import Budget  # noqa: PLC0415
    from chat.context.preparing import Question, prepare, with_message  # noqa: PLC0415
    from sessions_app.agent_config import AgentConfig  # noqa: PLC0415
    from sessions_app.prompt import PromptMessage, newest_messages  # noqa: PLC0415
    from sessions_app.token_counting import message_tokens  # noqa: PLC0415

    tokens = message_tokens(message)
    room = budget + tokens
    newest = newest_messages(session_id, turn=turn, max_tokens=room)
    asked = PromptMessage(0, turn, 0, "user", message, (), "", tokens, timezone.now())
    agent = AgentConfig("bench", context_strategy=strategy)
    question = Question(session_id, turn, agent, with_message(newest, asked))
    return _loop().run_until_complete(prepare(question, Budget(room, 0, 0, 0)))


_LOOPS: list[asyncio.AbstractEventLoop] = []


def _loop() -> asyncio.AbstractEventLoop:
    if not _LOOPS:
        _LOOPS.append(asyncio.new_event_loop())
    return _LOOPS[0]


# --- the plain rankings ----------------------------------------------------------------------------------------------


def _baselines() -> list[tuple[str, Answer]]:
    return [
        ("baseline: newest", _packed(lambda conversation, question: range(len(conversation.turns), 0, -1))),
        ("baseline: BM25", _packed(_by_bm25)),
        ("baseline: dense", _packed(_by_vectors)),
    ]


def _packed(rank: Callable[[Conversation, str], Sequence[int]]) -> Answer:
    """Whole turns with their dates, best first, as long as they fit."""
    from sessions_app.token_counting import count_tokens  # noqa: PLC0415

    costs: dict[tuple[str, int], int] = {}

    def answer(conversation: Conversation, question: str, budget: int) -> tuple[set[str], float]:
        began = time.perf_counter()
        shown: set[str] = set()
        left = budget
        for number in rank(conversation, question):
            key = (conversation.name, number)
            turn_id, text, _ = conversation.turns[number - 1]
            if key not in costs:
                costs[key] = count_tokens(text) + _DATE_TOKENS
            if costs[key] <= left:
                shown.add(turn_id)
                left -= costs[key]
        return shown, time.perf_counter() - began

    return answer


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


_INDEXES: dict[str, tuple[list[Counter[str]], dict[str, float], float]] = {}


def _by_bm25(conversation: Conversation, question: str) -> Sequence[int]:
    if conversation.name not in _INDEXES:
        documents = [Counter(_words(text)) for _, text, _ in conversation.turns]
        frequency = Counter(word for document in documents for word in document)
        total = len(documents)
        weights = {word: math.log(1 + (total - n + 0.5) / (n + 0.5)) for word, n in frequency.items()}
        mean = statistics.mean(document.total() for document in documents)
        _INDEXES[conversation.name] = (documents, weights, mean)
    documents, weights, mean = _INDEXES[conversation.name]
    wanted = set(_words(question))

    def score(number: int) -> float:
        document = documents[number - 1]
        length = 0.25 + 0.75 * document.total() / mean
        return sum(
            weights[word] * document[word] * 2.2 / (document[word] + 1.2 * length) for word in wanted & document.keys()
        )

    return sorted(range(1, len(documents) + 1), key=score, reverse=True)


_VECTORS: dict[str, list[list[float]]] = {}
_RANKINGS: dict[tuple[str, str], list[int]] = {}


def _by_vectors(conversation: Conversation, question: str) -> Sequence[int]:
    from chat.context.embedding import embed_passages, embed_query  # noqa: PLC0415

    if conversation.name not in _VECTORS:
        found = _loop().run_until_complete(embed_passages([text for _, text, _ in conversation.turns]))
        assert found is not None, "there is no embedder"
        _VECTORS[conversation.name] = [vector for vector in found[1] if vector is not None]
        assert len(_VECTORS[conversation.name]) == len(conversation.turns), "the embedder has refused a turn"
    if (key := (conversation.name, question)) not in _RANKINGS:
        asked = _loop().run_until_complete(embed_query(question))
        assert asked is not None
        vectors = _VECTORS[conversation.name]
        scores = [sum(map(operator.mul, vector, asked[1])) for vector in vectors]
        _RANKINGS[key] = sorted(range(1, len(vectors) + 1), key=lambda number: scores[number - 1], reverse=True)
    return _RANKINGS[key]


# --- long sessions ---------------------------------------------------------------------------------------------------


def time_long_sessions(sizes: Sequence[int]) -> None:
    """How long the preparation takes, by the length of the session; the question's vector is made beforehand."""
    from django.db import connection  # noqa: PLC0415

    from chat.context.embedding import embed_query, embedder  # noqa: PLC0415
    from sessions_app.models import ContextStrategy  # noqa: PLC0415

    question = "w3 w40 w170 w900 w1500 w2222"
    _loop().run_until_complete(embed_query(question))
    print(f"\n{'messages':>10} {'strategy':16} {'p50 ms':>8} {'p95 ms':>8}")
    for size in sizes:
        rows = [_row(number) for number in range(size)]
        session_id, _ = _make_session(f"{size} messages", rows)
        with connection.cursor() as cursor:
            cursor.execute(_FILL_INDEX, {"session_id": session_id, "model": getattr(embedder(), "name", "")})
            cursor.execute("ANALYZE")
        for strategy in (ContextStrategy.SLIDING_WINDOW, ContextStrategy.RETRIEVAL, ContextStrategy.COMBINED):
            took = []
            for _ in range(60):
                began = time.perf_counter()
                prepare_for(session_id, size + 1, question, strategy.value, 4_000)
                took.append((time.perf_counter() - began) * 1000)
            quantiles = statistics.quantiles(took[10:], n=20)
            print(f"{size:10} {strategy.value:16} {quantiles[9]:8.1f} {quantiles[18]:8.1f}", flush=True)


_VOCABULARY = 3_000


def _row(number: int) -> tuple[str, str, datetime]:
    """A message of some forty words, of which few are frequent and many rare, as in any language."""
    chance = random.Random(number)
    words = " ".join(f"w{int(_VOCABULARY ** chance.random())}" for _ in range(40))
    date = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(hours=number)
    return ("user" if number % 2 == 0 else "assistant"), words, date


# Vectors by chance: the time to compare them is what is measured, not what they find.
_FILL_INDEX = """
INSERT INTO sessions_app_indexentry (
    message_id, session_id, ordinal, turn, position, last_position, lexemes, word_count, embedding, embedding_model,
    importance)
SELECT m.id, m.session_id, m.turn, m.turn, 0, 0, strip(to_tsvector('english', m.content)), 24, (
        SELECT array_agg(random() - 0.5 + shift)::vector(384)::halfvec
        FROM generate_series(1, 384), (SELECT m.id * 0) own(shift)
    ), %(model)s, random()
FROM sessions_app_message m WHERE m.session_id = %(session_id)s
"""


if __name__ == "__main__":
    sys.exit(main())
