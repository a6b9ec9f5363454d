"""LangChain's own suite for chat models, on a scripted core and on the tiny model.

What is skipped: images, audio and PDFs (the kernel takes text, and these tests
download their samples) and the serialisation test, which passes only for classes
on a list inside langchain-core.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests

from aios_core import Kernel, KernelConfig
from aios_core.cores import ScriptedCore
from aios_core.testing import cooperative_script
from langchain_aios import ChatAIOS

# The suite measures the time of a stream in a way that its benchmark plug-in calls unused.
pytestmark = pytest.mark.filterwarnings("ignore:Benchmark fixture was not used")


class _OnScript:
    """Runs a suite on one kernel, with a core that does what it is asked to."""

    kernel: Kernel

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _kernel(cls) -> Iterator[None]:
        core = ScriptedCore(cooperative_script, models=("scripted", "another"))
        with Kernel(KernelConfig(), cores=[core]) as cls.kernel:
            kernel = cls.kernel
            yield
            kernel.check()

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatAIOS

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": "scripted", "kernel": getattr(self, "kernel", None)}


class TestUnit(_OnScript, ChatModelUnitTests):
    @property
    def init_from_env_params(self) -> tuple[dict[str, str], dict[str, Any], dict[str, Any]]:
        env = {"LANGCHAIN_AIOS_MODEL": "named", "LANGCHAIN_AIOS_GROUP": "research"}
        return env, {}, {"model": "named", "group": "research"}


class _Integration(_OnScript, ChatModelIntegrationTests):
    @property
    def model_override_value(self) -> str:
        return "another"

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def supports_anthropic_inputs(self) -> bool:
        return True

    @property
    def enable_vcr_tests(self) -> bool:
        return True


class TestFunctionCalling(_Integration):
    @property
    def structured_output_kwargs(self) -> dict[str, Any]:
        return {"method": "function_calling"}


class TestJsonSchema(_Integration):
    @property
    def structured_output_kwargs(self) -> dict[str, Any]:
        return {"method": "json_schema"}
