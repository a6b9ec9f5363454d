"""Cores and policies by name, ours and those that other packages register."""

import inspect
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from aios_core import ConfigError, Kernel, KernelConfig, ModelLoadError, NoSuchObject
from aios_core.cli.extension_checks import check_extensions
from aios_core.config import CoreConfig, SchedulerConfig
from aios_core.config_decoder import Place
from aios_core.core_kinds import BUILT_IN
from aios_core.cores.factory import build_cores, constructor_of
from aios_core.extensions import CORE_KINDS, POLICIES, Extension
from aios_core.queueing.named_policy import build_policy
from aios_core.scheduler import POLICIES as CLASSES
from aios_core.scheduler import Auto, Fair, Policy, Priority

from .conftest import Install

Module = Callable[[str, str], None]
PLACE = Place("scheduler.policy", "")


def build(policy: str) -> Policy:
    return build_policy(policy, SchedulerConfig())


class TestRegistry:
    def test_ours_are_registered_in_the_same_way_as_those_of_others(self) -> None:
        project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
        registered = project["project"]["entry-points"]

        for registry in (CORE_KINDS, POLICIES):
            assert registered[registry.group] == dict(sorted(registry.built_in.items()))

    def test_a_built_in_name_stands_for_what_the_library_has_under_it(self) -> None:
        assert {name: POLICIES.load(name, PLACE) for name in POLICIES.built_in} == CLASSES
        assert {name: CORE_KINDS.load(name, PLACE) for name in CORE_KINDS.built_in} == BUILT_IN

    def test_a_package_can_not_take_the_place_of_a_built_in_name(self, install: Install) -> None:
        install("usurper", {"aios.policies": {"fair": "third_party_bad:Fair"}})

        assert POLICIES.load("fair", PLACE) is Fair

    def test_an_unknown_name_is_refused_with_the_known_ones_and_where_others_come_from(
        self, install: Install
    ) -> None:
        install("some", {"aios.policies": {"deadline": "third_party_x:EDF"}})

        with pytest.raises(ConfigError, match="did you mean 'deadline'") as caught:
            KernelConfig.load(environ={}, scheduler={"policy": "deadlines"})

        assert caught.value.key == "scheduler.policy"
        for part in ("'fifo'", "'deadline'", "'aios.policies'"):
            assert part in caught.value.allowed

    def test_a_name_that_two_packages_bring_is_refused_with_both(self, install: Install) -> None:
        install("one-a", {"aios.cores": {"x": "third_party_a:A"}})
        install("one-b", {"aios.cores": {"x": "third_party_b:B"}})

        with pytest.raises(ConfigError, match=r"one-a 1\.0 and one-b 1\.0 both bring it"):
            CORE_KINDS.load("x", Place("cores[0].kind", ""))

    def test_a_broken_package_breaks_only_its_own_name(
        self, install: Install, module: Module
    ) -> None:
        install("broken-things", {"aios.policies": {"bad": "third_party_bad:P"}})
        install("good-things", {"aios.policies": {"good": "third_party_good:P"}})
        module("third_party_bad", "raise SystemExit('no licence')")
        module("third_party_good", "from aios_core.scheduler import FIFO as P")

        assert build("good").rank  # it works
        assert isinstance(build("fair"), Fair)
        with pytest.raises(ConfigError, match=r"from broken-things 1\.0 cannot be") as caught:
            build("bad")
        assert "no licence" in caught.value.allowed
        assert "pip uninstall broken-things" in caught.value.allowed

    def test_names_are_read_and_nothing_is_imported(self, install: Install, module: Module) -> None:
        install("lazy", {"aios.policies": {"lazy": "third_party_lazy:P"}})
        module("third_party_lazy", "from aios_core.scheduler import FIFO as P")

        KernelConfig(scheduler=SchedulerConfig(policy="lazy"))

        assert "third_party_lazy" not in sys.modules
        Kernel(KernelConfig(scheduler=SchedulerConfig(policy="lazy")))
        assert "third_party_lazy" in sys.modules

    def test_importing_the_library_reads_no_metadata(self) -> None:
        program = (
            "import importlib.metadata as m\n"
            "def entry_points(**_): raise AssertionError('read')\n"
            "m.entry_points = entry_points\n"
            "import aios_core, aios_core.config\n"
            "aios_core.KernelConfig()\n"
        )
        subprocess.run([sys.executable, "-c", program], check=True)  # noqa: S603 - this Python


