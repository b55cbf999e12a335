"""Asking a classifier: the texts of a request in and out of arrays, and the HTTP route.

    POST {root}/classify  {"model": "teacher", "input": ["a text", "another"]}
    -> {"object": "list", "model": "teacher", "data": [{"index": 0, "probs": [0.9, 0.1], ...}]}

The answer has the form of vLLM's own classify route. Where the head chooses among whole texts, each
input is a list of them.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from serving.client import Probabilities, Text
from serving.errors import ServingInputError
from serving.heads import Head
from serving.messages import ServingSpec
from serving.models import Adapter

if TYPE_CHECKING:
    from fastapi import FastAPI

CLASSIFY_ROUTE = "/classify"

Classify = Callable[[Adapter | None, Sequence[Text]], Awaitable[list[Probabilities]]]


class ClassifyRequest(ServingSpec, frozen=True):
    """Body of a request to the classify route."""

    model: str = ""
    """Name of the model or of one of its adapters; empty: the first there is."""
    input: str | tuple[Text, ...]
    """One text or several; where the head chooses among texts, a list of them each."""


def flat_texts(texts: Sequence[Text], head: Head) -> list[str]:
    """The texts that a head reads, one after the other.

    Raises:
        ServingInputError: single texts for a head that chooses among several, or the other way.
    """
    if head.options:
        wrong = next((t for t in texts if isinstance(t, str) or len(t) != head.options), None)
        if wrong is not None:
            found = "one text" if isinstance(wrong, str) else f"{len(wrong)} texts"
            raise ServingInputError(
                f"the classifier chooses among {head.options} texts; found {found}: "
                f"{str(wrong)[:80]!r}"
            )
        return [option for text in texts for option in text]
    several = next((text for text in texts if not isinstance(text, str)), None)
    if several is not None:
        raise ServingInputError(f"the classifier reads single texts; found {len(several)} in one")
    return [str(text) for text in texts]


def split(probabilities_NC: NDArray[np.float64]) -> list[Probabilities]:
    """Rows of an array as tuples."""
    return [tuple(map(float, row)) for row in probabilities_NC]


def add_classify_route(
    app: "FastAPI", known: Mapping[str, Adapter | None], classify: Classify
) -> None:
    """Put the classify route before all other routes of an app.

    Args:
        app: the app of a replica.
        known: adapter by the name that a request gives; the model itself has none.
        classify: a replica's `classify_batch`.
    """
    from fastapi import Request
    from fastapi.responses import JSONResponse
    from pydantic import ValidationError

    async def route(request: Request) -> JSONResponse:
        try:
            body = ClassifyRequest.model_validate(await request.json())
        except (ValidationError, ValueError) as error:
            return _refused(400, f"send {{'model': name, 'input': [texts]}}: {error}")
        name = body.model or next(iter(known))
        if name not in known:
            return _refused(404, f"no model {name!r} here; models: {', '.join(known)}")
        texts = (body.input,) if isinstance(body.input, str) else body.input
        try:
            found = await classify(known[name], texts)
        except ServingInputError as error:
            return _refused(400, str(error))
        data = [
            {"index": index, "probs": probabilities, "num_classes": len(probabilities)}
            for index, probabilities in enumerate(found)
        ]
        return JSONResponse({"object": "list", "model": name, "data": data})

    def _refused(status: int, message: str) -> JSONResponse:
        error: dict[str, Any] = {"message": message, "type": "invalid_request_error"}
        return JSONResponse({"error": {**error, "code": status}}, status_code=status)

    app.add_api_route(CLASSIFY_ROUTE, route, methods=["POST"])
    app.router.routes.insert(0, app.router.routes.pop())
