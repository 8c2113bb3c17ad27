"""Take docs/pictures/netron.png: the step graph of a file, the body of its Scan, as Netron draws it.

    pip install netron==9.3.3
    python tools/netron_picture.py examples/digits.onnx docs/pictures/netron.png

Needs chromium, and a font with U+3008 (Debian: fonts-wqy-microhei) for the brackets around shapes. On a busy machine
the browser may be ahead of Netron: then this says so, and is run again. Netron asks for consent in a cookie and reports
its usage unless its version is 0.0.0; here it does neither.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import onnx
from netron import server as netron
from onnx import helper

SIZE = "900,960"
START_SCREEN = 30_000  # [bytes]; its picture is smaller, a graph's larger
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--virtual-time-budget=100000")


class Handler(netron._HTTPRequestHandler):
    """Netron's, with the cookie that it asks for, and without the worker that a headless browser's clock outruns."""

    def end_headers(self) -> None:
        self.send_header("Set-Cookie", "consent=0")
        super().end_headers()

    def _write(self, status_code: int, content_type: str, content: bytes) -> None:
        if content is not None:
            content = bytes(content).replace(b"packaged: this", b"serial: true, packaged: this")
        super()._write(status_code, content_type, content)


def main(file: str, picture: str) -> None:
    model = onnx.load(file)
    (scan,) = (node for node in model.graph.node if node.op_type == "Scan")
    (body,) = (a.g for a in scan.attribute if a.name == "body")
    step = helper.make_model(body, functions=list(model.functions), opset_imports=list(model.opset_import))
    netron.__version__, netron._HTTPRequestHandler = "0.0.0", Handler
    with tempfile.TemporaryDirectory() as folder:
        onnx.save(step, Path(folder) / "step.onnx")
        host, port = netron.start(str(Path(folder) / "step.onnx"), browse=False)
        shot = [
            f"--user-data-dir={folder}/profile",
            f"--window-size={SIZE}",
            f"--screenshot={Path(picture).absolute()}",
        ]
        subprocess.run(["chromium", *FLAGS, *shot, f"http://{host}:{port}"], check=True, stderr=subprocess.DEVNULL)
        netron.stop((host, port))
    if Path(picture).stat().st_size < START_SCREEN:
        sys.exit("error: this is Netron's start screen. Run it again.")


if __name__ == "__main__":
    main(*sys.argv[1:])
