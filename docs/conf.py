"""How Sphinx makes the site: `make docs` runs it, with warnings as errors."""

import functools
import importlib
import importlib.metadata
import pkgutil
import re

from docutils import nodes
from sphinx.util.logging import getLogger
from sphinx.util.nodes import make_refnode

import rainjax
from rainjax.report.page import _together as keep_together

logger = getLogger(__name__)

project = "rainjax"
author = "The rainjax authors"
copyright = "The rainjax authors"
release = importlib.metadata.version("rainjax")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]

# The repository is the source, so that one relative link serves who reads a page as a file and who
# reads it on the site: to README, to a notebook, to a figure beside its records.
root_doc = "docs/index"
include_patterns = ["docs/**", "notebooks/*.ipynb", "README.md", "CONTRIBUTING.md", "CHANGELOG.md"]
exclude_patterns = [
    "docs/_templates",
    ".*",
    "build",
    "dist",
    "results",
    "runs",
    "eval",
    "tests",
    "rainjax",
    "train",
]

# Notebooks are shown as they were executed when they were committed; `make notebooks` runs them.
nb_execution_mode = "off"
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]
source_suffix = {".md": "myst-nb", ".ipynb": "myst-nb"}

# Docstrings name code in single backticks, as Markdown does.
default_role = "py:obj"
autodoc_default_options = {"members": True, "show-inheritance": True}
autosummary_generate = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
python_use_unqualified_type_names = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # fields of a named tuple are members already
napoleon_attr_annotations = False

html_theme = "furo"
html_title = "rainjax"
html_show_sphinx = False
html_additional_pages = {"index": "redirect.html"}  # the first page is docs/index.html
templates_path = ["_templates"]
copybutton_exclude = ".linenos, .gp, .go"


def setup(app):
    """Adds what the API reference needs beyond Sphinx."""
    app.connect("autodoc-process-docstring", _keep_tables_of_modules)
    app.connect("autodoc-process-signature", _as_written)
    app.connect("doctree-read", _keep_numbers_together)
    app.connect("missing-reference", _link_alias)
    app.connect("env-check-consistency", _warn_of_missing_names)


def _keep_tables_of_modules(app, what, name, value, options, lines):
    """Shows what a module's docstring indents as it stands, as Markdown would."""
    if what == "module":
        for place in range(len(lines) - 1, 0, -1):
            if lines[place].startswith("    ") and not lines[place - 1]:
                before = next(line for line in reversed(lines[:place]) if line)
                if not before.startswith("    "):
                    lines[place:place] = ["::", ""]


def _as_written(app, what, name, value, options, signature, returned):
    """Shows defaults and annotations as the source has them: 8/255, and Array."""
    return tuple(text and _plain(text) for text in (signature, returned))


def _plain(text):
    text = re.sub(r"(\w+\.)+Array\b", "Array", text)
    return re.sub(r"\b0\.\d{12,}", lambda found: _in_grey_levels(found[0]), text)


def _in_grey_levels(text):
    levels = 255 * float(text)
    return f"{round(levels)}/255" if abs(levels - round(levels)) < 1e-9 else text


def _keep_numbers_together(app, doctree):
    """Keeps an interval of a table's cell on one line."""
    for entry in doctree.findall(nodes.entry):
        for text in list(entry.findall(nodes.Text)):
            if not isinstance(text.parent, nodes.literal):
                text.parent.replace(text, nodes.Text(keep_together(text.astext())))


def _link_alias(app, env, node, contnode):
    """Links a second name of an object, such as rainjax.PGD, to where it is documented."""
    if node.get("refdomain") != "py":
        return None
    target = node["reftarget"]
    found = _object(target)
    if found is None and node.get("py:module"):
        found = _object(f"{node['py:module']}.{target}")
    name = _described(tuple(env.domains["py"].objects)).get(id(found))
    if found is None or name is None:
        return None
    here, entry = node.get("refdoc", env.docname), env.domains["py"].objects[name]
    return make_refnode(app.builder, here, entry.docname, entry.node_id, contnode, name)


@functools.lru_cache(1)
def _described(names):
    """Returns under which of these names the reference describes an object, by its id."""
    return {id(_object(name)): name for name in reversed(names)}


def _warn_of_missing_names(app, env):
    """Warns of each public name that no page of the API reference describes."""
    known = env.domains["py"].objects
    described = _described(tuple(known))
    for package in pkgutil.walk_packages(rainjax.__path__, "rainjax."):
        if any(part.startswith("_") for part in package.name.split(".")):
            continue
        module = importlib.import_module(package.name)
        for name in getattr(module, "__all__", ()):
            value = getattr(module, name)
            if f"{package.name}.{name}" not in known and id(value) not in described:
                logger.warning("%s.%s is on no page of docs/api", package.name, name)


@functools.cache
def _object(name):
    """Returns what a dotted name of this library leads to; None where it leads nowhere."""
    if name.partition(".")[0] != "rainjax":
        return None
    try:
        return pkgutil.resolve_name(name)
    except (ImportError, AttributeError, ValueError):
        return None
