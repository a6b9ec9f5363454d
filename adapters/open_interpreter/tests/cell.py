"""A cell of the tests' own sessions: what it leaves in plain variables is found by the next."""

import ast
import json
import sys
import traceback
from pathlib import Path


def main() -> None:
    """Arguments: the file of the variables, the code."""
    kept, code = Path(sys.argv[1]), sys.argv[2]
    value = kept.with_suffix(".value")
    value.unlink(missing_ok=True)
    names = json.loads(kept.read_text()) if kept.exists() else {}
    try:
        tree = ast.parse(code, "<cell>")
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, "<cell>", "exec"), names)  # noqa: S102 - the tests' own code
        if last is not None:
            shown = eval(compile(ast.Expression(last.value), "<cell>", "eval"), names)  # noqa: S307
            if shown is not None:
                value.write_text(repr(shown))
    except Exception:  # noqa: BLE001 - every error is shown
        traceback.print_exc()
        sys.exit(1)
    plain = {name: one for name, one in names.items() if isinstance(one, int | str)}
    kept.write_text(json.dumps(plain))


if __name__ == "__main__":
    main()
