"""The work of the three teams. Each function is one step of the trip."""

import asyncio
from typing import Any

import model
import screen
from autogen_agentchat.agents import AssistantAgent
from langchain.agents import create_agent
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.llms.aios import AIOSLLM
from world import CALENDAR, Hotel, search_flights

from aios_core import AccessDenied, Agent, Kernel, NoSuchObject
from autogen_aios import AIOSChatCompletionClient, AIOSWorkbench, wrap_tool
from langchain_aios import ChatAIOS
from llama_index_aios.tools import akernel_tools


def find_flights(kernel: Kernel, travel: Agent) -> None:
    """Let a LangChain agent look for a flight, and keep what it found."""
    planner = create_agent(ChatAIOS(kernel=kernel, agent=travel), tools=[search_flights])
    screen.line("asked", model.FIND_FLIGHTS)
    state = planner.invoke({"messages": [("user", model.FIND_FLIGHTS)]})
    for message in state["messages"]:
        for call in getattr(message, "tool_calls", ()):
            screen.line("calls", _call(call["name"], call["args"]))
    flight = state["messages"][-1].text
    screen.line("answers", flight)
    travel.memory.write("flight", flight)
    travel.storage.write("itinerary.md", f"# New York\n\n{flight}\n")
    screen.line("kernel", usage_of(travel))


def book_rooms(kernel: Kernel, lodging: Agent) -> None:
    """Let two AutoGen agents book at the same moment in a hotel that cannot stand that."""
    hotel = Hotel()
    tool = wrap_tool(hotel.book_room, exclusive=("booking",), trusted=True)
    answers = asyncio.run(_book(kernel, lodging, tool))
    for guest, answer in answers.items():
        screen.line(guest, answer)
    at_once = hotel.most_at_once
    outcome = f"asked at once, booked {at_once} at a time" if at_once else "no room was booked"
    screen.line("kernel", outcome)


async def _book(kernel: Kernel, lodging: Agent, tool: Any) -> dict[str, str]:
    guests = {}
    for guest in ("Ada", "Ben"):
        clerk = await lodging.aspawn(guest.lower())
        guests[guest] = AssistantAgent(
            guest,
            AIOSChatCompletionClient(kernel=kernel, agent=clerk),
            workbench=AIOSWorkbench([tool], kernel=kernel, agent=clerk),
            reflect_on_tool_use=True,
            system_message=None,
        )
    results = await asyncio.gather(
        *(agent.run(task=model.BOOK_ROOM.format(guest=guest)) for guest, agent in guests.items())
    )
    return {
        guest: str(result.messages[-1].content)  # type: ignore[union-attr]
        for guest, result in zip(guests, results, strict=True)
    }


def share_plans(travel: Agent, lodging: Agent, assistant: Agent) -> None:
    """Give the assistant's group what the travel team found; no other agent gets it."""
    travel.memory.share("flight", "group:assistant")
    travel.storage.share("itinerary.md", "group:assistant", "read")
    flight = assistant.memory.read("flight", owner=travel.identity)
    screen.line("assistant", f"reads the flight: {flight}")
    itinerary = assistant.storage.read_text("itinerary.md", owner=travel.identity)
    screen.line("assistant", f"reads the file: {len(itinerary)} characters")
    try:
        lodging.memory.read("flight", owner=travel.identity)
    except AccessDenied as error:
        screen.line("lodging", f"is refused: {error}")


def pay_bills(kernel: Kernel, assistant: Agent) -> None:
    """Let a LlamaIndex agent pay; small sums are approved by a rule, large ones by a person."""
    asyncio.run(_ask(kernel, assistant, model.PAY, "pay"))


def keep_calendar(kernel: Kernel, assistant: Agent) -> None:
    """Let the model put the trip on a wrong day, and take that back."""
    for question in (model.ENTER_TRIP, model.MOVE_TRIP):
        asyncio.run(_ask(kernel, assistant, question, "put_in_calendar"))
    try:
        versions = assistant.storage.history(CALENDAR)
    except NoSuchObject:
        versions = []
    if len(versions) < 2:
        screen.line("traveler", "the model changed nothing")
        return
    screen.line("traveler", "April is wrong. Undo that.")
    first = versions[-1].version
    assistant.storage.rollback(CALENDAR, first)
    day = assistant.storage.read_text(CALENDAR).split("DTSTART:")[1].split()[0]
    screen.line("kernel", f"back to version {first}: the trip is on {day}")


async def _ask(kernel: Kernel, assistant: Agent, question: str, *names: str) -> None:
    """Ask the assistant, with these tools of the kernel."""
    tools = await akernel_tools(*names, kernel=kernel, agent=assistant)
    helper = FunctionAgent(llm=AIOSLLM(kernel=kernel, agent=assistant), tools=tools)
    screen.line("asked", question)
    answer = await helper.run(question)
    for call in answer.tool_calls:
        screen.line("calls", _call(call.tool_name, call.tool_kwargs))
        screen.line("", call.tool_output.content)
    screen.line("answers", answer)


def usage_of(agent: Agent) -> str:
    """Return the usage of an agent in one line."""
    used = agent.accounting
    return (
        f"{agent.identity}: {used.num_calls} calls, "
        f"{used.usage.input_tokens} + {used.usage.output_tokens} tokens"
    )


def _call(name: str, arguments: dict[str, Any]) -> str:
    return f"{name}({', '.join(map(str, arguments.values()))})"
