"""The figures of a bench: made from turns and readings, shown as a table, kept as JSON."""

import statistics
from dataclasses import dataclass

from bench.client import Load
from bench.measure import Reading
from bench.scenarios import Scenario

MEGABYTE = 1024 * 1024


@dataclass(frozen=True)
class Figures:
    """One target under one scenario. The CPU seconds of app and databases are per 1,000 streamed tokens."""

    scenario: str
    target: str
    first_token_p50_ms: float
    first_token_p95_ms: float
    app_cpu_seconds: float
    database_cpu_seconds: float
    tokens_per_second: float
    app_memory_mb: float
    database_memory_mb: float
    harness_cores: float
    slowest_to_ideal: float | None
    turns: int
    problems: list[str]


def make_figures(scenario: Scenario, target: str, load: Load, before: Reading, after: Reading) -> Figures:
    tokens = sum(turn.tokens for turn in load.turns)
    first_tokens = [turn.first_token_seconds for turn in load.turns if turn.first_token_seconds is not None]
    slowest = max(turn.seconds for turn in load.turns)
    thousands = max(tokens, 1) / 1000
    return Figures(
        scenario=scenario.name,
        target=target,
        first_token_p50_ms=percentile(first_tokens, 50) * 1000,
        first_token_p95_ms=percentile(first_tokens, 95) * 1000,
        app_cpu_seconds=(after.app.cpu_seconds - before.app.cpu_seconds) / thousands,
        database_cpu_seconds=(after.databases.cpu_seconds - before.databases.cpu_seconds) / thousands,
        tokens_per_second=tokens / load.seconds,
        app_memory_mb=after.app.rss_bytes / MEGABYTE,
        database_memory_mb=after.databases.rss_bytes / MEGABYTE,
        harness_cores=(after.harness_cpu_seconds - before.harness_cpu_seconds) / load.seconds,
        slowest_to_ideal=slowest / scenario.ideal_seconds if scenario.ideal_seconds else None,
        turns=len(load.turns),
        problems=[turn.problem for turn in load.turns if turn.problem],
    )


def percentile(values: list[float], percent: int) -> float:
    """NaN of nothing: a target that never answered has no time to show."""
    if len(values) < 2:
        return values[0] if values else float("nan")
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


HEADINGS = (
    ("target", 14),
    ("p50 ms", 8),
    ("p95 ms", 8),
    ("CPU s/1k", 10),
    ("db CPU", 8),
    ("tokens/s", 9),
    ("RSS MB", 8),
    ("db MB", 7),
    ("slowest", 9),
    ("bad", 5),
    ("harness", 9),
    ("against the relay: p50, CPU, tokens/s", 39),
)
LEGEND = """\
p50, p95    time to first token: from before the message is sent to the first word of the answer
CPU s/1k    CPU seconds per 1,000 streamed tokens of all processes but the databases; db CPU: of those
slowest     the slowest answer's time / the time that the model takes for one
bad         answers that were not whole, word for word
harness     cores that the client and the fake model kept busy; counted nowhere else
ratios      the difference of p50, then CPU (databases included) and tokens/s as multiples of the relay's"""


def table(scenarios: list[Scenario], figures: list[Figures]) -> str:
    """A block of rows for each scenario, the relay first."""
    lines = [heading_line()]
    for scenario in scenarios:
        rows = [row for row in figures if row.scenario == scenario.name]
        relay = next((row for row in rows if row.target == "relay"), None)
        lines += ["", scenario.title, *(figures_line(row, relay) for row in rows)]
    return "\n".join([*lines, "", LEGEND])


def heading_line() -> str:
    first, *others = HEADINGS
    return first[0].ljust(first[1]) + "".join(name.rjust(width) for name, width in others)


def figures_line(row: Figures, relay: Figures | None) -> str:
    cells = (
        row.target,
        f"{row.first_token_p50_ms:.1f}",
        f"{row.first_token_p95_ms:.1f}",
        f"{row.app_cpu_seconds:.3f}",
        f"{row.database_cpu_seconds:.3f}",
        f"{row.tokens_per_second:,.0f}",
        f"{row.app_memory_mb:.0f}",
        f"{row.database_memory_mb:.0f}",
        f"{row.slowest_to_ideal:.2f} ×" if row.slowest_to_ideal else "-",
        str(len(row.problems)),
        f"{row.harness_cores:.2f}",
        against(row, relay),
    )
    first, *others = zip(cells, HEADINGS, strict=True)
    return first[0].ljust(first[1][1]) + "".join(cell.rjust(width) for cell, (_, width) in others)


def against(row: Figures, relay: Figures | None) -> str:
    if relay is None or row is relay or not relay.app_cpu_seconds:
        return "-"
    later_ms = row.first_token_p50_ms - relay.first_token_p50_ms
    cpu = (row.app_cpu_seconds + row.database_cpu_seconds) / relay.app_cpu_seconds
    speed = row.tokens_per_second / relay.tokens_per_second
    return f"{later_ms:+.1f} ms, {cpu:.2f} ×, {speed:.2f} ×"
