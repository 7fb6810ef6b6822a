from pathlib import Path

from django.db import migrations

SQL = Path(__file__).resolve().parent.parent / "sql"


class Migration(migrations.Migration):
    dependencies = [
        ("sessions_app", "0007_token_rate"),
    ]

    operations = [
        migrations.RunSQL((SQL / "accept.sql").read_text(), "DROP FUNCTION sessions_app_accept"),
    ]
