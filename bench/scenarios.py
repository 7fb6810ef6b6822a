"""The loads. The sessions of a scenario are fresh, and all start at the same moment: the hardest case."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Scenario:
    name: str
    sessions: int
    turns: int
    tokens: int
    delay_ms: int

    @property
    def title(self) -> str:
        shape = f"{self.sessions} session{'s' * (self.sessions > 1)} × {self.turns} turn{'s' * (self.turns > 1)}"
        return f"{self.name}: {shape} × {self.tokens} tokens at {self.delay_ms} ms"

    @property
    def message(self) -> str:
        """What the user says; the fake model does as the brackets tell it."""
        return f"Please go on. [[tokens={self.tokens} delay_ms={self.delay_ms}]]"

    @property
    def ideal_seconds(self) -> float:
        """How long the model takes for one answer."""
        return self.tokens * self.delay_ms / 1000


SCENARIOS = (
    Scenario("single", sessions=1, turns=30, tokens=100, delay_ms=0),
    Scenario("paced", sessions=50, turns=4, tokens=100, delay_ms=20),
    Scenario("held", sessions=200, turns=1, tokens=200, delay_ms=20),
    Scenario("saturation", sessions=20, turns=10, tokens=200, delay_ms=0),
)
WARM_UP = Scenario("warm-up", sessions=4, turns=5, tokens=20, delay_ms=0)


def select_scenarios(names: list[str], *, is_quick: bool) -> list[Scenario]:
    """The scenarios of these names in their usual order."""
    selected = [scenario for scenario in SCENARIOS if scenario.name in names]
    return [shorten(scenario) for scenario in selected] if is_quick else selected


def shorten(scenario: Scenario) -> Scenario:
    """As many sessions, held less long. What the model does not slow down is short enough to be measured."""
    if scenario.delay_ms == 0:
        return scenario
    return replace(scenario, turns=max(1, scenario.turns // 4), tokens=scenario.tokens // 2)
