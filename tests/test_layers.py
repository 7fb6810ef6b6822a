"""Imports flow one way: sessions_app <- monitoring <- chat <- agentsite."""

import ast
from pathlib import Path

import pytest

from tests.fakes.processes import PROJECT

LAYERS = ["sessions_app", "monitoring", "chat", "agentsite"]
FILES = [path for layer in LAYERS for path in (PROJECT / layer).rglob("*.py")]


def imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module or ""] if isinstance(node, ast.ImportFrom) else []


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PROJECT)))
def test_a_file_imports_only_what_is_below_it(path: Path) -> None:
    layer = path.relative_to(PROJECT).parts[0]
    above = LAYERS[LAYERS.index(layer) + 1 :]
    names = [name for node in ast.walk(ast.parse(path.read_text())) for name in imported(node)]
    assert not [name for name in names if name.split(".")[0] in above]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PROJECT)))
def test_no_import_hides_inside_a_function(path: Path) -> None:
    functions = [
        node
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    assert not [name for function in functions for node in ast.walk(function) for name in imported(node)]


def test_there_are_files_to_look_at() -> None:
    assert len(FILES) > 50
