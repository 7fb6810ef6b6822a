"""Agent types: mistakes are refused in words, and every change is a version."""

from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.db import connection

from sessions_app.agent_config import AgentConfig
from sessions_app.model_names import split_model_name
from sessions_app.models import AgentType, AgentTypeVersion, McpServer

pytestmark = pytest.mark.django_db


def agent_type(**fields: Any) -> AgentType:
    return AgentType(**{"name": "new", "title": "New", "runtime": "demo", **fields})


@pytest.mark.parametrize(
    ("fields", "field", "said"),
    [
        (
            {"runtime": "os.system"},
            "runtime",
            "'os.system' is not in the setting AGENT_RUNTIMES, which has: demo, chat",
        ),
        ({"tools": ["rm"]}, "tools", "'rm' is not in the setting AGENT_TOOLS"),
        ({"tools": "clock"}, "tools", "This is a JSON list of names."),
        ({"tools": ["clock", "clock"]}, "tools", "A name stands here twice."),
        ({"tools": ["clock"], "eager_tools": ["calculator"]}, "eager_tools", "not one of the tools of this agent type"),
        ({"mcp_servers": ["nowhere"]}, "mcp_servers", "There is no MCP server 'nowhere'."),
        ({"model": "@nowhere"}, "model", "'nowhere' is not in the setting MODEL_ENDPOINTS"),
        ({"fallback_models": ["@nowhere"]}, "fallback_models", "MODEL_ENDPOINTS"),
        ({"fallback_models": [1]}, "fallback_models", "This is a JSON list of names."),
        ({"response_schema": {"type": "array"}}, "response_schema", '"type": "object"'),
        ({"response_schema": {"type": "object", "required": 5}}, "response_schema", "This is not a JSON schema"),
        ({"required_capabilities": ["GPU!"]}, "required_capabilities", "'GPU!' is no capability"),
        ({"required_capabilities": list("abcdef")}, "required_capabilities", "At most 5"),
        ({"max_steps": 0}, "max_steps", "greater than or equal to 1"),
        ({"model_retries": 11}, "model_retries", "less than or equal to 10"),
        ({"approval_policy": "maybe"}, "approval_policy", "is not a valid choice"),
        ({"on_approval_expiry": "wait"}, "on_approval_expiry", "is not a valid choice"),
        ({"context_strategy": "all"}, "context_strategy", "is not a valid choice"),
        ({"context_shares": ["retrieval"]}, "context_shares", "a JSON object of strategies and numbers"),
        ({"context_shares": {"combined": 1}}, "context_shares", "'combined' is no strategy with a share"),
        ({"context_shares": {"retrieval": 0}}, "context_shares", "a number above 0, 1 at most"),
        ({"context_shares": {"retrieval": True}}, "context_shares", "a number above 0, 1 at most"),
        ({"context_shares": {"retrieval": 0.6, "importance": 0.6}}, "context_shares", "more than 1 together"),
        ({"max_context_tokens": 500, "system_prompt": "rule " * 400}, "max_context_tokens", "leave 0 of 500 tokens"),
        ({"summary_model": "@nowhere"}, "summary_model", "MODEL_ENDPOINTS"),
    ],
)
def test_a_mistake_is_refused_with_a_sentence_at_its_field(fields: dict[str, Any], field: str, said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        agent_type(**fields).full_clean()
    assert said in " ".join(caught.value.message_dict[field])


def test_what_is_right_is_taken() -> None:
    McpServer.objects.create(name="files", url="http://files.example/mcp")
    schema = {"type": "object", "properties": {"colour": {"type": "string"}}}
    fields = {"tools": ["clock"], "eager_tools": ["clock"], "mcp_servers": ["files"], "response_schema": schema}
    agent_type(**fields, model="gpt@default", fallback_models=["small"], required_capabilities=["gpu"]).full_clean()
    shares = {"sliding_window": 0.5, "importance": 0.25, "retrieval": 0.25}
    agent_type(context_shares=shares, max_context_tokens=4_000, summary_model="extractive").full_clean()


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"url": ""}, "url"),
        ({"transport": "stdio", "command": []}, "command"),
        ({"transport": "stdio", "command": ["rm", "-rf"]}, "command"),
        ({"url": "http://x.example", "headers": {"Authorization": "Bearer $SECRET_KEY"}}, "headers"),
        ({"url": "http://x.example", "headers": ["x"]}, "headers"),
        ({"url": "http://x.example", "allowed_tools": "add"}, "allowed_tools"),
    ],
)
def test_an_mcp_server_that_cannot_be_is_refused(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError) as caught:
        McpServer(name="x", **fields).full_clean()
    assert field in caught.value.message_dict


def test_each_change_is_a_version_and_nothing_else_is(user: Any) -> None:
    one = agent_type()
    one.save()
    one.save()
    assert AgentType.objects.get(name="new").version == 1
    one.is_enabled = False  # not what a run works by
    one.save()
    assert one.version == 1
    one.system_prompt = "Be brief."
    one.save(changed_by=user)
    versions = AgentTypeVersion.objects.filter(agent_type=one)
    assert [(each.version, each.config["system_prompt"], each.created_by) for each in versions] == [
        (2, "Be brief.", user),
        (1, "", None),
    ]
    assert AgentType.objects.get(name="new").version == 2


def test_a_stale_copy_makes_a_new_version_too() -> None:
    one = agent_type()
    one.save()
    first, second = AgentType.objects.get(pk=one.pk), AgentType.objects.get(pk=one.pk)
    first.model, second.model = "a", "b"
    first.save()
    second.save()
    assert list(AgentTypeVersion.objects.filter(agent_type=one).values_list("version", flat=True)) == [3, 2, 1]
    assert AgentType.objects.get(pk=one.pk).version == 3


def test_those_that_come_with_the_site_have_a_version() -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM sessions_app_agenttype a LEFT JOIN sessions_app_agenttypeversion v "
            "ON v.agent_type_id = a.id AND v.version = a.version WHERE v.id IS NULL"
        )
        assert cursor.fetchone() == (0,)


def test_an_older_or_newer_snapshot_can_be_read() -> None:
    config = AgentConfig.from_json({"name": "x", "runtime": "demo", "of_the_future": 1})
    assert (config.max_steps, config.tools) == (10, [])


def test_the_endpoint_stands_behind_the_model(settings: Any) -> None:
    settings.MODEL_ENDPOINTS = {"default": {}, "local": {}}
    assert split_model_name("small@local") == ("small", "local")
    assert split_model_name("claude@20250101") == ("claude@20250101", "default")
    assert split_model_name("") == ("", "default")
