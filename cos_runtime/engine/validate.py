"""Interleaved validation: passes of the TEST net over its own records, shared out over the ranks."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping

import torch

from cos_runtime.caffe import weights
from cos_runtime.caffe.net import Net
from cos_runtime.caffe.schema.caffe_pb2 import TEST
from cos_runtime.engine.by_record import ByRecord
from cos_runtime.engine.feed import Feed
from cos_runtime.engine.job import TrainJob
from cos_runtime.engine.spool import Spool, rebatch
from cos_runtime.engine.world import World


class Validator:
    """Runs ``test_iter`` batches a pass, going on in the records where the last pass ended, as Caffe does.

    Record ``p`` of the validation set is rank ``p % ranks``'s, so a pass is over the same records whatever the number
    of ranks. The TEST net shares the TRAIN net's parameters; those of layers that it alone has are the weights files'.

    Args:
        number: which of the solver's TEST nets.
        spool: the rank's share of its records, which is read here.
        net: the TRAIN net.
        files: contents of the weights files by their paths; rank 0 alone has them.
        first: number of the first pass: how many an earlier run has made that this one goes on from.
    """

    def __init__(
        self,
        job: TrainJob,
        number: int,
        spool: Spool,
        net: Net,
        world: World,
        *,
        files: Mapping[str, bytes],
        first: int = 0,
    ) -> None:
        source, state = job.validations[number], job.test_states[number]
        test_net = Net(job.net, TEST, job.test_shapes[number], level=state.level, stages=state.stage)
        self.net = test_net.to(world.device)
        self.net.share_weights(net)
        _begin_own_weights(self.net, net, world, files)
        self._by_record = ByRecord(self.net, source.batch_size)
        self._world, self._numerics = world, job.numerics
        self._batch = source.batch_size
        self._records = job.solver.test_iter[number] * source.batch_size
        first = 0 if self.net.reads_in_order else first  # they begin anew, and so must what belongs to them
        self._pass = first
        self._own = spool.load()
        self._all = world.count(self._own)
        rows = rebatch(spool.again_and_again(self._dealt(self._records * first)), self._sizes(first))
        fed = sum(len(self._chunks(done)) for done in range(first))
        self.feed = Feed(rows, source, [job.seed, world.rank, 1 + number], first=fed, timeout=job.timeout)

    def _dealt(self, records: int) -> int:
        """How many of the first ``records`` records of the endless sequence are this rank's."""
        rounds, rest = divmod(records, self._all)
        return rounds * self._own + self._world.dealt(rest)

    def _share(self, number: int) -> int:
        """How many of the records of pass ``number`` are this rank's."""
        return self._dealt(self._records * (number + 1)) - self._dealt(self._records * number)

    def _chunks(self, number: int) -> list[int]:
        share = self._share(number)
        return [min(self._batch, share - start) for start in range(0, share, self._batch)]

    def _sizes(self, first: int) -> Iterator[int]:
        for number in itertools.count(first):
            yield from self._chunks(number)

    def run(self) -> dict[str, list[float]]:
        """One pass: the mean over its records of every output blob of the TEST net."""
        sums = {name: torch.zeros(self._by_record.width(name), dtype=torch.float64) for name in self.net.outputs}
        with torch.inference_mode():
            for size in self._chunks(self._pass):
                blobs = self._numerics.blobs(next(self.feed), self._world.device)
                with self._numerics.context(self._world.device):
                    outputs = self.net(blobs, self.net.outputs)
                for name, blob in outputs.items():
                    sums[name] += self._by_record.sums(name, blob, size)
        self._pass += 1
        totals = self._world.sum(torch.cat(list(sums.values()))).cpu() / self._records
        parts = torch.split(totals, [len(part) for part in sums.values()])
        return {name: part.tolist() for name, part in zip(sums, parts, strict=True)}


def _begin_own_weights(test_net: Net, net: Net, world: World, files: Mapping[str, bytes]) -> None:
    """Have each rank's TEST net begin alike where it shares nothing: by rank 0's files, or its fillers."""
    shared = {id(parameter) for parameter in net.parameters()}
    own = [parameter.detach() for parameter in test_net.parameters() if id(parameter) not in shared]
    if own:
        for path, content in files.items():
            test_net.copy_lacking_weights(net, weights.parse(content, path), path)
        world.copy_from_first(own)
