"""ONNX graphs: from camera frame to labels, in other precisions, with plugins' operators, held to TensorRT's rules."""
