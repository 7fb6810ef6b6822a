"""The index behind the conversation: written in the background, by several workers, with embedders that fail."""

import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.core.cache import cache
from django.db import connection

from chat.context import embedding, indexing
from chat.context.embedding import embed_query, embedder
from chat.context.indexing import BATCH, MESSAGES, index_session
from chat.context.remote import run_alone
from chat.context.tending import sessions_to_embed, tend_session
from sessions_app import memory
from sessions_app.models import AgentSession, AgentType, IndexEntry, Message, Role, Run
from sessions_app.services.cancelling import request_cancel
from sessions_app.services.forking import fork_session, retry_run
from sessions_app.services.indexing import set_embeddings
from sessions_app.services.sessions import create_session
from tests.fakes.processes import FakeOpenAIProcess

pytestmark = pytest.mark.django_db
LATER = 1_000_000  # a turn after all others
STARTED = datetime(2026, 3, 1, 9, tzinfo=UTC)


@pytest.fixture(autouse=True)
def use_fake(fake: FakeOpenAIProcess, settings: Any) -> Iterator[None]:
    settings.MODEL_ENDPOINTS = {"default": {"base_url": fake.base_url, "api_key": "test"}}
    use_embedder(settings, "embedder")
    fake.break_models()
    yield
    fake.break_models()
    forget()


def use_embedder(settings: Any, model: str) -> None:
    settings.EMBEDDING_MODEL = model
    forget()


def forget() -> None:
    """As a process that has just started."""
    embedder.cache_clear()
    embedding._queries.clear()
    for circuit in (embedding.circuit, indexing.circuit):
        circuit.succeeded()


@pytest.fixture
def session(user: Any) -> AgentSession:
    AgentType.objects.get_or_create(name="demo", defaults={"runtime": "demo", "tools": []})
    return create_session(owner=user, agent_type="demo")


def say(session: AgentSession, turn: int, *said: str | dict[str, Any], status: str = "succeeded") -> list[Message]:
    """A turn: texts by turns of user and assistant, or messages' fields."""
    run = Run.objects.create(session=session, turn=turn, status=status)
    messages = []
    for position, each in enumerate(said):
        role = Role.USER if position == 0 else Role.ASSISTANT
        fields = {"role": role, "content": each} if isinstance(each, str) else each
        at = STARTED + timedelta(minutes=turn)
        message = Message(session=session, run=run, turn=turn, position=position, token_count=10, created_at=at)
        for name, value in fields.items():
            setattr(message, name, value)
        messages.append(message)
    Message.objects.bulk_create(messages)
    AgentSession.objects.filter(pk=session.pk).update(next_turn=turn + 1, message_count=1)
    session.refresh_from_db()
    return messages


def called(*names: str) -> list[dict[str, Any]]:
    """A message that calls these, and their results."""
    calls = [{"id": f"call-{name}", "name": name, "arguments": {"of": name}} for name in names]
    results = [
        {"role": Role.TOOL, "content": f"result of {name}", "tool_call_id": f"call-{name}", "tool_name": name}
        for name in names
    ]
    return [{"role": Role.ASSISTANT, "content": "", "tool_calls": calls}, *results]


def entries(session: AgentSession) -> list[IndexEntry]:
    return list(IndexEntry.objects.filter(session=session).order_by("ordinal"))


def versions(session: AgentSession) -> set[str]:
    return {entry.embedding_model for entry in entries(session)}


def vector_of(entry: IndexEntry) -> list[float]:
    assert entry.embedding is not None
    return list(entry.embedding)


def texts_at(session: AgentSession, hits: list[memory.Hit]) -> list[str]:
    found = {entry.ordinal: entry for entry in memory.entries_at(session.pk, [hit.ordinal for hit in hits], turn=LATER)}
    return [found[hit.ordinal].messages[0].content for hit in hits]


def by_words(session: AgentSession, query: str, limit: int = 5) -> list[str]:
    return texts_at(session, memory.find_by_words(session.pk, query, turn=LATER, limit=limit))


def by_meaning(session: AgentSession, query: str) -> list[str] | None:
    """None if the question has no vector."""
    asked = run_alone(embed_query(query))
    if asked is None:
        return None
    name, vector = asked
    return texts_at(session, memory.find_by_meaning(session.pk, vector, model=name, turn=LATER, limit=5))


