"""The demo: LeNet learns MNIST on a Spark cluster of this machine, and a Spark ML classifier learns from LeNet.

Run by `make demo`. The `cos` command starts a real standalone master and two workers, submits `one_program.py` to
them, and stops everything again, after Ctrl-C too. The model, its curves and the classifier stay in `build/demo`.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from cos_runtime.engine.report.summary import Section, Summary
from cos_runtime.errors import UserError
from cos_runtime.tools import mnist_to_lmdb

EXAMPLES = Path(__file__).parent.resolve()
MNIST = EXAMPLES / "mnist"
OUT = EXAMPLES.parent / "build" / "demo"
MODEL = OUT / "lenet.caffemodel"
CLASSIFIER = OUT / "classifier"
JOBS = OUT / "cos"
WORKERS = 2
INTERRUPTED = 130


def main() -> int:
    """Run the demo and return its exit code."""
    # As Ctrl-C does, so that what has been started is stopped.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    begin = time.monotonic()
    try:
        shutil.rmtree(OUT, ignore_errors=True)
        make_lmdbs()
        code = run()
    except KeyboardInterrupt:
        code = INTERRUPTED
    except UserError as error:
        say(f"error: {error}")
        return 2
    if code:
        say("The demo was interrupted." if code == INTERRUPTED else f"The demo failed with exit code {code}.")
        return code
    summary(time.monotonic() - begin).show()
    return 0


def make_lmdbs() -> None:
    """Convert MNIST's own files to Caffe's LMDBs, unless an earlier run did."""
    for name, prefix in (("train", "train"), ("test", "t10k")):
        target = MNIST / "data" / f"mnist_{name}_lmdb"
        if not target.exists():
            images, labels = (MNIST / "data" / f"{prefix}-{part}-ubyte.gz" for part in ("images-idx3", "labels-idx1"))
            count = mnist_to_lmdb.convert(str(images), str(labels), str(target))
            say(f"Wrote {count:,} images to the LMDB {target}")


def run() -> int:
    """Submit the program to a cluster of this machine's own and return its exit code."""
    say(
        f"A Spark standalone cluster starts on this machine, a master and {WORKERS} workers: cos submit --cluster local"
    )
    flags = {
        "-conf": MNIST / "lenet_solver.prototxt",
        "-clusterSize": WORKERS,
        "-features": "ip1",
        "-label": "label",
        "-model": MODEL,
        "-output": CLASSIFIER,
    }
    args = [str(part) for flag in flags.items() for part in flag]
    try:
        return cos("submit", "--workers", str(WORKERS), "--quick", str(EXAMPLES / "one_program.py"), *args)
    except KeyboardInterrupt:
        # A job goes on without whoever watches it, and a demo that is stopped is to leave nothing behind.
        cos("cancel", "one_program")
        raise


def cos(verb: str, *args: str) -> int:
    """Run the `cos` command on this machine, with the demo's own jobs."""
    command = [sys.executable, "-m", "bootstrap.cli", verb, "--cluster", "local", *args]
    paths = [str(EXAMPLES.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "COS_HOME": str(JOBS), "PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.run(command, env=environment, check=False).returncode


def summary(seconds: float) -> Summary:
    """What the demo showed."""
    events = [json.loads(line) for line in (OUT / "metrics.jsonl").read_text().splitlines()]
    steps = [event for event in events if event["event"] == "train"]
    finished = next(event for event in events if event["event"] == "finished")
    results = json.loads(CLASSIFIER.with_suffix(".json").read_text())
    training = Section(
        "LeNet, a Caffe net, trained by allreduce",
        (
            ("images seen", f"{finished['images']:,} by {WORKERS} Spark workers, in {finished['seconds']:.0f} s"),
            ("loss", f"{steps[0]['loss']:.3f} at the start, {steps[-1]['loss']:.3f} at the end"),
            ("test accuracy", f"{results['net_accuracy']:.2%} of {results['tested_images']:,} images"),
        ),
    )
    learning = Section(
        "Spark ML's LogisticRegression on the net's layer ip1",
        (("accuracy", f"{results['classifier_accuracy']:.2%} of {results['classified_images']:,} held-out images"),),
    )
    files = Section(
        "Left for you", (("model", str(MODEL)), ("classifier", str(CLASSIFIER)), ("log", f"{OUT}/train.log"))
    )
    steps_next = (
        ("the curves", f".venv/bin/tensorboard --logdir {OUT / 'tensorboard'}"),
        ("the program", "examples/one_program.py"),
    )
    return Summary(f"Done in {seconds:.0f} s, and everything is stopped", (training, learning, files), steps_next)


def say(text: str) -> None:
    """Tell the person at the terminal."""
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
