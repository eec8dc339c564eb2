"""What the codecs cost in bytes, in error and in time."""

import argparse
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

from model.config import PRESETS, CompressionConfig

HELP = "bytes, quantisation error, speed and memory of the codecs, against Templar's algorithm in plain torch"
CODECS = {
    "default": CompressionConfig().codec,
    "covenant": "covenant",
    "templar": "templar",
    "topk64_2bit": "topk2",
}
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

    from model.kernels import compiled
    from model.transformer import parameter_layout
    from tests.bench._codec_data import on_a_real_run, synthetic

    torch.set_num_threads(args.threads)
    clock = time.process_time if args.threads == 1 else time.perf_counter
    matrices = max(1, args.parameters * 1_000_000 // SIDE**2 + 1)
    shapes = (*((f"w{number}", (SIDE, SIDE)) for number in range(matrices)), ("norms", (24 * SIDE,)))
    flat = synthetic(matrices * SIDE**2 + 24 * SIDE)
    measure = _Measure(clock, args.repeats, shapes, flat)
    rows = {name: measure.codec(codec) for name, codec in CODECS.items()}
    nano = parameter_layout(PRESETS["nano"])
    small = _Measure(clock, 10 * args.repeats, nano, synthetic(sum(torch.Size(shape).numel() for _, shape in nano)))
    rows["nano"] = small.codec(CODECS["default"])
    return {
        "parameters": len(flat),
        "seconds_are": "CPU, one thread" if args.threads == 1 else f"wall, {args.threads} threads",
        "load_average": list(os.getloadavg()),
        "compiled": compiled() is not None,
        **rows,
        "baseline": {f"{name}_params_per_second": len(flat) / seconds for name, seconds in measure.baseline.items()},
        "on_a_real_run": {name: on_a_real_run(codec) for name, codec in CODECS.items()},
        "bounds": bounds(rows),
    }


def bounds(rows: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    wanted = [
        ("wire ratio of the default, at least", rows["default"]["wire_ratio"], 280.0),
        ("wire ratio of the default on nano, at least", rows["nano"]["wire_ratio"], 262.0),
        ("wire ratio of topk2, at least", rows["topk64_2bit"]["wire_ratio"], 213.0),
        ("speed of the default over the baseline's, at least", rows["default"]["speedup_vs_baseline"], 5.0),
    ]
    found = [{"what": what, "value": value, "bound": bound, "met": value >= bound} for what, value, bound in wanted]
    extra = rows["default"]["extra_bytes_per_parameter"]
    return [
        *found,
        {"what": "extra memory of the default a parameter, at most", "value": extra, "bound": 2, "met": extra <= 2},
    ]


class _Measure:
    """All of one set of tensors, whose baseline is measured first."""

    def __init__(self, clock: Callable[[], float], repeats: int, shapes: Any, flat: Any) -> None:
        self._clock, self._repeats = clock, repeats
        self._shapes, self._flat = shapes, flat
        self.baseline = self._baseline(list(_matrices(shapes, flat)))

    def seconds(self, act: Callable[[], object]) -> float:
        """The least of several."""
        found = []
        for _ in range(self._repeats):
            started = self._clock()
            act()
            found.append(self._clock() - started)
        return min(found)

    def _baseline(self, views: Sequence[Any]) -> dict[str, float]:
        from tests.bench import _templar

        sent = [_templar.encode(view) for view in views]
        targets = [view.clone() for view in views]
        decoded = [_templar.decode(one) for one in sent]

        def aggregate() -> float:
            spent = 0.0
            for target, (indices, values) in zip(targets, decoded, strict=True):
                # every peer has its own support: rolled by blocks
                peers = [(indices.roll(number, 0), values.roll(number, 0)) for number in range(ROSTER)]
                started = self._clock()
                _templar.aggregate_(target, peers, 1.0)
                spent += self._clock() - started
            return spent

        return {
            "encode": self.seconds(lambda: [_templar.encode(view) for view in views]),
            "decode": self.seconds(lambda: [_templar.decode(one) for one in sent]),
            "aggregate20": min(aggregate() for _ in range(self._repeats)),
        }

    def codec(self, codec: str) -> dict[str, Any]:
        from model import contribution
        from model.compress import compress
        from model.kernels import kernels_for
        from model.layout import Layout
        from model.outer import outer_step
        from tests.bench._codec_data import Peak, quantisation_error, rolled, sizes

        flat, layout = self._flat, Layout.of(self._shapes, CompressionConfig(codec))
        count = len(flat)
        kernels_for(flat)  # compiled when an engine starts
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
            **sizes(layout, sparse),
            "encode_params_per_second": count / encode,
            "decode_params_per_second": count / decode,
            "aggregate20_params_per_second": count / aggregate,
            "speedup_vs_baseline": (self.baseline["encode"] + self.baseline["aggregate20"]) / (encode + aggregate),
            "quantisation_error": quantisation_error(layout, flat, sparse),
            "extra_bytes_per_parameter": max(peak.growth_bytes, more.growth_bytes) / count,
        }


def _matrices(shapes: Any, flat: Any) -> Any:
    """The 2-D tensors, of which the baseline's blocks are cut."""
    start = 0
    for _, shape in shapes:
        size = shape[0] * (shape[1] if len(shape) == 2 else 1)
        if len(shape) == 2:
            yield flat[start : start + size].view(shape)
        start += size