def at_once(work: Any, count: int) -> list[Any]:
    def closing(number: int) -> Any:
        try:
            return work(number)
        finally:
            connection.close()

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(closing, range(count)))


# --- what is indexed -------------------------------------------------------------------------------------------------


def test_messages_are_found_by_words_and_by_meaning(session: AgentSession) -> None:
    say(session, 1, "My cat is called Mitsou.", "A fine name.")
    say(session, 2, "The train leaves at nine.", "Noted.")
    assert index_session(session.pk) is False, "there is nothing more to do"
    assert by_words(session, "What is the cat called?")[0] == "My cat is called Mitsou."
    assert (by_meaning(session, "when leaves the train") or [""])[0] == "The train leaves at nine."
    assert [entry.ordinal for entry in entries(session)] == [1, 2, 3, 4]


def test_repeating_it_adds_nothing(session: AgentSession, fake: FakeOpenAIProcess) -> None:
    for turn in range(1, 40):
        say(session, turn, f"Question {turn}", f"Answer {turn}")
    index_session(session.pk)
    before = list(IndexEntry.objects.order_by("ordinal").values())
    fake.forget_requests()
    for _ in range(3):
        assert tend_session(session.pk) is False
    assert list(IndexEntry.objects.order_by("ordinal").values()) == before
    assert fake.embedded() == []


@pytest.mark.django_db(transaction=True, serialized_rollback=True)
def test_two_workers_at_once_write_each_entry_once(session: AgentSession) -> None:
    for turn in range(1, 81):
        say(session, turn, f"Question {turn}", *called("clock"), f"Answer {turn}")
    at_once(lambda _: index_session(session.pk), 4)
    found = entries(session)
    assert [entry.ordinal for entry in found] == list(range(1, 3 * 80 + 1))
    assert [(entry.turn, entry.position) for entry in found] == sorted((entry.turn, entry.position) for entry in found)
    assert versions(session) == {"embedder#1"}


def test_while_one_tends_a_session_another_leaves_it_alone(session: AgentSession) -> None:
    say(session, 1, "Hello", "Hi")
    cache.add(f"context:{session.pk}", 1, 60)
    assert tend_session(session.pk) is False
    assert entries(session) == []
    cache.delete(f"context:{session.pk}")
    tend_session(session.pk)
    assert len(entries(session)) == 2


@pytest.mark.parametrize("before", range(MESSAGES - 4, MESSAGES + 1))
def test_a_call_and_its_results_are_one_entry_across_pages(session: AgentSession, before: int) -> None:
    """Wherever the page's end falls: before the call, after it, between its results, behind them."""
    for turn in range(1, before):
        say(session, turn, f"Line {turn}")
    say(session, before, "Look it up", *called("left", "right"), "Found.")
    say(session, before + 1, "Thanks")
    index_session(session.pk)
    found = entries(session)
    (call,) = [entry for entry in found if entry.last_position > entry.position]
    assert (call.turn, call.position, call.last_position) == (before, 1, 3)
    assert len(found) == before + 3
    assert [entry.ordinal for entry in found] == list(range(1, len(found) + 1))
    (hit, *_) = memory.find_by_words(session.pk, "result right", turn=LATER, limit=1)
    (entry,) = memory.entries_at(session.pk, [hit.ordinal], turn=LATER)
    assert [message.role for message in entry.messages] == ["assistant", "tool", "tool"]


def test_more_results_than_a_page_are_one_entry(session: AgentSession) -> None:
    say(session, 1, "All of them", *called(*(f"tool{number}" for number in range(MESSAGES + 20))), "Done.")
    index_session(session.pk)
    assert [(entry.position, entry.last_position) for entry in entries(session)] == [(0, 0), (1, 85), (86, 86)]
    assert by_words(session, f"tool{MESSAGES + 10}") == [""]


