"""`aios run` and `aios_core.install()` for all three frameworks. Imports nothing of them."""

from typing import Final

from aios_core.adapting import Launcher

launcher: Final = Launcher(
    "AutoGen",
    patches={
        "substitute": {
            "autogen_ext.models.openai._openai_client": "autogen_aios.openai_client:substitute"
        },
        "admit": {"autogen_ext.models.openai._openai_client": "autogen_aios.admission:admit"},
    },
    tested={"autogen-core": ("0.7.",), "autogen-ext": ("0.7.",)},
)

classic: Final = Launcher(
    "classic AutoGen",
    patches={
        "substitute": {"autogen": "autogen_aios.classic:substitute"},
        "admit": {"autogen": "autogen_aios.classic:admit"},
    },
    tested={"autogen": ("0.14.",), "ag2": ("0.14.",)},
)

agent_framework: Final = Launcher(
    "Agent Framework",
    patches={
        "substitute": {
            "agent_framework_openai._chat_client": "autogen_aios.agent_framework_openai:substitute",
            "agent_framework_openai._chat_completion_client": (
                "autogen_aios.agent_framework_openai:substitute"
            ),
        },
        "admit": {
            "agent_framework_openai._chat_client": "autogen_aios.agent_framework_admission:admit",
            "agent_framework_openai._chat_completion_client": (
                "autogen_aios.agent_framework_admission:admit"
            ),
        },
    },
    tested={"agent-framework-core": ("1.23.",), "agent-framework-openai": ("1.17.",)},
)
