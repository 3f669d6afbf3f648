"""How Sphinx makes the site: `make docs` runs it, with warnings as errors."""

import importlib.metadata

project = "rainjax"
author = "The rainjax authors"
copyright = "The rainjax authors"
release = importlib.metadata.version("rainjax")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]

# The repository is the source, so that one relative link serves who reads a page as a file and who
# reads it on the site: to README, to a notebook, to a figure beside its records.
root_doc = "docs/index"
include_patterns = ["docs/**", "notebooks/*.ipynb", "README.md", "CONTRIBUTING.md", "CHANGELOG.md"]
exclude_patterns = [".*", "build", "dist", "results", "runs", "eval", "tests", "rainjax", "train"]

# Notebooks are shown as they were executed when they were committed; `make notebooks` runs them.
nb_execution_mode = "off"
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]
source_suffix = {".md": "myst-nb", ".ipynb": "myst-nb"}

# Docstrings name code in single backticks, as Markdown does.
default_role = "py:obj"
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
python_use_unqualified_type_names = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = "rainjax"
html_show_sphinx = False
copybutton_exclude = ".linenos, .gp, .go"
