"""The world outside: flights, a hotel, a bank and a calendar, as tools of the kernel."""

import os
import time
from dataclasses import dataclass, field

from aios_core import ToolContext, tool
from aios_core.storage import Storage

FLIGHTS = {
    "UA 1730": "07:05 to 15:38, $412",
    "B6 916": "08:30 to 17:04, $389",
    "AA 177": "23:15 to 07:41 the next day, $298",
}
CALENDAR = "calendar.ics"


def search_flights(origin: str, destination: str, day: str) -> str:
    """Find the flights of a day.

    Args:
        origin: an airport, such as SFO.
        destination: an airport.
        day: as in 2027-03-01.
    """
    found = "; ".join(f"{number} {times}" for number, times in FLIGHTS.items())
    return f"{origin} to {destination} on {day}: {found}"


@dataclass
class Hotel:
    """A hotel with two free rooms and a booking system that is easily confused."""

    free: list[str] = field(default_factory=lambda: ["1204", "1205"])
    most_at_once: int = 0
    _at_once: int = 0

    def book_room(self, guest: str, nights: int) -> str:
        """Book a room.

        Args:
            guest: who stays.
            nights: how many.
        """
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        room = self.free[0]  # two calls at once would both take this room
        time.sleep(0.05)
        self.free = [other for other in self.free if other != room]
        self._at_once -= 1
        return f"room {room} for {guest}, {nights} nights"


@tool(irreversible="moves money", trusted=True)
def pay(payee: str, amount: float) -> str:
    """Pay a bill from the company's account.

    Args:
        payee: who gets the money.
        amount: in dollars.
    """
    if os.environ.get("TRIP_POWER_CUT"):
        os._exit(9)  # the process ends before the outcome is known
    return f"paid ${amount:g} to {payee}"


@tool(trusted=True)
def put_in_calendar(day: str, title: str, context: ToolContext) -> str:
    """Put an all-day event in the caller's calendar, replacing what is there.

    Args:
        day: as in 2027-03-01.
        title: of the event.
        context: gives the tool the rights of its caller.
    """
    event = f"BEGIN:VEVENT\nDTSTART:{day.replace('-', '')}\nSUMMARY:{title}\nEND:VEVENT\n"
    version = Storage(context.port).write(CALENDAR, event)
    return f"{title} on {day} (version {version.version})"
