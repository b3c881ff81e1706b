"""A machine that is full, forbidden, narrow, or in use by another run."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.faults.cell import Cell, Expected, Running, Scene


def _out_at(scene: Scene, out: Path) -> None:
    scene.arguments[scene.arguments.index("--out") + 1] = str(out)


def full_disk(scene: Scene, size: str) -> None:
    """Put the run folder on a file system of so many bytes."""
    disk = scene.folder / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(disk)], check=True)
    scene.undo.append(lambda: subprocess.run(["umount", "-l", str(disk)], check=True))
    _out_at(scene, disk / "out")


def small_files(scene: Scene) -> None:
    """Let no file grow beyond 1.25 MiB: report.html is larger, the workers' archive is not."""
    scene.limits[resource.RLIMIT_FSIZE] = 5 << 18


def full_temporary_folder(scene: Scene) -> None:
    disk = scene.folder / "tiny"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "none", str(disk)], check=True)
    scene.undo.append(lambda: subprocess.run(["umount", "-l", str(disk)], check=True))
    scene.environment["TMPDIR"] = str(disk)


def no_shared_memory(scene: Scene) -> None:
    """Start the command in a mount namespace whose /dev/shm cannot be written."""
    hide = "mount -t tmpfs -o size=4k,mode=555,ro none /dev/shm && exec \"$@\""
    scene.arguments[:0] = ["unshare", "--mount", "--propagation", "private", "sh", "-c", hide, "sh"]


def read_only_home(scene: Scene) -> None:
    """Start the command where the user's data folder cannot be written, as a user who cannot."""
    home = scene.folder / "home"
    home.mkdir()
    readable = f"mount --bind {home} {home} && mount -o remount,ro,bind {home} && exec \"$@\""
    scene.arguments[:0] = ["unshare", "--mount", "--propagation", "private", "sh", "-c", readable, "sh"]
    scene.environment.update(HOME=str(home), STEPALIGN_HOME=str(home / "stepalign"))


def unwritable_out(scene: Scene) -> None:
    _out_at(scene, Path("/proc/out"))


def long_out(scene: Scene) -> None:
    out = scene.folder
    for number in range(12):
        out = out / f"{number:02d}-{'long' * 50}"
    _out_at(scene, out / "out")


def too_long_out(scene: Scene) -> None:
    _out_at(scene, scene.folder / ("x" * 300))


def long_temporary_folder(scene: Scene) -> None:
    folder = scene.folder / ("deep" * 30)
    folder.mkdir()
    scene.environment["TMPDIR"] = str(folder)


def strange_paths(scene: Scene) -> None:
    """Move the case, the run folder and the temporary folder below names with spaces, quotes and other scripts."""
    strange = scene.folder / "mein Fall 模型 'ä\" $HOME %s \u202e"
    strange.mkdir()
    shutil.move(str(scene.folder / "case"), str(strange / "case ü"))
    scene.arguments[scene.arguments.index(str(scene.folder / "case"))] = str(strange / "case ü")
    toml = strange / "case ü" / "case.toml"
    toml.write_text(toml.read_text(encoding="utf-8").replace(str(scene.folder / "case"), str(strange / "case ü")), encoding="utf-8")
    _out_at(scene, strange / "out 出")


def few_descriptors(scene: Scene, most: int) -> None:
    """Let no process of the run have more than so many files open."""
    scene.limits[resource.RLIMIT_NOFILE] = most


def few_threads(scene: Scene, most: int) -> None:
    """Let the user of the run have at most so many threads and processes: a user who can read what root can."""
    scene.limits[resource.RLIMIT_NPROC] = most
    rights = ("--inh-caps=+dac_override", "--ambient-caps=+dac_override")
    scene.arguments[:0] = ["setpriv", "--reuid=64321", "--clear-groups", *rights]


def data_beyond_memory(scene: Scene) -> None:
    """Let the data be larger than the address space that a process of the run may have."""
    rows = 10 << 20
    np.savez_compressed(scene.folder / "case" / "data.npz", x=np.zeros((rows, 2)), y=np.zeros((rows, 3)))
    scene.limits[resource.RLIMIT_AS] = 300 << 20


def jumping_clock(scene: Scene) -> None:
    """Have this machine's wall clock jump for every Python process of the run: an hour on and back at each look."""
    site = scene.folder / "clock"
    site.mkdir()
    (site / "sitecustomize.py").write_text(JUMPING, encoding="utf-8")
    scene.environment["PYTHONPATH"] = str(site)


JUMPING = """\
import random, time
now, far = time.time, random.Random(1)
time.time = lambda: now() + far.choice([-3600.0, 3600.0, -86400.0 * 400])
"""


