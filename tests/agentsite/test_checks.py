"""Each mistake across settings has its check."""

from typing import Any

import pytest

from agentsite import checks


def ids(messages: list[Any]) -> list[str]:
    return [message.id for message in messages]


def test_a_model_needs_a_key_or_a_server(settings: Any) -> None:
    settings.AGENT_MODEL, settings.OPENAI_API_KEY, settings.OPENAI_BASE_URL = "gpt", "", ""
    assert ids(checks.check_model()) == ["agentsite.E002"]
    settings.OPENAI_API_KEY = "k"
    assert checks.check_model() == []


def test_models_have_names(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert checks.check_model_names() == []
    settings.EMBEDDING_MODEL, settings.SUMMARY_MODEL = "@typo", "@default"
    assert ids(checks.check_model_names()) == ["agentsite.E010"] * 2
    settings.EMBEDDING_MODEL, settings.SUMMARY_MODEL = "local", "someone@home"
    monkeypatch.setattr(checks, "find_spec", lambda name: None)
    assert ids(checks.check_model_names()) == ["agentsite.E011"]


def test_runtimes_and_tools_can_be_imported(settings: Any) -> None:
    assert checks.check_registries() == []
    settings.AGENT_RUNTIMES = {"x": "nowhere.Agent"}
    settings.AGENT_TOOLS = {"y": "chat.agents.tools.clock.nothing"}
    assert ids(checks.check_registries()) == ["agentsite.E003"] * 2


def test_every_database_thread_gets_a_connection(settings: Any) -> None:
    settings.DATABASE_POOL_SIZE, settings.DATABASE_THREADS = 11, 8
    assert ids(checks.check_pool()) == ["agentsite.E004"]
    settings.DATABASE_POOL_SIZE = 12
    assert checks.check_pool() == []


def test_the_encoding_loads_without_a_network(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert checks.check_encoding() == []
    monkeypatch.setattr(checks, "encoding", lambda: 1 / 0)
    assert ids(checks.check_encoding()) == ["agentsite.E005"]


def test_the_reserve_leaves_room_for_the_conversation(settings: Any) -> None:
    settings.MODEL_CONTEXT_TOKENS = settings.MODEL_RESERVE_TOKENS = 1_000
    assert ids(checks.check_context_budget()) == ["agentsite.E006"]


def test_debug_on_a_network_is_warned_of(settings: Any) -> None:
    settings.DEBUG, settings.HOST = True, "0.0.0.0"
    assert ids(checks.check_debug()) == ["agentsite.W001"]
    settings.ALLOWED_HOSTS = ["*"]
    assert ids(checks.check_hosts()) == ["agentsite.W002"]


def test_the_shortest_answer_fits(settings: Any) -> None:
    assert checks.check_output_tokens() == []
    settings.MIN_OUTPUT_TOKENS = settings.MAX_OUTPUT_TOKENS + 1
    assert ids(checks.check_output_tokens()) == ["agentsite.E008", "agentsite.E009"]


def test_waits_that_cannot_be_kept_are_warned_of(settings: Any) -> None:
    assert [*checks.check_slot_wait(), *checks.check_tool_rate_wait(), *checks.check_session_duration()] == []
    settings.SLOT_WAIT_SECONDS = settings.SWEEP_SECONDS - 1
    assert ids(checks.check_slot_wait()) == ["agentsite.W003"]
    settings.TOOL_RATE_WAIT_SECONDS = 61
    assert ids(checks.check_tool_rate_wait()) == ["agentsite.W004"]
    settings.MAX_SESSION_DURATION_SECONDS = 1
    assert ids(checks.check_session_duration()) == ["agentsite.W005"]
    settings.MAX_SESSION_DURATION_SECONDS = 0
    assert checks.check_session_duration() == []
