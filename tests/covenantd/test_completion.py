"""Completion: the scripts, and the shells that run them."""

import argparse
import shutil
import subprocess
from pathlib import Path

import pytest

from covenantd import cli, ctl
from covenantd.completion import script, tree

PROGRAMS = {"covenantctl": ctl.parser, "covenantd": lambda: cli._parser(None, whole=True)}


def needs(shell: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(shell) is None, reason=f"needs {shell} (Debian: {shell})")


def test_the_tree_is_what_the_parser_understands() -> None:
    found = tree(ctl.parser())
    assert {"status", "top", "why", "bugreport"} <= set(found.commands)
    assert {"--json", "--dir"} <= {one.text for one in found.commands["status"].options}
    assert found.commands["log-level"].words == ("debug", "info", "warning", "error")
    assert found.commands["bugreport"].takes_files and not any(
        one.takes_value for one in found.options if one.text == "-h"
    )


def test_hidden_options_stay_hidden() -> None:
    assert "--noise-miners" not in script("covenantd", PROGRAMS["covenantd"](), "bash")


def test_help_texts_cannot_break_out_of_their_quotes() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--x", help="it's `rm -rf` $(date): 100%%")
    for shell in ("zsh", "fish"):
        text = script("p", parser, shell)
        assert "its rm -rf $(date)\\: 100%" in text


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize(("shell", "check"), [("bash", "-n"), ("zsh", "-n"), ("fish", "-n")])
def test_shells_accept_the_scripts(program: str, shell: str, check: str, tmp_path: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"needs {shell} (Debian: {shell})")
    path = tmp_path / "script"
    path.write_text(script(program, PROGRAMS[program](), shell))
    done = subprocess.run([shell, check, str(path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def bash_offers(path: Path, *words: str) -> set[str]:
    """What bash would offer for the last of `words`."""
    line = " ".join(f"'{word}'" for word in words)
    program = (
        f'source "{path}"; COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; _{words[0]}; echo "${{COMPREPLY[@]}}"'
    )
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True, cwd=path.parent)
    return set(done.stdout.split())


@needs("bash")
def test_bash_offers_what_fits(tmp_path: Path) -> None:
    path = tmp_path / "script"
    path.write_text(script("covenantctl", ctl.parser(), "bash"))
    assert bash_offers(path, "covenantctl", "sn") == {"snapshot"}
    assert bash_offers(path, "covenantctl", "--json", "log-level", "w") == {"warning"}
    assert bash_offers(path, "covenantctl", "wait", "--f") == {"--for"}
    assert bash_offers(path, "covenantctl", "bugreport", "--output", "scr") == {"script"}
    assert bash_offers(path, "covenantctl", "rounds", "sh") == {"show"}
    path.write_text(script("covenantd", PROGRAMS["covenantd"](), "bash"))
    assert bash_offers(path, "covenantd", "help", "tr") == {"troubleshooting"}


def zsh_offers(path: Path, line: str) -> set[str]:
    """What our function hands to zsh's completion system after `line`, when that calls it by its name."""
    program = f"""
autoload -U compinit && compinit -u -d {path}.dump
source {path}
_describe() {{ print -rl -- "${{(@P)2}}" > {path}.offers }}
_files() {{ print -rl -- FILES >> {path}.offers }}
words=({line} '')
CURRENT=${{#words}}
"${{_comps[$words[1]]}}"
"""
    done = subprocess.run(["zsh", "-f", "-c", program], capture_output=True, text=True, check=False, cwd=path.parent)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    return {row.partition(":")[0] for row in Path(f"{path}.offers").read_text().splitlines()}


@needs("zsh")
def test_zsh_offers_what_fits(tmp_path: Path) -> None:
    path = tmp_path / "script"
    path.write_text(script("covenantctl", ctl.parser(), "zsh"))
    offered = zsh_offers(path, "covenantctl")
    assert {"snapshot", "status", "--json"} <= offered and "debug" not in offered
    assert {"debug", "warning"} <= zsh_offers(path, "covenantctl --json log-level")
    assert "show" in zsh_offers(path, "covenantctl rounds")
    assert "FILES" in zsh_offers(path, "covenantctl bugreport")
    path.write_text(script("covenantd", PROGRAMS["covenantd"](), "zsh"))
    assert "troubleshooting" in zsh_offers(path, "covenantd help")


@needs("fish")
def test_fish_offers_what_fits(tmp_path: Path) -> None:
    path = tmp_path / "script.fish"
    path.write_text(script("covenantctl", ctl.parser(), "fish"))
    ask = f"source {path}; complete -C 'covenantctl log-level '; complete -C 'covenantctl sn'"
    environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "TERM": "dumb"}
    done = subprocess.run(
        ["fish", "--no-config", "-c", ask], capture_output=True, text=True, check=True, env=environment
    )
    offered = {line.partition("\t")[0] for line in done.stdout.splitlines()}
    assert {"debug", "warning", "snapshot"} <= offered and "status" not in offered
