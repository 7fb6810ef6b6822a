"""A process that spends: `python -m tests.monitoring.spending SEED CALLS SESSION…` on the database of DATABASE_URL.

A thread for each session makes model calls as a worker does: reserves, takes its time, and settles, gives up, or is
lost and followed by another attempt under a new epoch.
"""

import os
import random
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import django

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "agentsite.settings")
    django.setup()

from django.db import close_old_connections

from monitoring.ledger import BudgetExceededError, ModelCall, Reserved, charge_lost, release, reserve
from sessions_app.models import AgentSession, Run, RunStatus, UsageRecord

MODELS = ["small", "large"]


def spend(seed: int, calls: int, session_id: uuid.UUID) -> None:
    chance = random.Random(seed)
    session = AgentSession.objects.get(pk=session_id)
    try:
        for turn in range(1, calls + 1):
            run = Run.objects.create(session=session, turn=turn, status=RunStatus.RUNNING)
            while not attempt(chance, session, run):
                pass
            Run.objects.filter(pk=run.pk).update(status=RunStatus.SUCCEEDED)
    finally:
        close_old_connections()


def attempt(chance: random.Random, session: AgentSession, run: Run) -> bool:
    """Whether the run is over; if not, its worker was lost."""
    session.epoch += 1
    AgentSession.objects.filter(pk=session.pk).update(epoch=session.epoch)
    Run.objects.filter(pk=run.pk).update(epoch=session.epoch)
    charge_lost(run_id=run.pk)
    tokens, wanted = chance.randrange(50, 400), chance.randrange(1, 300)
    call = ModelCall(session.pk, MODELS, tokens, wanted, min(20, wanted), run_id=run.pk, epoch=session.epoch)
    try:
        reserved = reserve(call)
    except BudgetExceededError:
        return True
    time.sleep(chance.random() * 0.005)  # the model's time
    fate = chance.random()
    if fate < 0.15:
        return False
    if fate < 0.25 and reserved.id:
        release(reserved.id)
    else:
        used = tokens - chance.randrange(0, 40)
        settle(session, run, reserved, chance.choice(MODELS), used, chance.randrange(0, reserved.output_tokens + 1))
    return True


def settle(session: AgentSession, run: Run, reserved: Reserved, model: str, tokens: int, output: int) -> None:
    """What a checkpoint does."""
    rates = reserved.prices.of(model)
    cost = -(-(tokens * rates.input + output * rates.output) // 1_000_000)
    UsageRecord.objects.create(
        owner_id=session.owner_id,
        session=session,
        agent_type_id=session.agent_type_id,
        run=run,
        model=model,
        input_tokens=tokens,
        output_tokens=output,
        cost=f"{cost / 1_000_000:.6f}",
        reservation_id=reserved.id,
    )


if __name__ == "__main__":
    seed, calls, *session_ids = sys.argv[1:]
    with ThreadPoolExecutor(len(session_ids)) as threads:
        spent = [
            threads.submit(spend, int(seed) * 100 + number, int(calls), uuid.UUID(session_id))
            for number, session_id in enumerate(session_ids)
        ]
    for thread in spent:
        thread.result()
