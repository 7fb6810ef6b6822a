from pathlib import Path

from django.db import migrations

SQL = Path(__file__).resolve().parent.parent / "sql"


class Migration(migrations.Migration):
    dependencies = [
        ("monitoring", "0001_quotas"),
        ("sessions_app", "0006_usage"),
        ("auth", "0012_alter_user_first_name_max_length"),
    ]

    operations = [
        migrations.RunSQL((SQL / "ledger.sql").read_text(), (SQL / "drop_ledger.sql").read_text()),
    ]
