"""What the groups of an Olive file tell each other: where the run is computed, what is exported, what is searched."""

from dataclasses import dataclass, field

from kivnun.olive.groups import Rule, never, open_group
from kivnun.olive.translation import Draft, Meaning

CLIENT_FIELDS = ("subscription_id", "resource_group", "workspace_name")


@dataclass
class Facts:
    """What is known of an Olive file beside the group that is read.

    Attributes:
        is_azure: Whether the run is computed on Azure.
        exports: Whether a pass exports the model.
        inputs: Azure's addresses by the path that the recipe names them with.
        input_key: The key that gave the first of them.
    """

    is_azure: bool = False
    exports: bool = False
    inputs: dict[str, str] = field(default_factory=dict[str, str])
    input_key: str = ""

    def add_input(self, key: str, path: str, address: str) -> None:
        """Note what Azure must give the job."""
        self.inputs[path] = address
        self.input_key = self.input_key or key


def take_client(draft: Draft, key: str, value: object, facts: Facts) -> None:
    """The workspace, in `azureml_client`, which each data store may repeat."""
    group = open_group(draft, key, value)
    if group is None:
        return
    if not facts.is_azure:
        draft.refuse(key, "has no effect: no AzureML system is the host; name one in engine.host, or remove it")
        return
    group.take({name: _where(name) for name in CLIENT_FIELDS} | _CLIENT_REFUSED, "azureml_client")


def _where(name: str) -> Rule:
    return lambda value: Meaning("renamed", {f"where.{name}": value})


_CLIENT_REFUSED: dict[str, Rule] = {
    "aml_config_path": never(f"write {', '.join(CLIENT_FIELDS)} from that file instead"),
    "default_auth_params": never("credentials are azure-identity's to find; remove it"),
    "keyvault_name": never("a token belongs in HF_TOKEN and in no vault here; remove it"),
    "read_timeout": never("cannot be chosen; remove it"),
    "max_operation_retries": never("cannot be chosen; remove it"),
    "operation_retry_interval": never("cannot be chosen; remove it"),
}
