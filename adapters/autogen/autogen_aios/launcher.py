"""List the patches of `aios run` and `aios_core.install()` for all three frameworks.

Imports none of the frameworks.
"""

from typing import Final

from aios_core.launch import Launcher

_AUTOGEN: Final = {"autogen_core.models._model_client": "autogen_aios.unserved:watch_autogen"}
_FRAMEWORK: Final = {"agent_framework._clients": "autogen_aios.unserved:watch_agent_framework"}

launcher: Final = Launcher(
    "AutoGen",
    patches={
        "substitute": {
            **_AUTOGEN,
            "autogen_ext.models.anthropic._anthropic_client": (
                "autogen_aios.anthropic_client:patch_substitute"
            ),
            "autogen_ext.models.openai._openai_client": (
                "autogen_aios.openai_client:patch_substitute"
            ),
        },
        "passthrough": {
            **_AUTOGEN,
            "autogen_ext.models.anthropic._anthropic_client": (
                "autogen_aios.passthrough:patch_anthropic"
            ),
            "autogen_ext.models.openai._openai_client": (
                "autogen_aios.passthrough:patch_passthrough"
            ),
        },
    },
    tested={"autogen-core": ("0.7.",), "autogen-ext": ("0.7.",)},
)

classic: Final = Launcher(
    "classic AutoGen",
    patches={
        "substitute": {
            "autogen": "autogen_aios.classic:patch_substitute",
            "autogen.token_count_utils": "autogen_aios.classic_counts:patch_substitute",
            "autogen.agentchat.contrib.capabilities.transforms": (
                "autogen_aios.classic_counts:patch_substitute"
            ),
        },
        "passthrough": {"autogen": "autogen_aios.classic:patch_passthrough"},
    },
    tested={"autogen": ("0.14.",), "ag2": ("0.14.",)},
)

agent_framework: Final = Launcher(
    "Agent Framework",
    patches={
        "substitute": {
            **_FRAMEWORK,
            "agent_framework_openai._chat_client": (
                "autogen_aios.agent_framework_openai:patch_substitute"
            ),
            "agent_framework_openai._chat_completion_client": (
                "autogen_aios.agent_framework_openai:patch_substitute"
            ),
        },
        "passthrough": {
            **_FRAMEWORK,
            "agent_framework_openai._chat_client": (
                "autogen_aios.agent_framework_passthrough:patch_passthrough"
            ),
            "agent_framework_openai._chat_completion_client": (
                "autogen_aios.agent_framework_passthrough:patch_passthrough"
            ),
        },
    },
    tested={"agent-framework-core": ("1.23.",), "agent-framework-openai": ("1.17.",)},
)