class TestPolicyOptions:
    def test_options_are_the_fields_of_the_policy(self) -> None:
        policy = build_policy("priority", SchedulerConfig("priority", options={"aging_s": 3}))

        assert policy == Priority(aging_s=3.0)

    def test_a_field_that_is_a_policy_takes_a_table(self) -> None:
        settings = SchedulerConfig("auto", options={"las": {"level_tokens": 64}}, quantum=8)

        policy = build_policy("auto", settings)

        assert isinstance(policy, Auto)
        assert policy.quantum == 8
        assert policy.las.level_tokens == 64.0  # type: ignore[attr-defined]

    @pytest.mark.parametrize(
        ("options", "key", "allowed"),
        [
            ({"ageing_s": 3}, "scheduler.options.ageing_s", "did you mean 'aging_s'"),
            ({"aging_s": "long"}, "scheduler.options.aging_s", "a number"),
            ({"quantum": 3}, "scheduler.options.quantum", "scheduler.quantum has one"),
        ],
    )
    def test_a_wrong_option_is_refused_by_its_key(
        self, options: dict[str, Any], key: str, allowed: str
    ) -> None:
        settings = SchedulerConfig("priority", options=options, quantum=2)

        with pytest.raises(ConfigError, match=allowed) as caught:
            build_policy("priority", settings)

        assert caught.value.key == key

    def test_variables_set_options_too(self) -> None:
        environ = {
            "AIOS_SCHEDULER__POLICY": "priority",
            "AIOS_SCHEDULER__OPTIONS__AGING_S": "2.5",
        }
        settings = KernelConfig.load(environ=environ).scheduler

        assert build_policy(settings.policy, settings) == Priority(aging_s=2.5)

    def test_a_variable_that_chooses_another_policy_leaves_the_options_of_the_file(
        self, tmp_path: Path
    ) -> None:
        file = tmp_path / "aios.toml"
        file.write_text("[scheduler]\npolicy = 'priority'\noptions = {aging_s = 3}\n")

        assert KernelConfig.load(file, environ={}).scheduler.options == {"aging_s": 3}
        environ = {"AIOS_SCHEDULER__POLICY": "fair"}
        assert KernelConfig.load(file, environ=environ).scheduler.options == {}
        argued = KernelConfig.load(file, environ={}, scheduler={"policy": "fair"})
        assert argued.scheduler.options == {}

    def test_a_policy_given_by_name_has_the_settings_of_the_configured_one_only_if_it_is_that(
        self,
    ) -> None:
        config = KernelConfig(scheduler=SchedulerConfig("priority", options={"aging_s": 3}))

        assert "'fair'" in repr(Kernel(config, policy="fair"))
        with pytest.raises(NoSuchObject, match="no policy 'fairer'"):
            Kernel(config, policy="fairer")

    def test_a_policy_that_cannot_be_made_is_blamed(self, install: Install, module: Module) -> None:
        install(
            "odd", {"aios.policies": {"odd": "third_party_odd:odd", "no": "third_party_odd:no"}}
        )
        module(
            "third_party_odd",
            "def odd():\n    raise LookupError('no table')\ndef no():\n    return 3",
        )

        with pytest.raises(ConfigError, match="LookupError: no table"):
            build("odd")
        with pytest.raises(ConfigError, match="a subclass of Policy"):
            build("no")


ECHO = """
class Echo:
    def __init__(self, path, *, name, models=("echo",), api_key=None, level: int = 1, **more):
        self.name, self.models, self.given = name, models, (path, api_key, level, more)

    start = prepare = run = preempt = cancel = load = close = print

def rude(*, name):
    raise SystemExit("no licence")

def hollow(*, name):
    return object()

strict = lambda *, name, level=1: Echo("p", name=name, level=level)
"""


