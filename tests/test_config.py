from __future__ import annotations

from pathlib import Path

import pytest

from aios_core.budget import Budget, Price
from aios_core.config import (
    CoreConfig,
    GroupConfig,
    KernelConfig,
    SchedulerConfig,
)
from aios_core.config_sources import find_config_file
from aios_core.errors import ConfigError


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Hide the aios.toml and the home of the user who runs the tests."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path


def load(toml: str = "", **environ: str) -> KernelConfig:
    """The configuration under a file of that content."""
    file = Path("given.toml")
    file.write_text(toml)
    return KernelConfig.load(file, environ=environ)


def refused(toml: str = "", **environ: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load(toml, **environ)
    return caught.value


# --- where values come from ----------------------------------------------------------------------


def test_with_nothing_given_all_is_default() -> None:
    assert KernelConfig.load(environ={}) == KernelConfig()


def test_a_file_says_everything_that_the_tree_holds() -> None:
    config = load(
        """
        default_model = "big"
        drain_s = 1
        fallbacks = {big = ["small"]}

        [[cores]]
        kind = "openai"
        name = "cloud"
        models = ["big", "small"]
        base_url = "http://localhost:8000/v1"
        api_key_env = "CLOUD_KEY"
        options = {slots = 8}

        [[cores]]
        kind = "transformers"
        path = "models/tiny"

        [groups.heavy]
        weight = 0.5
        budget = {tokens = 1000, money = 2.5}

        [prices."gpt-4o"]
        input_per_million = 2.5
        output_per_million = 10

        [scheduler]
        policy = "fair"

        [context]
        directory = "state"

        [guard]
        max_depth = 3
        """
    )

    assert config.cores == (
        CoreConfig(
            "openai",
            name="cloud",
            models=("big", "small"),
            base_url="http://localhost:8000/v1",
            api_key_env="CLOUD_KEY",
            options={"slots": 8},
        ),
        CoreConfig("transformers", path="models/tiny"),
    )
    assert config.default_model == "big"
    assert config.fallbacks == {"big": ("small",)}
    assert config.drain_s == 1.0
    assert config.groups == {"heavy": GroupConfig(0.5, Budget(tokens=1000, money=2.5))}
    assert config.prices == {"gpt-4o": Price(2.5, 10.0)}
    assert config.scheduler.policy == "fair"
    assert config.context.directory == "state"
    assert config.guard.max_depth == 3


def test_a_limit_is_taken_away_with_the_word_none() -> None:
    assert load('guard = {max_calls = "none"}').guard.max_calls is None


def test_the_environment_goes_over_the_file_and_arguments_over_both() -> None:
    Path("aios.toml").write_text('[scheduler]\npolicy = "fifo"\nquantum = 8\nmax_waiting = 5\n')

    config = KernelConfig.load(
        environ={"AIOS_SCHEDULER__POLICY": "fair", "AIOS_SCHEDULER__QUANTUM": "16"},
        scheduler={"quantum": 32},
    )

    assert config.scheduler == SchedulerConfig(policy="fair", quantum=32, max_waiting=5)


def test_a_list_replaces_the_one_below_it() -> None:
    Path("aios.toml").write_text('[[cores]]\nkind = "tiny"\n')

    config = KernelConfig.load(environ={}, cores=[{"kind": "replay", "path": "tape.jsonl"}])

    assert config.cores == (CoreConfig("replay", path="tape.jsonl"),)


def test_tables_by_name_are_laid_over_each_other() -> None:
    config = load("[groups.heavy]\nweight = 2\n", AIOS_GROUPS__HEAVY__BUDGET__CALLS="7")

    assert config.groups == {"heavy": GroupConfig(2.0, Budget(calls=7))}


def test_sections_may_be_given_ready_made() -> None:
    config = KernelConfig.load(environ={}, scheduler=SchedulerConfig(quantum=4))

    assert config.scheduler.quantum == 4


# --- which file -----------------------------------------------------------------------------------


def test_the_file_is_the_named_one_then_the_local_one_then_the_users(nowhere: Path) -> None:
    own = nowhere / "home" / ".config" / "aios" / "aios.toml"
    own.parent.mkdir(parents=True)
    own.touch()
    assert find_config_file(environ={}) == own

    Path("aios.toml").touch()
    assert find_config_file(environ={}) == Path("aios.toml")

    Path("named.toml").touch()
    assert find_config_file(environ={"AIOS_CONFIG": "named.toml"}) == Path("named.toml")

    Path("given.toml").touch()
    assert find_config_file("given.toml", environ={"AIOS_CONFIG": "named.toml"}) == Path(
        "given.toml"
    )


@pytest.mark.parametrize(
    ("path", "environ"), [("gone.toml", {}), (None, {"AIOS_CONFIG": "gone.toml"})]
)
def test_a_named_file_that_is_not_there_is_an_error(
    path: str | None, environ: dict[str, str]
) -> None:
    with pytest.raises(ConfigError, match=r"got 'gone\.toml'; allowed: a file that exists"):
        KernelConfig.load(path, environ=environ)


def test_a_file_that_is_not_toml_is_refused_with_the_line() -> None:
    error = refused("[scheduler]\npolicy = fair\n")

    assert error.key == "given.toml"
    assert "line 2" in str(error)


def test_a_file_that_is_not_text_is_refused() -> None:
    Path("aios.toml").write_bytes(b"\xff\xfe")

    with pytest.raises(ConfigError, match="valid TOML"):
        KernelConfig.load(environ={})


# --- environment variables ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variable", "text", "section", "key", "value"),
    [
        ("AIOS_DEFAULT_MODEL", "gpt-4o", None, "default_model", "gpt-4o"),
        ("AIOS_DEFAULT_MODEL", "7", None, "default_model", "7"),
        ("AIOS_DRAIN_S", "2.5", None, "drain_s", 2.5),
        ("AIOS_FALLBACKS__BIG", "small, tiny", None, "fallbacks", {"big": ("small", "tiny")}),
        ("AIOS_SCHEDULER__QUANTUM", "32", "scheduler", "quantum", 32),
        ("AIOS_SCHEDULER__KEEP_WARM_S", "3", "scheduler", "keep_warm_s", 3.0),
        ("AIOS_GUARD__MAX_CALLS", "none", "guard", "max_calls", None),
        ("AIOS_CONTEXT__HOST_BYTES", "1_000", "context", "host_bytes", 1000),
    ],
)
def test_variables_are_parsed_as_their_key_asks(
    variable: str, text: str, section: str | None, key: str, value: object
) -> None:
    config = load(**{variable: text})

    assert getattr(getattr(config, section) if section else config, key) == value


