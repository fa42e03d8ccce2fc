import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bootstrap import flags
from cos_runtime.config import flag_parser
from tests.fixtures.command import cos

pytestmark = pytest.mark.usefixtures("cos_home")


def run_cos(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | variables
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def test_help_loads_nothing_heavy() -> None:
    finished = run_cos("""
import atexit, sys
heavy = ["torch", "numpy", "pyspark", "pandas", "pyarrow", "rich", "http.client", "bootstrap.local_cluster", "pulumi",
         "boto3", "paramiko", "pydantic", "tenacity", "webbrowser"]
atexit.register(lambda: print("loaded:", [name for name in heavy if name in sys.modules]))
from bootstrap.cli import main
main(["--help"])
""")
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.splitlines()[-1] == "loaded: []"
    for verb in ("train", "test", "features", "submit", "jobs", "logs", "attach", "fetch", "run", "ui", "tools"):
        assert f"\n  {verb} " in finished.stdout


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cos("--version") == 0
    assert capsys.readouterr().out.startswith("cos ")


def test_every_flag_of_the_runtime_is_an_option() -> None:
    actions = [action for action in flag_parser()._actions if action.dest != "help"]
    assert {flag.name for flag in flags.FLAGS} == {action.option_strings[0].lstrip("-") for action in actions}
    for action in actions:
        flag = next(flag for flag in flags.FLAGS if f"-{flag.name}" == action.option_strings[0])
        assert (flag.type is bool) == (action.nargs == 0), flag.name


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["train"], "--solver is missing"),
        (["train", "--solver", "x"], "The solver x is not there: check the path."),
        (["features", "-conf", "x"], "cos features needs to know which blobs"),
        (["train", "--", "-cnof", "x"], "The runtime has no option '-cnof': did you mean -conf?"),
        (["train", "--", "-conf"], "-conf is the last word: its value is missing."),
        (["train", "--properties-file", "p", "-conf", "x"], "--properties-file needs to be told the --master"),
        (["train", "--spark-conf", "spark.x", "-conf", "x"], "--spark-conf 'spark.x' is no property"),
        (["train", "--code", "mine", "-conf", "x"], "mine is not there: check the path."),
        (["submit", "mine.py"], "mine.py is not there: check the path."),
        (["jobs", "--cluster", "mars"], "There is no cluster 'mars' here: choose from local, or make it by `cos up`."),
        (["logs"], "There is no job yet on this machine: `cos jobs` lists them, `cos train` makes one."),
        (["cancel", "7"], "There is no job '7': `cos jobs` lists them."),
        (["attach", "lenet"], "There is no job 'lenet' on this machine"),
        (["fetch"], "There is no job yet on this machine"),
        (["ssh"], "The local cluster is this machine: you are there."),
        (["run"], "There is no command to run: give it after --"),
        (["run", "--", "no-such-program"], "`no-such-program` cannot be run (No such file or directory)"),
        (["push", "x", "/y"], "x is not there: check the path."),
        (["pull", "/no/such/file", "y"], "/no/such/file is not there on this machine: check the path."),
        (["ui"], "No local job runs"),
        (["tools", "no_such_tool"], "There is no tool 'no_such_tool'"),
    ],
)
def test_a_mistake_is_one_sentence(arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cos(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"cos: {sentence}")
    assert len(err.splitlines()) == 1
    assert cos("--debug", *arguments) == 2
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["trian"], ["train", "--workers", "0"], ["train", "--sovler", "x"], []])
def test_wrong_usage_exits_with_2(arguments: list[str]) -> None:
    assert cos(*arguments) == 2


def test_a_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "nets").mkdir()
    (tmp_path / "nets" / "lenet.prototxt").touch()
    assert cos("train", "-conf", "nets/lenet.prototxt", "--model", "out/m", "--workers", "3", "--dry-run") == 0
    assert capsys.readouterr().out.splitlines() == [
        "  job     lenet (train) on this machine",
        "  spark   a cluster for this job (workers: 3, cores each: 1, memory each: 2g)",
        "  runs    cos_runtime/main.py -conf nets/lenet.prototxt -train -model out/m -clusterSize 3",
        *[f"  writes  {tmp_path}/nets/out/{name}" for name in ("m", "metrics.jsonl", "train.log", "tensorboard")],
    ]
    assert cos("features", "--dry-run", "--json", "--master", "local", "--", "-conf", "nets/lenet.prototxt",
               "-feature", "ip1", "-label", "l", "-resize", "-output", "/o") == 0  # fmt: skip
    plan = json.loads(capsys.readouterr().out)
    assert plan["args"] == [
        "-conf",
        "nets/lenet.prototxt",
        "-features",
        "ip1",
        "-label",
        "l",
        "-output",
        "/o",
        "-resize",
    ]
    assert (plan["target"]["master"], plan["results"]) == ("local", [{"path": "/o", "place": "/o"}])
    assert not (tmp_path / "home").exists()


def test_a_command_on_this_machine(capfd: pytest.CaptureFixture[str]) -> None:
    assert cos("run", "--", "sh", "-c", "echo out; echo err >&2; exit 4") == 4
    out, err = capfd.readouterr()
    assert (out, err) == ("out\nerr\n", "this machine: exit code 4\n")
    assert cos("run", "--json", "--", "echo", "--json") == 0
    (told,) = json.loads(capfd.readouterr().out)
    assert told == {"node": "this machine", "exit_code": 0, "stdout": "--json\n", "stderr": ""}


def test_no_jobs(capsys: pytest.CaptureFixture[str]) -> None:
    assert cos("jobs") == 0
    assert capsys.readouterr() == ("", "No jobs yet: `cos train` makes one.\n")
    assert cos("jobs", "--json") == 0
    assert capsys.readouterr() == ("[]\n", "")
    assert cos("jobs", "--quiet") == 0
    assert capsys.readouterr() == ("", "")


def test_completion_knows_clusters(cos_home: Path) -> None:
    (cos_home / "clusters").mkdir(parents=True)
    (cos_home / "clusters" / "lab.json").touch()
    code = "from bootstrap.cli import main; main([])"
    line = {"COMP_WORDS": "cos jobs --cluster l", "COMP_CWORD": "3", "_COS_COMPLETE": "complete_bash"}
    finished = run_cos(code, COS_HOME=str(cos_home), **line)
    assert finished.stdout.split() == ["local", "lab"], finished.stderr


@pytest.fixture
def two_tools(tmp_path: Path) -> str:
    package = tmp_path / "two_tools"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "_shared.py").touch()
    (package / "echo.py").write_text(
        '"""Tell the arguments.\n\nAt length."""\nimport sys\nprint(sys.argv[1:])\nsys.exit(4)\n'
    )
    (package / "other.py").write_text("import no_such_module\n")
    return str(tmp_path)


def run_tools(folder: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    code = "from bootstrap.cli import main, tools; tools._PACKAGE = 'two_tools'"
    return run_cos(f"{code}; main({arguments!r})", PYTHONPATH=os.pathsep.join([folder, *sys.path]))


def test_tools_are_listed_without_being_imported(two_tools: str) -> None:
    finished = run_tools(two_tools, "tools")
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.splitlines() == ["  echo   Tell the arguments.", "  other"]


def test_a_tool_gets_its_arguments_and_gives_its_exit_code(two_tools: str) -> None:
    finished = run_tools(two_tools, "tools", "echo", "-in", "a b", "--help", "--", "x")
    assert finished.returncode == 4, finished.stderr
    assert finished.stdout == "['-in', 'a b', '--help', '--', 'x']\n"
