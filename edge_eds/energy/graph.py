"""Energies as an ONNX graph: export with the analytic gradient as ordinary nodes, and parse back.

One input `hidden` float32 (n, n_embd); for each layer and head the outputs `energy.{il}.{head}` (n,) and
`gradient.{il}.{head}` (n, n_embd), the gradient being dE/dh. Standard operators of opset 17 only, LayerNorm
spelt out, so any ONNX runtime computes both without differentiating anything. Layers share nothing but
constants and heads of a layer only z, so an output needs nothing of its neighbours. (ONNX Runtime still
evaluates every node of the graph it has loaded, whichever outputs are fetched: load what `extract` gives.)

`parse` recognises a graph of this form by rebuilding it from the weights found in it and comparing node by
node. Other graphs with the same input and outputs are fine for ONNX Runtime; `extract` cuts one output's part
out of either. Left out: metadata and files (file.py).

Initializers: layer.{il}.mu, .P, .s; layer.{il}.{head}.{i}.W, .b, .gamma, .beta of hidden block i;
layer.{il}.{head}.w, .c.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edge_eds.energy.graph_names import INPUT, energy_output, gradient_output
from edge_eds.energy.network import (
    HEADS,
    LAYER_NORM_EPS,
    EnergyModel,
    HeadWeights,
    HiddenLayer,
    LayerEnergy,
    Subspace,
)

OPSET = 17  # the last with ReduceMean's axes as an attribute; read by every ONNX Runtime from 1.12 on
IR_VERSION = 8  # the one that goes with opset 17; onnx's newest is refused by older runtimes

_INITIALIZER = re.compile(
    r"layer\.(?P<il>0|[1-9][0-9]*)\.(?:(?P<subspace>mu|P|s)"
    r"|(?P<head>"
    + "|".join(HEADS)
    + r")\.(?:(?P<last>w|c)|(?P<block>0|[1-9][0-9]*)\.(?P<part>W|b|gamma|beta)))"
)


class _Nodes:
    """Collects nodes; an output carries the name of its node."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []

    def add(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output


def build(model: EnergyModel) -> onnx.ModelProto:
    """The ONNX model of `model`, without metadata."""
    tensors = [numpy_helper.from_array(array, name) for name, array in _initializers(model).items()]
    outputs = []
    for il, layer in model.layers.items():
        for head in layer.heads:
            outputs.append(helper.make_tensor_value_info(energy_output(il, head), TensorProto.FLOAT, ["n"]))
            shape: list[str | int | None] = ["n", model.n_embd]
            outputs.append(helper.make_tensor_value_info(gradient_output(il, head), TensorProto.FLOAT, shape))
    hidden = helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["n", model.n_embd])
    graph = helper.make_graph(_graph_nodes(model), "edge_eds.energy", [hidden], outputs, tensors)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="edge-eds")
    proto.ir_version = IR_VERSION
    return proto


def parse(proto: onnx.ModelProto) -> EnergyModel | None:
    """The weights of a graph that `build` made; None for a graph of any other form."""
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    if [(i.domain, i.version) for i in proto.opset_import] != [("", OPSET)]:
        return None
    n_embd = input_width(proto)
    if n_embd is None or any(array.dtype != np.float32 for array in arrays.values()):
        return None
    try:
        model = EnergyModel(n_embd, _layers_of(arrays))
    except (KeyError, ValueError):
        return None
    # same nodes, same names, same constants: then the graph computes what the closed form computes
    constants = _initializers(model)
    same = (
        constants.keys() == arrays.keys()
        and all(constants[name].shape == arrays[name].shape for name in arrays)
        and all(
            np.array_equal(arrays[name], constants[name]) for name in constants.keys() & _CONSTANTS.keys()
        )
        and list(proto.graph.node) == _graph_nodes(model)
        and {o.name for o in proto.graph.output}
        == {name(il, head) for il, layer in model.layers.items() for head in layer.heads for name in _NAMES}
    )
    return model if same else None


def input_width(proto: onnx.ModelProto) -> int | None:
    """n_embd of `hidden` (n, n_embd); None unless it is the only input, float32 and of known width."""
    constants = {tensor.name for tensor in proto.graph.initializer}
    inputs = [i for i in proto.graph.input if i.name not in constants]
    if [i.name for i in inputs] != [INPUT]:
        return None
    tensor = inputs[0].type.tensor_type
    if tensor.elem_type != TensorProto.FLOAT or len(tensor.shape.dim) != 2:
        return None
    return tensor.shape.dim[1].dim_value or None


