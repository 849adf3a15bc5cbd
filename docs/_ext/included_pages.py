"""Links to an included file lead to the page that includes it, since appendices are next to the results."""

import re

from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

INCLUDE = re.compile(r"\A(?:---\n.*?---\n)?```\{include\} (\S+)", re.DOTALL)


def know_included_files(app: Sphinx, env: BuildEnvironment, docnames: list[str]) -> None:
    """Adds the included files to those that Sphinx knows as documents, under the names of their pages."""
    for name in sorted(env.found_docs):
        page = env.doc2path(name)
        if page.suffix == ".md" and (match := INCLUDE.match(page.read_text(encoding="utf-8"))):
            env.project._path_to_docname[(page.parent / match[1]).resolve()] = name


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("env-before-read-docs", know_included_files)
    return {"parallel_read_safe": True}
