"""Open pages in headless Chromium; fail on a figure that is missing or not decoded, or a word on the console.

    .venv/bin/python tests/tools/check_page.py experiment/*/*_report.html

Each page is opened wide, and as narrow as a telephone within a frame, where nothing may stick out.
"""

import subprocess
import sys
import tempfile
from html.parser import HTMLParser
from pathlib import Path

CHROMIUM = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0"]
FRAME = """<!doctype html><meta charset="utf-8"><title>frame</title><output></output><script>
function drawn(image) {{  // to its last pixel: a broken picture has no size, one cut short ends transparent
  if (!image.naturalWidth) return false;
  const context = new OffscreenCanvas(1, 1).getContext("2d");
  context.drawImage(image, 1 - image.naturalWidth, 1 - image.naturalHeight);
  return context.getImageData(0, 0, 1, 1).data[3] === 255;
}}
function look(frame) {{
  const inside = frame.contentDocument, root = inside.documentElement;
  document.querySelector("output").textContent =
    [[...inside.images].filter(drawn).length, root.scrollWidth, root.clientWidth].join(" ");
}}
</script><iframe width="{width}" height="800" src="page.html" onload="look(this)"></iframe>"""


class Figures(HTMLParser):
    """Counts the images of a page, and reads what the frame put out."""

    def __init__(self, html: str):
        super().__init__()
        self.images, self.output, self._tag = 0, "", ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.images += tag == "img"
        self._tag = tag

    def handle_data(self, data):
        self.output += data if self._tag == "output" else ""

    def handle_endtag(self, tag):
        self._tag = ""


def problems(page: Path, width: int) -> list[str]:
    """What is wrong with the page at a width in pixels."""
    html = page.read_text(encoding="utf-8")
    expected = Figures(html).images
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "page.html").write_text(html, encoding="utf-8")
        (Path(folder) / "frame.html").write_text(FRAME.format(width=width), encoding="utf-8")
        done = subprocess.run(
            [*CHROMIUM, "--allow-file-access-from-files", "--window-size=1600,1000",
             f"--user-data-dir={folder}/profile", "--dump-dom", f"file://{folder}/frame.html"],
            capture_output=True, text=True, timeout=120, check=True,
        )  # fmt: skip
    found = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    output = Figures(done.stdout).output.split()
    if len(output) != 3:
        return [*found, "the page did not load"]
    decoded, needed, there = map(int, output)
    if not expected:
        found.append("the page has no figure")
    if decoded != expected:
        found.append(f"{expected - decoded} of {expected} figures are not decoded")
    if needed > there:
        found.append(f"the page is {needed} pixels wide in a window of {there}")
    return found


def main(pages: list[str]) -> None:
    if not pages:
        sys.exit("no page to check: run plot_results.py first")
    bad = [
        f"{page}, {width} pixels: {line}"
        for page in pages
        for width in (1200, 360)
        for line in problems(Path(page), width)
    ]
    for line in bad:
        print(line, file=sys.stderr)
    print(f"{len(pages)} pages opened, {len(bad)} problems")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main(sys.argv[1:])
