"""Arithmetic by a parser that knows numbers and operators and nothing else."""

import ast
import math
import operator
import re
from collections.abc import Callable
from typing import Any

from chat.agents.tools.base import ToolError
from chat.agents.tools.decorator import tool

Number = int | float

_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "sqrt": math.sqrt,
    "abs": abs,
    "round": round,
    "min": min,
    "max": max,
}
_CONSTANTS = {"pi": math.pi, "e": math.e}
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")  # the comma of 1,000, not that of max(1, 2)
_MAX_CHARACTERS = 500
_MAX_BITS = 4_096  # of an integer on the way: 9**9**9 must not take the process with it


def calculate(expression: str) -> Number:
    """The value of an arithmetic expression; `^` and `**` are powers. Raises ToolError."""
    if len(expression) > _MAX_CHARACTERS:
        raise ToolError(f"The expression has more than {_MAX_CHARACTERS} characters.")
    source = expression.replace("^", "**").replace("×", "*").replace("÷", "/")
    source = _THOUSANDS.sub("", source).strip()
    try:
        return _checked(_value(ast.parse(source, mode="eval").body))
    except ZeroDivisionError:
        raise ToolError("Division by zero.") from None
    except (SyntaxError, ValueError, TypeError, KeyError, RecursionError, MemoryError, OverflowError):
        raise ToolError(f"Not an arithmetic expression: {expression!r}.") from None


def _checked(value: Any) -> Number:
    if isinstance(value, complex) or (isinstance(value, float) and not math.isfinite(value)):
        raise ToolError("The result is not a finite real number.")
    if isinstance(value, int) and value.bit_length() > _MAX_BITS:
        raise ToolError("The result is too large.")
    return value  # type: ignore[no-any-return]


def _value(node: ast.expr) -> Number:
    match node:
        case ast.Constant(value=bool()):
            raise ValueError
        case ast.Constant(value=int() | float() as value):
            return _checked(value)
        case ast.BinOp(left, ast.Pow(), right):
            return _power(_value(left), _value(right))
        case ast.BinOp(left, op, right):
            return _checked(_BINARY[type(op)](_value(left), _value(right)))
        case ast.UnaryOp(op, operand) if type(op) in _UNARY:
            return _checked(_UNARY[type(op)](_value(operand)))
        case ast.Call(ast.Name(name), args, []) if name in _FUNCTIONS:
            return _checked(_FUNCTIONS[name](*map(_value, args)))
        case ast.Name(name) if name in _CONSTANTS:
            return _CONSTANTS[name]
    raise ValueError


def _power(base: Number, exponent: Number) -> Number:
    if isinstance(base, int) and isinstance(exponent, int) and abs(exponent) * base.bit_length() > _MAX_BITS:
        raise ToolError("The result is too large.")
    return _checked(base**exponent)


@tool(idempotent=True)
def calculator(expression: str) -> Number:
    """Evaluate an arithmetic expression, such as (2 + 3) * 4 or sqrt(2)."""
    return calculate(expression)
