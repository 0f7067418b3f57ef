"""The short form of `make test-faults`: some seconds of the workload, with a few faults, on the run's servers."""

from pathlib import Path
from random import Random

from tallymarks.broker import Broker
from tests.faults.faults import all_faults
from tests.faults.system import system_on
from tests.faults.trial import plan, trial

FAULTS = ("kill-assessor", "cut-api-broker", "deadlocks")


async def test_a_workload_under_faults_loses_and_doubles_nothing(
    database_url: str,
    amqp_url: str,
    topology_prefix: str,
    broker: Broker,  # deletes the queues afterwards
    tmp_path: Path,
) -> None:
    faults = {fault.name: fault for fault in all_faults()}
    async with system_on(database_url, amqp_url, topology_prefix, tmp_path, shows_logs=True) as system:
        report = await trial(system, "short", [faults[name] for name in FAULTS], Random(1))
    assert report.problems == ()
    assert report.through > 0


def test_a_seed_gives_the_same_plan() -> None:
    faults = all_faults()
    names = [[fault.name for fault in plan(faults, Random(seed), 50)] for seed in (1, 1, 2)]
    assert names[0] == names[1] != names[2]


def test_each_fault_has_a_name_of_its_own() -> None:
    names = [fault.name for fault in all_faults()]
    assert len(names) == len(set(names))
