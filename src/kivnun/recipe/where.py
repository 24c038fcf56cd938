"""The `where` section: the machine that a run is computed on, where it is not this one."""

from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag

from kivnun.recipe.values import PositiveWhole, Section, Text, tag_kind


class AzureMlSection(Section):
    """A job in an Azure Machine Learning workspace: its specification is written out, and sent where you may."""

    kind: Literal["azureml"] = "azureml"
    """Azure Machine Learning."""
    subscription_id: Text
    """The subscription that the workspace belongs to."""
    resource_group: Text
    """The workspace's resource group."""
    workspace_name: Text
    """The workspace."""
    compute: Text
    """Name of the compute cluster that the job runs on."""
    image: Text | None = None
    """Docker image of the environment; a plain Ubuntu one of Azure's if not given."""
    conda_file: Text | None = None
    """Conda file of the environment; one that installs this Kivnun if not given."""
    instance_count: PositiveWhole = 1
    """Number of machines."""
    inputs: dict[Text, Text] = Field(default={})
    """Data and models by the path that the recipe names them with, such as \
`data/train.json: azureml://datastores/workspaceblobstore/paths/train.json`; files that lie here are uploaded."""


Where = Annotated[Annotated[AzureMlSection, Tag("<azureml>")], Discriminator(tag_kind)]
"""A machine elsewhere, chosen by `kind`."""
