"""Gather the pages of the site in build/docs, from which MkDocs makes it.

These are docs/, the README, the reference, and every file of the repository that a page
links to. Links are written as the repository shows them, and lead to pages of the site
afterwards. Run it in the project's folder:

    python scripts/docs_site.py && mkdocs build --strict
"""

import re
import shutil
from os.path import normpath, relpath
from pathlib import Path

from docs_reference import ROOT, parameters_page, tables_page

PAGES = ROOT / "build" / "docs"
LINK = re.compile(r"""(\]\(|src=")([^)#"\s:]+)""")

# files that a page shows; of others the site has a copy
LANGUAGES = {".py": "python", ".yml": "yaml", ".txt": "text"}


def led(text: str, page: str, linked: set[str]) -> str:
    """Return a page's text with its links as they are in the site.

    Parameters
    ----------
    text
        In Markdown.
    page
        Its place below docs/, or ``readme.md``, which the README becomes.
    linked
        Files outside of docs/ that it links to are added.
    """
    home = ROOT if page == "readme.md" else (ROOT / "docs" / page).parent

    def lead(link: re.Match[str]) -> str:
        target = normpath(home / link[2])
        if not Path(target).is_file():  # a page that is made, or a mistake
            return link[0]
        name = relpath(target, ROOT)
        if name == "README.md":
            target = str(ROOT / "docs/readme.md")
        elif not name.startswith("docs/"):
            linked.add(name)
            ending = ".md" * (Path(name).suffix in LANGUAGES)
            target = str(ROOT / "docs/source" / name) + ending
        return link[1] + relpath(target, (ROOT / "docs" / page).parent)

    return LINK.sub(lead, text)


def main() -> None:
    """Gather the pages."""
    shutil.rmtree(PAGES, ignore_errors=True)
    shutil.copytree(ROOT / "docs", PAGES)
    shutil.copy(ROOT / "README.md", PAGES / "readme.md")
    (PAGES / "reference").mkdir()
    (PAGES / "reference/parameters.md").write_text(parameters_page())
    (PAGES / "reference/tables.md").write_text(tables_page())
    linked: set[str] = set()
    for page in PAGES.rglob("*.md"):
        name = page.relative_to(PAGES).as_posix()
        page.write_text(led(page.read_text(), name, linked))
    for name in linked:
        copy = PAGES / "source" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        if language := LANGUAGES.get(copy.suffix):
            # the search is for what is written about them
            head = f"---\nsearch: {{exclude: true}}\n---\n# {name}\n\n"
            shown = f"````{language}\n{(ROOT / name).read_text()}\n````\n"
            Path(f"{copy}.md").write_text(head + shown)
        else:
            shutil.copy(ROOT / name, copy)


if __name__ == "__main__":
    main()
