"""Where and how a sweep runs: the `[runtime]` table of a sweep file. It changes no number.

`Runtime` says where results go and which cluster computes, `TrainResources` what a training gang
takes; served models are placed by `serving.models.Placement`.
"""

from typing import Literal, Self

from pydantic import Field, JsonValue, ValidationError, field_validator, model_validator

from serving.models import Placement
from w2s.redaction import has_secret
from w2s.spec import Spec, describe

AUTOSCALING = frozenset({"min_replicas", "max_replicas", "target_ongoing_requests"})
"""Fields of a placement that exclude `num_replicas`."""


class TrainResources(Spec):
    """What a training gang takes."""

    num_workers: int = Field(default=1, ge=1)
    """Data-parallel workers of a gang."""
    cpus_per_worker: float = Field(default=1.0, gt=0)
    """CPUs that Ray sets aside for a worker."""
    gpus_per_worker: float | None = Field(default=None, ge=0)
    """GPUs of a worker; None: one where the cluster has GPUs, else none."""
    threads_per_worker: int = Field(default=1, ge=1)
    """OpenMP threads of a worker."""
    micro_batch_size: int | None = Field(default=None, ge=1)
    """Examples a forward pass at most; None: the whole update."""
    micro_batch_tokens: int | None = Field(default=None, ge=1)
    """Tokens of a forward pass of training at most, padding included; None: no limit but that."""
    sharding: Literal["replicate", "shard"] = "replicate"
    """Whether each worker of a gang holds the whole model, or a part of its weights, gradients and
    optimizer state (FSDP2), for models that are too large for one. Pretraining always
    replicates."""
    compile: bool = False
    """Whether blocks are compiled by `torch.compile`: a minute at the first stage of a worker, then
    faster on GPUs."""
    activation_checkpointing: bool = False
    """Whether a block keeps its input alone for the backward pass and computes the rest again."""
    max_gangs: int | None = Field(default=None, ge=1)
    """Gangs at the same time; None: what the cluster holds."""
    checkpoint_s: float = Field(default=60.0, gt=0)
    """Seconds of training between two checkpoints, from which a stage goes on that was cut off; a
    shorter training writes none."""

    @model_validator(mode="after")
    def _shared_out_over_several(self) -> Self:
        if self.sharding == "shard" and self.num_workers == 1:
            raise ValueError(
                'sharding = "shard" shares a model out over workers; set num_workers to 2 or more, '
                "found 1"
            )
        return self


class Runtime(Spec):
    """Where and how a sweep runs; nothing here changes a number."""

    store: str = "w2s_store"
    """Folder or URL (s3://, gs://) of the artifact store."""
    tracking_uri: str = "sqlite:///mlflow.db"
    """MLflow: SQLite file, or URL of a server."""
    address: str | None = None
    """Ray cluster to join; None: `RAY_ADDRESS`, or a local one is started."""
    max_concurrent_trials: int | None = Field(default=None, ge=1)
    """Trials at the same time; None: as many as gangs fit, twice that with a search or a scheduler,
    2 to 16."""
    report_dir: str = "reports"
    """Folder in which `w2s report` writes."""
    report_transcripts: int = Field(default=200, ge=0)
    """Transcripts that the report keeps to be read, of each method on each task and pair."""
    data_root: str | None = None
    """Folder under which relative data paths are looked up first; None: as they are."""
    retries: int = Field(default=2, ge=0)
    """Further attempts at a stage whose process died or whose error may go away by itself: a hub or
    served model that does not answer, a full memory. Other errors fail the stage at once."""
    stage_timeout_s: float | None = Field(default=None, gt=0)
    """Seconds a stage may take; None: as long as it likes. One that makes progress fails then, and
    goes on from its last checkpoint in the next run; one that hangs is tried again."""
    train: TrainResources = TrainResources()
    """Training gangs."""
    serve: Placement = Placement()
    """Served models."""
    serve_models: dict[str, dict[str, JsonValue]] = Field(default_factory=dict)
    """Fields of `serve` that differ for a rung or speaker, by its name."""
    completions_cache: str | None = None
    """Folder for what speakers behind a URL have answered and spent; None: `.completions` in the
    store, or in a cache folder of the machine where the store is a URL."""

    @field_validator("store")
    @classmethod
    def _store_without_secret(cls, store: str) -> str:
        if has_secret(store):
            raise ValueError(
                "a URL with credentials would be in every log; give the URL alone, and the "
                "credentials as its file system wants them (AWS_ACCESS_KEY_ID, ...)"
            )
        return store

    @model_validator(mode="after")
    def _placements_are_whole(self) -> Self:
        for name in self.serve_models:
            self.placement_of(name)
        return self

    def placement_of(self, name: str) -> Placement:
        """Where and how the served model of a rung or speaker runs."""
        change = self.serve_models.get(name, {})
        if not change:
            return self.serve
        table = {field: getattr(self.serve, field) for field in self.serve.model_fields_set}
        # A fixed number of replicas and autoscaling exclude each other: what is said last holds.
        for field in AUTOSCALING if "num_replicas" in change else ():
            table.pop(field, None)
        if AUTOSCALING & change.keys():
            table.pop("num_replicas", None)
        try:
            return Placement.model_validate({**table, **change})
        except ValidationError as error:
            where = f"serve_models.{name}."
            raise ValueError("; ".join(describe(error, Placement, where))) from error
