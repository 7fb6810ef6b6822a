"""A turn from the message to the answer, over HTTP, through a real worker."""

import pytest

from tests.fakes.processes import FakeOpenAIProcess
from tests.site import Client, text_of

pytestmark = pytest.mark.usefixtures("no_traceback")

TERMINAL = {"done", "error", "cancelled"}


def test_it_streams_thoughts_tools_and_the_answer(client_of_site: Client) -> None:
    events = client_of_site.chat(client_of_site.new_session(), "What is 12*7 and what time is it in Tokyo?")
    types = [event["type"] for event in events]
    assert types[0] == "message"
    assert types.count("tool_call") == types.count("tool_result") == 2
    assert types.index("thought") < types.index("tool_call") < types.index("tool_result") < types.index("response")
    assert "**84**" in text_of(events)
    assert events[-1]["status"] == "succeeded"


def test_its_ids_rise_without_a_hole_and_only_the_last_event_is_terminal(client_of_site: Client) -> None:
    events = client_of_site.chat(client_of_site.new_session(), "Count to 50")
    assert [event["id"] for event in events] == [f"1-{n}" for n in range(1, len(events) + 1)]
    assert [event["type"] in TERMINAL for event in events] == [False] * (len(events) - 1) + [True]


def test_it_answers_with_one_json_object_when_not_streaming(client_of_site: Client) -> None:
    answer = client_of_site.ask(client_of_site.new_session(), "What is 2+3?")
    assert answer["response"] == "- `2+3` = **5**"
    assert [(call["tool"], call["args"], call["result"]) for call in answer["tool_calls"]] == [
        ("calculator", {"expression": "2+3"}, 5)
    ]
    assert len(answer["thought_process"]) == 2
    assert answer["usage"]["output_tokens"] > 0


def test_it_keeps_the_conversation(client_of_site: Client) -> None:
    session = client_of_site.new_session()
    client_of_site.ask(session, "My cat is called Minka.")
    answer = client_of_site.ask(session, "Search for Minka")
    assert "My cat is called Minka." in answer["response"]
    history = client_of_site.http.get(f"/sessions/{session}/history").json()
    roles = [message["role"] for message in history["messages"]]
    assert roles == ["user", "assistant", "user", "assistant", "tool", "assistant"]
    assert history["cursor"].startswith("2-")


def test_it_streams_every_token_of_a_model(client_of_site: Client) -> None:
    events = client_of_site.chat(client_of_site.new_session("chat"), "hi [[tokens=300]]")
    assert text_of(events) == "".join(f"tok{n} " for n in range(300))


def test_it_tells_a_models_reasoning_as_thoughts(client_of_site: Client) -> None:
    events = client_of_site.chat(client_of_site.new_session("chat"), "hi [[tokens=3 reasoning=4]]")
    assert text_of(events, "thought") == "think0 think1 think2 think3 "


def test_it_records_what_the_provider_counted(client_of_site: Client) -> None:
    client = client_of_site
    session = client.new_session("chat")
    answer = client.ask(session, "hi [[tokens=20]]")
    assert answer["usage"]["output_tokens"] == 20
    assert client.http.get(f"/runs/{answer['run_id']}").json()["usage"] == answer["usage"]
    assert client.http.get(f"/sessions/{session}").json()["usage"]["output_tokens"] == 20


def test_it_counts_itself_where_the_provider_does_not(client_of_site: Client) -> None:
    answer = client_of_site.ask(client_of_site.new_session("chat"), "hi [[tokens=20 no_usage]]")
    assert answer["usage"]["output_tokens"] > 20
    assert answer["usage"]["input_tokens"] > 20


def test_it_runs_the_tools_that_a_model_asks_for(client_of_site: Client, fake: FakeOpenAIProcess) -> None:
    message = 'add [[tool=calculator args={"expression":"2+2"} tool=clock args={"timezone":"Asia/Tokyo"}]]'
    answer = client_of_site.ask(client_of_site.new_session("chat"), message)
    assert [call["tool"] for call in answer["tool_calls"]] == ["calculator", "clock"]
    assert answer["tool_calls"][0]["result"] == 4
    roles = [message["role"] for message in fake.requests()[-1]["body"]["messages"]]
    assert roles == ["system", "user", "assistant", "tool", "tool"]


def test_a_tool_that_fails_is_told_to_the_model_not_to_the_user(client_of_site: Client) -> None:
    message = '[[tool=calculator args={"expression":"1/0"}]]'
    answer = client_of_site.ask(client_of_site.new_session("chat"), message)
    assert answer["status"] == "succeeded"
    assert answer["tool_calls"][0]["is_error"] is True


def test_an_unknown_tool_is_told_to_the_model(client_of_site: Client) -> None:
    answer = client_of_site.ask(client_of_site.new_session("chat"), "[[tool=rocket args={}]]")
    assert answer["status"] == "succeeded"
    assert "no tool" in answer["tool_calls"][0]["result"]


def failure_of(client: Client, directive: str) -> tuple[str, str]:
    events = client.chat(client.new_session("chat"), f"hi [[{directive}]]")
    last = events[-1]
    assert last["type"] == "error"
    run = client.http.get(f"/runs/{last['run_id']}").json()
    assert run["status"] == "failed"
    assert run["error"]["code"] == last["code"]
    assert run["cursor"] == last["id"]
    return last["code"], text_of(events)


def test_a_model_server_that_refuses_ends_the_run_in_an_error(client_of_site: Client) -> None:
    assert failure_of(client_of_site, "status=500") == ("model_error", "")
    assert failure_of(client_of_site, "status=401") == ("model_error", "")
    assert failure_of(client_of_site, "html") == ("model_error", "")


def test_a_stream_that_breaks_off_keeps_what_came(client_of_site: Client) -> None:
    code, text = failure_of(client_of_site, "tokens=20 cut=5")
    assert code == "model_error"
    assert text.startswith("tok0 ")


def test_an_error_inside_the_stream_ends_the_run(client_of_site: Client) -> None:
    code, text = failure_of(client_of_site, "tokens=20 error_after=3")
    assert (code, text) == ("model_error", "tok0 tok1 tok2 ")


def test_a_failed_run_does_not_stop_the_session(client_of_site: Client) -> None:
    session = client_of_site.new_session("chat")
    assert client_of_site.ask(session, "[[status=500]]")["status"] == "failed"
    assert client_of_site.ask(session, "[[tokens=2]]")["response"] == "tok0 tok1 "
