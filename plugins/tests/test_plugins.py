"""The bundled tools, loaded like third-party ones and called by agents."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from aios_core import Agent, InvalidArguments, InvalidRequest, Kernel, KernelConfig, ToolError
from aios_core.cores.scripted import ScriptedCore
from aios_core.errors import SandboxUnavailable
from aios_core.tools.sandbox import select_backend


class Site(BaseHTTPRequestHandler):
    """A page, a redirect off the list, and a page that never ends."""

    def do_GET(self) -> None:
        if self.path == "/away":
            self.send_response(302)
            self.send_header("Location", "http://elsewhere.test/")
            self.end_headers()
            return
        self.send_response(404 if self.path == "/none" else 200)
        self.end_headers()
        size = (1 << 20) + 10 if self.path == "/large" else 0
        self.wfile.write(b"hello " + b"x" * size)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Site)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    listed = {"hosts": ["127.0.0.1", "localhost"], "private": ["127.0.0.1"]}
    config = KernelConfig.load(
        environ={},
        state={"directory": ":memory:"},
        access={"approver": "allow"},
        tools={"settings": {"http_fetch": listed}},
    )
    with Kernel(config, cores=[ScriptedCore("ok")]) as running:
        yield running
        running.check()


@pytest.fixture
def agent(kernel: Kernel) -> Iterator[Agent]:
    with kernel.spawn("worker") as spawned:
        yield spawned


def has_sandbox() -> bool:
    try:
        select_backend(KernelConfig.load(environ={}).tools.sandbox)
    except SandboxUnavailable:
        return False
    return True


def test_all_are_there_and_say_who_offers_them(agent: Agent) -> None:
    offered = {info.name: info for info in agent.tools.list()}

    assert {
        "calculator", "clock", "count_deltas", "http_fetch", "list_files", "python", "read_file",
        "recall", "remember", "search_memory", "shell", "write_file",
    } <= set(offered)  # fmt: skip
    assert "aios-plugins" in str(offered["calculator"])


class TestCalculator:
    @pytest.mark.parametrize(
        ("expression", "value"),
        [
            ("12 * (3 + 4)", "84"),
            ("-7 // 2", "-4"),
            ("2 ** 10", "1024"),
            ("10 / 4", "2.5"),
            ("10 / 5", "2"),
            ("max(3, sqrt(16))", "4"),
        ],
    )
    def test_it_does_math(self, agent: Agent, expression: str, value: str) -> None:
        assert agent.tools.run("calculator", {"expression": expression}) == value

    @pytest.mark.parametrize(
        "expression",
        [
            "__import__('os').getcwd()", "().__class__", "a + 1", "1 / 0", "9 ** 9 ** 9",
            "sqrt(-1)", "'a' * 9", "1 if 1 else 2", "[1, 2]", "", "(" * 500, "True + 1",
            "max(1, key=2)", "1e999",
        ],
    )  # fmt: skip
    def test_it_does_nothing_else(self, agent: Agent, expression: str) -> None:
        with pytest.raises((InvalidRequest, ToolError)):
            agent.tools.run("calculator", {"expression": expression})


class TestClock:
    def test_it_tells_the_time_of_a_zone(self, agent: Agent) -> None:
        assert agent.tools.run("clock").endswith("UTC")

    def test_a_zone_that_is_none_is_refused(self, agent: Agent) -> None:
        with pytest.raises(InvalidRequest, match="got 'Mars'; allowed: a time zone"):
            agent.tools.run("clock", {"zone": "Mars"})


class TestFilesAndMemory:
    def test_files_are_the_agents_own(self, kernel: Kernel, agent: Agent) -> None:
        agent.tools.run("write_file", {"path": "notes/a.txt", "text": "hello"})

        assert agent.tools.run("read_file", {"path": "notes/a.txt"}) == "hello"
        assert any("a.txt" in path for path in agent.tools.run("list_files", {"folder": "notes"}))
        assert agent.storage.read("notes/a.txt") in ("hello", b"hello")
        with kernel.spawn("other") as other, pytest.raises(InvalidRequest):
            other.tools.run("read_file", {"path": "notes/a.txt"})

    def test_what_is_remembered_is_recalled_and_found(self, agent: Agent) -> None:
        agent.tools.run("remember", {"key": "pizza", "value": "likes mushrooms on pizza"})

        assert agent.tools.run("recall", {"key": "pizza"}) == "likes mushrooms on pizza"
        assert "nothing is remembered" in agent.tools.run("recall", {"key": "rain"})
        assert "mushrooms" in str(agent.tools.run("search_memory", {"query": "mushrooms pizza"}))


class TestFetch:
    def test_a_listed_page_is_fetched_and_marks_its_reader(
        self, kernel: Kernel, agent: Agent, site: str
    ) -> None:
        assert agent.tools.run("http_fetch", {"url": f"{site}/"}) == "hello "
        assert "tool:http_fetch" in kernel.processes.get(agent.pid).labels

    @pytest.mark.parametrize(
        ("path", "told"),
        [("/none", "answered 404"), ("/large", "more than 1,048,576"), ("/away", "not allowed")],
    )
    def test_what_goes_wrong_is_told(self, agent: Agent, site: str, path: str, told: str) -> None:
        with pytest.raises((ToolError, InvalidRequest), match=told):
            agent.tools.run("http_fetch", {"url": site + path})

    @pytest.mark.parametrize(
        "url", ["http://elsewhere.test/", "file:///etc/passwd", "http://user@127.0.0.1/", "x"]
    )
    def test_what_is_not_listed_is_refused(self, agent: Agent, url: str) -> None:
        with pytest.raises(InvalidRequest):
            agent.tools.run("http_fetch", {"url": url})

    def test_a_name_that_leads_into_a_private_network_is_refused(
        self, agent: Agent, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        found: Any = [(0, 0, 0, "", ("10.0.0.1", 80))]
        monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: found)

        with pytest.raises(InvalidRequest, match="private network"):
            agent.tools.run("http_fetch", {"url": "http://localhost/"})


@pytest.mark.skipif(not has_sandbox(), reason="nothing on this machine can confine code")
class TestCode:
    def test_python_runs_in_the_sandbox_on_the_agents_files(self, agent: Agent) -> None:
        agent.storage.write("/in.txt", "41")
        code = "n = int(open('in.txt').read()) + 1\nopen('out.txt', 'w').write(str(n))\nprint(n)"

        assert agent.tools.run("python", {"code": code}) == "42"
        assert agent.storage.read("/out.txt") in ("42", b"42")

    @pytest.mark.parametrize(
        ("tool", "arguments"),
        [("python", {"code": "print(open('f').read())"}), ("shell", {"command": "cat f"})],
    )
    def test_code_marks_its_caller_with_what_its_files_came_from(
        self, kernel: Kernel, tool: str, arguments: dict[str, str]
    ) -> None:
        with kernel.spawn("heir") as first:
            kernel.processes.mark(first.identity, frozenset({"tool:http_fetch"}))
            first.storage.write("f", "evil")

        with kernel.spawn("heir") as second:
            assert second.tools.run(tool, arguments) == "evil"
            labels = kernel.processes.get(second.pid).labels
            assert labels == {"tool:http_fetch", f"tool:{tool}"}

    def test_shell_sees_nothing_of_the_host(self, agent: Agent) -> None:
        said = agent.tools.run("shell", {"command": "ls /root /home 2>&1; echo $HOME; id -u"})

        assert "0" not in said.split()[-1:]

    def test_a_failure_is_told_with_what_was_printed(self, agent: Agent) -> None:
        with pytest.raises(ToolError, match="exit status 3: before"):
            agent.tools.run("shell", {"command": "echo before; exit 3"})


def test_the_example_counts_words(agent: Agent) -> None:
    assert agent.tools.run("count_deltas", {"text": "a bb ccc", "longer_than": "1"}) == 2
    with pytest.raises(InvalidArguments, match="text"):
        agent.tools.run("count_deltas", {})
