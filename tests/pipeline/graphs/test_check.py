"""The rules against the vendor's own parser and builder, graph by graph; and what the checker says to a user."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import onnx
import pytest
from click.testing import CliRunner

from edgesmith.pipeline.graphs.check import INVALID, check_graph
from edgesmith.pipeline.graphs.rules import RULES, TARGETS, UNSUPPORTED, Target
from edgesmith.pipeline.graphs.view import read_graph
from edgesmith.pipeline.verbs.check_graph import check_graph as verb


@pytest.fixture(scope="session")
def corpus() -> ModuleType:
    import tests.graph_corpus

    return tests.graph_corpus


def rules(model: onnx.ModelProto, target: Target = "rtx") -> set[str]:
    return {finding.rule for finding in check_graph(model, target)}


def test_a_graph_that_breaks_one_rule_is_found_to_break_that_one(corpus: ModuleType) -> None:
    found = {case.name: rules(case.model()) for case in corpus.CASES}
    assert found == {case.name: ({case.rule} if case.rule else set()) for case in corpus.CASES}
    assert len(found) == len(corpus.CASES) >= 50


def test_checker_and_builder_agree(corpus: ModuleType, tmp_path: Path) -> None:
    from tests.rtx import verdicts

    for i, case in enumerate(corpus.CASES):
        onnx.save(case.model(), str(tmp_path / f"{i}.onnx"))
    said = verdicts({case.name: tmp_path / f"{i}.onnx" for i, case in enumerate(corpus.CASES)})
    agreed = {case.name for case in corpus.CASES if (case.rule is None) == (said[case.name] == "")}
    laxer = {case.name for case in corpus.CASES if case.rule is not None and said[case.name] == ""}
    stricter = {case.name: said[case.name] for case in corpus.CASES if case.rule is None and said[case.name]}
    assert not stricter
    assert laxer == set(corpus.LAXER)
    assert len(agreed) >= 50


def test_every_rule_has_a_graph_that_breaks_it_and_a_source(corpus: ModuleType) -> None:
    for_others = {"bfloat16", "scale-constant"}  # TensorRT 10.3 alone
    assert {rule.id for rule in RULES} - for_others == {case.rule for case in corpus.CASES} - {None, INVALID}
    assert all(len(rule.source) > 10 for rule in RULES)
    assert len({rule.id for rule in RULES}) == len(RULES)


@pytest.mark.parametrize(
    ("body", "opset", "broken"),
    [
        ("g (float[4] x) => (float[4] y) { y = Relu(x) }", 21, {"trt10.3": "opset"}),
        (
            "g (bfloat16[4] x) => (bfloat16[4] y) { y = Add(x, x) }",
            18,
            {"trt10.3": "bfloat16"},
        ),
        (
            "g (float[1,1,4,4] x, float[1,8,3,3] o) => (float[1,1,3,3] y) <float[1,1,2,2] w = {1,1,1,1}> "
            "{ y = DeformConv(x, w, o) }",
            19,
            {"rtx": "operator"},
        ),
        (
            "g (float[4] x, float s) => (float[4] y) <int8 z = {0}> "
            "{ q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) }",
            18,
            {"trt10.3": "scale-constant"},
        ),
        ("g () => (float[4] y) <int64 n = {4}> { y = HannWindow(n) }", 18, {"trt10.3": "operator"}),
    ],
)
def test_targets_differ_where_their_documents_do(corpus: ModuleType, body: str, opset: int, broken: dict[str, str]) -> None:
    model = corpus.Case("", None, body, opset).model()
    assert {t: r for t in TARGETS for r in rules(model, t)} == broken


def test_all_that_a_target_lacks_are_operators_of_onnx() -> None:
    for target in TARGETS:
        assert all(onnx.defs.has(name) for name in UNSUPPORTED[target] - {"SequenceMap"}), target


@pytest.fixture
def with_int32_bias(corpus: ModuleType) -> onnx.ModelProto:
    case = next(c for c in corpus.CASES if c.name == "int32 bias")
    model: onnx.ModelProto = case.model()
    next(n for n in model.graph.node if n.output[0] == "c").name = "bias_dq"
    return model


def test_a_finding_names_node_fix_and_source(with_int32_bias: onnx.ModelProto) -> None:
    (finding,) = check_graph(with_int32_bias, "trt10.3")
    assert (finding.node, finding.operator, finding.rule) == ("bias_dq", "DequantizeLinear", "int32-dequantize")
    assert "node 'bias_dq' (DequantizeLinear): " in str(finding)
    assert "QuantizeBias=False" in str(finding)
    assert "operators.md" in finding.source


def test_an_operator_that_the_device_has_a_plugin_for_is_let_through(corpus: ModuleType) -> None:
    case = next(c for c in corpus.CASES if c.name == "own domain")
    assert not check_graph(case.model(), "trt10.3", plugins=["my.ops.Zoom"])
    assert check_graph(case.model(), "trt10.3", plugins=["my.ops.Other"])


def test_an_exported_graph_breaks_no_rule_of_any_target(graph: Path, tiny_run: Path) -> None:
    for path in (graph, tiny_run / "onnx/model.onnx"):
        for target in TARGETS:
            assert check_graph(read_graph(path), target) == []


def test_an_unknown_target_is_refused(corpus: ModuleType) -> None:
    with pytest.raises(ValueError, match=r"target is 'trt8'; there are: trt10\.3"):
        check_graph(corpus.CASES[0].model(), "trt8")  # type: ignore[arg-type]


def test_the_verb_prints_findings_and_ends_with_2(corpus: ModuleType, with_int32_bias: onnx.ModelProto, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(with_int32_bias, str(path))
    done = CliRunner().invoke(verb, [str(path), "--target", "rtx"])
    assert done.exit_code == 2
    assert "node 'bias_dq'" in done.output
    assert "1 finding for rtx" in done.output
    done = CliRunner().invoke(verb, [str(path), "--target", "rtx", "--json"])
    assert done.exit_code == 2
    assert json.loads(done.output)["findings"][0]["rule"] == "int32-dequantize"
    onnx.save(next(c for c in corpus.CASES if c.rule is None).model(), str(path))
    done = CliRunner().invoke(verb, [str(path), "--target", "rtx"])
    assert (done.exit_code, done.output) == (0, f"{path}: 0 findings for rtx\n")


@pytest.mark.parametrize("keep", [0, 40, 200])
def test_a_file_that_is_cut_off_is_refused_by_name(graph: Path, keep: int) -> None:
    graph.write_bytes(graph.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"model\.onnx .*cut off"):
        read_graph(graph)
