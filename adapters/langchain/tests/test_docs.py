"""The page about LangChain is true: its programs run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[3] / "docs" / "how-to" / "langchain.md").read_text("utf-8")
SHOWN = {
    "AIOSVectorStore(": "The harbour opens at nine.",
    "AIOSGraphStore(index": "'since': datetime.date(2026, 1, 1)",
    "AIOSSaver()": "4 messages",
    "wrap_tools(": "4 degrees, snow 42",
}


@pytest.mark.usefixtures("as_default")
@pytest.mark.parametrize("name", SHOWN)
def test_a_snippet_prints_what_it_should(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    snippets = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (shown,) = [snippet for snippet in snippets if name in snippet]

    exec(compile(shown, "docs/how-to/langchain.md", "exec"), {})  # noqa: S102 - our own page

    assert SHOWN[name] in capsys.readouterr().out
