"""The spiking IR: ops, graph, NumPy reference and the ONNX file format."""