LANGUAGES = [
    ("会议改到星期四下午三点，在杭州。", "会议在哪一天？星期四吗"),
    ("猫の名前はミツです。京都に住んでいます。", "猫の名前は"),
    ("เรือของฉันจอดอยู่ที่ท่าเรือภูเก็ต", "เรือจอดที่ภูเก็ตไหม"),
    ("سفينتي راسية في ميناء طرابلس", "ميناء طرابلس"),
    ("우리 고양이는 부산에 살아요", "고양이는 어디에 살아요"),
    ("Моя лодка стоит в Одессе", "лодка в Одессе"),
    ("मेरी नाव गोवा में है", "नाव गोवा"),
    ("ເຮືອຂອງຂ້ອຍຈອດຢູ່ວຽງຈັນ", "ເຮືອຢູ່ວຽງຈັນບໍ"),
    ("ទូករបស់ខ្ញុំនៅកំពត", "ទូកនៅកំពត"),
    ("ငါ့လှေက ပုသိမ်မှာရှိတယ်", "လှေက ပုသိမ်"),
    ("Die Fähre heißt Übermut", "FÄHRE übermut"),
    ("Ready for launch 🚀🚀 at pad seven 👩‍👩‍👧", "🚀 launch pad"),
]


@pytest.mark.parametrize(("text", "query"), LANGUAGES)
def test_messages_in_any_language_are_found(session: AgentSession, text: str, query: str) -> None:
    for turn in range(1, 20):
        say(session, turn, f"Small talk number {turn}", "あの、そうですね。好的，没问题。ครับ نعم 네")
    say(session, 20, text, "Noted.")
    index_session(session.pk)
    assert by_words(session, query)[0] == text
    assert by_words(session, f"{query}\x00")[0] == text
    assert text in (by_meaning(session, text) or [])[:2], "an answer's vector has something of what it answers"


def test_of_a_long_message_the_telling_words_are_searched(session: AgentSession) -> None:
    for turn in range(1, 41):
        say(session, turn, f"alpha{turn} beta{turn}", "common words of everybody")
    say(session, 41, "The zebra has a name.", "It has.")
    index_session(session.pk)
    words = [f"alpha{turn} beta{turn} common words everybody nowhere{turn}" for turn in range(1, 41)]
    assert "The zebra has a name." in by_words(session, " ".join([*words, "What is the zebra called?"]), 50)
    assert "The zebra has a name." in by_words(
        session, "What is the zebra called? " + " common words everybody" * 40, 50
    )


def test_odd_texts_do_no_harm(session: AgentSession) -> None:
    odd = ["", " ", "\ufffd\u0001", "😀" * 500, "'; \\ | & ! <-> :* %s {mask}", "a" * 300_000, "x\u200b" * 10_000]
    for turn, text in enumerate(odd, 1):
        say(session, turn, text, "ok")
    index_session(session.pk)
    assert len(entries(session)) == 2 * len(odd)
    for text in [*odd, "\x00", "'\x00'", "the of and"]:
        by_words(session, text)
        by_meaning(session, text)


# --- what is not, or not any more ------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["queued", "running", "awaiting_approval"])
def test_a_turn_that_is_not_over_is_not_indexed(session: AgentSession, status: str) -> None:
    say(session, 1, "First", "One")
    say(session, 2, "Second", *called("clock"), status=status)
    index_session(session.pk)
    assert [entry.turn for entry in entries(session)] == [1, 1]
    Run.objects.filter(session=session).update(status="succeeded")
    index_session(session.pk)
    assert [entry.turn for entry in entries(session)] == [1, 1, 2, 2]


def test_a_turn_that_is_tried_again_is_indexed_where_it_stands_then(session: AgentSession, user: Any) -> None:
    say(session, 1, "First", "One")
    _, partial = say(session, 2, "Where is the lamp?", "In the ki", status="failed")
    Message.objects.filter(pk=partial.pk).update(is_partial=True)
    say(session, 3, "Third", "Three")
    index_session(session.pk)
    retry = retry_run(user=user, run=Run.objects.get(session=session, turn=2))
    index_session(session.pk)
    assert [entry.turn for entry in entries(session)] == [1, 1, 3, 3]
    run = Run.objects.get(pk=retry.run_id)
    Message.objects.create(session=session, run=run, turn=run.turn, position=1, role=Role.ASSISTANT, content="Kitchen")
    Run.objects.filter(pk=run.pk).update(status="succeeded")
    index_session(session.pk)
    assert [entry.turn for entry in entries(session)] == [1, 1, 3, 3, run.turn, run.turn]
    assert by_words(session, "lamp") == ["Where is the lamp?"]


