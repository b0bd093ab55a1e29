"""What the control API offers of private jobs."""

from pathlib import Path
from typing import Any

from eigen.chain.escrow import EscrowError
from eigen.chain.port import ChainError
from eigen.config.addresses import format_address
from eigen.crypto.errors import KeyFileError
from eigen.node.control import ControlError, Method
from eigen.node.exit_codes import ExitCode
from eigen.node.job_file import load_job_file
from eigen.node.job_owner import OwnedJob
from eigen.node.job_wages import NothingEarned
from eigen.node.private_jobs import NoSuchJob, PrivateJobs
from eigen.node.worker_process import WorkerError
from eigen.protocol.job_pay import job_payouts
from eigen.protocol.pay import BPS
from eigen.protocol.private_job import HEADS, PrivateJob
from eigen.training.errors import SpecError, TrainingError


class JobMethods:
    """One coroutine a call; `table` names them."""

    def __init__(self, jobs: PrivateJobs) -> None:
        self._jobs = jobs

    def table(self) -> dict[str, Method]:
        """Methods by name."""
        return {
            "job_create": self.create,
            "job_status": self.status,
            "job_result": self.result,
            "job_cancel": self.cancel,
            "job_claim": self.claim,
            "job_dispute": self.dispute,
        }

    async def create(self, params: dict[str, Any]) -> dict[str, Any]:
        """Make the job that a file describes; answered once it is encrypted and published."""
        file = load_job_file(Path(str(params.get("file", ""))))
        try:
            job_id = await self._jobs.create(file)
        except SpecError as error:
            raise ControlError(f"{file.path}: {error}", ExitCode.CONFIGURATION) from error
        except EscrowError as error:
            raise ControlError(f"{file.path}: payment: {error}", ExitCode.CONFIGURATION) from error
        except ChainError as error:
            raise ControlError(f"the job is not funded: {error}", ExitCode.FAILED) from error
        except (TrainingError, WorkerError, KeyFileError, OSError) as error:
            raise ControlError(f"the job cannot be made: {error}", ExitCode.FAILED) from error
        return await self._told(self._jobs.owned[job_id])

    async def status(self, params: dict[str, Any]) -> dict[str, Any]:
        """This node's own jobs, and those of others that it trains or audits."""
        prefix = str(params.get("job", ""))
        auditor = self._jobs.auditor
        return {
            "jobs": [
                await self._told(job)
                for job_id, job in self._jobs.owned.items()
                if job_id.hex().startswith(prefix)
            ],
            "trained": [
                {
                    "job": job_id.hex(),
                    "name": job.job.name,
                    "owner": format_address(job.job.owner),
                    "rounds": job.rounds,
                    "trouble": job.why,
                    "payment": await self._payment(job.job),
                }
                for job_id, job in self._jobs.trained.items()
                if job_id.hex().startswith(prefix)
            ],
            "audits": {"sound": auditor.sound, "false": auditor.false},
        }

    async def result(self, params: dict[str, Any]) -> dict[str, Any]:
        """Where the trained head lies, and how good it is."""
        job = self._find(params)
        shown = await self._told(job)
        if shown["stage"] == "running":
            text = f"round {job.machine.round} of {job.job.rounds}: not done yet"
            raise ControlError(text, ExitCode.FAILED)
        if not job.owned.folder.result.exists():
            raise ControlError(f"there is no result: {shown['why']}", ExitCode.FAILED)
        return shown | {"model": str(job.owned.folder.result)}

    async def cancel(self, params: dict[str, Any]) -> dict[str, Any]:
        """End a job."""
        job = self._find(params)
        self._jobs.cancel(job)
        return {"job": job.owned.id.hex()}

    async def claim(self, params: dict[str, Any]) -> dict[str, Any]:
        """Take what released jobs owe this node."""
        if self._jobs.wages is None:
            raise ControlError("this node has no chain", ExitCode.FAILED)
        try:
            claimed = await self._jobs.wages.claim(str(params.get("job", "")))
        except (NothingEarned, ChainError) as error:
            raise ControlError(str(error), ExitCode.FAILED) from error
        return {"claimed": claimed}

    async def dispute(self, params: dict[str, Any]) -> dict[str, Any]:
        """Have the arbiter decide about a delivery."""
        job = self._find(params)
        if self._jobs.money is None or not job.job.payment:
            raise ControlError("nobody is paid for this job", ExitCode.FAILED)
        try:
            receipt = await self._jobs.money.dispute(job.job.payment[0])
        except ChainError as error:
            raise ControlError(str(error), ExitCode.FAILED) from error
        return {"job": job.owned.id.hex(), "tx": receipt.tx}

    async def _payment(self, job: PrivateJob) -> dict[str, Any] | None:
        return await self._jobs.wages.shown(job) if self._jobs.wages else None

    async def _told(self, job: OwnedJob) -> dict[str, Any]:
        return self._shown(job) | {"payment": await self._payment(job.job)}

    def _find(self, params: dict[str, Any]) -> OwnedJob:
        try:
            return self._jobs.find(str(params.get("job", "")))
        except NoSuchJob as error:
            raise ControlError(str(error), ExitCode.USAGE) from error

    def _shown(self, job: OwnedJob) -> dict[str, Any]:
        ended = self._jobs.ended.get(job.owned.id)
        figures = job.figures
        last = figures[-5:]
        mean_s = sum(f.seconds for f in last) / len(last) if last else 0.0
        contributions = job.owned.progress.contributions
        shares = {p.account: p.cumulative for p in job_payouts(BPS, contributions)}
        best = min(figures, key=lambda f: f.loss) if figures else None
        return {
            "job": job.owned.id.hex(),
            "name": job.job.name,
            "head": HEADS[job.job.head],
            "stage": "running" if ended is None else "done" if ended.done else "failed",
            "why": ended.why if ended else job.machine.waiting,
            "round": job.owned.progress.round,
            "rounds": job.job.rounds,
            "seconds_a_round": mean_s,
            "eta_s": mean_s * (job.job.rounds - job.owned.progress.round) if not ended else 0.0,
            "shard_bytes": sum(shard.stored_bytes for shard in job.job.shards),
            "sent_bytes": sum(f.sent_bytes for f in figures),
            "received_bytes": sum(f.received_bytes for f in figures),
            "holdout_score": best.score if best else None,
            "holdout_loss": best.loss if best else None,
            "best_round": best.round if best else 0,
            "history": [
                {"round": f.round, "loss": f.loss, "score": f.score, "seconds": f.seconds}
                for f in figures
            ],
            "contributions": [
                {
                    "trainer": format_address(c.trainer),
                    "shard_rounds": c.shard_rounds,
                    "share_bps": shares.get(c.trainer, 0),
                    "excluded": c.excluded,
                }
                for c in contributions
            ],
        }
