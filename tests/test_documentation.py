"""The documentation: links lead somewhere, the README is short, the citation names the version."""

import re
import subprocess

import pytest
from ruamel.yaml import YAML

from pipeline import __version__
from tests.conftest import ROOT

LISTED = subprocess.check_output(["git", "ls-files", "-z", "*.md"], cwd=ROOT, text=True).split("\0")[:-1]
LINK = re.compile(r"\]\((?!https?:|mailto:)([^)\s]+)\)")


def slug(heading: str) -> str:
    """Return GitHub's anchor of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("path", LISTED)
def test_a_link_leads_to_a_file_and_a_heading_that_exist(path: str) -> None:
    for link in LINK.findall((ROOT / path).read_text()):
        target, _, anchor = link.partition("#")
        found = (ROOT / path).parent / target if target else ROOT / path
        assert found.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.+)$", found.read_text(), re.MULTILINE)
            assert anchor in map(slug, headings), link


def test_the_readme_has_at_most_900_words() -> None:
    assert len((ROOT / "README.md").read_text().split()) <= 900


def test_the_citation_names_this_version() -> None:
    assert YAML(typ="safe").load(ROOT / "CITATION.cff")["version"] == __version__
