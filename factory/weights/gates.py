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
    """The gates measured so far."""

    gates: list[Gate] = field(default_factory=list)

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
        """Return whether each file passed all of its gates."""
        passed: dict[str, bool] = {}
        for gate in self.gates:
            passed[gate.subject] = gate.passed and passed.get(gate.subject, True)
        return passed

    def _add(self, name: str, subject: str, value: float, limit: float, passed: bool) -> None:
        known = float(value) if math.isfinite(value) else UNMEASURABLE
        self.gates.append(Gate(name, subject, round(known, 6), limit, bool(passed) and known != UNMEASURABLE))
