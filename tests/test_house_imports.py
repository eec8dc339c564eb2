"""Who may import what. The packages stay apart: p2p moves bytes, model computes, covenantd puts both to use."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("covenantd", "p2p", "model")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))

FORBIDDEN = {
    "p2p": {"covenantd", "model", "torch"},
    "model": {"covenantd", "p2p", "trio", "hivemind", "bittensor", "bittensor_core"},
    "covenantd": {"torch", "hivemind"},
}
MODEL_SEEN_BY_COVENANTD = {"model.config", "model.messages"}

PURE = ("covenantd/round.py", "covenantd/roster.py", "covenantd/gauntlet/", "covenantd/chain/yuma/", "p2p/schedule.py")
IMPURE_MODULES = re.findall(
    r"\w+",
    "asyncio http io logging os pathlib random secrets select selectors shutil signal socket sqlite3 structlog "
    "subprocess sys tempfile threading time trio urllib",
)
IMPURE_CALLS = {"open", "print", "input", "exec", "eval"}

ADAPTERS = {"P2pdTransport", "open_p2pd", "open_dht", "LedgerChain", "BittensorChain"}
ADAPTERS_AT_HOME = {
    "covenantd/daemon.py": "the composition root of a daemon",
    "covenantd/doctor.py": "composition root of `covenantd doctor`: asks the chain",
    "covenantd/chain/opening.py": "from [chain] to its client: the part of composition that daemon and doctor share",
    "covenantd/chain/ledger/commands.py": "composition root of `covenantd ledger VERB`",
    "covenantd/localswarm.py": "composition root of `covenantd swarm`: asks the chain for its origin and the weights",
    "covenantd/registration.py": "composition root of `covenantd register`: signs with the node's hotkey",
    "p2p/_p2pd.py": "open_p2pd is the constructor of P2pdTransport",
}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), name_of(path))


@cache
def imports(path: Path) -> frozenset[str]:
    """Dotted names, wherever in the file they are imported: `from model import messages` is model.messages."""
    found = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)}:{node.lineno}: relative import"
            found |= {_resolved(node.module or "", alias.name) for alias in node.names}
    return frozenset(found)


def _resolved(module: str, name: str) -> str:
    inner = ROOT / module.replace(".", "/") / name
    return f"{module}.{name}" if inner.is_dir() or inner.with_suffix(".py").is_file() else module


def called_names(path: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call):
            function = node.func
            if isinstance(function, ast.Name):
                yield node.lineno, function.id
            elif isinstance(function, ast.Attribute):
                yield node.lineno, function.attr


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_stay_apart(package: str) -> None:
    wrong = {
        name_of(path): bad
        for path in MODULES
        if name_of(path).startswith(f"{package}/")
        and (bad := {one for one in imports(path) if one.partition(".")[0] in FORBIDDEN[package]})
    }
    assert wrong == {}


def test_covenantd_sees_only_config_and_messages_of_the_model() -> None:
    for path in MODULES:
        if name_of(path).startswith("covenantd/"):
            seen = {one for one in imports(path) if one.partition(".")[0] == "model"}
            assert seen <= MODEL_SEEN_BY_COVENANTD, name_of(path)


def test_what_covenantd_sees_of_the_model_is_free_of_torch() -> None:
    todo, seen = [*MODEL_SEEN_BY_COVENANTD, "model"], set[str]()
    while todo:
        module = todo.pop()
        path = ROOT / module.replace(".", "/")
        found = imports(path / "__init__.py" if path.is_dir() else path.with_suffix(".py"))
        assert not {one for one in found if one.partition(".")[0] == "torch"}, module
        seen.add(module)
        todo += [one for one in found if one.startswith("model") and one not in seen]


def test_pure_modules_do_no_io() -> None:
    pure = [path for path in MODULES if name_of(path).startswith(PURE) and path.name != "__main__.py"]
    assert len(pure) >= 5
    for path in pure:
        assert not {one.partition(".")[0] for one in imports(path)} & set(IMPURE_MODULES), name_of(path)
        calls = [(line, name) for line, name in called_names(path) if name in IMPURE_CALLS]
        assert calls == [], name_of(path)


def test_only_composition_roots_construct_adapters() -> None:
    builders = {name_of(p) for p in MODULES if any(name in ADAPTERS for _, name in called_names(p))}
    assert builders == {name for name in ADAPTERS_AT_HOME if (ROOT / name).exists()}


@pytest.mark.parametrize("module", ["covenantd.ctl", "covenantd.cli"])
def test_command_lines_start_light(module: str) -> None:
    program = (
        f"import sys; sys.argv = ['x', '--help']\ntry:\n import {module} as m; m.main()\nexcept SystemExit: pass\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = set(ast.literal_eval(done.stdout.splitlines()[-1]))
    assert not loaded & {"torch", "hivemind", "bittensor", "numpy", "grpc"}
