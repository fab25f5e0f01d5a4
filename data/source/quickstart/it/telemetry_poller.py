"""Ask every MC-7 under an Hour plan how it is, and open a ticket when one is unwell.

Runs on the machine `rookery` in the IT room at Skelbeck, started by its scheduler. Owner: Corwin Ashdale.
If it has been silent for half an hour the service line gets a text message, so do not stop it quietly.
"""

import json
import urllib.request

POLL_EVERY_MINUTES = 12
"""Twelve, not ten: at ten the polls collide with the Noorderlijn stations' own polling."""

OFFSET_LIMIT_MS = 350
"""A controller further than this from true time is reported. Hands cannot show less than a second anyway."""

COIL_WARN_CELSIUS = 74
"""Warn eight degrees before the striker trips with E17 at 82 degrees."""

SUPPLY_MIN_VOLTS = 21.5
RETRIES = 3
TICKET_QUEUE = "SV-TELEMETRY"
QUIET_CODES = frozenset({"E58"})  # flat memory battery: waits for the next planned visit


def read_status(host: str, port: int = 7911) -> dict:
    """Fetch the status page of one controller; the MC-7 answers JSON on port 7911."""
    with urllib.request.urlopen(f"http://{host}:{port}/status", timeout=8) as reply:
        return json.load(reply)


def faults(status: dict) -> list[str]:
    """List what is wrong, in words that the engineer on call can act upon."""
    found = [code for code in status["codes"] if code not in QUIET_CODES]
    if abs(status["offset_ms"]) > OFFSET_LIMIT_MS:
        found.append(f"time is {status['offset_ms']} ms off")
    if status.get("coil_c", 0) > COIL_WARN_CELSIUS:
        found.append(f"striker coil at {status['coil_c']} degrees, silence the quarters first")
    if status["supply_v"] < SUPPLY_MIN_VOLTS:
        found.append("supply is sagging, look at the charger fuse F2 (3.15 A)")
    return found
