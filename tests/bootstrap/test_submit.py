import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bootstrap.errors import LaunchError
from bootstrap.submit import on_this_machine, submit, submit_command, submit_environment

RUNNING_JOB = """
import time
from pyspark import SparkContext
spark = SparkContext.getOrCreate()
print("count", spark.range(10, numSlices=1).count(), flush=True)
spark.parallelize([1], 1).foreach(lambda _: time.sleep(600))
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "job.py"
    path.write_text("import sys\nprint(sys.argv[1:])\nsys.exit(7)\n")
    return path


def running() -> str:
    """The command lines of all processes."""
    return subprocess.run(["ps", "-A", "-o", "args="], capture_output=True, text=True, check=True).stdout


def options(command: list[str], name: str) -> list[str]:
    return [command[index + 1] for index, word in enumerate(command) if word == name]


def test_the_command(script: Path, tmp_path: Path) -> None:
    properties = tmp_path / "p.properties"
    properties.touch()
    command = submit_command(
        script,
        ["-conf", "a b", "--master"],
        "spark://10.0.0.1:7077",
        properties_file=properties,
        conf={"spark.ui.showConsoleProgress": "true", "spark.executor.memory": "3g"},
        py_files=[Path("a.zip"), Path("b.py")],
    )
    assert command[1:3] == ["--master", "spark://10.0.0.1:7077"]
    assert options(command, "--properties-file") == [str(properties)]
    assert options(command, "--conf") == ["spark.ui.showConsoleProgress=true", "spark.executor.memory=3g"]
    assert options(command, "--py-files") == ["a.zip,b.py"]
    assert command[-4:] == [str(script), "-conf", "a b", "--master"]


@pytest.mark.parametrize("master", ["local", "local[2]", "spark://127.0.0.1:5000", "spark://localhost:7077"])
def test_a_master_here_keeps_the_driver_on_the_loopback(script: Path, master: str) -> None:
    assert on_this_machine(master)
    given = options(submit_command(script, [], master), "--conf")
    assert {"spark.driver.host=127.0.0.1", "spark.driver.bindAddress=127.0.0.1"} <= set(given)
    assert submit_environment(master, {})["SPARK_LOCAL_IP"] == "127.0.0.1"


@pytest.mark.parametrize("master", ["spark://10.0.0.1:7077", "yarn", "k8s://https://127.0.0.1:443"])
def test_a_master_elsewhere_does_not(script: Path, master: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPARK_LOCAL_IP", raising=False)
    assert not on_this_machine(master)
    assert not any("spark.driver" in given for given in submit_command(script, [], master))
    assert "SPARK_LOCAL_IP" not in submit_environment(master, {})


def test_what_the_user_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARK_SUBMIT_OPTS", "-Dmine=1")
    monkeypatch.setenv("PYTHONWARNINGS", "error::RuntimeWarning")
    environment = submit_environment("local", {"OWN": "x"})
    assert environment["SPARK_SUBMIT_OPTS"].startswith("-Dmine=1 ")
    assert environment["PYTHONWARNINGS"].startswith("error::RuntimeWarning,")
    assert environment["OWN"] == "x"
    assert environment["PYSPARK_PYTHON"] == environment["PYSPARK_DRIVER_PYTHON"] == sys.executable


@pytest.mark.parametrize("master", ["lokal[2]", "10.0.0.1:7077", "http://host"])
def test_no_spark_master(script: Path, master: str) -> None:
    with pytest.raises(LaunchError, match=f"'{re.escape(master)}' is no Spark master"):
        submit(script, [], master)


def test_files_that_are_not_there(script: Path, tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match=r"nix\.py, is not there"):
        submit(tmp_path / "nix.py", [], "local")
    with pytest.raises(LaunchError, match=r"properties file .*nix is not there"):
        submit(script, [], "local", properties_file=tmp_path / "nix")


@pytest.mark.slow
def test_output_and_exit_code_come_through(script: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert submit(script, ["-conf", "a b"], "local[1]") == 7
    assert capfd.readouterr() == ("['-conf', 'a b']\n", "")


@pytest.mark.slow
def test_a_job_beyond_its_limit_is_stopped(tmp_path: Path) -> None:
    script = tmp_path / "sleeper.py"
    script.write_text("import time\ntime.sleep(600)\n")
    with pytest.raises(LaunchError, match=r"sleeper\.py did not end within its limit of 4 s"):
        submit(script, [], "local[1]", timeout=4)
    assert str(script) not in running()


@pytest.mark.slow
def test_ctrl_c_ends_a_job_quietly(tmp_path: Path) -> None:
    script = tmp_path / "endless.py"
    script.write_text(RUNNING_JOB)
    caller = f"""
import sys
from pathlib import Path
from bootstrap.submit import submit
sys.exit(submit(Path({str(script)!r}), [], "local[1]"))
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", caller]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "count 10\n"
        time.sleep(1)  # into the job that sleeps
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        output, log = process.communicate(timeout=10)
    assert (output, log) == ("", "")
    assert str(script) not in running()
