"""What the README says of the project's dependencies is all of them."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_each_dependency_has_one_line_that_says_what_it_is_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    requirements = [*project["project"]["dependencies"], *project["dependency-groups"]["dev"]]
    section = (ROOT / "README.md").read_text().split("\n## Dependencies\n")[1].split("\n## ")[0]
    lines = re.findall(r"^\| (\w[\w-]*) \| \S.*\|$", section, re.MULTILINE)
    named = [name for name in lines if name != "package"]
    assert sorted(named) == sorted(re.split(r"[<>=]", requirement)[0] for requirement in requirements)
