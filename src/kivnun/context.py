"""What every stage of a run gets, and how a stage's folder is made once and found afterwards."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from kivnun.inputs import RunInputs
from kivnun.recipe.schema import Recipe
from kivnun.runs import Run, library_versions, stage_done, stage_key, write_stage
from kivnun.runs.replaced import changed_inputs, keep_copy
from kivnun.training.joined import BY_ITSELF, Joined

Log = Callable[[str, Mapping[str, object]], None]

EARLIER_MODEL = "earlier/model"
"""Where the model of the recipe before is kept when another one takes its place."""

TRAINED_STAGE = "model"
"""The stage that all processes of a training take part in."""


@dataclass(frozen=True)
class Context:
    """What every stage gets.

    Attributes:
        run: The run folder, held by this process.
        inputs: The recipe and its data files.
        log: Takes every event; it is kept in `events.jsonl` and shown.
        joined: This process among those that train together.
    """

    run: Run
    inputs: RunInputs
    log: Log
    joined: Joined = BY_ITSELF

    @property
    def recipe(self) -> Recipe:
        """What to do."""
        return self.inputs.recipe

    def stage(
        self, name: str, inputs: Mapping[str, object], make: Callable[[Path], None], *, parents: tuple[str, ...] = ()
    ) -> Path:
        """The finished folder of a stage: made now, or found made from the same inputs.

        Of several processes the first one makes it; the others wait, and take part in the training.
        """
        inputs = {**inputs, "versions": library_versions()}
        key = stage_key(inputs)
        folder, notices = self.run.folder / name, self.joined.notices
        if not self.joined.parallel.leads:
            if not notices.wait_for(name, key):
                if name == TRAINED_STAGE:
                    make(folder)
                else:
                    notices.wait_for_end(name)
            return folder
        is_done = stage_done(self.run.folder, name, key)
        notices.begin(name, key, is_done=is_done)
        if is_done:
            self.log("stage_skipped", {"stage": name})
        else:
            self.log("stage_started", {"stage": name})
            if name == TRAINED_STAGE and folder.is_dir():
                self.log("model_replaced", {"changed": changed_inputs(folder, inputs), "kept": EARLIER_MODEL})
                keep_copy(folder, self.run.folder / EARLIER_MODEL)
            with write_stage(self.run.folder, name, kind=name, key=key, inputs=inputs, parents=parents) as partial:
                make(partial)
            self.log("stage_finished", {"stage": name})
        notices.finish(name)
        return folder
