from concurrent.futures import ThreadPoolExecutor

from pyspark.sql import SparkSession

from cos_runtime.engine import workers


def test_threads_of_a_program_take_turns(spark: SparkSession) -> None:
    environment = spark.sparkContext.environment

    def mark() -> list[str | None]:
        found = []
        for _ in range(500):
            with workers.with_torch(spark):
                found.append(environment.get("COS_TORCH"))
        return found

    with ThreadPoolExecutor(4) as threads:
        marks = [done.result() for done in [threads.submit(mark) for _ in range(4)]]
    assert marks == [["1"] * 500] * 4
    assert "COS_TORCH" not in environment