def test_vectors_made_of_a_turn_that_moved_on_meanwhile_are_not_anothers(session: AgentSession, user: Any) -> None:
    """The place of the broken answer is the new one's by the time the vector comes."""
    _, partial = say(session, 1, "Where is the lamp?", "In the ki", status="failed")
    Message.objects.filter(pk=partial.pk).update(is_partial=True)
    index_session(session.pk)
    run = Run.objects.get(pk=retry_run(user=user, run=Run.objects.get(session=session)).run_id)
    Message.objects.create(session=session, run=run, turn=run.turn, position=1, role=Role.ASSISTANT, content="Kitchen")
    Run.objects.filter(pk=run.pk).update(status="succeeded")
    index_session(session.pk)
    before = [vector_of(entry) for entry in entries(session)]
    set_embeddings({partial.pk: [1.0] + [0.0] * 95}, model="embedder#1")
    assert [vector_of(entry) for entry in entries(session)] == before


def test_a_turn_that_is_rolled_back_leaves_nothing(session: AgentSession) -> None:
    say(session, 1, "First", "One")
    say(session, 2, "Forget the crocodile", status="queued")
    index_session(session.pk)
    request_cancel(session=session, is_rollback=True)
    say(session, 3, "Third", "Three")
    index_session(session.pk)
    assert [entry.turn for entry in entries(session)] == [1, 1, 3, 3]
    assert by_words(session, "crocodile") == []


def test_a_message_that_is_rolled_back_counts_once(session: AgentSession) -> None:
    say(session, 1, "First", "One")
    (message,) = say(session, 2, "Second", status="queued")
    IndexEntry.objects.create(
        session=session, message=message, ordinal=3, turn=2, position=0, last_position=0, word_count=1, lexemes=""
    )
    AgentSession.objects.filter(pk=session.pk).update(message_count=3)
    request_cancel(session=session, is_rollback=True)
    session.refresh_from_db()
    assert session.message_count == 2


def test_a_fork_has_an_index_of_its_own(session: AgentSession) -> None:
    first, _ = say(session, 1, "My ship is called Aurora", "I see")
    Message.objects.filter(pk=first.pk).update(is_pinned=True)
    say(session, 2, "It lies in Trieste", "Good")
    index_session(session.pk)
    fork = fork_session(session=session, message_id=first.pk)
    assert entries(fork) == []
    index_session(fork.pk)
    assert [entry.ordinal for entry in entries(fork)] == [1]
    assert by_words(fork, "ship Aurora Trieste") == ["My ship is called Aurora"]
    assert len(entries(session)) == 4
    assert [each.content for each in memory.pinned_messages(fork.pk, turn=LATER)] == ["My ship is called Aurora"]


def test_a_session_that_is_gone_is_nobodys_work() -> None:
    assert tend_session(uuid.uuid4()) is False


# --- embedders -------------------------------------------------------------------------------------------------------


def test_another_embedder_makes_all_vectors_anew_a_few_at_a_time(
    session: AgentSession, fake: FakeOpenAIProcess, settings: Any
) -> None:
    for turn in range(1, 41):
        say(session, turn, f"Question {turn}", f"Answer {turn}")
    index_session(session.pk)
    assert sessions_to_embed() == []
    use_embedder(settings, "embedder-12d")
    assert sessions_to_embed() == [session.pk]
    assert by_meaning(session, "Question 7") == [], "vectors of different versions are never compared"
    fake.forget_requests()
    tend_session(session.pk)
    assert versions(session) == {"embedder-12d#1"}
    assert {len(vector_of(entry)) for entry in entries(session)} == {12}
    assert max(fake.embedded()) == BATCH
    assert sum(fake.embedded()) == 80
    assert sessions_to_embed() == []
    assert by_meaning(session, "Question 7")


