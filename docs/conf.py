"""How Sphinx builds the site: ``make docs``. Nothing is fetched from the network."""

import os
import re
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE / "_ext")]
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import attngraph  # noqa: E402  (the path above is needed first)

project = "attngraph"
author = "attngraph authors"
copyright = author
release = version = attngraph.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "docstrings",
    "command_options",
    "included_pages",
    "mathml",
    "notebook_pages",
    "package_modules",
]
root_doc = "index"
exclude_patterns = ["_ext", "figures"]
suppress_warnings = ["config.cache"]

# MyST
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_update_mathjax = False
myst_heading_anchors = 4
myst_links_external_new_tab = False

# API reference
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_inherit_docstrings = False
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
napoleon_custom_sections = ["Shapes", "Source", "Sources", "Units"]
python_use_unqualified_type_names = True

# References to our own names must be right; those to other packages can't be followed without their sites.
OTHERS = """
    PIL abc accelerate annotated_types argparse collections contextlib importlib json matplotlib networkx
    numpy pandas pathlib peft pydantic random torch torch_geometric transformers typing weakref
""".split()
TYPES = (
    # as they stand in annotations
    r"Tensor|Data|HeteroData|NoneType|FieldInfo|PydanticUndefined|RootModelRootType|_PydanticGeneralMetadata|"
    r"Ge|Gt|Le|Lt|MinLen|Strict|optional|PeftConfig|PeftModel|pd\.DataFrame|\w+\[.*"
)
nitpicky = True
nitpick_ignore_regex = [(r"py:.*", rf"({'|'.join(OTHERS)})(\..*)?"), (r"py:class", TYPES)]

# HTML
html_theme = "furo"
html_math_renderer = "mathml"
html_title = f"attngraph {release}"
html_copy_source = False
html_show_sourcelink = False
html_static_path = ["_static"]
html_css_files = ["attngraph.css"]
html_theme_options = {"navigation_with_keys": True}
settings = (HERE.parent / "setup.py").read_text(encoding="utf-8")
repository = re.search(r'^REPOSITORY = "(.*)"$', settings, re.MULTILINE)
if repository and repository[1]:  # links from each page to its source
    html_theme_options |= {
        "source_repository": repository[1],
        "source_branch": "main",
        "source_directory": "docs/",
    }
