"""Everything about a job that can be found wrong before it starts, found before it starts."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from cos_runtime import storage
from cos_runtime.caffe import solverstate, weights
from cos_runtime.caffe.net import Net
from cos_runtime.caffe.schema.caffe_pb2 import TEST, TRAIN
from cos_runtime.caffe.solver import Solver
from cos_runtime.caffe.solverstate import SolverState
from cos_runtime.config import Config
from cos_runtime.engine import network
from cos_runtime.engine.best import Aim
from cos_runtime.engine.job import Start, TrainingPlan
from cos_runtime.engine.snapshots import Snapshots
from cos_runtime.errors import UserError
from cos_runtime.sources.base import DataSource


def check_training(
    conf: Config, source: DataSource, validations: Sequence[DataSource], *, is_local: bool = False
) -> TrainingPlan:
    """Build on the driver what the ranks will build, and check the files.

    Args:
        is_local: whether the ranks run on this very host, whose devices can then be checked too.

    Raises:
        UserError: something does not fit; the sentence says what and where.
    """
    if not conf.solverParameter.HasField("max_iter"):
        raise UserError(f"{conf.protoFile}: max_iter is missing: say when training ends")
    if is_local and conf.connection != "ethernet":
        network.require_device(conf.connection)
    _check_batches(conf, source, validations)
    state = conf.train_state
    net = Net(conf.netParam, TRAIN, source.top_shapes(), level=state.level, stages=state.stage)
    _refuse_lost_scale(conf, net)
    if not net.losses:
        raise UserError(f'net "{net.name}" has no loss in the phase TRAIN: there is nothing to train')
    solver = Solver(conf.solverParameter, net)
    start = _read_start(conf)
    given = [(path, weights.parse(content, path)) for path, content in start.models]
    resumed = _take_start(conf, start, given, net, solver)
    tested = [test_net(conf, validation, number) for number, validation in enumerate(validations)]
    for each in tested:
        _check_tested(conf, each, net, given)
    if conf.best and not tested:
        raise UserError("-best needs validation: give the solver test_interval and test_iter")
    aim = _aim(conf, tested[0]) if tested else Aim()
    snapshots = _snapshots(conf)
    snapshots.refuse_no_result(solver.iteration)
    has_best = resumed is not None and resumed.best is not None
    snapshots.refuse_existing(solver.iteration, start.state_path, has_best=has_best)
    snapshots.take_over_checkpoints()
    snapshots.refuse_unwritable(solver.iteration)
    seed = resumed.seed if resumed else None
    return TrainingPlan(start, solver.iteration, seed, snapshots, net.losses, aim)


def _refuse_lost_scale(conf: Config, net: Net) -> None:
    for name, layer in net.named_layers():
        if conf.precision == "float16" and layer.is_in_place and layer.ignores_gradient_in_place:
            raise UserError(
                f'layer "{name}": in place it loses the scale of the loss that -precision float16 needs: give its top '
                "another name, or train in bfloat16"
            )


def _check_tested(conf: Config, tested: Net, net: Net, given: Sequence[tuple[str, weights.Layers]]) -> None:
    """Have a TEST net share its weights with the TRAIN net, and refuse one that the ranks could not run."""
    tested.share_weights(net)
    for path, found in given:
        tested.copy_lacking_weights(net, found, path)
    if tested.reads_in_order and conf.ranks > 1:
        reader = next(name for name, layer in tested.named_layers() if layer.reads_in_order)
        raise UserError(
            f'layer "{reader}" of the TEST net reads its file in the order of the records, which are shared out to '
            f"{conf.ranks} ranks: validate on one rank, or by -test after training"
        )


def _take_start(
    conf: Config, start: Start, given: Sequence[tuple[str, weights.Layers]], net: Net, solver: Solver
) -> SolverState | None:
    """Give net and solver what the ranks begin with, and return the state of the run that is gone on with, if any."""
    lacking = [net.copy_weights(found, path) for path, found in given]
    last = conf.solverParameter.max_iter
    if last < 0:
        raise UserError(f"{conf.protoFile}: max_iter is {last}: it must be 0 or more")
    if not start.state:
        return None
    missing = [name for name in next(iter(lacking), []) if all(name in names for names in lacking)]
    _refuse_missing(net, missing, conf.snapshotModelFile)
    resumed = solverstate.parse(start.state, start.state_path)
    solver.restore(resumed)
    if solver.iteration >= last:
        raise UserError(
            f"-snapshot {start.state_path} is at iteration {solver.iteration} and max_iter is {last}: "
            "there is nothing left to train; raise max_iter"
        )
    return resumed


def _snapshots(conf: Config) -> Snapshots:
    own = conf.checkpoints
    return Snapshots(conf.solverParameter, conf.snapshot_prefix, conf.modelPath, conf.best_path, own.prefix, own.kept)


def _aim(conf: Config, net: Net) -> Aim:
    """What ``-best`` names: lower is better for a loss, higher for anything else."""
    if not conf.best:
        return Aim()
    if conf.best not in net.outputs:
        raise UserError(f"-best: the TEST net has no output {conf.best}: its outputs are {', '.join(net.outputs)}")
    return Aim(conf.best, conf.best in net.losses, conf.patience)


def test_net(conf: Config, source: DataSource, number: int) -> Net:
    """The TEST net of a number, for its source's records."""
    state = conf.test_states[number]
    return Net(conf.netParam, TEST, source.top_shapes(), level=state.level, stages=state.stage)