def test_while_vectors_are_made_anew_only_the_new_ones_are_compared(session: AgentSession, settings: Any) -> None:
    first, second = say(session, 1, "apples and pears", "apples and plums")
    index_session(session.pk)
    use_embedder(settings, "embedder-12d")
    set_embeddings({second.pk: [1.0] + [0.0] * 11}, model="embedder-12d#1")
    assert by_meaning(session, "apples and pears") == [second.content]
    assert by_words(session, "pears") == [first.content]


def test_a_model_that_has_changed_its_size_under_its_name_fails_no_search(session: AgentSession) -> None:
    first, second = say(session, 1, "apples and pears", "apples and plums")
    index_session(session.pk)
    set_embeddings({second.pk: [1.0] + [0.0] * 11}, model="embedder#1")
    assert by_meaning(session, "apples and pears") == [first.content]


def test_without_an_embedder_there_is_the_search_by_words(session: AgentSession, settings: Any) -> None:
    use_embedder(settings, "none")
    say(session, 1, "apples and pears", "apples and plums")
    assert index_session(session.pk) is False
    assert versions(session) == {""}
    assert by_words(session, "pears") == ["apples and pears"]
    assert by_meaning(session, "pears") is None
    assert sessions_to_embed() == []
    use_embedder(settings, "embedder")
    assert sessions_to_embed() == [session.pk]


def test_an_embedder_that_fails_is_left_alone_and_asked_later(session: AgentSession, fake: FakeOpenAIProcess) -> None:
    fake.break_models("embedder")
    for turn in range(1, 41):
        say(session, turn, f"Question {turn}", f"Answer {turn}")
    index_session(session.pk)
    assert len(entries(session)) == 80
    assert versions(session) == {""}
    assert indexing.circuit.is_open
    assert by_words(session, "Question 17")[0] == "Question 17"
    fake.break_models()
    assert sessions_to_embed() == [], "not asked while the circuit is open"
    index_session(session.pk)
    assert fake.embedded() == []
    indexing.circuit.succeeded()  # as after its pause
    assert sessions_to_embed() == [session.pk]
    index_session(session.pk)
    assert versions(session) == {"embedder#1"}


def test_a_text_that_the_embedder_refuses_keeps_no_vector_from_the_others(
    session: AgentSession, fake: FakeOpenAIProcess, settings: Any
) -> None:
    use_embedder(settings, "embedder-strict")
    for turn in range(1, 6):
        say(session, turn, f"apples {turn}", "unspeakable " + "pears " * 300 if turn == 3 else f"plums {turn}")
    assert index_session(session.pk) is False, "there is nothing more to do"
    assert not indexing.circuit.is_open
    assert versions(session) == {"embedder-strict#1"}
    # An entry's vector is also made of the end of the one before it, which the long one leaves out.
    assert [entry.ordinal for entry in entries(session) if entry.embedding is None] == [6]
    assert by_words(session, "unspeakable") != []
    assert len(by_meaning(session, "plums") or []) == 5
    assert sessions_to_embed() == []


def test_an_embedder_that_refuses_everything_is_left_alone(
    session: AgentSession, fake: FakeOpenAIProcess, settings: Any
) -> None:
    use_embedder(settings, "embedder-refusing")
    say(session, 1, "apples", "pears")
    index_session(session.pk)
    assert indexing.circuit.is_open
    assert versions(session) == {""}, "they are embedded when it is mended"


def test_vectors_made_anew_may_be_refused(session: AgentSession, fake: FakeOpenAIProcess, settings: Any) -> None:
    say(session, 1, "apples", "unspeakable")
    index_session(session.pk)
    use_embedder(settings, "embedder-strict")
    assert index_session(session.pk) is False
    assert versions(session) == {"embedder-strict#1"}
    assert [entry.embedding is None for entry in entries(session)] == [False, True]


def test_a_text_that_is_too_long_for_the_embedder_is_embedded_in_part(
    session: AgentSession, fake: FakeOpenAIProcess, settings: Any
) -> None:
    use_embedder(settings, "embedder-strict")
    say(session, 1, "apples and pears", "a " * 500 + "long answer")
    say(session, 2, "plums", "cherries")
    index_session(session.pk)
    assert versions(session) == {"embedder-strict#1"}
    assert not indexing.circuit.is_open
    assert (by_meaning(session, "cherries") or [""])[0] == "cherries"
    assert len(by_words(session, "long answer")) == 1
