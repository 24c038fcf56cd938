"""Sending a job to an Azure Machine Learning workspace, through Azure's own client library."""

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kivnun.azure.job import JOB_NAME, AzureJob
from kivnun.errors import UserError
from kivnun.recipe.where import AzureMlSection

if TYPE_CHECKING:
    from azure.ai.ml import MLClient


@dataclass(frozen=True)
class SubmittedJob:
    """A job that the workspace has taken.

    Attributes:
        name: Its name in the workspace.
        status: As the workspace says it.
        studio_url: Where it can be watched; None where the workspace does not say.
    """

    name: str
    status: str
    studio_url: str | None


def submit(job: AzureJob, where: AzureMlSection) -> SubmittedJob:
    """Send a job; what is written in its folder is what runs.

    Args:
        job: From `write_job`.
        where: The recipe's `where` section.

    Raises:
        UserError: `dependency-missing` without the extra `azureml`; `azure-credentials` where nobody is signed in;
            `azure-failed` where the workspace refuses.
    """
    try:
        from azure.ai.ml import MLClient, load_job  # noqa: PLC0415 - an extra
        from azure.core.exceptions import AzureError  # noqa: PLC0415
        from azure.identity import CredentialUnavailableError, DefaultAzureCredential  # noqa: PLC0415
    except ImportError as error:
        hint = f"install it: pip install 'kivnun[azureml]'; or send {job.folder / JOB_NAME} with `az ml job create`"
        raise UserError("dependency-missing", "azure-ai-ml is not installed", hint=hint) from error
    credential = DefaultAzureCredential(logging_enable=False)
    # The library logs each way to sign in that it tried; the error below says what matters.
    logging.getLogger("azure").setLevel(logging.CRITICAL)
    names = (where.subscription_id, where.resource_group, where.workspace_name)
    try:
        client = MLClient(credential, *names, enable_telemetry=False, show_progress=False)
        credential.get_token(*client._kwargs.get("credential_scopes", ("https://management.azure.com/.default",)))
        return _send(client, load_job(job.folder / JOB_NAME))
    except CredentialUnavailableError as error:
        raise _no_credentials(job, str(error)) from error
    except AzureError as error:
        if type(error).__name__ == "ClientAuthenticationError":
            raise _no_credentials(job, str(error)) from error
        raise UserError(
            "azure-failed",
            f"the workspace {where.workspace_name} did not take the job: {_first_line(error)}",
            hint=f"the job is written in {job.folder}; mend what Azure names, and run the same command again",
        ) from error


def _send(client: "MLClient", specification: object) -> SubmittedJob:
    taken = client.jobs.create_or_update(specification)  # type: ignore[arg-type]
    return SubmittedJob(str(taken.name), str(getattr(taken.status, "value", taken.status)), taken.studio_url)


def _no_credentials(job: AzureJob, reason: str) -> UserError:
    return UserError(
        "azure-credentials",
        "nobody is signed in to Azure here, so that the job was written and not sent",
        hint=f"sign in with `az login`, or send {job.folder / JOB_NAME} with `az ml job create`",
        details=[_first_line(reason)],
    )


def _first_line(error: object) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
