"""Make `.typing`, a tree of links that shows static tools the packages under their import name.

The layout is mapped (`package_dir` in setup.cfg), and static tools cannot follow the import hook of an editable
install.
"""

from __future__ import annotations

import configparser
import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Write the tree anew from setup.cfg."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    tree = ROOT / ".typing"
    shutil.rmtree(tree, ignore_errors=True)
    for line in config["options"]["package_dir"].split("\n"):
        name, separator, folder = (part.strip() for part in line.partition("="))
        if not separator:
            continue
        target = tree / name.replace(".", "/")
        if "." not in name:
            target.mkdir(parents=True)
            for file in (ROOT / folder).iterdir():
                if file.is_file():
                    (target / file.name).symlink_to(file)
        else:
            target.mkdir(parents=True)
            for entry in (ROOT / folder).iterdir():
                if entry.name not in ("_root", "__pycache__"):
                    (target / entry.name).symlink_to(entry)


if __name__ == "__main__":
    main()
