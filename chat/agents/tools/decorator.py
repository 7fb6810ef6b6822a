"""`@tool`: a function with type hints becomes a Tool; its schema is pydantic's."""

import inspect
from collections.abc import Callable
from typing import Any, get_type_hints, overload

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from chat.agents.tools.base import Tool, ToolContext, ToolError


@overload
def tool(function: Callable[..., Any], /) -> Tool: ...
@overload
def tool(
    *,
    name: str = "",
    idempotent: bool = False,
    needs_approval: bool = False,
    timeout_seconds: float = 30.0,
    cost: float = 0.0,
) -> Callable[[Callable[..., Any]], Tool]: ...
def tool(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str = "",
    idempotent: bool = False,
    needs_approval: bool = False,
    timeout_seconds: float = 30.0,
    cost: float = 0.0,
) -> Any:
    """Make a tool of a function or coroutine; its docstring is what the model reads of it.

    A parameter annotated as ToolContext gets the call's context; the others are the model's to fill, and
    `Annotated[int, Field(ge=1, description="...")]` says more of one. Arguments reach the function as what they are
    annotated as. See Tool for what the flags mean.
    """

    def make(function: Callable[..., Any]) -> Tool:
        model, context_name = _model_of(function)
        return Tool(
            name=name or function.__name__,
            description=inspect.cleandoc(function.__doc__ or ""),
            parameters=_schema_of(model),
            function=_with_context(function, context_name),
            timeout_seconds=timeout_seconds,
            is_idempotent=idempotent,
            needs_approval=needs_approval,
            cost=cost,
            convert=lambda args: _convert(model, args),
        )

    return make if function is None else make(function)


def _model_of(function: Callable[..., Any]) -> tuple[type[BaseModel], str]:
    """The arguments as a pydantic model, and the name of the parameter that gets the context ('': none does)."""
    hints = get_type_hints(function, include_extras=True)
    context_name = ""
    fields: dict[str, Any] = {}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise TypeError(f"The tool {function.__name__} cannot have the parameter {parameter}: a model names them.")
        if hints.get(parameter.name) is ToolContext:
            context_name = parameter.name
            continue
        default = ... if parameter.default is parameter.empty else parameter.default
        fields[parameter.name] = (hints.get(parameter.name, Any), default)
    config = ConfigDict(extra="forbid", arbitrary_types_allowed=False)
    return create_model(f"{function.__name__}_arguments", __config__=config, **fields), context_name


def _schema_of(model: type[BaseModel]) -> dict[str, Any]:
    schema = model.model_json_schema()
    schema.pop("title", None)
    for each in schema.get("properties", {}).values():
        each.pop("title", None)  # says nothing that the name does not, and each token is paid for
    return schema


def _with_context(function: Callable[..., Any], context_name: str) -> Callable[..., Any]:
    """The function as Tool wants it: with the context first."""
    if inspect.iscoroutinefunction(function):

        async def call_async(context: ToolContext, /, **args: Any) -> Any:
            return await function(**args, **({context_name: context} if context_name else {}))

        return call_async

    def call(context: ToolContext, /, **args: Any) -> Any:
        return function(**args, **({context_name: context} if context_name else {}))

    return call


def _convert(model: type[BaseModel], args: dict[str, Any]) -> dict[str, Any]:
    try:
        values = model.model_validate(args)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)
        said = "; ".join(f"{'.'.join(map(str, each['loc'])) or 'arguments'}: {each['msg']}" for each in first[:5])
        raise ToolError(f"The arguments do not fit: {said}") from None
    return {name: getattr(values, name) for name in model.model_fields}
