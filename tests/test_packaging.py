from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

ROOT = Path(__file__).parents[1]
NOT_PACKAGES = {"tests", "docs", "bench", "runs", "dist", "build"}


def project() -> dict[str, object]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())  # type: ignore[no-any-return]


def packages_on_disk() -> set[str]:
    found = {"edgesmith"}
    for init in ROOT.rglob("__init__.py"):
        parts = init.relative_to(ROOT).parts[:-1]
        if parts and not parts[0].startswith(".") and parts[0] not in NOT_PACKAGES and not parts[0].endswith(".egg-info"):
            found.add(".".join(("edgesmith", *parts)))
    return found


def test_the_package_list_is_the_folders_on_disk() -> None:
    assert set(project()["tool"]["setuptools"]["packages"]) == packages_on_disk()  # type: ignore[index]


def test_after_importing_everything_no_module_has_a_room_for_a_top_level_name() -> None:
    names = sorted(
        "edgesmith." + ".".join(p.relative_to(ROOT).with_suffix("").parts)
        for room in ("models", "calibration", "pipeline", "deploy")
        for p in (ROOT / room).rglob("*.py")
        if p.name not in ("__init__.py", "__main__.py")
    )
    code = (
        f"import sys, importlib\nfor n in {names!r}: importlib.import_module(n)\n"
        "print(sorted(set(sys.modules) & {'models', 'pipeline', 'deploy', 'calibration'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    # --no-cache-dir and a copy-free build would write build/ and egg-info beside the sources: build from a clean copy.
    source = tmp_path_factory.mktemp("source")
    tracked = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True
    ).stdout.decode()
    for name in filter(None, tracked.split("\0")):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(out),
        str(source),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (built,) = out.glob("*.whl")
    return built


SHIPPED = (".py", ".json", ".yaml", ".h", ".cpp", ".cu")


def test_the_wheel_holds_every_package_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    code = {n for n in names if not n.split("/")[0].endswith(".dist-info")}
    rooms = [ROOT / p.removeprefix("edgesmith").lstrip(".").replace(".", "/") for p in packages_on_disk()]
    expected = {
        "edgesmith/" + f.relative_to(ROOT).as_posix()
        for room in rooms
        for f in room.iterdir()
        if (f.suffix in SHIPPED and not f.name.startswith(".") and f.is_file()) or f.name == "CMakeLists.txt"
    }
    expected -= {f"edgesmith/{n}" for n in ("conftest.py",)}
    assert code == expected | {"edgesmith/py.typed"}
    assert any(n.endswith("licenses/LICENSE") for n in names)


@pytest.fixture(scope="session")
def torch_free(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel and its `cpu` extra, and no torch."""
    folder = tmp_path_factory.mktemp("torch_free")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = folder / "bin" / "python"
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-c", str(ROOT / "constraints.txt")]
    done = subprocess.run([*pip, f"{wheel}[cpu]"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not list(folder.glob("lib/*/site-packages/torch"))
    return folder / "bin"


def run(command: list[object], cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(c) for c in command], cwd=cwd, capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )


def test_without_torch_help_show_verify_build_and_validate_work(torch_free: Path, tiny_run: Path, tmp_path: Path) -> None:
    edgesmith = torch_free / "edgesmith"
    onnx = tiny_run / "onnx"
    for verb in (
        ["--help"],
        ["show", tiny_run / "train"],
        ["show", tiny_run],
        ["verify", tiny_run / "bundle"],
        ["build", onnx, "--out", tmp_path / "bundle"],
        ["verify", tmp_path / "bundle"],
        ["validate", tmp_path / "bundle", "--data", "street", "--limit", "2", "--json"],
        ["data", "show", "street", "--out", tmp_path / "sheet.png", "--count", "2"],
    ):
        done = run([edgesmith, *verb], tmp_path)
        assert done.returncode == 0, f"{verb}: {done.stderr}"


def test_without_torch_training_is_refused_in_words(torch_free: Path, tmp_path: Path) -> None:
    done = run([torch_free / "edgesmith", "run", "street", "--out", tmp_path / "run"], tmp_path)
    assert done.returncode == 1
    assert "edgesmith[host]" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


LIGHT = "import sys, {module}; print(sorted(m for m in {heavy} if m in sys.modules))"
HEAVY = ["torch", "onnx", "onnxruntime", "cv2", "yaml", "tensorrt", "tensorrt_rtx", "rich", "tensorboard", "safetensors"]


@pytest.mark.parametrize(
    "module", ["edgesmith", "edgesmith.models", "edgesmith.deploy", "edgesmith.deploy.bundle", "edgesmith.pipeline.cli"]
)
def test_importing_a_room_imports_nothing_heavy(module: str) -> None:
    done = run([sys.executable, "-c", LIGHT.format(module=module, heavy=HEAVY)], ROOT)
    assert done.stdout.strip() == "[]", done.stderr


def test_the_stages_configuration_imports_no_torch() -> None:
    done = run([sys.executable, "-c", LIGHT.format(module="edgesmith.pipeline.recipe", heavy=["torch", "onnx"])], ROOT)
    assert done.stdout.strip() == "[]", done.stderr


def test_public_names() -> None:
    from edgesmith import models

    assert models.__all__ == ["Arch", "Segmentation", "build", "build_part", "load", "zoo", "zoo_names"]


def test_every_command_and_path_in_the_readme_exists() -> None:
    readme = (ROOT / "README.md").read_text()
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"(?:`|^)make ([a-z-]+)", readme, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for link in re.findall(r"\]\(([^)#:]+)\)", readme):
        assert (ROOT / link).exists(), link
    done = run([sys.executable, "-m", "edgesmith.pipeline.cli", "--help"], ROOT)
    verbs = set(re.findall(r"^  ([a-z-]+) ", done.stdout, re.MULTILINE))
    blocks = "".join(re.findall(r"^```sh\n(.*?)^```", readme, re.MULTILINE | re.DOTALL))
    for verb in re.findall(r"^edgesmith ([a-z-]+)", blocks, re.MULTILINE):
        assert verb in verbs, verb


def test_texts_name_no_package_index_and_no_absolute_home() -> None:
    for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "constraints.txt", ROOT / "Makefile"):
        assert not re.search(r"--(extra-)?index-url|--find-links|/home/|/root/", path.read_text()), path