def extract(proto: onnx.ModelProto, outputs: Iterable[str]) -> onnx.ModelProto:
    """The part of a model that computes `outputs`, all else left out (weights are copied, not shared)."""
    outputs = list(outputs)
    producer = {name: index for index, node in enumerate(proto.graph.node) for name in node.output}
    needed_nodes: set[int] = set()
    needed_names = set(outputs)
    waiting = list(outputs)
    while waiting:
        index = producer.get(waiting.pop())
        if index is None or index in needed_nodes:
            continue
        needed_nodes.add(index)
        for name in _names_read(proto.graph.node[index]):
            if name not in needed_names:
                needed_names.add(name)
                waiting.append(name)
    part = onnx.ModelProto()
    part.ir_version = proto.ir_version
    part.opset_import.extend(proto.opset_import)
    part.functions.extend(proto.functions)
    graph = part.graph
    graph.name = proto.graph.name
    graph.node.extend(proto.graph.node[index] for index in sorted(needed_nodes))
    graph.input.extend(proto.graph.input)
    graph.output.extend(o for o in proto.graph.output if o.name in set(outputs))
    graph.initializer.extend(t for t in proto.graph.initializer if t.name in needed_names)
    graph.sparse_initializer.extend(
        t for t in proto.graph.sparse_initializer if t.values.name in needed_names
    )
    return part


def _names_read(node: onnx.NodeProto) -> set[str]:
    """Names that a node takes from its graph, those that its sub-graphs (If, Loop) capture included."""
    names = set(node.input)
    for attribute in node.attribute:
        for graph in [attribute.g, *attribute.graphs]:
            for inner in graph.node:
                names |= _names_read(inner)
    return names


_NAMES = (energy_output, gradient_output)
_CONSTANTS: Mapping[str, np.ndarray] = {
    "one": np.array(1, dtype=np.float32),
    "eps": np.array(LAYER_NORM_EPS, dtype=np.float32),
}


def _initializers(model: EnergyModel) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    blocks = [b for layer in model.layers.values() for head in layer.heads.values() for b in head.hidden]
    if blocks:
        arrays["one"] = _CONSTANTS["one"]
    if any(block.gamma is not None for block in blocks):
        arrays["eps"] = _CONSTANTS["eps"]
    for il, layer in model.layers.items():
        at = f"layer.{il}"
        if layer.subspace is not None:
            arrays.update({f"{at}.{name}": getattr(layer.subspace, name) for name in ("mu", "P", "s")})
        for name, head in layer.heads.items():
            for i, block in enumerate(head.hidden):
                arrays[f"{at}.{name}.{i}.W"] = block.W
                arrays[f"{at}.{name}.{i}.b"] = block.b
                if block.gamma is not None and block.beta is not None:
                    arrays[f"{at}.{name}.{i}.gamma"] = block.gamma
                    arrays[f"{at}.{name}.{i}.beta"] = block.beta
            arrays[f"{at}.{name}.w"] = head.w
            arrays[f"{at}.{name}.c"] = np.array(head.c, dtype=np.float32)
    return arrays


def _layers_of(arrays: Mapping[str, np.ndarray]) -> dict[int, LayerEnergy]:
    """The layers that initializers spell out; KeyError or ValueError where one is missing or wrong."""
    n_blocks: dict[tuple[int, str], int] = {}
    for name in arrays.keys() - _CONSTANTS.keys():
        match = _INITIALIZER.fullmatch(name)
        if match is None:
            raise ValueError(f"{name}: unknown initializer")
        if match["head"] is not None:
            key = int(match["il"]), match["head"]
            n_blocks[key] = max(n_blocks.get(key, 0), int(match["block"]) + 1 if match["block"] else 0)
    layers = {}
    for il in sorted({il for il, _ in n_blocks}):
        at = f"layer.{il}"
        subspace = None
        if f"{at}.P" in arrays:
            subspace = Subspace(arrays[f"{at}.mu"], arrays[f"{at}.P"], arrays[f"{at}.s"])
        heads = {
            head: _head_of(arrays, f"{at}.{head}", n) for (layer, head), n in n_blocks.items() if layer == il
        }
        layers[il] = LayerEnergy(il, subspace, heads)
    return layers


def _head_of(arrays: Mapping[str, np.ndarray], at: str, n_blocks: int) -> HeadWeights:
    hidden = tuple(
        HiddenLayer(
            arrays[f"{at}.{i}.W"],
            arrays[f"{at}.{i}.b"],
            arrays.get(f"{at}.{i}.gamma"),
            arrays.get(f"{at}.{i}.beta"),
        )
        for i in range(n_blocks)
    )
    if arrays[f"{at}.c"].shape != ():
        raise ValueError(f"{at}.c: shape {arrays[f'{at}.c'].shape}, expected ()")
    return HeadWeights(hidden, arrays[f"{at}.w"], float(arrays[f"{at}.c"]))


