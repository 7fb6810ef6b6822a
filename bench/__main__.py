"""The bench: `make bench`, or `python -m bench --help`. It fails if any answer was not whole."""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import uvloop

from bench.client import Load, TargetError, open_talks, run_load
from bench.measure import Meter, Reading
from bench.report import Figures, make_figures, table
from bench.scenarios import SCENARIOS, WARM_UP, Scenario, select_scenarios
from bench.targets import Target, run_relay, run_system
from tests.fakes.processes import FakeOpenAIProcess

SERVERS = ("uvicorn", "daphne")
TRANSPORTS = ("sse", "ws")


def main() -> int:
    options = parse_options()
    scenarios = select_scenarios(options.scenarios, is_quick=options.quick)
    try:
        figures = measure_all(options.servers, options.transport, scenarios)
    except TargetError as error:
        print(error, file=sys.stderr)
        return 1
    print(table(scenarios, figures))
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in figures], indent=2) + "\n")
    return report_problems(figures)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    scenario_names = tuple(scenario.name for scenario in SCENARIOS)
    add_choices(parser, "--servers", SERVERS, default="uvicorn", help="of the ASGI application; '' for none")
    add_choices(parser, "--scenarios", scenario_names, default=",".join(scenario_names), help="to run")
    add_choices(parser, "--transport", TRANSPORTS, default="sse", help="by which the client talks")
    parser.add_argument("--quick", action="store_true", help="shorter paced answers, for a first look")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    return parser.parse_args()


def add_choices(
    parser: argparse.ArgumentParser, option: str, allowed: tuple[str, ...], *, default: str, help: str
) -> None:
    """An option that takes some of the allowed words, separated by commas."""

    def parse(text: str) -> list[str]:
        chosen = [name for name in text.split(",") if name]
        if unknown := set(chosen) - set(allowed):
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; there are {', '.join(allowed)}")
        return chosen

    parser.add_argument(option, type=parse, default=default, help=f"{','.join(allowed)}: {help}")


def measure_all(servers: list[str], transports: list[str], scenarios: list[Scenario]) -> list[Figures]:
    """One target after the other, so that none takes from another's processor."""
    figures: list[Figures] = []
    with FakeOpenAIProcess() as fake:
        for running in (run_relay(fake), *(run_system(fake, server) for server in servers)):
            with running as target:
                meter = Meter(target.pid, target.data_dir, model_pid=fake.pid)
                for transport in transports:
                    if transport in target.transports:
                        figures += measure(target, transport, scenarios, meter)
    return figures


def measure(target: Target, transport: str, scenarios: list[Scenario], meter: Meter) -> Iterator[Figures]:
    name = target.name if len(target.transports) == 1 else f"{target.name} {transport}"
    uvloop.run(measure_scenario(target, transport, WARM_UP, meter))
    for scenario in scenarios:
        print(f"{name}: {scenario.title} ...", file=sys.stderr, flush=True)
        load, before, after = uvloop.run(measure_scenario(target, transport, scenario, meter))
        yield make_figures(scenario, name, load, before, after)


async def measure_scenario(
    target: Target, transport: str, scenario: Scenario, meter: Meter
) -> tuple[Load, Reading, Reading]:
    """The load, and the readings around it; opening the sessions stays outside of all three."""
    async with open_talks(target.address, transport, scenario.sessions) as talks:
        before = meter.read()  # nothing else runs on this loop yet, so it may wait
        load = await run_load(talks, scenario)
        return load, before, meter.read()


def report_problems(figures: list[Figures]) -> int:
    """Name what went wrong, the frequent first; the exit status."""
    for row in figures:
        for problem, count in Counter(row.problems).most_common(5):
            print(f"{row.target}, {row.scenario}: {count} of {row.turns} turns: {problem}", file=sys.stderr)
    return 1 if any(row.problems for row in figures) else 0


if __name__ == "__main__":
    sys.exit(main())
