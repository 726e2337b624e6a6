"""Make the site from the repository's files, under the paths that they have there: links that work on GitHub work on it."""

import base64
import html
import json
import logging
import re
from pathlib import Path
from typing import Any

import griffe
from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "docs/*.md", "benchmarks/README.md")
FILES = (
    ".github/images/*",
    "benchmarks/*.png",
    "docs/site.css",
    "explorer/*.html",
    "metrics/figures/*.png",
    "notebooks/*.ipynb",
)
EXPLORERS = ("explorer/betas.html", "explorer/explorer.html")  # the first has a slider for beta, and needs both pipelines
NOT_API = {"__init__", "__main__", "cli"}
EXPLORER = re.compile(r"!\[[^]]*\]\(\.github/images/explorer\.png\)")
ELSEWHERE = re.compile(
    r"""<(script|img|iframe|link(?![^>]*rel="?canonical))\b[^>]*\b(src|href)=["']?(https?:)?//[^>]*|(@import|url\()\s*["']?(https?:)?//"""
)
LOG = logging.getLogger("mkdocs.hooks")


def _rooms() -> list[str]:
    return sorted(
        {path.stem for path in (ROOT / "pipeline").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    )


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add a page for each package to the part of the menu that is called API."""
    api = [f"docs/api/{room}.md" for room in _rooms() if room not in NOT_API]
    config.nav = [{"API": api} if entry == {"API": "docs/api"} else entry for entry in config.nav or []]
    return config


def _outputs(name: str, number: int, outputs: list[dict[str, Any]]) -> tuple[str, dict[str, bytes]]:
    """Return a cell's outputs as Markdown, and its pictures by file name."""
    texts, pictures = [], {}
    for output in outputs:
        data = output.get("data", {})
        if "image/png" in data:
            picture = f"{name}-{number}-{len(pictures)}.png"
            pictures[picture] = base64.b64decode(data["image/png"])
            texts.append(f"![Output of the cell above]({picture})")
        elif "text/html" in data:
            texts.append(re.sub(r"<style.*?</style>|\n\s*(?=\n)", "", "".join(data["text/html"]), flags=re.DOTALL))
        else:
            texts.append(f"```{{ .text .output }}\n{''.join(output.get('text') or data['text/plain']).rstrip()}\n```")
    return "\n\n".join(texts), pictures


def _notebook(path: Path) -> tuple[str, dict[str, bytes]]:
    """Return a notebook as Markdown, and its pictures by file name."""
    parts, pictures = [], {}
    for number, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"]):
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
        else:
            text, found = _outputs(path.stem, number, cell["outputs"])
            parts.append(f"```python\n{source}\n```\n\n{text}")
            pictures |= found
    return "\n\n".join(parts), pictures


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Take the repository's files instead of those of ``docs_dir``, and make pages of notebooks and packages."""
    made = [file for file in files if file.src_dir != config.docs_dir]  # those of the theme
    for path in (path for pattern in (*PAGES, *FILES) for path in sorted(ROOT.glob(pattern))):
        name = path.relative_to(ROOT).as_posix()
        file = File(name, str(ROOT), config.site_dir, config.use_directory_urls)
        file.dest_uri = file.dest_uri.removeprefix("docs/").removeprefix(".github/")
        made.append(file)
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        text, pictures = _notebook(path)
        made += [File.generated(config, f"notebooks/{name}", content=content) for name, content in pictures.items()]
        made.append(File.generated(config, f"notebooks/{path.stem}.md", content=text))
    for room in set(_rooms()) - NOT_API:
        file = File.generated(config, f"docs/api/{room}.md", content=f"# pipeline.{room}\n\n::: pipeline.{room}\n")
        file.dest_uri = file.dest_uri.removeprefix("docs/")
        made.append(file)
    return Files(made)


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links to notebooks to their pages, and show the explorer itself on the first page where there is one."""
    if page.file.src_uri == "README.md":
        page.meta["hide"] = ["navigation", "toc"]
        if place := next(filter(files.get_file_from_path, EXPLORERS), None):
            frame = f'<iframe class="explorer" src="{place}" title="Latent explorer" loading="lazy"></iframe>'
            markdown = EXPLORER.sub(f"{frame}\n\n[The explorer on a page of its own]({place})", markdown, count=1)
        else:
            LOG.info("explorer/explorer.html is not there, so the first page shows its picture; `dvc repro` makes it")
    return re.sub(r"\]\(((?!https?:)[^)\s]*)\.ipynb\)", r"](\1.md)", markdown)


def on_post_build(config: MkDocsConfig) -> None:
    """Raise PluginError if a page requests a script, a style, a font or a picture from elsewhere."""
    for path in Path(config.site_dir).rglob("*.html"):
        if found := ELSEWHERE.search(path.read_text(encoding="utf-8")):
            raise PluginError(f"{path}: requests {found[0]:.200}")


def on_page_content(content: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Set formulas as MathML, which browsers draw without a script."""

    def formula(match: re.Match[str]) -> str:
        return str(convert(html.unescape(match[2]), display="block" if match[1] == "div" else "inline"))

    return re.sub(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', formula, content, flags=re.DOTALL)


class Docstrings(griffe.Extension):
    """Read the docstrings' roles and examples, which are those of Sphinx, as Markdown."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite a docstring."""
        if obj.docstring:
            text = re.sub(r":math:`([^`]+)`", r"$\1$", obj.docstring.value)
            text = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", text)
            obj.docstring.value = re.sub(r"((?:^>>> .*\n?)(?:^.+\n?)*)", r"```pycon\n\1\n```\n", text, flags=re.MULTILINE)
