"""The kit from the laptop's disk to a node's environment: built, uploaded, fetched, installed, and damaged."""

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bootstrap import kit
from bootstrap.errors import LaunchError
from bootstrap.node import install, seed
from bootstrap.node.context import Context
from bootstrap.node.seed import SeedError
from tests.bootstrap.node.conftest import BUCKET, put_kit

HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
PYPROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "{name}"
version = "1.0"
dependencies = [{dependencies}]
[project.optional-dependencies]
node = ["uv"]
[tool.hatch.build.targets.wheel]
packages = ["{package}"]
"""


def package(directory: Path, name: str, dependencies: str = "", module: str | None = None) -> Path:
    """A project of one module."""
    module = module or name
    (directory / module).mkdir(parents=True)
    (directory / module / "__init__.py").write_text(f"NAME = '{name}'\n")
    text = PYPROJECT.format(name=name, dependencies=dependencies, package=module)
    (directory / "pyproject.toml").write_text(text)
    return directory


def hatch(project: Path, target: str, directory: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", str(directory)]
    subprocess.run(command, cwd=project, check=True, capture_output=True)


def uv_wheel(directory: Path) -> None:
    """A wheel with this machine's own uv, as uv's are made."""
    tag = f"py3-none-manylinux_2_17_{platform.machine()}"
    with zipfile.ZipFile(directory / f"uv-1.0-{tag}.whl", "w") as wheel:
        wheel.write(kit._uv(), "uv-1.0.data/scripts/uv")
        wheel.writestr("uv-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: uv\nVersion: 1.0\n")
        wheel.writestr("uv-1.0.dist-info/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: {tag}\n")
        wheel.writestr("uv-1.0.dist-info/RECORD", "uv-1.0.data/scripts/uv,,\n")


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project `cos` with a lock, and a folder that has all it needs: a wheel, a source, uv."""
    root = tmp_path_factory.mktemp("shop")
    index = root / "index"
    index.mkdir()
    hatch(package(root / "a", "greeting"), "wheel", index)
    hatch(package(root / "b", "pyspark"), "sdist", index)
    uv_wheel(index)
    package(root / "cos", "cos", '"greeting", "pyspark"', "bootstrap")
    lock = ""
    for path in sorted(index.iterdir()):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        lock += (
            f"{path.name.split('-')[0]}==1.0 ; sys_platform == 'linux' \\\n    --hash=sha256:{digest}\n    # via cos\n"
        )
    (root / "cos/requirements.lock").write_text(lock)
    return root


@pytest.fixture
def offline(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shop / "index"))
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_FIND_LINKS", str(shop / "index"))
    monkeypatch.setenv("UV_CACHE_DIR", str(shop / "uv-cache"))  # what is known of the world stays out
    monkeypatch.setenv("PIP_NO_BUILD_ISOLATION", "false")  # pip's own spelling of "no isolation"
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")


def build(shop: Path, directory: Path, *extras: str) -> kit.Kit:
    return kit.build(directory, project=shop / "cos", python=HERE, machine=platform.machine(), extras=extras)


