"""Quality gates: a number, a limit, and whether it was met. Knows nothing of what was measured."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any

UNMEASURABLE = 1e9  # stands for a number that is not finite, which JSON cannot hold; no limit is met by it


@dataclass(frozen=True)
class Gate:
    """One measured number; `subject` is the file it is about."""

    name: str
    subject: str
    value: float
    limit: float
    passed: bool


@dataclass
class Gates:
    """The gates measured so far; `rests_on` names the file that another was made from and is measured by."""

    gates: list[Gate] = field(default_factory=list)
    rests_on: dict[str, str] = field(default_factory=dict)

    def at_most(self, name: str, subject: str, value: float, limit: float) -> None:
        """Add a gate that is passed up to its limit."""
        self._add(name, subject, value, limit, value <= limit)

    def at_least(self, name: str, subject: str, value: float, limit: float) -> None:
        """Add a gate that is passed from its limit on."""
        self._add(name, subject, value, limit, value >= limit)

    def rows(self) -> list[dict[str, Any]]:
        """Return the gates as JSON objects."""
        return [asdict(gate) for gate in self.gates]

    def files(self) -> dict[str, bool]:
        """Return whether each file passed all of its gates, and so did every file it rests on."""
        failed = {gate.subject for gate in self.gates if not gate.passed}
        return {gate.subject: failed.isdisjoint(self._line(gate.subject)) for gate in self.gates}

    def _line(self, subject: str) -> list[str]:
        """Return a file, the one it rests on, the one that rests on, and so on."""
        line = [subject]
        while line[-1] in self.rests_on:
            line.append(self.rests_on[line[-1]])
        return line

    def _add(self, name: str, subject: str, value: float, limit: float, passed: bool) -> None:
        known = float(value) if math.isfinite(value) else UNMEASURABLE
        self.gates.append(Gate(name, subject, round(known, 6), limit, bool(passed) and known != UNMEASURABLE))
