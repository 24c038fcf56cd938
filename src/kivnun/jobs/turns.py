"""Whose turn it is: projects take turns, so that one that asks for a hundred jobs keeps nobody waiting for all of them.

The next job is the oldest of the project with the fewest jobs under way; among equals, of the project whose last job
began longest ago, without which the only worker of a server would find nothing to compare.
"""

from sqlalchemy import ColumnElement, Select, func, select

from kivnun.database.tables import FineTuningJob

RECENT_JOBS = 10_000
"""Whoever began none of the latest so many jobs counts as one who never did: an old database is not read whole."""


def in_turn(waiting: ColumnElement[bool], under_way: ColumnElement[bool], limit: int) -> Select[FineTuningJob]:
    """The jobs that wait, in the order in which they may begin.

    A project's second job that waits counts as if the first were under way already, so that the list is fair however
    much of it is taken.

    Args:
        waiting: Which jobs wait.
        under_way: Which jobs their projects have already.
        limit: Most jobs.
    """
    jobs = FineTuningJob
    place = func.row_number().over(partition_by=jobs.project_id, order_by=jobs.number)
    queue = select(jobs.number, jobs.project_id, place.label("place")).where(waiting).subquery()
    busy = select(jobs.project_id, func.count().label("count")).where(under_way).group_by(jobs.project_id).subquery()
    oldest = select(func.max(jobs.number) - RECENT_JOBS).scalar_subquery()
    began = (
        select(jobs.project_id, func.max(jobs.started_at).label("at"))
        .where(jobs.number > oldest, jobs.started_at.is_not(None))
        .group_by(jobs.project_id)
        .subquery()
    )
    return (
        select(jobs)
        .join(queue, queue.c.number == jobs.number)
        .outerjoin(busy, busy.c.project_id == queue.c.project_id)
        .outerjoin(began, began.c.project_id == queue.c.project_id)
        .order_by(queue.c.place + func.coalesce(busy.c.count, 0), func.coalesce(began.c.at, 0), jobs.number)
        .limit(limit)
    )