def test_cores_can_be_given_in_one_variable() -> None:
    config = load(AIOS_CORES='[{kind = "replay", path = "tape.jsonl"}]')

    assert config.cores == (CoreConfig("replay", path="tape.jsonl"),)


def test_one_variable_points_at_a_model() -> None:
    config = load(
        '[[cores]]\nkind = "tiny"\n[fallbacks]\ntiny = ["tiny"]\n', AIOS_MODEL="Qwen/Qwen3-0.6B"
    )

    assert config.cores == (CoreConfig("transformers", path="Qwen/Qwen3-0.6B"),)
    assert config.fallbacks == {}  # they were of the cores that it replaces


def test_one_variable_points_at_the_models_own_core() -> None:
    assert load(AIOS_MODEL="tiny").cores == (CoreConfig("tiny"),)


def test_two_variables_point_at_an_endpoint() -> None:
    config = load(AIOS_BASE_URL="http://localhost:11434/v1", AIOS_MODEL="qwen3")

    assert config.cores == (
        CoreConfig("openai", models=("qwen3",), base_url="http://localhost:11434/v1"),
    )


def test_anthropics_own_endpoint_is_a_core_of_its_kind() -> None:
    config = load(AIOS_BASE_URL="https://api.anthropic.com/", AIOS_MODEL="claude-sonnet-4-6")

    assert config.cores[0].kind == "anthropic"


def test_the_key_of_an_endpoint_stays_in_the_environment() -> None:
    config = load(AIOS_BASE_URL="http://localhost/v1", AIOS_MODEL="m", AIOS_API_KEY="sk-hidden")

    assert config.cores[0].api_key_env == "AIOS_API_KEY"
    assert "sk-hidden" not in repr(config)


def test_an_endpoint_needs_the_name_of_its_model() -> None:
    assert refused(AIOS_BASE_URL="http://localhost/v1").key == "AIOS_MODEL"


def test_empty_variables_count_as_not_there() -> None:
    assert load(AIOS_SCHEDULER__QUANTUM="", AIOS_MODEL="") == KernelConfig()


def test_variables_of_others_are_left_alone() -> None:
    assert load(AIOS_VLLM_PYTHON="python3", AIOS_QUIET="1") == KernelConfig()


@pytest.mark.parametrize(
    ("slip", "meant"),
    [
        ("AIOS_DEFAULT_MODLE", "AIOS_DEFAULT_MODEL"),
        ("AIOS_BASEURL", "AIOS_BASE_URL"),
        ("AIOS_STATE_DIRECTORY", "AIOS_STATE__DIRECTORY"),
        ("AIOS_TOOLS_TIMEOUT_S", "AIOS_TOOLS__TIMEOUT_S"),
    ],
)
def test_a_variable_that_looks_like_a_slip_is_refused(slip: str, meant: str) -> None:
    error = refused(**{slip: "x"})

    assert error.key == slip
    assert f"did you mean {meant!r}" in str(error)


