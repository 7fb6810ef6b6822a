from pathlib import Path

from django.db import migrations

SQL = Path(__file__).resolve().parent.parent / "sql"


class Migration(migrations.Migration):
    """Accounts follow what is deleted, and who joins or leaves a group."""

    dependencies = [
        ("monitoring", "0002_ledger"),
        ("sessions_app", "0007_token_rate"),
    ]

    operations = [
        migrations.RunSQL((SQL / "ledger.sql").read_text(), migrations.RunSQL.noop),
    ]
