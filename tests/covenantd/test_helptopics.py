"""The operator's guide: it fits a terminal, and every command in it exists with the options it is shown with."""

import argparse
import re
import shlex
from pathlib import Path

import pytest

from covenantd import cli, ctl, errors
from covenantd.completion import Command, tree
from covenantd.config import SETTINGS
from covenantd.controlwire import EXIT_OF_CODE
from covenantd.helptopics import TOPICS, overview

GUIDES = sorted(set(TOPICS) - {"alerts", "dashboard", "config"})
PARSERS: dict[str, argparse.ArgumentParser] = {
    "covenantd": cli._parser(None, whole=True),
    "covenantctl": ctl.parser(),
}


def commands_in(text: str) -> list[list[str]]:
    """Lines that are a command of ours, and those named in running text."""
    lines = [line.strip() for line in text.splitlines() if re.match(r"  covenant(d|ctl) ", line)]
    return [shlex.split(line.partition(" > ")[0]) for line in lines]


@pytest.mark.parametrize("topic", GUIDES)
def test_it_fits_a_terminal(topic: str) -> None:
    lines = TOPICS[topic][1]().splitlines()
    assert max(map(len, lines)) <= 130 and len(lines) <= 48
    assert lines[0].endswith((".", ":")) and lines[1] == ""


@pytest.mark.parametrize("topic", GUIDES)
def test_commands_exist_with_their_options(topic: str) -> None:
    for words in commands_in(TOPICS[topic][1]()):
        command: Command = tree(PARSERS[words[0]])
        known = {one.text for one in command.options}
        for word in words[1:]:
            if word in command.commands:
                command = command.commands[word]
                known |= {one.text for one in command.options}
            elif word.startswith("--") and "serve" not in words:  # the ledger parses its own words
                assert word in known, (words, word)
        assert command.commands == {} or "ledger" in words, words


def test_verbs_named_in_the_text_exist() -> None:
    """Those in backquotes, and those that stand between punctuation: prose says covenantd, too."""
    quoted = r"`(covenantd|covenantctl) ([a-z-]+)"
    listed = r"(?:[:,;(] |  )(covenantd|covenantctl) ([a-z-]+)(?=[,;.:)\n]| --)"
    found = [
        (topic, *match)
        for topic in GUIDES
        for form in (quoted, listed)
        for match in re.findall(form, TOPICS[topic][1]())
    ]
    assert len(found) > 20
    for topic, program, verb in found:
        assert verb in tree(PARSERS[program]).commands, (topic, program, verb)


def test_settings_named_in_the_text_exist() -> None:
    for topic in GUIDES:
        for section, key in re.findall(r"\[([a-z]+)\] ([a-z_]+)", TOPICS[topic][1]()):
            assert f"{section}.{key}" in SETTINGS, (topic, section, key)


def test_every_text_has_its_topic_and_the_other_way_round() -> None:
    files = {one.stem.removeprefix("help-") for one in (Path(cli.__file__).parent / "assets").glob("help-*.txt")}
    assert files == set(GUIDES)
    assert all(f"  {name} " in overview() for name in TOPICS)


def test_exit_codes_are_those_of_the_code() -> None:
    """All of them, each under the program that ends with it, in words that the code's own agree with."""
    daemon, client = re.split(r"^covenantctl ", TOPICS["exit-codes"][1](), flags=re.MULTILINE)
    codes = [{int(code): words for code, words in re.findall(r"(\d+) ([a-z :]+)", one)} for one in (daemon, client)]
    of_daemon = {"EXIT_OK", "EXIT_FAILED", "EXIT_DAEMON_USAGE", "EXIT_BUG", "EXIT_TRY_AGAIN", "EXIT_NO_PERMISSION"}
    of_daemon.add("EXIT_CONFIG")
    named = {name: value for name, value in vars(errors).items() if name.startswith("EXIT_")}
    assert set(codes[0]) == {named[name] for name in of_daemon} | {cli.EXIT_INTERRUPTED}
    of_client = {value for name, value in named.items() if name not in of_daemon} | {0, 1, cli.EXIT_INTERRUPTED}
    assert set(codes[1]) == of_client and set(EXIT_OF_CODE.values()) <= of_client
    for code, word in ((75, "try again"), (77, "no permission"), (78, "config"), (64, "usage"), (70, "a bug")):
        assert codes[0][code].startswith(word)
    for code, word in ((2, "usage"), (3, "not running"), (4, "permission"), (5, "timeout")):
        assert codes[1][code].startswith(word)
    for code in of_client - {130}:
        assert f"{code} {codes[1][code].strip()}" in ctl._EPILOG


def test_reasons_are_explained_in_the_guide() -> None:
    from covenantd.reasons import ADVICE

    text = TOPICS["troubleshooting"][1]()
    for reason in ("late", "missing", "base", "equivocated", "harmful", "useless", "full"):
        assert reason in text and reason in ADVICE
