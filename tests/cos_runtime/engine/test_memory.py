"""A rank's memory does not follow the size of the data, nor does its executor's."""

from pathlib import Path

import pytest

import cos_runtime.main
from bootstrap.local_cluster import LocalCluster
from tests.fixtures.cluster import run_on
from tests.fixtures.jobs import MakeJob

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]

EXECUTOR = "512m"
RECORDS, BATCH = 5_120, 8  # of 1 MB: ten times the executor's memory
GROWTH_MIB = 150
NET = """
name: "wide"
layer { name: "data" type: "MemoryData" top: "data" top: "label"
  source_class: "tests.cos_runtime.engine.wide_source.Wide"
  memory_data_param { source: "%d" batch_size: %d channels: 1 height: 32 width: 32 }
  transform_param { crop_size: 32 } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" inner_product_param { num_output: 4 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""


def test_data_of_ten_times_an_executors_memory(make_job: MakeJob) -> None:
    job = make_job(max_iter=RECORDS // BATCH)
    Path(job.file("net.prototxt")).write_text(NET % (RECORDS, BATCH))
    with LocalCluster(workers=1, memory=EXECUTOR, quick=True) as cluster:
        done = run_on(cluster, Path(cos_runtime.main.__file__), *job.args("-train"), timeout=400)
    assert done.code == 0, done.output + done.log
    used = [int(line) for line in Path(job.file("memory")).read_text().split()]
    assert len(used) >= RECORDS // BATCH
    assert max(used) - used[0] < GROWTH_MIB
