"""What a backend is: it brings models up, hands out clients, and takes models down again.

`deploy` and `remove` may be called from any process of a cluster, and twice: a model that is up is
not started again, one that is gone is not an error. `serve` is both around a block.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from serving.client import CompletionClient, RequestPolicy
from serving.messages import ServingSpec
from serving.models import Endpoint, Placement, ServedModel


class Backend(ServingSpec, frozen=True):
    """A way to serve models."""

    kind: str
    """Name of the backend: the name of its file."""

    def deploy_all(
        self, models: Sequence[ServedModel], placement: Placement
    ) -> dict[str, Endpoint]:
        """Bring models up beside each other and wait until each of them answers.

        Args:
            models: what to serve; their names differ.
            placement: where and how, the same for each.

        Returns:
            Endpoints by model name.

        Raises:
            ServingInputError: a model cannot be served here; none was started.
            DeploymentFailed: one did not come up in time; it was taken down, the others may be up.
        """
        raise NotImplementedError

    def deploy(self, model: ServedModel, placement: Placement) -> Endpoint:
        """Bring one model up and wait until it answers; see `deploy_all`."""
        return self.deploy_all([model], placement)[model.name]

    def client(self, endpoint: Endpoint, policy: RequestPolicy | None = None) -> CompletionClient:
        """A client of a model that is up; it belongs to the event loop it is first used in."""
        raise NotImplementedError

    def remove(self, endpoint: Endpoint) -> None:
        """Take a model down; returns when its processes are gone."""
        raise NotImplementedError

    def clear(self) -> None:
        """Take down what a process that died had brought up under the same settings."""

    @contextmanager
    def serve(
        self, models: Sequence[ServedModel], placement: Placement
    ) -> Iterator[dict[str, Endpoint]]:
        """Models that are up inside the block, and gone after it; see `deploy_all`."""
        endpoints: dict[str, Endpoint] = {}
        try:
            endpoints = self.deploy_all(models, placement)
            yield endpoints
        finally:
            for endpoint in endpoints.values():
                self.remove(endpoint)
