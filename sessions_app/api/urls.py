from django.urls import re_path

from sessions_app.api import approvals, context, views

SESSION = r"^sessions/(?P<session_id>[^/]+)"

urlpatterns = [
    re_path(r"^sessions/?$", views.SessionsView.as_view(), name="sessions"),
    re_path(rf"{SESSION}/?$", views.SessionView.as_view(), name="session"),
    re_path(rf"{SESSION}/extend/?$", views.ExtendView.as_view(), name="session-extend"),
    re_path(rf"{SESSION}/fork/?$", views.ForkView.as_view(), name="session-fork"),
    re_path(rf"{SESSION}/state/?$", views.StateView.as_view(), name="session-state"),
    re_path(rf"{SESSION}/history/?$", views.HistoryView.as_view(), name="session-history"),
    re_path(rf"{SESSION}/messages/(?P<message_id>[^/]+)/?$", context.MessageView.as_view(), name="message"),
    re_path(rf"{SESSION}/summaries/?$", context.SummariesView.as_view(), name="summaries"),
    re_path(
        rf"{SESSION}/summaries/(?P<summary_id>[^/]+)/revert/?$",
        context.SummaryRevertView.as_view(),
        name="summary-revert",
    ),
    re_path(
        rf"{SESSION}/summaries/(?P<summary_id>[^/]+)/restore/?$",
        context.SummaryRestoreView.as_view(),
        name="summary-restore",
    ),
    re_path(rf"{SESSION}/runs/?$", views.RunsView.as_view(), name="session-runs"),
    re_path(r"^runs/(?P<run_id>[^/]+)/?$", views.RunView.as_view(), name="run"),
    re_path(
        r"^runs/(?P<run_id>[^/]+)/tool_calls/(?P<call_id>[^/]+)/?$",
        approvals.ToolCallView.as_view(),
        name="tool-call",
    ),
    re_path(
        r"^runs/(?P<run_id>[^/]+)/tool_calls/(?P<call_id>[^/]+)/settle/?$",
        approvals.SettleView.as_view(),
        name="tool-call-settle",
    ),
    re_path(rf"{SESSION}/approvals/?$", approvals.ApprovalsView.as_view(), name="approvals"),
    re_path(r"^tickets/?$", views.TicketsView.as_view(), name="tickets"),
    re_path(r"^tokens/?$", views.TokensView.as_view(), name="tokens"),
    re_path(r"^tokens/(?P<token_id>\d{1,18})/?$", views.TokenView.as_view(), name="token"),
]
