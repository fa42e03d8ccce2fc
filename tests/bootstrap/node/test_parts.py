"""The smaller parts of a node: sessions, pages, the secret, the spot watcher, what is saved."""

import http.server
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import pytest

from bootstrap.node import activity, boot, save, seed, spot
from bootstrap.node.aws import Aws
from bootstrap.node.context import Context
from bootstrap.node.imds import Credentials, Metadata
from bootstrap.node.secret import spark_secret
from infra.storage import lifecycle_rules
from tests.bootstrap.node.conftest import BUCKET, keys
from tests.bootstrap.node.stand_ins import Programs
from tests.fixtures.metadata import MetadataServer
from tests.fixtures.sshd import Server


def test_a_session_by_ssh_counts_with_no_terminal_too(sshd: Server) -> None:
    before = activity.ssh_sessions()
    command = ["ssh", "-F", "none", "-i", str(sshd.key), "-p", str(sshd.port), "-o", "StrictHostKeyChecking=no"]
    command += ["-o", f"UserKnownHostsFile={os.devnull}", "-o", "LogLevel=ERROR", "127.0.0.1", "echo in; cat"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as session:
        assert session.stdout is not None
        assert session.stdout.readline() == b"in\n"
        assert activity.ssh_sessions() == before + 1


def test_who_only_forwards_ports_counts(sshd: Server) -> None:
    """As whoever works on a worker does on the master."""
    before = activity.ssh_sessions()
    command = ["ssh", "-F", "none", "-i", str(sshd.key), "-p", str(sshd.port), "-o", "StrictHostKeyChecking=no"]
    command += ["-o", f"UserKnownHostsFile={os.devnull}", "-W", f"127.0.0.1:{sshd.port}", "127.0.0.1"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as way:
        assert way.stdout is not None
        assert way.stdout.readline().startswith(b"SSH-2.0-")
        assert activity.ssh_sessions() == before + 1


def test_who_has_not_shown_a_key_is_no_session(tmp_path: Path) -> None:
    titles = ["sshd: ubuntu [priv]", "sshd: ubuntu [net]", "sshd: /usr/sbin/sshd -D [listener]", "sshd: [accepted]"]
    titles += ["sshd: unknown [priv]", "sshd-session: ubuntu [priv]", "sshd: [net]", "vi sshd: c@d", "sshd -D"]
    sessions = ["sshd: a@pts/0", "sshd-session: b@notty", "sshd: root", "sshd-session: ubuntu"]
    for pid, title in enumerate([*titles, *sessions], 1):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "cmdline").write_bytes(title.encode() + b"\0\0\0")
    assert activity.ssh_sessions(tmp_path) == len(sessions)


@pytest.fixture
def page() -> Iterator[tuple[str, dict[str, Any]]]:
    """A page that answers by what it is given."""
    answer: dict[str, Any] = {"status": 200, "body": "{}"}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(answer["status"])
            self.end_headers()
            self.wfile.write(answer["body"].encode())

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/json/", answer
    server.shutdown()
    server.server_close()


def test_applications_are_counted(page: tuple[str, dict[str, Any]]) -> None:
    url, answer = page
    answer["body"] = json.dumps({"activeapps": [{"id": "app-1", "state": "WAITING"}], "completedapps": [{}, {}]})
    assert activity.applications(url) == 1


@pytest.mark.parametrize(("status", "body"), [(500, "{}"), (200, "<html>"), (200, "")])
def test_a_master_out_of_order_runs_none(page: tuple[str, dict[str, Any]], status: int, body: str) -> None:
    url, answer = page
    answer.update(status=status, body=body)
    assert activity.applications(url) == 0
    assert activity.applications("http://127.0.0.1:9/json/") == 0


def test_the_master_makes_the_secret_and_workers_wait_for_it(context: Context, moto_endpoint: str) -> None:
    client = boto3.client("secretsmanager", endpoint_url=moto_endpoint, region_name="us-east-1")
    client.create_secret(Name="spark-parts")
    plan = replace(context.plan, spark_secret="spark-parts")
    worker = replace(plan, role="worker", master_host="10.0.0.1")
    with pytest.raises(TimeoutError, match=r"Waited 0.1 s for Spark's secret spark-parts, in vain: the master has not"):
        spark_secret(worker, context.aws, 0.1)
    made = spark_secret(plan, context.aws, 0.1)
    assert len(made) == 64
    assert spark_secret(worker, context.aws, 0.1) == made
    assert spark_secret(plan, context.aws, 0.1) == made  # a master that boots again makes no other


def test_a_secret_that_cannot_be_read_is_named(context: Context) -> None:
    gone = Aws("us-east-1", lambda: Credentials("A", "S", ""), "http://127.0.0.1:9")
    with pytest.raises(TimeoutError, match=r"in vain: http://127.0.0.1:9/: .*connect"):
        spark_secret(context.plan, gone, 0.1)


def test_a_spot_notice_is_acted_upon(context: Context, imds: MetadataServer, programs: Programs, s3: Any) -> None:
    (context.layout.logs / "boot.log").write_text("ready")
    imds.entries["meta-data/spot/instance-action"] = '{"action": "stop", "time": "2026-11-26T18:00:00Z"}'
    action = context.metadata.spot_action()
    assert action == "stop"
    spot.leave(context, action)
    assert programs.calls("systemctl") == ["kill --kill-whom=main --signal=SIGPWR cos-worker.service"]
    assert "EC2 will stop this node" in programs.calls("wall")[0]
    assert json.loads(context.layout.spot_notice.read_text())["action"] == "stop"
    assert keys(s3) == ["nodes/i-0123456789abcdef0/logs/boot.log"]


def test_a_notice_without_a_worker_still_saves(context: Context, programs: Programs, s3: Any) -> None:
    programs.add("systemctl", "echo 'Unit cos-worker.service not loaded.' >&2; exit 1")
    (context.layout.logs / "boot.log").write_text("ready")
    spot.leave(context, "terminate")
    assert keys(s3)


def test_saving_ends_with_the_network(context: Context, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(20):
        (context.layout.logs / f"{number}.log").write_text("x")
    gone = context._replace(aws=Aws("us-east-1", lambda: Credentials("A", "S", ""), "http://127.0.0.1:9"))
    assert save.save(gone, 30.0) == 20
    assert "17 files are not saved: no network" in caplog.text


def test_saving_ends_with_its_time(context: Context, s3: Any) -> None:
    (context.layout.logs / "boot.log").write_text("x")
    assert save.save(context, 0.0) == 1
    assert keys(s3) == []


def ending() -> tuple[str, ...]:
    """The prefixes of the cluster's bucket whose objects end by themselves."""
    return tuple(rule["filter"]["prefix"] for rule in lifecycle_rules() if "expiration" in rule)  # type: ignore[index, misc]


def test_executors_logs_and_events_are_saved(context: Context, s3: Any) -> None:
    executor = context.layout.scratch / "work/app-1/0"
    executor.mkdir(parents=True)
    (executor / "stderr").write_text("error")
    (executor / "spool.arrow").write_text("data")
    events = context.layout.state / "events/eventlog_v2_app-1"
    events.mkdir(parents=True)
    (events / "events_1").write_text("{}")
    assert save.save(context, 30.0) == 0
    instance = "i-0123456789abcdef0"
    assert keys(s3) == ["events/quick-otter/eventlog_v2_app-1/events_1", f"nodes/{instance}/executors/app-1/0/stderr"]
    assert all(key.startswith(ending()) for key in keys(s3))


def test_models_are_saved_and_nothing_outside_of_the_job(context: Context, tmp_path: Path, s3: Any) -> None:
    job = context.layout.jobs / "1"
    (job / "work").mkdir(parents=True)
    (job / "work/lenet.caffemodel").write_text("weights")
    (tmp_path / "elsewhere").write_text("not the job's")
    results = [{"path": str(job / "work/lenet.caffemodel")}, {"path": str(tmp_path / "elsewhere")}]
    (job / "job.json").write_text(json.dumps({"results": results}))
    assert save.save(context, 30.0) == 0
    place = "jobs/quick-otter/i-0123456789abcdef0/1"
    assert keys(s3) == [f"{place}/job.json", f"{place}/work/lenet.caffemodel"]
    assert not any(key.startswith(ending()) for key in keys(s3))


def test_a_boot_that_reaches_nothing_still_tells(context: Context, caplog: pytest.LogCaptureFixture) -> None:
    gone = Aws("us-east-1", lambda: Credentials("A", "S", ""), "http://127.0.0.1:9")
    (context.layout.logs / "boot.log").write_text("x")
    alone = context._replace(aws=gone, metadata=Metadata("http://127.0.0.1:9"))
    seed.refuse(alone, ["GPUs: 8 expected, 7 found"], seconds=0.1)
    assert json.loads(context.layout.status.read_text())["reasons"] == ["GPUs: 8 expected, 7 found"]
    assert "REFUSED: GPUs: 8 expected, 7 found" in caplog.text
    assert f"{BUCKET}/nodes/" in caplog.text


def test_a_boot_takes_back_what_the_last_one_said(context: Context, monkeypatch: pytest.MonkeyPatch, s3: Any) -> None:
    """The guard, which starts beside it, would else count this boot as idleness."""
    (context.layout.logs / "boot.log").write_text("x")
    context.layout.state.mkdir(parents=True)
    context.layout.status.write_text('{"state": "ready"}')
    there: list[bool] = []

    def guard(context: Context) -> None:
        there.append(context.layout.status.exists())
        raise seed.SeedError("no kit")

    monkeypatch.setattr(boot, "_start_guard", guard)
    assert boot.boot(context) == 1
    assert there == [False]
    assert json.loads(context.layout.status.read_text())["state"] == "refused"


def test_a_report_that_does_not_get_through_is_brought_again(
    context: Context, programs: Programs, tmp_path: Path, s3: Any
) -> None:
    real = shutil.which("curl", path="/usr/bin:/bin")
    # The first two requests, of the log and the status, meet a bucket that is out of order.
    programs.add("curl", f'[ $(grep -c ^curl "{tmp_path}/programs/calls.log") -gt 2 ] || exit 7; exec {real} "$@"')
    (context.layout.logs / "boot.log").write_text("ready")
    seed.report(context, {"state": "ready", "reasons": []}, seconds=1.0)
    stored = s3.get_object(Bucket=BUCKET, Key="nodes/i-0123456789abcdef0/status.json")
    assert json.loads(stored["Body"].read())["state"] == "ready"
    assert "nodes/i-0123456789abcdef0/boot.log" in keys(s3)
    assert len(programs.calls("curl")) == 4


def test_services_see_what_was_injected_and_no_credential(tmp_path: Path) -> None:
    given = {"COS_ROOT": "/x", "AWS_ENDPOINT_URL": "http://moto", "AWS_SECRET_ACCESS_KEY": "s", "HOME": "/root"}
    seed.keep_environment(tmp_path / "environment", given)
    assert (tmp_path / "environment").read_text() == 'COS_ROOT="/x"\nAWS_ENDPOINT_URL="http://moto"\n'
