"""Two agents of classic AutoGen, as anybody writes them for OpenAI.

Run it on the kernel, unmodified: `aios run examples/autogen/classic_agents.py`
"""

from autogen import AssistantAgent, UserProxyAgent, register_function

assistant = AssistantAgent(
    "assistant", llm_config={"config_list": [{"model": "gpt-4o-mini"}]}, system_message=""
)
user = UserProxyAgent("user", human_input_mode="NEVER", code_execution_config=False)


def calculator(expression: str) -> str:
    left, operator, right = expression.split()
    a, b = int(left), int(right)
    return str({"+": a + b, "-": a - b, "*": a * b}[operator])


register_function(
    calculator, caller=assistant, executor=user, name="calculator", description="do math"
)
result = user.initiate_chat(assistant, message="what is 123 plus 45?", max_turns=2)
print("answer:", result.summary)
