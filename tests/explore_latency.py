"""How long it takes from a slider's input to the drawn canvas: `python tests/explore_latency.py`."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from explore_browser import Tab, browsing, served

from fracgen.onepfrac import OnePFrac
from fracgen.registry import save_recipe


def measure(browser: Any, address: str, name: str, fragment: str, moves: int = 60) -> dict[str, list[float]]:
    """Milliseconds from a slider's input to the first canvas drawn for it: of the large picture, of the grid."""
    tab = Tab(browser, address).open(fragment)
    slider = tab.page.locator(f"#field-{name}-slider")
    times: dict[str, list[float]] = {"base": [], "grid": []}
    slider.focus()
    for move in range(moves):
        tab.page.evaluate("performance.clearMeasures()")
        tab.press("ArrowRight" if move % 20 < 10 else "ArrowLeft")
        for what, values in times.items():
            entries = tab.page.evaluate(f"performance.getEntriesByName('fracgen:input-to-{what}').map(e => e.duration)")
            values += entries[:1]
    tab.context.close()
    return times


def main() -> None:
    """Print medians and 90th percentiles for the published number of points at 256 pixels."""
    with tempfile.TemporaryDirectory() as folder:
        save_recipe(OnePFrac(size=256), Path(folder) / "published.yaml")
        with served(Path(folder) / "published.yaml", Path(folder)) as address, browsing() as browser:
            locked = Tab(browser, address).open().press("l").page.url.partition("#")[2]
            for title, fragment, name in (
                ("delta, base locked", locked, "delta"),
                ("delta, not locked", "", "delta"),
                ("sigma, not locked", "", "sigma"),
            ):
                for what, values in measure(browser, address, name, fragment).items():
                    middle, high = np.percentile(values, [50, 90])
                    print(f"{title:22} {what:5} median {middle:6.1f} ms, 90 % {high:6.1f} ms, n {len(values)}")


if __name__ == "__main__":
    main()
