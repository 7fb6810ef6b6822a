"""A prepared context: the messages for the model in their order, and an account of them for people.

What matters most stands at the start and at the end (arXiv 2307.03172), and what changes least comes first, so that the
model's server finds the beginning in its cache: the system prompt, what is pinned, the summaries, the newest messages,
then the excerpts that fit the question, and the user's message.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from chat.context import excerpts, summaries
from chat.context.budget import Budget
from chat.context.combined import Selection
from chat.context.units import Unit, messages_of, tokens_of
from chat.latency import Technique, is_used
from sessions_app.models import Role
from sessions_app.prompt import PromptMessage

NEEDED_FROM = 0.7  # of the room: what is made then is ready when the room is full


@dataclass(frozen=True)
class PreparedContext:
    """`turn` are the units of the running turn, its user message first. `is_whole`: nothing was left out.

    `notes` say what had to be done without, in sentences.
    """

    budget: Budget
    turn: Sequence[Unit]
    chosen: Selection
    pinned: Sequence[Unit] = ()
    is_whole: bool = False
    notes: Sequence[str] = field(default_factory=tuple)

    @property
    def tokens(self) -> int:
        """Of the whole prompt: system prompt and tools too."""
        said = tokens_of(self.pinned) + self.chosen.tokens + tokens_of(self.turn)
        return self.budget.system + self.budget.tools + said

    @property
    def is_context_needed(self) -> bool:
        """Whether the conversation fills so much of its room that it is to be summarised and indexed."""
        said = tokens_of(self.chosen.recent) + tokens_of(self.turn)
        needed_from = NEEDED_FROM if is_used(Technique.SPECULATION) else 1.0
        return not self.is_whole or said >= needed_from * self.budget.room

    @property
    def messages(self) -> list[PromptMessage]:
        now = self.turn[0].messages[0].created_at
        return [
            *messages_of(self.pinned),
            *self._told(summaries.as_text, self.chosen.summaries, summaries.cost_of(self.chosen.summaries), now),
            *messages_of(self.chosen.recent),
            *self._told(excerpts.as_text, self.chosen.all_excerpts, excerpts.cost_of(self.chosen.all_excerpts), now),
            *messages_of(self.turn),
        ]

    def _told(self, as_text: Any, chosen: Sequence[Any], tokens: int, now: datetime) -> list[PromptMessage]:
        """One message of the system that tells of several things."""
        if not chosen:
            return []
        return [PromptMessage(0, 0, 0, Role.SYSTEM.value, as_text(chosen), (), "", tokens, now)]

    def parts(self) -> list[dict[str, Any]]:
        """What the model is sent, in its order: `{"part", "tokens", "why", "items"}`."""
        chosen, budget = self.chosen, self.budget
        found = [
            _part("system", budget.system, "the agent type's system prompt"),
            _part("tools", budget.tools, "the descriptions of the tools"),
            _part("pinned", tokens_of(self.pinned), "pinned messages are always there", _units(self.pinned)),
            _part("summary", summaries.cost_of(chosen.summaries), "stands for older turns", _summaries(chosen)),
            _part("recent", tokens_of(chosen.recent), "the newest messages", _units(chosen.recent)),
            _part("excerpts", excerpts.cost_of(chosen.all_excerpts), "chosen by their rank", _excerpts(chosen)),
            _part("turn", tokens_of(self.turn), "the message and what was done for it", _units(self.turn)),
        ]
        return [part for part in found if part["tokens"]]

    def shown_tokens(self) -> int:
        """Of the messages before the running turn that stand in the prompt."""
        excerpts_ = [excerpt.candidate.entry.token_count for excerpt in self.chosen.all_excerpts]
        return tokens_of(self.pinned) + tokens_of(self.chosen.recent) + sum(excerpts_)

    def shown_ids(self) -> set[int]:
        """The messages that stand in the prompt, cut ones too."""
        shown = [unit.messages for unit in (*self.pinned, *self.chosen.recent, *self.turn)]
        shown += [excerpt.candidate.entry.messages for excerpt in self.chosen.all_excerpts]
        return {message.id for messages in shown for message in messages}


def _part(name: str, tokens: int, why: str, items: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
    return {"part": name, "tokens": tokens, "why": why, "items": list(items)}


def _units(units: Sequence[Unit]) -> list[dict[str, Any]]:
    return [_message(message) for unit in units for message in unit.messages]


def _message(message: PromptMessage) -> dict[str, Any]:
    called = ", ".join(call["name"] for call in message.tool_calls)
    return {
        "message_id": message.id or None,
        "turn": message.turn,
        "role": message.role,
        "date": message.created_at.isoformat(),
        "tokens": message.token_count,
        "text": message.content or f"calls {called}",
    }


def _summaries(chosen: Selection) -> list[dict[str, Any]]:
    return [
        {
            "summary_id": each.id,
            "level": each.level.label,
            "first_turn": each.first_turn,
            "last_turn": each.last_turn,
            "message_count": each.message_count,
            "tokens_before": each.tokens_before,
            "tokens": each.cost,
            "text": each.text,
        }
        for each in chosen.summaries
    ]


def _excerpts(chosen: Selection) -> list[dict[str, Any]]:
    return [
        {
            **_message(message),
            "strategy": str(strategy),
            "score": round(excerpt.candidate.score, 4),
            "why": excerpt.candidate.why,
        }
        for strategy, found in chosen.excerpts.items()
        for excerpt in found
        for message in excerpt.candidate.entry.messages
    ]
