"""`python -m benchmarks [NAME …] [--runs N] [--write]`."""

import argparse
import sys

from benchmarks import endurance, files, hosts, nets, on_spark, page, photos, training, transfers
from benchmarks.measure import Benchmark, Result

BENCHMARKS = {
    each.name: each
    for each in [
        *training.BENCHMARKS,
        *endurance.BENCHMARKS,
        *on_spark.BENCHMARKS,
        *transfers.BENCHMARKS,
        *files.BENCHMARKS,
        *nets.BENCHMARKS,
        *photos.BENCHMARKS,
        *hosts.BENCHMARKS,
    ]
}


def main(args: list[str]) -> int:
    """Measure, and print the table; with ``--write`` docs/benchmarks.md too."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)} (default: all)")
    parser.add_argument("--runs", type=int, default=5, help="times that each is measured (default 5)")
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.md")
    flags = parser.parse_args(args)
    unknown = sorted(set(flags.names) - BENCHMARKS.keys())
    if unknown:
        parser.error(f"there is no benchmark {unknown[0]}: choose from {', '.join(BENCHMARKS)}")
    try:
        results = [measured(BENCHMARKS[name], flags.runs) for name in flags.names or BENCHMARKS]
    finally:
        hosts.close()
    print(page.table(results))
    if flags.write:
        page.write(results, flags.runs)
    return 0


def measured(benchmark: Benchmark, runs: int) -> Result:
    """Measure one, telling each run."""
    pairs = []
    for run in range(1, runs + 1):
        pairs.append(benchmark.measure())
        ours, theirs = pairs[-1]
        figures = f"{ours:.4g} to {theirs:.4g} {benchmark.unit}, {benchmark.ratio(pairs[-1]):.2f}"
        print(f"{benchmark.name} {run}/{runs}: {figures}", file=sys.stderr)
    return Result(benchmark, pairs)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
