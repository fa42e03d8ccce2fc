"""Finding Java by what the programs say of themselves, with scripts that speak like a java."""

import subprocess
import sys
from pathlib import Path

import jdk
import pytest

from bootstrap import java
from bootstrap.errors import LaunchError


def fake_java(home: Path, specification: str) -> Path:
    """A JAVA_HOME whose java answers as one of that version."""
    program = home / "bin" / "java"
    program.parent.mkdir(parents=True)
    program.write_text(
        "#!/bin/sh\n"
        f"echo '    java.home = {home}' >&2\n"
        f"echo '    java.specification.version = {specification}' >&2\n"
        f"echo 'openjdk version \"{specification}.0.2\"' >&2\n"
    )
    program.chmod(0o755)
    return home


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without Java; returns the one folder on its PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setattr(java, "FETCHED", tmp_path / ".java")
    return folder


def refuse_to_fetch(*_: object, **__: object) -> None:
    raise jdk.JdkError("Name or service not known")


def test_java_home_is_believed_first(bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = fake_java(tmp_path / "named", "21")
    (bare / "java").symlink_to(fake_java(tmp_path / "other", "17") / "bin" / "java")
    monkeypatch.setenv("JAVA_HOME", str(home))

    assert java.find_java() == home


def test_java_home_is_kept_where_its_java_starts_another(
    bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = fake_java(tmp_path / "over", "17")
    (over / "bin" / "java").write_text(f'#!/bin/sh\nexec {fake_java(tmp_path / "real", "17")}/bin/java "$@"\n')
    monkeypatch.setenv("JAVA_HOME", str(over))

    assert java.find_java() == over


@pytest.mark.parametrize("named", ["old", "gone"])
def test_path_helps_where_java_home_is_no_use(
    bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    fake_java(tmp_path / "old", "11")
    (bare / "java").symlink_to(fake_java(tmp_path / "new", "17") / "bin" / "java")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / named))

    assert java.find_java() == tmp_path / "new"


def test_a_shim_on_path_leads_to_the_home_it_stands_for(bare: Path, tmp_path: Path) -> None:
    home = fake_java(tmp_path / "jdk-17", "17")
    (bare / "java").write_text(f'#!/bin/sh\nexec {home}/bin/java "$@"\n')
    (bare / "java").chmod(0o755)

    assert java.find_java() == home


@pytest.mark.parametrize("inside", ["", "Contents/Home"])
def test_the_fetched_one_is_found(bare: Path, tmp_path: Path, inside: str) -> None:
    home = fake_java(tmp_path / ".java" / "jdk-17.0.9+9-jre" / inside, "17")

    assert java.find_java() == home


@pytest.mark.parametrize(("specification", "told"), [("11", "Java 11"), ("1.8", "Java 8")])
def test_an_old_java_is_refused_by_name(bare: Path, tmp_path: Path, specification: str, told: str) -> None:
    (bare / "java").symlink_to(fake_java(tmp_path / "old", specification) / "bin" / "java")

    with pytest.raises(LaunchError, match=rf"needs Java 17 or newer.*bin/java is {told}"):
        java.find_java()


def test_a_program_that_is_no_java_is_refused(bare: Path) -> None:
    (bare / "java").write_text("#!/bin/sh\necho 'no Java runtime present'\nexit 1\n")
    (bare / "java").chmod(0o755)

    with pytest.raises(LaunchError, match="bin/java does not work"):
        java.find_java()


@pytest.mark.parametrize(
    ("installer", "command"),
    [
        ("apt-get", "apt-get install openjdk-17-jre-headless"),
        ("dnf", "dnf install java-17-openjdk-headless"),
        ("other", "your system's package manager"),
    ],
)
def test_the_way_out_is_this_systems_own(bare: Path, installer: str, command: str) -> None:
    (bare / installer).write_text("#!/bin/sh\n")
    (bare / installer).chmod(0o755)

    with pytest.raises(LaunchError) as caught:
        java.find_java()

    assert command in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("bare")
def test_one_is_fetched_where_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / ".java" / "jdk-17.0.9+9-jre"

    def install(version: str, *, jre: bool, path: str) -> str:
        assert (version, jre, path) == ("17", True, str(tmp_path / ".java"))
        return str(fake_java(home, version))

    monkeypatch.setattr(jdk, "install", install)

    assert java.main() == 0
    assert capsys.readouterr().out == f"{home}\n"


def test_the_command_is_named_where_none_can_be_fetched(
    bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (bare / "java").symlink_to(fake_java(tmp_path / "old", "11") / "bin" / "java")
    (bare / "apt-get").write_text("#!/bin/sh\n")
    (bare / "apt-get").chmod(0o755)
    monkeypatch.setattr(jdk, "install", refuse_to_fetch)

    assert java.main() == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.splitlines()[1] == (
        f"Spark needs Java 17 or newer, and there is none on JAVA_HOME or PATH ({bare}/java is Java 11), "
        "nor could one be fetched (Name or service not known): run `apt-get install openjdk-17-jre-headless`."
    )


def test_this_machines_java_is_found_without_torch() -> None:
    script = "import sys, bootstrap.java as java; java.find_java(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
