"""Deep learning and Spark ML in one program.

A Caffe net is trained by the executors, tested, and used for features, and a Spark ML classifier learns from those:
one Spark application. `make demo` runs it; by hand, from the folder `examples/mnist` after `make demo` made its data:

    spark-submit --master "local[2]" ../one_program.py -conf lenet_solver.prototxt -clusterSize 2 \
        -features ip1 -label label -model /tmp/lenet/lenet.caffemodel -output /tmp/lenet/classifier
"""

import json
import sys

from pyspark.ml.classification import LogisticRegression
from pyspark.ml.evaluation import MulticlassClassificationEvaluator
from pyspark.sql import SparkSession

from cos_runtime import storage
from cos_runtime.api import CaffeOnSpark, Config, DataSource

spark = SparkSession.builder.appName("one program").getOrCreate()
sc = spark.sparkContext

cos = CaffeOnSpark(sc)
conf = Config(sc, sys.argv[1:])

# The net learns from the training images, and is tested on the others.
train_source = DataSource.getSource(conf, True)
cos.train(train_source)
test_source = DataSource.getSource(conf, False)
accuracy = cos.test(test_source)["accuracy"][0]

# What its layer ip1 says of each test image is a row of a DataFrame ...
features = cos.features(test_source)
data = features.select(
    cos.floats2doubleUDF(features[conf.label]).alias("L"),
    cos.floats2doublesUDF(features[conf.features[0]]).alias("F"),
).persist()

# ... from which Spark ML learns to tell the digits: from four fifths of them, to be measured on the rest.
known, unknown = data.randomSplit([0.8, 0.2], seed=1)
classifier = LogisticRegression(labelCol="L", featuresCol="F", maxIter=20).fit(known)
evaluator = MulticlassClassificationEvaluator(labelCol="L", metricName="accuracy")
classifier_accuracy = evaluator.evaluate(classifier.transform(unknown))
classifier.write().overwrite().save(f"file://{conf.outputPath}")

results = {
    "net_accuracy": accuracy,
    "tested_images": data.count(),
    "classifier_accuracy": classifier_accuracy,
    "classified_images": unknown.count(),
}
storage.write_bytes(f"{conf.outputPath}.json", json.dumps(results).encode())
print(results)
spark.stop()
