"""An agent as anybody writes it for OpenAI.

Run it on the kernel, unmodified: `aios run examples/langchain/chat_openai.py`
"""

from langchain.agents import create_agent
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI


@tool(description="do math")
def calculator(expression: str) -> str:
    left, operator, right = expression.split()
    a, b = int(left), int(right)
    return str({"+": a + b, "-": a - b, "*": a * b}[operator])


@tool(description="current time")
def clock() -> str:
    return "12:30"


llm = ChatOpenAI(model="gpt-4o-mini")
print("model:  ", llm.bind_tools([calculator, clock]).invoke("hello").text)

agent = create_agent(llm, tools=[calculator, clock])
for question in ("what is 123 plus 45?", "what time is it?"):
    answer = agent.invoke({"messages": [("user", question)]})
    print("agent:  ", answer["messages"][-1].text)

print("stream: ", end="")
for token, _ in agent.stream({"messages": [("user", "compute 7 + 8")]}, stream_mode="messages"):
    if token.type == "AIMessageChunk":
        print(token.text, end="", flush=True)
print()
