"""A private job between real daemons, as people run it: a trainer and the owner die in it."""

import json
import signal
from contextlib import ExitStack
from pathlib import Path

from daemon_homes import Daemon, eigen, free_port, make_home, multiaddr, running

from eigen.training import tensorfile

JOB = """
name = "tumours"
[data]
source = "breast_cancer"
[head]
kind = "logistic"
[training]
rounds = 12
lr = 0.1
l2 = 0.03
patience = 0
[trainers]
shards = 3
round_s = 4
"""


def network(folder: Path, count: int) -> list[Path]:
    """Homes whose nodes dial the first one."""
    homes: list[Path] = []
    ports = [free_port() for _ in range(count)]
    for index, port in enumerate(ports):
        settings = {"p2p__listen": f"/ip4/127.0.0.1/tcp/{port}"}
        if index:
            settings["p2p__bootstrap"] = multiaddr(homes[0], ports[0])
        homes.append(make_home(folder / f"n{index}", **settings))
    return homes


def together(daemons: list[Daemon]) -> None:
    for daemon in daemons:
        daemon.answers()
    wanted = len(daemons)
    for daemon in daemons:
        daemon.until(lambda d=daemon: (s := d.status()) and s["trainers"] == wanted, 40)  # type: ignore[misc]


def round_of(daemon: Daemon) -> int:
    return int(daemon.call("job_status")["jobs"][0]["round"])


def test_a_job_outlives_a_killed_trainer_and_a_killed_owner(tmp_path: Path) -> None:
    homes = network(tmp_path, 3)
    file = tmp_path / "job.toml"
    file.write_text(JOB)
    with ExitStack() as stack:
        owner, *trainers = (stack.enter_context(running(home)) for home in homes)
        together([owner, *trainers])
        made = eigen(homes[0], "job", "create", str(file), "--mode", "homomorphic", "--json")
        assert made.returncode == 0, made.stderr
        job = json.loads(made.stdout)["job"]
        [folder] = (homes[0] / "jobs").iterdir()
        assert folder.stat().st_mode & 0o777 == 0o700
        assert {p.stat().st_mode & 0o777 for p in folder.iterdir()} == {0o600}

        owner.until(lambda: round_of(owner) >= 2, 60)
        trainers[0].process.send_signal(signal.SIGKILL)
        before = round_of(owner)
        owner.until(lambda: round_of(owner) >= before + 2, 60)

        owner.process.send_signal(signal.SIGKILL)
        owner.process.wait()
        stepped = owner.log.count("private job stepped")
        owner = stack.enter_context(running(homes[0]))
        owner.answers()
        shown = owner.call("job_status", job=job[:8])["jobs"][0]
        assert shown["round"] >= stepped > 0, "no step that was made is made again"
        owner.until(lambda: owner.call("job_status")["jobs"][0]["stage"] == "done", 60)

        out = tmp_path / "model.safetensors"
        done = eigen(homes[0], "job", "result", job[:8], "--out", str(out), "--json")
        assert done.returncode == 0, done.stderr
        result = json.loads(done.stdout)
        assert [h["round"] for h in result["history"]] == list(range(1, 13)), "each round once"
        assert result["holdout_score"] > 0.9
        assert sum(c["shard_rounds"] for c in result["contributions"]) == 36
        assert result["eta_s"] == 0
        assert result["sent_bytes"] > 0
        _, arrays = tensorfile.read(out.read_bytes())
        assert arrays["head.weight"].shape == (1, 31)
        again = eigen(homes[0], "job", "cancel", "00ff")
        assert again.returncode == 2, "no such job"
        assert "see: eigen job status" in again.stderr
