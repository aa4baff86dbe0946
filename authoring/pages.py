"""A notebook as a page that needs no network."""

from __future__ import annotations

import html
import re

import nbformat
from latex2mathml.converter import convert as tex_to_mathml
from nbconvert import HTMLExporter
from nbformat import NotebookNode

from .cells import tags
from .course import BADGE_IMAGE

FORMULA = re.compile(r"(?s)(`[^`\n]+`|```.*?```)|\$\$(.+?)\$\$|(?<![\\$`\w])\$(?!\s)([^$\n]+?)(?<!\s)\$(?!\d)")


def web_page(nb: NotebookNode, name: str) -> str:
    """A page that needs no network: formulas as MathML, solutions folded, nothing fetched and no script."""
    for cell in nb.cells:
        if cell.cell_type == "markdown":
            cell.source = FORMULA.sub(_mathml, cell.source.replace(BADGE_IMAGE, "[Open in Colab]"))
    page, _ = HTMLExporter().from_notebook_node(fold_solutions(describe_images(nb)), {"metadata": {"name": name}})
    return re.sub(r"(?s)<script\b.*?</script>", "", page)


def _mathml(found: re.Match) -> str:
    code, display, inline = found.groups()
    if code:
        return code
    return tex_to_mathml(display or inline, display="block" if display else "inline").replace("\n", " ")


def fold_solutions(nb: NotebookNode) -> NotebookNode:
    """Solutions with what they print in a part of the page that opens on a click."""
    for index, cell in enumerate(nb.cells):
        if "solution" in tags(cell):
            title, *code = cell.source.splitlines()
            printed = "".join(output.get("text", "") for output in cell.outputs)
            text = html.escape("\n".join([*code, "", printed]).strip()).replace("\n", "&#10;")
            words = html.escape(title.removeprefix("# @title "))
            folded = f"<details><summary>{words}</summary><pre>{text}</pre></details>"
            nb.cells[index] = nbformat.v4.new_markdown_cell(folded)
    return nb


def describe_images(nb: NotebookNode) -> NotebookNode:
    """Pictures as HTML with their alt text: nbconvert's template leaves it out, and does not show GIFs."""
    for output in (out for cell in nb.cells for out in cell.get("outputs", []) if "data" in out):
        for mime in ("image/png", "image/jpeg", "image/gif"):
            alt = output.metadata.get(mime, {}).get("alt")
            if mime in output.data and alt:
                picture = f'<img src="data:{mime};base64,{output.data[mime].strip()}" alt="{html.escape(alt)}">'
                output.data = NotebookNode({"text/html": f'<div class="jp-RenderedImage">{picture}</div>'})
                break
    return nb
