from django.apps.registry import Apps
from django.db import migrations
from django.db.backends.base.schema import BaseDatabaseSchemaEditor

TOOLS = ["calculator", "clock", "search_conversation"]
AGENT_TYPES = {
    "demo": {
        "title": "Demo",
        "description": "Answers without a model: simple patterns, real tools.",
        "runtime": "demo",
    },
    "chat": {
        "title": "Chat",
        "description": "The model that AGENT_MODEL names, with tools.",
        "runtime": "chat",
        "system_prompt": (
            "You are a helpful assistant. Answer in Markdown, briefly and exactly. Use the calculator for arithmetic, "
            "the clock for times and dates, and search_conversation for what was said long ago."
        ),
    },
}


def seed(apps: Apps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    agent_type = apps.get_model("sessions_app", "AgentType")
    for name, fields in AGENT_TYPES.items():
        agent_type.objects.get_or_create(name=name, defaults={**fields, "tools": TOOLS})


class Migration(migrations.Migration):
    dependencies = [("sessions_app", "0001_initial")]
    operations = [migrations.RunPython(seed, migrations.RunPython.noop)]
