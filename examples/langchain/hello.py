"""The drop-in class: the kernel schedules every call of a LangChain agent.

Run it with `python examples/langchain/hello.py`.
"""

from langchain.agents import create_agent
from langchain_core.tools import tool

from langchain_aios import ChatAIOS


@tool
def weather(city: str) -> str:
    """Weather for a place."""
    return {"Oslo": "4 degrees, snow", "Lima": "22 degrees, sunny"}[city]


# No kernel is made here: the default kernel starts at the first call and is closed at exit.
# Without any configuration it serves the bundled test model.
agent = create_agent(ChatAIOS(), tools=[weather])

for city in ("Oslo", "Lima"):
    answer = agent.invoke({"messages": [("user", f"what is the weather in {city}?")]})
    print(answer["messages"][-1].text)
