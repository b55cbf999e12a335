"""What a backend is: it brings models up, hands out clients, and takes models down again.

`deploy` and `remove` may be called from any process of a cluster, and twice: a model that is up is not started again, one
that is gone is not an error. `serve` is both around a block.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from serving.client import CompletionClient, RequestPolicy
from serving.messages import ServingSpec
from serving.models import Endpoint, Placement, ServedModel


class Backend(ServingSpec):
    """A way to serve models."""

    kind: str
    """Name of the backend: the name of its file."""

    def deploy(self, model: ServedModel, placement: Placement) -> Endpoint:
        """Bring a model up and wait until it answers.

        Raises:
            ServingInputError: the model cannot be served here.
            DeploymentFailed: it did not come up in time.
        """
        raise NotImplementedError

    def client(self, endpoint: Endpoint, policy: RequestPolicy | None = None) -> CompletionClient:
        """A client of a model that is up; make it in the event loop's process, it does not pickle."""
        raise NotImplementedError

    def remove(self, endpoint: Endpoint) -> None:
        """Take a model down; returns when its processes are gone."""
        raise NotImplementedError

    @contextmanager
    def serve(
        self, models: Sequence[ServedModel], placement: Placement | None = None
    ) -> Iterator[dict[str, Endpoint]]:
        """Models that are up inside the block.

        Args:
            models: what to serve; their names differ.
            placement: where and how, the same for each.

        Yields:
            Endpoints by model name.
        """
        endpoints: dict[str, Endpoint] = {}
        try:
            for model in models:
                endpoints[model.name] = self.deploy(model, placement or Placement())
            yield endpoints
        finally:
            for endpoint in endpoints.values():
                self.remove(endpoint)