class TestCoreKinds:
    @pytest.fixture(autouse=True)
    def echo(self, install: Install, module: Module) -> None:
        names = {"loud": "Echo", "strict": "strict", "rude": "rude", "hollow": "hollow"}
        entries = {name: f"third_party_echo:{value}" for name, value in names.items()}
        install("echoes", {"aios.cores": entries})
        module("third_party_echo", ECHO)

    def test_a_table_becomes_the_arguments_of_the_constructor(self) -> None:
        options = {"level": 3, "voice": "high"}
        table = CoreConfig("loud", path="here", api_key_env="KEY", options=options)

        (core,) = build_cores([table], environ={"KEY": "k"})

        assert core.name == "loud"
        assert core.given == ("here", "k", 3, {"voice": "high"})  # type: ignore[attr-defined]

    @pytest.mark.parametrize(
        ("table", "key", "allowed"),
        [
            ({"kind": "loud"}, "cores[0].path", "needed by kind 'loud'"),
            ({"kind": "loud", "path": "p", "base_url": "u"}, "cores[0].base_url", "not given for"),
            (
                {"kind": "loud", "path": "p", "options": {"level": "x"}},
                "cores[0].options.level",
                "whole",
            ),
            (
                {"kind": "strict", "options": {"levl": 2}},
                "cores[0].options.levl",
                "did you mean 'level'",
            ),
            (
                {"kind": "loud", "path": "p", "options": {"models": ["m"]}},
                "cores[0].options.models",
                "the options here are: level",
            ),
            ({"kind": "strict", "path": "p"}, "cores[0].path", "not given for kind 'strict'"),
        ],
    )
    def test_a_mistake_is_refused_by_its_key(
        self, table: dict[str, Any], key: str, allowed: str
    ) -> None:
        with pytest.raises(ConfigError, match=allowed) as caught:
            build_cores([CoreConfig(**table)], environ={})

        assert caught.value.key == key

    def test_a_constructor_that_fails_is_blamed_by_the_kind(self) -> None:
        with pytest.raises(ModelLoadError, match="'rude' cannot be made: SystemExit: no licence"):
            build_cores([CoreConfig("rude")], environ={})
        with pytest.raises(ConfigError, match="has no models, start") as caught:
            build_cores([CoreConfig("hollow")], environ={})
        assert caught.value.key == "cores[0].kind"

    def test_a_variable_lists_cores_too(self) -> None:
        config = KernelConfig.load(environ={"AIOS_CORES": '[{kind = "strict"}]'})

        assert config.cores == (CoreConfig("strict"),)

    def test_an_unknown_kind_names_the_known_ones(self) -> None:
        with pytest.raises(ConfigError, match="did you mean 'loud'") as caught:
            KernelConfig.load(environ={}, cores=[{"kind": "lout"}])

        assert caught.value.key == "cores[0].kind"
        assert "'transformers'" in caught.value.allowed


class TestDoctor:
    def test_every_kind_and_policy_is_listed_with_its_origin(
        self, install: Install, module: Module
    ) -> None:
        bad = {"bad": "third_party_bad:Core", "tiny": "third_party_bad:Core"}
        install("mixed", {"aios.cores": bad, "aios.policies": {"mine": "third_party_mine:P"}})
        module("third_party_mine", "from aios_core.scheduler import FIFO as P")

        found = {(one.area, one.name, str(one.facts["origin"])): one for one in check_extensions()}

        for name in CORE_KINDS.built_in:
            assert found["kind of core", name, "built in"].health == "ok"
        for name in POLICIES.built_in:
            assert found["scheduling policy", name, "built in"].health == "ok"
        assert found["scheduling policy", "mine", "from mixed 1.0"].health == "ok"
        broken = found["kind of core", "bad", "from mixed 1.0"]
        assert broken.health == "error"
        assert "No module named 'third_party_bad'" in str(broken)
        assert found["kind of core", "tiny", "from mixed 1.0"].health == "warning"


def test_an_extension_says_where_it_comes_from() -> None:
    assert Extension("a", "b:c").origin == "built in"
    assert Extension("a", "b:c", "pkg 2.0").origin == "from pkg 2.0"


PAGE = Path(__file__).parents[2] / "docs" / "reference" / "entry-points.md"


def documented(heading: str) -> dict[tuple[str, str], str]:
    """The defaults in a table of the reference, by name and option."""
    section = PAGE.read_text().split(f"### {heading}\n")[1].split("\n#")[0]
    rows = re.findall(r"^\| (`.*?`) \| (`.*?`) \| (.*?) \|", section, re.MULTILINE)
    return {
        (name.strip("` "), option.strip("` ")): default.strip("`")
        for names, options, default in rows
        for name in names.split(",")
        for option in options.split(",")
    }


def test_the_reference_lists_every_option_of_every_kind_with_its_default() -> None:
    given = {"self", "model", "path", "name", "models", "base_url", "api_key"}
    words = {"None": "none", "True": "true", "False": "false", "()": "empty"}
    shown = {}
    for name, kind in BUILT_IN.items():
        parameters = inspect.signature(constructor_of(kind, name)).parameters
        for option, parameter in parameters.items():
            default = kind.defaults.get(option, parameter.default)
            if option not in given and (name, option) != ("tiny", "num_threads"):
                shown[name, option] = words.get(str(default), str(default))

    listed = documented("Options of the built-in kinds")

    assert listed.pop(("tiny", "num_threads")) == "none"
    assert listed.pop(("vllm", "replicas")) == "1", "of the kind, not of one core"
    assert listed == shown


def test_the_reference_lists_every_option_of_every_policy() -> None:
    common = {item.name for item in fields(Policy)}
    own = {
        (n, i.name) for n, make in CLASSES.items() for i in fields(make()) if i.name not in common
    }

    assert set(documented("Options of the built-in policies")) == own
