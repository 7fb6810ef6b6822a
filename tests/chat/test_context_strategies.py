"""The strategies over generated histories: never above the budget, nothing torn apart, always an answer."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chat.agents.loop import as_chat_messages
from chat.context import excerpts, hierarchical, importance, retrieval, sliding_window, summarization
from chat.context.budget import Budget, ContextTooSmallError
from chat.context.combined import MIXTURES, Material, compose
from chat.context.cutting import cut, fit_turn
from chat.context.excerpts import Candidate
from chat.context.extractive import Line, extract
from chat.context.prepared import PreparedContext
from chat.context.steps import chat_tokens, shrink
from chat.context.summaries import SummaryText
from chat.context.units import Unit, tokens_of, units_of
from sessions_app.memory import Entry, Hit
from sessions_app.models import SummaryLevel
from sessions_app.prompt import PromptMessage
from sessions_app.token_counting import count_tokens, message_tokens

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)


def message(turn: int, role: str, content: str = "", *, position: int = 0, **fields: Any) -> PromptMessage:
    calls = fields.get("tool_calls", ())
    tokens = message_tokens(content, *(f"{call['name']} {orjson.dumps(call['arguments']).decode()}" for call in calls))
    return PromptMessage(
        turn * 100 + position,
        turn,
        position,
        role,
        content,
        calls,
        fields.get("tool_call_id", ""),
        tokens,
        NOW - timedelta(days=100) + timedelta(hours=6 * turn),
    )


texts = st.one_of(
    st.text(max_size=300),
    st.text(alphabet="we decided to meet Anna in 2026? 你好世界😀\n\x00", max_size=600),
    st.integers(1, 400).map(lambda number: "word " * number),
)


@st.composite
def histories(draw: Any) -> list[PromptMessage]:
    """Turns with answers, some of which call tools; ids of calls repeat from turn to turn."""
    found: list[PromptMessage] = []
    for turn in range(1, draw(st.integers(0, 12)) + 1):
        found.append(message(turn, "user", draw(texts)))
        position = 1
        if draw(st.booleans()):
            calls = [
                {"id": f"call-{number}", "name": "look_up", "arguments": {"q": draw(st.text(max_size=20))}}
                for number in range(draw(st.integers(1, 3)))
            ]
            said = draw(st.sampled_from(["", "Let me see."]))
            found.append(message(turn, "assistant", said, position=1, tool_calls=calls))
            for call in calls:
                position += 1
                found.append(message(turn, "tool", draw(texts), position=position, tool_call_id=call["id"]))
        found.append(message(turn, "assistant", draw(texts), position=position + 1))
    return found


def summaries_of(turns: int, size: int) -> list[SummaryText]:
    """Ranges of two turns, days of four, and one of all."""
    found: list[SummaryText] = []
    spans = [(SummaryLevel.TURNS, 2), (SummaryLevel.DAY, 4), (SummaryLevel.SESSION, max(turns, 1))]
    for level, span in spans:
        for first in range(1, turns + 1, span):
            text = f"{level.label} {first}: " + "fact " * size
            last = min(turns, first + span - 1)
            number, tokens = len(found) + 1, count_tokens(text)
            found.append(SummaryText(number, level, first, last, NOW, NOW, text, tokens, 4, 900))
    return found


def entries_of(units: Sequence[Unit]) -> list[Entry]:
    return [Entry(number, 1.0, unit.messages) for number, unit in enumerate(units, 1)]


def sent_tokens(prepared: PreparedContext) -> int:
    """Of what really goes out, counted by itself."""
    return sum(chat_tokens(each) for each in as_chat_messages("", prepared.messages))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    history=histories(),
    question=texts,
    room=st.integers(80, 3_000),
    strategy=st.sampled_from(sorted(MIXTURES)),
    summary_size=st.integers(1, 60),
    seed=st.randoms(use_true_random=False),
    data=st.data(),
)
def test_never_above_the_budget_and_nothing_torn_apart(
    history: list[PromptMessage], question: str, room: int, strategy: str, summary_size: int, seed: Any, data: Any
) -> None:
    turns = history[-1].turn if history else 0
    asked = message(turns + 1, "user", question)
    units = units_of(history)
    pinned = [unit for unit in units if data.draw(st.integers(0, 9)) == 0]
    if tokens_of(pinned) > room - 64:
        pinned = []
    left = Budget(room, 0, 0, 0).require_room(tokens_of(pinned))
    turn = fit_turn(units_of([asked]), left)
    fixed = {each.id for unit in pinned for each in unit.messages}
    free = [unit for unit in units if not unit.ids & fixed]
    entries = [entry for entry in entries_of(units) if not {each.id for each in entry.messages} & fixed]
    ranked = [Candidate(entry, 1.0, "words #1") for entry in entries]
    seed.shuffle(ranked)
    material = Material(free, {"retrieval": ranked, "importance": ranked[::-1]}, summaries_of(turns, summary_size))
    chosen = compose(material, MIXTURES[strategy], left - tokens_of(turn))
    prepared = PreparedContext(Budget(room, 0, 0, 0), turn, chosen, pinned)

    assert prepared.tokens <= room
    assert sent_tokens(prepared) <= room
    sent = as_chat_messages("", prepared.messages)
    awaited: list[str] = []
    for each in sent:
        if each["role"] == "tool":
            assert each["tool_call_id"] in awaited, "a result without its call"
            awaited.remove(each["tool_call_id"])
        else:
            assert not awaited, "a call without its result"
            awaited = [call["id"] for call in each.get("tool_calls", [])]
    assert not awaited
    for unit in pinned:
        assert all(each in prepared.messages for each in unit.messages), "pinned messages are there, verbatim"
    last = prepared.messages[-1]
    assert last.role == "user"
    if asked.token_count <= left:
        assert last.content == question
    else:
        assert last.token_count <= left
    ids = [each.id for each in prepared.messages if each.id]
    assert len(ids) == len(set(ids))
    told = [each.candidate.entry.ordinal for each in chosen.all_excerpts]
    assert len(told) == len(set(told))


@settings(max_examples=60, deadline=None)
@given(text=st.text(alphabet="word 你好😀é\n", max_size=4_000), tokens=st.integers(0, 400))
def test_a_cut_text_fits(text: str, tokens: int) -> None:
    kept = cut(text, tokens)
    assert count_tokens(kept) <= tokens
    assert kept == text or count_tokens(text) > tokens


def test_a_cut_says_so_in_the_middle() -> None:
    kept = cut("begin " + "middle " * 5_000 + "end", 100)
    assert kept.startswith("begin")
    assert kept.endswith("end")
    assert "tokens were cut here" in kept


@settings(max_examples=60, deadline=None)
@given(history=histories(), room=st.integers(100, 1_500))
def test_a_running_turn_of_any_size_fits(history: list[PromptMessage], room: int) -> None:
    """Its steps are all of one turn, as an agent's that works long."""
    messages = [message(9, "user", "Do it.")]
    for number, each in enumerate(history, 1):
        call_id = f"{each.turn}-{each.tool_call_id}" if each.tool_call_id else ""
        calls = [{**call, "id": f"{each.turn}-{call['id']}"} for call in each.tool_calls]
        role = "assistant" if each.role == "user" else each.role
        messages.append(message(9, role, each.content, position=number, tool_calls=calls, tool_call_id=call_id))
    kept = fit_turn(units_of(messages), room)
    assert tokens_of(kept) <= room
    assert kept[0].messages[0].content == "Do it."