def _graph_nodes(model: EnergyModel) -> list[onnx.NodeProto]:
    nodes = _Nodes()
    for il, layer in model.layers.items():
        at, z = f"layer.{il}", INPUT
        if layer.subspace is not None:
            centered = nodes.add("Sub", [INPUT, f"{at}.mu"], f"{at}.centered")
            z = nodes.add("Gemm", [centered, f"{at}.P"], f"{at}.projected", transB=1)  # (n, r)
            z = nodes.add("Div", [z, f"{at}.s"], f"{at}.z")
        for name, head in layer.heads.items():
            _head_nodes(
                nodes, head, f"{at}.{name}", z, layer, energy_output(il, name), gradient_output(il, name)
            )
    return nodes.nodes


def _head_nodes(
    nodes: _Nodes, head: HeadWeights, at: str, z: str, layer: LayerEnergy, energy: str, gradient: str
) -> None:
    x = z
    for i, block in enumerate(head.hidden):
        x = _forward_nodes(nodes, block, f"{at}.{i}", x)
    nodes.add("Add", [nodes.add("MatMul", [x, f"{at}.w"], f"{at}.dot"), f"{at}.c"], energy)

    g = f"{at}.w"  # dE/dx of the last block, the same for every row: (n_last,), broadcast by the first Mul
    for i in reversed(range(len(head.hidden))):
        g = _backward_nodes(nodes, head.hidden[i], f"{at}.{i}", g)
    if layer.subspace is not None:
        scaled = nodes.add("Div", [g, f"layer.{layer.il}.s"], f"{at}.scaled")
        lifted = f"{at}.lifted" if not head.hidden else gradient
        g = nodes.add("MatMul", [scaled, f"layer.{layer.il}.P"], lifted)
    elif head.hidden:
        nodes.add("Identity", [g], gradient)
    if not head.hidden:  # a linear head: one gradient for all rows
        nodes.add("Expand", [g, nodes.add("Shape", [INPUT], f"{at}.shape")], gradient)


def _forward_nodes(nodes: _Nodes, block: HiddenLayer, at: str, x: str) -> str:
    a = nodes.add("Gemm", [x, f"{at}.W", f"{at}.b"], f"{at}.affine", transB=1)
    if block.gamma is not None:
        mean = nodes.add("ReduceMean", [a], f"{at}.mean", axes=[1], keepdims=1)
        centered = nodes.add("Sub", [a, mean], f"{at}.centered")
        squared = nodes.add("Mul", [centered, centered], f"{at}.squared")
        variance = nodes.add("ReduceMean", [squared], f"{at}.variance", axes=[1], keepdims=1)
        std = nodes.add("Sqrt", [nodes.add("Add", [variance, "eps"], f"{at}.variance_eps")], f"{at}.std")
        normed = nodes.add("Div", [centered, std], f"{at}.normed")
        scaled = nodes.add("Mul", [normed, f"{at}.gamma"], f"{at}.norm_scaled")
        a = nodes.add("Add", [scaled, f"{at}.beta"], f"{at}.norm")
    return nodes.add("Mul", [a, nodes.add("Sigmoid", [a], f"{at}.sigmoid")], f"{at}.silu")


def _backward_nodes(nodes: _Nodes, block: HiddenLayer, at: str, g: str) -> str:
    a = f"{at}.affine" if block.gamma is None else f"{at}.norm"
    # SiLU' = sigmoid * (1 + a * (1 - sigmoid))
    rest = nodes.add("Sub", ["one", f"{at}.sigmoid"], f"{at}.rest")
    slope = nodes.add("Add", ["one", nodes.add("Mul", [a, rest], f"{at}.a_rest")], f"{at}.slope_over_sigmoid")
    slope = nodes.add("Mul", [f"{at}.sigmoid", slope], f"{at}.slope")
    g = nodes.add("Mul", [g, slope], f"{at}.g_silu")
    if block.gamma is not None:
        # LayerNorm': (g - mean(g) - normed * mean(g * normed)) / std
        g = nodes.add("Mul", [g, f"{at}.gamma"], f"{at}.g_gamma")
        mean = nodes.add("ReduceMean", [g], f"{at}.g_mean", axes=[1], keepdims=1)
        product = nodes.add("Mul", [g, f"{at}.normed"], f"{at}.g_normed")
        along = nodes.add("ReduceMean", [product], f"{at}.g_along", axes=[1], keepdims=1)
        along = nodes.add("Mul", [f"{at}.normed", along], f"{at}.g_along_normed")
        g = nodes.add("Sub", [nodes.add("Sub", [g, mean], f"{at}.g_centered"), along], f"{at}.g_free")
        g = nodes.add("Div", [g, f"{at}.std"], f"{at}.g_norm")
    return nodes.add("MatMul", [g, f"{at}.W"], f"{at}.g")
