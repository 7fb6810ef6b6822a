"""An agent of one's own: ten lines, named in the settings, answering through the whole system."""

from tests.site import Client, Site, text_of

CREATE = "from sessions_app.models import AgentType; AgentType.objects.create(name='own', title='Own', runtime='own')"


def chat(client: Client, message: str) -> list[dict[str, object]]:
    return client.chat(client.new_session("own"), message)


def test_it_streams_calls_tools_and_fails_in_order(site: Site) -> None:
    with site.client() as client:
        add_agent_type(site)
        events = chat(client, "hello")
        assert [event["type"] for event in events] == [
            *("message", "thought", "tool_call", "tool_result", "response", "done")
        ]
        assert text_of(events) == "olleh \ufffd ?"  # NUL and half a character cannot be kept
        broken = chat(client, "break")
        assert (broken[-1]["type"], broken[-1]["code"]) == ("error", "internal_error")
        assert "secret" not in str(broken)
        assert site.log("worker").count("RuntimeError: secret") == 1
        strange = chat(client, "strange")
        assert (strange[-1]["type"], strange[-1]["code"]) == ("error", "internal_error")


def add_agent_type(site: Site) -> None:
    site.manage("shell", "-v", "0", "-c", CREATE)
