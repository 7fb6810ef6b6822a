from django.urls import re_path

from chat import api

urlpatterns = [
    re_path(r"^sessions/(?P<session_id>[^/]+)/chat/?$", api.ChatView.as_view(), name="chat"),
    re_path(r"^sessions/(?P<session_id>[^/]+)/events/?$", api.EventsView.as_view(), name="events"),
    re_path(r"^sessions/(?P<session_id>[^/]+)/cancel/?$", api.CancelView.as_view(), name="cancel"),
    re_path(r"^sessions/(?P<session_id>[^/]+)/context/?$", api.ContextView.as_view(), name="context"),
    re_path(r"^agent/(?P<session_id>[^/]+)/chat/?$", api.AgentChatView.as_view(), name="agent-chat"),
    re_path(r"^runs/(?P<run_id>[^/]+)/retry/?$", api.RetryView.as_view(), name="run-retry"),
    re_path(r"^agents/?$", api.AgentsView.as_view(), name="agents"),
]
