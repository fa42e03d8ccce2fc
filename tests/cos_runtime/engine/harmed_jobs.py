"""Submitted by test_failures.py: trains, does harm to a rank, and prints what came of it, job after job."""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

from pyspark.sql import SparkSession

from cos_runtime.api import CaffeOnSpark, Config, DataSource

# Of the job's iterations, before the harm.
FIRST = 20


def until(condition, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def is_training(folder: Path) -> bool:
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return any(event["event"] == "train" and event["iteration"] >= FIRST for event in map(json.loads, lines))


def pid(folder: Path, rank: int) -> int:
    return int((folder / f"rank{rank}.pid").read_text())


def is_alive(number: int) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


HARMS = {
    "raise": lambda folder: (folder / "raise").touch(),
    "kill": lambda folder: os.kill(pid(folder, 1), signal.SIGKILL),
    "stop": lambda folder: os.kill(pid(folder, 1), signal.SIGSTOP),
    "hang": lambda folder: (folder / "hang").touch(),
    "cancel": lambda _: spark.sparkContext.cancelAllJobs(),
    "withdraw": lambda _: cos.cancel(),
}


def harmed(harm: str, args: list[str]) -> dict:
    conf = Config(spark, args)
    folder = Path(conf.solver_folder)
    harmed_at = []

    def do_harm():
        if until(lambda: is_training(folder), 100):
            harmed_at.append(time.monotonic())
            HARMS[harm](folder)

    thread = threading.Thread(target=do_harm)
    thread.start()
    try:
        cos.train(DataSource.getSource(conf, True))
        error = "none"
    except Exception as raised:  # noqa: BLE001 - whatever it is, the test wants to see it
        error = f"{type(raised).__name__}: {raised}"
    ended = time.monotonic()
    thread.join()
    ranks = [pid(folder, rank) for rank in range(2)]
    # A Python worker that ended well is kept by Spark; those of a job that failed have no reason to live.
    until(lambda: not any(map(is_alive, ranks)), 15)
    left = [number for number in ranks if is_alive(number)]
    return {"error": error, "seconds": ended - harmed_at[0], "left": left}


spark = SparkSession.builder.getOrCreate()
cos = CaffeOnSpark(spark)
print(json.dumps({harm: harmed(harm, args) for harm, args in json.loads(sys.argv[1]).items()}))
spark.stop()
