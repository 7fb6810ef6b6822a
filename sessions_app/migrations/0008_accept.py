from pathlib import Path

from django.db import migrations

SQL = Path(__file__).resolve().parent.parent / "sql"

WAITING_COUNT_AS_NOT_DISPATCHED = """
UPDATE sessions_app_run r SET dispatched_at = NULL
WHERE r.status = 'queued' AND EXISTS (
    SELECT 1 FROM sessions_app_run o
    WHERE o.session_id = r.session_id AND o.turn < r.turn AND o.status IN ('queued', 'running', 'awaiting_approval'))
"""


class Migration(migrations.Migration):
    dependencies = [
        ("sessions_app", "0007_token_rate"),
    ]

    operations = [
        migrations.RunSQL((SQL / "accept.sql").read_text(), "DROP FUNCTION sessions_app_accept"),
        migrations.RunSQL(WAITING_COUNT_AS_NOT_DISPATCHED, migrations.RunSQL.noop),
    ]
