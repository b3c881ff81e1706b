"""`stepalign worker` as it is installed on another machine, which sees none of this one's folders: a network namespace."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

from stepalign.coordinator.devices.gpus import gpu_inventory
from stepalign.coordinator.environments import managed
from stepalign.coordinator.environments.interpreters import probe
from stepalign.protocol.keys import KEY_VARIABLE, SideKey, make_pair, read_key_file, write_key

from ..real_cases import TORCH_SIDE
from ..test_layout import build_wheel
from ..two_machines import SLOW, Command, start_there, steps_of, write_remote_case

TELLING = TORCH_SIDE.replace(
    "def build(case):\n",
    "def build(case):\n    import os\n    print('GPU', os.environ.get('CUDA_VISIBLE_DEVICES'), 'FOLDER', case.folder)\n"
    "    print('VARIABLES', sorted(os.environ))\n",
)
SLOWLY = "def loss(model, batch):\n    import time\n    time.sleep(0.2)\n"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The console entry of a stepalign that pip installed into an environment of its own, from a wheel."""
    folder = tmp_path_factory.mktemp("installed")
    wheel = build_wheel(folder / "source", folder / "wheel")
    venv.create(folder / "venv", symlinks=True)
    python = folder / "venv" / "bin" / "python"
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--quiet", str(wheel)]
    done = subprocess.run([*command, "--disable-pip-version-check"], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    (packages,) = (folder / "venv" / "lib").glob("python*/site-packages")
    libraries = [path for path in sys.path if path.endswith("site-packages")]
    (packages / "libraries.pth").write_text("\n".join(libraries))  # the dependencies, but no hooks of an editable install
    where = subprocess.run([python, "-c", "import stepalign; print(stepalign.__file__)"], capture_output=True, text=True)
    assert where.stdout.startswith(str(packages)), where.stdout + where.stderr
    return folder / "venv" / "bin" / "stepalign"


class Machines:
    """A run here of a case whose torch side is there, in a copy of the case's folder."""

    def __init__(
        self, start: Callable[..., Command], folder: Path, steps: int = 3, torch: str = TELLING, device: str = "auto"
    ) -> None:
        self.case, self.there, self.out = folder / "case", folder / "there", folder / "out"
        write_remote_case(self.case, f"steps = {steps}\n", torch=torch)
        text = (self.case / "case.toml").read_text()
        (self.case / "case.toml").write_text(text.replace('host = "other"\n', f'host = "other"\ndevice = "{device}"\n'))
        shutil.copytree(self.case, self.there)
        self.run = start("run", self.case, "--quiet", "--json", "--out", self.out)

    def worker(self, installed: Path, *options: str, **variables: str) -> subprocess.Popen[str]:
        """Start the installed worker there, with the key of the run in its environment."""
        words = [str(installed), "worker", "--connect", self.run.endpoint, "--case", str(self.there), *options]
        key = {KEY_VARIABLE: self.run.key.read_text(), **variables}
        return self.run.take(start_there(words, hidden=(self.case, self.out), **key))

    def log(self) -> str:
        return (self.out / "torch.log").read_text()


def command_lines_of(group: int) -> str:
    """The command lines of all processes of a process group."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if os.getpgid(int(path.name)) == group:
                found.append((path / "cmdline").read_text())
        except (OSError, ValueError):
            continue
    return "\n".join(found)


def test_the_installed_worker_takes_the_key_from_its_environment(
    installed: Path, start: Callable[..., Command], tmp_path: Path
) -> None:
    machines = Machines(start, tmp_path, 8, TELLING.replace("def loss(model, batch):\n", SLOWLY))
    secret = read_key_file(machines.run.key).secret
    worker = machines.worker(installed)
    while steps_of(machines.out) < 1:
        assert machines.run.process.poll() is None and worker.poll() is None, machines.run.errors()
        time.sleep(0.02)
    lines = command_lines_of(worker.pid)
    assert "stepalign-worker.pyz" in lines and secret not in lines
    result = machines.run.result()
    assert (result["verdict"], result["steps_completed"]) == ("aligned", 8)
    assert worker.wait(30) == 0, worker.communicate()
    log = machines.log()
    assert f"GPU  FOLDER {machines.there}" in log  # none is visible, and the scripts are those of there
    assert "'STEPALIGN_FRAMEWORK'" in log and KEY_VARIABLE not in log and secret not in log


def test_the_worker_on_a_gpu_sees_that_gpu_alone(installed: Path, start: Callable[..., Command], tmp_path: Path) -> None:
    machines = Machines(start, tmp_path)
    worker = machines.worker(installed, "--gpu", "0")
    result = machines.run.result()
    if probe(managed.find("torch", "torch")).cuda.get("torch") and gpu_inventory().gpus:
        assert (result["exit_code"], result["sides"]["torch"]["device"]) == (0, "gpu")
    else:
        assert result["exit_code"] == 3
        assert "sees no GPU (CUDA_VISIBLE_DEVICES='0'" in result["error"]["message"]
    assert worker.wait(30) == 0


def test_a_gpu_is_pinned_for_a_side_on_the_cpu_too(installed: Path, start: Callable[..., Command], tmp_path: Path) -> None:
    machines = Machines(start, tmp_path, device="cpu")
    machines.worker(installed, "--gpu", "1")
    result = machines.run.result()
    assert (result["verdict"], result["sides"]["torch"]["device"]) == ("aligned", "cpu")
    assert "GPU 1 FOLDER" in machines.log()


def test_a_side_that_needs_a_gpu_says_how_to_start_its_worker(
    installed: Path, start: Callable[..., Command], tmp_path: Path
) -> None:
    machines = Machines(start, tmp_path, device="gpu")
    worker = machines.worker(installed)
    result = machines.run.result()
    assert result["exit_code"] == 2
    assert "its worker was started without a GPU: start it with --gpu 0 on other" in result["error"]["message"]
    assert worker.wait(30) == 0


def test_ctrl_c_ends_the_worker_with_all_that_it_started(
    installed: Path, start: Callable[..., Command], tmp_path: Path
) -> None:
    machines = Machines(start, tmp_path, 60, SLOW)
    worker = machines.worker(installed)
    while steps_of(machines.out) < 2:
        assert machines.run.process.poll() is None and worker.poll() is None, machines.run.errors()
        time.sleep(0.02)
    os.killpg(worker.pid, signal.SIGINT)
    worker.communicate(timeout=20)
    assert worker.returncode != 0
    assert command_lines_of(worker.pid) == ""
    result = machines.run.result()
    assert result["exit_code"] == 3
    assert result["error"]["side"] == "torch"
    assert result["steps_completed"] >= 2


def test_without_a_key_it_says_how_to_give_one(installed: Path, tmp_path: Path) -> None:
    words = [installed, "worker", "--connect", "tcp://127.0.0.1:9", "--case", tmp_path]
    environment = {name: value for name, value in os.environ.items() if name != KEY_VARIABLE}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert f"no key: name its file with --key, or put the file's text into the variable {KEY_VARIABLE}" in done.stderr


@pytest.mark.parametrize("key", ["{}", '{"side": "torch", "coordinator_public": "SECRET"}'])
def test_what_is_no_key_is_refused_and_not_shown(key: str, installed: Path, tmp_path: Path) -> None:
    words = [installed, "worker", "--connect", "tcp://127.0.0.1:9", "--case", tmp_path]
    done = subprocess.run(
        words, env={**os.environ, KEY_VARIABLE: key}, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert f"{KEY_VARIABLE}: this is not a key that stepalign made" in done.stderr
    assert "SECRET" not in done.stderr


def test_a_folder_that_is_not_there_is_named(installed: Path, tmp_path: Path) -> None:
    write_key(tmp_path / "torch.key", SideKey("torch", make_pair()[0], *make_pair()))
    words = [installed, "worker", "--connect", "tcp://127.0.0.1:9", "--key", tmp_path / "torch.key", "--case", tmp_path / "no"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert f"--case {tmp_path / 'no'}: no such folder" in done.stderr
