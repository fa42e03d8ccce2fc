"""Speed as ratios: what this project takes for a job, against what one would use instead, in one run on one machine.

`make bench` runs all and writes docs/benchmarks.md; `python -m benchmarks NAME …` runs some and prints their table.
"""