def test_the_steps_of_a_run_are_kept_within_the_context() -> None:
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "long ago " * 200},
        {"role": "assistant", "content": "indeed " * 200},
        {"role": "user", "content": "Find it."},
    ]
    for number in range(4):
        call = {"id": str(number), "type": "function", "function": {"name": "find", "arguments": "{}"}}
        messages.append({"role": "assistant", "content": "", "tool_calls": [call]})
        messages.append({"role": "tool", "tool_call_id": str(number), "content": f"result {number} " * 300})
    total = sum(map(chat_tokens, messages))
    kept, saved = shrink(messages, total - 2_000, turn=3)
    assert sum(map(chat_tokens, kept)) == total - saved <= 2_000
    assert [each["content"] for each in kept[:2]] == ["Be brief.", "Find it."]
    assert "were cut here" in kept[3]["content"]
    assert kept[-1]["content"] == messages[-1]["content"], "the newest result is cut last"


def test_what_is_pinned_and_what_steers_the_turn_stays_among_its_steps() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "find", "arguments": "{}"}}
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Always in Slovene."},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "pinned " * 300},
        {"role": "user", "content": "long ago " * 200},
        {"role": "assistant", "content": "indeed " * 200},
        {"role": "user", "content": "Find it."},
        {"role": "assistant", "content": "", "tool_calls": [{**call, "id": "2"}]},
        {"role": "tool", "tool_call_id": "2", "content": "result " * 300},
        {"role": "user", "content": "And quickly."},
    ]
    kept, saved = shrink(messages, 100_000, turn=6, pinned={"Always in Slovene.", "1"})
    assert kept[:4] == messages[:4]
    assert [each["content"] for each in kept if each["role"] == "user"] == [
        "Always in Slovene.",
        "Find it.",
        "And quickly.",
    ]
    assert "were cut here" in kept[6]["content"]
    assert sum(map(chat_tokens, kept)) == sum(map(chat_tokens, messages)) - saved


# --- each strategy ---------------------------------------------------------------------------------------------------


