"""Check comments, docstrings, messages and pages for words that this project does not use.

    python scripts/prose_lint.py [--counts] [PATH ...]

The words and what to write instead are listed in ``scripts/prose_words.toml``; the reasons are in
CONTRIBUTING.md, "Language". Code, names and fenced blocks are not checked, nor are the strings of
tests and of training data. A line that has to use such a word, such as a quotation, ends with
``prose: ok`` in a comment.

Exit status: 0 when nothing is found, 1 otherwise.
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import subprocess
import sys
import tokenize
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORDS = Path(__file__).with_name("prose_words.toml")
ALLOWED = "prose: ok"

_CODE = re.compile(r"``.*?``|`[^`]*`", re.DOTALL)
_FENCE = re.compile(r"^\s*(```|~~~)")
_NO_MESSAGES = {"tests", "data", "models", "conftest.py"}  # their strings are data
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True, slots=True)
class Text:
    """A piece of English in a file: where it starts, and whether it documents something."""

    line: int  # of its first character, from 1
    content: str
    is_docstring: bool = False
    is_message: bool = False  # a string of the program


@dataclass(frozen=True, slots=True)
class Rule:
    """A word or opening that is not used here, and what to write instead."""

    pattern: re.Pattern[str]
    instead: str
    is_opening: bool = False  # only at the start of a docstring

    def matches(self, text: Text) -> Iterator[re.Match[str]]:
        """Find every use of the word in a text."""
        if not self.is_opening:
            yield from self.pattern.finditer(text.content)
        elif text.is_docstring and (found := self.pattern.match(text.content.lstrip())):
            yield found


@dataclass(frozen=True, slots=True)
class Finding:
    """One use of a word that is not used here."""

    path: Path
    line: int
    word: str
    instead: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.word!r}; write: {self.instead}"


def read_rules(path: Path = WORDS) -> list[Rule]:
    """Read the word list: one rule for each word and each opening."""
    listed = tomllib.loads(path.read_text(encoding="utf-8"))
    words = [
        Rule(re.compile(rf"\b(?:{word})\b", re.IGNORECASE), instead)
        for word, instead in listed["words"].items()
    ]
    openings = [
        Rule(re.compile(rf"(?:{opening})\b"), instead, is_opening=True)
        for opening, instead in listed["openings"].items()
    ]
    return words + openings


def texts_of(path: Path) -> list[Text]:
    """Extract the English of a Python file or a Markdown page."""
    source = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        return list(_page_texts(source))
    texts = _python_texts(source)
    return [text for text in texts if not (text.is_message and _NO_MESSAGES & set(path.parts))]


def _python_texts(source: str) -> Iterator[Text]:
    docstrings = dict(_docstrings(ast.parse(source)))
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        line = token.start[0]
        if token.type == tokenize.COMMENT:
            yield Text(line, token.string)
        elif token.type == tokenize.STRING:
            if line in docstrings:
                yield Text(line, docstrings[line], is_docstring=True)
            elif " " in token.string:  # a message; a key or a path has no words
                yield Text(line, token.string, is_message=True)
        elif token.type == _F_STRING_PART and " " in token.string:
            yield Text(line, token.string, is_message=True)


_F_STRING_PART = getattr(tokenize, "FSTRING_MIDDLE", -1)  # Python 3.12 and later


def _docstrings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, _DOCUMENTED) and (text := ast.get_docstring(node, clean=False)):
            # A property is read like an attribute: "Whether it is open" is what it states.
            yield node.body[0].lineno, f"True if {text[8:]}" if _states_a_fact(node, text) else text


def _states_a_fact(node: ast.AST, docstring: str) -> bool:
    decorators = getattr(node, "decorator_list", [])
    names = {ast.unparse(decorator) for decorator in decorators}
    return docstring.startswith("Whether ") and bool(names & {"property", "cached_property"})


def _page_texts(source: str) -> Iterator[Text]:
    is_code = False
    for number, line in enumerate(source.splitlines(), 1):
        if _FENCE.match(line):
            is_code = not is_code
        elif not is_code:
            yield Text(number, line)


def check(path: Path, rules: list[Rule]) -> list[Finding]:
    """Find the words of the list in one file, in the order of its lines."""
    lines = path.read_text(encoding="utf-8").splitlines()
    shown = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
    found = []
    for text in texts_of(path):
        prose = Text(text.line, _CODE.sub(_blank, text.content), text.is_docstring)
        for rule in rules:
            for match in rule.matches(prose):
                line = text.line + prose.content.count("\n", 0, match.start())
                if ALLOWED not in lines[line - 1]:
                    found.append(Finding(shown, line, match.group(), rule.instead))
    return sorted(found, key=lambda finding: finding.line)


def _blank(code: re.Match[str]) -> str:
    """Replace code by as many lines without words."""
    return "\n" * code.group().count("\n")


def tracked(paths: list[Path]) -> list[Path]:
    """List the Python files and pages below some paths that git knows or would add."""
    listed = subprocess.run(  # noqa: S603 - git, with paths
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *map(str, paths)],  # noqa: S607 - git is found by its name
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    files = (ROOT / name for name in listed.stdout.splitlines())
    return [file for file in files if file.suffix in {".py", ".md"} and _is_checked(file)]


def _is_checked(file: Path) -> bool:
    """Leave out the changelog, which quotes old names."""
    return file.is_file() and file.name != "CHANGELOG.md"


def main() -> int:
    """Print the findings, or how many there are of each word."""
    parser = argparse.ArgumentParser(description="Check the English of code and pages.")
    parser.add_argument("paths", nargs="*", type=Path, default=[ROOT])
    parser.add_argument("--counts", action="store_true", help="print a count for each word")
    options = parser.parse_args()
    rules = read_rules()
    paths = [path.resolve() for path in options.paths]
    found = [finding for file in tracked(paths) for finding in check(file, rules)]
    if options.counts:
        for word, count in Counter(finding.word.lower() for finding in found).most_common():
            print(f"{count:6,}  {word}")
    else:
        print(*found, sep="\n", end="\n" if found else "")
    print(f"{len(found):,} uses of words to avoid" if found else "the language is clean")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
