"""Sphinx's settings. `make site` runs it over a folder that llmkit/course/site.py has prepared."""

from llmkit.course.badges import repository

project = "llmkit"
author = "The llmkit authors"
copyright = "the llmkit authors, MIT licence"
language = "en"
extensions = ["myst_nb", "sphinx_copybutton", "llmkit.course.site_math"]
exclude_patterns = ["README.md"]

suppress_warnings = ["ref.python"]  # a type in a signature that two modules define: the first is linked
maximum_signature_line_length = 110
add_module_names = False
templates_path = ["_templates"]

nb_execution_mode = "off"  # the stored outputs are shown
nb_merge_streams = True
myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 3
myst_links_external_new_tab = False

html_theme = "furo"
html_title = "llmkit"
html_favicon = "_static/favicon.svg"
html_static_path = ["_static"]
html_css_files = ["course.css"]
html_extra_path = ["_extra"]
html_math_renderer = "mathml"
html_show_sphinx = False
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "source_repository": repository()["url"],
    "source_branch": repository()["branch"],
    "source_directory": "docs/",
    "top_of_page_buttons": [],
    "light_css_variables": {"color-brand-primary": "#0072B2", "color-brand-content": "#00609A"},
    "dark_css_variables": {"color-brand-primary": "#56B4E9", "color-brand-content": "#7CC4EE"},
}
pygments_style = "a11y-high-contrast-light"
pygments_dark_style = "a11y-high-contrast-dark"
copybutton_exclude = ".linenos, .gp, .go"
