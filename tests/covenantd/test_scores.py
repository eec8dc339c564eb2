"""The validator's memory of its miners."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from run_fixture import HOTKEYS

from covenantd.errors import ConfigError
from covenantd.gauntlet.standing import FORGOTTEN_ROUNDS, Standing
from covenantd.node import Node
from covenantd.scores import Scores

ALICE, BOB, CHARLIE = HOTKEYS[:3]


class Subnet:
    def __init__(self, *registered: str) -> None:
        self.hotkeys = frozenset(registered)

    async def registered(self, round: int) -> frozenset[str]:
        return self.hotkeys


def scores(path: Path, subnet: Subnet, **standings: Standing) -> Scores:
    path.write_text(json.dumps({h: vars(s) for h, s in standings.items()}))
    spec = SimpleNamespace(scoring=SimpleNamespace(decay=0.5))
    return Scores(cast(Node, SimpleNamespace(spec=spec, agreement=subnet)), path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "scores.json"


async def test_who_stays_away_fades_and_is_forgotten(path: Path) -> None:
    kept = scores(path, Subnet(ALICE, BOB), **{ALICE: Standing(0.4, 9), BOB: Standing(0.4, 9)})
    assert kept.shares() == {ALICE: 0.5, BOB: 0.5}
    await kept.age(1, [ALICE])
    assert kept.standings == {ALICE: Standing(0.4, 9), BOB: Standing(0.2, 9, absent=1)}
    await kept.age(2, [ALICE])
    assert kept.shares() == {ALICE: pytest.approx(0.8), BOB: pytest.approx(0.2)}
    for round in range(3, 3 + FORGOTTEN_ROUNDS):
        await kept.age(round, [ALICE])
    assert set(kept.standings) == {ALICE}


async def test_who_left_the_subnet_is_forgotten_at_once(path: Path) -> None:
    subnet = Subnet(ALICE, BOB)
    kept = scores(path, subnet, **{ALICE: Standing(0.4, 9), BOB: Standing(0.4, 9)})
    subnet.hotkeys = frozenset([ALICE, CHARLIE])
    await kept.age(1, [ALICE])
    assert set(kept.standings) == {ALICE} and kept.shares() == {ALICE: 1.0}


async def test_a_round_in_which_nobody_is_seen_says_nothing(path: Path) -> None:
    kept = scores(path, Subnet(), **{ALICE: Standing(0.4, 9)})
    await kept.age(1, [])
    assert kept.standings == {ALICE: Standing(0.4, 9)} and kept.version == 0


async def test_only_a_round_that_is_judged_is_news(path: Path) -> None:
    kept = scores(path, Subnet(ALICE), **{ALICE: Standing(0.4, 9)})
    kept.fault([ALICE])
    assert kept.version == 0 and kept.standings[ALICE].gain < 0.4
    await kept.age(1, [ALICE])
    assert kept.version == 1


async def test_it_is_all_on_disk_and_no_more(path: Path) -> None:
    subnet = Subnet(ALICE, BOB)
    kept = scores(path, subnet, **{ALICE: Standing(0.4, 9), BOB: Standing(0.1, 2), CHARLIE: Standing(0.1, 2)})
    await kept.age(1, [ALICE])
    again = Scores(cast(Node, SimpleNamespace()), path)
    assert again.standings == kept.standings and set(again.standings) == {ALICE, BOB}


def test_a_damaged_file_is_named(path: Path) -> None:
    path.write_text('{"x": {"gain": 1}}')
    with pytest.raises(ConfigError, match="damaged scores"):
        Scores(cast(Node, SimpleNamespace()), path)
