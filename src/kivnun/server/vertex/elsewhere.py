"""What Vertex AI has and this server has not, at Google's addresses: told with what to write instead.

A tuned model needs no deployment here: it answers at its endpoint as soon as its job is done, and in one shape.
"""

from fastapi import APIRouter

from kivnun.server.errors import ApiError
from kivnun.server.vertex.errors import GoogleRoute

METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]
TUNE = (
    "Tune with google-genai: client.tunings.tune(base_model=..., training_dataset=types.TuningDataset("
    "gcs_uri='gs://...'), config=types.CreateTuningJobConfig(epoch_count=3)), then client.tunings.get(name=job.name)."
)
ASK = (
    "A tuned model answers as soon as its job is done, without being deployed: "
    "client.models.generate_content(model=job.tuned_model.endpoint, contents='...')."
)
DELETE = (
    "A tuned model is deleted under the name that GET /v1/models lists: DELETE /v1/models/ft:..., in OpenAI's library "
    "client.models.delete(...)."
)
router = APIRouter(prefix="/projects/{project}/locations/{location}", route_class=GoogleRoute, include_in_schema=False)


@router.api_route("/pipelineJobs", methods=METHODS)
@router.api_route("/pipelineJobs/{rest:path}", methods=METHODS)
def tell_how_to_tune() -> None:
    """Pipelines, by which Google's earlier library tuned."""
    raise ApiError(404, f"There are no pipelines here. {TUNE}")


@router.api_route("/models", methods=METHODS)
@router.api_route("/models/{rest:path}", methods=METHODS)
def tell_of_models() -> None:
    """The models of a place, which Google's library uploads, deploys and deletes."""
    raise ApiError(404, f"Models are no resources of Vertex AI here. {ASK} {DELETE}")


@router.api_route("/endpoints", methods=METHODS)
@router.api_route("/endpoints/{rest:path}", methods=METHODS)
@router.api_route("/publishers/{rest:path}", methods=METHODS)
def tell_how_to_ask() -> None:
    """Endpoints that are made, asked with `predict`, or deleted."""
    raise ApiError(404, f"Endpoints are not made, deleted or asked with `predict` here. {ASK} {DELETE}")