def same_folder(scene: Scene) -> None:
    """Have another run in the folder already."""
    out = scene.folder / "out"
    out.mkdir()
    (out / "steps.jsonl").write_bytes(b"")


def remove_run_folder(running: Running) -> None:
    shutil.rmtree(running.out)
    _go_on(running)


def forbid_run_folder(running: Running) -> None:
    """Make the run folder immutable for the rest of the run, as a remounted file system is."""
    subprocess.run(["mount", "--bind", str(running.out), str(running.out)], check=True)
    running.undo.append(lambda: subprocess.run(["umount", "-l", str(running.out)], check=True))
    subprocess.run(["mount", "-o", "remount,ro,bind", str(running.out)], check=True)
    _go_on(running)


def _go_on(running: Running) -> None:
    for pid in running.note.read_text(encoding="ascii").split():
        os.kill(int(pid), signal.SIGCONT)


def machine() -> Iterator[Cell]:
    """Yield what a machine may do to a run."""
    fine = Expected(0, "", 60.0, 6, "aligned")
    stopped = "forward:3=SIGSTOP"
    for what, size, phase, message, steps, fault in (
        ("disk full at the end", "512k", "end", r"report\.html: .*No space left on device\. Free some space", 6, ""),
        ("disk full in the steps", "512k", "step", "No space left on device", 0, "forward:0=flood"),
        ("disk full from the start", "8k", "start", r"cannot be written: No space left on device\. Free some space", 0, ""),
    ):
        yield Cell(
            "machine", what, phase, Expected(3, message, 30.0, steps), torch=fault, prepare=partial(full_disk, size=size),
            needs="root", quick=phase == "step",
        )  # fmt: skip
    yield machine_cell("files of at most 1.25 MiB", "end", 3, r"report\.html: .*File too large", small_files, steps=6)
    yield machine_cell("temporary folder full", "start", 3, r"payload\.pyz: No space left", full_temporary_folder, needs="root")
    yield machine_cell("run folder unwritable", "start", 2, "cannot make a run folder there", unwritable_out, kept=False)
    vanished = Expected(3, "No such file or directory|Check that its folder is still there", 30.0, keeps_folder=False)
    yield Cell("machine", "run folder vanishes", "step", vanished, torch=stopped, act=remove_run_folder, quick=True)
    yield Cell(
        "machine", "run folder becomes read-only", "step", Expected(3, "Read-only file system", 30.0, 3),
        torch=stopped, act=forbid_run_folder, needs="root",
    )  # fmt: skip
    for workers in ("double", "real"):
        for what, prepare in (
            ("no /dev/shm", no_shared_memory), ("home read-only", read_only_home), ("strange paths", strange_paths),
        ):  # fmt: skip
            if workers == "real" and prepare is read_only_home:
                continue  # the real environments are in it
            needs, quick = "" if prepare is strange_paths else "root", prepare is strange_paths and workers == "double"
            yield Cell("machine", what, "all", fine, workers=workers, prepare=prepare, needs=needs, quick=quick)
    yield Cell("machine", "very long path of the run folder", "all", fine, prepare=long_out)
    yield machine_cell("too long a name for the run folder", "start", 2, "File name too long", too_long_out, kept=False)
    yield Cell("machine", "very long temporary folder", "all", fine, prepare=long_temporary_folder, quick=True)
    yield Cell("machine", "clock jumps", "all", fine, prepare=jumping_clock)
    yield Cell("machine", "64 open files", "all", fine, prepare=partial(few_descriptors, most=64))
    for most in (8, 12, 16, 24):
        message, prepare = "[Tt]oo many open files.*ulimit -n", partial(few_descriptors, most=most)
        yield machine_cell(f"{most} open files", "start", 3, message, prepare, kept=False)
    for most in (1, 12):
        message, prepare = "too few threads: .*ulimit -u", partial(few_threads, most=most)
        yield machine_cell(f"{most} threads", "start", 3, message, prepare, needs="root", quick=most == 12)
    yield machine_cell("data beyond memory", "start", 3, "gave the coordinator no more memory", data_beyond_memory)
    yield machine_cell("another run in the folder", "start", 2, "found a run's files", same_folder, kept=False)


def machine_cell(
    fault: str, phase: str, exit_code: int, message: str, prepare: Callable[[Scene], None], *, steps: int = 0,
    kept: bool = True, needs: str = "", quick: bool = False,
) -> Cell:  # fmt: skip
    """Return a cell without a worker's fault: the machine's own."""
    expected = Expected(exit_code, message, 30.0, steps, keeps_folder=kept)
    return Cell("machine", fault, phase, expected, prepare=prepare, needs=needs, quick=quick)
