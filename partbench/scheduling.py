"""Keep Snakemake's scheduler from choosing jobs over and over.

So that no more than 100 jobs start in a second, Snakemake 9 looks again a second after it has
chosen jobs. It looks too whenever a job ends, and each of these looks calls for one of its own a
second later, as long as jobs wait for a free core. After a thousand jobs it looks a thousand times
a second, and every look goes through all jobs that could start.
"""

import threading

from snakemake.scheduling.job_scheduler import JobScheduler


def look_again_once() -> None:
    """Let every scheduler of this process wait for one further look at a time."""
    JobScheduler._schedule_reevalutation = _schedule_once


def _schedule_once(scheduler: JobScheduler, delay: float) -> None:
    """Take the place of `JobScheduler._schedule_reevalutation`."""
    waiting = vars(scheduler).get("waiting_look")
    if waiting is not None and waiting.is_alive():
        return

    def look() -> None:
        scheduler.waiting_look = None  # before the look, which may call for the next one
        scheduler._open_jobs.release()

    scheduler.waiting_look = threading.Timer(delay, look)
    # Snakemake has nothing to wait for when it ends.
    scheduler.waiting_look.daemon = True
    scheduler.waiting_look.start()
