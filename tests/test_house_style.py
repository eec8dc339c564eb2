"""Linters and type checker, and the few rules of ours that they do not know."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGED = sorted(path for name in ("covenantd", "p2p", "model") for path in (ROOT / name).rglob("*.py"))
EVERYTHING = [*PACKAGED, *sorted((ROOT / "tests").rglob("*.py"))]
MAX_FILE_LINES = 350
MAX_FUNCTION_LINES = 60
MODULES_THAT_EXECUTE_DATA = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "shelve", "marshal", "joblib"}
NAMES_THAT_SAY_NOTHING = re.compile(r"(Manager|Utils?|Helpers?|Base)$")


def nodes(path: Path) -> Iterator[ast.AST]:
    return ast.walk(ast.parse(path.read_text(), str(path)))


def where(path: Path, line: int) -> str:
    return f"{path.relative_to(ROOT)}:{line}"


@pytest.mark.parametrize(
    "command", [("ruff", "check", "--quiet", "."), ("ruff", "format", "--check", "."), ("mypy",)], ids=" ".join
)
def test_tool_is_content(command: tuple[str, ...]) -> None:
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_files_and_functions_are_short() -> None:
    long = [where(path, n) for path in PACKAGED if (n := len(path.read_text().splitlines())) > MAX_FILE_LINES]
    for path in PACKAGED:
        for node in nodes(path):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                long += [f"{where(path, node.lineno)} {node.name}: {lines} lines"] if lines > MAX_FUNCTION_LINES else []
    assert long == []


def test_classes_are_named_for_what_they_are() -> None:
    vague = [
        f"{where(path, node.lineno)} {node.name}"
        for path in PACKAGED
        for node in nodes(path)
        if isinstance(node, ast.ClassDef) and NAMES_THAT_SAY_NOTHING.search(node.name)
    ]
    assert vague == []


def test_no_error_is_swallowed_whole() -> None:
    swallowed = [
        where(path, node.lineno)
        for path in EVERYTHING
        for node in nodes(path)
        if isinstance(node, ast.ExceptHandler) and _is_broad(node) and _does_nothing(node.body)
    ]
    assert swallowed == []


def _is_broad(handler: ast.ExceptHandler) -> bool:
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(kind is None or ast.unparse(kind) in ("Exception", "BaseException") for kind in kinds)


def _does_nothing(body: list[ast.stmt]) -> bool:
    return all(isinstance(one, ast.Pass | ast.Continue) or _is_constant(one) for one in body)


def _is_constant(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def test_no_bytes_are_executed() -> None:
    found = []
    for path in EVERYTHING:
        for node in nodes(path):
            if isinstance(node, ast.Import):
                names = {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names = {(node.module or "").partition(".")[0]}
            elif isinstance(node, ast.Call):
                names = {"pickle"} if _may_unpickle(node) else set()
            else:
                continue
            found += [where(path, node.lineno)] if names & MODULES_THAT_EXECUTE_DATA else []
    assert found == []


def _may_unpickle(call: ast.Call) -> bool:
    allowed = any(word.arg == "allow_pickle" and ast.unparse(word.value) != "False" for word in call.keywords)
    return allowed or ast.unparse(call.func) in ("torch.load", "torch.save")
