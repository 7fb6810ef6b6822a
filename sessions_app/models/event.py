from django.db import models

from sessions_app.models.run import Run
from sessions_app.models.session import AgentSession


class Event(models.Model):
    """A fact of the event stream: what is left of a run's events once its deltas are merged.

    `seq` is the id's second half, `first_seq` that of the first delta merged into it (equal where
    nothing was merged). The live deltas are in Redis only.
    """

    session = models.ForeignKey(AgentSession, models.CASCADE, related_name="events", db_index=False)
    run = models.ForeignKey(Run, models.CASCADE, related_name="events")
    epoch = models.BigIntegerField()
    first_seq = models.PositiveIntegerField()
    seq = models.PositiveIntegerField()
    type = models.CharField(max_length=30)
    data = models.JSONField(default=dict)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["epoch", "seq"]
        constraints = [
            # An event id is never reused; also the index of every read after a cursor.
            models.UniqueConstraint(fields=["session", "epoch", "seq"], name="event_id_once"),
            models.UniqueConstraint(
                fields=["run"],
                condition=models.Q(type__in=["done", "error", "cancelled"]),
                name="event_one_terminal_per_run",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.epoch}-{self.seq} {self.type}"
