"""How Sphinx makes pages of the Markdown files and of the docstrings: ``nox -s docs``.

The source folder is the top one, since the pages link to README.md and to each other across it.
This folder is only that of the configuration.
"""

import vfiohost

project = "vfiohost"
author = copyright = "The vfiohost developers"  # noqa: A001 - Sphinx reads this name
release = vfiohost.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "docs/index"
include_patterns = ["*.md", "docs/*.md", "fixtures/sysfs/*.md", "tests/kernel/*.md"]

# A link to a heading that is not there is a warning, and warnings are errors.
myst_heading_anchors = 4
nitpicky = True
# Not every type in an annotation has a page. But a phrase is no type: in "What it is: and more" as
# the first line of a property, napoleon takes the words before the colon for one.
nitpick_ignore_regex = [("py:.*", r"[\w.]+")]

autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints_format = "short"
napoleon_numpy_docstring = False

html_theme_options = {"page_width": "1100px"}
html_show_copyright = False
