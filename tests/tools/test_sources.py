"""Sources of tools, and their changes while agents run them."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from aios_core import (
    Agent,
    ApprovalRefused,
    Conflict,
    InvalidRequest,
    Kernel,
    NoSuchObject,
    Tool,
    ToolError,
)
from aios_core.tools.catalog import ToolCatalog
from aios_core.tools.import_code import load_module
from aios_core.tools.registry import Plugin, ToolRegistry, compile_tools

from .rig import PATIENCE, Held, make, quiet_kernel

WEATHER = '''
from aios_core import tool

@tool(read_only=True, trusted=True, version="{version}")
def weather(place: str = "here") -> str:
    """Tell the weather."""
    return "{said} " + place
'''


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    with quiet_kernel() as kernel:
        yield kernel
        kernel.check()


@pytest.fixture
def agent(kernel: Kernel) -> Agent:
    return kernel.spawn("alice")


@pytest.fixture
def imported() -> Iterator[set[str]]:
    """Names for modules that a test imports; they are removed afterwards."""
    names: set[str] = set()
    yield names
    for name in names:
        sys.modules.pop(name, None)


Install = Callable[..., str]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, imported: set[str]) -> Install:
    """Install a distribution with one plug-in, and return the name of its module."""
    monkeypatch.syspath_prepend(tmp_path)

    def install(name: str, source: str, *, target: str = "") -> str:
        module = f"stranger_{name}"
        imported.add(module)
        (tmp_path / f"{module}.py").write_text(source)
        facts = tmp_path / f"{module}-2.5.dist-info"
        facts.mkdir()
        (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 2.5\n")
        (facts / "entry_points.txt").write_text(
            f"[aios.plugins]\n{name} = {module}{target and f':{target}'}\n"
        )
        return module

    return install


def weather(said: str = "rain", version: str = "1") -> str:
    return WEATHER.format(said=said, version=version)


def written(path: Path, source: str) -> Path:
    path.write_text(source)
    return path


class TestInstalled:
    def test_an_entry_point_is_found_with_the_distribution_that_brings_it(
        self, install: Install
    ) -> None:
        install("weather", weather())
        with quiet_kernel(tools={"plugins": ("weather",)}) as kernel:
            agent = kernel.spawn("alice")
            assert agent.tools.run("weather") == "rain here"
            [info] = agent.tools.list()
            assert info.source == "plug-in weather of stranger_weather 2.5"

    def test_a_hook_decides_what_is_offered(self, install: Install) -> None:
        hook = "\nfrom aios_core import hookimpl\n@hookimpl\ndef aios_tools(): return [weather]\n"
        other = "\n@tool\ndef hidden() -> None:\n    'Not offered.'\n"
        install("weather", weather() + other + hook)
        with quiet_kernel(tools={"plugins": ("weather",)}) as kernel:
            assert [one.name for one in kernel.spawn("alice").tools.list()] == ["weather"]

    def test_an_object_may_be_the_plug_in(self, install: Install) -> None:
        source = (
            weather()
            + "\nfrom aios_core import hookimpl\nclass Plugin:\n    @hookimpl\n"
            + "    def aios_tools(self): yield weather\nplugin = Plugin()\n"
        )
        install("weather", source, target="plugin")
        with quiet_kernel(tools={"plugins": ("weather",)}) as kernel:
            assert kernel.spawn("alice").tools.run("weather") == "rain here"

    @pytest.mark.parametrize(
        ("source", "target", "told"),
        [
            ("raise RuntimeError('no licence')", "", "no licence"),
            ("import no_such_module_at_all", "", "no_such_module_at_all"),
            ("raise SystemExit(3)", "", "SystemExit"),
            ("def broken(:", "", "SyntaxError"),
            ("x = 1", "", "offers no tools"),
            ("x = 1", "plugin", "has no attribute 'plugin'"),
            ("from aios_core import hookimpl\n@hookimpl\ndef aios_tool(): ...", "", "aios_tool"),
            (
                "from aios_core import hookimpl\n@hookimpl\ndef aios_tools(): return 1 / 0",
                "",
                "its hook raised ZeroDivisionError",
            ),
            (
                "from aios_core import hookimpl\n@hookimpl\ndef aios_tools(): return ['x']",
                "",
                "'x', which is not a Tool",
            ),
            ("from aios_core import Tool\nt = Tool('t', '', {}, print)", "", "offers no tools"),
            (
                "from aios_core import tool\n@tool(parameters={'required': 3})\ndef t(): ...",
                "",
                "not a JSON schema",
            ),
        ],
    )
    async def test_one_that_cannot_be_loaded_is_told_and_leaves_the_rest(
        self, install: Install, source: str, target: str, told: str
    ) -> None:
        install("broken", source, target=target)
        install("weather", weather())
        async with quiet_kernel(tools={"plugins": ("broken", "weather")}) as kernel:
            agent = await kernel.aspawn("alice")
            assert await agent.tools.arun("weather") == "rain here"
            assert told in kernel._inside.parts.tools.catalog.problems["plug-in broken"]
            with pytest.raises((ToolError, InvalidRequest), match=told):
                await agent.tools.aload("broken")

    def test_two_that_offer_the_same_are_refused_with_both_named(self, install: Install) -> None:
        install("weather", weather())
        install("forecast", weather())
        with (
            quiet_kernel(tools={"plugins": ("weather", "forecast")}) as kernel,
            pytest.raises(Conflict, match=r"stranger_weather 2.5 and by plug-in forecast"),
        ):
            kernel.spawn("alice").tools.list()

    def test_one_that_is_not_installed_is_refused_with_the_known_ones(
        self, install: Install
    ) -> None:
        install("weather", weather())
        with (
            quiet_kernel(tools={"plugins": ("wether",)}) as kernel,
            pytest.raises(NoSuchObject, match=r"no plug-in 'wether'; have .*'weather'"),
        ):
            kernel.spawn("alice").tools.list()

    def test_it_is_loaded_again_by_its_name(self, install: Install, tmp_path: Path) -> None:
        module = install("weather", weather("rain"))
        with quiet_kernel(tools={"plugins": ("weather",)}) as kernel:
            agent = kernel.spawn("alice")
            assert agent.tools.run("weather") == "rain here"
            written(tmp_path / f"{module}.py", weather("sunshine"))
            assert agent.tools.load("weather") == ("weather@1",)
            assert agent.tools.run("weather") == "sunshine here"


class TestFilesAndModules:
    def test_an_edited_file_brings_new_behaviour_when_it_is_loaded_again(
        self, agent: Agent, tmp_path: Path
    ) -> None:
        file = written(tmp_path / "tools.py", weather("rain"))
        agent.tools.load(file)
        assert agent.tools.run("weather") == "rain here"
        written(file, weather("snow"))  # as long as before, and a moment later
        assert agent.tools.run("weather") == "rain here"
        agent.tools.load(str(file))
        assert agent.tools.run("weather") == "snow here"
        assert len(agent.tools.list()) == 1

    def test_an_edited_module_does_too(
        self, agent: Agent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, imported: set[str]
    ) -> None:
        monkeypatch.syspath_prepend(tmp_path)
        imported.add("weather_station")
        file = written(tmp_path / "weather_station.py", weather("rain"))
        agent.tools.load("weather_station")
        written(file, weather("snow"))
        agent.tools.load("weather_station")
        assert agent.tools.run("weather") == "snow here"

    def test_a_reload_that_fails_leaves_what_was_there(self, agent: Agent, tmp_path: Path) -> None:
        file = written(tmp_path / "tools.py", weather("rain"))
        agent.tools.load(file)
        written(file, "def broken(:")
        with pytest.raises(ToolError, match=r"tools.py cannot be loaded: SyntaxError"):
            agent.tools.load(file)
        assert agent.tools.run("weather") == "rain here"

    def test_a_tool_that_the_new_file_lacks_is_gone(self, agent: Agent, tmp_path: Path) -> None:
        file = written(tmp_path / "tools.py", weather() + weather().replace("weather(", "sky("))
        assert set(agent.tools.load(file)) == {"weather@1", "sky@1"}
        written(file, weather())
        agent.tools.load(file)
        with pytest.raises(NoSuchObject, match=r"no tool 'sky'; have \['weather'\]"):
            agent.tools.run("sky")

    @pytest.mark.parametrize(
        ("source", "told"),
        [
            ("/no/such/file.py", "no file '/no/such/file.py'"),
            ("no_such_module", "no module 'no_such_module'"),
            ("json.no_such_part", r"no module 'json.no_such_part'"),
            ("json", "'json' offers no tools"),
            ("/", "is a directory"),
            ("..", "cannot be imported"),
            ("__main__", "cannot be loaded again|offers no tools"),
        ],
    )
    def test_what_is_no_plug_in_is_a_typed_error(
        self, agent: Agent, source: str, told: str
    ) -> None:
        with pytest.raises((InvalidRequest, ToolError), match=told):
            agent.tools.load(source)

    def test_a_module_that_cannot_be_found_again_is_a_typed_error(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
        with pytest.raises(ToolError, match="cannot be loaded again"):
            load_module("__main__", fresh=True)

    def test_a_function_without_a_module_is_the_modules_own(
        self, agent: Agent, tmp_path: Path
    ) -> None:
        source = (
            "from functools import partial\nfrom aios_core import Tool\n"
            "three = Tool('three', 'Three.', {}, partial(lambda n: n, 3))\n"
        )
        assert agent.tools.load(written(tmp_path / "tools.py", source)) == ("three@1",)
        assert agent.tools.run("three") == 3

    def test_a_tool_that_was_only_imported_is_not_offered_again(
        self, agent: Agent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, imported: set[str]
    ) -> None:
        monkeypatch.syspath_prepend(tmp_path)
        imported.add("weather_base")
        written(tmp_path / "weather_base.py", weather())
        source = "from weather_base import weather\n" + weather().replace("weather(", "sky(")
        assert agent.tools.load(written(tmp_path / "tools.py", source)) == ("sky@1",)

    def test_a_module_loaded_again_is_new_in_processes_too(
        self, agent: Agent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, imported: set[str]
    ) -> None:
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        imported.add("weather_apart")
        apart = weather("rain").replace("@tool(", '@tool(isolation="process", ')
        file = written(tmp_path / "weather_apart.py", apart)
        agent.tools.load("weather_apart")
        assert agent.tools.run("weather") == "rain here"
        written(file, apart.replace("rain", "thunder"))
        agent.tools.load("weather_apart")
        assert agent.tools.run("weather") == "thunder here"

    def test_what_the_configuration_names_is_loaded(self, tmp_path: Path) -> None:
        file = written(tmp_path / "tools.py", weather())
        with quiet_kernel(tools={"load": (str(file),)}) as kernel:
            assert kernel.spawn("alice").tools.run("weather") == "rain here"


class TestUnloading:
    @pytest.mark.parametrize("named", ["weather", "weather@1", "file", "source"])
    def test_a_tool_a_version_or_a_source_goes(
        self, agent: Agent, tmp_path: Path, named: str
    ) -> None:
        file = written(tmp_path / "tools.py", weather())
        agent.tools.load(file)
        name = {"file": str(file), "source": f"file {file}"}.get(named, named)
        assert agent.tools.unload(name) == ("weather@1",)
        with pytest.raises(NoSuchObject, match="no tool 'weather'"):
            agent.tools.run("weather")

    def test_one_version_goes_and_the_older_is_the_newest_then(
        self, kernel: Kernel, agent: Agent
    ) -> None:
        for version in ("1", "2"):
            kernel.load_tools(make("which", partial(str, version), version=version, parameters={}))
        assert agent.tools.run("which") == "2"
        agent.tools.unload("which@2")
        assert agent.tools.run("which") == "1"

    def test_what_is_not_there_is_refused_with_what_is(self, kernel: Kernel, agent: Agent) -> None:
        kernel.load_tools(make("echo", lambda: 1))
        with pytest.raises(NoSuchObject, match=r"no tool or plug-in 'ecko'; have \['echo@1'\]"):
            agent.tools.unload("ecko")

    def test_to_take_a_tool_from_everybody_is_asked_about_and_ones_own_is_not(self) -> None:
        with quiet_kernel(gatekeeper=None, access={"approver": "deny"}) as kernel:
            kernel.load_tools(make("shared", lambda: 1))
            evil = kernel.spawn("evil", group="guests")
            evil.tools.offer(make("mine", lambda: 1))

            with pytest.raises(ApprovalRefused):
                evil.tools.unload("shared")
            assert evil.tools.unload("mine", own=True) == ("mine@1",)
            assert evil.tools.run("shared") == 1
            assert kernel.unload_tools("shared") == ("shared@1",)
            assert evil.tools.list() == ()

    def test_the_first_call_of_all_may_be_an_unload(self, tmp_path: Path) -> None:
        file = written(tmp_path / "tools.py", weather())
        with quiet_kernel(tools={"load": (str(file),)}) as kernel:
            assert kernel.unload_tools("weather") == ("weather@1",)
            assert kernel.spawn("alice").tools.list() == ()

    def test_a_refusal_names_the_sources_too(self, agent: Agent, tmp_path: Path) -> None:
        file = written(tmp_path / "tools.py", weather())
        agent.tools.load(file)
        with pytest.raises(NoSuchObject) as caught:
            agent.tools.unload("tools")
        assert set(caught.value.known) == {"weather@1", str(file)}

    def test_ones_own_tools_end_with_the_agent(self, kernel: Kernel, agent: Agent) -> None:
        agent.tools.offer(make("mine", lambda: "mine"))
        with pytest.raises(NoSuchObject):
            kernel.spawn("bob").tools.run("mine")
        agent.exit()
        with pytest.raises(NoSuchObject):
            kernel.spawn("alice").tools.run("mine")


class TestVersionsSideBySide:
    async def test_a_call_under_way_ends_with_the_code_that_it_began_with(
        self, tmp_path: Path
    ) -> None:
        began, may_end = threading.Event(), threading.Event()
        sys.modules["held_by_the_test"] = held = type(sys)("held_by_the_test")
        vars(held).update(began=began, may_end=may_end)
        source = (
            "from held_by_the_test import began, may_end\nfrom aios_core import tool\n"
            "SAID = 'rain'\ndef said(): return SAID\n"
            "@tool(read_only=True, trusted=True)\ndef weather(wait: bool = False) -> str:\n"
            "    'Tell the weather.'\n"
            "    if wait:\n        began.set()\n        assert may_end.wait(5)\n    return said()\n"
        )
        file = written(tmp_path / "tools.py", source)
        try:
            async with quiet_kernel() as kernel:
                await kernel.aload_tools(file)
                agent = await kernel.aspawn("alice")
                old = asyncio.ensure_future(agent.tools.arun("weather", {"wait": True}))
                assert await asyncio.to_thread(began.wait, PATIENCE)

                written(file, source.replace("rain", "snow"))
                await kernel.aload_tools(file)

                assert await agent.tools.arun("weather") == "snow"
                may_end.set()
                assert await old == "rain"
        finally:
            may_end.set()
            del sys.modules["held_by_the_test"]

    async def test_a_call_under_way_ends_though_its_tool_was_unloaded(self) -> None:
        held = Held()
        async with quiet_kernel() as kernel:
            await kernel.aload_tools(make("slow", held))
            agent = await kernel.aspawn("alice")
            call = asyncio.ensure_future(agent.tools.arun("slow", {"who": "me"}))
            assert await asyncio.to_thread(held.has_begun)
            await agent.tools.aunload("slow")
            held.may_end.set()
            assert await call == "me"
            kernel.check()

    def test_versions_are_ordered_by_their_numbers(self, kernel: Kernel, agent: Agent) -> None:
        for version in ("1.9", "1.10", "1.2"):
            kernel.load_tools(make("which", partial(str, version), version=version, parameters={}))
        assert agent.tools.run("which") == "1.10"
        assert agent.tools.run("which@1.9") == "1.9"
        assert [one.version for one in agent.tools.list()] == ["1.2", "1.9", "1.10"]

    async def test_nobody_sees_half_of_a_reload(self, tmp_path: Path) -> None:
        """Both tools of a file change together, even if agents call them meanwhile."""
        pair = "{0}\n{1}"
        first = weather("a"), weather("a").replace("weather(", "sky(")
        second = weather("b"), weather("b").replace("weather(", "sky(")
        file = written(tmp_path / "tools.py", pair.format(*first))
        async with quiet_kernel() as kernel:
            await kernel.aload_tools(file)
            agent = await kernel.aspawn("alice")
            written(file, pair.format(*second))
            loading = asyncio.ensure_future(kernel.aload_tools(file))
            seen = []
            while not loading.done():
                offers = kernel._inside.parts.tools.catalog.registry.visible(None)
                seen.append({offer.tool.function() for offer in offers})
                await asyncio.sleep(0)
            assert all(len(said) == 1 for said in seen)
            assert await agent.tools.arun("sky") == "b here"


class TestRegistry:
    def test_one_source_cannot_offer_two_of_the_same(self) -> None:
        registry = ToolRegistry()
        twice = (make("echo", lambda: 1), make("echo", lambda: 2))
        with pytest.raises(Conflict, match=r"somebody offers \['echo@1'\] twice"):
            registry.put("key", compile_tools(Plugin("key", "somebody", twice)))
        assert list(registry) == []

    def test_a_refused_offer_changes_nothing(self) -> None:
        registry = ToolRegistry()
        mine: tuple[Tool, ...] = (make("echo", lambda: 1),)
        registry.put("mine", compile_tools(Plugin("mine", "me", mine)))
        theirs = (make("other", lambda: 1), make("echo", lambda: 2))
        with pytest.raises(Conflict, match="by me and by them"):
            registry.put("theirs", compile_tools(Plugin("theirs", "them", theirs)))
        assert [offer.tool for offer in registry] == list(mine)
        assert registry.keys() == ["mine"]

    def test_ones_own_goes_before_everybodys(self) -> None:
        registry = ToolRegistry()
        ours, mine = make("echo", lambda: 1, version="2"), make("echo", lambda: 2)
        registry.put("ours", compile_tools(Plugin("ours", "all", (ours,))))
        registry.put("mine", compile_tools(Plugin("mine", "me", (mine,)), "alice"), "alice")
        assert registry.resolve("echo", "alice").tool is mine
        assert registry.resolve("echo@2", "alice").tool is ours
        assert registry.resolve("echo", "bob").tool is ours

    def test_what_a_source_holds_is_released_once_it_offers_nothing(self) -> None:
        async def scenario() -> list[str]:
            released: list[str] = []
            catalog = ToolCatalog(quiet_kernel().config.tools)

            def plugin(name: str, *tools: Tool) -> Callable[[], Plugin]:
                return lambda: Plugin("key", "it", tools, partial(released.append, name))

            echo, other = make("echo", lambda: 1), make("other", lambda: 1)
            await catalog._offer(plugin("first", echo), None)
            await catalog._offer(plugin("second", echo, other), None)
            await catalog.unload("echo")
            assert released == ["first"]
            await catalog.unload("other")
            await catalog._offer(plugin("third", echo), "alice")
            with pytest.raises(Conflict):
                await catalog._offer(plugin("fourth", echo, echo), "bob")
            catalog.forget("alice")
            await catalog.close()
            return released

        assert asyncio.run(scenario()) == ["first", "second", "fourth", "third"]


def test_a_function_with_the_decorator_is_loaded_as_it_is(kernel: Kernel, agent: Agent) -> None:
    def plain(x: int) -> int:
        """Give it back."""
        return x

    assert kernel.load_tools(plain) == ("plain@1",)
    assert agent.tools.run("plain", {"x": 3}) == 3


@pytest.mark.parametrize("source", [3, None, b"x", ["a"]])
def test_what_is_no_source_is_refused(agent: Agent, source: Any) -> None:
    with pytest.raises(InvalidRequest, match="source: allowed: a file"):
        agent.tools.load(source)
