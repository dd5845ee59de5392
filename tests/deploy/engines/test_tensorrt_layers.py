"""One form for what the inspectors of several versions say. The JSON is written by hand after NVIDIA's documents."""

from __future__ import annotations

import json
from typing import Any

import pytest

from edgesmith.deploy.engines.tensorrt_layers import LayerInfo, TensorInfo, normalised

TEN: dict[str, Any] = {
    "Layers": [
        {
            "Name": "Reformatting CopyNode for Input Tensor 0 to head",
            "LayerType": "Reformat",
            "Inputs": [{"Name": "x", "Dimensions": [1, 3, 4, 4], "Format/Datatype": "Row major linear FP16 format"}],
            "Outputs": [{"Name": "x'", "Dimensions": [1, 3, 4, 4], "Format/Datatype": "Channel major FP16 format"}],
            "TacticValue": "0x0",
        },
        {
            "Name": "head",
            "LayerType": "CaskConvolution",
            "Inputs": [{"Name": "x'", "Dimensions": [1, 3, 4, 4], "Format/Datatype": "Four wide channel Int8 format"}],
            "Outputs": [{"Name": "y", "Dimensions": [1, 8, 4, 4], "Format/Datatype": "Half"}],
            "TacticName": "sm80_xmma_fprop",
        },
    ],
    "Bindings": ["frame", "labels"],
}  # fmt: skip
ELEVEN: dict[str, Any] = {
    "Layers": [
        {
            "Name": "Reformatting CopyNode for Input Tensor 0 to head",
            "LayerType": "Reformat",
            "Inputs": [{"Name": "x", "Dimensions": [1, 3, 4, 4], "Format": "Row major linear FP16 format", "DataType": "Half"}],
            "Outputs": [{"Name": "x'", "Dimensions": [1, 3, 4, 4], "Format": "Channel major FP16 format", "DataType": "Half"}],
            "TacticValue": "0x0",
        },
        {
            "Name": "head",
            "LayerType": "CaskConvolution",
            "Inputs": [
                {
                    "Name": "x'",
                    "Dimensions": [1, 3, 4, 4],
                    "Format": "Four wide channel Int8 format",
                    "DataType": "Int8",
                }
            ],
            "Outputs": [{"Name": "y", "Dimensions": [1, 8, 4, 4], "Format": "Half", "DataType": "Half"}],
            "TacticName": "sm80_xmma_fprop",
        },
    ],
    "I/O Tensors": [{"Name": "frame", "IOMode": "Input"}, {"Name": "labels", "IOMode": "Output"}],
}


def test_ten_and_eleven_come_out_alike() -> None:
    assert normalised(TEN) == normalised(ELEVEN)
    info = normalised(TEN)
    assert info.io == ("frame", "labels")
    assert [layer.reformat for layer in info.layers] == [True, False]
    assert info.layers[1].tactic == "sm80_xmma_fprop"
    assert info.layers[1].inputs[0] == TensorInfo("x'", "int8", "Four wide channel Int8 format", (1, 3, 4, 4))
    assert info.layers[1].outputs[0].dtype == "fp16"
    json.dumps(info.to_json())


def test_a_plan_without_details_has_names_only() -> None:
    info = normalised({"Layers": ["head", "Reformatting CopyNode for Output Tensor 0"], "Bindings": ["frame"]})
    assert info.layers == (LayerInfo("head", ""), LayerInfo("Reformatting CopyNode for Output Tensor 0", "", reformat=True))


@pytest.mark.parametrize("value", [[], {}, {"Layers": 3}])
def test_another_form_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="not known here"):
        normalised(value)
