"""What a Jupyter server leaves out when it saves one of the course's notebooks.

The set-up names `leave_out_live_views` as the server's `pre_save_hook`. Without it a notebook that
is opened the next day says "Error displaying widget: model not found" where its sliders were.
"""

from __future__ import annotations

from typing import Any

VIEW = "application/vnd.jupyter.widget-view+json"


def leave_out_live_views(model: dict[str, Any], **_: Any) -> None:
    """Take the live views of widgets, and outputs that a finished bar left empty, out of a notebook of the course.

    Args:
        model: what the server is about to save (Jupyter Server, `FileContentsManager.pre_save_hook`); changed in place.
    """
    notebook = model.get("content")
    if model.get("type") != "notebook" or "course" not in notebook.get("metadata", {}):
        return
    for cell in notebook["cells"]:
        kept = []
        for output in cell.get("outputs", []):
            data = output.get("data")
            if data and VIEW in data and len(data) > 1:
                del data[VIEW]
                output.get("metadata", {}).pop(VIEW, None)
            if data is None or set(data) == {VIEW} or any(data.values()):
                kept.append(output)
        if "outputs" in cell:
            cell["outputs"] = kept