def test_the_window_begins_at_the_same_place_for_several_turns() -> None:
    """Or no request would begin as the one before it, and the model's server would find nothing in its cache."""
    units = units_of(message(turn, "user", "word " * 20) for turn in range(1, 200))
    beginnings = [sliding_window.choose(units[:count], 1_000)[0].turn for count in range(120, 180)]
    assert len(set(beginnings)) <= len(beginnings) / 4
    full = [tokens_of(sliding_window.choose(units[:count], 1_000)) for count in range(120, 180)]
    assert min(full) > 600
    assert max(full) <= 1_000


def test_old_turns_are_told_coarsely_and_new_ones_finely() -> None:
    summaries = summaries_of(12, 20)
    everything = hierarchical.choose(summaries, 10_000)
    assert {each.level for each in everything} == {SummaryLevel.TURNS}
    less = hierarchical.choose(summaries, 230)
    assert [each.level for each in less] != [each.level for each in everything]
    assert sorted(turn for each in less for turn in range(each.first_turn, each.last_turn + 1)) == list(range(1, 13))
    assert less[-1].level <= less[0].level
    assert [each.level for each in hierarchical.choose(summaries, 80)] == [SummaryLevel.SESSION]
    assert hierarchical.choose(summaries, 10) == []


def test_summaries_of_the_newest_turns_are_kept_longest() -> None:
    chosen = summarization.choose(summaries_of(12, 20), 120)
    assert chosen
    assert chosen[-1].last_turn == 12
    assert all(each.level == SummaryLevel.TURNS for each in chosen)


def test_hits_of_both_searches_come_first_and_their_neighbours_after_them() -> None:
    ranked = retrieval.fuse([Hit(5, 9.0), Hit(50, 8.0)], [Hit(5, 0.9), Hit(70, 0.8)], limit=100)
    assert ranked[0].ordinal == 5
    assert ranked[0].why == "words #1, meaning #1"
    assert {each.ordinal for each in ranked[1:3]} == {4, 6}
    assert retrieval.fuse([], [], limit=100) == []


def test_what_matters_scores_higher_and_says_why() -> None:
    def scored(text: str, role: str = "user") -> float:
        return importance.score([message(1, role, text)])

    assert scored("ok") < scored("The weather was quite nice and we sat outside")
    assert scored("We decided to move to Lisbon on 4 May") > scored("The weather was quite nice and we sat outside")
    assert importance.signals([message(1, "user", "When does Anna arrive?")])["question"] == 1.0
    call = message(2, "assistant", position=1, tool_calls=[{"id": "1", "name": "find", "arguments": {}}])
    result = message(2, "tool", "Flight TP533", position=2, tool_call_id="1")
    assert "used result" in importance.signals([call, result], "You are on TP533, a flight to Lisbon: Flight")
    assert "used result" not in importance.signals([call, result], "I could not find it.")


def test_of_equally_important_messages_the_newer_comes_first() -> None:
    entries = entries_of(units_of([message(1, "user", "We agreed on 5"), message(300, "user", "We agreed on 6")]))
    assert [each.entry.ordinal for each in importance.candidates(entries, NOW)] == [2, 1]


def test_excerpts_stand_under_their_days_in_order() -> None:
    entries = entries_of(units_of(message(turn, "user", f"Said in {turn}") for turn in (2, 3, 30)))
    chosen = excerpts.choose([Candidate(entry, 1.0, "") for entry in reversed(entries)], 500, taken=())
    lines = excerpts.as_text(chosen).splitlines()
    assert lines[1:] == [
        f"[{entries[0].messages[0].created_at:%Y-%m-%d}]",
        "user: Said in 2",
        "user: Said in 3",
        f"[{entries[2].messages[0].created_at:%Y-%m-%d}]",
        "user: Said in 30",
    ]


@settings(max_examples=40, deadline=None)
@given(lines=st.lists(st.builds(Line, st.sampled_from(["user", ""]), texts), max_size=12), size=st.integers(20, 300))
def test_there_is_always_an_extractive_summary(lines: list[Line], size: int) -> None:
    text = extract(lines, size)
    assert text
    assert count_tokens(text) <= size


def test_an_extractive_summary_keeps_the_facts() -> None:
    small_talk = [Line("user", "Nice. Fine. Well, well. Oh yes, indeed it is so.")] * 20
    text = extract([*small_talk, Line("user", "We decided to meet on 4 May at 9:30 in Lisbon."), *small_talk], 60)
    assert "4 May at 9:30" in text


def test_a_budget_without_room_says_what_takes_it() -> None:
    with pytest.raises(ContextTooSmallError, match=r"system prompt \(500 tokens\).*pinned messages \(300\)"):
        Budget(1_000, 200, 500, 0).require_room(300)
