"""The operators' view of sessions. Conversations, runs and usage are a record: to read, not to edit."""

from django.contrib import admin

from sessions_app.admin import access, agent_types, conversations, summaries, tool_calls, usage

admin.site.site_header = admin.site.site_title = "Agentsite"
admin.site.index_title = "Operation"

__all__ = ["access", "agent_types", "conversations", "summaries", "tool_calls", "usage"]
