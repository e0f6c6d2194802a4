"""The named tasks, and the words in which a row of some data is asked."""

from zerothorder.data.local_tasks import LOCAL
from zerothorder.data.named import NamedTask
from zerothorder.data.paper_tasks import PAPER
from zerothorder.errors import UsageError, nearest

TASKS: dict[str, NamedTask] = {**LOCAL, **PAPER}
"""Name → task; a name wins over a file, a folder and a data set of the hub that is called so."""


def task_of(data: str) -> NamedTask | None:
    """The task that `--data` names, by itself or before the colon of NAME:FOLDER."""
    return TASKS.get(data.partition(":")[0])


def wording(
    data: str, objective: str, template: str | None = None, verbalizers: str | None = None, bare: bool = False
) -> tuple[str | None, str | None]:
    """(template, verbalizers) for some data: those given, else those of the task it names.

    The objective lm learns whole texts of tasks whose answers are verbalizers, so it has no template there. UsageError
    where `bare` has no task or a template against it, or the objective needs answers that the task has not.
    """
    task = task_of(data)
    if task is None:
        if bare:
            raise UsageError(
                f"--bare takes the wording off a named task, and {data!r} is none{nearest(data, TASKS)}; "
                "for other data give the template you want"
            )
        return template, verbalizers
    if bare and template is not None:
        raise UsageError("--bare and --template both say how to ask: give one of them")
    if objective == "classification" and task.generated and verbalizers is None:
        raise UsageError(f"{data} is answered in free text: give --objective metric (token F1) or --objective lm")
    if objective == "lm" and task.verbalizers is not None:
        return template, verbalizers
    return template or (task.bare if bare else task.template), verbalizers or task.verbalizers
