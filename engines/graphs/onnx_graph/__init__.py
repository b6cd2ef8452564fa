"""A candidate as a graph: modules that hold codes, the skeleton around them, and the ONNX file made of both."""
