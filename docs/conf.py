"""Builds the documentation: `make docs` writes docs/_build/index.html."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from reference import write_reference  # noqa: E402

project = "partbench"
author = "The partbench authors"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "partbench"
html_static_path = ["static"]
html_css_files = ["docs.css"]
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
# Docstrings here quote code in single backticks, as Markdown does.
default_role = "code"
autodoc_typehints = "none"
autodoc_member_order = "bysource"
napoleon_use_ivar = True
nitpicky = False


def setup(app: object) -> None:
    """Write the pages that are made from the code, before Sphinx looks for pages."""
    write_reference(HERE / "reference")
