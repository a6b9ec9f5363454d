"""A policy sees facts about a waiting call, which stay constant."""

from dataclasses import dataclass, field

from aios_core import Kernel, KernelConfig, tool
from aios_core.config import SchedulerConfig, StateConfig
from aios_core.cores import ScriptedCore
from aios_core.scheduler import Policy, Rank, WaitingCall
from aios_core.testing import run_virtual

Facts = tuple[int, int, float | None, str | None]


@dataclass(frozen=True, slots=True)
class Watching(Policy):
    seen: list[Facts] = field(default_factory=list)

    def rank(self, call: WaitingCall) -> Rank:
        facts = (call.prompt_tokens, call.expected_answer_tokens, call.deadline_at, call.model)
        self.seen.append(facts)
        return (call.seq,)


def watched(*prompts: str, expected: int = 100, **options: float) -> list[Facts]:
    """Make calls one after the other. Returns what the policy saw of each, at first."""
    policy, firsts = Watching(), list[Facts]()
    core = ScriptedCore("an answer of five tokens", models=("first", "second"))
    config = KernelConfig(scheduler=SchedulerConfig(expected_answer_tokens=expected))

    async def main() -> None:
        async with Kernel(config, cores=[core], policy=policy) as kernel:
            agent = await kernel.aspawn("a")
            for prompt in prompts:
                policy.seen.clear()
                await agent.llm.agenerate(prompt, model="second", **options)  # type: ignore[arg-type]
                assert len(set(policy.seen)) == 1, "the facts of a call stay what they are"
                firsts.append(policy.seen[0])

    run_virtual(main())
    return firsts


def test_a_policy_sees_prompt_deadline_and_model() -> None:
    ((prompt, _, deadline, model),) = watched("one two three", timeout_s=30)

    assert (prompt, model) == (3, "second")
    assert deadline is not None
    assert deadline >= 30


def test_without_a_deadline_there_is_none() -> None:
    assert watched("hi")[0][2] is None


def test_an_answer_is_expected_to_be_what_answers_were_and_within_its_limit() -> None:
    assert watched("hi", expected=40)[0][1] == 40
    assert watched("hi", expected=40, max_tokens=8)[0][1] == 8
    assert watched(*["hi"] * 4, expected=40)[-1][1] == 16, "at least 16 are expected of any"


@tool
def ping() -> str:
    """Answer."""
    return "pong"


def test_calls_of_tools_have_no_tokens_and_no_model() -> None:
    policy = Watching()
    config = KernelConfig(state=StateConfig(":memory:"))
    with Kernel(config, cores=[ScriptedCore("x")], policy=policy) as kernel:
        kernel.load_tools(ping)
        kernel.spawn("a").tools.run("ping")

    assert set(policy.seen) == {(0, 0, None, None)}
