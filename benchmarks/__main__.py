"""`python -m benchmarks [NAME …] [--runs N] [--write]`."""

import argparse
import sys

from benchmarks import endurance, files, hosts, nets, on_spark, page, photos, results, training, transfers
from benchmarks.measure import Benchmark, Pair

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
    """Measure, and print the table; with ``--write`` keep the results and make docs/benchmarks.md anew."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)} (default: all)")
    parser.add_argument("--runs", type=int, default=5, help="times that each is measured (default 5)")
    parser.add_argument("--write", action="store_true", help="keep the results, and write docs/benchmarks.md")
    flags = parser.parse_args(args)
    unknown = sorted(set(flags.names) - BENCHMARKS.keys())
    if unknown:
        parser.error(f"there is no benchmark {unknown[0]}: choose from {', '.join(BENCHMARKS)}")
    found = {}
    try:
        for name in flags.names or BENCHMARKS:
            found[name] = results.here(measured(BENCHMARKS[name], flags.runs))
            if flags.write:
                results.store({name: found[name]})
    finally:
        hosts.close()
    print(page.table([(BENCHMARKS[name], result) for name, result in found.items()]))
    if flags.write:
        page.write(BENCHMARKS, results.load())
    return 0


def measured(benchmark: Benchmark, runs: int) -> list[Pair]:
    """Measure one, telling each run."""
    pairs = []
    for run in range(1, runs + 1):
        pairs.append(benchmark.measure())
        ours, theirs = pairs[-1]
        figures = f"{ours:.4g} to {theirs:.4g} {benchmark.unit}, {benchmark.ratio(pairs[-1]):.2f}"
        print(f"{benchmark.name} {run}/{runs}: {figures}", file=sys.stderr)
    return pairs


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
