"""What the server answers: each method is one kind of request."""

import contextlib
import math
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from fracgen.explore import augmented
from fracgen.explore.augmented import Augmenter
from fracgen.explore.building import RecipeBuilder, page_values
from fracgen.explore.drawing import category_of, draw_images
from fracgen.explore.folder_view import FolderView
from fracgen.explore.inputs import Inputs
from fracgen.explore.limits import MAX_IMAGES, check_pixels, describe_fields
from fracgen.explore.messages import (
    AugmentRequest,
    FolderImagesRequest,
    FolderRequest,
    ImagesRequest,
    InputRequest,
    Picture,
    RenderRequest,
    Reply,
    Request,
    ResolveRequest,
    SweepRequest,
)
from fracgen.explore.turns import Ticket, Turns
from fracgen.onepfrac import OnePFrac
from fracgen.recipe import Recipe
from fracgen.registry import RECIPES, to_dict
from fracgen.shards.errors import FracgenError, UsageError
from fracgen.shards.files import num_cores
from fracgen.shards.versions import version_of
from fracgen.style import fill_rate
from fracgen.sweep import MAX_VALUES, base_number, check_sweep, sweep_cells, sweep_sheet
from fracgen.vetting import PROBES

MAX_AT_WORK = 4
"""Requests that are worked on at a time: each may hold the memory of a few images. The others wait."""
SHEET_TILE = 384
"""Pixels of a tile, as `fracgen preview` has them."""


