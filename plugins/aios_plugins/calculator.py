"""Evaluate arithmetic expressions, by interpreting Python's syntax tree without running code.

Bounded: at most 1,000 characters, and numbers (also results of powers) of about 4,300 digits.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping
from typing import Final

from aios_core import InvalidRequest, tool

MAX_CHARACTERS: Final = 1_000
MAX_BITS: Final = 14_000  # about 4,300 decimal digits

Number = int | float

_BINARY: Final[Mapping[type[ast.operator], Callable[[Number, Number], Number]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_UNARY: Final[Mapping[type[ast.unaryop], Callable[[Number], Number]]] = {
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
}
_FUNCTIONS: Final[Mapping[str, Callable[..., Number]]] = {
    "abs": abs,
    "max": max,
    "min": min,
    "round": round,
    "sqrt": math.sqrt,
}


@tool(read_only=True, trusted=True)
def calculator(expression: str) -> str:
    """Evaluate an arithmetic expression.

    Args:
        expression: such as "12 * (3 + 4)"; + - * / // % ** and abs, max, min, round, sqrt.
    """
    if len(expression) > MAX_CHARACTERS:
        raise InvalidRequest(f"expression: longer than {MAX_CHARACTERS} characters")
    try:
        value = _value(ast.parse(expression.strip(), mode="eval").body)
    except (SyntaxError, RecursionError) as exc:
        raise InvalidRequest(f"expression: {expression!r:.80} is not arithmetic") from exc
    except (ArithmeticError, ValueError) as exc:
        raise InvalidRequest(f"expression: {exc}") from exc
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return str(value)


def _value(node: ast.expr) -> Number:
    match node:
        case ast.Constant(value=bool()):
            pass
        case ast.Constant(value=int() | float() as number):
            return _bounded(number)
        case ast.UnaryOp(op=op, operand=operand) if type(op) in _UNARY:
            return _UNARY[type(op)](_value(operand))
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            return _power(_value(left), _value(right))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            return _bounded(_BINARY[type(op)](_value(left), _value(right)))
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _FUNCTIONS:
            try:
                return _bounded(_FUNCTIONS[name](*map(_value, args)))
            except TypeError as exc:
                raise ValueError(f"{name}: {exc}") from exc
        case _:
            pass
    raise ValueError(f"{ast.unparse(node)!r:.80} is not arithmetic")


def _power(base: Number, exponent: Number) -> Number:
    match base, exponent:
        case int(), int() if exponent > 0 and base.bit_length() * exponent > MAX_BITS:
            raise ValueError("the power is too large")
    value = base**exponent
    if isinstance(value, complex):
        raise ValueError("the root of a negative number is not real")  # noqa: TRY004 - a value
    return _bounded(value)


def _bounded(value: Number) -> Number:
    if isinstance(value, int) and value.bit_length() > MAX_BITS:
        raise ValueError("the number is too large")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("the result is not a finite number")
    return value
