"""`reference/api/`: one page for each public namespace, every public name on exactly one.

A name that several namespaces offer is described where it is at home: in the namespace with the
longest path that holds its definition. The other pages link to it.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from functools import cache
from types import ModuleType
from typing import Any

from text import code, first_sentence, table

# namespace -> the title of its page; what cannot be imported here has no page
NAMESPACES = {
    "aios_core": "aios_core",
    "aios_core.kernel": "Kernel and agents",
    "aios_core.messages": "Messages",
    "aios_core.errors": "Errors",
    "aios_core.memory": "Memory",
    "aios_core.storage": "Storage",
    "aios_core.retrieval": "Retrieval",
    "aios_core.tools": "Tools",
    "aios_core.access": "Access",
    "aios_core.cores": "Cores",
    "aios_core.queueing": "Scheduling policies",
    "aios_core.scheduling": "Scheduling",
    "aios_core.scheduler": "Scheduler",
    "aios_core.launch": "Launchers",
    "aios_core.testing": "Testing",
    "aios_core.adapting": "Writing adapters",
    "aios_adapters": "Writing adapters",
    "langchain_aios": "LangChain",
    "autogen_aios": "AutoGen",
    "autogen_aios.agent_framework": "Microsoft Agent Framework",
    "autogen_aios.classic": "Classic AutoGen",
    "llama_index.llms.aios": "LlamaIndex: models",
    "llama_index.embeddings.aios": "LlamaIndex: embeddings",
    "llama_index.storage.chat_store.aios": "LlamaIndex: chat stores",
    "llama_index.vector_stores.aios": "LlamaIndex: vector stores",
}


@cache
def namespaces() -> Mapping[str, ModuleType]:
    """Return the public namespaces that there are, with their modules."""
    found = {}
    for name in NAMESPACES:
        try:
            module = importlib.import_module(name)
        except ImportError:
            continue
        if getattr(module, "__all__", None):
            found[name] = module
    return found


def home_of(namespace: str, name: str) -> str:
    """Return the namespace with the page that describes a public name."""
    thing = getattr(namespaces()[namespace], name)
    offering = [
        other
        for other, module in namespaces().items()
        if name in module.__all__ and getattr(module, name) is thing
    ]
    return max(offering, key=lambda other: (_holds(other, thing), other.count("."), other))


def _holds(namespace: str, thing: Any) -> int:
    """Return how much of the path to a definition a namespace shares; 0 if it is elsewhere."""
    module = getattr(thing, "__module__", "") or ""
    return len(namespace) if f"{module}.".startswith(f"{namespace}.") else 0


def pages() -> dict[str, str]:
    """Return every page by its file name."""
    return {f"{name}.md": _page(name) for name in namespaces()}


def nav_api() -> str:
    """Return the lines of the navigation for the pages."""
    return "\n".join(f'- "{_title(name)}": reference/api/{name}.md' for name in namespaces())


def api_index(place: str = "reference") -> str:
    """Return a table of the namespaces, for a page of that folder."""
    folder = "api" if place == "reference" else "../reference/api"
    rows = [
        (f"[`{name}`]({folder}/{name}.md)", first_sentence(module))
        for name, module in namespaces().items()
    ]
    return table(("Namespace", "What is in it"), rows)


def _title(namespace: str) -> str:
    title = NAMESPACES[namespace]
    return title if title == namespace else f"{title} ({namespace})"


def _page(namespace: str) -> str:
    module = namespaces()[namespace]
    names = sorted(module.__all__, key=str.lower)
    own = [name for name in names if home_of(namespace, name) == namespace]
    parts = [f"# `{namespace}`", first_sentence(module), _summary(namespace, names)]
    parts += [f"::: {namespace}.{name}" for name in own]
    return "\n\n".join(parts) + "\n"


def _summary(namespace: str, names: list[str]) -> str:
    return table(("Name", "What it is"), _rows(namespace, names))


def _rows(namespace: str, names: list[str]) -> Iterator[tuple[str, str]]:
    for name in names:
        home = home_of(namespace, name)
        place = "" if home == namespace else f"{home}.md"
        thing = getattr(namespaces()[namespace], name)
        has_doc = callable(thing) and not isinstance(thing, dict | tuple | frozenset | str)
        yield f"[{code(name)}]({place}#{home}.{name})", first_sentence(thing) if has_doc else ""