@pytest.fixture(scope="session")
def built(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> kit.Kit:
    with pytest.MonkeyPatch.context() as patch:
        offline.__wrapped__(shop, patch)  # type: ignore[attr-defined]
        return build(shop, tmp_path_factory.mktemp("kit"))


@pytest.fixture
def fetched(built: kit.Kit, context: Context, s3: Any) -> Context:
    """A node whose kit lies in the bucket."""
    return context._replace(plan=replace(context.plan, kit=put_kit(s3, built)))


def test_the_manifest_names_each_file_and_is_named_itself(built: kit.Kit) -> None:
    files = json.loads(built.manifest.read_text())["files"]
    assert [file["name"].split("-")[0] for file in files] == [
        "wheelhouse/cos",
        "wheelhouse/greeting",
        "wheelhouse/pyspark",
        "requirements.lock",
    ]
    listed = kit.objects(built.directory, "kit/dev")
    assert listed[-1] == (f"kit/dev/{built.checksum}/manifest.json", built.manifest)
    for file in files:
        content = (built.directory / file["name"]).read_bytes()
        assert file["sha512"] == hashlib.sha512(content).hexdigest()
        assert (f"kit/dev/blobs/{hashlib.sha256(content).hexdigest()}", built.directory / file["name"]) in listed
    assert built.checksum == hashlib.sha256(built.manifest.read_bytes()).hexdigest()


@pytest.mark.usefixtures("offline")
def test_it_is_the_same_kit_again_and_only_ours_changes(
    built: kit.Kit, shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(shop / "cos", tmp_path / "cos")
    shutil.copytree(built.directory, tmp_path / "kit")
    monkeypatch.setenv("PIP_FIND_LINKS", "/nowhere")  # nothing is fetched again
    assert build(tmp_path, tmp_path / "kit").checksum == built.checksum
    before = kit.objects(built.directory, "kit/dev")
    (tmp_path / "cos/bootstrap/__init__.py").write_text("NAME = 'changed'\n")
    changed = build(tmp_path, tmp_path / "kit")
    assert changed.checksum != built.checksum
    new = dict(kit.objects(changed.directory, "kit/dev")).keys() - dict(before)
    assert len(new) == 3, "our wheel, the lock that has its checksum, and the manifest"


@pytest.mark.slow
@pytest.mark.usefixtures("offline")
def test_a_node_fetches_and_installs_it_offline(shop: Path, tmp_path: Path, context: Context, s3: Any) -> None:
    with_uv = build(shop, tmp_path / "kit", "node")
    plan, layout, aws, _ = context._replace(plan=replace(context.plan, kit=put_kit(s3, with_uv)))
    manifest = seed.fetch_manifest(plan, aws, layout.kit, 5)
    seed.fetch_files(plan, manifest.files, aws, layout.kit)
    python = install.python_of(manifest, layout)
    script = "import bootstrap, greeting, pyspark; print(bootstrap.NAME, greeting.NAME, pyspark.NAME)"
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    said = subprocess.run([python, "-c", script], env=clean, cwd="/", capture_output=True, text=True, check=True)
    assert said.stdout == "cos greeting pyspark\n"
    made = python.lstat().st_mtime_ns
    assert install.install(manifest, layout) == python
    assert python.lstat().st_mtime_ns == made  # a second boot makes nothing anew


def test_a_damaged_object_is_refused(fetched: Context, s3: Any) -> None:
    plan, layout, aws, _ = fetched
    manifest = seed.fetch_manifest(plan, aws, layout.kit, 5)
    greeting = next(file for file in manifest.files if "greeting" in file.name)
    s3.put_object(Bucket=BUCKET, Key=seed.blob_key(plan.kit, greeting.sha256), Body=b"another")
    with pytest.raises(SeedError, match=r"greeting-1.0-.*SHA-512"):
        seed.fetch_files(plan, manifest.files, aws, layout.kit)
    assert not (layout.kit / greeting.name).exists()


def test_a_file_that_changed_on_the_node_is_fetched_again(fetched: Context) -> None:
    plan, layout, aws, _ = fetched
    wheel = seed.fetch_manifest(plan, aws, layout.kit, 5).wheel()
    seed.fetch_files(plan, [wheel], aws, layout.kit)
    (layout.kit / wheel.name).write_bytes(b"half")
    seed.fetch_files(plan, [wheel], aws, layout.kit)
    assert hashlib.sha512((layout.kit / wheel.name).read_bytes()).hexdigest() == wheel.sha512


def test_a_manifest_the_user_data_does_not_name_is_refused(fetched: Context, s3: Any) -> None:
    s3.put_object(Bucket=BUCKET, Key=f"{fetched.plan.kit}/manifest.json", Body=b'{"files": []}')
    with pytest.raises(SeedError, match="is not the one that the user data names"):
        seed.fetch_manifest(fetched.plan, fetched.aws, fetched.layout.kit, 5)


def test_a_kit_that_never_comes_is_named(context: Context) -> None:
    with pytest.raises(SeedError, match=r"Waited 0.1 s for the kit in cos-quick-otter, in vain: .*NoSuchKey"):
        seed.fetch_manifest(context.plan, context.aws, context.layout.kit, 0.1)


def test_a_kit_for_another_python_is_refused(context: Context) -> None:
    with pytest.raises(SeedError, match=rf"The kit is for Python 3.4 on s390x, and this image has Python {HERE}"):
        install.install(seed.Manifest("3.4", "s390x", ()), context.layout)


def test_a_manifest_cannot_write_outside_of_the_kit(context: Context) -> None:
    file = seed.KitFile("../../evil", 1, "0", "0")
    with pytest.raises(SeedError, match="lies outside"):
        seed.fetch_files(context.plan, [file], context.aws, context.layout.kit)


@pytest.mark.usefixtures("offline")
def test_a_package_whose_hash_differs_is_not_taken(shop: Path, tmp_path: Path) -> None:
    shutil.copytree(shop / "cos", tmp_path / "cos")
    lock = tmp_path / "cos/requirements.lock"
    lines = lock.read_text().splitlines()
    lines[1] = "    --hash=sha256:" + "0" * 64
    lock.write_text("\n".join(lines) + "\n")
    with pytest.raises(LaunchError, match="The nodes' kit cannot be made"):
        build(tmp_path, tmp_path / "kit")


@pytest.mark.usefixtures("offline")
def test_a_package_the_lock_lacks_is_named(shop: Path, tmp_path: Path) -> None:
    shutil.copytree(shop / "cos", tmp_path / "cos")
    (tmp_path / "cos/requirements.lock").write_text("")
    with pytest.raises(LaunchError, match="requirements.lock has no greeting==1.0, which the nodes need"):
        build(tmp_path, tmp_path / "kit")
