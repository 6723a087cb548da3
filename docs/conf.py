"""Settings of Sphinx: these pages and the docstrings of the package as a site (`make docs`).

rosdoc2 runs a copy of this file in another folder, with the package on the path and its version
set already.
"""

import re
import sys
from pathlib import Path
from xml.etree import ElementTree

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

ROOT = Path(__file__).resolve().parents[1]
if (ROOT / "package.xml").is_file():
    sys.path.insert(0, str(ROOT))
    release = ElementTree.parse(ROOT / "package.xml").findtext("version")

project = "mvdust3r_ros"
project_copyright = "mvdust3r_ros maintainers, Apache-2.0"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
root_doc = "site"

myst_heading_anchors = 4

# The site is built where neither ROS nor a network library is installed.
autodoc_mock_imports = ["onnxruntime", "rclpy", "tensorrt", "torch"]
autodoc_default_options = {"members": True}
autodoc_member_order = "bysource"
napoleon_custom_sections = [("Attributes", "params_style")]
python_maximum_signature_line_length = 99
add_module_names = False

# Names in single backticks: links where the name is on the site, else code.
default_role = "py:obj"
nitpick_ignore_regex = [
    ("py:obj", ".*"),
    # What a map holds inside.
    ("py:class", r"([\w.]+\.)?(OccupancyMap|OdometryTie|PastPath|ScaleFilter|VoxelMap)"),
    # Other libraries, whose lists of names would have to be fetched.
    ("py:.*", r"(abc|argparse|collections|enum|numpy|pathlib|rosbags|typing)\..*"),
]

html_theme = "furo"
html_title = project
html_show_sphinx = False

NDARRAY = re.compile(
    r"~numpy\.ndarray\[(?:tuple\[~typing\.Any, \.\.\.\]|~typing\.Any), "
    r"~numpy\.dtype\[~numpy\.(\w+)(?:\[~typing\.Any\])?\]\]"
)
ARRAYS = {"floating": "FloatArray", "bool": "BoolArray", "uint8": "ImageArray"}


def plain_signature(text: str | None) -> str | None:
    """A signature with arrays called as in the code, and defaults that can be parsed.

    autodoc may have resolved the names of the arrays.
    """
    if text is None:
        return None
    text = text.replace("npt.NDArray[np.", "~numpy.typing.NDArray[~numpy.")
    text = NDARRAY.sub(lambda m: ARRAYS.get(m[1], f"~numpy.typing.NDArray[~numpy.{m[1]}]"), text)
    text = re.sub(
        r"(?<![.\w])(?=(?:Float|Bool|Int|Image)Array\b)", "~mvdust3r_ros.datatypes.", text
    )
    return re.sub(r"<(\w+\.\w+): \d+>", r"\1", text.replace("<factory>", "..."))


def unlink_outside(app: Sphinx, page: nodes.document) -> None:
    """Make text of links to pages and folders of the repository that are not on the site."""
    folder = Path(page["source"]).parent
    for link in list(page.findall(addnodes.pending_xref)):
        path = (folder / link["reftarget"].split("#")[0]).resolve()
        pages = (path.with_name(path.name + suffix) for suffix in (".md", ".rst"))
        there = path.is_dir() or any(page.is_file() for page in pages)
        if link["reftype"] == "myst" and there and not path.is_relative_to(app.srcdir):
            link.replace_self(link.children)


def alias_target(
    app: Sphinx, env: BuildEnvironment, link: addnodes.pending_xref, text: nodes.TextElement
) -> nodes.reference | None:
    """The link of a type that is another name of one; Sphinx 8.1 of Python 3.10 lacks it."""
    if link.get("refdomain") != "py" or link["reftype"] != "class":
        return None
    python = env.get_domain("py")
    page, target = link["refdoc"], link["reftarget"]
    return python.resolve_xref(env, page, app.builder, "data", target, link, text)


def setup(app: Sphinx) -> None:
    """Register what pages and signatures go through."""
    app.connect("doctree-read", unlink_outside)
    app.connect("missing-reference", alias_target)
    app.connect(
        "autodoc-process-signature",
        lambda *words: (plain_signature(words[-2]), plain_signature(words[-1])),
    )
