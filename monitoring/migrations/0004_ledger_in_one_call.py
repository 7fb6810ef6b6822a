from pathlib import Path

from django.db import migrations

SQL = Path(__file__).resolve().parent.parent / "sql"


class Migration(migrations.Migration):
    """A reservation makes the accounts that it needs by itself."""

    dependencies = [
        ("monitoring", "0003_ledger_of_what_is_gone"),
    ]

    operations = [
        migrations.RunSQL(
            [(SQL / "ledger.sql").read_text(), "DROP FUNCTION IF EXISTS monitoring_open_accounts"],
            migrations.RunSQL.noop,
        ),
    ]
