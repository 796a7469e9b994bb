"""What the server answers: each method is one kind of request."""

import contextlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fracgen.explore.building import RecipeBuilder
from fracgen.explore.category_search import CategorySource
from fracgen.explore.inputs import Inputs
from fracgen.explore.limits import MAX_IMAGES, MAX_VALUES, describe_fields
from fracgen.explore.messages import ImagesRequest, RenderRequest, Reply, Request, ResolveRequest
from fracgen.explore.turns import Turns
from fracgen.registry import RECIPES, to_dict
from fracgen.shards.errors import UsageError
from fracgen.shards.files import num_cores


class Explorer:
    """A session: what the command gave, and what it does for the page."""

    def __init__(self, inputs: Inputs, place: Path) -> None:
        """place: the folder in which sets are written."""
        self.inputs, self.place = inputs, place
        self._categories = CategorySource(inputs.categories)
        self._builder = RecipeBuilder(self._categories, inputs.photographs)
        self._pool = ThreadPoolExecutor(num_cores(), thread_name_prefix="drawing")
        self._turns = Turns()
        self._job: Any = None
        self.routes: Mapping[str, Callable[[bytes], Reply]] = {
            "resolve": self.resolve,
            "images": self.images,
            "render": self.render,
            "render/status": self.render_status,
            "render/cancel": self.render_cancel,
        }

    def session(self) -> Reply:
        """What the page begins with."""
        recipes = [name for name in RECIPES if name != "photo" or self.inputs.photographs is not None]
        values = to_dict(self.inputs.recipe)
        return Reply.of_json(
            {
                "version": metadata.version("fracgen"),
                "recipes": recipes,
                "recipe": {name: value for name, value in values.items() if name not in ("systems", "photographs")},
                "fields": {name: describe_fields(RECIPES[name]) for name in recipes},
                "extras": {
                    "photo": self.inputs.photographs is not None,
                    "train": all(find_spec(library) is not None for library in ("torch", "timm")),
                },
                "folder": None,
                "working_folder": self.place.resolve().name,
                "limits": {"images": MAX_IMAGES, "values": MAX_VALUES},
                "augment": None,
                "note": self.inputs.note,
            }
        )

    def warm_up(self) -> None:
        """Load the kernels and resolve the recipe to begin with, so that the first picture need not wait for it."""
        from fracgen.explore import resolution

        with contextlib.suppress(UsageError):
            resolution.resolve(
                ResolveRequest(recipe=to_dict(self.inputs.recipe)), self._builder, self._turns.take("", "", 0)
            )

    def resolve(self, body: bytes) -> Reply:
        """Resolve a recipe."""
        from fracgen.explore import resolution

        request = ResolveRequest.parse(body)
        resolved = resolution.resolve(request, self._builder, self._ticket(request))
        values = resolution.describe(resolved, request, self.inputs)
        self._builder.keep(resolved.recipe, values["recipe"])
        return Reply.of_json(values)

    def images(self, body: bytes) -> Reply:
        """Draw images of a resolved recipe."""
        from fracgen.explore.drawing import draw_images

        request = ImagesRequest.parse(body)
        ticket = self._ticket(request)
        recipe = self._builder.build(request.recipe)
        return Reply.of_pictures(draw_images(request, recipe, self._builder, self._pool, ticket))

    def render(self, body: bytes) -> Reply:
        """Begin to render the set of a recipe."""
        from fracgen.explore import resolution

        request = RenderRequest.parse(body)
        resolve_request = ResolveRequest(recipe=request.recipe)
        resolved = resolution.resolve(resolve_request, self._builder, self._ticket(request))
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
        self._categories.stop()
        self._pool.shutdown(cancel_futures=True)
        return self._job.stop() if self._job is not None else ""

    def _render_job(self) -> Any:
        from fracgen.explore.render_job import RenderJob

        if self._job is None:
            self._job = RenderJob(self.place)
        return self._job

    def _ticket(self, request: Request) -> Any:
        return self._turns.take(request.client, request.channel, request.turn)
