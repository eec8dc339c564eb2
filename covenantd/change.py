"""`covenantd change`: the run's owner writes and signs a change of the run spec; `covenantctl change FILE` hands it to
a validator, which proposes it. Two rounds' notice, no restart."""

import argparse
import json
from pathlib import Path
from typing import Any

from covenantd import runspec, specchange
from covenantd.chain.keys import load_hotkey, verify
from covenantd.errors import EXIT_OK, ConfigError
from covenantd.specchange import CHANGEABLE, SpecChange, SpecHistory


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--run-spec", type=Path, required=True, metavar="FILE", help="the run's run.json")
    parser.add_argument("--owner", type=Path, required=True, metavar="FILE", help="hotkey file of the run's owner")
    parser.add_argument("--first-round", type=int, required=True, metavar="R", help="the change holds from here on")
    parser.add_argument(
        "--after", type=Path, action="append", default=[], metavar="FILE", help="each earlier change, in order"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", required=True,
        help=f"one of {', '.join(CHANGEABLE)}, timing.*, inner.*, scoring.*; may be repeated",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the signed change")


def main(args: argparse.Namespace) -> int:
    spec = runspec.read(args.run_spec, verify)
    history = SpecHistory(spec, [specchange.parse(path.read_bytes(), spec, verify) for path in args.after])
    change = SpecChange(spec.run_id, history.newest.revision + 1, args.first_round, _changes(args.set))
    history.add(change)  # raises ConfigError for what no peer would take
    owner = load_hotkey(args.owner)
    if owner.hotkey != spec.owner:
        raise ConfigError(f"{args.owner}: the run belongs to {spec.owner}, this is {owner.hotkey}")
    args.out.write_bytes(specchange.sign(change, owner))
    print(f"{args.out}: change {change.revision} of run {spec.run_id[:16]}, from round {change.first_round} on; "
          f"hand it to a validator: covenantctl change {args.out}")  # fmt: skip
    return EXIT_OK


def _changes(assignments: list[str]) -> dict[str, Any]:
    """{"alpha": 1.0, "timing": {"seal_blocks": 20}} from ["alpha=1.0", "timing.seal_blocks=20"]."""
    changes: dict[str, Any] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        section, dot, key = name.partition(".")
        try:
            value = json.loads(text)
        except ValueError:
            raise ConfigError(f"--set {assignment}: {text!r} is no number") from None
        if not equals:
            raise ConfigError(f"--set {assignment}: wants NAME=VALUE")
        target = changes.setdefault(section, {}) if dot else changes
        if not isinstance(target, dict):
            raise ConfigError(f"--set {assignment}: {section} is set already")
        target[key if dot else section] = value
    return changes
