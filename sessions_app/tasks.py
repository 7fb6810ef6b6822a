"""Upkeep, on the queue `background`. Each task may run many times at once."""

from celery import shared_task

from sessions_app.services import login_links, sessions


@shared_task(name="sessions_app.purge_deleted_sessions")
def purge_deleted_sessions() -> None:
    sessions.purge_deleted_sessions()


@shared_task(name="sessions_app.delete_expired_sessions")
def delete_expired_sessions() -> None:
    sessions.delete_expired_sessions()


@shared_task(name="sessions_app.purge_login_links")
def purge_login_links() -> None:
    login_links.purge_login_links()
