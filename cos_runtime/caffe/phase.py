"""Which layers belong to a net in a given state: phase, level and stages (Caffe's ``Net::FilterNet``)."""

from cos_runtime.caffe.schema.caffe_pb2 import LayerParameter, NetParameter, NetState, NetStateRule
from cos_runtime.errors import UserError


def filter_net(net: NetParameter, state: NetState) -> NetParameter:
    """The net with the layers that ``state`` includes, in order.

    A layer is in if any of its ``include`` rules is met, or, where it has none, if no ``exclude`` rule is.

    Raises:
        UserError: a layer has both kinds of rules.
    """
    filtered = NetParameter()
    filtered.CopyFrom(net)
    filtered.ClearField("layer")
    filtered.layer.extend(layer for layer in net.layer if is_included(layer, state))
    filtered.state.CopyFrom(state)
    return filtered


def is_included(layer: LayerParameter, state: NetState) -> bool:
    """Whether the layer's rules put it into a net of this state."""
    if layer.include and layer.exclude:
        raise UserError(f'layer "{layer.name}" has both include and exclude rules: keep one kind')
    if layer.include:
        return any(_is_met(rule, state) for rule in layer.include)
    return not any(_is_met(rule, state) for rule in layer.exclude)


def _is_met(rule: NetStateRule, state: NetState) -> bool:
    if rule.HasField("phase") and rule.phase != state.phase:
        return False
    if rule.HasField("min_level") and state.level < rule.min_level:
        return False
    if rule.HasField("max_level") and state.level > rule.max_level:
        return False
    stages = set(state.stage)
    return set(rule.stage) <= stages and not set(rule.not_stage) & stages