def test_a_variable_that_names_a_table_says_how_its_keys_are_set() -> None:
    assert "behind two underscores" in str(refused(AIOS_STATE="/somewhere"))


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("toml", "key", "allowed"),
    [
        ("drain_s = -1", "drain_s", "a number, at least 0"),
        ("drain_s = nan", "drain_s", "a number, at least 0"),
        ("drain_s = true", "drain_s", "a number, at least 0"),
        ("default_model = 3", "default_model", "a text"),
        ("scheduler = 3", "scheduler", "a table"),
        ("cores = {}", "cores", "a list"),
        ("cores = [3]", "cores[0]", "a table"),
        ("fallbacks.big = 'small'", "fallbacks.big", "a list"),
        ("scheduler.quantum = 0", "scheduler.quantum", "a whole number, at least 1"),
        ("scheduler.quantum = 1.5", "scheduler.quantum", "a whole number, at least 1"),
        ("scheduler.max_wait_s = 0", "scheduler.max_wait_s", "a number, above 0"),
        ("context.watermark = 2", "context.watermark", "a number, above 0 and at most 1"),
        ("guard.max_depth = '3'", "guard.max_depth", "a whole number, at least 0"),
        ("groups.a.weight = 0", "groups.a.weight", "a number, above 0"),
        ("groups.a.budget.tokens = -5", "groups.a.budget.tokens", "a whole number, at least 0"),
        ("prices.'gpt-4o'.input_per_million = 'x'", "prices.gpt-4o.input_per_million", "a number"),
        ("cores = [{kind = 'tiny', models = [1]}]", "cores[0].models[0]", "a text"),
        ("cores = [{name = 'x'}]", "cores[0]", "a table that has also kind"),
        ("cores = [{kind = 'openai'}]", "cores[0].models", "needed by kind 'openai'"),
        ("cores = [{kind = 'replay'}]", "cores[0].path", "needed by kind 'replay'"),
        ("cores = [{kind = 'tiny', path = 'x'}]", "cores[0].path", "not given for kind 'tiny'"),
    ],
)
def test_a_bad_value_is_refused_with_its_key_and_what_it_may_be(
    toml: str, key: str, allowed: str
) -> None:
    error = refused(toml)

    assert error.key == key
    assert error.allowed.startswith(allowed)
    assert error.source == "given.toml"
    assert f"{key} (from given.toml): got " in str(error)


def test_a_bad_variable_is_refused_with_its_name() -> None:
    error = refused(AIOS_SCHEDULER__QUANTUM="many")

    assert (error.key, error.got) == ("scheduler.quantum", "many")
    assert error.source == "environment variable AIOS_SCHEDULER__QUANTUM"


def test_a_bad_argument_is_refused_as_such() -> None:
    with pytest.raises(ConfigError, match=r"guard\.max_depth \(from an argument\): got -1"):
        KernelConfig.load(environ={}, guard={"max_depth": -1})


@pytest.mark.parametrize(
    ("toml", "key", "meant"),
    [
        ("scheduler.polcy = 'fair'", "scheduler.polcy", "policy"),
        ("schedular.policy = 'fair'", "schedular", "scheduler"),
        ("groups.a.budget.token = 1", "groups.a.budget.token", "tokens"),
        ("cores = [{kind = 'tiny', model = 'x'}]", "cores[0].model", "models"),
        ("cores = [{kind = 'open_ai'}]", "cores[0].kind", "openai"),
    ],
)
def test_an_unknown_name_is_refused_with_the_one_that_was_meant(
    toml: str, key: str, meant: str
) -> None:
    error = refused(toml)

    assert error.key == key
    assert f"did you mean {meant!r}?" in error.allowed


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    assert "the keys here are: weight, budget" in refused("groups.a.zzz = 1").allowed


def test_a_tree_built_by_hand_is_checked_too() -> None:
    with pytest.raises(ConfigError, match=r"scheduler\.quantum: got 0"):
        KernelConfig(scheduler=SchedulerConfig(quantum=0))


def test_lists_become_tuples_in_a_tree_built_by_hand() -> None:
    config = KernelConfig(cores=[CoreConfig("tiny", models=["a"])])  # type: ignore[arg-type]

    assert config.cores == (CoreConfig("tiny", models=("a",)),)


def test_an_empty_state_directory_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        KernelConfig(state={"directory": ""})  # type: ignore[arg-type]
    assert caught.value.key == "state.directory"


def test_a_lenient_load_leaves_out_what_is_wrong_and_returns_every_mistake(tmp_path: Path) -> None:
    file = tmp_path / "aios.toml"
    file.write_text(
        "[scheduler]\npolicy = 'las'\nquantum = 'many'\n[prices.m]\ninput = 3\n"
        "[[cores]]\nkind = 'openai'\nbase_url = 3\nmodels = ['m']\n[[cores]]\nkind = 'tiny'\n"
    )

    config, mistakes = KernelConfig.load_leniently(
        file, environ={"AIOS_BASE_URL": "http://x", "AIOS_DRAIN_S": "7"}
    )

    assert config.scheduler.policy == "las"
    assert config.drain_s == 7
    assert [core.kind for core in config.cores] == ["tiny"]
    assert {exc.key for exc in mistakes} == {
        "scheduler.quantum",
        "prices.m.input",
        "cores[0].base_url",
        "AIOS_MODEL",
    }


def test_a_correct_configuration_has_no_mistakes(tmp_path: Path) -> None:
    file = tmp_path / "aios.toml"
    file.write_text("[scheduler]\npolicy = 'las'\n")

    assert KernelConfig.load_leniently(file, environ={}) == (
        KernelConfig.load(file, environ={}),
        [],
    )