class Explorer:
    """A session: what the command gave, and what it does for the page."""

    def __init__(self, inputs: Inputs, place: Path, augmenter: Augmenter | None = None) -> None:
        """place: the folder in which sets are written. augmenter: None where training is not installed."""
        self.inputs, self.place, self._augmenter = inputs, place, augmenter
        self._builder = RecipeBuilder(inputs.categories, inputs.photographs)
        self._builder.keep(inputs.recipe)
        self._pool = ThreadPoolExecutor(num_cores(), thread_name_prefix="drawing")
        self._turns, self._at_work = Turns(), threading.BoundedSemaphore(MAX_AT_WORK)
        self._job: Any = None
        self._job_lock = threading.Lock()
        self.routes: Mapping[str, Callable[[bytes], Reply]] = {
            "resolve": self.resolve,
            "images": self.images,
            "sweep": self.sweep,
            "sweep.png": self.sweep_png,
            "augmented": self.augmented,
            "folder": self.list_folder,
            "folder/images": self.folder_images,
            "input": self.input_file,
            "render": self.render,
            "render/status": self.render_status,
            "render/cancel": self.render_cancel,
        }

    def session(self) -> Reply:
        """What the page begins with."""
        recipes = [name for name in RECIPES if name != "photo" or self.inputs.photographs is not None]
        return Reply.of_json(
            {
                "version": version_of("fracgen"),
                "recipes": recipes,
                "recipe": page_values(self.inputs.recipe),
                "fields": {name: describe_fields(RECIPES[name]) for name in recipes},
                "extras": {
                    "photo": self.inputs.photographs is not None,
                    "train": self._augmenter is not None,
                },
                "folder": self.inputs.folder.describe() if self.inputs.folder is not None else None,
                "base": self.inputs.base,
                "working_folder": self.place.resolve().name,
                "limits": {"images": MAX_IMAGES, "values": MAX_VALUES},
                "probes": PROBES,
                "augment": self._augmenter.describe() if self._augmenter is not None else None,
                "note": self.inputs.note,
            }
        )

    def warm_up(self) -> None:
        """Load the kernels and resolve the recipe to begin with, so that the first picture need not wait for it."""
        from fracgen.explore import resolution

        with contextlib.suppress(FracgenError):  # the page will be told
            resolution.resolve(
                ResolveRequest(recipe=to_dict(self.inputs.recipe)), self._builder, self._turns.take("", "", 0)
            )

    def resolve(self, body: bytes) -> Reply:
        """Resolve a recipe."""
        from fracgen.explore import resolution

        request = ResolveRequest.parse(body)
        with self._working(request) as ticket:
            resolved = resolution.resolve(request, self._builder, ticket)
            self._builder.keep(resolved.recipe)
            return Reply.of_json(resolution.describe(resolved, request, self.inputs))

    def images(self, body: bytes) -> Reply:
        """Draw images of a resolved recipe."""
        request = ImagesRequest.parse(body)
        with self._working(request) as ticket:
            recipe = self._builder.build(request.recipe)
            return Reply.of_pictures(draw_images(request, recipe, self._builder, self._pool, ticket))

    def sweep(self, body: bytes) -> Reply:
        """Draw one image for each combination of some fields' values."""
        request, pictures = SweepRequest.parse(body), list[Picture]()
        with self._working(request) as ticket:
            recipe, base = self._swept(request, ticket)
            check_pixels(recipe, math.prod(map(len, check_sweep(recipe, request.sweep).values())))
            for cell in sweep_cells(recipe, request.sweep, index=request.index, base=base):
                ticket.check()
                shown = {"caption": cell.caption, "values": dict(cell.values), "recipe": page_values(cell.recipe)}
                values = {"index": request.index, "fill": fill_rate(cell.image), **shown}
                pictures.append(Picture(cell.image, values | ({"rejected": cell.error} if cell.error else {})))
        return Reply.of_pictures(pictures)

    def sweep_png(self, body: bytes) -> Reply:
        """The sheet that `fracgen preview --sweep` writes."""
        request = SweepRequest.parse(body)
        with self._working(request) as ticket:
            recipe, base = self._swept(request, ticket)
            sheet = sweep_sheet(recipe, request.sweep, index=request.index, base=base, tile=SHEET_TILE)
        return Reply(sheet, "image/png")

    def _swept(self, request: SweepRequest, ticket: Ticket) -> tuple[Recipe, int | None]:
        """The recipe of a sweep, resolved as far as its image needs it, and the number of its base fractal."""
        from fracgen.explore.bases import find_base, find_several

        recipe = self._builder.build(request.recipe)
        if isinstance(recipe, OnePFrac) and recipe.ifs is None and recipe.bases > 1:
            recipe, provenance = find_several(recipe, ticket)
            return recipe, base_number(recipe, recipe.check_index(request.index), provenance)
        if isinstance(recipe, OnePFrac) and recipe.ifs is None:
            base = find_base(recipe, ticket)
            return base.recipe, base.number
        return self._builder.drawable(recipe, category_of(recipe, request.index)), request.base

    def augmented(self, body: bytes) -> Reply:
        """Draw images of a recipe, or of the folder, as a network sees them."""
        request = AugmentRequest.parse(body)
        if self._augmenter is None:
            raise UsageError(augmented.MISSING)
        with self._working(request) as ticket:
            if request.recipe is None:
                images = augmented.images_of_folder(self._folder(), request.indices)
            else:
                recipe = self._builder.build(request.recipe)
                check_pixels(recipe, len(request.indices))
                recipe = self._builder.drawable(recipe, max(category_of(recipe, index) for index in request.indices))
                images = augmented.images_of_recipe(recipe, request.indices)
            return Reply.of_pictures(augmented.draw_views(request, images, self._augmenter, ticket))

    def list_folder(self, body: bytes) -> Reply:
        """List samples of the folder."""
        request = FolderRequest.parse(body)
        with self._working(request):
            return Reply.of_json(self._folder().list_samples(request))

    def folder_images(self, body: bytes) -> Reply:
        """Read images of the folder."""
        request = FolderImagesRequest.parse(body)
        with self._working(request) as ticket:
            return Reply.of_pictures(self._folder().draw(request, self._pool, ticket))

    def _folder(self) -> FolderView:
        if self.inputs.folder is None:
            raise UsageError("the command was given no folder")
        return self.inputs.folder

    def input_file(self, body: bytes) -> Reply:
        """A file that a recipe needs beside it."""
        request = InputRequest.parse(body)
        return Reply(self.inputs.read_file(request.name), "application/octet-stream")

    def render(self, body: bytes) -> Reply:
        """Begin to render the set of a recipe."""
        from fracgen.explore import resolution

        request = RenderRequest.parse(body)
        with self._working(request) as ticket:
            resolved = resolution.resolve(ResolveRequest(recipe=request.recipe), self._builder, ticket)
        if resolved.search is not None:
            raise UsageError("the categories are still being searched")
        if resolved.reason:
            raise UsageError(resolved.reason)
        return Reply.of_json(self._render_job().start(resolved.recipe, resolved.provenance))

    def render_status(self, body: bytes) -> Reply:
        """How far the set is that is being rendered."""
        return Reply.of_json(self._render_job().status())

    def render_cancel(self, body: bytes) -> Reply:
        """Stop rendering."""
        return Reply.of_json(self._render_job().cancel())

    def close(self) -> str:
        """Stop all work: the folder of a set that is not finished, or ""."""
        self._builder.stop()
        self._pool.shutdown(cancel_futures=True)
        return self._job.stop() if self._job is not None else ""

    def _render_job(self) -> Any:
        from fracgen.explore.render_job import RenderJob

        with self._job_lock:
            self._job = self._job or RenderJob(self.place)
        return self._job

    @contextlib.contextmanager
    def _working(self, request: Request) -> Iterator[Ticket]:
        """The ticket of a request, once fewer than 4 others are worked on; given up where a newer one comes before."""
        ticket = self._turns.take(request.client, request.channel, request.turn)
        while not self._at_work.acquire(timeout=0.02):
            ticket.check()
        try:
            yield ticket
        finally:
            self._at_work.release()
