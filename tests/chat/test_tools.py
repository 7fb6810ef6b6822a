"""The built-in tools and what the demo agent makes of a request."""

import asyncio
import time
import uuid
from typing import Any

import pytest

from chat.agents.demo import plan
from chat.agents.events import ToolCall, ToolResult
from chat.agents.tools.base import NoLedger, Tool, ToolContext, ToolError
from chat.agents.tools.calculator import calculate
from chat.agents.tools.clock import find_zone
from chat.agents.tools.running import ToolRunner

CONTEXT = ToolContext(uuid.uuid4(), uuid.uuid4())
TOOLS = {"calculator", "clock", "search_conversation"}


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("2+3*4", 14),
        ("(2+3)*4", 20),
        ("2^10", 1024),
        ("-3 // 2", -2),
        ("7 % 4", 3),
        ("1,000 * 2", 2000),
        ("sqrt(16)", 4.0),
        ("max(1, 2) - abs(-5)", -3),
        ("0.1 + 0.2", pytest.approx(0.3)),
    ],
)
def test_it_calculates(expression: str, value: Any) -> None:
    assert calculate(expression) == value


@pytest.mark.parametrize(
    "expression",
    [
        "",
        "1/0",
        "9**9**9",
        "9" * 400 + "**400",
        "__import__('os')",
        "().__class__",
        "'a' * 9",
        "[1]*9",
        "lambda: 1",
        "(-1)**0.5",
        "1e308*10",
        "True + 1",
        "x",
        "1 @ 2",
        "1" * 501,
        "(" * 200 + ")" * 200,
        "round(1, ndigits=2)",
    ],
)
def test_it_refuses_all_else_and_quickly(expression: str) -> None:
    started = time.process_time()
    with pytest.raises(ToolError):
        calculate(expression)
    assert time.process_time() - started < 1.0  # a bound against hanging, not a measurement


def test_it_knows_zones_by_city() -> None:
    assert find_zone("tokyo") == "Asia/Tokyo"
    assert find_zone("New York") == "America/New_York"
    assert find_zone("Europe/Berlin") == "Europe/Berlin"
    assert find_zone("Atlantis") is None


@pytest.mark.parametrize(
    ("message", "tools"),
    [
        ("What is 12*7 and what time is it in Tokyo and New York?", ["calculator", "clock", "clock"]),
        ("What is 2+2, 3*3 and sqrt(16)?", ["calculator"] * 3),
        ("What time is it?", ["clock"]),
        ("Do you remember what I said about cats?", ["search_conversation"]),
        ("call 555-1234 (now)", []),
        ("I have 3 apples", []),
    ],
)
def test_the_demo_agent_plans_the_tools_that_a_request_needs(message: str, tools: list[str]) -> None:
    calls = list(plan(message, "p", TOOLS))
    assert [call.tool for call in calls] == tools
    assert len({call.id for call in calls}) == len(calls)
    assert list(plan(message, "p", set())) == []


def run(function: Any, **args: Any) -> ToolResult:
    tool = Tool("t", "", {}, function, timeout_seconds=0.2)

    async def first() -> ToolResult:
        runner = ToolRunner({"t": tool}, CONTEXT, NoLedger())
        (result,) = [result async for result in runner.run([ToolCall("c", "t", args)])]
        return result

    return asyncio.run(first())


def test_a_tool_that_never_returns_is_given_up() -> None:
    async def hang(context: ToolContext) -> None:
        await asyncio.Event().wait()

    result = run(hang)
    assert (result.is_error, result.result) == (True, "The tool t did not answer in time.")


def test_arguments_that_do_not_fit_are_told() -> None:
    result = run(lambda context, a: a, b=1)
    assert result.is_error
    assert "argument" in result.result


def test_a_crash_is_told_without_its_words() -> None:
    def crash(context: ToolContext) -> None:
        raise RuntimeError("password is 1234")

    assert run(crash).result == "The tool t failed."


def test_a_result_that_is_not_json_is_a_failure() -> None:
    assert run(lambda context: object()).is_error


def test_tools_of_one_answer_run_at_the_same_time() -> None:
    meeting = asyncio.Barrier(3)

    async def meet(context: ToolContext) -> str:
        await meeting.wait()  # nobody returns before all are there
        return "met"

    async def all_of_them() -> list[Any]:
        calls = tuple(ToolCall(str(number), "meet") for number in range(3))
        runner = ToolRunner({"meet": Tool("meet", "", {}, meet)}, CONTEXT, NoLedger())
        return [result.result async for result in runner.run(calls)]

    assert asyncio.run(all_of_them()) == ["met"] * 3
