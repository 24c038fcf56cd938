"""What Azure has and this server has not: deployments, told with what to write instead."""

from fastapi import APIRouter

from kivnun.server.errors import ApiError
from kivnun.server.model_names import HOW_TO_ASK_A_TUNED_MODEL

METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]
router = APIRouter(include_in_schema=False)


@router.api_route("/openai/deployments", methods=METHODS)
@router.api_route("/openai/deployments/{rest:path}", methods=METHODS)
@router.api_route("/subscriptions/{rest:path}", methods=METHODS)
def tell_of_deployments() -> None:
    """Deployments, which Azure's management makes of models."""
    raise ApiError(404, f"Deployments are not made here: a model answers without one. {HOW_TO_ASK_A_TUNED_MODEL}")
