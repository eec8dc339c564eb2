"""A blob much larger than memory may grow passes through a peer on a real link."""

import threading
import time
from pathlib import Path

import pytest
from exchange_process import PeerProcess, peers

from tests.netlab.lab import Link, open_lab, why_not

pytestmark = [pytest.mark.slow, pytest.mark.skipif(why_not() is not None, reason=str(why_not()))]
SIZE = 2 << 30
GROWTH = 64 << 20


def resident_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmRSS"))


class Sampler(threading.Thread):
    """The most memory that each peer's daemon, and its p2pd, had beyond what they had idle."""

    def __init__(self, sampled: list[PeerProcess]) -> None:
        super().__init__(daemon=True)
        self._pids = [pid for one in sampled for pid in (one.pid, one.p2pd)]
        self._idle = {pid: resident_bytes(pid) for pid in self._pids}
        self.most = dict.fromkeys(self._pids, 0)
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.wait(0.5):
            for pid in self._pids:
                self.most[pid] = max(self.most[pid], resident_bytes(pid) - self._idle[pid])

    def stop(self) -> None:
        self._ended.set()
        self.join()


@pytest.mark.timeout(900)
def test_memory_stays_flat_while_2_gib_pass_through_at_100_mbit(tmp_path: Path) -> None:
    with open_lab([Link(up_mbit=100, down_mbit=100, one_way_ms=5)] * 3, "bbr") as lab, peers(lab, tmp_path) as three:
        a, b, c = three
        with (tmp_path / "big").open("wb") as file:
            file.truncate(SIZE)
        b.ask("dial", a.address)
        c.ask("dial", b.address)
        a.tell("adopt", [str(tmp_path / "big"), 1 << 20])
        blob_id = a.hear("adopt", 120)
        time.sleep(1)
        sampler = Sampler(three)
        sampler.start()
        b.tell("fetch", [blob_id, [a.peer_id]])
        c.tell("fetch", [blob_id, [b.peer_id]])
        seconds = [one.hear("fetch", 600) for one in (b, c)]
        sampler.stop()
        grown = [[sampler.most[pid] / (1 << 20) for pid in (one.pid, one.p2pd)] for one in three]
        print(f"seconds {seconds}; MiB above idle (daemon, p2pd) {grown}")
        assert all(sampler.most[one.pid] <= GROWTH for one in three), grown
