"""What is kept beside the messages so that a long conversation fits a short prompt. All of it can be made again."""

from django.contrib.postgres.search import SearchVectorField
from django.db import models
from django.utils import timezone
from pgvector.django import HalfVectorField

from sessions_app.models.message import Message
from sessions_app.models.session import AgentSession


class IndexEntry(models.Model):
    """How one message is found again. A tool call and its results are one entry, under the message that calls.

    `ordinal` counts a session's entries, so that a hit's neighbours are known.
    """

    message = models.OneToOneField(Message, models.CASCADE, primary_key=True, related_name="index_entry")
    session = models.ForeignKey(AgentSession, models.CASCADE, related_name="+", db_index=False)
    ordinal = models.PositiveIntegerField()
    turn = models.PositiveIntegerField()
    position = models.PositiveIntegerField()
    last_position = models.PositiveIntegerField(help_text="Of the last result that belongs to it.")
    lexemes = SearchVectorField()
    word_count = models.PositiveIntegerField(help_text="Different words.")
    embedding = HalfVectorField(null=True)
    embedding_model = models.CharField(max_length=200, blank=True, help_text="Of the vector: its version.")
    importance = models.FloatField(default=0.0)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["session", "ordinal"], name="index_entry_place_once")]
        indexes = [
            models.Index(fields=["session", "-importance"], name="index_entry_importance"),
            models.Index(fields=["embedding_model", "session"], name="index_entry_model"),
        ]


class SummaryLevel(models.IntegerChoices):
    TURNS = 1, "turns"
    DAY = 2, "day"
    SESSION = 3, "session"


class Summary(models.Model):
    """What stands in the prompt for a range of turns. The messages stay; a summary that is reverted gives them back."""

    session = models.ForeignKey(AgentSession, models.CASCADE, related_name="summaries", db_index=False)
    level = models.PositiveSmallIntegerField(choices=SummaryLevel)
    first_turn = models.PositiveIntegerField()
    last_turn = models.PositiveIntegerField()
    first_at = models.DateTimeField(help_text="When the first of its messages was written.")
    last_at = models.DateTimeField()
    text = models.TextField()
    message_count = models.PositiveIntegerField()
    tokens_before = models.PositiveIntegerField(help_text="Of the messages that it stands for.")
    tokens_after = models.PositiveIntegerField()
    made_by = models.CharField(max_length=200, help_text="The model, or `extractive`.")
    is_fallback = models.BooleanField(default=False, help_text="Its model failed; to be made again.")
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    replaced_at = models.DateTimeField(null=True, blank=True, help_text="A newer one stands for these turns.")
    reverted_at = models.DateTimeField(null=True, blank=True, help_text="Somebody wants the messages instead.")
    told_at = models.DateTimeField(null=True, blank=True, help_text="When the session's clients were told of it.")

    class Meta:
        verbose_name_plural = "summaries"
        ordering = ["session", "level", "first_turn"]
        constraints = [
            models.UniqueConstraint(
                fields=["session", "level", "first_turn"],
                condition=models.Q(replaced_at=None),
                name="summary_once",
            )
        ]

    def __str__(self) -> str:
        return f"Turns {self.first_turn} to {self.last_turn} ({self.get_level_display()})"
