"""The report as one HTML file that needs nothing else: style, script, plot library and data are in it."""

import base64
import gzip
import json
from pathlib import Path

HERE = Path(__file__).parent


def render(content: dict) -> str:
    """Return the page that shows what `collect` returned.

    The data are compressed, as they hold the texts of many queries and documents; nothing in them is
    ever taken for HTML, as the script writes them as text.
    """
    data = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    packed = gzip.compress(data.encode("utf-8"), compresslevel=9, mtime=0)
    parts = {
        "STYLE": (HERE / "page.css").read_text(encoding="utf-8"),
        "LIBRARY": plot_library(),
        "SCRIPT": (HERE / "page.js").read_text(encoding="utf-8"),
        "DATA": base64.b64encode(packed).decode("ascii"),
    }
    page = (HERE / "page.html").read_text(encoding="utf-8")
    for name, part in parts.items():
        page = page.replace(f"%{name}%", part.replace("</script", "<\\/script"), 1)
    return page


def plot_library() -> str:
    """Return Vega, Vega-Lite and Vega-Embed as one script; it comes with vl-convert, no network is used."""
    import vl_convert

    return vl_convert.javascript_bundle()
