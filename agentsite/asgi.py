"""The ASGI application: streams and WebSockets by the gateway, everything else by Django."""

import gc
import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "agentsite.settings")

from django.core.asgi import get_asgi_application

django_application = get_asgi_application()  # loads the apps, which the imports below need

from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from django.urls import re_path  # noqa: E402

from agentsite.startup import refuse_to_start_if_misconfigured  # noqa: E402
from chat.consumers import SessionConsumer, UnknownPathConsumer  # noqa: E402
from chat.streaming_urls import StreamingGateway  # noqa: E402

refuse_to_start_if_misconfigured()

application = ProtocolTypeRouter(
    {
        "http": StreamingGateway(django_application),
        "websocket": URLRouter(
            [
                re_path(r"^ws/(?P<session_id>[^/]+)/?$", SessionConsumer.as_asgi()),
                re_path(r"", UnknownPathConsumer.as_asgi()),
            ]
        ),
    }
)

# What is loaded by now stays: a full collection that went through it would hold up every open stream for 0.1 s.
gc.collect()
gc.freeze()
