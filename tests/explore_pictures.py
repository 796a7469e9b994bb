"""Pictures of the page of `fracgen explore`, as PNGs of 256 colours: `python tests/explore_pictures.py FOLDER`."""

import io
import sys
import tempfile
from pathlib import Path

from explore_browser import Tab, browsing, served
from PIL import Image

from fracgen.onepfrac import OnePFrac
from fracgen.registry import save_recipe

STATE = "recipe=1p-frac&sigma=4.2&maps=3&seed=12&v.frames=true&v.bright=true"
PICTURES = {  # name: window, colours, tab
    "explorer": ((1280, 800), "light", "explore"),
    "explorer-dark": ((1280, 800), "dark", "maps"),
    "explorer-phone": ((390, 844), "light", "explore"),
}


def main(folder: Path) -> None:
    """Write the pictures into `folder`."""
    with tempfile.TemporaryDirectory() as place:
        recipe = Path(place) / "recipe.yaml"
        save_recipe(OnePFrac(), recipe)
        with served(recipe, Path(place)) as address, browsing() as browser:
            for name, (size, scheme, view) in PICTURES.items():
                tab = Tab(browser, address, color_scheme=scheme)
                tab.page.set_viewport_size({"width": size[0], "height": size[1]})
                tab.open(f"{STATE}&v.tab={view}")
                picture = Image.open(io.BytesIO(tab.page.screenshot()))
                picture.convert("RGB").quantize(256).save(folder / f"{name}.png", optimize=True)
                tab.context.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
