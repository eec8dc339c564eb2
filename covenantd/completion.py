"""Completion scripts for bash, zsh and fish, from an argparse parser. Static: they never start Python."""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, field

_FILES = {"FILE", "PATH", "DIR"}  # metavars after which the shell completes file names


@dataclass(frozen=True)
class Word:
    """An option or a command, with its help; `takes_value`: the next word is its value."""

    text: str
    help: str
    takes_value: bool = False


@dataclass(frozen=True)
class Command:
    """What may follow on one level: options, fixed words, further commands, and whether file names may."""

    options: tuple[Word, ...] = ()
    words: tuple[str, ...] = ()
    commands: dict[str, "Command"] = field(default_factory=dict)
    help: str = ""
    takes_files: bool = False


def tree(parser: argparse.ArgumentParser, help: str = "") -> Command:
    """What the parser would understand."""
    options: list[Word] = []
    words: list[str] = []
    commands: dict[str, Command] = {}
    takes_files = False
    for action in parser._actions:
        if action.help == argparse.SUPPRESS:
            continue
        if isinstance(action, argparse._SubParsersAction):
            helps = {one.dest: one.help or "" for one in action._choices_actions}
            commands = {name: tree(sub, helps.get(name, "")) for name, sub in action.choices.items()}
        elif action.option_strings:
            options += [Word(one, action.help or "", action.nargs != 0) for one in action.option_strings]
        else:
            words += [str(choice) for choice in action.choices or ()]
        takes_files = takes_files or str(action.metavar) in _FILES
    return Command(tuple(options), tuple(words), commands, help, takes_files)


def script(program: str, parser: argparse.ArgumentParser, shell: str) -> str:
    """ValueError: not a shell we know."""
    writers = {"bash": _bash, "zsh": _zsh, "fish": _fish}
    if shell not in writers:
        raise ValueError(f"{shell!r} is not one of {', '.join(writers)}")
    return writers[shell](program, tree(parser))


def _words(command: Command) -> str:
    return " ".join([*command.commands, *command.words, *(one.text for one in command.options)])


def _bash(program: str, root: Command) -> str:
    """The command is the first word that names one; the words known for it are offered, files where they fit."""
    cases = "\n".join(
        f'    {name}) words="{_words(one)}"; files={int(one.takes_files)} ;;' for name, one in root.commands.items()
    )
    names = " ".join(root.commands)
    return f"""# bash completion of {program}; `{program} completion bash > /etc/bash_completion.d/{program}`
_{program}() {{
  local current="${{COMP_WORDS[COMP_CWORD]}}" command="" words="{_words(root)}" files={int(root.takes_files)} word i
  for ((i = 1; i < COMP_CWORD; i++)); do
    word="${{COMP_WORDS[i]}}"
    case " {names} " in *" $word "*) command="$word"; break ;; esac
  done
  case "$command" in
{cases}
  esac
  COMPREPLY=($(compgen -W "$words" -- "$current"))
  if [ "${{#COMPREPLY[@]}}" = 0 ] && [ "$files" = 1 ]; then COMPREPLY=($(compgen -f -- "$current")); fi
}}
complete -F _{program} {program}
"""


def _zsh(program: str, root: Command) -> str:
    cases = "\n".join(
        f"      {name}) offers=({_described(one)}); files={int(one.takes_files)} ;;"
        for name, one in root.commands.items()
    )
    names = "|".join(root.commands)
    return f"""#compdef {program}
# zsh completion of {program}; `{program} completion zsh > "${{fpath[1]}}/_{program}"`
_{program}() {{
  local -a words_before; local command="" word files={int(root.takes_files)}
  words_before=("${{(@)words[2,CURRENT-1]}}")
  for word in $words_before; do
    case $word in {names}) command=$word; break ;; esac
  done
  local -a offers
  offers=({_described(root)})
  case $command in
{cases}
  esac
  _describe '{program}' offers
  if (( files )); then _files; fi
}}
if [ "$funcstack[1]" = "_{program}" ]; then _{program} "$@"; else compdef _{program} {program}; fi
"""


def _described(command: Command) -> str:
    rows = [(name, one.help) for name, one in command.commands.items()]
    rows += [(word, "") for word in command.words] + [(one.text, one.help) for one in command.options]
    return " ".join(_quoted(f"{text}:{_plain(help)}" if help else text) for text, help in rows)


def _fish(program: str, root: Command) -> str:
    lines = [
        f"# fish completion of {program}; `{program} completion fish > ~/.config/fish/completions/{program}.fish`",
        f"complete -c {program} -f",
        *_fish_lines(program, root, "__fish_use_subcommand"),
    ]
    for name, command in root.commands.items():
        lines += _fish_lines(program, command, f"__fish_seen_subcommand_from {name}")
        if command.takes_files:
            lines.append(f"complete -c {program} -n '__fish_seen_subcommand_from {name}' -F")
    return "\n".join(lines) + "\n"


def _fish_lines(program: str, command: Command, condition: str) -> Iterator[str]:
    start = f"complete -c {program} -n '{condition}'"
    for name, one in command.commands.items():
        yield f"{start} -a {name} -d {_quoted(_plain(one.help))}"
    for word in command.words:
        yield f"{start} -a {word}"
    for option in command.options:
        kind = f"-l {option.text[2:]}" if option.text.startswith("--") else f"-s {option.text[1:]}"
        value = " -r" if option.takes_value else ""
        yield f"{start} {kind}{value} -d {_quoted(_plain(option.help))}"


def _plain(help: str) -> str:
    return " ".join(help.replace("%%", "%").split()).replace(":", "\\:")


def _quoted(text: str) -> str:
    """For any of the three shells: in single quotes, with no single quote and no backquote in it."""
    return "'" + text.replace("'", "").replace("`", "") + "'"
