"""What the codecs cost in bytes, in error and in time."""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HELP = "bytes, quantisation error, speed and memory of the codecs, against Templar's algorithm in plain torch"
CODECS = {"default": "row1", "covenant": "covenant", "templar": "templar", "topk64_2bit": "topk2"}
ROSTER = 20
SIDE = 2048


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--parameters", type=int, default=100, metavar="MILLIONS", help="of the synthetic tensors (100)"
    )
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="the fastest counts (3)")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="1: CPU time, more: wall time (1)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    import torch

    from tests.bench._codec_data import real_errors, synthetic

    torch.set_num_threads(args.threads)
    clock = time.process_time if args.threads == 1 else time.perf_counter
    matrices = max(1, args.parameters * 1_000_000 // SIDE**2 + 1)
    shapes = (*((f"w{number}", (SIDE, SIDE)) for number in range(matrices)), ("norms", (24 * SIDE,)))
    flat = synthetic(matrices * SIDE**2 + 24 * SIDE)
    measure = _Measure(clock, args.repeats)
    baseline = measure.baseline(flat, matrices)
    rows = {name: measure.codec(codec, shapes, flat, baseline) for name, codec in CODECS.items()}
    rows["nano"] = measure.nano(CODECS["default"])
    return {
        "parameters": len(flat),
        "seconds_are": "CPU, one thread" if args.threads == 1 else f"wall, {args.threads} threads",
        "load_average": list(os.getloadavg()),
        "codec_of_default": CODECS["default"],
        **rows,
        "baseline": {f"{name}_parameters_per_second": len(flat) / seconds for name, seconds in baseline.items()},
        "error_on_a_real_run": real_errors(tuple(CODECS.values())),
        "bounds": bounds(rows),
    }


def bounds(rows: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    wanted = [
        ("wire ratio of row1, at least", rows["default"]["wire_ratio"], 280.0),
        ("wire ratio of row1 on nano, at least", rows["nano"]["wire_ratio"], 262.0),
        ("wire ratio of topk2, at least", rows["topk64_2bit"]["wire_ratio"], 213.0),
        ("speed of row1 over the baseline's, at least", rows["default"]["speedup_vs_baseline"], 5.0),
    ]
    found = [{"what": what, "value": value, "bound": bound, "met": value >= bound} for what, value, bound in wanted]
    extra = rows["default"]["extra_bytes_per_parameter"]
    return [
        *found,
        {"what": "extra memory of row1 a parameter, at most", "value": extra, "bound": 2, "met": extra <= 2},
    ]


class _Measure:
    def __init__(self, clock: Callable[[], float], repeats: int) -> None:
        self._clock, self._repeats = clock, repeats

    def seconds(self, act: Callable[[], object]) -> float:
        """The least of several."""
        found = []
        for _ in range(self._repeats):
            started = self._clock()
            act()
            found.append(self._clock() - started)
        return min(found)

    def baseline(self, flat: Any, matrices: int) -> dict[str, float]:
        from tests.bench import _templar

        views = [flat[at * SIDE**2 : (at + 1) * SIDE**2].view(SIDE, SIDE) for at in range(matrices)]
        sent = [_templar.encode(view) for view in views]
        target = views[0].clone()
        rosters = [[_templar.decode(one)] * ROSTER for one in sent]

        def aggregate() -> None:
            for roster in rosters:
                # every peer has its own support: rolled by blocks
                peers = [(indices.roll(n, 0), values.roll(n, 0)) for n, (indices, values) in enumerate(roster)]
                started = self._clock()
                _templar.aggregate_(target, peers, 1.0)
                self.spent += self._clock() - started

        self.spent, best = 0.0, float("inf")
        for _ in range(self._repeats):
            self.spent = 0.0
            aggregate()
            best = min(best, self.spent)
        return {
            "encode": self.seconds(lambda: [_templar.encode(view) for view in views]),
            "decode": self.seconds(lambda: [_templar.decode(one) for one in sent]),
            "aggregate20": best,
        }

    def codec(self, codec: str, shapes: Any, flat: Any, baseline: dict[str, float]) -> dict[str, Any]:
        from model import contribution
        from model.compress import compress
        from model.config import CompressionConfig
        from model.layout import Layout
        from model.outer import outer_step
        from tests.bench._codec_data import Peak, quantisation_error, rolled

        layout = Layout.of(shapes, CompressionConfig(codec))
        count = len(flat)
        with Peak() as peak:
            sparse = compress(layout, flat)
            body = contribution.encode_body(layout, sparse)
        encode = self.seconds(lambda: contribution.encode_body(layout, compress(layout, flat)))
        decode = self.seconds(lambda: contribution.decode_body(layout, body))
        theta = flat.clone()
        with Peak() as more:
            roster = [rolled(layout, sparse, number) for number in range(ROSTER)]
            outer_step(layout, theta, roster, 1.0, out=theta)
        aggregate = self.seconds(lambda: outer_step(layout, theta, roster, 1.0, out=theta))
        return {
            "codec": codec,
            "wire_ratio": 4 * count / file_size(layout, sparse),
            "bits_per_kept": 8 * len(body) / layout.entries,
            "encode_parameters_per_second": count / encode,
            "decode_parameters_per_second": count / decode,
            "aggregate20_parameters_per_second": count / aggregate,
            "speedup_vs_baseline": (baseline["encode"] + baseline["aggregate20"]) / (encode + aggregate),
            "quantisation_error": quantisation_error(layout, flat, sparse),
            "extra_bytes_per_parameter": max(peak.growth_bytes, more.growth_bytes) / count,
        }

    def nano(self, codec: str) -> dict[str, Any]:
        from model.compress import compress
        from model.config import PRESETS, CompressionConfig
        from model.layout import Layout
        from model.transformer import parameter_layout
        from tests.bench._codec_data import synthetic

        layout = Layout.of(parameter_layout(PRESETS["nano"]), CompressionConfig(codec))
        size = file_size(layout, compress(layout, synthetic(layout.parameters)))
        return {
            "codec": codec,
            "wire_ratio": 4 * layout.parameters / size,
            "bits_per_kept": 8 * size / layout.entries,
        }


def file_size(layout: Any, sparse: Any) -> int:
    """Bytes of a contribution on disk."""
    from model import contribution

    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "contribution"
        contribution.write(str(path), layout, contribution.Header("0" * 64, 0, "0" * 64, "0" * 64), sparse)
        return path.stat().st_size
