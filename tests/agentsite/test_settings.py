"""Settings fail loudly; a production without what it needs does not start."""

import os
import subprocess
import sys

import pytest

from tests.fakes.processes import PROJECT


def run(*argv: str, **env: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG")}
    env = {**kept, "DATA_DIR": "/nonexistent", **env}
    return subprocess.run([sys.executable, *argv], cwd=PROJECT, env=env, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"DEBUG": "maybe"}, "Unexpected value DEBUG=maybe, use 1 or 0."),
        ({"PORT": "http"}, "Unexpected value PORT=http, use a whole number."),
        ({"PORT": "0"}, "Unexpected value PORT=0, use 1 or more."),
        ({"PORT": "99999"}, "Unexpected value PORT=99999, use 65535 or less."),
        ({"ASGI_SERVER": "gunicorn"}, "Unexpected value ASGI_SERVER=gunicorn, use one of: uvicorn, daphne."),
        ({"DATABASE_URL": "mysql://a:secret@b/c"}, "Unexpected DATABASE_URL, use postgresql://"),
    ],
)
def test_a_wrong_value_is_one_clear_line(env: dict[str, str], said: str) -> None:
    done = run("manage.py", "up", **env)
    assert done.returncode == 1
    assert done.stderr.startswith(f"agentsite: {said}")
    assert done.stderr.count("\n") == 1
    assert "secret" not in done.stderr


@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("MAX_CONCURRENT_AGENTS", 0),
        ("MAX_TOKENS_PER_SESSION", 0),
        ("MAX_TOOL_CALLS_PER_MINUTE", 0),
        ("MAX_SESSION_DURATION_SECONDS", 0),
        ("SLOT_WAIT_SECONDS", 1),
        ("TOOL_RATE_WAIT_SECONDS", 0),
        ("MAX_OUTPUT_TOKENS", 1),
        ("MIN_OUTPUT_TOKENS", 1),
        ("REQUESTS_PER_MINUTE", 1),
        ("ANONYMOUS_REQUESTS_PER_MINUTE", 1),
    ],
)
def test_a_limit_is_not_negative(name: str, least: int) -> None:
    done = run("-c", "import agentsite.settings", **{name: str(least - 1)})
    assert f"Unexpected value {name}={least - 1}, use {least} or more." in done.stderr
    assert run("-c", "import agentsite.settings", **{name: str(least)}).returncode == 0


def test_debug_is_off_by_default() -> None:
    code = "from agentsite import settings; print(settings.DEBUG, settings.SECRET_KEY == '')"
    assert run("-c", code).stdout.strip() == "False True"


def test_a_server_refuses_to_start_without_a_secret_key() -> None:
    done = run("-c", "import agentsite.asgi")
    assert (done.returncode, done.stderr) == (1, "agentsite: SECRET_KEY is not set. (agentsite.E001)\n")


def test_a_server_refuses_to_start_without_its_database() -> None:
    url = "postgresql://user:secret@127.0.0.1:1/agents"
    done = run("-c", "import agentsite.asgi", SECRET_KEY="k", DATABASE_URL=url, LOG_LEVEL="ERROR")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "agentsite: The database 'agents' at 127.0.0.1 cannot be reached. Check DATABASE_URL."
    )
    assert "secret" not in done.stderr
    assert "Traceback" not in done.stderr


def test_https_makes_the_cookies_secure() -> None:
    names = ("SESSION_COOKIE_SECURE", "CSRF_TRUSTED_ORIGINS", "ALLOWED_HOSTS")
    code = f"from agentsite import settings as s; print(*(getattr(s, name) for name in {names}))"
    done = run("-c", code, PUBLIC_URL="https://agents.example.org/")
    assert done.stdout.startswith("True ['https://agents.example.org'] [")
    assert "'agents.example.org'" in done.stdout
