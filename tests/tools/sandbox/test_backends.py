"""The choice of the backend, the user and the Python; without a backend nothing runs."""

from __future__ import annotations

import os
import shutil
import subprocess
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aios_core.config import KernelConfig, SandboxConfig
from aios_core.errors import ConfigError, SandboxUnavailable
from aios_core.tools.sandbox import (
    Availability,
    Program,
    Sandbox,
    SandboxLimits,
    probe_backends,
    select_backend,
)
from aios_core.tools.sandbox.bubblewrap import Bubblewrap
from aios_core.tools.sandbox.interpreter import User, can_reach, find_interpreter
from aios_core.tools.sandbox.sandbox import limits_of

from .probes import processes_with, there

NOBODY = User(65534, 65534)
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root drops to another user")


def owner_of(pid: int) -> tuple[int, int]:
    status = Path(f"/proc/{pid}").stat()
    return status.st_uid, status.st_gid


class Absent:
    """A backend that this machine does not have."""

    name = "absent"
    python = "python3"

    def __init__(self, config: SandboxConfig) -> None:
        self.config = config

    def examine(self) -> Availability:
        return Availability(False, "it is not there", "buy one")

    def start(self, program: Program) -> Any:
        raise AssertionError(program)


class Present(Absent):
    """A backend that this machine has."""

    name = "present"

    def examine(self) -> Availability:
        return Availability(True, "fine")


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Record every program that is started meanwhile."""
    found: list[Any] = []
    real = subprocess.Popen.__init__

    def listen(self: Any, arguments: Any, *rest: Any, **options: Any) -> None:
        found.append((arguments, options))
        real(self, arguments, *rest, **options)

    monkeypatch.setattr(subprocess.Popen, "__init__", listen)
    return found


def test_the_first_tier_that_works_is_chosen() -> None:
    backends = {"absent": Absent, "present": Present, "other": Present}

    assert select_backend(SandboxConfig(), backends).name == "present"


async def test_without_a_tier_nothing_runs_and_it_says_how_to_get_one(started: list[Any]) -> None:
    sandbox = Sandbox(backends={"absent": Absent})
    try:
        with pytest.raises(SandboxUnavailable, match=r"it is not there; to fix it: buy one"):
            await sandbox.run("python", "print(1)")
        with pytest.raises(SandboxUnavailable):
            await sandbox.run("shell", "echo")
        with pytest.raises(SandboxUnavailable):
            await sandbox.open_session("default/alice")
    finally:
        await sandbox.close()

    assert started == []


def test_a_tier_that_is_named_is_the_only_one() -> None:
    with pytest.raises(SandboxUnavailable):
        select_backend(
            SandboxConfig(backend="bubblewrap"), {"bubblewrap": Absent, "present": Present}
        )


def test_a_machine_without_bwrap_has_no_tier(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)

    found = Bubblewrap(uid=65534).examine()

    assert (found.is_available, found.reason) == (False, "there is no bwrap")
    assert "apt install bubblewrap" in found.fix


@pytest.mark.parametrize(("system", "machine"), [("darwin", "arm64"), ("linux", "riscv64")])
def test_a_machine_without_a_filter_has_no_tier(
    system: str, machine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.platform", system)
    monkeypatch.setattr("platform.machine", lambda: machine)

    found = Bubblewrap(uid=65534).examine()

    assert not found.is_available
    assert "x86_64" in found.fix


def test_a_kernel_without_user_namespaces_has_no_tier(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bwrap = tmp_path / "bwrap"
    bwrap.write_text("#!/bin/sh\necho 'No permissions to create a new namespace' >&2; exit 1\n")
    bwrap.chmod(0o755)
    for place in (tmp_path, *tmp_path.parents):
        if place != Path("/") and place.owner() == Path.home().owner():
            place.chmod(place.stat().st_mode | 0o011)
    monkeypatch.setattr(shutil, "which", lambda *_, **__: str(bwrap))

    found = Bubblewrap(uid=65534).examine()

    assert not found.is_available
    assert "No permissions to create a new namespace" in found.reason
    assert "kernel.unprivileged_userns_clone" in found.fix


# --- root -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("uid", [None, 0])
def test_root_without_a_user_to_drop_to_runs_nothing(
    uid: int | None, started: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    backend = Bubblewrap(uid=uid)

    with pytest.raises(SandboxUnavailable, match="root"):
        backend.start(Program(("true",), SandboxLimits()))

    assert not backend.examine().is_available
    assert "tools.sandbox.uid" in backend.examine().fix
    assert started == []


def test_a_set_uid_program_of_roots_counts_as_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setattr("os.getuid", lambda: 0)

    with pytest.raises(SandboxUnavailable, match="root"):
        Bubblewrap(uid=None).start(Program(("true",), SandboxLimits()))


@AS_ROOT
async def test_bwrap_is_never_started_as_root(sandbox: Sandbox, started: list[Any]) -> None:
    await sandbox.run("shell", "true")
    await (await sandbox.open_session("default/alice")).execute("1")

    assert len(started) == 2
    for arguments, options in started:
        assert arguments[0].endswith("bwrap")
        assert (options["user"], options["group"]) == (65534, 65534)
        assert options["extra_groups"] == []


@AS_ROOT
async def test_the_user_on_the_host_is_the_configured_one(config: SandboxConfig) -> None:
    marker = f"owned-{uuid.uuid4()}"
    sandbox = Sandbox(replace(config, uid=54321, gid=54320))
    session = await sandbox.open_session("default/alice")
    try:
        await session.execute(
            f"import subprocess; p = subprocess.Popen(['sh', '-c', 'sleep 100; : {marker}'])"
        )
        assert await there(f": {marker}")
        owners = {owner_of(pid) for pid in processes_with(f": {marker}")}
    finally:
        await sandbox.close()

    assert owners == {(54321, 54320)}


def test_the_configuration_takes_no_root() -> None:
    for uid in (0, -1):
        with pytest.raises(ConfigError, match=r"tools\.sandbox\.uid"):
            KernelConfig(tools={"sandbox": {"uid": uid}})  # type: ignore[arg-type]


def test_limits_are_those_of_the_configuration() -> None:
    config = SandboxConfig(wall_s=1.5, cpu_s=2, max_processes=7, output_bytes=9)

    limits = limits_of(config)

    assert (limits.wall_s, limits.cpu_s, limits.max_processes, limits.output_bytes) == (
        1.5,
        2,
        7,
        9,
    )
    assert limits_of(SandboxConfig()) == SandboxLimits()


def test_a_survey_tries_every_tier() -> None:
    found = probe_backends(SandboxConfig(), {"absent": Absent, "present": Present})

    assert {name: there.is_available for name, (_, there) in found.items()} == {
        "absent": False,
        "present": True,
    }


# --- the paths inside -----------------------------------------------------------------------------


def test_a_path_below_a_closed_directory_is_out_of_reach(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    file = closed / "file"
    file.write_text("")
    file.chmod(0o644)

    assert not can_reach(str(file), NOBODY)
    assert not can_reach(str(tmp_path / "missing"), NOBODY)
    assert can_reach("/usr/bin/env", NOBODY)


def test_an_interpreter_that_is_out_of_reach_is_refused(tmp_path: Path) -> None:
    fake = tmp_path / "python"
    fake.write_text("#!/bin/sh\nprintf '/usr\\n/usr\\ncpython-311\\n'\n")
    fake.chmod(0o700)

    with pytest.raises(SandboxUnavailable, match=r"tools\.sandbox\.python"):
        find_interpreter(str(fake), NOBODY)


def test_what_is_no_interpreter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SandboxUnavailable, match="none of the Python interpreters"):
        find_interpreter(str(tmp_path / "nothing"), NOBODY)
    with pytest.raises(SandboxUnavailable, match="none of the Python interpreters"):
        find_interpreter("/bin/false", NOBODY)
    with pytest.raises(SandboxUnavailable, match="none of the Python interpreters"):
        find_interpreter("/bin/echo", NOBODY)


async def test_a_path_that_is_shared_can_be_read_and_not_written(config: SandboxConfig) -> None:
    sandbox = Sandbox(replace(config, read_only=("/etc/hostname",)))
    try:
        code = "test -s /etc/hostname && echo x > /etc/hostname || echo no"
        result = await sandbox.run("shell", code)
    finally:
        await sandbox.close()

    assert result.stdout == "no\n"
    assert "Read-only file system" in result.stderr


async def test_a_path_that_cannot_be_shared_is_named(config: SandboxConfig, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o000)
    sandbox = Sandbox(replace(config, read_only=(str(closed),)))
    try:
        with pytest.raises(SandboxUnavailable, match=r"tools\.sandbox\.read_only"):
            await sandbox.run("shell", "true")
    finally:
        await sandbox.close()
