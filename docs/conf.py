"""How Sphinx makes the site: `sphinx-build -W docs build/site`. Nothing on it comes from a network."""

import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parent / "kernels")]

project = "minidl"
copyright = "the authors of minidl"
extensions = ["myst_parser", "directives"]
exclude_patterns = ["README.md"]  # for those who read the folder
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
suppress_warnings = ["config.cache"]

html_theme = "furo"
html_title = "minidl"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
pygments_style = "friendly"
pygments_dark_style = "github-dark"