def check_inference(conf: Config, source: DataSource, model: str) -> tuple[Net, bytes]:
    """The TEST net with the weights of the file ``model`` loaded, and the file's content."""
    net = test_net(conf, source, 0)
    if not model:
        raise UserError("-model is missing: name the weights to use")
    content = storage.read_bytes(model, "-model")
    _refuse_missing(net, net.copy_weights(weights.parse(content, model), model), model)
    return net, content


def _refuse_missing(net: Net, layers: list[str], path: str) -> None:
    """Refuse layers without weights, but for those whose filler makes them resize: Caffe users add them to deploy."""
    resizing = {each.name for each in net.param.layer if each.convolution_param.weight_filler.type == "bilinear"}
    missing = [name for name in layers if name not in resizing]
    if missing:
        raise UserError(f'{path} has no weights for layer "{missing[0]}": it is of another net, or a part of the file')


def check_blobs(net: Net, blobs: list[str], flag: str) -> None:
    """Refuse names of blobs that the net does not have."""
    for name in blobs:
        if name not in net.shapes:
            near = difflib.get_close_matches(name, net.shapes, n=1, cutoff=0.0)
            raise UserError(f'{flag}: the TEST net has no blob "{name}": did you mean "{near[0]}"?')


def refuse_existing_output(path: str) -> None:
    """Refuse an output that is there already."""
    if path and storage.exists(path):
        raise UserError(f"-output {path} exists: name another path, or remove it first")


def _read_start(conf: Config) -> Start:
    models, state = conf.snapshotModelFile, conf.snapshotStateFile
    return Start(
        tuple((path, storage.read_bytes(path, "-weights")) for path in models.split(",") if path),
        storage.read_bytes(state, "-snapshot") if state else b"",
        state,
    )


def _check_batches(conf: Config, source: DataSource, validations: Sequence[DataSource]) -> None:
    needed, records = conf.ranks * source.batch_size, source.count()
    if records is not None and records < needed:
        raise UserError(
            f'layer "{source.layer.name}": {conf.ranks} ranks with batch_size {source.batch_size} take {needed} '
            f"records a step and the source has {records}: lower batch_size, -clusterSize or -devices"
        )
    if validations and not conf.solverParameter.test_iter:
        raise UserError(f"{conf.protoFile}: test_interval is given without test_iter: say how many batches a pass has")
    if validations and min(conf.solverParameter.test_iter) < 1:
        raise UserError(f"{conf.protoFile}: a test_iter is below 1: say how many batches a pass of that test net has")
    for validation in validations:
        records = validation.count()
        if records is not None and records < conf.ranks:
            raise UserError(
                f'layer "{validation.layer.name}": {records} validation records are fewer than the {conf.ranks} ranks'
            )
