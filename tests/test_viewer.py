"""The report's viewer in a browser without a network: it draws three objects, turns them, and asks for nothing."""

from __future__ import annotations

import base64
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image
from test_report import items
from test_tables import assembled, results

from jr_dist.data.part_mesh import PartMesh
from jr_dist.evaluate import report
from jr_dist.evaluate.side_by_side import side_by_side

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="needs chromium"),
]
WIDTH, HEIGHT = 900, 300
# The open item's canvas alone, over the whole window; then what a person does.
ALONE = """<script>
document.querySelector(".turn").click();
const canvas = document.querySelector("canvas");
canvas.style.cssText = "position:fixed;inset:0;width:900px;height:300px;aspect-ratio:auto;background:#fff;z-index:9";
const press = (key) => canvas.dispatchEvent(new KeyboardEvent("keydown", { key }));
%s
</script></body>"""

DRAG = """
for (const [kind, x] of [["move", 50], ["down", 100], ["move", 90], ["move", 80]])
  canvas.dispatchEvent(new PointerEvent("pointer" + kind, { buttons: kind === "move" && x < 99, clientX: x }));
"""


def page() -> str:
    """A report with one item: a blue box above an orange one, the same stretched, and points on a disc."""
    above, below = trimesh.creation.box((0.8, 0.3, 0.8)), trimesh.creation.box((0.2, 0.8, 0.2))
    above.apply_translation((0, 0.4, 0))
    wide = above.copy().apply_scale((1.4, 1, 1))
    names = ("board", "column")
    source, deformed = PartMesh(names, ((above,), (below,))), PartMesh(names, ((wide,), (below,)))
    angle = np.linspace(0, 2 * np.pi, 200)
    disc = np.stack([0.7 * np.cos(angle), 0 * angle, 0.7 * np.sin(angle)], axis=1)
    glb = base64.b64encode(side_by_side(source, deformed, disc)).decode()
    return report.to_html(assembled(results()), items(glb=glb), [])


def shot(folder: Path, actions: str = "", log: Path | None = None, policy: bool = True) -> np.ndarray:
    """The canvas (H, W, 3) after `actions`, JavaScript; requests go to `log`. `policy`: as the page has it."""
    text = page().replace("</body>", ALONE % actions)
    (folder / "page.html").write_text(text if policy else text.replace("Content-Security-Policy", "none"))
    picture = folder / "shot.png"
    picture.unlink(missing_ok=True)
    command = [
        *(str(BROWSER), "--headless", "--no-sandbox", "--hide-scrollbars", f"--window-size={WIDTH},{HEIGHT}"),
        *("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--virtual-time-budget=3000"),
        *(f"--user-data-dir={folder / 'profile'}", "--host-resolver-rules=MAP * ~NOTFOUND"),
        *([f"--log-net-log={log}"] if log else []),
        *(f"--screenshot={picture}", (folder / "page.html").as_uri()),
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    return np.asarray(Image.open(picture).convert("RGB")).astype(int)


def panes(picture: np.ndarray) -> list[np.ndarray]:
    return [picture[:, i * WIDTH // 3 : (i + 1) * WIDTH // 3] for i in range(3)]


def seen(pane: np.ndarray, hue: str) -> np.ndarray:
    """(H, W) bool where a pane is blue, or orange; neither is white."""
    red, _, blue = np.moveaxis(pane, 2, 0)
    return blue - red > 40 if hue == "blue" else red - blue > 40


def width_of(mask: np.ndarray) -> int:
    columns = np.flatnonzero(mask.any(axis=0))
    return int(columns[-1] - columns[0] + 1)


def test_three_objects_stand_side_by_side_in_their_colours(tmp_path):
    source, deformed, target = panes(shot(tmp_path))
    for pane in (source, deformed):
        board, column = seen(pane, "blue"), seen(pane, "orange")
        assert board.sum() > 1000 and column.sum() > 200
        assert np.flatnonzero(board.any(axis=1)).mean() < np.flatnonzero(column.any(axis=1)).mean()  # above
    assert width_of(seen(deformed, "blue")) > 1.1 * width_of(seen(source, "blue"))
    assert seen(target, "blue").sum() > 500 and not seen(target, "orange").any()
    # The camera looks at each object's own centre.
    for pane in (source, deformed, target):
        columns = np.flatnonzero((pane < 250).any(axis=(0, 2)))
        assert abs(columns.mean() - WIDTH / 6) < 12


def test_it_turns_zooms_and_comes_back(tmp_path):
    start = shot(tmp_path)
    turned = shot(tmp_path, 'for (let i = 0; i < 4; i++) press("ArrowUp");')
    # Seen from 20 degrees below, the disc shows its other side: mirrored, not the same; the boards their undersides.
    assert (turned != start).any(axis=2).mean() > 0.02
    dragged = shot(tmp_path, DRAG)
    np.testing.assert_array_equal(dragged, shot(tmp_path, 'press("ArrowLeft");'))
    assert (dragged != start).any(axis=2).mean() > 0.01
    near = shot(tmp_path, 'for (let i = 0; i < 3; i++) press("+");')
    assert width_of(seen(panes(near)[0], "blue")) > 1.2 * width_of(seen(panes(start)[0], "blue"))
    np.testing.assert_array_equal(shot(tmp_path, 'press("ArrowUp"); press("+"); press("0");'), start)


def test_a_browser_lets_the_page_ask_for_nothing(tmp_path):
    reach = 'fetch("http://outside.invalid/a").catch(() => 0); new Image().src = "http://outside.invalid/b";'
    asked = [tmp_path / "with.json", tmp_path / "without.json"]
    shot(tmp_path, reach, log=asked[0])
    shot(tmp_path, reach, log=asked[1], policy=False)
    found = [set(re.findall(r"outside\.invalid/[ab]", log.read_text())) for log in asked]
    assert found == [set(), {"outside.invalid/a", "outside.invalid/b"}]  # it is the policy that holds them back
