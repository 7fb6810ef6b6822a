"""Reads what every client saw, the facts in Postgres and the tools' own log, and says which promises were broken."""

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from tests.faults.agent import whole_answers
from tests.faults.load import Seen

Piece = tuple[tuple[int, int], str]  # cursor, text
_TERMINAL = ("done", "error", "cancelled")


@dataclass
class Report:
    """What was checked, and what was broken."""

    scenarios: int = 0
    kills: int = 0
    runs: int = 0
    events: int = 0
    violations: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        head = (
            f"{self.scenarios} scenarios, {self.kills} kills, {self.runs} runs, {self.events} events checked, "
            f"{len(self.violations)} violations"
        )
        return "\n".join([head, *self.violations[:20]])


class Checker:
    def __init__(self, database_url: str, tool_log: Path) -> None:
        self._database_url = database_url
        self._tool_log = tool_log
        self.report = Report()

    def check(self, scenario: str, seen: list[Seen]) -> list[str]:
        """The violations of one scenario."""
        before = len(self.report.violations)
        with psycopg.connect(self._database_url) as connection:
            for client in seen:
                for violation in [*self._of_client(client), *self._of_record(connection, client)]:
                    self.report.violations.append(f"{scenario}: {client.session_id}: {violation}")
        self.report.violations += [f"{scenario}: {violation}" for violation in self._of_tools(seen)]
        self.report.scenarios += 1
        self.report.runs += sum(len(client.promised) for client in seen)
        self.report.events += sum(len(client.events) for client in seen)
        return self.report.violations[before:]

    def _of_client(self, client: Seen) -> list[str]:
        """Every event once, in order, without holes: what is left after the discards is what the agent said."""
        found = [client.problem] if client.problem else []
        ids = [_cursor(event["id"]) for event in client.events if event["id"]]
        if ids != sorted(set(ids)):
            found.append("ids repeat or go backwards")
        ends = Counter(event["run_id"] for event in client.events if event["type"] in _TERMINAL)
        for run_id, message in client.promised.items():
            if ends[run_id] != 1:
                found.append(f"run {run_id} was seen to end {ends[run_id]} times")
            elif (text := _text_seen(client.events, run_id)) != "".join(whole_answers(message)):
                found.append(f"run {run_id}: the client was left with {text!r}")
        return found

    def _of_record(self, connection: psycopg.Connection[Any], client: Seen) -> list[str]:
        found = []
        for run_id, message in client.promised.items():
            rows = connection.execute("SELECT status FROM sessions_app_run WHERE id = %s", [run_id]).fetchall()
            if [status for (status,) in rows] != ["succeeded"]:
                found.append(f"run {run_id} is {rows}")
                continue
            terminal = connection.execute(
                "SELECT count(*) FROM sessions_app_event WHERE run_id = %s AND type = ANY(%s)", [run_id, [*_TERMINAL]]
            ).fetchone()
            if terminal != (1,):
                found.append(f"run {run_id} has {terminal} terminal events on record")
            answers = connection.execute(
                "SELECT content FROM sessions_app_message WHERE run_id = %s AND role = 'assistant' ORDER BY position",
                [run_id],
            ).fetchall()
            if [content for (content,) in answers] != whole_answers(message):
                found.append(f"run {run_id} has the answers {answers} on record")
        accepted = connection.execute(
            "SELECT count(*) FROM sessions_app_run WHERE session_id = %s", [client.session_id]
        ).fetchone()
        if accepted is None or accepted[0] != len(client.promised):
            found.append(f"{accepted} runs for {len(client.promised)} messages")
        return found

    def _of_tools(self, seen: list[Seen]) -> list[str]:
        """A tool that is not idempotent never starts twice, and whatever says that it was done was done."""
        runs = {run_id for client in seen for run_id in client.promised}
        lines = [json.loads(line) for line in self._tool_log.read_text().splitlines()] if runs else []
        charges = Counter(line["key"] for line in lines if line["tool"] == "charge" and line["run_id"] in runs)
        found = [f"{key} was charged {times} times" for key, times in charges.items() if times > 1]
        for client in seen:
            for event in client.events:
                is_told = event["type"] == "tool_result" and event["tool"] == "charge" and not event["is_error"]
                if is_told and not any(key.endswith(f":{event['tool_call_id']}") for key in charges):
                    found.append(f"{event['tool_call_id']} was told of, but never happened")
        return found


def _cursor(text: str) -> tuple[int, int]:
    epoch, _, seq = text.partition("-")
    return int(epoch), int(seq)


def _text_seen(events: list[dict[str, Any]], run_id: str) -> str:
    """The run's text as a client has it at the end that throws away what it is told to."""
    kept: list[Piece] = []
    is_mine = False
    for event in events:
        if event["type"] == "message":
            is_mine = event["run_id"] == run_id
        elif event["type"] == "discard" and (is_mine or event.get("run_id") == run_id):
            is_mine = event.get("run_id", run_id) == run_id
            kept = _without_void(kept, event)
        elif event["type"] == "response" and is_mine:
            kept.append((_cursor(event["id"]), event["content"]))
        elif event["type"] in _TERMINAL and event["run_id"] == run_id:
            break
    return "".join(content for _, content in kept)


def _without_void(
    kept: list[tuple[tuple[int, int], str]], discard: dict[str, Any]
) -> list[tuple[tuple[int, int], str]]:
    """A new attempt voids what came behind `since`; a merged text what came from there on."""
    since = _cursor(discard["since"]) if discard["since"] else (0, 0)
    if discard["reason"] == "merged":
        return [piece for piece in kept if piece[0] < since]
    return [piece for piece in kept if piece[0] <= since]
