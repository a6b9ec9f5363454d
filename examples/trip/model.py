"""The model: a script, so that the trip runs offline, or a real one that the environment names."""

import os
from collections.abc import Mapping

from aios_core.core import Core
from aios_core.cores import ScriptedCore
from aios_core.messages import Message, ToolCall
from aios_core.syscalls import LLMGenerate

SLOTS = 4
TOKEN_S = 0.02  # one word of the script takes that long

FIND_FLIGHTS = (
    "Find a flight from San Francisco to New York on Monday, 1 March 2027, that lands before 5 pm."
)
BOOK_ROOM = "Book a room for {guest}, three nights from 1 March 2027."
PAY = "Pay the flight and the airport train."
ENTER_TRIP = "Put the trip in my calendar."
MOVE_TRIP = "The meeting has moved. Move the trip."
REPORT = "Write the summary of my trip."
RESEARCH = "Compare two hundred hotels."

_SUMMARY = (
    "You fly to New York on Monday, 1 March, with UA 1730 at 7:05 in the morning, and you land at "
    "15:38. The train takes you to Manhattan. You and Ben have the rooms 1204 and 1205 for three "
    "nights. The flight and the train are paid. Your calendar has all of it. Have a good trip!"
)


def is_scripted() -> bool:
    """Return whether no real model was named."""
    return not (os.environ.get("AIOS_BASE_URL") or os.environ.get("AIOS_MODEL"))


def cores() -> list[Core] | None:
    """The scripted core. None, which means the configured core, if a real model was named."""
    if not is_scripted():
        return None
    return [ScriptedCore(_answer, token_s=TOKEN_S, slots=SLOTS, preemptible=True)]


# What the script does about a question: tool calls, one after the other, and its last words.
_Plan = tuple[tuple[tuple[str, str], ...], str]
_PLANS: Mapping[str, _Plan] = {
    FIND_FLIGHTS: (
        (("search_flights", '{"origin": "SFO", "destination": "JFK", "day": "2027-03-01"}'),),
        "Take UA 1730: it leaves at 7:05, lands at 15:38 and costs $412.",
    ),
    **{
        BOOK_ROOM.format(guest=guest): (
            (("book_room", f'{{"guest": "{guest}", "nights": 3}}'),),
            "Done: {result}.",
        )
        for guest in ("Ada", "Ben")
    },
    PAY: (
        (
            ("pay", '{"payee": "airport train", "amount": 17}'),
            ("pay", '{"payee": "United Airlines", "amount": 412}'),
        ),
        "Both are paid.",
    ),
    ENTER_TRIP: (
        (("put_in_calendar", '{"day": "2027-03-01", "title": "New York"}'),),
        "It is in your calendar: {result}.",
    ),
    MOVE_TRIP: (  # the model gets the month wrong
        (("put_in_calendar", '{"day": "2027-04-01", "title": "New York"}'),),
        "I have moved it: {result}.",
    ),
    REPORT: ((), _SUMMARY),
    RESEARCH: ((), "hotel " * 150),
}


def _answer(request: LLMGenerate) -> Message:
    """Do the next step of the plan for the last thing that a user asked."""
    asked = [m for m in request.messages if m.role == "user"][-1].content
    results = [m.content for m in request.messages if m.role == "tool"]
    calls, last_words = _PLANS.get(asked, ((), "I can only plan this one trip."))
    if len(results) < len(calls):
        name, arguments = calls[len(results)]
        call = ToolCall(f"call_{len(results)}", name, arguments)
        return Message("assistant", tool_calls=(call,))
    return Message("assistant", last_words.format(result=results[-1] if results else ""))
