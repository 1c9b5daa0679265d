"""What the benchmark measures, and with what: sizes, clocks, and the table."""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import tables
import torch

TRAIN, VAL = 9_000, 3_000  # the paper's setting, to which all times are extrapolated


@dataclass(frozen=True)
class Sizes:
    """The model, gpt2 unless it is tiny, and what is measured on it."""

    L: int = 12
    d: int = 768
    v: int = 50_257
    heads: int = 12
    states: int = 1500  # sentences: as many as the batches need to be of like length, as they are at 9,000
    states_directly: int = 200
    fitted: int = TRAIN  # states of a fit
    scored: int = VAL  # states of an r2
    exits: int = 750  # sentences
    exits_directly: int = 10

    @property
    def pairs(self) -> int:
        return self.L * (self.L + 1) // 2

    @property
    def parts(self) -> int:
        return 6 * self.L

    @property
    def block(self) -> int:
        """Floating-point operations of a block for one token; a third of them in attention."""
        return 24 * self.d**2

    @property
    def read_out(self) -> int:
        """Floating-point operations of the unembedding for one token."""
        return 2 * self.d * self.v


TINY = Sizes(L=3, d=16, v=100, heads=4, states=40, states_directly=10, fitted=60, scored=40, exits=30, exits_directly=5)


class Bench:
    """Measures, and collects the rows of the table."""

    def __init__(self, sizes: Sizes):
        self.sizes = sizes
        self.rows = []
        self.checks = []

    def time(self, work: Callable[[], object]) -> tuple[object, float, float]:
        """What `work` returns, its seconds, and the peak memory meanwhile, GB."""
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak counts from here
        start = time.perf_counter()
        value = work()
        seconds = time.perf_counter() - start
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return value, seconds, int(status.split("VmHWM:")[1].split()[0]) / 1e6

    def check(self, what: str, ours: torch.Tensor, direct: torch.Tensor, tolerance: float) -> None:
        """Both ways must give the same numbers; nothing is printed if they do not."""
        difference = (ours.double() - direct.double()).abs().max().item()
        if not difference <= tolerance:
            sys.exit(f"bench: {what}: the two ways differ by {difference:.2g}, allowed is {tolerance:.0e}")
        self.checks.append(f"{what}: at most {difference:.1g} apart")

    def row(self, stage: str, sizes: str, direct: float, ours: float, flops: float, dtype: torch.dtype, peak: float):
        """Seconds at the paper's setting; `flops` is the work that this code has to do there."""
        share = f"{flops / ours / product_speed(dtype, self.sizes.d):.0%}" if flops else "-"
        self.rows.append((stage, sizes, direct, ours, share, peak))

    def table(self) -> dict:
        """The table as docs/results/bench.json stores it."""
        rows = []
        for stage, sizes, slow, fast, share, peak in self.rows:
            ratio = f"{slow / fast:,.1f}" if slow < 1000 * fast else "> 1,000"
            rows.append([stage, sizes, f"{slow:,.0f}", f"{fast:,.1f}", ratio, share, f"{peak:.1f}"])
        slow, fast = (sum(row[k] for row in self.rows) for k in (2, 3))
        peak = max(row[-1] for row in self.rows)
        rows.append(["all", "", f"{slow:,.0f}", f"{fast:,.0f}", f"{slow / fast:,.1f}", "", f"{peak:.1f}"])
        speeds = " and ".join(
            f"{product_speed(dtype, self.sizes.d) / 1e9:.0f} GFLOP/s in {name}"
            for name, dtype in (("float32", torch.float32), ("float64", torch.float64))
        )
        return {
            "date": str(date.today()),
            "cores": torch.get_num_threads(),
            "measured": f"random weights of gpt2's true shape, extrapolated to {TRAIN:,} + {VAL:,} sentences; "
            f"matrix product {speeds}",
            "columns": [
                "stage", "measured on", "direct, s", "this code, s", "ratio", "share of product speed", "peak, GB",
            ],
            "rows": rows,
        }  # fmt: skip

    def show(self, file: Path | None) -> None:
        """Checks, then the table, in Markdown; the table also as JSON if there is a file for it."""
        table = self.table()
        print("both ways give the same numbers:", *self.checks, sep="\n  ")
        print(f"\n{tables.markdown(table, table['columns'], table['rows'])}")
        if file:
            file.write_text(json.dumps(table, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def product_speed(dtype: torch.dtype, d: int) -> float:
    """What this machine's matrix product reaches now, operations a second; the best of several."""
    a, b = torch.ones(1024, d, dtype=dtype), torch.ones(d, 4 * d, dtype=dtype)
    best = float("inf")
    for _ in range(20):
        start = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - start)
    return 2 * 1024 * d * 4 * d / best
